"""The embedded set: it contains what it promises, moves like people, and is a real problem for a lifter."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from lifting.datasets.store import PoseStore, Sequence
from lifting.geometry import h36m
from lifting.geometry.skeleton import H36M17
from lifting.synthetic import poses
from lifting.synthetic.action_scripts import ACTIONS, ARMS, POSTURES
from lifting.synthetic.motion import RANGES, Body, Steps, ease, middle_joint, place_joints, wander, within

STANDIN = Path(__file__).resolve().parents[3] / "shared" / "data" / "h36m_standin" / "data_3d_h36m.npz"
J = {name: i for i, name in enumerate(H36M17.joints)}
FPS = h36m.FRAME_RATE


@pytest.fixture(scope="module")
def made() -> list[Sequence]:
    return list(poses.sequences(seed=0))


@pytest.fixture(scope="module")
def by_action(made: list[Sequence]) -> dict[str, list[np.ndarray]]:
    table: dict[str, list[np.ndarray]] = {name: [] for name in ACTIONS}
    for sequence in made:
        table[h36m.action_of(sequence.name)].append(sequence.positions.astype(np.float64))
    return table


def angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    degrees: np.ndarray = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return degrees


def bone_lengths(positions: np.ndarray) -> np.ndarray:
    return np.stack([np.linalg.norm(positions[:, c] - positions[:, p], axis=-1) for p, c in H36M17.bones], 1)


def body_axes(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Forward, left and up of the pelvis, estimated from the joints: up is along the lower spine."""
    left = positions[:, J["left_hip"]] - positions[:, J["right_hip"]]
    left /= np.linalg.norm(left, axis=1, keepdims=True)
    up = positions[:, J["spine"]] - positions[:, J["pelvis"]]
    up -= (up * left).sum(1, keepdims=True) * left
    up /= np.linalg.norm(up, axis=1, keepdims=True)
    return np.cross(left, up), left, up


def speeds(clips: list[np.ndarray], rate: float = FPS) -> np.ndarray:
    return np.concatenate([np.linalg.norm(np.diff(clip, axis=0), axis=-1) * rate for clip in clips])


def accelerations(clips: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.linalg.norm(np.diff(clip, n=2, axis=0), axis=-1) * FPS**2 for clip in clips])


# Contents


def test_every_subject_does_every_action_twice(made: list[Sequence]) -> None:
    names = {(s.subject, s.name) for s in made}
    wanted = {(s, f"{a}{i}") for s in h36m.SUBJECTS for a in ACTIONS for i in ("", " 1")}
    assert len(ACTIONS) == 15
    assert names == wanted
    assert len(made) == len(wanted)
    assert all(s.positions.shape[1:] == (17, 3) and s.positions.dtype == np.float32 for s in made)
    assert 45_000 < sum(len(s.positions) for s in made) < 60_000
    assert all(np.isfinite(s.positions).all() for s in made)


def test_same_seed_same_bytes_and_another_seed_another_set(made: list[Sequence]) -> None:
    again = poses.sequences(seed=0)
    for first, second in zip(made[:40], again, strict=False):
        assert first.positions.tobytes() == second.positions.tobytes()
    other = next(poses.sequences(seed=1))
    assert other.positions.tobytes() != made[0].positions.tobytes()


def test_a_plan_knows_its_sequence_before_it_is_performed(made: list[Sequence]) -> None:
    plans = list(poses.plans(seed=0))
    assert [(p.subject, p.name, p.frames) for p in plans] == [(s.subject, s.name, len(s.positions)) for s in made]
    assert np.array_equal(plans[-1].performed().positions, made[-1].positions)


def test_no_two_sequences_are_alike(made: list[Sequence]) -> None:
    relative = np.stack([s.positions[:235:15] - s.positions[:235:15, :1] for s in made]).reshape(len(made), -1, 3)
    for i, clip in enumerate(relative[:-1]):
        assert np.linalg.norm(relative[i + 1 :] - clip, axis=-1).mean(-1).min() > 0.03


def test_store_holds_the_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[Sequence]) -> None:
    monkeypatch.setattr(poses, "sequences", lambda seed: iter(made))
    path = tmp_path / "set.h5"
    poses.make_synthetic(path)
    with PoseStore(path) as store:
        assert store.subjects == list(h36m.SUBJECTS)
        assert store.frame_rate == 50
        assert store.joint_set == H36M17
        assert "synthetic" in store.source
        assert list(store.cameras("S9")) == list(h36m.CAMERA_NAMES)
        torch.testing.assert_close(store.cameras("S9")["58860488"].t, h36m.cameras("S9")["58860488"].t)
        last = made[-1]
        np.testing.assert_array_equal(store.positions(last.subject, last.name), last.positions)


def test_store_is_cached_and_remade_when_stale_or_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, made: list[Sequence]
) -> None:
    calls: list[int] = []

    def two(seed: int) -> Iterator[Sequence]:
        calls.append(seed)
        return iter(made[:2])

    monkeypatch.setattr(poses, "sequences", two)
    with caplog.at_level(logging.INFO):
        path = poses.synthetic_store(tmp_path / "data")
    assert path == tmp_path / "data" / "synthetic.h5"
    assert calls == [0]
    assert len(caplog.records) == 1
    assert "synthetic" in caplog.text
    assert poses.synthetic_store(tmp_path / "data") == path
    assert calls == [0]
    path.write_bytes(path.read_bytes()[:1000])
    poses.synthetic_store(tmp_path / "data")
    assert calls == [0, 0]
    monkeypatch.setattr(poses, "_checksum", lambda seed: "of tomorrow")
    poses.synthetic_store(tmp_path / "data")
    assert calls == [0, 0, 0]
    assert [p.name for p in path.parent.iterdir()] == ["synthetic.h5"]


# Bodies


def test_bones_keep_their_length_and_differ_between_people(made: list[Sequence]) -> None:
    lengths: dict[str, list[np.ndarray]] = {}
    for sequence in made:
        lengths.setdefault(sequence.subject, []).append(bone_lengths(sequence.positions.astype(np.float64)))
    means = []
    for clips in lengths.values():
        every = np.concatenate(clips)
        assert np.ptp(every, axis=0).max() < 1e-5  # float32 positions
        means.append(every.mean(0))
    for i, mean in enumerate(means):
        assert all(np.abs(mean - other).max() > 0.01 for other in means[:i])


def test_statures_and_proportions_are_human() -> None:
    for seed in range(5):
        people = list(poses.bodies(seed).values())
        tall = [b.leg + b.ankle + b.lumbar + b.thorax + b.neck + b.head for b in people]
        assert 1.4 < min(tall) < 1.7
        assert 1.75 < max(tall) < 2.05
        for b in people:
            assert 0.8 < b.thigh / b.shank < 1.25
            assert 0.4 < b.leg / sum((b.leg, b.lumbar, b.thorax, b.neck)) < 0.65


# Joints


def test_knees_elbows_and_hips_stay_within_human_ranges(by_action: dict[str, list[np.ndarray]]) -> None:
    """Knee: Boone and Azen (1979) measured 142 degrees in men; elbow 150, hip 120 forward, 30 back, 45 out (AAOS).

    The positions show the thigh against the lower spine, which rounds by up to 40 degrees itself.
    """
    every = np.concatenate([clip for clips in by_action.values() for clip in clips])
    forward, left, up = body_axes(every)
    for side, sign in (("left", 1), ("right", -1)):
        hip, knee, ankle = (every[:, J[f"{side}_{name}"]] for name in ("hip", "knee", "ankle"))
        thigh, shank = knee - hip, ankle - knee
        flexed = angle(thigh, shank)
        assert flexed.min() > 5
        assert flexed.max() < 145
        assert ((thigh - shank) * (forward + up)).sum(1).min() > 0  # never bent the wrong way
        raised = np.degrees(np.arctan2((thigh * forward).sum(1), -(thigh * up).sum(1)))
        assert raised.min() > -45
        assert raised.max() < 155
        out = np.degrees(np.arcsin(sign * (thigh * left).sum(1) / np.linalg.norm(thigh, axis=1)))
        assert out.min() > -45
        assert out.max() < 65
        elbow = every[:, J[f"{side}_elbow"]]
        bent = angle(elbow - every[:, J[f"{side}_shoulder"]], every[:, J[f"{side}_wrist"]] - elbow)
        assert bent.min() > 3.9
        assert bent.max() < 150.1


def test_hands_and_elbows_stay_out_of_the_trunk(by_action: dict[str, list[np.ndarray]]) -> None:
    every = np.concatenate([clip for clips in by_action.values() for clip in clips])
    nearest = np.full(len(every), np.inf)
    for joint in ("left_elbow", "left_wrist", "right_elbow", "right_wrist"):
        for a, b in (("pelvis", "spine"), ("spine", "thorax")):
            start, along = every[:, J[a]], every[:, J[b]] - every[:, J[a]]
            offset = every[:, J[joint]] - start
            share = np.clip((offset * along).sum(1) / (along * along).sum(1), 0, 1)
            nearest = np.minimum(nearest, np.linalg.norm(offset - share[:, None] * along, axis=1))
    assert np.mean(nearest < 0.1) < 0.003
    assert nearest.min() > 0.05


# Motion


def test_speeds_and_accelerations_are_human(by_action: dict[str, list[np.ndarray]]) -> None:
    """99th percentiles; in CMU's recordings they are pelvis 2.1 m/s, ankle 4.2, wrist 3.1, and 30 to 100 m/s^2."""
    clips = [clip for clips in by_action.values() for clip in clips]
    v, a = np.percentile(speeds(clips), 99, axis=0), np.percentile(accelerations(clips), 99, axis=0)
    assert 1.0 < v[J["pelvis"]] < 2.2
    assert a[J["pelvis"]] < 20
    assert 2.0 < v[J["left_ankle"]] < 4.5
    assert a[J["left_ankle"]] < 40
    assert 1.5 < v[J["right_wrist"]] < 4.5
    assert a[J["right_wrist"]] < 50
    assert v[J["head"]] < 2.5
    assert a[J["head"]] < 30
    assert speeds(clips).max() < 9
    assert accelerations(clips).max() < 200


def test_people_never_stand_still_as_a_statue(made: list[Sequence]) -> None:
    for sequence in made:
        head = sequence.positions[:, J["head"]].astype(np.float64)
        assert np.linalg.norm(np.diff(head, axis=0), axis=-1).mean() * FPS > 0.01


@pytest.mark.skipif(not STANDIN.is_file(), reason="real motion is not at hand")
def test_speeds_are_those_of_recorded_people(by_action: dict[str, list[np.ndarray]]) -> None:
    table = np.load(STANDIN, allow_pickle=True)["positions_3d"].item()
    real = [np.asarray(c, np.float64)[:, h36m.KEEP_17_OF_32] for clips in table.values() for c in clips.values()]
    ours = [clip for clips in by_action.values() for clip in clips]
    for joint in ("head", "left_wrist", "right_ankle"):
        theirs = np.percentile(speeds(real, rate=60)[:, J[joint]], 95)
        assert 0.5 < np.percentile(speeds(ours)[:, J[joint]], 95) / theirs < 1.5


def test_feet_are_on_the_floor_and_do_not_slide(made: list[Sequence]) -> None:
    people = poses.bodies(seed=0)
    for sequence in made:
        clip, floor = sequence.positions.astype(np.float64), people[sequence.subject].ankle
        assert clip[..., 2].min() > 0.03
        ankles = clip[:, [J["left_ankle"], J["right_ankle"]]]
        assert (ankles[..., 2].min(1) < floor + 0.03).all()
        if h36m.action_of(sequence.name) in ("Sitting", "SittingDown"):
            continue  # there, feet shift on purpose
        planted = ankles[1:, :, 2] < floor + 1e-5
        sliding = np.linalg.norm(np.diff(ankles[..., :2], axis=0), axis=-1)[planted] * FPS
        assert planted.any()
        assert np.percentile(sliding, 95) < 0.1


def test_a_walk_alternates_feet_and_arms(by_action: dict[str, list[np.ndarray]]) -> None:
    for clip in by_action["Walking"]:
        forward, _, _ = body_axes(clip)
        ahead = {n: ((clip[:, J[f"left_{n}"]] - clip[:, J[f"right_{n}"]]) * forward).sum(1) for n in ("ankle", "wrist")}
        assert np.ptp(ahead["ankle"]) > 0.6
        assert np.corrcoef(ahead["ankle"], ahead["wrist"])[0, 1] < -0.6
        travelled = np.linalg.norm(np.diff(clip[:, 0, :2], axis=0), axis=-1).sum()
        assert 0.6 < travelled / len(clip) * FPS < 2.0


def test_actions_are_what_their_names_say(by_action: dict[str, list[np.ndarray]]) -> None:
    pelvis = {name: np.median(np.concatenate(clips)[:, 0, 2]) for name, clips in by_action.items()}
    assert pelvis["Sitting"] < pelvis["Walking"] - 0.25
    assert pelvis["SittingDown"] < pelvis["Sitting"] - 0.1
    for clip in by_action["Eating"]:  # a chair does not sink
        assert np.ptp(clip[:, 0, 2]) < 0.03
    assert max(clip[:, 0, 2].max() for clip in by_action["SittingDown"]) > 0.85

    def hand_to_head(name: str) -> float:
        every = np.concatenate(by_action[name])
        wrists = every[:, [J["left_wrist"], J["right_wrist"]]] - every[:, J["neck"], None]
        return float(np.median(np.linalg.norm(wrists, axis=-1).min(1)))

    assert hand_to_head("Phoning") < 0.25 < 0.4 < hand_to_head("Walking")
    bent = np.concatenate(by_action["Purchases"])
    assert (bent[:, J["left_wrist"], 2] < 0.5).any() or (bent[:, J["right_wrist"], 2] < 0.5).any()


def test_left_and_right_are_alike_in_distribution(by_action: dict[str, list[np.ndarray]]) -> None:
    handed = []
    for clip in by_action["Phoning"]:
        left, right = (np.linalg.norm(clip[:, J[f"{s}_wrist"]] - clip[:, J["head"]], axis=1) for s in ("left", "right"))
        handed.append(np.mean(left < right) > 0.5)
    assert 3 <= sum(handed) <= len(handed) - 3


# Seen by a camera and a lifter


def views(made: list[Sequence], subjects: tuple[str, ...], stride: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Pixels (N, 17, 2), root-relative camera-frame poses (N, 17, 3), and the share of joints inside the image."""
    pixels, poses, inside = [], [], []
    for sequence in made:
        if sequence.subject in subjects:
            for camera in h36m.cameras(sequence.subject).values():
                X = camera.world_to_camera(torch.from_numpy(sequence.positions[::stride]).double())
                assert X[..., 2].min() > 1.5
                uv = camera.project(X)
                inside.append(((uv >= 0) & (uv < torch.tensor(camera.size))).all(-1).double().mean().item())
                pixels.append(uv.numpy())
                poses.append((X - X[:, :1]).numpy())
    return np.concatenate(pixels), np.concatenate(poses), float(np.mean(inside))


def test_cameras_see_people_and_lifting_is_neither_trivial_nor_impossible(made: list[Sequence]) -> None:
    train_uv, train_X, seen = views(made, h36m.TRAIN_SUBJECTS, stride=5)
    test_uv, test_X, seen_too = views(made, h36m.TEST_SUBJECTS, stride=5)
    assert min(seen, seen_too) > 0.99

    def error_mm(guess: np.ndarray) -> float:
        return 1000 * float(np.linalg.norm(guess - test_X, axis=-1).mean())

    def features(uv: np.ndarray) -> np.ndarray:
        return np.pad(uv.reshape(len(uv), -1) / 500 - 1, ((0, 0), (0, 1)), constant_values=1)

    mean_pose = error_mm(train_X.mean(0))
    weights = np.linalg.lstsq(features(train_uv), train_X.reshape(len(train_X), -1), rcond=None)[0]
    linear = error_mm((features(test_uv) @ weights).reshape(test_X.shape))
    assert 170 < mean_pose < 280
    assert 50 < linear < 0.5 * mean_pose


# The parts


BODY = Body(0.13, 0.43, 0.43, 0.08, 0.24, 0.25, 0.12, 0.12, 0.15, 0.29, 0.25)


def stand(**degrees: float) -> dict[str, np.ndarray]:
    """The joints of one frame, standing at the origin and facing along x, with some degrees of freedom set."""
    still = Steps(np.zeros((1, 2)), np.zeros(1), np.full(1, 0.05), swing=0.4, lift=0.06, width=0.13, give=0.004)
    pose = {name: np.full(1, degrees.get(name, 1.0 if name == "height" else 0.0)) for name in RANGES}
    return dict(zip(H36M17.joints, place_joints(BODY, still, pose)[0], strict=True))


def test_upright_is_upright() -> None:
    p = stand()
    assert p["left_hip"][1] > 0 > p["right_hip"][1]
    assert p["left_wrist"][1] > 0 > p["right_wrist"][1]
    np.testing.assert_allclose(p["left_ankle"], [0, 0.13, 0.08], atol=1e-9)
    assert p["pelvis"][2] == pytest.approx(0.08 + 0.86, abs=0.02)
    np.testing.assert_allclose(p["left_shoulder"] - p["left_wrist"], [0, 0, 0.54], atol=1e-9)
    assert p["left_knee"][0] > 0
    assert p["right_knee"][0] > 0


@pytest.mark.parametrize(("side", "out"), [("left", 1), ("right", -1)])
def test_arms_move_the_way_their_angles_say(side: str, out: int) -> None:
    def reach(**angles: float) -> np.ndarray:
        p = stand(**{f"{side}_{name}": value for name, value in angles.items()})
        hand: np.ndarray = (p[f"{side}_wrist"] - p[f"{side}_shoulder"]) / 0.54
        return hand

    np.testing.assert_allclose(reach(arm_flex=90), [1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(reach(arm_out=90), [0, out, 0], atol=1e-9)
    np.testing.assert_allclose(reach(arm_twist=50), [0, 0, -1], atol=1e-9)
    np.testing.assert_allclose(reach(elbow=90), [0.25 / 0.54, 0, -0.29 / 0.54], atol=1e-9)
    np.testing.assert_allclose(reach(elbow=90, arm_twist=90), [0, -out * 0.25 / 0.54, -0.29 / 0.54], atol=1e-9)


def test_trunk_moves_the_way_its_angles_say() -> None:
    def top(**angles: float) -> np.ndarray:
        p = stand(**angles)
        trunk: np.ndarray = p["thorax"] - p["pelvis"]
        return trunk

    assert top(spine_flex=40)[0] > 0.1
    assert top(pelvis_flex=40)[0] > 0.1
    assert top(spine_side=20)[1] < -0.05  # to the right
    turned = stand(spine_twist=40)
    assert turned["right_shoulder"][0] > 0.05 > -0.05 > turned["left_shoulder"][0]  # to the left
    assert stand(height=0.5)["pelvis"][2] == pytest.approx(0.5 * (0.08 + 0.86), abs=0.01)


def test_middle_joint_keeps_lengths_and_bends_to_the_pole() -> None:
    rng = np.random.default_rng(0)
    start, way = rng.normal(size=(50, 3)), Rotation.random(50, random_state=1).apply([1, 0, 0])
    end, pole = start + way * rng.uniform(0.2, 0.8, (50, 1)), rng.normal(size=(50, 3))
    knee = middle_joint(start, end, 0.45, 0.4, pole)
    np.testing.assert_allclose(np.linalg.norm(knee - start, axis=1), 0.45)
    np.testing.assert_allclose(np.linalg.norm(end - knee, axis=1), 0.4)
    bend = knee - start - ((knee - start) * way).sum(1, keepdims=True) * way
    assert ((bend * pole).sum(1) > 0).all()


def test_within_bounds_smoothly_and_leaves_the_middle_alone() -> None:
    low, high, x = np.array(-60.0), np.array(120.0), np.linspace(-400, 400, 2001)
    y = within(x, low, high)
    assert y.min() > -60 - 1e-9
    assert y.max() < 120 + 1e-9
    assert (np.diff(y) >= -1e-9).all()
    middle = np.abs(x - 30) < 70
    np.testing.assert_allclose(y[middle], x[middle], atol=0.01)


def test_wander_has_unit_variance_and_ease_goes_from_zero_to_one() -> None:
    time = np.arange(0, 400, 0.02)
    noise = wander(np.random.default_rng(0), time, 20)
    np.testing.assert_allclose(noise.std(0), 1, atol=0.1)
    assert np.abs(np.diff(noise, axis=0)).max() / 0.02 < 2 * np.pi * 0.8 * 4
    np.testing.assert_allclose(ease(np.array([-1, 0, 0.5, 1, 2.0])), [0, 0, 0.5, 1, 1])


def test_feet_step_one_after_the_other_and_land_beside_the_path() -> None:
    time = np.arange(500) / FPS
    steps = Steps(np.outer(time, [1.2, 0]), np.zeros(500), 0.2 + time * 0.9, swing=0.58, lift=0.15, width=0.06, give=0)
    feet = steps.feet()
    assert feet[..., 2].max() == pytest.approx(0.15, rel=0.01)
    assert feet[..., 2].min() >= 0
    np.testing.assert_allclose(feet[:, 0, 1], 0.06, atol=1e-9)
    np.testing.assert_allclose(feet[:, 1, 1], -0.06, atol=1e-9)
    assert (np.diff(feet[..., 0], axis=0) > -1e-9).all()  # never backward
    assert np.abs(feet[100:400, :, 0] - steps.path[100:400, :1]).max() < 0.7
    landed = feet[..., 2] == 0
    assert landed.mean() == pytest.approx(0.42, abs=0.03)


def test_tables_name_what_there_is() -> None:
    for offsets in POSTURES.values():
        assert set(offsets) <= set(RANGES)
    for name, action in ACTIONS.items():
        assert set(action.grounds) <= {"stand", "stay", "walk", "chair"}, name
        assert set(action.legs) <= set(POSTURES), name
        for step in ",".join(action.phrases).split(","):
            trunk, right, left = step.split()
            assert set(trunk.replace("+", "|").split("|")) <= set(POSTURES), (name, step)
            assert set(f"{right}|{left}".split("|")) <= set(ARMS), (name, step)
