"""What a flow adds to a learned sigma, and what would let it add more.

    python -m tests.studies.flow_gain CHECKPOINT --data FILE --output FILE.json

The network stays as it is. Densities of its standardised deviations are fitted to the poses of its training subjects,
and to those of its test subjects, and judged on the test subjects: the first says what a density is worth to a new
person, the second, an upper bound, what is there to be known. All have the network's sigma; NLL in nats a joint
(metres), as `evaluate` has it.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import zuko
from torch import Tensor, nn

from lifting import lifter
from lifting.cameras import denormalise_screen
from lifting.command import write_json
from lifting.config import Config
from lifting.datasets.poses import PoseSet, load_split
from lifting.datasets.store import PoseStore
from lifting.engine import Objective, predict
from lifting.flow import RealNVP
from lifting.unit import BASES

STEPS, ROWS = 1500, 8192


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
    poses = load_split(data, lifter.data_path(config), train=False)
    free, target = objective.free(predict(objective, poses, flip_test=config.train.flip), poses.target)
    assert free.log_sigma is not None
    x_bar = objective.likelihood.standardise(free, target)
    rotations = to_rays(poses.keypoints, poses, lifter.data_path(config))[:, 1:]
    joint = torch.arange(x_bar.shape[1]).expand(x_bar.shape[:2])
    along = (rotations @ x_bar[..., None])[..., 0]
    return Sample(x_bar.flatten(0, 1), along.flatten(0, 1), joint.flatten(), free.log_sigma.mean(-1).flatten())


class Fixed(nn.Module):
    """A density of `lifting.unit` with learned scales: one, one an axis, or one an axis and joint."""

    def __init__(self, base: str, *shape: int) -> None:
        super().__init__()
        self.log_q, self.draw_q = BASES[base]
        self.log_scale = nn.Parameter(torch.full(shape, -0.5))

    def log_prob(self, x: Tensor, given: Sample) -> Tensor:
        log_scale = self.log_scale[given.joint] if self.log_scale.ndim == 2 else self.log_scale
        log_scale = log_scale.expand_as(x)
        return self.log_q(x * torch.exp(-log_scale)) - log_scale.sum(-1)


class Flow(nn.Module):
    """A spline flow of zuko, which may be told the joint and log sigma."""

    def __init__(self, joint: bool = False, sigma: bool = False) -> None:
        super().__init__()
        self.joint, self.sigma = joint, sigma
        self.flow = zuko.flows.NSF(3, 16 * joint + sigma, transforms=3, hidden_features=[64, 64])

    def log_prob(self, x: Tensor, given: Sample) -> Tensor:
        context = [nn.functional.one_hot(given.joint, 16)] if self.joint else []
        context += [given.log_sigma[:, None] + 3] if self.sigma else []
        log_density: Tensor = self.flow(torch.cat(context, -1).float() if context else None).log_prob(x)
        return log_density


class Shared(nn.Module):
    """RealNVP as RLE has it, alone (as DLE)."""

    def __init__(self) -> None:
        super().__init__()
        self.flow = RealNVP(3)

    def log_prob(self, x: Tensor, given: Sample) -> Tensor:
        return self.flow.log_prob(x)


DENSITIES: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "radial, one scale": (lambda: Fixed("radial", 1), False),
    "Laplace, a scale an axis": (lambda: Fixed("laplace", 3), False),
    "Gaussian, a scale an axis": (lambda: Fixed("gaussian", 3), False),
    "radial, a scale an axis": (lambda: Fixed("radial", 3), False),
    "radial, a scale an axis and joint": (lambda: Fixed("radial", 16, 3), False),
    "RealNVP": (Shared, False),
    "spline flow": (Flow, False),
    "spline flow, axes along the ray": (Flow, True),
    "spline flow, given the joint": (lambda: Flow(joint=True), False),
    "spline flow, given the joint, along the ray": (lambda: Flow(joint=True), True),
    "spline flow, given joint and sigma, along the ray": (lambda: Flow(joint=True, sigma=True), True),
}


def fitted(make: Callable[[], nn.Module], along_ray: bool, to: Sample) -> nn.Module:
    torch.manual_seed(0)
    density = make()
    optimizer = torch.optim.Adam(density.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, STEPS)
    for _ in range(STEPS):
        part = to.rows(torch.randint(len(to.joint), (ROWS,)))
        loss = -density.log_prob(part.along_ray if along_ray else part.x_bar, part).mean()  # type: ignore[operator]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(density.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return density


@torch.no_grad()
def nll(density: nn.Module, along_ray: bool, on: Sample) -> float:
    rows = (on.rows(part) for part in torch.split(torch.arange(len(on.joint)), 2**16))
    found = [density.log_prob(r.along_ray if along_ray else r.x_bar, r) - 3 * r.log_sigma for r in rows]  # type: ignore[operator]
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
    for name, (make, along_ray) in DENSITIES.items():
        row = {
            what: nll(fitted(make, along_ray, to), along_ray, test)
            for what, to in (("training", training), ("test", test))
        }
        table[name] = row
        print(f"{name:<52}{row['training']:>10.3f}{row['test']:>10.3f}", flush=True)
    write_json(options.output, table)


if __name__ == "__main__":
    main()
