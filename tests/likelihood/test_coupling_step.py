"""The fast `RealNVP.log_prob` against its specification, `RealNVP.inverse`: values and every gradient."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lifting.likelihood import coupling_step
from lifting.likelihood.flow import RealNVP, _ScaleAndShift

hessian: Any = torch.autograd.functional.hessian


def random_flow(dim: int, couplings: int, layers: int, width: int = 8, scale: float = 0.4) -> RealNVP:
    torch.manual_seed(dim)
    flow = RealNVP(dim, couplings, layers, width).double()
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=scale)
    return flow


def readable(flow: RealNVP, x: Tensor) -> Tensor:
    z, log_det = flow.inverse(x)
    return log_det - 0.5 * z.square().sum(-1) - 0.5 * flow.dim * math.log(2 * math.pi)


def gradients(values: Tensor, of: Sequence[Tensor]) -> list[Tensor]:
    """Of a sum in which every row has its own weight; zero where a value does not depend on one."""
    weights = torch.linspace(-1, 2, values.numel(), dtype=values.dtype).view(values.shape)
    found = torch.autograd.grad((values * weights).sum(), of, allow_unused=True)
    return [torch.zeros_like(x) if one is None else one for x, one in zip(of, found, strict=True)]


@pytest.fixture(autouse=True)
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Makes chunks of about 7 rows of width 8, and counts the calls of the fast path."""
    monkeypatch.setattr(coupling_step, "CHUNK_BYTES", 7 * 2 * 8 * 8)
    calls: list[int] = []
    fast = coupling_step.log_prob

    def counted(x: Tensor, moved: Sequence[int], layers: Sequence[Tensor]) -> Tensor:
        calls.append(len(x))
        return fast(x, moved, layers)

    monkeypatch.setattr(coupling_step, "log_prob", counted)
    return calls


@pytest.mark.parametrize("dim", [2, 3, 4])
@pytest.mark.parametrize("couplings", [1, 2, 5])
@pytest.mark.parametrize("layers", [2, 3, 4])
def test_values_and_gradients_are_those_of_the_readable_path(
    dim: int, couplings: int, layers: int, taken: list[int]
) -> None:
    flow = random_flow(dim, couplings, layers)
    x = torch.randn(3, 10, dim, dtype=torch.float64, requires_grad=True)
    of = [x, *flow.parameters()]
    found, expected = flow.log_prob(x), readable(flow, x)
    assert taken == [30]  # no multiple of a chunk
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients(found, of), gradients(expected, of), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dim", [2, 3])
def test_gradcheck(dim: int) -> None:
    flow = random_flow(dim, couplings=3, layers=3, width=4)
    x = torch.randn(9, dim, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: flow.log_prob(x), (x, *flow.parameters()))


def test_float32_is_as_exact_as_the_readable_path() -> None:
    exact = random_flow(3, couplings=6, layers=3, width=64, scale=0.1)
    flow = RealNVP(3)
    flow.load_state_dict(exact.state_dict())
    x = torch.randn(200, 3, requires_grad=True)
    exact_x = x.detach().double().requires_grad_()
    expected = gradients(readable(exact, exact_x), [exact_x, *exact.parameters()])
    found = gradients(flow.log_prob(x), [x, *flow.parameters()])
    torch.testing.assert_close([one.double() for one in found], expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(flow.log_prob(x).double(), readable(exact, exact_x), rtol=1e-5, atol=1e-5)


def test_bfloat16_takes_the_readable_path(taken: list[int]) -> None:
    flow, x = RealNVP(3), torch.randn(20, 3)
    with torch.autocast("cpu", torch.bfloat16):
        flow.log_prob(x)
    assert not taken
    flow.log_prob(x)
    assert taken == [20]


def test_an_evaluation_has_the_bits_of_a_training_step(taken: list[int]) -> None:
    flow, x = random_flow(3, couplings=4, layers=3), torch.randn(30, 3, dtype=torch.float64)
    with torch.no_grad():
        without = flow.log_prob(x)
    assert torch.equal(without, flow.log_prob(x).detach())
    assert taken == [30, 30]


def test_no_rows() -> None:
    flow = random_flow(3, couplings=2, layers=3)
    x = torch.zeros(0, 5, 3, dtype=torch.float64, requires_grad=True)
    values = flow.log_prob(x)
    assert values.shape == (0, 5)
    of_x, *others = gradients(values, [x, *flow.parameters()])
    assert of_x.shape == x.shape and not any(one.any() for one in others)


def test_rows_without_a_gradient() -> None:
    flow = random_flow(3, couplings=4, layers=3)
    x = torch.randn(30, 3, dtype=torch.float64)
    of = list(flow.parameters())
    expected = gradients(readable(flow, x), of)
    torch.testing.assert_close(gradients(flow.log_prob(x), of), expected, rtol=1e-9, atol=1e-9)


def test_frozen_parameters() -> None:
    flow = random_flow(3, couplings=4, layers=3)
    x = torch.randn(30, 3, dtype=torch.float64, requires_grad=True)
    expected = gradients(readable(flow, x), [x])
    flow.nets[1].requires_grad_(False)  # a part of the flow, then all of it
    torch.testing.assert_close(gradients(flow.log_prob(x), [x]), expected, rtol=1e-9, atol=1e-9)
    flow.requires_grad_(False)
    torch.testing.assert_close(gradients(flow.log_prob(x), [x]), expected, rtol=1e-9, atol=1e-9)
    entries = [net.weights[0].requires_grad_() for net in flow.nets if isinstance(net, _ScaleAndShift)]
    expected = gradients(readable(flow, x), entries)
    torch.testing.assert_close(gradients(flow.log_prob(x), entries), expected, rtol=1e-9, atol=1e-9)


def test_other_masks_take_the_readable_path(taken: list[int]) -> None:
    """Loaded weights may start with the other half, which is as fast, or keep anything, which is not."""
    flow = random_flow(3, couplings=4, layers=3)
    x = torch.randn(30, 3, dtype=torch.float64)
    flow.masks.logical_not_()
    torch.testing.assert_close(flow.log_prob(x), readable(flow, x), rtol=1e-10, atol=1e-10)
    assert taken == [30]
    flow.masks[0] = torch.tensor([True, False, True])
    torch.testing.assert_close(flow.log_prob(x), readable(flow, x), rtol=0, atol=0)
    assert taken == [30]


def test_a_device_without_values_takes_the_readable_path(taken: list[int]) -> None:
    flow = random_flow(3, couplings=4, layers=3).to("meta")
    assert flow.log_prob(torch.empty(4, 3, dtype=torch.float64, device="meta")).shape == (4,)
    assert not taken


def test_second_derivatives_are_those_of_the_readable_path(taken: list[int]) -> None:
    """They were zero: what the first derivative had kept counted as constant."""
    flow = random_flow(3, couplings=3, layers=3)
    x = torch.randn(2, 3, dtype=torch.float64)
    for row in x:
        found = hessian(lambda v: flow.log_prob(v[None]).sum(), row)
        torch.testing.assert_close(found, hessian(lambda v: readable(flow, v).sum(), row))
        assert found.abs().max() > 0.1
    assert taken
    penalties = []
    for values in (flow.log_prob, lambda rows: readable(flow, rows)):
        rows = x.clone().requires_grad_()
        (of_rows,) = torch.autograd.grad(values(rows).sum(), rows, create_graph=True)
        penalties.append(gradients(of_rows.square().sum(-1), [rows, *flow.parameters()]))
    torch.testing.assert_close(penalties[0], penalties[1])


@pytest.mark.parametrize("dim", [2, 3, 4, 5])
def test_what_is_differentiated_twice_is_the_same_density(dim: int) -> None:
    flow, x = random_flow(dim, 6, 3), torch.randn(50, dim, dtype=torch.float64)
    nets = [net for net in flow.nets if isinstance(net, _ScaleAndShift)]
    layers = [torch.stack(parts) for parts in zip(*(net.layers() for net in nets), strict=True)]
    found = coupling_step._readable(x, flow._moved_halves(x), layers)
    torch.testing.assert_close(found, readable(flow, x))


def test_second_derivatives_of_frozen_parts() -> None:
    flow = random_flow(2, couplings=2, layers=2).requires_grad_(False)
    row = torch.randn(2, dtype=torch.float64)
    found = hessian(lambda v: flow.log_prob(v[None]).sum(), row)
    torch.testing.assert_close(found, hessian(lambda v: readable(flow, v).sum(), row))


def test_function_transforms_take_the_readable_path(taken: list[int]) -> None:
    flow = random_flow(3, couplings=3, layers=3)
    x = torch.randn(6, 3, dtype=torch.float64)
    found = torch.func.vmap(torch.func.grad(lambda row: flow.log_prob(row)))(x)
    assert not taken
    rows = x.clone().requires_grad_()
    torch.testing.assert_close(found, torch.autograd.grad(flow.log_prob(rows).sum(), rows)[0])
