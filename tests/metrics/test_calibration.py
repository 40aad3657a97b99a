"""Coverage, the scale after training and sparsification: planted, and against slow twins."""

import numpy as np
import pytest
import torch

from lifting.likelihood.unit_densities import draw_laplace
from lifting.metrics.calibration import LEVELS, Deviations, calibration_error, centrality, coverage, fit_scale, sparsify

D64 = torch.float64


def laplace(n: int, seed: int, joints: int = 3) -> torch.Tensor:
    torch.manual_seed(seed)
    return draw_laplace((n, joints, 2), torch.zeros((), dtype=D64))


def planted(factor: float | torch.Tensor, n: int = 20_000, seed: int = 1) -> Deviations:
    return Deviations(factor * laplace(n, seed), laplace(50_000, 0, joints=1)[:, 0])


def test_what_follows_its_density_is_covered() -> None:
    central = centrality(planted(1.0))
    torch.testing.assert_close(
        coverage(central), torch.tensor(LEVELS, dtype=D64)[:, None, None].expand(4, 3, 2), rtol=0, atol=0.012
    )
    assert calibration_error(central) < 0.005


def test_coverage_equals_a_slow_twin() -> None:
    factor = torch.tensor([[0.5, 1.0], [1.0, 2.0], [3.0, 1.0]], dtype=D64)
    found = planted(factor, n=500)
    shares = coverage(centrality(found, 1.3))
    for index, level in enumerate(LEVELS):
        for joint in range(3):
            for d in range(2):
                low, high = np.quantile(1.3 * found.draws[:, d].numpy(), [(1 - level) / 2, (1 + level) / 2])
                inside = [low <= x <= high for x in found.x_bar[:, joint, d].tolist()]
                assert shares[index, joint, d] == pytest.approx(sum(inside) / len(inside), abs=0.0021)


def test_a_sigma_that_is_twice_too_large_is_known_by_its_error() -> None:
    """|2 F(2 x) - 1| for a Laplace: 1 - (1 - p)^2 of the deviations lie in the interval of level p, 1/6 too many."""
    assert calibration_error(centrality(planted(0.5))) == pytest.approx(1 / 6, abs=0.005)


@pytest.mark.parametrize("factor", [0.3, 1.0, 1.7])
def test_a_planted_scale_is_found(factor: float) -> None:
    scale = fit_scale([planted(factor)])
    assert scale == pytest.approx(factor, rel=0.01)
    assert calibration_error(centrality(planted(factor, seed=2), scale)) < 0.005


@pytest.mark.parametrize(("factor", "limit"), [(100.0, 8.0), (0.001, 1 / 8)])
def test_the_scale_lies_between_an_eighth_and_eight(factor: float, limit: float) -> None:
    assert fit_scale([planted(factor, n=500)]) == pytest.approx(limit, rel=1e-3)


def test_each_person_has_one_vote() -> None:
    one, other = planted(0.5), planted(2.0)
    same = fit_scale([planted(0.5, n=2000), other])
    assert fit_scale([one, other]) == pytest.approx(same, rel=0.05)
    assert 0.5 < same < 2


@pytest.mark.parametrize(
    ("x_bar", "draws"),
    [
        (torch.zeros(4, 3), torch.zeros(9, 3)),
        (torch.zeros(4, 2, 3), torch.zeros(9, 2)),
        (torch.zeros(0, 2, 3), torch.zeros(9, 3)),
        (torch.full((4, 2, 3), torch.nan), torch.zeros(9, 3)),
        (torch.zeros(4, 2, 3), torch.zeros(9)),
        (torch.zeros(4, 2, 3), torch.zeros(9, 3, 1)),
    ],
)
def test_deviations_that_cannot_be_are_refused(x_bar: torch.Tensor, draws: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="x_bar, draws: expected"):
        Deviations(x_bar, draws)


def test_the_calibration_error_is_over_levels_from_1_to_99_percent() -> None:
    """With every deviation in the middle each interval holds all; with every one far out none holds any."""
    middle = torch.zeros(5, 2, 3, dtype=torch.float64)
    for central in (middle, middle + 1):
        assert calibration_error(central) == pytest.approx(0.5, abs=1e-12)


def test_sparsification_equals_a_slow_twin() -> None:
    random = np.random.default_rng(0)
    error = random.exponential(size=1000)
    doubt = error * random.exponential(size=1000)
    curves = sparsify(torch.from_numpy(doubt), torch.from_numpy(error), steps=20)
    for k in range(20):
        left = 1000 - 50 * k
        for by, found in ((doubt, curves.by_doubt), (error, curves.by_error)):
            surest = sorted(range(1000), key=lambda i: by[i])[:left]
            assert found[k] == pytest.approx(error[surest].mean() / error.mean())
    assert 0 < curves.ause < curves.chance


def test_ause_of_perfect_and_of_no_knowledge() -> None:
    torch.manual_seed(0)
    error = torch.rand(100_000)
    assert sparsify(3 * error, error).ause == 0
    blind = sparsify(torch.rand(100_000), error)
    assert blind.ause == pytest.approx(blind.chance, abs=0.01)
    # The oracle's curve falls from 1 to 0 in a straight line.
    assert blind.chance == pytest.approx(0.5, abs=0.02)
    assert sparsify(-error, error).ause > blind.chance + 0.4


def test_sparsification_needs_samples_of_one_shape() -> None:
    for doubt, error in ((torch.zeros(50), torch.zeros(50)), (torch.zeros(200), torch.zeros(100))):
        with pytest.raises(ValueError, match="expected one shape of 100"):
            sparsify(doubt, error)
