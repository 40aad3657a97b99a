"""What a device can break: results beside those of the CPU, in float64 or in the precision that the device has."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lifting import chosen_pictures, lifter
from lifting.checkpoint import load_checkpoint, save_checkpoint
from lifting.config import LossConfig
from lifting.datasets.image_batches import ImageBatches
from lifting.datasets.pose_batches import PoseBatches
from lifting.datasets.poses import PoseSet, load_split
from lifting.likelihood import RLE, Likelihood, Mixed, build_likelihood
from lifting.likelihood.flow import RealNVP
from lifting.likelihood.unit_densities import fixed_draws
from lifting.metrics.pose_errors import joint_errors
from lifting.models.fc import Dropout
from lifting.models.regressor import Regressor
from lifting.prediction import Batch, Prediction
from lifting.training.adam import Adam
from lifting.training.engine import stepping
from lifting.training.evaluation import evaluate_poses, predict
from lifting.training.progress import Progress, resume, state_of
from lifting.training.recorded import RecordedStep
from lifting.training.steps import training_step
from tests.benchmarks.bench_feeding import endless
from tests.gpu.conftest import DEVICES
from tests.gpu.setting import NETWORKS, Setting, made

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
LOSSES = ["rle", "dle", "flow", "rle_reference", "laplace", "gaussian", "radial", "l1", "l2", "mpjpe"]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-3}


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found.double().cpu(), expected.double().cpu(), rtol=tolerance, atol=tolerance)


# -- the likelihood ---------------------------------------------------------------------------------------------------


def likelihood_of(name: str) -> Likelihood:
    """Float64, its flow far from the one that a new likelihood has."""
    flow = {"width": 16, "couplings": 2}
    likelihood = build_likelihood(LossConfig.model_validate({"name": name, "normalise": False, "flow": flow}))
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return likelihood.double()


def prediction_of(likelihood: Likelihood, device: torch.device, dtype: torch.dtype) -> tuple[Prediction, Tensor]:
    """A prediction of five poses that asks for gradients, and targets near it; the same for every device."""
    generator = torch.Generator().manual_seed(1)
    mu, target, log_sigma = (torch.randn(5, 4, 3, dtype=torch.float64, generator=generator) for _ in range(3))
    mu, target, log_sigma = (x.to(device, dtype) for x in (mu, mu + 0.3 * target, 0.3 * log_sigma - 2))
    sigma = log_sigma.requires_grad_() if likelihood.has_sigma else None
    return Prediction(mu.requires_grad_(), sigma), target


def parts_of(likelihood: Likelihood, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Everything of a likelihood that no draw changes: the loss, its gradients, the normalised density, mu at test."""
    likelihood = copy.deepcopy(likelihood).to(device, dtype)
    prediction, target = prediction_of(likelihood, device, dtype)
    loss = likelihood(prediction, target)
    loss.sum().backward()
    leaves = {"mu": prediction.mu, "log_sigma": prediction.log_sigma, **dict(likelihood.named_parameters())}
    found = {f"gradient of {name}": x.grad for name, x in leaves.items() if x is not None and x.grad is not None}
    with torch.no_grad():
        point, log_prob = likelihood.point(prediction), likelihood.log_prob(prediction, target)
    found |= {"loss": loss.detach(), "point": point.mu, "log_prob": log_prob}
    assert all(x.device == device and x.dtype == dtype for x in found.values())
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_likelihood_is_the_same_density(name: str, dtype: torch.dtype, device: torch.device) -> None:
    torch.manual_seed(0)
    likelihood = likelihood_of(name)
    found, expected = parts_of(likelihood, device, dtype), parts_of(likelihood, CPU, torch.float64)
    assert found.keys() == expected.keys()
    for part, value in expected.items():
        scale = value.detach().abs().max().clamp(min=1).item()
        close(found[part] / scale, value / scale, TOLERANCE[dtype])


@pytest.mark.parametrize("name", ["rle", "dle", "flow", "laplace"])
def test_draws_have_the_deviation_of_the_density(name: str, device: torch.device) -> None:
    torch.manual_seed(0)
    likelihood = likelihood_of(name)
    moved = copy.deepcopy(likelihood).to(device)
    with torch.no_grad():
        prediction, _ = prediction_of(moved, device, torch.float64)
        drawn, deviation = moved.sample(prediction, 4000), moved.deviation(prediction, 2**13)
        expected = likelihood.deviation(prediction_of(likelihood, CPU, torch.float64)[0], 2**13)
    assert drawn.device == deviation.device == device
    assert drawn.shape == (4000, *prediction.mu.shape)
    root_mean_square = (drawn - drawn.mean(0)).square().mean(0).sqrt()
    torch.testing.assert_close(root_mean_square, deviation, rtol=0.15, atol=0)
    torch.testing.assert_close(deviation.cpu(), expected, rtol=0.05, atol=0)


def test_labels_with_and_without_depth(device: torch.device) -> None:
    torch.manual_seed(0)
    likelihood = Mixed(RLE.paper(3), RLE.paper(2)).double()
    has_depth, weight = torch.rand(5, 4) > 0.5, (torch.rand(5, 4) > 0.3).double()

    def losses(where: torch.device) -> Tensor:
        moved = copy.deepcopy(likelihood).to(where)
        found: Tensor = moved(
            *prediction_of(moved.with_depth, where, torch.float64), has_depth.to(where), weight.to(where)
        )
        return found.detach()

    close(losses(device), losses(CPU), 1e-9)
    assert (losses(device)[(weight == 0).to(device)] == 0).all()


def test_the_loss_with_log_s_has_the_normaliser_of_the_density(device: torch.device) -> None:
    torch.manual_seed(0)
    likelihood = likelihood_of("rle").to(device)
    assert isinstance(likelihood, RLE)
    prediction, target = prediction_of(likelihood, device, torch.float64)
    with torch.no_grad():
        plain = likelihood(prediction, target)
        likelihood.normalise = True
        torch.testing.assert_close(
            plain - likelihood(prediction, target), likelihood.log_norm().expand_as(plain), rtol=0, atol=0.1
        )


@pytest.mark.parametrize("name", DEVICES)
def test_fixed_draws_are_fixed_there_and_change_nobody_elses(name: str) -> None:
    def draw() -> list[Tensor]:
        return [torch.rand(4, device=each).cpu() for each in DEVICES]

    torch.manual_seed(1)
    expected = draw()
    torch.manual_seed(1)
    seen = []
    for _ in range(2):
        with fixed_draws(torch.device(name)):
            seen.append(torch.rand(4, device=name))
    assert torch.equal(*seen)
    assert all(torch.equal(one, other) for one, other in zip(draw(), expected, strict=True))


@pytest.mark.parametrize("rows", [1, 20_000])
@pytest.mark.parametrize(("dim", "width", "couplings"), [(3, 64, 6), (2, 16, 3), (5, 32, 2)])
def test_the_kernels_of_a_flow_have_its_density_and_gradients(
    dim: int, width: int, couplings: int, rows: int, device: torch.device
) -> None:
    if device.type != "cuda":
        pytest.skip("kernels for a GPU; tests/likelihood/test_flow_kernels.py runs them without one")
    torch.manual_seed(0)
    flow = RealNVP(dim, couplings, width=width)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    x, weight = torch.randn(rows, dim), torch.rand(rows)

    def found(dtype: torch.dtype, where: torch.device, autocast: bool = False) -> list[Tensor]:
        mine = copy.deepcopy(flow).to(where, dtype)
        data = x.to(where, dtype).requires_grad_()
        assert mine._has_kernels(data) == (where == device)
        with torch.autocast(where.type, enabled=autocast):
            values = mine.log_prob(data)
        torch.autograd.backward(values, weight.to(where, dtype))
        return [values.detach(), *(p.grad for p in (data, *mine.parameters()) if p.grad is not None)]

    expected = found(torch.float64, CPU)
    # Rows at the kink of a leaky ReLU take its other slope. `RealNVP.inverse` on a CPU has gradients that are off by up
    # to 0.04 % in float32, and by up to 1 % with the ten bits of TF32.
    for autocast, tolerance in ((False, 1e-3), (True, 3e-2)):
        for part, reference in zip(found(torch.float32, device, autocast), expected, strict=True):
            assert float((part.double().cpu() - reference).norm()) <= tolerance * float(reference.norm())
    once, again = (found(torch.float32, device, True) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(once, again, strict=True))


def test_second_derivatives_of_a_flow(device: torch.device) -> None:
    torch.manual_seed(0)
    flow = RealNVP(3, 2, width=16).to(device)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    x = torch.randn(7, 3, device=device, requires_grad=True)

    def second(log_prob: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        (first,) = torch.autograd.grad(log_prob(x).sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [x, *flow.parameters()], allow_unused=True)

    for found, expected in zip(second(flow.log_prob), second(flow._log_prob), strict=True):
        assert (found is None) == (expected is None)
        if found is not None:
            close(found, expected, 1e-4)


# -- the networks -----------------------------------------------------------------------------------------------------


def test_dropout_keeps_the_mean_and_gives_no_gradient_to_what_it_drops(device: torch.device) -> None:
    torch.manual_seed(0)
    x = torch.ones(400, 500, device=device, requires_grad=True)
    out = Dropout(0.25).train()(x)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, out.detach())
    close(out.detach().unique(), torch.tensor([0, 4 / 3]), 1e-6)
    assert float((out == 0).double().mean()) == pytest.approx(0.25, abs=0.01)


def test_pictures_give_the_same_joints(device: torch.device) -> None:
    torch.manual_seed(0)
    network = Regressor("resnet18", 8).eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = copy.deepcopy(network).double()(images)
        found = network.to(device)(images.to(device, memory_format=torch.channels_last))
    assert found.log_sigma is not None and expected.log_sigma is not None
    close(found.mu, expected.mu, 1e-3)  # TF32 has ten bits
    close(found.log_sigma, expected.log_sigma, 1e-2)


@pytest.mark.parametrize("name", ["FC + RLE", "SRNet + RLE", "ResNet-50 + RLE"])
def test_compiled_code_has_the_loss_and_the_gradients(name: str, setting: Setting, device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("the generator of code for this device takes a minute")
    objective, batches, _ = made(setting, name, "loss.normalise=false")
    for module in objective.modules():
        if isinstance(module, Dropout):
            module.p = 0.0
    batch = next(batches.epoch(0))

    def gradients(module: nn.Module) -> dict[str, Tensor]:
        loss, _ = module.train()(batch)
        loss.backward()
        return {"loss": loss.detach()} | {n: p.grad for n, p in module.named_parameters() if p.grad is not None}

    compiled = copy.deepcopy(objective)
    compiled.compile()
    found, expected = gradients(compiled), gradients(objective)
    assert found.keys() == expected.keys()
    for part, value in expected.items():
        close(found[part], value, 5e-3)


@pytest.mark.parametrize(("name", "amsgrad"), [*((name, False) for name in NETWORKS), ("SRNet + RLE", True)])
def test_a_recorded_step_has_the_bits_of_a_plain_one(
    name: str, amsgrad: bool, setting: Setting, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its draws, its learning rate and the leaving out of a step with a broken batch too."""
    if device.type != "cuda":
        pytest.skip("only CUDA has graphs")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)

    def trained(recorded: bool) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        objective, batches, config = made(setting, name, f"train.cuda_graph={recorded}")
        optimizer = Adam(objective.parameters(), amsgrad=amsgrad, fused=True)
        step, rows = stepping(objective, optimizer, config.train), []
        assert isinstance(step, RecordedStep) == recorded
        for number, batch in zip(range(12), endless(batches), strict=False):
            optimizer.param_groups[0]["lr"] = 1e-3 * 0.9**number
            if number == 9 and batch.weight is None:
                batch = replace(batch, target=batch.target * torch.inf)
            rows.append(step(batch))
        assert isinstance(optimizer.param_groups[0]["lr"], float)
        assert not isinstance(step, RecordedStep) or step._recording is not None
        return torch.stack(rows).cpu(), objective.state_dict(), torch.cuda.get_rng_state(device)

    (plain, weights, random), (rows, recorded, drawn) = trained(False), trained(True)
    torch.testing.assert_close(rows, plain, rtol=0, atol=0, equal_nan=True)
    for key, value in weights.items():
        assert torch.equal(recorded[key], value), key
    assert torch.equal(drawn, random)


# -- poses, batches, metrics ------------------------------------------------------------------------------------------


def poses_of(setting: Setting) -> PoseSet:
    config = setting.config("FC + RLE")
    return load_split(config.data, lifter.data_paths(config, train=True), train=True)


def test_batches_of_poses_are_the_same_and_stay_there(setting: Setting, device: torch.device) -> None:
    poses = poses_of(setting)
    moved = poses.to(device)
    tensors = (moved.keypoints, moved.target, moved.pixel, moved.action)
    assert all(x.device == device for x in tensors)
    pairs = zip(PoseBatches(moved, 32, flip=True).epoch(0), PoseBatches(poses, 32, flip=True).epoch(0), strict=True)
    for found, expected in pairs:
        assert found.input.device == found.target.device == device
        close(found.input, expected.input, 0)
        close(found.target, expected.target, 0)
    noisy, clean = (next(PoseBatches(moved, 32, flip=False, noise_px=n).epoch(0)).input for n in (5.0, 0.0))
    assert noisy.device == device
    assert float((noisy - clean).std()) == pytest.approx(5 * float(moved.pixel[0]), rel=0.1)


def test_batches_of_pictures_are_the_same_through_a_reading_process(setting: Setting, device: torch.device) -> None:
    """On a GPU they come through pinned memory."""
    config = setting.config("ResNet-50 + RLE")
    reading = setting.config("ResNet-50 + RLE", "data.workers=1")
    deep, flat = chosen_pictures.training_sets(config)
    found, expected = ImageBatches(deep, flat, reading, device), ImageBatches(deep, flat, config, CPU)
    for one, other in zip(found.epoch(0), expected.epoch(0), strict=True):
        for name in ("input", "target", "weight", "has_depth"):
            assert getattr(one, name).device == device
            assert torch.equal(getattr(one, name).cpu(), getattr(other, name))


def test_the_first_step_has_the_same_loss(setting: Setting, device: torch.device) -> None:
    objective, batches, _ = made(replace(setting, device="cpu"), "FC + RLE", "model.dropout=0", "loss.normalise=false")
    batch = next(batches.epoch(0))
    expected = copy.deepcopy(objective).double()(Batch(batch.input.double(), batch.target.double()))[0]
    found = objective.to(device)(Batch(batch.input.to(device), batch.target.to(device)))[0]
    close(found.detach(), expected.detach(), 1e-4)


def test_predictions_and_their_report(setting: Setting, device: torch.device) -> None:
    torch.manual_seed(0)
    poses = poses_of(setting)
    exact = replace(poses, keypoints=poses.keypoints.double(), target=poses.target.double())
    objective = lifter.build_objective(setting.config("FC + RLE"), poses.joint_set)
    reference, moved = copy.deepcopy(objective).double(), objective.to(device)
    expected, found = predict(reference, exact, flip_test=True), predict(moved, poses.to(device), flip_test=True)
    assert found.sigma is not None and expected.sigma is not None
    assert found.mu.device == found.sigma.device == device
    close(found.mu, expected.mu, 1e-5)
    close(found.sigma, expected.sigma, 1e-5)
    ours, theirs = evaluate_poses(moved, poses.to(device), found), evaluate_poses(reference, exact, expected)
    for key in ("mpjpe_mm", "pa_mpjpe_mm", "n_mpjpe_mm", "mpjpe_frame_mm", "nll"):
        assert ours[key] == pytest.approx(theirs[key], rel=1e-3), key


def test_alignment_recovers_what_was_planted(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    target = 0.4 * torch.randn(50, 17, 3, dtype=torch.float64, generator=generator)
    turn, _ = torch.linalg.qr(torch.randn(50, 3, 3, dtype=torch.float64, generator=generator))
    turn = turn * torch.linalg.det(turn)[:, None, None].sign()
    planted = 1.3 * target @ turn.mT + 0.1
    found = joint_errors(planted.float().to(device), target.float().to(device))
    expected = joint_errors(planted, target)
    assert float(found["pa_mpjpe"].max()) < 1e-5
    for name in ("mpjpe", "n_mpjpe"):
        assert found[name].device == device
        close(found[name], expected[name], 1e-5)


# -- checkpoints ------------------------------------------------------------------------------------------------------


def outputs(name: str, checkpoint: Path, device: torch.device) -> Prediction:
    """What a loaded network says of the same input, wherever it is."""
    track = NETWORKS[name].track
    objective, _ = track.load(checkpoint, [f"train.device={device}"])
    assert next(objective.parameters()).device == device
    generator = torch.Generator().manual_seed(0)
    keypoints = torch.randn(4, 17, 2, generator=generator)
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=generator)
    with torch.no_grad():
        prediction: Prediction = objective.network((keypoints if track is lifter else images).to(device))
    return prediction


@pytest.mark.parametrize("name", ["FC + RLE", "ResNet-50 + RLE"])
def test_a_checkpoint_goes_from_device_to_device(
    name: str, setting: Setting, device: torch.device, tmp_path: Path
) -> None:
    for source, goal in ((device, CPU), (CPU, device)):
        objective, batches, config = made(replace(setting, device=str(source)), name)
        optimizer = torch.optim.Adam(objective.parameters(), fused=True)
        training_step(objective, next(batches.epoch(0)), optimizer, config.train)
        path = tmp_path / str(source) / "last.pt"
        save_checkpoint(path, state_of(objective, optimizer, config, Progress(1, 50.0), len(batches)))
        close(outputs(name, path, goal).mu, outputs(name, path, source).mu, 2e-3)
        objective, batches, config = made(replace(setting, device=str(goal)), name)
        optimizer = torch.optim.Adam(objective.parameters(), fused=True)
        assert resume(objective, optimizer, path.parent, config, len(batches)) == Progress(1, 50.0)
        training_step(objective, next(batches.epoch(0)), optimizer, config.train)
        assert all(state["exp_avg"].device == goal for state in optimizer.state.values())


def test_a_run_is_resumed_to_the_last_bit(setting: Setting, tmp_path: Path) -> None:
    lifter.train(setting.config("FC + RLE", "train.epochs=2"), tmp_path / "straight")
    for epochs in (1, 2):
        lifter.train(setting.config("FC + RLE", f"train.epochs={epochs}"), tmp_path / "stopped")
    one, two = (load_checkpoint(tmp_path / name / "last.pt") for name in ("straight", "stopped"))
    assert one["epoch"] == two["epoch"] == 2
    for part in ("network", "likelihood"):
        for key, weight in one[part].items():
            assert torch.equal(weight, two[part][key]), key
