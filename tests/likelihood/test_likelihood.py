"""The RLE family: densities are normalised, gradients are as documented, excluded joints leave no trace."""

import math
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lifting.command import InputError
from lifting.config import Config, FlowConfig, LossConfig, SingleStageConfig, load_config, read_config
from lifting.likelihood import (
    DLE,
    RLE,
    BasicFlow,
    ConstantVariance,
    Likelihood,
    Mixed,
    ReferenceRLE,
    build_likelihood,
    learned,
    shared_flow,
)
from lifting.likelihood.flow import Bijection, Density, RealNVP
from lifting.likelihood.learned import WithFlow
from lifting.likelihood.scalar_flow import ScalarFlow
from lifting.likelihood.unit_densities import BASES, fixed_draws, log_gaussian
from lifting.models.fc import FCBaseline
from lifting.models.regressor import Regressor
from lifting.models.srnet import SRNet
from lifting.prediction import Prediction

D64 = torch.float64


def random_rle(dim: int, base: str = "laplace", **options: float | bool) -> RLE:
    """RLE with a flow far from its start: the paper's form plus log s, unless ``options`` say otherwise."""
    rle = deepcopy(_random_rle(dim, base, **({"beta": 0.0, "flow_steers_mu": True} | options)))
    torch.manual_seed(dim)  # whether it was made now or before
    return rle


@cache  # and with it the integral of the flow, most of what these tests take
def _random_rle(dim: int, base: str, **options: float | bool) -> RLE:
    torch.manual_seed(dim)
    flow: Bijection = (RealNVP(dim, couplings=4, width=16) if dim > 1 else ScalarFlow()).double()
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.2)
    rle = RLE(dim, base, flow=flow, **options)  # type: ignore[arg-type]
    rle.log_norm()
    return rle


def example(dim: int = 3, batch: int = 4, joints: int = 5) -> tuple[Prediction, Tensor]:
    torch.manual_seed(1)
    mu, target = torch.randn(2, batch, joints, dim, dtype=D64) * 0.2
    log_sigma = -torch.rand(batch, joints, dim, dtype=D64) * 2 - 1
    return Prediction(mu.requires_grad_(), log_sigma.requires_grad_()), target


def grid(dim: int, reach: float, cells: int) -> tuple[Tensor, float]:
    axis = (torch.arange(cells, dtype=D64) + 0.5) * (2 * reach / cells) - reach
    return torch.stack(torch.meshgrid(*[axis] * dim, indexing="ij"), -1), (2 * reach / cells) ** dim


@pytest.mark.parametrize(("base", "dim"), [*product(BASES, [1, 2])])
def test_bases_integrate_to_one(base: str, dim: int) -> None:
    x, cell = grid(dim, 30, 40_000 if dim == 1 else 1500)
    assert (BASES[base][0](x).exp().sum() * cell).item() == pytest.approx(1, abs=1e-3)


def test_radial_integrates_to_one_in_three_dimensions() -> None:
    x, cell = grid(3, 16, 160)
    assert (BASES["radial"][0](x).exp().sum() * cell).item() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize(("base", "dim"), [*product(BASES, [1, 2, 3])])
def test_draws_of_a_base_have_its_moments(base: str, dim: int) -> None:
    torch.manual_seed(0)
    log_q, draw = BASES[base]
    drawn = draw((400_000, dim), torch.zeros((), dtype=D64))
    # E[|x|^2]: Laplace has variance 2 in each coordinate, the radial density a Gamma(D) length.
    expected = {"laplace": 2 * dim, "gaussian": dim, "radial": dim * (dim + 1)}[base]
    assert drawn.square().sum(-1).mean().item() == pytest.approx(expected, rel=0.02)
    torch.testing.assert_close(drawn.mean(0), torch.zeros(dim, dtype=D64), rtol=0, atol=0.02)
    # and its entropy, -E[log q], which would differ for a wrong shape
    entropy = {
        "laplace": dim * (1 + math.log(2)),
        "gaussian": dim * 0.5 * math.log(2 * math.pi * math.e),
        "radial": dim - log_q(torch.zeros(dim, dtype=D64)).item(),
    }[base]
    assert -log_q(drawn).mean().item() == pytest.approx(entropy, rel=0.01)


@pytest.mark.parametrize("end", [0.0, 1 - 2**-24])
@pytest.mark.parametrize("base", BASES)
def test_draws_are_finite_at_the_ends_of_the_uniform(base: str, end: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A uniform draw in float32 is 0 once in 2^24: an infinite draw of Q made the loss of a training run NaN."""
    monkeypatch.setattr(torch, "rand", lambda shape, **kwargs: torch.full(shape, end, **kwargs))
    assert BASES[base][1]((1000, 3), torch.zeros(())).isfinite().all()


@pytest.mark.parametrize(
    ("base", "twin"), [("laplace", torch.distributions.Laplace), ("gaussian", torch.distributions.Normal)]
)
def test_log_prob_is_that_of_torch(
    base: str, twin: Callable[[Tensor, Tensor], torch.distributions.Distribution]
) -> None:
    prediction, target = example()
    assert prediction.sigma is not None
    expected = twin(prediction.mu, prediction.sigma).log_prob(target).sum(-1)
    likelihood = Likelihood(3, base)
    torch.testing.assert_close(likelihood.log_prob(prediction, target), expected)
    torch.testing.assert_close(likelihood(prediction, target), -expected)


@pytest.mark.parametrize(("base", "dim"), [*product(BASES, [1, 2])])
def test_rle_with_s_integrates_to_one(base: str, dim: int) -> None:
    """Over x, not x_bar: sigma is part of the density."""
    rle = random_rle(dim, base)
    x, cell = grid(dim, 3, 20_000 if dim == 1 else 400)
    x = x.reshape(-1, 1, dim)
    mu = torch.full_like(x, 0.1)
    log_sigma = torch.linspace(-1.5, -1.0, dim, dtype=D64).expand_as(x)
    with torch.no_grad():
        mass = rle.log_prob(Prediction(mu, log_sigma), x).exp().sum() * cell
    assert mass.item() == pytest.approx(1, abs=3e-3)


@pytest.mark.parametrize("base", BASES)
def test_rle_integrates_to_one_in_three_dimensions(base: str) -> None:
    rle = random_rle(3, base)
    x, cell = grid(3, 6, 64)
    with torch.no_grad():
        assert (rle.log_unit(x.reshape(-1, 3)).exp().sum() * cell).item() == pytest.approx(1, abs=4e-3)


@pytest.mark.parametrize("base", BASES)
def test_training_loss_is_equation_8(base: str) -> None:
    prediction, target = example()
    assert prediction.log_sigma is not None
    rle = random_rle(3, base, normalise=False)
    x_bar = (target - prediction.mu) / prediction.log_sigma.exp()
    expected = prediction.log_sigma.sum(-1) - BASES[base][0](x_bar) - rle.flow.log_prob(x_bar)
    torch.testing.assert_close(rle(prediction, target), expected)


def test_log_s_of_training_agrees_with_the_grid() -> None:
    prediction, target = example()
    plain, normalised = random_rle(3, normalise=False), random_rle(3)
    normalised.draws = 2**17
    torch.manual_seed(0)
    difference = plain(prediction, target) - normalised(prediction, target)
    torch.testing.assert_close(difference, torch.full_like(difference, plain.log_norm().item()), rtol=0, atol=0.02)


@pytest.mark.parametrize("steers", [False, True])
def test_a_share_of_the_joints_has_the_right_gradient_on_average(steers: bool) -> None:
    """Over all ways to choose the share, the mean of loss and gradients is that of all joints; in a test all count."""
    rle, (prediction, target) = random_rle(2, normalise=False, flow_steers_mu=steers), example(2, 2, 2)
    assert prediction.log_sigma is not None
    sources = [prediction.mu, prediction.log_sigma, *rle.parameters()]

    def gradients() -> list[Tensor]:
        loss = rle(prediction, target).mean()
        return [loss.detach(), *torch.autograd.grad(loss, sources)]

    expected = gradients()
    rle.flow_share = 0.5  # 2 of 4 joints, in 6 ways
    torch.manual_seed(0)
    found: dict[float, list[Tensor]] = {}
    for _ in range(100):
        one = gradients()
        found[round(float(one[0]), 9)] = one
    assert len(found) == 6
    for mean, right in zip((torch.stack(x).mean(0) for x in zip(*found.values(), strict=True)), expected, strict=True):
        torch.testing.assert_close(mean, right)
    rle.eval()
    torch.testing.assert_close(gradients(), expected)


def test_a_share_of_many_joints_has_the_right_gradient_on_average() -> None:
    """Where a control variate is fitted: no bias beyond 1 %, and a tenth of the plain estimate's scatter."""
    rle, (prediction, target) = random_rle(3, normalise=False, flow_steers_mu=False), example(3, 256, 16)

    def gradient() -> Tensor:
        log_sigma = prediction.log_sigma
        assert log_sigma is not None
        return torch.autograd.grad(rle(prediction, target).mean(), log_sigma)[0].sum((0, 1))

    exact = gradient()
    rle.flow_share = 0.25
    torch.manual_seed(0)
    found = torch.stack([gradient() for _ in range(60)])
    error = found.std(0) / 60**0.5
    assert ((found.mean(0) - exact).abs() < 4 * error + 0.01 * exact.norm()).all()
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(shared_flow, "_FEWEST", 10**9)
        plain = torch.stack([gradient() for _ in range(60)])
    assert found.std(0).norm() < 0.5 * plain.std(0).norm()


def test_a_share_of_none_is_refused() -> None:
    for share in (0.0, -1.0, 1.5):
        with pytest.raises(ValueError, match="flow_share"):
            RLE(flow_share=share)


def test_what_the_control_variate_can_be_is_estimated_without_scatter() -> None:
    torch.manual_seed(0)
    x_bar = torch.randn(4000, 3)
    chosen = shared_flow.choose(4000, 0.25, torch.device("cpu"))
    for log_g in (x_bar.norm(dim=1), x_bar.abs()[:, 1], x_bar.square().sum(1).log1p(), x_bar.square().log1p()[:, 2]):
        found = shared_flow.log_g_of_all(log_g[chosen], chosen, x_bar)
        assert (found - log_g).std() < 0.02 * log_g.std()


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_the_estimate_of_log_g_is_a_fit_and_what_it_leaves(share: float) -> None:
    """c(x) for every joint, and the residual of the chosen ones as often as joints are chosen for one."""
    x_bar, count = torch.randn(3000, 3), int(3000 * share)
    chosen = shared_flow.choose(3000, share, torch.device("cpu"))
    assert len(set(chosen.tolist())) == len(chosen) == count
    log_g = -x_bar.norm(dim=-1) + torch.sin(3 * x_bar[:, 0])
    basis = shared_flow._basis(x_bar).double()
    gram = basis[chosen].mT @ basis[chosen]
    gram.diagonal().mul_(1 + 1e-4)
    c = (basis @ torch.linalg.solve(gram, basis[chosen].mT @ log_g[chosen].double())).float()
    expected = c.clone()
    expected[chosen] += (log_g - c)[chosen] / share
    found = shared_flow.log_g_of_all(log_g[chosen], chosen, x_bar)
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)


def test_one_joint_at_least_is_chosen() -> None:
    assert len(shared_flow.choose(3, 0.01, torch.device("cpu"))) == 1


@pytest.mark.parametrize("base", BASES)
def test_gradcheck(base: str) -> None:
    prediction, target = example(batch=2, joints=2)
    rle = random_rle(3, base, normalise=False)
    assert prediction.log_sigma is not None
    inputs = (prediction.mu, prediction.log_sigma)
    assert torch.autograd.gradcheck(lambda mu, log_sigma: rle(Prediction(mu, log_sigma), target), inputs)


def gradients(likelihood: Likelihood) -> tuple[Tensor, list[Tensor]]:
    prediction, target = example()
    torch.manual_seed(2)
    loss = likelihood(prediction, target)
    inputs = [prediction.mu, prediction.log_sigma, *likelihood.parameters()]
    return loss.detach(), list(torch.autograd.grad(loss.sum(), inputs))  # type: ignore[arg-type]


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_beta_scales_the_gradient_on_mu_and_nothing_else(beta: float) -> None:
    plain, weighted = random_rle(3), random_rle(3, beta=beta)
    (loss, of_plain), (same_loss, of_weighted) = gradients(plain), gradients(weighted)
    torch.testing.assert_close(loss, same_loss)
    prediction, _ = example()
    assert prediction.sigma is not None
    share = prediction.sigma.detach() ** beta
    torch.testing.assert_close(of_weighted[0], of_plain[0] * share / share.mean())
    for one, other in zip(of_plain[1:], of_weighted[1:], strict=True):
        torch.testing.assert_close(one, other)


NAMES = get_args(LossConfig.model_fields["name"].annotation)


KINDS = {"rle": RLE, "dle": DLE, "flow": BasicFlow, "rle_reference": ReferenceRLE, "rle_mmpose": ReferenceRLE}
KINDS |= dict.fromkeys(["l1", "l2", "mpjpe"], ConstantVariance) | dict.fromkeys(BASES, Likelihood)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stands_for_its_likelihood(name: str) -> None:
    assert type(build_likelihood(LossConfig(name=name))) is KINDS[name]


@pytest.mark.parametrize("name", NAMES)
def test_an_excluded_joint_leaves_no_trace(name: str) -> None:
    likelihood = build_likelihood(LossConfig(name=name, beta=1.0)).double()
    prediction, target = example()
    weight = torch.ones(4, 5, dtype=D64)
    weight[1, 2] = 0
    weight[2, 0] = 0.25
    spoiled = target.clone()
    spoiled[1, 2] = torch.tensor([math.nan, math.inf, 1e300])
    torch.manual_seed(0)
    loss = likelihood(prediction, spoiled, weight)
    assert loss[1, 2] == 0
    assert loss.isfinite().all()
    loss.sum().backward()
    for tensor in (prediction.mu, prediction.log_sigma):
        if tensor is not None and tensor.grad is not None:
            assert tensor.grad.isfinite().all()
            assert (tensor.grad[1, 2] == 0).all()
            assert (tensor.grad[0] != 0).any()
    if name != "rle":  # its log s is random
        full = likelihood(prediction, target)
        torch.testing.assert_close(loss[2, 0], 0.25 * full[2, 0])


def test_a_weight_for_each_joint_holds_for_the_batch() -> None:
    prediction, target = example()
    weight = torch.tensor([[0, 1, 1, 0.5, 1]], dtype=D64)
    loss = ConstantVariance("l1")(prediction, target, weight)
    torch.testing.assert_close(loss, ConstantVariance("l1")(prediction, target) * weight)


def test_distances_are_what_they_say() -> None:
    prediction, target = example()
    error = (target - prediction.mu).detach().numpy()
    for kind, expected in {
        "l1": np.abs(error).sum(-1),
        "l2": (error**2).sum(-1),
        "mpjpe": np.sqrt((error**2).sum(-1)),
    }.items():
        np.testing.assert_allclose(ConstantVariance(kind)(prediction, target).detach().numpy(), expected, rtol=1e-12)


def test_samples_of_rle_agree_with_its_density() -> None:
    torch.manual_seed(0)
    rle = random_rle(2)
    x, cell = grid(2, 5, 300)
    x = x.reshape(-1, 2)
    with torch.no_grad():
        mass = rle.log_unit(x).exp() * cell
        sigma = torch.tensor([0.5, 0.2], dtype=D64)
        prediction = Prediction(torch.tensor([[[1.0, -1.0]]], dtype=D64), sigma.log()[None, None])
        drawn = rle.sample(prediction, 100_000).reshape(-1, 2)
    mean = (mass[:, None] * x).sum(0)
    spread = ((mass[:, None] * (x - mean).square()).sum(0)).sqrt()
    torch.testing.assert_close(drawn.mean(0), prediction.mu[0, 0] + sigma * mean, rtol=0, atol=0.01)
    torch.testing.assert_close(drawn.std(0), sigma * spread, rtol=0.04, atol=0)


def test_wrong_shapes_and_a_missing_sigma_are_refused() -> None:
    prediction, target = example()
    with pytest.raises(ValueError, match=r"target: expected \(4, 5, 3\), got \(4, 4, 3\)"):
        Likelihood()(prediction, target[:, :4])
    with pytest.raises(ValueError, match="RLE: expected a prediction with sigma"):
        RLE()(Prediction(prediction.mu), target)


def test_without_s_the_loss_gains_by_a_growing_sigma() -> None:
    """Why training includes log s: scaling sigma up and the flow down changes Eq. 8, but not an exact density."""
    torch.manual_seed(0)
    target = 0.05 * torch.randn(100, 4, 3, dtype=D64)
    mu = torch.zeros_like(target)

    def fitted(normalise: bool) -> float:
        torch.manual_seed(0)
        rle = RLE(3, "laplace", 0.0, RealNVP(3, couplings=2, width=16).double(), normalise, flow_steers_mu=True)
        rle.draws = 512
        log_sigma = torch.full((1, 1, 3), math.log(0.05), dtype=D64, requires_grad=True)
        optimizer = torch.optim.Adam([log_sigma, *rle.parameters()], lr=0.01)
        for _ in range(150):
            optimizer.zero_grad()
            rle(Prediction(mu, log_sigma.expand_as(mu)), target).mean().backward()
            optimizer.step()
        return log_sigma.exp().mean().item()

    assert fitted(normalise=False) > 1.5 * fitted(normalise=True)


def test_deviation_is_that_of_the_base() -> None:
    torch.manual_seed(0)
    mu, sigma = torch.randn(4, 2, 3, dtype=D64), torch.rand(4, 2, 3, dtype=D64)
    for base, expected in {"laplace": 2**0.5, "gaussian": 1.0, "radial": 2.0}.items():
        found = Likelihood(3, base).deviation(Prediction(mu, sigma.log()), draws=200_000)
        torch.testing.assert_close(found, expected * sigma, rtol=0.02, atol=0)


def test_a_flow_that_does_not_steer_mu_leaves_it_to_q() -> None:
    """The loss, and all other gradients, are those of the whole density."""
    (loss, steered), (same, still) = (
        gradients(random_rle(3, "radial")),
        gradients(random_rle(3, "radial", flow_steers_mu=False)),
    )
    torch.testing.assert_close(loss, same)
    torch.testing.assert_close(still[0], gradients(Likelihood(3, "radial", beta=0))[1][0])
    assert not torch.allclose(still[0], steered[0])
    for one, other in zip(steered[1:], still[1:], strict=True):
        torch.testing.assert_close(one, other)


def test_round_q_with_one_sigma_a_joint_and_beta_1_steers_mu_as_the_distance_does() -> None:
    prediction, target = example()
    assert prediction.log_sigma is not None
    shared = prediction.log_sigma[..., :1].detach().expand_as(prediction.mu)
    rle = random_rle(3, "radial", beta=1.0, flow_steers_mu=False)
    ours = torch.autograd.grad(rle(Prediction(prediction.mu, shared), target).sum(), prediction.mu)[0]
    theirs = torch.autograd.grad(ConstantVariance("mpjpe")(prediction, target).sum(), prediction.mu)[0]
    torch.testing.assert_close(ours, theirs / shared.exp().mean())


def trained_like(name: str, dim: int, **options: str | bool | float) -> Likelihood:
    """A likelihood in evaluation mode, whose flow, if it has one, is far from its start."""
    likelihood = deepcopy(_trained_like(name, dim, **options))
    torch.manual_seed(dim)  # whether it was made now or before
    return likelihood


@cache
def _trained_like(name: str, dim: int, **options: str | bool | float) -> Likelihood:
    config = LossConfig(name=name, flow=FlowConfig(couplings=4, width=16), **options)
    likelihood = build_likelihood(config, dim).double()
    torch.manual_seed(dim)
    for parameter in likelihood.parameters():
        nn.init.normal_(parameter, std=0.2)
    if isinstance(likelihood, ConstantVariance):
        likelihood.scale.fill_(0.3)
    if isinstance(likelihood, WithFlow):
        likelihood.log_norm()
    return likelihood.eval()


@pytest.mark.parametrize(("name", "dim"), [*product(NAMES, [1, 2])])
def test_every_density_integrates_to_one_over_x(name: str, dim: int) -> None:
    likelihood = trained_like(name, dim)
    x, cell = grid(dim, 5, 10_000 if dim == 1 else 400)  # the kink of a Laplace base at mu is between two cells
    x = x.reshape(-1, 1, dim)
    mu, log_sigma = torch.full_like(x, 0.1), torch.linspace(-1.5, -1.0, dim, dtype=D64).expand_as(x)
    with torch.no_grad():
        mass = likelihood.log_prob(Prediction(mu, log_sigma), x).exp().sum() * cell
    assert mass.item() == pytest.approx(1, abs=3e-3)


@pytest.mark.parametrize("name", ["rle", "dle", "rle_reference", "flow"])
def test_learned_densities_integrate_to_one_in_three_dimensions(name: str) -> None:
    likelihood = trained_like(name, 3)
    x, cell = grid(3, 7, 60)
    x = x.reshape(-1, 1, 3)
    with torch.no_grad():
        mass = likelihood.log_prob(Prediction(torch.zeros_like(x), torch.zeros_like(x)), x).exp().sum() * cell
    assert mass.item() == pytest.approx(1, abs=2e-2)


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_the_histogram_of_the_density(name: str) -> None:
    torch.manual_seed(0)
    likelihood = trained_like(name, 2)
    x, cell = grid(2, 6, 300)
    rows = x.reshape(-1, 1, 2)
    sigma = torch.tensor([0.7, 0.4], dtype=D64)
    prediction = Prediction(torch.tensor([[[0.5, -0.3]]], dtype=D64), sigma.log()[None, None])
    with torch.no_grad():
        everywhere = Prediction(prediction.mu.expand_as(rows), sigma.log().expand_as(rows))
        mass = (likelihood.log_prob(everywhere, rows).exp() * cell).view(300, 300)
        drawn = likelihood.sample(prediction, 200_000).reshape(-1, 2)
    for axis in (0, 1):
        expected = mass.sum(1 - axis).view(60, 5).sum(1)
        found = torch.histc(drawn[:, axis], 60, -6, 6) / len(drawn)
        assert (found - expected).abs().max() < 0.004  # five standard deviations of the fullest bin


@pytest.mark.parametrize("name", NAMES)
def test_unstandardise_is_the_inverse_of_standardise(name: str) -> None:
    prediction, target = example()
    likelihood = trained_like(name, 3)
    with torch.no_grad():
        x_bar = likelihood.standardise(prediction, target)
        torch.testing.assert_close(likelihood.unstandardise(prediction, x_bar), target)
        several = likelihood.unstandardise(prediction, torch.stack([x_bar, -x_bar]))  # draws come before the batch
    assert several.shape == (2, *target.shape)
    torch.testing.assert_close(several[0], target)


@pytest.mark.parametrize("name", NAMES)
def test_deviation_is_that_of_the_draws(name: str) -> None:
    """Also for the basic design, whose density has a different shape at each position."""
    torch.manual_seed(0)
    prediction = Prediction(torch.randn(3, 2, 3, dtype=D64), torch.full((3, 2, 3), -1.0, dtype=D64))
    likelihood = trained_like(name, 3)
    expected = (likelihood.sample(prediction, 10_000) - prediction.mu).square().mean(0).sqrt()
    state = torch.get_rng_state()
    found = likelihood.deviation(prediction, draws=10_000)
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0)
    assert torch.equal(torch.get_rng_state(), state), "a figure of a training run would change the run"
    assert torch.equal(likelihood.deviation(prediction, draws=10_000), found)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "rle"])
def test_gradcheck_of_the_family(name: str) -> None:
    prediction, target = example(batch=2, joints=2)
    likelihood = trained_like(name, 3, beta=0)
    assert prediction.log_sigma is not None
    inputs = (prediction.mu, prediction.log_sigma)
    assert torch.autograd.gradcheck(lambda mu, log_sigma: likelihood(Prediction(mu, log_sigma), target), inputs)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_reference_equals_a_twin_of_the_public_formula(dim: int) -> None:
    likelihood = trained_like("rle_reference", dim)
    assert isinstance(likelihood, ReferenceRLE)
    prediction, target = example(dim)
    sigma = prediction.sigma
    assert sigma is not None
    error = prediction.mu - target
    log_phi = likelihood.flow.log_prob((error / sigma).reshape(-1, dim)).reshape(4, 5, 1)
    amplitude = 1 / math.sqrt(2 * math.pi)
    log_q = torch.log(sigma / amplitude) + error.abs() / (math.sqrt(2) * sigma + 1e-9)
    expected = (torch.log(sigma) - log_phi + log_q).sum(-1)
    torch.testing.assert_close(likelihood(prediction, target), expected, rtol=0, atol=1e-6)


def test_dle_is_equation_5_and_the_basic_design_equation_4() -> None:
    prediction, target = example()
    assert prediction.sigma is not None
    assert prediction.log_sigma is not None
    dle = trained_like("dle", 3)
    assert isinstance(dle, DLE)
    x_bar = (target - prediction.mu) / prediction.sigma
    torch.testing.assert_close(dle(prediction, target), prediction.log_sigma.sum(-1) - dle.flow.log_prob(x_bar))
    basic = trained_like("flow", 3)
    assert isinstance(basic, BasicFlow)
    z, log_det = basic.flow.inverse(target)
    initial = torch.distributions.Normal(prediction.mu, prediction.sigma).log_prob(z).sum(-1)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(basic(prediction, target), -initial - log_det)
    # training maximises the density that prediction and evaluation see
    torch.testing.assert_close(-basic(prediction, target), basic.log_prob(basic.point(prediction), target))


def test_a_constant_scale_is_the_one_of_highest_likelihood() -> None:
    torch.manual_seed(0)
    target = torch.randn(2000, 5, 3, dtype=D64) * 0.2
    zero = Prediction(torch.zeros_like(target))
    for kind in ("l1", "l2", "mpjpe"):
        likelihood = ConstantVariance(kind).double()
        likelihood(zero, target)
        best = likelihood.scale.clone()
        nll = {}
        for factor in (0.97, 1.0, 1.03):
            likelihood.scale.copy_(best * factor)
            nll[factor] = -likelihood.log_prob(zero, target).mean()
        assert nll[1.0] < min(nll[0.97], nll[1.03]), kind
        likelihood.eval()(zero, 10 * target)
        torch.testing.assert_close(likelihood.scale, best * 1.03)  # evaluation does not change it


class Mixture(Density):
    """A mixture of two normal densities, to plug in as a flow."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.tensor([[-1.0, 0.0], [1.5, 0.5]], dtype=D64))

    def log_prob(self, x: Tensor) -> Tensor:
        logs = [log_gaussian((x - place) / 0.5) - 2 * math.log(0.5) for place in self.places]
        return torch.logaddexp(*logs) - math.log(2)

    def sample(self, shape: tuple[int, ...]) -> Tensor:
        place = self.places.detach()[torch.randint(2, shape)]
        return place + 0.5 * torch.randn_like(place)


def test_any_density_plugs_in() -> None:
    torch.manual_seed(0)
    rle = RLE(2, flow=Mixture())
    prediction, target = example(2)
    rle(prediction, target).sum().backward()
    assert rle.flow.places.grad.abs().min() > 0  # type: ignore[union-attr, operator]
    x, cell = grid(2, 6, 400)
    with torch.no_grad():
        mass = rle.log_unit(x).exp() * cell
        drawn = rle.sample(Prediction(torch.zeros(1, 1, 2, dtype=D64), torch.zeros(1, 1, 2, dtype=D64)), 200_000)
    assert mass.sum().item() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(drawn.reshape(-1, 2).mean(0), (mass[..., None] * x).sum((0, 1)), rtol=0, atol=0.01)


@pytest.mark.parametrize("kind", ["nsf", "maf"])
@pytest.mark.parametrize("name", ["rle", "dle", "flow", "rle_reference"])
def test_zukos_flows_plug_in(kind: str, name: str) -> None:
    torch.manual_seed(0)
    config = LossConfig(name=name, flow=FlowConfig(kind=kind, couplings=2, width=8))
    likelihood = build_likelihood(config, 2).double()
    assert sum(isinstance(module, nn.Linear) for module in likelihood.modules()) == 2 * config.flow.layers
    prediction, target = example(2)
    loss = likelihood(prediction, target)
    loss.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in likelihood.parameters())
    x, cell = grid(2, 12, 300)
    x = x.reshape(-1, 1, 2)
    with torch.no_grad():
        mass = likelihood.log_prob(Prediction(torch.zeros_like(x), torch.zeros_like(x)), x).exp().sum() * cell
    assert mass.item() == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("kind", ["nsf", "maf"])
def test_a_flow_whose_library_is_missing_names_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(InputError, match=f"^loss.flow.kind: {kind} needs zuko: pip install"):
        build_likelihood(LossConfig(flow=FlowConfig(kind=kind)))


@pytest.mark.parametrize(("dim", "reach", "cells"), [(1, 20.0, 2**14), (2, 5.0, 512), (3, 5.0, 64)])
def test_log_norm_is_a_sum_over_a_grid(dim: int, reach: float, cells: int) -> None:
    rle = random_rle(dim)
    found = rle.log_norm()
    assert not found.requires_grad
    with torch.no_grad():
        assert float(found) == pytest.approx(-math.log(rle._riemann_sum(reach, cells)), abs=1e-12)


def test_a_grid_is_summed_in_slabs_of_one_layer_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    rle = random_rle(2)
    with torch.no_grad():
        whole = rle._riemann_sum(5.0, 32)
        monkeypatch.setattr(learned, "ROWS", 31)
        torch.testing.assert_close(rle._riemann_sum(5.0, 32), whole)


def test_log_norm_in_four_dimensions_is_the_estimate() -> None:
    rle = random_rle(4)
    with torch.no_grad():
        assert float(rle.log_norm()) == pytest.approx(-math.log(rle._estimate()), abs=1e-12)


@pytest.mark.parametrize("kind", [RLE, DLE])
def test_constants_are_in_full_precision_and_those_of_the_weights(kind: Callable[..., Likelihood]) -> None:
    likelihood, same = (kind(2, flow=random_rle(2).flow.float()) for _ in range(2))
    one = Prediction(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2))
    with torch.autocast("cpu", torch.bfloat16):
        found = likelihood.deviation(one)
    torch.testing.assert_close(found[0, 0], Likelihood._unit_deviation(same, 2**15, one.mu), rtol=0, atol=0)
    with torch.no_grad():
        for weight in likelihood.parameters():
            weight.mul_(0.5)
    assert not torch.equal(likelihood.deviation(one), found)


def test_a_narrow_grid_is_not_believed() -> None:
    assert float(RLE(1).log_norm(0.3).detach()) == pytest.approx(float(RLE(1).log_norm()), abs=0.02)


def test_the_deviation_of_a_flow_at_mu_has_draws_of_its_own_for_every_joint() -> None:
    log_sigma = torch.tensor([0.1, 0.2, 0.4]).log().expand(2, 5, 3)
    found = BasicFlow().deviation(Prediction(torch.zeros(2, 5, 3), log_sigma))
    torch.testing.assert_close(found, log_sigma.exp(), rtol=0.25, atol=0)
    assert len(set(found[..., 0].flatten().tolist())) == 10
    assert not found.requires_grad


def test_draws_have_no_gradient_and_follow_a_flow_that_is_mirrored() -> None:
    """ReferenceRLE takes log G at -x_bar: a flow that shifts by 12 puts candidates and draws on the other side."""
    likelihood = ReferenceRLE(2, flow=RealNVP(2, layers=2, width=1))
    for parameter in likelihood.flow.parameters():
        nn.init.zeros_(parameter)
    for net in likelihood.flow.nets:  # type: ignore[union-attr]
        nn.init.constant_(net.biases[-1][1], 4)  # three of six couplings move each coordinate
    drawn = likelihood.draw_unit((4000,), torch.zeros(()))
    assert not drawn.requires_grad
    assert bool((drawn.mean(0) < -10).all())
    assert len(drawn.unique(dim=0)) > 2000  # type: ignore[no-untyped-call]


def test_a_narrow_flow_gets_a_finer_grid_and_a_given_one_is_refused() -> None:
    rle = random_rle(3, normalise=False)
    with torch.no_grad():
        for parameter in rle.flow.parameters():
            parameter.zero_()
        for net in rle.flow.nets:  # type: ignore[union-attr]
            net.biases[-1][0] = -0.6
    width = math.exp(3 * math.tanh(-0.6))  # three of six couplings move each coordinate
    for bad in ({"cells": 10}, {"reach": width, "cells": 40}):
        with pytest.raises(ValueError, match="are too coarse or too narrow: an estimate from draws is") as refused:
            rle.log_norm(**bad)
        reach, cells = bad.get("reach", 5.0), int(bad["cells"])
        ratio = float(rle._estimate().detach() / rle._riemann_sum(reach, cells).detach())
        assert f"is {ratio:.3g} times" in str(refused.value)
    x, cell = grid(3, 6 * width, 60)
    with torch.no_grad():
        twin = -(rle.log_shape(x.reshape(-1, 3)).exp().sum() * cell).log()
    torch.testing.assert_close(rle.log_norm(), twin, rtol=0, atol=0.02)


def mixed() -> Mixed:
    torch.manual_seed(0)
    return Mixed(RLE(3, flow=RealNVP(3, couplings=2, width=8)), RLE(2, flow=RealNVP(2, couplings=2, width=8))).double()


def test_labels_without_depth_give_no_gradient_to_depth() -> None:
    prediction, target = example()
    has_depth = torch.tensor([[True], [False], [True], [False]])
    target[1] = torch.cat([target[1, :, :2], torch.full((5, 1), math.nan, dtype=D64)], -1)
    likelihood = mixed()
    torch.manual_seed(3)
    loss = likelihood(prediction, target, has_depth, torch.tensor([[1.0, 1, 1, 0.5, 0]], dtype=D64))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert (loss[:, 4] == 0).all()
    assert prediction.log_sigma is not None
    for leaf in (prediction.mu.grad, prediction.log_sigma.grad):
        assert leaf is not None
        assert leaf.isfinite().all()
        assert (leaf[[1, 3], :, 2] == 0).all()
        assert (leaf[[1, 3], :4, :2] != 0).any(-1).all()
        assert (leaf[[0, 2], :4, 2] != 0).all()
    torch.manual_seed(3)
    deep = likelihood.with_depth(Prediction(prediction.mu[::2], prediction.log_sigma[::2]), target[::2])
    torch.testing.assert_close(loss[::2, 0], deep[:, 0])


@pytest.mark.parametrize("depth", [True, False])
def test_a_batch_of_one_kind_only(depth: bool) -> None:
    prediction, target = example()
    loss = mixed()(prediction, target, torch.full((4, 1), depth))
    assert loss.isfinite().all()
    assert (loss != 0).all()
    loss.sum().backward()
    assert prediction.mu.grad is not None
    assert prediction.mu.grad.isfinite().all()


def test_the_point_of_a_mixed_batch_is_that_of_the_likelihood_it_belongs_to() -> None:
    """The basic design moves mu by a flow: that of D = 3 for joints with depth, that of D = 2 for the others."""
    flows = [RealNVP(3, couplings=2, width=8), RealNVP(2, couplings=2, width=8)]
    for flow in flows:
        for parameter in flow.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    likelihood = Mixed(BasicFlow(3, flow=flows[0]), BasicFlow(2, flow=flows[1])).double()
    prediction, _ = example()
    has_depth = torch.tensor([True, False, True, True, False])
    with torch.no_grad():
        point = likelihood.point(prediction, has_depth)
        deep = likelihood.with_depth.point(prediction).mu
        flat = likelihood.without_depth.point(Prediction(prediction.mu[..., :2])).mu
    assert torch.equal(point.mu[:, has_depth], deep[:, has_depth])
    assert torch.equal(point.mu[:, ~has_depth, :2], flat[:, ~has_depth])
    assert torch.equal(point.mu[:, ~has_depth, 2], prediction.mu[:, ~has_depth, 2])
    assert point.log_sigma is not None
    assert point.log_sigma.shape == prediction.mu.shape
    assert not torch.equal(deep, prediction.mu)


def spoiled(target: Tensor) -> Tensor:
    return target.index_fill(0, torch.tensor([2]), math.nan)


Changed = tuple[Prediction, Tensor, Tensor]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p, x, w: (Prediction(p.mu, p.log_sigma[..., :1]), x, w), r"log_sigma: expected \(4, 5, 3\)"),
        (lambda p, x, w: (p, x[..., :2], w), r"target: expected \(4, 5, 3\), got \(4, 5, 2\)"),
        (lambda p, x, w: (p, x.long(), w), "target: expected a floating dtype, got torch.int64"),
        (lambda p, x, w: (p, x.float(), w), "target: expected torch.float64, the dtype of mu, got torch.float32"),
        (
            lambda p, x, w: (p, x.index_fill(0, torch.tensor([2]), math.nan), w),
            r"target: expected finite .* at \[2, 0\]",
        ),
        (lambda p, x, w: (p, x.index_fill(0, torch.tensor([2]), math.nan), None), r"target: expected finite labels"),
        (lambda p, x, w: (p, x, w[:3]), r"weight: expected \(4, 5\), where any side may be 1, got \(3, 5\)"),
        (lambda p, x, w: (p, x, w[0]), r"weight: expected \(4, 5\), where any side may be 1, got \(5,\)"),
        (lambda p, x, w: (p, x, 2 * w), r"weight: expected values in \[0, 1\], got 2 to 2"),
        (lambda p, x, w: (p, x, w * math.nan), r"weight: expected values in \[0, 1\]"),
        (lambda p, x, w: (p, x, w.long()), "weight: expected a floating dtype or bool"),
    ],
)
@pytest.mark.parametrize("name", ["rle", "laplace"])
def test_arguments_that_do_not_fit_are_refused(name: str, change: Callable[..., Changed], words: str) -> None:
    prediction, target, weight = change(*example(), torch.ones(4, 5, dtype=D64))
    with pytest.raises(ValueError, match=words):
        build_likelihood(LossConfig(name=name)).double()(prediction, target, weight)


@pytest.mark.parametrize("name", get_args(LossConfig.model_fields["name"].annotation))
def test_log_prob_and_sample_refuse_arguments_that_do_not_fit(name: str) -> None:
    """By broadcasting, each of these would give a number that belongs to another density."""
    (prediction, x), likelihood = example(), build_likelihood(LossConfig(name=name)).double()
    if isinstance(likelihood, ConstantVariance):
        with pytest.raises(ValueError, match=f"{name}: expected a trained loss"):
            likelihood.log_prob(prediction, x)
        likelihood.scale.fill_(0.1)
    elif prediction.log_sigma is not None:
        narrow = Prediction(prediction.mu, prediction.log_sigma[..., :1])
        with pytest.raises(ValueError, match=r"log_sigma: expected \(4, 5, 3\), got \(4, 5, 1\)"):
            likelihood.log_prob(narrow, x)
        with pytest.raises(ValueError, match=r"log_sigma: expected \(4, 5, 3\), got \(4, 5, 1\)"):
            likelihood.sample(narrow, 2)
    for bad in (x[..., :1], x[0], x.float()):
        with pytest.raises(ValueError, match="x: expected"):
            likelihood.log_prob(prediction, bad)
    for dim in (1, 2):
        with pytest.raises(ValueError, match=rf"mu: expected \(4, 5, {dim}\), got \(4, 5, 3\)"):
            build_likelihood(LossConfig(name=name), dim).double().sample(prediction, 2)


def test_a_weight_of_another_float_dtype_is_accepted() -> None:
    prediction, target = example()
    for weight in (torch.ones(4, 5), torch.ones(1, 5).half(), torch.ones(4, 1, dtype=torch.bool), torch.tensor(1.0)):
        assert torch.equal(Likelihood()(prediction, target, weight), Likelihood()(prediction, target))


def test_mixed_labels_need_a_bool() -> None:
    prediction, target = example()
    with pytest.raises(ValueError, match=r"has_depth: expected bool, got torch.int64"):
        mixed()(prediction, target, torch.ones(4, 1, dtype=torch.long))


class NoSample(nn.Linear):
    def log_prob(self, x: Tensor) -> Tensor:
        return x.sum(-1)


class Fixed(Density):
    def log_prob(self, x: Tensor) -> Tensor:
        return log_gaussian(x)


@pytest.mark.parametrize("kind", [RLE, DLE, BasicFlow, ReferenceRLE])
def test_a_module_that_is_no_density_is_refused_as_a_flow(kind: Callable[..., Likelihood]) -> None:
    for flow, words in (
        (NoSample(3, 3), "got NoSample without sample"),
        (Fixed(), "got Fixed without parameters"),
        (RealNVP(2), r"expected a density on R\^3, where .* shape \(2, 3\) .* got \(2, 2\) and \(2,\) from RealNVP"),
    ):
        with pytest.raises(ValueError, match=words):
            kind(3, flow=flow)
    for sizes in ({"couplings": 0}, {"layers": 1}, {"width": 0}):
        with pytest.raises(ValueError, match="RealNVP: expected"):
            RealNVP(3, **sizes)
    with pytest.raises(ValueError, match=r"RealNVP: expected dim >= 2, got 1: .* use ScalarFlow"):
        RealNVP(1)


def test_an_unknown_base_is_refused() -> None:
    with pytest.raises(ValueError, match="base: expected one of laplace, gaussian, radial, got 'cauchy'"):
        Likelihood(3, "cauchy")
    with pytest.raises(ValueError, match="kind: expected one of l1, l2, mpjpe, got 'l3'"):
        ConstantVariance("l3")
    for bad in ({"reach": 0.0}, {"cells": 0}):
        with pytest.raises(ValueError, match="log_norm: expected reach > 0 and cells >= 1"):
            RLE(1).log_norm(**bad)


def test_the_five_lines_of_the_readme_run() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    lines = readme.split("## RLE in your project\n\n```python\n")[1].split("```")[0]
    prediction, target = example()
    names = {"mu": prediction.mu.float(), "log_sigma": prediction.log_sigma.float(), "target": target.float()}  # type: ignore[union-attr]
    names["weight"] = torch.ones(4, 5)
    exec(lines, names)
    assert names["loss"].isfinite()


def settings(rle: Likelihood) -> tuple[object, ...]:
    assert isinstance(rle, RLE)
    return rle.base, rle.beta, rle.normalise, rle.flow_steers_mu, [tuple(p.shape) for p in rle.parameters()]


def test_the_defaults_are_the_recommended_form_and_the_papers_has_a_name() -> None:
    folder = Path(__file__).parents[2] / "configs"
    recommended, paper = load_config(folder / "lifting/fc_rle.yaml"), load_config(folder / "lifting/fc_rle_paper.yaml")
    assert recommended == Config()
    assert recommended.loss == LossConfig()
    assert settings(RLE(dim=3)) == settings(build_likelihood(recommended.loss))
    assert settings(RLE.paper(dim=3)) == settings(build_likelihood(paper.loss))
    assert settings(RLE.paper(2))[:-1] == ("laplace", 0.0, False, True)
    assert (Likelihood().base, Likelihood().beta) == (LossConfig().base, LossConfig().beta)
    assert [kind().dim for kind in (RLE, DLE, BasicFlow, ReferenceRLE)] == [3] * 4
    assert [kind().beta for kind in (DLE, BasicFlow, ReferenceRLE)] == [1, 1, 0]
    single_stage = read_config(SingleStageConfig, folder / "single_stage/resnet50_rle.yaml")
    assert single_stage.model == SingleStageConfig().model
    assert single_stage.loss == SingleStageConfig().loss
    for network in (FCBaseline(width=8), SRNet(width=50), Regressor("resnet18", 8)):  # one sigma per joint
        images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
        log_sigma = network.eval()(images if isinstance(network, Regressor) else torch.randn(2, 17, 2)).log_sigma
        assert torch.equal(log_sigma, log_sigma[..., :1].expand_as(log_sigma))


def test_the_scale_of_a_loss_is_a_running_mean_over_the_labelled_joints() -> None:
    loss = ConstantVariance("l1")
    target = torch.zeros(2, 3, 3)
    target[0, 1], target[1, 2] = 0.3, 6.0
    for joint, expected in (((0, 1), 0.3), ((1, 2), 0.98 * 0.3 + 0.02 * 6)):
        weight = torch.zeros(2, 3)
        weight[joint] = 1
        loss(Prediction(torch.zeros(2, 3, 3)), target, weight)
        loss(Prediction(torch.zeros(2, 3, 3)), target, 0 * weight)  # nothing to learn from
        assert float(loss.scale) == pytest.approx(expected)


@pytest.mark.parametrize(("base", "expected"), [("laplace", 2**0.5), ("gaussian", 1.0), ("radial", 2.0)])
def test_the_deviation_of_a_fixed_density(base: str, expected: float) -> None:
    """|x| of the radial density in 3D is a sum of three exponential variables: E |x|^2 = 3 * 4."""
    one = Prediction(torch.zeros(1, 2, 3), torch.log(torch.tensor([[[1.0, 2, 3], [4, 5, 6]]])))
    assert one.log_sigma is not None
    one.log_sigma.requires_grad_()
    found = Likelihood(3, base).deviation(one)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected * torch.arange(1.0, 7).view(1, 2, 3), rtol=0.03, atol=0)


def test_the_first_joint_without_a_density_is_named() -> None:
    log_sigma = torch.zeros(4, 7, 3)
    log_sigma[1, 3] = log_sigma[2, 5] = -torch.inf
    with pytest.raises(ValueError, match="got -inf at joint 3:"):
        Likelihood()(Prediction(torch.zeros(4, 7, 3), log_sigma), torch.zeros(4, 7, 3))


@pytest.mark.parametrize("name", ["rle", "dle", "radial"])
def test_a_joint_without_a_density_is_named_with_the_way_out(name: str) -> None:
    """`RLE()(FCBaseline()(keypoints), target)` was NaN: the root's log sigma is -inf."""
    prediction, target = FCBaseline(width=8)(torch.randn(4, 17, 2)), torch.randn(4, 17, 3)
    likelihood = build_likelihood(LossConfig(name=name))
    with pytest.raises(ValueError, match=r"log_sigma: .* got -inf at joint 0: .* give it weight 0, or train with"):
        likelihood(prediction, target)
    weight = torch.ones(1, 17)
    weight[:, 0] = 0
    loss = likelihood(prediction, target, weight)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert (loss[:, 0] == 0).all()


def test_values_are_checked_only_in_the_first_call_where_that_waits_for_the_device() -> None:
    likelihood = Likelihood()
    meta = torch.empty(4, 5, 3, device="meta")
    for _ in range(2):
        assert likelihood(Prediction(meta, meta), meta, torch.ones(4, 5, device="meta")).shape == (4, 5)

    class Far:
        """Claims to be a tensor on a GPU."""

        device, is_meta = torch.device("cuda:0"), False

    other = Likelihood()
    assert [other._looks(Far()) for _ in range(3)] == [True, False, False]  # type: ignore[arg-type]
    assert [other._looks(torch.zeros(())) for _ in range(2)] == [True, True]


@pytest.mark.parametrize("name", NAMES)
def test_masking_does_not_read_values(name: str) -> None:
    """One graph serves all weights: a training step never waits for the device and is compiled only once."""
    likelihood = build_likelihood(LossConfig(name=name, flow=FlowConfig(couplings=2, width=8))).double()
    prediction, target = example()
    whole = torch.compile(likelihood, fullgraph=True, backend="eager")
    weight = (torch.arange(20).view(4, 5) % 3 > 0).double()
    torch.manual_seed(0)
    expected = likelihood(prediction, target, weight)
    scale = getattr(likelihood, "scale", torch.zeros(())).clone()
    torch.manual_seed(0)
    torch.testing.assert_close(whole(prediction, target, weight), expected)
    assert scale.isfinite()


@pytest.mark.parametrize("name", NAMES)
def test_masking_equals_leaving_joints_out(name: str) -> None:
    """A twin that selects the visible joints gives the same losses and the same gradients of mu, sigma and flow."""
    found = []
    for masked in (True, False):
        likelihood = trained_like(name, 3).train()
        if isinstance(likelihood, ConstantVariance):
            likelihood.scale.zero_()
        prediction, target = example()
        assert prediction.log_sigma is not None
        weight = torch.ones(4, 5, dtype=D64)
        weight[1, 2:4] = weight[3] = 0
        seen = weight > 0
        torch.manual_seed(0)
        if masked:
            loss = likelihood(prediction, torch.where(seen[..., None], target, math.nan), weight)[seen]
        else:
            rows = Prediction(prediction.mu[seen][None], prediction.log_sigma[seen][None])
            loss = likelihood(rows, target[seen][None])[0]
        inputs = [prediction.mu, prediction.log_sigma, *likelihood.parameters()]
        gradients = torch.autograd.grad(loss.sum(), inputs, allow_unused=True)
        found.append([loss, getattr(likelihood, "scale", loss), *[g for g in gradients if g is not None]])
    torch.testing.assert_close(found[0], found[1])


def test_constants_of_the_flow_are_taken_once_for_each_state_of_it() -> None:
    torch.manual_seed(0)
    rle = RLE(2, flow=RealNVP(2, couplings=2, width=8))
    prediction, target = example(2)
    prediction, target = Prediction(prediction.mu.float(), prediction.log_sigma.float()), target.float()  # type: ignore[union-attr]
    calls = 0
    plain = rle.flow.log_prob

    def counted(x: Tensor) -> Tensor:
        nonlocal calls
        calls += len(x.reshape(-1, 2))
        return plain(x)

    rle.flow.log_prob = counted  # type: ignore[method-assign]

    def rows(what: Callable[[], object]) -> int:
        nonlocal calls
        calls = 0
        what()
        return calls

    def density() -> Tensor:
        return rle.log_prob(prediction, target)

    def deviation() -> Tensor:
        return rle.deviation(prediction)

    assert rows(density) > 10_000
    assert rows(density) == 20
    assert rows(deviation) > 10_000
    assert rows(deviation) == 0
    # fused like the engine's, which does not raise the version counters of the weights
    optimizer = torch.optim.Adam(rle.parameters(), lr=0.1, fused=True)
    for change in (
        lambda: (rle(prediction, target).sum().backward(), optimizer.step()),
        lambda: rle.load_state_dict(RLE(2, flow=RealNVP(2, couplings=2, width=8)).state_dict()),
    ):
        before = density(), deviation()
        change()
        assert rows(density) > 10_000, "a constant of weights that are gone"
        assert rows(deviation) > 10_000
        assert rows(density) == 20
        assert not torch.equal(before[0], density())
        assert not torch.equal(before[1], deviation())
    assert rle.log_norm().dtype == torch.float32
    assert rle.double().log_norm().dtype == D64


@pytest.mark.parametrize("name", ["rle", "rle_reference", "dle", "flow"])
def test_a_flow_sees_a_limited_number_of_rows_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a whole test set, a hidden layer of DLE's flow once took gigabytes."""
    likelihood = trained_like(name, 2)
    prediction, x = example(2, 40, 10)
    whole = likelihood.point(prediction).mu, likelihood.log_prob(prediction, x), likelihood.standardise(prediction, x)
    widest = 0
    inverse, forward = RealNVP.inverse, RealNVP.forward

    def noted(rows: Tensor) -> Tensor:
        nonlocal widest
        widest = max(widest, len(rows.reshape(-1, 2)))
        return rows

    monkeypatch.setattr(RealNVP, "inverse", lambda self, x: inverse(self, noted(x)))
    monkeypatch.setattr(RealNVP, "forward", lambda self, z: forward(self, noted(z)))
    monkeypatch.setattr("lifting.likelihood.flow.ROWS", 64)
    parts = likelihood.point(prediction).mu, likelihood.log_prob(prediction, x), likelihood.standardise(prediction, x)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)
    if name == "flow":
        assert likelihood.sample(prediction, 3).shape == (3, 40, 10, 2)
    assert widest <= 64


@pytest.mark.parametrize("name", ["rle", "rle_reference", "dle", "laplace"])
def test_a_density_takes_a_single_point(name: str) -> None:
    likelihood = build_likelihood(LossConfig(name=name, flow=FlowConfig(width=8))).double()
    x_bar = torch.randn(2, 3, dtype=D64)
    one = likelihood.log_unit(x_bar[0])
    assert one.shape == ()
    torch.testing.assert_close(one, likelihood.log_unit(x_bar)[0])


def test_fixed_draws_fix_the_device_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two GPUs, of which the first is the current one: draws on the second are fixed, the first is left alone."""
    first, second = torch.Generator(), torch.Generator()
    monkeypatch.setattr(torch.cuda, "default_generators", (first, second))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    states = [generator.get_state() for generator in (first, second, torch.default_generator)]
    drawn = []
    for _ in range(2):
        with fixed_draws(torch.device("cuda:1")):
            drawn.append(torch.cat([torch.rand(3, generator=second), torch.rand(3)]))
            assert torch.equal(first.get_state(), states[0])
        torch.rand(5, generator=first)
        states[0] = first.get_state()
    assert torch.equal(drawn[0], drawn[1])
    for generator, state in zip((second, torch.default_generator), states[1:], strict=True):
        assert torch.equal(generator.get_state(), state)
    with fixed_draws(torch.device("cuda")):
        assert torch.equal(second.get_state(), states[1])
        assert not torch.equal(first.get_state(), states[0])


def test_more_than_three_dimensions_need_no_grid() -> None:
    """One of 64 cells along each of six axes has 7e10."""
    torch.manual_seed(0)
    rle = random_rle(6)
    x = Prediction(torch.zeros(5, 2, 6, dtype=D64), torch.zeros(5, 2, 6, dtype=D64))
    assert rle.log_prob(x, torch.randn(5, 2, 6, dtype=D64)).isfinite().all()
    estimate, grid = (random_rle(3)._estimate(), random_rle(3).log_norm())  # fixed draws: no noise between calls
    torch.testing.assert_close(-estimate.log(), grid, rtol=0, atol=0.015)


@pytest.mark.parametrize("name", NAMES)
def test_no_draws(name: str) -> None:
    prediction, _ = example()
    assert trained_like(name, 3).sample(prediction, 0).shape == (0, *prediction.mu.shape)
