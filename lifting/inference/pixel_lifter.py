"""A trained lifter from pixels to metres, as one torch module: what `export` writes and what a .pt file is used by."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lifting import lifter
from lifting.checkpoint import load_checkpoint
from lifting.command import InputError
from lifting.geometry.cameras import normalise_screens
from lifting.geometry.skeleton import H36M17
from lifting.inference.onnx_backend import About, Arrays
from lifting.likelihood import Likelihood
from lifting.likelihood.learned import BasicFlow, WithFlow
from lifting.likelihood.pose_density import PoseDensity, viewing_turn
from lifting.likelihood.unit_densities import fixed_draws
from lifting.models.folded import FoldedSRNet
from lifting.models.srnet import SRNet
from lifting.prediction import Prediction
from lifting.training.objective import Objective

UNSTATED = "not stated; the terms of the training data apply"


class PixelLifter(nn.Module):
    """Keypoints in pixels to joints in metres, with the normalisation before the network and the density after it.

    The flow is no part of it: of a density it takes the standard deviation for sigma = 1 alone, which is a constant.

    Args:
        objective: the trained network and likelihood. The module takes the network over and moves it to the CPU.
        flip_test: whether it averages over the pose and its mirror image, as in evaluation; both are one batch.

    Raises:
        InputError: other joints than Human3.6M's 17, or a likelihood that needs its flow to place a joint.
    """

    unit: Tensor
    focal: Tensor | None
    is_known: Tensor
    mirror: Tensor
    turned: Tensor

    def __init__(self, objective: Objective, *, flip_test: bool) -> None:
        super().__init__()
        if objective.joint_set != H36M17:
            raise InputError(f"expected a lifter of the joints {H36M17.name}, got {objective.joint_set.name}")
        network = objective.network.cpu().eval()
        self.network = FoldedSRNet(network) if isinstance(network, SRNet) else network
        self.channels = int(network.channels)  # type: ignore[arg-type]
        self.flip_test = flip_test
        unit, focal = unit_deviation(objective.likelihood.cpu()), None
        if isinstance(objective.likelihood, PoseDensity):  # a row for each joint that is not known
            unit = unit.new_zeros(len(H36M17), 3).index_copy(0, objective.free_joints.cpu(), unit)
            focal = objective.likelihood.focal
        self.register_buffer("unit", unit, persistent=False)
        self.register_buffer("focal", focal, persistent=False)
        self.register_buffer("is_known", objective.is_known.cpu(), persistent=False)
        self.register_buffer("mirror", torch.tensor(H36M17.mirror), persistent=False)
        self.register_buffer("turned", torch.tensor([-1.0, 1.0, 1.0]), persistent=False)

    @property
    def axes(self) -> str:
        """The frame of the joints, see `lifted.Lifted`: only a lifter that sees a person by himself needs no camera."""
        return "ray" if self.takes_missing else "camera"

    @property
    def takes_missing(self) -> bool:
        return self.channels == 3

    def forward(self, keypoints: Tensor, confidence: Tensor, image_size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Lifts N poses.

        Args:
            keypoints: (N, 17, 2) pixels, y down; anything where the confidence is 0.
            confidence: (N, 17) in [0, 1], 0 for a missing joint.
            image_size: (N, 2) width and height of the picture in pixels.

        Returns:
            joints, sigma and deviation, each (N, 17, 3) in metres. Sigma is NaN from a network that predicts none. From
            a lifter that takes no missing joints, everything about a pose with one is NaN.
        """
        seen = confidence > 0
        screen = normalise_screens(keypoints, image_size)
        screen = torch.where(seen[..., None], screen, 0)
        mu, sigma = self._predict(torch.cat([screen, confidence[..., None]], -1)[..., : self.channels])
        if sigma is None:
            deviation = torch.where(self.is_known, 0, self.unit).expand_as(mu)
            sigma = torch.full_like(mu, torch.nan)
        else:
            deviation = sigma * self.unit
        if self.focal is not None:
            deviation = (deviation.square() @ viewing_turn(screen, self.focal).square()).sqrt()
        if self.takes_missing:
            return mu, sigma, deviation
        whole = seen.all(1)[:, None, None]
        joints, sigma, deviation = (torch.where(whole, x, torch.nan) for x in (mu, sigma, deviation))
        return joints, sigma, deviation

    def _predict(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """mu and sigma of normalised keypoints, as `evaluation.predict` computes them."""
        if not self.flip_test:
            one: Prediction = self.network(x)
            return one.mu, one.sigma
        mirrored = x.index_select(1, self.mirror) * self.turned[: self.channels]
        both: Prediction = self.network(torch.stack([x, mirrored]).flatten(0, 1))
        return mean_of_pair(both, x.shape[0], self.mirror, self.turned)


def mean_of_pair(both: Prediction, count: int, mirror: Tensor, turned: Tensor) -> tuple[Tensor, Tensor | None]:
    """mu and sigma averaged over inputs and their mirror images, as `evaluation.mean_of_mirrored` does, in a graph.

    Args:
        both: of the N inputs, and behind them of their N mirror images: (2 N, J, 3).
        count: N.
        mirror: (J,) the index of each joint's mirror image.
        turned: (3,) the signs of the coordinates in the mirror.
    """
    straight, mirrored = both.mu.reshape(2, count, len(mirror), 3).unbind()
    mu = (straight + mirrored.index_select(1, mirror) * turned) / 2
    if both.sigma is None:
        return mu, None
    straight, mirrored = both.sigma.reshape(2, count, len(mirror), 3).unbind()
    return mu, (straight + mirrored.index_select(1, mirror)) / 2


@torch.no_grad()
def unit_deviation(likelihood: Likelihood, draws: int = 2**15) -> Tensor:
    """(3,) the standard deviation of a joint's coordinates for sigma = 1, or of all joints from a loss without sigma.

    Of a `PoseDensity` (J, 3), for each joint along the axes of the density.

    It is `Likelihood.deviation`, but computed ten times faster from weighted draws: sum w x^2 / sum w, where x are
    draws from a proposal density and w is the density over the proposal.

    Raises:
        InputError: the likelihood needs its flow to place a joint.
    """
    if isinstance(likelihood, BasicFlow):
        raise InputError("expected a loss whose flow is for training only, got loss.name flow, which needs it later")
    if isinstance(likelihood, PoseDensity):
        zero = torch.zeros(1, *likelihood.scale.shape)
        return likelihood.deviation(Prediction(zero, zero))[0]
    zero = torch.zeros(1, 1, 3)
    if not isinstance(likelihood, WithFlow):
        return likelihood.deviation(Prediction(zero, zero))[0, 0]
    with fixed_draws(zero.device):
        x, log_density = likelihood.draw_near(draws, zero)
    odds = torch.softmax(likelihood.log_shape(x) - log_density, 0)
    return (odds[:, None] * x.square()).sum(0).sqrt()


def identity(path: Path) -> str:
    """The file name of weights and the first 12 digits of their SHA-256."""
    return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


def load_pixel_lifter(path: Path) -> tuple[PixelLifter, About]:
    """Loads a checkpoint of the lifting track.

    Raises:
        InputError: it is no such checkpoint, or `PixelLifter` cannot use it.
    """
    content = load_checkpoint(path)
    objective, config = lifter.load(path, ["train.device=cpu"])
    try:
        module = PixelLifter(objective, flip_test=config.train.flip).eval()
    except InputError as error:
        raise InputError(f"checkpoint: {path}: {error}") from None
    about = About(
        names=H36M17.joints,
        axes=module.axes,
        takes_missing=module.takes_missing,
        licence=str(content.get("licence", UNSTATED)),
        checkpoint=identity(path),
    )
    return module, about


class TorchBackend:
    """Runs a checkpoint with torch on the CPU; safe to call from threads.

    Args:
        path: the checkpoint.
        threads: threads of torch, in the whole process; None leaves that setting as it is.

    Raises:
        InputError: see `load_pixel_lifter`.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self.module, self.about = load_pixel_lifter(path)
        if threads is not None:
            torch.set_num_threads(threads)

    def __call__(self, keypoints: Arrays, confidence: Arrays, image_size: Arrays) -> tuple[Arrays, Arrays, Arrays]:
        """`PixelLifter.forward` on float32 arrays."""
        with torch.inference_mode():
            found = self.module(*(torch.from_numpy(x) for x in (keypoints, confidence, image_size)))
        joints, sigma, deviation = (np.asarray(x.numpy()) for x in found)
        return joints, sigma, deviation
