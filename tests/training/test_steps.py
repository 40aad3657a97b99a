"""The parts of a step on their own: order, precision, skipped steps, batch norm's statistics, one or several ranks."""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from threading import Barrier, local
from types import SimpleNamespace
from typing import TypeVar, cast

import pytest
import torch
from torch import Tensor, nn

from lifting.config import RunConfig, TrainConfig
from lifting.prediction import Batch
from lifting.training import norms, ranks, steps
from lifting.training.objective import AnyObjective
from tests.training.test_objective import FixedBatches

D64 = torch.float64
Result = TypeVar("Result")


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


class Meeting:
    """What `torch.distributed` does for two ranks, which are threads of this process here."""

    def __init__(self) -> None:
        self.barrier, self.brought, self.messages = Barrier(2, timeout=20), dict[int, Tensor](), 0
        self.rank = local()

    def all_gather(self, parts: list[Tensor], ours: Tensor) -> None:
        for part, brought in zip(parts, self._meet(ours), strict=True):
            part.copy_(brought)

    def all_reduce(self, values: Tensor) -> None:
        values.copy_(torch.stack(self._meet(values)).sum(0))

    def _meet(self, ours: Tensor) -> list[Tensor]:
        self.brought[self.rank.number] = ours.clone()
        self.barrier.wait()
        both = [self.brought[number] for number in (0, 1)]
        self.messages += 1 - self.rank.number
        self.barrier.wait()
        return both

    def run(self, work: Callable[[int], Result]) -> list[Result]:
        """The results of ``work(0)`` and ``work(1)``, at the same time."""

        def of_rank(number: int) -> Result:
            self.rank.number = number
            return work(number)

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(of_rank, (0, 1)))


@pytest.mark.parametrize("shapes", [[(6, 3), (4, 3)], [(4, 3, 5), (1, 3, 5)], [(2, 3, 4, 2), (3, 3, 4, 2)]])
@pytest.mark.parametrize(("affine", "momentum"), [(True, 0.1), (False, None)])
def test_batch_norm_over_two_ranks_is_that_of_both_batches(
    shapes: list[tuple[int, ...]], affine: bool, momentum: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With batches of other sizes, means and spreads, forward and backward, and with one message in each direction."""
    kind = nn.BatchNorm2d if len(shapes[0]) == 4 else nn.BatchNorm1d
    plain = kind(3, 1e-3, momentum, affine).to(D64)
    plain.running_mean = torch.rand(3, dtype=D64)
    if affine:
        nn.init.normal_(plain.weight), nn.init.normal_(plain.bias)
    start = copy.deepcopy(plain.state_dict())
    xs = [(number + 1) * (torch.randn(shape, dtype=D64) + 3 * number) for number, shape in enumerate(shapes)]
    directions = [torch.randn(shape, dtype=D64) for shape in shapes]
    whole = torch.cat(xs).requires_grad_()
    made = plain(whole)
    (torch.cat(directions) * made).sum().backward()
    assert whole.grad is not None

    nets = []
    for _ in xs:
        net = nn.Sequential(nn.Sequential(kind(3, 1e-3, momentum, affine)))
        net.get_submodule("0.0").load_state_dict(start)
        norms.over_all_ranks(net)
        norm = net.get_submodule("0.0")
        assert isinstance(norm, norms.RankNorm)
        norms.over_all_ranks(net)
        assert net.get_submodule("0.0") is norm
        nets.append(norm)
    meeting = Meeting()
    monkeypatch.setattr(ranks, "world", lambda: 2)
    monkeypatch.setattr(norms, "dist", meeting)
    ones = [x.float().requires_grad_() for x in xs]
    found = meeting.run(lambda number: nets[number](ones[number]))
    assert meeting.messages == 1
    meeting.run(lambda number: (directions[number].float() * found[number]).sum().backward())
    assert meeting.messages == 2
    torch.testing.assert_close(torch.cat(found).double(), made, atol=1e-5, rtol=1e-5)
    grads = [one.grad for one in ones if one.grad is not None]
    torch.testing.assert_close(torch.cat(grads).double(), whole.grad, atol=1e-5, rtol=1e-4)
    for name, weight in plain.named_parameters():
        halves = [norm.get_parameter(name).grad for norm in nets]
        assert halves[0] is not None and halves[1] is not None
        torch.testing.assert_close((halves[0] + halves[1]).double(), weight.grad, atol=1e-4, rtol=1e-4)
    for norm in nets:
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            expected = getattr(plain, name)
            torch.testing.assert_close(getattr(norm, name), expected, atol=1e-5, rtol=1e-5, check_dtype=False)
    nets[0].eval(), plain.eval()
    torch.testing.assert_close(nets[0](ones[0]).double(), plain(xs[0]), atol=1e-5, rtol=1e-5)


def test_batch_norm_over_ranks_does_without_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    norm, x = norms.RankNorm(3, track_running_stats=False), torch.randn(5, 3)
    alone = norm(x)
    monkeypatch.setattr(ranks, "world", lambda: 2)
    meeting = Meeting()
    monkeypatch.setattr(norms, "dist", meeting)
    for found in meeting.run(lambda _: norm(x)):
        torch.testing.assert_close(found, alone)
