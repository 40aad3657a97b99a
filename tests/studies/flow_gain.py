"""What a flow adds to a learned sigma, and what would let it add more.

    python -m tests.studies.flow_gain CHECKPOINT --data FILE --output FILE.json

The network stays as it is. Densities of its standardised deviations are fitted to the poses of its training subjects,
and to those of its test subjects, and judged on the test subjects: the first says what a density is worth to a new
person, the second, an upper bound, what is there to be known. All have the network's sigma; NLL in nats a joint
(metres), as `evaluate` has it.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lifting import lifter
from lifting.command import write_json
from lifting.config import Config
from lifting.datasets.poses import PoseSet, load_split
from lifting.datasets.store import PoseStore
from lifting.geometry.cameras import denormalise_screen
from lifting.likelihood.flow import RealNVP
from lifting.likelihood.unit_densities import BASES
from lifting.training.evaluation import predict
from lifting.training.objective import Objective

STEPS, ROWS = 800, 4096


@dataclass(frozen=True)
class Sample:
    """Rows of joints: x_bar (R, 3), the same along the viewing ray, the joint and log sigma (R,)."""

    x_bar: Tensor
    along_ray: Tensor
    joint: Tensor
    log_sigma: Tensor

    def rows(self, index: Tensor) -> "Sample":
        return Sample(*(x[index] for x in vars(self).values()))


def to_rays(keypoints: Tensor, poses: PoseSet, data: str) -> Tensor:
    """(N, J, 3, 3) rotations: camera axes to axes of which the third points along each keypoint's viewing ray."""
    rays = torch.empty(*keypoints.shape[:2], 3)
    with PoseStore(data) as store:
        for clip in poses.clips:
            camera = store.cameras(clip.subject)[clip.camera]
            part = slice(clip.start, clip.stop)
            uv = denormalise_screen(keypoints[part], camera.size).double()
            rays[part] = camera.unproject(uv, torch.ones(uv.shape[:2], dtype=uv.dtype)).float()
    z = nn.functional.normalize(rays, dim=-1)
    x = nn.functional.normalize(torch.stack([z[..., 2], torch.zeros_like(z[..., 0]), -z[..., 0]], -1), dim=-1)
    return torch.stack([x, torch.linalg.cross(z, x), z], -2)


@torch.no_grad()
def sample_of(objective: Objective, config: Config, subjects: tuple[str, ...], stride: int) -> Sample:
    data = config.data.model_copy(update={"test_subjects": subjects, "test_stride": stride})
    poses = load_split(data, lifter.data_paths(config), train=False)
    free, target = objective.free(predict(objective, poses, flip_test=config.train.flip), poses.target)
    assert free.log_sigma is not None
    x_bar = objective.likelihood.standardise(free, target)
    rotations = to_rays(poses.keypoints, poses, lifter.data_paths(config)[0])[:, 1:]
    joint = torch.arange(x_bar.shape[1]).expand(x_bar.shape[:2])
    along = (rotations @ x_bar[..., None])[..., 0]
    return Sample(x_bar.flatten(0, 1), along.flatten(0, 1), joint.flatten(), free.log_sigma.mean(-1).flatten())


class Scaled(nn.Module):
    """A density of `unit_densities`, or RealNVP, with learned scales: one, one an axis, or one an axis and joint."""

    def __init__(self, unit: str, *shape: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.full(shape, -0.5))
        self.flow = RealNVP(3) if unit == "realnvp" else None
        self.log_unit = BASES[unit][0] if self.flow is None else self.flow.log_prob

    def log_prob(self, x: Tensor, joint: Tensor) -> Tensor:
        log_scale = self.log_scale[joint] if self.log_scale.ndim == 2 else self.log_scale
        log_scale = log_scale.expand_as(x)
        return self.log_unit(x * torch.exp(-log_scale)) - log_scale.sum(-1)


# name: unit density, shape of its scales, whether its axes follow the viewing ray
DENSITIES: dict[str, tuple[str, tuple[int, ...], bool]] = {
    "Laplace, one scale": ("laplace", (1,), False),
    "radial, one scale": ("radial", (1,), False),
    "Laplace, a scale an axis": ("laplace", (3,), False),
    "Gaussian, a scale an axis": ("gaussian", (3,), False),
    "radial, a scale an axis": ("radial", (3,), False),
    "radial, a scale an axis, along the ray": ("radial", (3,), True),
    "radial, a scale an axis and joint": ("radial", (16, 3), False),
    "radial, a scale an axis and joint, along the ray": ("radial", (16, 3), True),
    "flow": ("realnvp", (1,), False),
    "flow, along the ray": ("realnvp", (1,), True),
    "flow, a scale an axis and joint": ("realnvp", (16, 3), False),
    "flow, a scale an axis and joint, along the ray": ("realnvp", (16, 3), True),
}


def fitted(unit: str, shape: tuple[int, ...], along_ray: bool, to: Sample) -> Scaled:
    torch.manual_seed(0)
    density = Scaled(unit, *shape)
    optimizer = torch.optim.Adam(density.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, STEPS)
    for _ in range(STEPS):
        part = to.rows(torch.randint(len(to.joint), (ROWS,)))
        loss = -density.log_prob(part.along_ray if along_ray else part.x_bar, part.joint).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(density.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return density


@torch.no_grad()
def nll(density: Scaled, along_ray: bool, on: Sample) -> float:
    rows = (on.rows(part) for part in torch.split(torch.arange(len(on.joint)), 2**16))
    found = [density.log_prob(r.along_ray if along_ray else r.x_bar, r.joint) - 3 * r.log_sigma for r in rows]
    return -float(torch.cat(found).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    objective, config = lifter.load(options.checkpoint, [f"data.path={options.data}"])
    training = sample_of(objective, config, config.data.train_subjects, 12)
    test = sample_of(objective, config, config.data.test_subjects, 6)
    with torch.no_grad():
        own = -float((objective.likelihood.log_unit(test.x_bar) - 3 * test.log_sigma).mean())
    table = {"the likelihood's own": {"training": own}}
    print(f"{'NLL on the test subjects; fitted to':<52}{'training':>10}{'test':>10}")
    print(f"{'the density that was trained with the network':<52}{own:>10.3f}")
    for name, (unit, shape, along_ray) in DENSITIES.items():
        row = {
            what: nll(fitted(unit, shape, along_ray, to), along_ray, test)
            for what, to in (("training", training), ("test", test))
        }
        table[name] = row
        print(f"{name:<52}{row['training']:>10.3f}{row['test']:>10.3f}", flush=True)
    write_json(options.output, table)


if __name__ == "__main__":
    main()
