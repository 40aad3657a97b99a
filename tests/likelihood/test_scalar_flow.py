"""The flow on R as a density: exact log-determinant, exact inverse, unit mass, and shapes that it has to learn."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lifting.config import LossConfig
from lifting.likelihood import DLE, RLE, BasicFlow, Likelihood, ReferenceRLE, build_likelihood
from lifting.likelihood.learned import Learned
from lifting.likelihood.scalar_flow import ScalarFlow
from lifting.prediction import Prediction


def random_flow(layers: int = 6, scale: float = 0.4) -> ScalarFlow:
    torch.manual_seed(layers)
    flow = ScalarFlow(layers).double()
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=scale)
    return flow


@pytest.mark.parametrize("layers", [1, 2, 6])
def test_log_det_is_that_of_autograds_derivative(layers: int) -> None:
    flow = random_flow(layers)
    x = torch.linspace(-30, 30, 41, dtype=torch.float64)[:, None]
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: flow.inverse(v)[0]))(x)
    found = flow.inverse(x)[1]
    assert found.shape == (41,)
    assert (jacobian > 0).all()
    torch.testing.assert_close(found, torch.linalg.slogdet(jacobian)[1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("layers", [1, 6])
def test_round_trip(layers: int) -> None:
    flow = random_flow(layers)
    z = 3 * torch.randn(4, 50, 1, dtype=torch.float64)
    torch.testing.assert_close(flow.inverse(flow(z))[0], z, rtol=1e-9, atol=1e-9)


def test_density_integrates_to_one_and_draws_follow_it() -> None:
    flow = random_flow(scale=0.3)
    x = (torch.arange(400_000, dtype=torch.float64) + 0.5) * (800 / 400_000) - 400
    with torch.no_grad():
        density = flow.log_prob(x[:, None]).exp() * (800 / 400_000)
        drawn = flow.sample((200_000,))
    assert density.sum().item() == pytest.approx(1, abs=1e-6)
    levels = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    quantiles = x[torch.searchsorted(density.cumsum(0), levels)]
    below = torch.searchsorted(drawn.flatten().sort().values, quantiles) / len(drawn)
    torch.testing.assert_close(below, levels.to(below), rtol=0, atol=0.006)


def test_untrained_it_is_the_standard_normal() -> None:
    x = torch.linspace(-8, 8, 33, dtype=torch.float64)[:, None]
    expected = -0.5 * (x.square().squeeze(-1) + math.log(2 * math.pi))
    torch.testing.assert_close(ScalarFlow().double().log_prob(x), expected)


def test_six_pivots_stand_evenly_and_a_layer_at_most_squares_or_takes_the_root() -> None:
    torch.testing.assert_close(ScalarFlow().pivots.detach(), torch.tensor([-2, -1.2, -0.4, 0.4, 1.2, 2]))
    x = torch.tensor([[1e2], [1e4]], dtype=torch.float64)
    for steepness, power in ((50.0, 2.0), (-50.0, 0.5)):
        flow = ScalarFlow(1).double()
        nn.init.constant_(flow.steepness, steepness)
        z = flow.inverse(x)[0].detach().log()
        assert float((z[1] - z[0]) / math.log(1e2)) == pytest.approx(power, abs=0.01)


def test_far_values_stay_finite_in_float32() -> None:
    flow = random_flow(scale=0.3).float()
    x = torch.tensor([-1e6, -1e3, 0.0, 1e3, 1e6]).view(-1, 1).requires_grad_()
    flow.log_prob(x).sum().backward()  # type: ignore[no-untyped-call]
    tensors = [flow.log_prob(x), *(p.grad for p in flow.parameters()), x.grad]
    assert all(tensor is not None and tensor.isfinite().all() for tensor in tensors)


def test_a_flow_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="ScalarFlow: expected layers >= 1, got 0"):
        ScalarFlow(0)


@pytest.mark.parametrize("kind", [RLE, RLE.paper, DLE, BasicFlow, ReferenceRLE])
def test_it_is_the_flow_of_one_dimension(kind: Callable[..., Learned]) -> None:
    assert isinstance(kind(dim=1).flow, ScalarFlow)


def test_a_configuration_gets_it_for_one_dimension() -> None:
    likelihood = build_likelihood(LossConfig(name="rle"), 1)
    assert isinstance(likelihood, RLE)
    assert isinstance(likelihood.flow, ScalarFlow)


def heavy(n: int) -> Tensor:
    return torch.distributions.StudentT(3.0).sample((n,))


def lopsided(n: int) -> Tensor:
    """Mostly a narrow normal density, sometimes a wide one to the right of it."""
    return torch.where(torch.rand(n) < 0.15, 2.5 + 5 * torch.randn(n), 0.5 * torch.randn(n))


def _constant(mu: Tensor, log_sigma: Tensor) -> Prediction:
    return Prediction(mu.expand(2000, 1, 1), log_sigma.expand(2000, 1, 1))


@pytest.mark.parametrize(("draw", "gain"), [(heavy, 0.1), (lopsided, 0.5)])
def test_rle_learns_the_shape_of_scalar_errors(draw: Callable[[int], Tensor], gain: float) -> None:
    """Its density has to be likelier than the likeliest normal one, on other draws, and to know their quantiles."""
    torch.manual_seed(0)
    target, other = (0.1 * draw(2000).view(-1, 1, 1) for _ in range(2))
    rle, mu, layer = RLE(dim=1), nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def predicted() -> Prediction:
        return _constant(mu, nn.functional.logsigmoid(layer))

    optimizer = torch.optim.Adam([mu, layer, *rle.parameters()], lr=1e-2)
    rle.draws = 512
    for _ in range(300):
        optimizer.zero_grad()
        rle(predicted(), target).mean().backward()
        optimizer.step()
    rle.eval()
    with torch.no_grad():
        normal = Likelihood(1, "gaussian").log_prob(_constant(target.mean(), target.std().log()), other).mean()
        assert rle.log_prob(predicted(), other).mean() > normal + gain
        drawn = rle.sample(predicted(), 50).flatten()
    levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    ranks = torch.searchsorted(drawn.sort().values, torch.quantile(other.flatten(), levels)) / len(drawn)
    torch.testing.assert_close(ranks, levels, rtol=0, atol=0.06)
