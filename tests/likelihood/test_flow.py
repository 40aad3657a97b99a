"""RealNVP as a density: exact log-determinant, exact inverse, unit mass, the paper's sizes."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lifting.likelihood.flow import RealNVP, _ScaleAndShift


def random_flow(dim: int, *, couplings: int = 6, layers: int = 3, width: int = 16, scale: float = 0.4) -> RealNVP:
    torch.manual_seed(dim)
    flow = RealNVP(dim, couplings=couplings, layers=layers, width=width).double()
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=scale)
    return flow


@pytest.mark.parametrize("dim", [2, 3, 4])
@pytest.mark.parametrize("couplings", [1, 6])
def test_log_det_is_that_of_autograds_jacobian(dim: int, couplings: int) -> None:
    flow = random_flow(dim, couplings=couplings)
    x = torch.randn(5, dim, dtype=torch.float64)
    _, log_det = flow.inverse(x)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: flow.inverse(v)[0]))(x)
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], log_det, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dim", [2, 3])
def test_round_trip(dim: int) -> None:
    flow = random_flow(dim)
    z = torch.randn(4, 50, dim, dtype=torch.float64)
    torch.testing.assert_close(flow.inverse(flow(z))[0], z, rtol=0, atol=1e-8)


def test_every_coordinate_is_moved() -> None:
    flow = random_flow(3)
    z = torch.randn(20, 3, dtype=torch.float64)
    assert ((flow(z) - z).abs() > 1e-6).all()


def test_density_integrates_to_one() -> None:
    flow, cells = random_flow(2, scale=0.2), 900
    axis = (torch.arange(cells, dtype=torch.float64) + 0.5) * (40 / cells) - 20
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    with torch.no_grad():
        mass = flow.log_prob(grid).exp().sum() * (40 / cells) ** 2
    assert mass.item() == pytest.approx(1, abs=1e-4)


def test_untrained_flow_is_the_standard_normal() -> None:
    x = torch.randn(10, 3)
    expected = -0.5 * x.square().sum(-1) - 1.5 * math.log(2 * math.pi)
    torch.testing.assert_close(RealNVP(3).log_prob(x), expected)


@pytest.mark.parametrize(
    ("layers", "width", "thousands"), [(3, 64, 53.8), (3, 128, 205.8), (3, 256, 804.8), (5, 32, 40.0), (5, 64, 153.6)]
)
def test_parameter_counts_are_the_papers(layers: int, width: int, thousands: float) -> None:
    count = sum(p.numel() for p in RealNVP(2, layers=layers, width=width).parameters())
    assert count / 1000 == pytest.approx(thousands, abs=0.1)  # the paper truncates some and rounds others


def test_couplings_move_one_half_and_the_other_in_turn() -> None:
    flow = RealNVP()
    assert flow.dim == 3
    assert flow.masks.tolist() == [[False, False, True], [True, True, False]] * 3


def test_hidden_layers_start_like_those_of_torch() -> None:
    """Uniform within +-1 / sqrt(inputs), and the last layer at zero."""
    torch.manual_seed(0)
    for net in RealNVP(3, layers=4, width=256).nets:
        assert isinstance(net, _ScaleAndShift)
        for weight, bias in list(zip(net.weights, net.biases, strict=True))[:-1]:
            for values in (weight.detach(), bias.detach()):
                bound = weight.shape[1] ** -0.5
                assert bool((values.abs() <= bound).all())
                assert float(values.std()) == pytest.approx(bound / 3**0.5, rel=0.15)
                assert float(values.min()) < -0.8 * bound < 0.8 * bound < float(values.max())
        assert not net.weights[-1].any()
        assert not net.biases[-1].any()


def test_flops_are_the_papers() -> None:
    """1.8 MFLOPs for 17 joints, with two operations per multiply-add."""
    with FlopCounterMode(display=False) as counter:
        RealNVP(2).inverse(torch.zeros(17, 2))
    assert counter.get_total_flops() / 1e6 == pytest.approx(1.8, abs=0.05)


def test_samples_have_the_moments_of_the_density() -> None:
    flow = random_flow(2, scale=0.2)
    axis = (torch.arange(600, dtype=torch.float64) + 0.5) * (24 / 600) - 12
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    with torch.no_grad():
        mass = flow.log_prob(grid).exp() * (24 / 600) ** 2
        drawn = flow.sample((200_000,))
    mean = (mass[:, None] * grid).sum(0)
    variance = (mass[:, None] * (grid - mean).square()).sum(0)
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.var(0), variance, rtol=0.05, atol=0)


def test_joined_nets_equal_two_plain_ones() -> None:
    flow = random_flow(3)
    net = flow.nets[0]
    assert isinstance(net, _ScaleAndShift)
    x = torch.randn(7, 3, dtype=torch.float64)

    def plain(index: int) -> Tensor:
        hidden = x
        for i, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
            hidden = F.linear(F.leaky_relu(hidden) if i else hidden, weight[index].T, bias[index, 0])
        return hidden

    scale, shift = net(x)
    torch.testing.assert_close(scale, torch.tanh(plain(0)))
    torch.testing.assert_close(shift, plain(1))


def test_log_prob_is_change_of_variables() -> None:
    flow = random_flow(3)
    x = torch.randn(6, 3, dtype=torch.float64)
    z, log_det = flow.inverse(x)
    expected = -0.5 * (z.square().sum(-1) + 3 * math.log(2 * math.pi)) + log_det
    torch.testing.assert_close(flow.log_prob(x), expected)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_new_flow_is_the_base_and_can_leave_it(dim: int) -> None:
    """The last layer of each coupling is zero, the others are not: otherwise no weight would ever get a gradient."""
    flow, x = RealNVP(dim), torch.randn(64, dim)
    normal = -0.5 * (x.square() + math.log(2 * math.pi)).sum(-1)
    torch.testing.assert_close(flow.log_prob(x), normal)
    flow.log_prob(x).sum().backward()  # type: ignore[no-untyped-call]
    for net in flow.nets:
        assert isinstance(net, _ScaleAndShift)
        *hidden, last = net.weights
        assert not last.any() and all(weight.std() > 0.01 for weight in hidden)
        assert last.grad is not None and last.grad.any()
