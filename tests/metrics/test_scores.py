"""Energy score, CRPS and ECE: against closed forms, slow twins, and densities that are planted wrong."""

import math

import numpy as np
import pytest
import torch

from lifting.likelihood.unit_densities import draw_radial
from lifting.metrics.scores import ECE_LEVELS, crps, energy_score, expected_calibration_error, within_quantiles

D64 = torch.float64
Y = torch.tensor([[0.0, 0.3, -2.0], [1.5, 0.0, 4.0]], dtype=D64)  # two joints


def normal(n: int, scale: float, seed: int = 0) -> torch.Tensor:
    return scale * torch.randn(n, *Y.shape, generator=torch.Generator().manual_seed(seed), dtype=D64)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_crps_of_a_gaussian_has_its_closed_form(scale: float) -> None:
    """sigma (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)), z = y / sigma (Gneiting and Raftery 2007, section 4.2)."""
    z = Y / scale
    phi = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    expected = scale * (z * torch.erf(z / math.sqrt(2)) + 2 * phi - 1 / math.sqrt(math.pi))
    torch.testing.assert_close(crps(normal(400_000, scale), Y), expected, rtol=0, atol=0.008 * scale)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_energy_score_of_a_gaussian_in_space_has_its_closed_form(scale: float) -> None:
    """E|X - y| is that of a noncentral chi of three degrees of freedom; E|X - X'| = 4 sigma / sqrt(pi)."""
    length = Y.norm(dim=-1) / scale
    first = math.sqrt(2 / math.pi) * torch.exp(-length.square() / 2)
    first += (length + 1 / length) * torch.erf(length / math.sqrt(2))
    expected = scale * (first - 2 / math.sqrt(math.pi))
    torch.testing.assert_close(energy_score(normal(400_000, scale), Y), expected, rtol=0, atol=0.008 * scale)


def test_scores_of_few_draws_are_unbiased() -> None:
    """The mean over many pairs of draws is the score of many draws."""
    pairs = normal(200_000, 1.0).view(2, 100_000, *Y.shape)
    target = Y.expand(100_000, *Y.shape)
    torch.testing.assert_close(
        energy_score(pairs, target).mean(0), energy_score(normal(200_000, 1.0, 1), Y), rtol=0, atol=0.012
    )


def test_a_density_at_one_point_scores_its_distance() -> None:
    point = torch.full((5, *Y.shape), 0.5, dtype=D64)
    torch.testing.assert_close(energy_score(point, Y), (Y - 0.5).norm(dim=-1))
    torch.testing.assert_close(crps(point, Y), (Y - 0.5).abs())


def test_both_scores_are_lowest_for_the_density_that_is_right() -> None:
    torch.manual_seed(0)
    like = torch.zeros((), dtype=D64)
    target, draws = draw_radial((4000, 3), like), draw_radial((200, 4000, 3), like)
    for score in (energy_score, crps):
        means = [float(score(factor * draws, target).mean()) for factor in (0.5, 0.8, 1.0, 1.25, 2.0)]
        assert min(means) == means[2]


def test_within_quantiles_equals_a_slow_twin() -> None:
    """One pose and joint after the other, by numpy, as the definition has it."""
    torch.manual_seed(0)
    draws, target = torch.randn(200, 30, 4, 3, dtype=D64), 1.5 * torch.randn(30, 4, 3, dtype=D64)
    found = within_quantiles(draws, target)
    assert found.shape == (21, 30, 4)
    for pose in range(30):
        for joint in range(4):
            own = draws[:, pose, joint].numpy()
            middle = np.sort(own, 0)[99]  # the lower of the two in the middle, as torch's median
            distances = np.linalg.norm(own - middle, axis=1)
            distance = np.linalg.norm(target[pose, joint].numpy() - middle)
            twin = [distance < np.quantile(distances, step / 20) for step in range(21)]
            assert found[:, pose, joint].tolist() == twin


def test_the_outermost_levels_are_the_nearest_and_the_farthest_draw() -> None:
    """Draws at 0, 1, ..., 10 on a line, their middle at 5: the farthest two are at levels 0.9 and 1."""
    draws = torch.zeros(11, 1, 3, dtype=torch.float32)
    draws[:, 0, 0] = torch.arange(11)
    for place, levels in ((5.0, 20), (6.01, 16), (9.999, 3), (10.0, 0)):
        target = torch.tensor([[place, 0, 0]])
        assert int(within_quantiles(draws, target).sum()) == levels, place


def test_ece_of_what_is_right_of_what_is_too_sure_and_of_a_point() -> None:
    torch.manual_seed(0)
    draws, target = torch.randn(200, 1500, 4, 3), torch.randn(1500, 4, 3)

    def ece(factor: float) -> float:
        return expected_calibration_error(within_quantiles(factor * draws, target).double().mean(1))

    assert ece(1.0) < 0.015
    assert ece(0.5) > 0.2
    assert ece(2.0) > 0.2
    # no draw is farther from the middle than the truth: nothing is covered, and the gap is the mean level
    assert ece(0.0) == pytest.approx(0.5)


def test_ece_takes_the_median_over_the_joints() -> None:
    levels = torch.tensor(ECE_LEVELS, dtype=D64)
    joints = torch.stack([levels, levels + 0.1, levels - 0.3, levels + 0.2], 1)
    assert expected_calibration_error(joints[:, :3]) == pytest.approx(0.0)
    assert expected_calibration_error(joints) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("draws", "target"), [((5, 4, 3), (4, 2)), ((1, 4, 3), (4, 3)), ((4, 3), (4, 3)), ((5,), ())], ids=str
)
def test_other_shapes_are_refused(draws: tuple[int, ...], target: tuple[int, ...]) -> None:
    for score in (energy_score, within_quantiles):
        with pytest.raises(ValueError, match=r"draws, target: expected \(S, ..., D\), .* got"):
            score(torch.zeros(draws), torch.zeros(target))
    for shape in ((20, 3), (21,), (21, 3, 1)):
        with pytest.raises(ValueError, match=r"coverage: expected \(21, J\), got"):
            expected_calibration_error(torch.zeros(shape))
