"""A lifter from pixels to metres: it computes what evaluation computes, and takes what it says it takes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lifting import lifter
from lifting.command import InputError
from lifting.geometry.cameras import normalise_screen
from lifting.geometry.joint_maps import flip
from lifting.geometry.skeleton import H36M17
from lifting.inference.pixel_lifter import UNSTATED, load_pixel_lifter, unit_deviation
from lifting.likelihood import DLE, RLE, Likelihood, ReferenceRLE
from lifting.likelihood.flow import RealNVP
from lifting.models.folded import FoldedSRNet
from lifting.models.srnet import SRNet
from lifting.prediction import Prediction
from lifting.training.evaluation import mean_of_mirrored

SIZE = (1280, 720)


@pytest.mark.parametrize("name", ["person", "screen", "both", "no_sigma"])
def test_it_computes_what_evaluation_computes(
    checkpoints: dict[str, Path], poses: NDArray[np.float64], name: str
) -> None:
    """Against the slow twin: the network as trained, on screen coordinates, averaged over the mirror image."""
    objective, config = lifter.load(checkpoints[name], ["train.device=cpu"])
    keypoints = torch.from_numpy(poses).float()
    inputs = normalise_screen(keypoints, SIZE)
    if name == "person":
        inputs = torch.cat([inputs, torch.ones(6, 17, 1)], -1)
    with torch.no_grad():
        expected = objective.predict(inputs)
        if config.train.flip:
            expected = mean_of_mirrored(expected, objective.predict(flip(inputs, H36M17)), H36M17)
        deviation = objective.likelihood.deviation(expected)
        module, about = load_pixel_lifter(checkpoints[name])
        joints, sigma, found = module(keypoints, torch.ones(6, 17), torch.tensor([SIZE]).float().expand(6, 2))
    assert (about.axes, about.takes_missing) == (("ray", True) if name == "person" else ("camera", False))
    torch.testing.assert_close(joints, expected.mu, atol=2e-6, rtol=1e-5)
    assert expected.mu.abs().max() > 0.05
    if name == "no_sigma":
        assert sigma.isnan().all()
    else:
        assert expected.sigma is not None
        torch.testing.assert_close(sigma, expected.sigma, atol=2e-6, rtol=1e-5)
    free = ~objective.is_known[:, 0]
    torch.testing.assert_close(found[:, free], deviation[:, free], atol=0, rtol=0.03)
    assert (found[:, ~free] == 0).all()


def test_missing_joints_are_ignored_or_refused(checkpoints: dict[str, Path], poses: NDArray[np.float64]) -> None:
    keypoints, size = torch.from_numpy(poses).float(), torch.tensor([SIZE]).float().expand(6, 2)
    seen = torch.ones(6, 17)
    seen[0, [3, 7]] = 0
    with torch.no_grad():
        travels, _ = load_pixel_lifter(checkpoints["person"])
        answers = []
        for anything in (0.0, -1e6, torch.nan, torch.inf):
            changed = keypoints.clone()
            changed[0, [3, 7]] = anything
            answers.append(torch.stack(travels(changed, seen, size)))
        whole = torch.stack(travels(keypoints, torch.ones(6, 17), size))
        stays, _ = load_pixel_lifter(checkpoints["screen"])
        partial, _, _ = stays(keypoints, seen, size)
    for answer in answers:
        assert torch.equal(answer, answers[0])
    assert not torch.equal(answers[0][:, 0], whole[:, 0])  # missing is not the same as seen
    assert torch.equal(answers[0][:, 1:], whole[:, 1:])
    assert partial[0].isnan().all()
    assert partial[1:].isfinite().all()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"groups": 3, "recombine": "add", "sigma": "coordinate"},
        {"groups": 2, "recombine": "concat", "layers": 8},
        {"with_sigma": False, "input": "person"},
        {"input": "both"},
    ],
)
def test_a_folded_srnet_is_the_same_function(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    network = SRNet(width=96, **options).double()  # type: ignore[arg-type]
    for weight in network.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    x = torch.rand(8, 17, network.channels, dtype=torch.float64)
    with torch.no_grad():
        expected, found = network.eval()(x), FoldedSRNet(network)(x)
    torch.testing.assert_close(found.mu, expected.mu, atol=1e-12, rtol=1e-9)
    assert (found.log_sigma is None) == (expected.log_sigma is None)
    if expected.log_sigma is not None:
        torch.testing.assert_close(found.log_sigma, expected.log_sigma, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("kind", [RLE, RLE.paper, ReferenceRLE, DLE])
def test_the_quick_deviation_is_that_of_the_likelihood(kind: Callable[..., Likelihood]) -> None:
    torch.manual_seed(0)
    likelihood = kind(flow=RealNVP(3, couplings=2, width=8))
    for weight in likelihood.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    zero = torch.zeros(1, 1, 3)
    state = torch.get_rng_state()
    found = unit_deviation(likelihood)
    assert torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(found, likelihood.deviation(Prediction(zero, zero))[0, 0], atol=0, rtol=0.03)


def test_what_cannot_be_lifted_with_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"flow\.pt: expected a loss whose flow is for training only"):
        load_pixel_lifter(checkpoints["flow"])
    content = torch.load(checkpoints["screen"], weights_only=True)
    torch.save({**content, "joint_set": "coco17"}, tmp_path / "coco.pt")
    with pytest.raises(InputError, match=r"coco\.pt: expected a lifter of the joints h36m17, got coco17"):
        load_pixel_lifter(tmp_path / "coco.pt")
    del content["licence"]
    torch.save(content, tmp_path / "old.pt")
    assert load_pixel_lifter(tmp_path / "old.pt")[1].licence == UNSTATED
