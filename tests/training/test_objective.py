"""A training step never waits for the device, and gives the same gradient however the labels are spread over ranks."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from lifting.config import ImageTrainConfig, SingleStageConfig, TrainConfig
from lifting.datasets.pose_batches import PoseBatches
from lifting.datasets.poses import PoseSet, Scene
from lifting.geometry import h36m
from lifting.geometry.joint_maps import flip
from lifting.geometry.skeleton import H36M17
from lifting.geometry.views import Views
from lifting.likelihood import DLE, RLE, BasicFlow, ConstantVariance, Likelihood, Mixed, ReferenceRLE
from lifting.likelihood.flow import RealNVP
from lifting.models.fc import FCBaseline
from lifting.models.regressor import Regressor
from lifting.models.srnet import SRNet
from lifting.prediction import Batch
from lifting.training import objective as objective_module
from lifting.training import ranks
from lifting.training.evaluation import mean_of_mirrored, predict
from lifting.training.objective import AnyObjective, ImageObjective, Objective
from lifting.training.steps import take_statistics, training_step


def poses(n: int = 8) -> PoseSet:
    views = Views.of([h36m.cameras("S1")["54138969"]])
    scene = Scene(torch.tensor([[0.0, 0, 5]]).expand(n, 3), torch.zeros(n, dtype=torch.long), views)
    return PoseSet(torch.randn(n, 17, 2), 0.3 * torch.randn(n, 17, 3), torch.full((n, 1, 1), 0.002),
                   torch.zeros(n, dtype=torch.long), ["Walking"], [], H36M17, 1, scene)  # fmt: skip


def image_batch(n: int = 4, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 3, 64, 64), dtype=torch.uint8, generator=generator)
    target = 0.2 * torch.randn(n, 18, 3, generator=generator)
    weight = (torch.rand(n, 18, generator=generator) > 0.3).float()
    return Batch(images, target, weight, torch.rand(n, 18, generator=generator) > 0.5)


def small_rle(dim: int) -> RLE:
    """With a flow of two couplings, each of which takes a compiler a second."""
    return RLE(dim, flow=RealNVP(dim, couplings=2))


def image_objective(heatmap: float = 0.0) -> ImageObjective:
    return ImageObjective(Regressor("resnet18", 8, heatmaps=heatmap > 0), Mixed(small_rle(3), small_rle(2)), heatmap)


LIFTERS: dict[str, Callable[[], Objective]] = {
    "fc rle": lambda: Objective(FCBaseline(width=32), small_rle(3)),
    "fc rle, the paper's": lambda: Objective(FCBaseline(width=32), RLE.paper()),
    "fc dle": lambda: Objective(FCBaseline(width=32), DLE()),
    "fc flow": lambda: Objective(FCBaseline(width=32), BasicFlow()),
    "fc rle_reference": lambda: Objective(FCBaseline(width=32), ReferenceRLE()),
    "fc radial": lambda: Objective(FCBaseline(width=32), Likelihood()),
    "fc l1": lambda: Objective(FCBaseline(width=32, with_sigma=False), ConstantVariance("l1")),
    "srnet rle": lambda: Objective(SRNet(width=64, dropout=0.1), small_rle(3)),
}


@pytest.mark.parametrize("name", ["fc rle", "srnet rle", "image and heatmaps"])
def test_a_step_is_one_graph(name: str) -> None:
    """`torch.compile` sees the whole step as one graph: nothing in it depends on the value of a tensor."""
    if name in LIFTERS:
        batches = PoseBatches(poses(), 8, flip=True)
        objective: AnyObjective = LIFTERS[name]()
        batch = next(batches.epoch(0))
    else:
        objective, batch = image_objective(float(name == "image and heatmaps")), image_batch()
    torch._dynamo.reset()
    found = torch._dynamo.explain(objective)(batch)
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


class NothingCrosses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses every operation with tensors of both host and device: the host would wait for the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_flatten((args, kwargs, made))[0] if isinstance(x, Tensor)]
        devices = {x.device.type for x in tensors if x.ndim or func is torch.ops.aten._to_copy.default}
        assert len(devices) < 2, f"{func} takes tensors of {devices}"
        return made


def crossing_refused() -> NothingCrosses:
    return NothingCrosses()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", [*LIFTERS, "image", "image and heatmaps"])
def test_a_step_never_waits_for_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the meta device have no values, so reading one fails. From batch to optimiser, nothing does."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # the meta device has no autocast
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)
    meta = torch.device("meta")
    if name in LIFTERS:
        objective: AnyObjective = LIFTERS[name]().to(meta)
        batches = PoseBatches(poses().to(meta), 8, flip=True, noise_px=5)
        rows = torch.arange(8, device=meta)
        train = TrainConfig()
        batch_of: Callable[[], Batch] = lambda: batches._batch(rows)  # noqa: E731
    else:
        objective = image_objective(float(name == "image and heatmaps")).to(meta)
        batch = image_batch()
        assert batch.weight is not None and batch.has_depth is not None
        batch = Batch(*(x.to(meta) for x in (batch.input, batch.target, batch.weight, batch.has_depth)))
        train = ImageTrainConfig()
        batch_of = lambda: batch  # noqa: E731
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
    training_step(objective, batch_of(), optimizer, train)  # the first step may check or cache something once
    with crossing_refused():
        training_step(objective, batch_of(), optimizer, train)


def test_transfers_between_host_and_device_are_noticed() -> None:
    x = torch.zeros(3, device="meta")
    with crossing_refused(), pytest.raises(AssertionError, match="takes tensors of"):
        x[torch.tensor([0, 2])]
    with crossing_refused(), pytest.raises(AssertionError, match="takes tensors of"):
        torch.tensor(1.0).to("meta")
    with crossing_refused(), pytest.raises(RuntimeError, match="item"):
        float(x.sum())


def gradients(objective: nn.Module, batch: Batch) -> list[Tensor]:
    objective.zero_grad()
    loss, _ = objective(batch)
    loss.backward()
    return [p.grad.clone() for p in objective.parameters() if p.grad is not None]


@pytest.mark.parametrize("heatmap", [0.0, 1.0])
def test_ranks_with_few_and_many_labels_give_the_gradient_over_all_labels(
    heatmap: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DDP averages gradients: the mean of a rank with 3 labels and one with 30 has to be the gradient over all 33."""
    torch.manual_seed(0)
    likelihood = Mixed(ConstantVariance("l1", 3), ConstantVariance("l1", 2))
    network = Regressor("resnet18", 8, with_sigma=False, heatmaps=heatmap > 0)
    objective = ImageObjective(network, likelihood, heatmap).double().eval()  # eval: ranks do not share batch norm
    whole = image_batch(4)
    assert whole.weight is not None and whole.has_depth is not None
    whole.weight[:2] = 0
    whole.weight[0, :3] = 1
    parts = [
        Batch(whole.input[half], whole.target[half].double(), whole.weight[half].double(), whole.has_depth[half])
        for half in (slice(0, 2), slice(2, 4))
    ]
    together = Batch(whole.input, whole.target.double(), whole.weight.double(), whole.has_depth)
    expected = gradients(objective, together)
    counted: list[list[Tensor]] = []
    for part in parts:  # first collect the counts, which the ranks would exchange
        counts: list[Tensor] = []
        monkeypatch.setattr(ranks, "average", lambda values, counts=counts: counts.append(values.clone()))
        gradients(objective, part)
        counted.append(counts)
    means = [torch.stack(pair).mean(0) for pair in zip(*counted, strict=True)]
    found = []
    for part in parts:
        left = iter(means)
        monkeypatch.setattr(ranks, "average", lambda values, left=left: values.copy_(next(left)))
        found.append(gradients(objective, part))
    for one, other, both in zip(*found, expected, strict=True):
        torch.testing.assert_close((one + other) / 2, both)


class FixedBatches:
    """The same batches in every epoch."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, seed: int, start: int = 0) -> Iterator[Batch]:
        yield from self.batches


def test_every_part_of_the_network_gets_batch_norm_statistics() -> None:
    """So does the auxiliary heatmap head, which only training uses: from the same batches as the rest."""
    objective, batches = image_objective(1.0), [image_batch(seed=seed) for seed in range(3)]
    config = SingleStageConfig(train=ImageTrainConfig(bn_batches=3, precision="fp32"))
    take_statistics(objective, FixedBatches(batches), config, 0)
    norms = {name: m for name, m in objective.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert any("heatmap_head" in name for name in norms)
    for name, norm in norms.items():
        assert norm.num_batches_tracked == 3, name
        assert norm.running_var is not None and (norm.running_var != 1).any(), name


def test_joints_of_weight_zero_have_no_part_in_the_loss() -> None:
    torch.manual_seed(0)
    objective = Objective(FCBaseline(width=16, blocks=1, dropout=0), ConstantVariance("l2")).eval()
    keypoints, target = torch.randn(6, 17, 2), torch.randn(6, 17, 3)
    half = objective(Batch(keypoints[:3], target[:3]))[0]
    weight = torch.ones(6, 17)
    weight[3:] = 0
    target[3:] = torch.nan
    torch.testing.assert_close(objective(Batch(keypoints, target, weight))[0], half)
    assert objective(Batch(keypoints[:3], target[:3], torch.ones(3, 17)))[0] == half


@pytest.mark.parametrize("dims", [2, 3])
def test_pictures_without_weights_have_all_labels(dims: int) -> None:
    torch.manual_seed(0)
    likelihood = Mixed(ConstantVariance("l1", 3), ConstantVariance("l1", 2)) if dims == 3 else ConstantVariance("l1", 2)
    objective = ImageObjective(Regressor("resnet18", 8, with_sigma=False, dims=dims), likelihood).eval()
    batch = image_batch()
    ones = torch.ones(batch.target.shape[:-1])
    every = Batch(batch.input, batch.target, ones, ones.bool())
    assert objective(Batch(batch.input, batch.target))[0] == objective(every)[0]


def test_the_mean_is_over_the_weights_and_zero_without_labels() -> None:
    losses = torch.tensor([[1.0, 3.0]])
    assert objective_module._mean(losses * 0.25, torch.full((1, 2), 0.25)) == 2
    assert objective_module._mean(losses * 0, torch.zeros(1, 2)) == 0


def test_a_prediction_in_bfloat16_goes_through_the_flow_in_float32() -> None:
    objective = ImageObjective(Regressor("resnet18", 8, dims=2), BasicFlow(2)).eval()
    images, has_depth = image_batch().input, torch.zeros(18, dtype=torch.bool)
    for weight in objective.likelihood.parameters():
        nn.init.normal_(weight, std=0.2)  # a new flow is the identity
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, straight = objective.predict(images, has_depth), objective.network(images)
    assert isinstance(objective.likelihood, BasicFlow)
    with torch.no_grad():
        torch.testing.assert_close(found.mu, objective.likelihood.point(straight).mu, rtol=0, atol=0)


def test_a_pose_may_be_predicted_together_with_its_mirror_image() -> None:
    torch.manual_seed(0)
    objective, some = LIFTERS["fc rle"](), poses(8)
    straight, both = (predict(objective, some, flip_test=flip_test) for flip_test in (False, True))
    expected = mean_of_mirrored(straight, objective.predict(flip(some.keypoints, H36M17)), H36M17)
    torch.testing.assert_close(both.mu, expected.mu)
    assert not both.mu.requires_grad
    assert not torch.allclose(both.mu, straight.mu)


def test_what_an_objective_is() -> None:
    lifter = LIFTERS["fc rle"]()
    assert not [key for key in lifter.state_dict() if not key.startswith(("network", "likelihood"))]
    assert lifter.likelihood.pooled is ranks.pooled
    with pytest.raises(ValueError, match="joint_set: expected 18 joints, as the network has, got 17"):
        Objective(FCBaseline(width=8, joints=18), RLE())
    deep, flat = image_objective(0.0), ImageObjective(Regressor("resnet18", 8, dims=2), RLE(2))
    assert (deep.dims, deep.has_sigma, deep.has_peaks) == (3, True, False)
    assert (flat.dims, flat.has_sigma, flat.has_peaks) == (2, True, False)
    assert isinstance(deep.density, Likelihood) and deep.density.dim == 3
    assert isinstance(deep.likelihood, Mixed)
    assert deep.likelihood.with_depth.pooled is ranks.pooled and deep.likelihood.without_depth.pooled is ranks.pooled
    without = ImageObjective(Regressor("resnet18", 8, dims=2, with_sigma=False), None)
    assert (without.dims, without.has_sigma, without.has_peaks, without.density) == (2, False, True, None)
