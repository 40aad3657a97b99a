"""MPSSE and MPSCE: planted, against a slow twin, and where they are not defined."""

import itertools
import statistics

import pytest
import torch

from lifting.geometry.cameras import matrix_from_quaternion
from lifting.geometry.skeleton import COCO17, H36M17, H36M18, MPII16, JointSet
from lifting.metrics.bones import bone_lengths, bone_report, mirrored_bones, mpsce, mpsse, pooled

D64 = torch.float64


def poses(n: int, seed: int = 0) -> torch.Tensor:
    return 0.4 * torch.randn(n, 17, 3, generator=torch.Generator().manual_seed(seed), dtype=D64)


def built(lengths: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Poses of H36M17 with bones of these lengths, (N, 16), in random directions."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.zeros(len(lengths), 17, 3, dtype=D64)
    for bone, (parent, child) in enumerate(H36M17.bones):
        direction = torch.nn.functional.normalize(torch.randn(len(x), 3, generator=generator, dtype=D64), dim=-1)
        x[:, child] = x[:, parent] + lengths[:, bone, None] * direction
    return x


@pytest.mark.parametrize("joint_set", [H36M17, H36M18, COCO17, MPII16], ids=lambda joint_set: joint_set.name)
def test_every_left_bone_has_its_right_twin(joint_set: JointSet) -> None:
    pairs = mirrored_bones(joint_set)
    for left, right in pairs:
        a, b = (joint_set.joints[joint_set.bones[bone][1]] for bone in (left, right))
        assert (a.split("_")[0], b.split("_")[0]) == ("left", "right")
        assert a.split("_")[1:] == b.split("_")[1:]
    assert len(pairs) == {"h36m17": 6, "h36m18": 6, "coco17": 8, "mpii16": 6}[joint_set.name]


def test_planted_lengths_are_found() -> None:
    """A left arm that is 10, 20 and 30 mm longer than the right one; a head whose length goes 0.1, 0.2, 0.3 m."""
    lengths = torch.full((3, 16), 0.3, dtype=D64)
    names = [H36M17.joints[child] for _, child in H36M17.bones]
    for joint, longer in (("left_shoulder", 0.01), ("left_elbow", 0.02), ("left_wrist", 0.03)):
        lengths[:, names.index(joint)] += longer
    lengths[:, names.index("head")] = torch.tensor([0.1, 0.2, 0.3], dtype=D64)
    x = built(lengths)
    torch.testing.assert_close(bone_lengths(x, H36M17), lengths)
    report = bone_report(x, H36M17, torch.zeros(3, dtype=torch.long))
    assert report == pytest.approx({"mpsse_mm": 60 / 6, "mpsce_mm": 100 / 16})


def test_scores_equal_a_slow_twin() -> None:
    """Clips of 1, 2, 5 and 12 poses, in a mixed order."""
    clip = torch.tensor([3] * 12 + [0] + [7] * 5 + [4] * 2)[torch.randperm(20, generator=torch.manual_seed(0))]
    x = poses(20)
    lengths = [[(pose[child] - pose[parent]).norm().item() for parent, child in H36M17.bones] for pose in x]
    total = 0.0
    for number, frames in ((3, 12), (7, 5), (4, 2)):
        mine = [row for row, c in zip(lengths, clip.tolist(), strict=True) if c == number]
        assert len(mine) == frames
        total += frames * statistics.mean(statistics.stdev(bone) for bone in zip(*mine, strict=True))
    assert mpsce(x, H36M17, clip) == pytest.approx(total / 19)
    names = [H36M17.joints[child] for _, child in H36M17.bones]
    gaps = [
        abs(row[names.index(f"left_{part}")] - row[names.index(f"right_{part}")])
        for row, part in itertools.product(lengths, ("hip", "knee", "ankle", "shoulder", "elbow", "wrist"))
    ]
    assert mpsse(x, H36M17) == pytest.approx(statistics.mean(gaps))


def test_a_body_that_turns_and_moves_keeps_its_bones() -> None:
    turns = matrix_from_quaternion(torch.randn(50, 4, generator=torch.manual_seed(0), dtype=D64))
    x = poses(1) @ turns.mT + torch.randn(50, 1, 3, generator=torch.manual_seed(1), dtype=D64)
    clip = torch.zeros(50, dtype=torch.long)
    assert mpsce(x, H36M17, clip) == pytest.approx(0, abs=1e-12)
    assert mpsse(x, H36M17) == pytest.approx(mpsse(poses(1), H36M17) or 0)
    assert mpsce(2 * poses(50), H36M17, clip) == pytest.approx(2 * (mpsce(poses(50), H36M17, clip) or 0))


def test_people_of_different_size_are_no_inconstancy() -> None:
    small, tall = 0.8 * poses(1).expand(9, -1, -1), poses(1).expand(7, -1, -1)
    both, person = torch.cat([small, tall]), torch.tensor([0] * 9 + [1] * 7)
    assert mpsce(both, H36M17, person) == pytest.approx(0, abs=1e-12)
    assert (mpsce(both, H36M17, torch.zeros(16, dtype=torch.long)) or 0) > 0.01


def test_clips_one_by_one_give_the_report_of_all() -> None:
    x, clip = poses(12), torch.tensor([0] * 5 + [1] + [2] * 6)
    parts = [(int((clip == n).sum()), bone_report(x[clip == n], H36M17, clip[clip == n])) for n in range(3)]
    assert pooled(parts) == pytest.approx(bone_report(x, H36M17, clip))
    assert set(parts[1][1]) == {"mpsse_mm"}
    assert pooled(parts[1:2]).keys() == {"mpsse_mm"}
    assert pooled([]) == {}


def test_what_is_not_defined_is_left_out() -> None:
    spine = JointSet("spine", ("pelvis", "spine", "head"), (-1, 0, 1), (0, 1, 2))
    x = poses(4)[:, :3]
    assert mpsse(x, spine) is None
    assert set(bone_report(x, spine, torch.tensor([0, 0, 1, 1]))) == {"mpsce_mm"}
    assert mpsce(x, spine, torch.arange(4)) is None
    assert bone_report(x, spine, torch.arange(4)) == {}


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"poses: expected \(N, 17, 3\), got \(4, 16, 3\)"):
        mpsse(torch.zeros(4, 16, 3), H36M17)
    with pytest.raises(ValueError, match=r"clip: expected \(4,\), got \(3,\)"):
        mpsce(torch.zeros(4, 17, 3), H36M17, torch.zeros(3))
