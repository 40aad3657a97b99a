"""The parts of a step on their own: order, precision, skipped steps, batch norm's statistics, one or several ranks."""

from itertools import product
from types import SimpleNamespace
from typing import cast

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lifting.config import RunConfig, TrainConfig
from lifting.prediction import Batch
from lifting.training import norms, ranks, steps
from lifting.training.objective import AnyObjective
from tests.training.test_objective import FixedBatches

D64 = torch.float64


def test_every_epoch_of_every_seed_has_an_order_of_its_own() -> None:
    configs = [cast(RunConfig, SimpleNamespace(seed=seed)) for seed in range(4)]
    seeds = [steps.order_seed(config, epoch) for config, epoch in product(configs, range(200))]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("has_units", [True, False])
def test_precision(has_units: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "has_bf16_units", lambda _: has_units)
    for precision, expected in (("fp32", False), ("bf16", True), ("auto", has_units)):
        with steps.autocast(torch.device("cpu"), precision):
            assert torch.is_autocast_enabled("cpu") == expected, precision


@pytest.mark.parametrize("hurt", [torch.nan, torch.inf])
def test_a_step_whose_loss_alone_is_not_finite_changes_nothing(hurt: float) -> None:
    """Its gradient is finite, and so is the median sigma."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.added = nn.Linear(2, 1), 0.0

        def forward(self, _: Batch) -> tuple[Tensor, Tensor]:
            return self.layer.weight.sum() + self.added, torch.tensor(0.1)

    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    batch = Batch(torch.zeros(1), torch.zeros(1))
    before = model.layer.weight.clone()
    steps.training_step(model, batch, optimizer, TrainConfig())
    assert not torch.equal(model.layer.weight, before)
    before, model.added = model.layer.weight.clone(), hurt
    found = steps.training_step(model, batch, optimizer, TrainConfig())
    assert found.isfinite().tolist() == [False, True, True]
    assert torch.equal(model.layer.weight, before)


def test_statistics_are_plain_means_over_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    norm, bare = nn.BatchNorm1d(3, momentum=0.02), nn.BatchNorm1d(3, track_running_stats=False)
    norm(torch.randn(8, 3))  # running means of earlier weights
    objective = nn.Sequential(norm, bare)
    objective.outputs = objective.forward  # type: ignore[assignment]
    batches = [Batch(torch.randn(8, 3) + seed, torch.zeros(8)) for seed in range(5)]
    averaged: list[Tensor] = []
    monkeypatch.setattr(ranks, "average", averaged.append)
    config = cast(RunConfig, SimpleNamespace(seed=0, train=TrainConfig(bn_batches=3, precision="fp32")))
    steps.take_statistics(cast(AnyObjective, objective), FixedBatches(batches), config, 0)
    assert norm.running_mean is not None and norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, torch.stack([b.input.mean(0) for b in batches[:3]]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([b.input.var(0) for b in batches[:3]]).mean(0))
    assert norm.momentum == 0.02
    assert [id(statistic) for statistic in averaged] == [id(norm.running_mean), id(norm.running_var)]


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (2, 3, 4, 2)])
@pytest.mark.parametrize(("affine", "momentum"), [(True, 0.1), (False, None)])
def test_batch_norm_over_two_ranks_is_that_of_both_batches(
    shape: tuple[int, ...], affine: bool, momentum: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two ranks with the same batch, for which a sum over the ranks is twice that of one."""
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    plain = kind(3, 1e-3, momentum, affine).to(D64)
    plain.running_mean = torch.rand(3, dtype=D64)
    if affine:
        nn.init.normal_(plain.weight), nn.init.normal_(plain.bias)
    other = nn.Sequential(nn.Sequential(kind(3, 1e-3, momentum, affine)))
    other.get_submodule("0.0").load_state_dict(plain.state_dict())
    norms.over_all_ranks(other)
    norm = other.get_submodule("0.0")
    assert isinstance(norm, norms.RankNorm)
    norms.over_all_ranks(other)
    assert other.get_submodule("0.0") is norm

    x, direction = torch.randn(shape, dtype=D64), torch.randn(shape, dtype=D64)
    both, one = x.clone().requires_grad_(), x.float().requires_grad_()
    made = plain(torch.cat([both, both.detach()]))
    (torch.cat([direction, direction]) * made).sum().backward()
    monkeypatch.setattr(ranks, "world", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda values: values.mul_(2))
    found = norm(one)
    (direction.float() * found).sum().backward()
    torch.testing.assert_close(found.double(), made[: len(x)], atol=1e-5, rtol=1e-5)
    assert both.grad is not None and one.grad is not None
    torch.testing.assert_close(one.grad.double(), both.grad, atol=1e-5, rtol=1e-4)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(getattr(norm, name), getattr(plain, name), atol=1e-5, rtol=1e-5, check_dtype=False)
    norm.eval(), plain.eval()
    torch.testing.assert_close(norm(one).double(), plain(x), atol=1e-5, rtol=1e-5)


def test_batch_norm_over_ranks_does_without_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    norm, x = norms.RankNorm(3, track_running_stats=False), torch.randn(5, 3)
    alone = norm(x)
    monkeypatch.setattr(ranks, "world", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda values: values.mul_(2))
    torch.testing.assert_close(norm(x), alone)
