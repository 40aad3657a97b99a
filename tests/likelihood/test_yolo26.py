"""The RLE term of YOLO26-pose, restated from its public source (docs/yolo26_rle.md), beside our likelihoods."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifting.likelihood import RLE, ReferenceRLE
from lifting.likelihood.flow import Density
from lifting.likelihood.unit_densities import draw_laplace, log_laplace
from lifting.prediction import Prediction

D64 = torch.float64
WEIGHTS = torch.tensor([1.0] * 7 + [1.2, 1.2, 1.5, 1.5, 1.0, 1.0, 1.2, 1.2, 1.5, 1.5], dtype=D64)  # of COCO's joints


class YoloFlow(Density):
    """Six couplings with SiLU in their nets, where RealNVP has LeakyReLU."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        kinds = [(2, 64), (64, 64), (64, 2)]
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(o, i, dtype=D64) / i**0.5) for _ in range(12) for i, o in kinds
        )
        self.biases = nn.ParameterList(
            nn.Parameter(0.3 * torch.randn(o, dtype=D64)) for _ in range(12) for _, o in kinds
        )

    def net(self, which: int, x: Tensor) -> Tensor:
        for i in range(3 * which, 3 * which + 3):
            x = F.linear(x, self.weights[i], self.biases[i])
            x = x * torch.sigmoid(x) if i % 3 < 2 else x
        return x

    def log_prob(self, x: Tensor) -> Tensor:
        log_det = x.new_zeros(x.shape[:-1])
        for k in reversed(range(6)):
            kept, moved = (x[..., 1], x[..., 0]) if k % 2 == 0 else (x[..., 0], x[..., 1])
            seen = torch.stack([torch.zeros_like(kept), kept] if k % 2 == 0 else [kept, torch.zeros_like(kept)], -1)
            scale, shift = torch.tanh(self.net(k, seen))[..., k % 2], self.net(6 + k, seen)[..., k % 2]
            moved = (moved - shift) * torch.exp(-scale)
            x = torch.stack([moved, kept] if k % 2 == 0 else [kept, moved], -1)
            log_det = log_det - scale
        return log_det - 0.5 * x.square().sum(-1) - math.log(2 * math.pi)

    def sample(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(*shape, 2, dtype=D64)  # for the check of shapes alone


def yolo_loss(flow: Density, mu: Tensor, raw_sigma: Tensor, target: Tensor, visible: Tensor) -> Tensor:
    """A scalar, before it is clamped: mu, target (N, 17, 2) in cells of the grid, visible (N, 17) bool."""
    weight = WEIGHTS.expand(visible.shape)[visible][:, None]
    sigma = raw_sigma[visible].sigmoid()
    error = ((mu - target)[visible] / (sigma + 1e-9)).clamp(-100, 100)
    loss = sigma.log() - flow.log_prob(error)[:, None] + (2 * sigma).log() + error.abs()
    return (loss * weight / len(loss)).sum()


def example(people: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    mu, target = 20 * torch.rand(people, 17, 2, dtype=D64), torch.zeros(people, 17, 2, dtype=D64)
    raw_sigma = torch.randn(people, 17, 2, dtype=D64)
    target = mu + raw_sigma.sigmoid() * torch.randn(people, 17, 2, dtype=D64)
    return mu.requires_grad_(), raw_sigma.requires_grad_(), target, torch.rand(people, 17) < 0.7


def ours(flow: Density, mu: Tensor, raw_sigma: Tensor, target: Tensor, visible: Tensor) -> Tensor:
    """The same by `ReferenceRLE`, whose weights are at most 1."""
    likelihood = ReferenceRLE(2, flow, form="mmpose")
    prediction = Prediction(mu, F.logsigmoid(raw_sigma))
    nll: Tensor = likelihood(prediction, target, visible * WEIGHTS / WEIGHTS.max())
    return nll.sum() * WEIGHTS.max() / visible.sum()


def test_our_mmpose_form_is_yolos_loss() -> None:
    flow, (mu, raw_sigma, target, visible) = YoloFlow(), example()
    theirs, found = yolo_loss(flow, mu, raw_sigma, target, visible), ours(flow, mu, raw_sigma, target, visible)
    torch.testing.assert_close(found, theirs, rtol=1e-7, atol=0)  # sigma + 1e-9 in theirs
    weights = [mu, raw_sigma, *flow.parameters()]
    for a, b in zip(torch.autograd.grad(found, weights), torch.autograd.grad(theirs, weights), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_it_is_not_the_authors_form() -> None:
    """By a Laplace density of another scale, and by a constant."""
    flow, (mu, raw_sigma, target, _) = YoloFlow(), example()
    prediction = Prediction(mu, F.logsigmoid(raw_sigma))
    authors, mmpose = (ReferenceRLE(2, flow, form)(prediction, target) for form in ("authors", "mmpose"))
    length = ((mu - target) / raw_sigma.sigmoid()).abs().sum(-1)
    constant = 2 * math.log(2) - math.log(2 * math.pi)
    torch.testing.assert_close(mmpose - authors, length * (1 - 1 / math.sqrt(2)) + constant)
    with pytest.raises(ValueError, match="form: expected one of authors, mmpose, got 'yolo'"):
        ReferenceRLE(2, flow, "yolo")


class Mirrored(Density):
    def __init__(self, flow: Density) -> None:
        super().__init__()
        self.flow = flow

    def log_prob(self, x: Tensor) -> Tensor:
        return self.flow.log_prob(-x)

    def sample(self, shape: tuple[int, ...]) -> Tensor:
        return -self.flow.sample(shape)


def test_it_is_twice_equation_8_and_log_q() -> None:
    flow, (mu, raw_sigma, target, _) = YoloFlow(), example()
    prediction = Prediction(mu, F.logsigmoid(raw_sigma))
    paper = RLE.paper(2, Mirrored(flow))(prediction, target)
    log_q = log_laplace((mu - target) / raw_sigma.sigmoid())
    torch.testing.assert_close(ReferenceRLE(2, flow, "mmpose")(prediction, target), 2 * paper + log_q)


def test_a_far_joint_is_held_at_100_sigma() -> None:
    """Theirs then has no gradient for mu; ours has no such limit."""
    flow, (mu, raw_sigma, target, visible) = YoloFlow(), example()
    with torch.no_grad():
        target[0, 0] = mu[0, 0] - 250 * raw_sigma[0, 0].sigmoid()
        held = target.clone()
        held[0, 0] = mu[0, 0] - 100 * raw_sigma[0, 0].sigmoid()
    visible[0, 0] = True
    theirs = yolo_loss(flow, mu, raw_sigma, target, visible)
    torch.testing.assert_close(theirs, ours(flow, mu, raw_sigma, held, visible), rtol=1e-6, atol=0)
    assert (torch.autograd.grad(theirs, mu)[0][0, 0] == 0).all()
    assert (torch.autograd.grad(ours(flow, mu, raw_sigma, target, visible), mu)[0][0, 0] != 0).all()


class Fixed(Density):
    """A Laplace density of given scale, with a parameter that `ReferenceRLE` needs to know dtype and device."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale, dtype=D64))

    def log_prob(self, x: Tensor) -> Tensor:
        return log_laplace(x / self.scale) - 2 * self.scale.log()

    def sample(self, shape: tuple[int, ...]) -> Tensor:
        return self.scale.detach() * draw_laplace((*shape, 2), self.scale.detach())


def test_where_it_turns_negative() -> None:
    """At no error and with an untrained flow, N(0, I), where sigma is below (4 pi)^(-1/2) cells."""
    new = YoloFlow()
    for parameter in new.parameters():
        nn.init.zeros_(parameter)
    mu, visible = torch.zeros(1, 17, 2, dtype=D64), torch.ones(1, 17, dtype=torch.bool)
    for factor, negative in ((0.999, True), (1.001, False)):
        sigma = torch.full_like(mu, factor * (4 * math.pi) ** -0.5)
        assert (yolo_loss(new, mu, sigma.logit(), mu, visible) < 0) == negative
    following = [2 * math.log(2) + 2 * b + 4 * (1 + math.log(2 * b)) for b in (0.120, 0.124)]  # see below; sigma 1
    assert following[0] < 0 < following[1]


def test_clamping_a_negative_loss_stops_all_learning() -> None:
    flow, (mu, _, target, visible) = YoloFlow(), example()
    raw_sigma = torch.full_like(mu, -9.0).requires_grad_()
    target = mu.detach() + 1e-6 * (target - mu.detach())
    loss = yolo_loss(flow, mu, raw_sigma, target, visible)
    assert loss < -10
    weights = [mu, raw_sigma, *flow.parameters()]
    assert any((g != 0).any() for g in torch.autograd.grad(loss, weights, retain_graph=True))
    assert all((g == 0).all() for g in torch.autograd.grad(loss.clamp(min=0), weights))


@pytest.mark.parametrize("form", ["yolo", "equation 8 with log s"])
def test_a_flow_that_follows_sigma_leaves_it_to_q(form: str) -> None:
    """If G is the density of x_bar, log sigma cancels, and |x_bar| alone pushes sigma to its ceiling.

    A density on x does not prefer one sigma: Q G times s, with G the density over Q, is the same for all of them.
    """
    b, mean = 0.05, {}
    torch.manual_seed(3)
    error = b * draw_laplace((20_000, 1, 2), torch.zeros((), dtype=D64))
    for sigma in (0.3, 0.9):
        prediction = Prediction(torch.zeros_like(error), torch.full_like(error, sigma).log())
        if form == "yolo":
            nll = ReferenceRLE(2, Fixed(b / sigma), "mmpose")(prediction, error)
        else:
            scale = 1 / (sigma / b - 1)  # exp(-|x_bar|) G(x_bar) has the scale b / sigma
            nll = -RLE(2, "laplace", flow=Fixed(scale)).log_prob(prediction, error)
        mean[sigma] = float(nll.detach().mean())
    gap = 2 * float(error.abs().mean()) * (1 / 0.3 - 1 / 0.9) if form == "yolo" else 0.0
    assert mean[0.3] - mean[0.9] == pytest.approx(gap, abs=0.01)
    entropy = 2 * (1 + math.log(2 * b))  # of the error
    expected = 2 * math.log(2) + 2 * b / 0.3 + 2 * entropy if form == "yolo" else entropy
    assert mean[0.3] == pytest.approx(expected, abs=0.05)


def test_the_mmpose_form_is_normalised_as_a_unit_density() -> None:
    axis = (torch.arange(400, dtype=D64) + 0.5) / 20 - 10
    x = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    likelihood = ReferenceRLE(2, Mirrored(Fixed(0.5)), "mmpose")
    with torch.no_grad():
        assert float(likelihood.log_unit(x).exp().sum() / 400) == pytest.approx(1, abs=0.02)
