"""Image models: parameter names and shapes, what the heads compute, weight files, the reference's layout, cost."""

import json
import logging
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifting.checkpoint import save_checkpoint
from lifting.command import InputError
from lifting.config import FlowConfig, IntegralConfig, LossConfig, RegressorConfig
from lifting.likelihood import Mixed, ReferenceRLE, build_likelihood
from lifting.likelihood.flow import RealNVP
from lifting.models import build_image_model
from lifting.models.cost import image_model_cost
from lifting.models.integral import Integral, soft_argmax
from lifting.models.pretrained import load_backbone
from lifting.models.reference_weights import from_reference, load_reference, save_reference, to_reference
from lifting.models.regressor import Regressor, heatmap_losses
from lifting.models.resnet import PIXELS, RESNETS, Normalise, ResNet
from tests.models.networks import listed_shapes, slow_flow, unlike_new

# Written once from torchvision 0.28: convolutions and batch norms by name, with the shape of their weight.
LISTED: dict[str, dict[str, list[int]]] = json.loads(Path(__file__).with_name("resnet_names.json").read_text())
TOTALS = {
    "resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032,
    "resnet101": 44_549_160, "resnet152": 60_192_808,
}  # fmt: skip


def images(count: int = 2, size: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


# The backbone


@pytest.mark.parametrize("name", RESNETS)
def test_names_and_shapes_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        network = ResNet(name)
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == listed_shapes(LISTED[name])
    classifier = (network.channels + 1) * 1000
    assert sum(p.numel() for p in network.parameters()) + classifier == TOTALS[name]


def slow_resnet(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """A ResNet computed from nothing but the names of its weights."""

    def layer(x: Tensor, conv: str, norm: str, stride: int) -> Tensor:
        weight = state[f"{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var, scale, shift = (
            state[f"{norm}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * scale + shift

    x = F.max_pool2d(layer(x, "conv1", "bn1", 2).relu(), 3, 2, 1)
    blocks = dict.fromkeys(".".join(name.split(".")[:2]) for name in state if name.startswith("layer"))
    for block in blocks:
        stride = 2 if block.endswith(".0") and block != "layer1.0" else 1
        last = 3 if f"{block}.conv3.weight" in state else 2
        y = x
        for i in range(1, last + 1):
            y = layer(y, f"{block}.conv{i}", f"{block}.bn{i}", stride if i == last - 1 else 1)
            y = y if i == last else y.relu()
        if f"{block}.downsample.0.weight" in state:
            x = layer(x, f"{block}.downsample.0", f"{block}.downsample.1", stride)
        x = (x + y).relu()
    return x


@pytest.mark.parametrize("name", RESNETS)
def test_resnet_is_what_its_names_say(name: str) -> None:
    network = unlike_new(ResNet(name, width=8))
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        y = network(x)
        assert y.shape == (1, network.channels, 2, 3)
        torch.testing.assert_close(y, slow_resnet(network.state_dict(), x), rtol=1e-3, atol=1e-4 * float(y.max()))


@pytest.mark.parametrize("pixels", PIXELS)
def test_pixels_are_normalised_by_the_channel(pixels: str) -> None:
    x = images().contiguous(memory_format=torch.channels_last)
    y = Normalise(pixels)(x)
    mean, std = {
        "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "reference": ((0.406, 0.457, 0.480), (0.225, 0.224, 0.229)),
        "reference_2d": ((0.406, 0.457, 0.480), (1, 1, 1)),
        "mmpose": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    }[pixels]
    for c in range(3):
        torch.testing.assert_close(y[:, c], (x[:, c] / 255 - mean[c]) / std[c], rtol=1e-5, atol=1e-6)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(Normalise(pixels)(x.float()), y)
    assert not Normalise(pixels).state_dict()


# The regressor


@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize("sigma", ["coordinate", "joint"])
def test_the_heads_compute_what_is_written(pixels: str, sigma: str) -> None:
    network = unlike_new(Regressor("resnet18", 8, joints=5, sigma=sigma, input=pixels))
    state = network.state_dict()
    with torch.no_grad():
        found = network(images(3, 96))
        features = network.get_submodule("backbone")(Normalise(pixels)(images(3, 96)))
    offset = 0.0 if pixels == "imagenet" else 0.5 / 96
    per_joint = 3 if sigma == "coordinate" else 1
    for b, x in enumerate(features.flatten(2).mean(-1)):
        length = 1.0 if pixels == "mmpose" else x.norm()
        mu = (state["mu_head.weight"] @ x / length + state["mu_head.bias"]).view(5, 3)
        raw = (state["sigma_head.weight"] @ x + state["sigma_head.bias"]).view(5, per_joint).expand(5, 3)
        expected = torch.stack([mu[:, 0] + offset, mu[:, 1] + offset, mu[:, 2] - mu[0, 2]], -1)
        torch.testing.assert_close(found.mu[b], expected)
        torch.testing.assert_close(found.sigma[b], raw.sigmoid())
    assert (found.mu[:, 0, 2] == 0).all()
    assert found.log_sigma.isfinite().all()


def test_a_new_regressor_is_modest() -> None:
    torch.manual_seed(0)
    network = Regressor("resnet18", 8).eval()
    prediction = network(images())
    assert prediction.mu.shape == (2, 18, 3)
    assert prediction.mu.abs().max() < 0.02
    assert prediction.sigma is not None
    torch.testing.assert_close(prediction.sigma.median(), torch.tensor(0.12), rtol=0.2, atol=0)
    assert Regressor("resnet18", 8, with_sigma=False).eval()(images()).log_sigma is None


def test_heads_keep_their_precision_under_autocast() -> None:
    network = unlike_new(Regressor("resnet18", 8))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        prediction = network(images())
        features = network.get_submodule("backbone")(Normalise("imagenet")(images()))
    assert features.dtype == torch.bfloat16
    x = features.double().mean((2, 3))
    head = network.double().state_dict()
    mu = (x @ head["mu_head.weight"].T / x.norm(dim=1, keepdim=True) + head["mu_head.bias"]).view(2, 18, 3)
    torch.testing.assert_close(prediction.mu[..., :2], mu[..., :2].float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("heatmaps", [False, True])
def test_every_weight_learns(heatmaps: bool) -> None:
    network = Regressor("resnet18", 8, heatmaps=heatmaps)
    if heatmaps:
        prediction, maps = network.forward_with_heatmaps(images())
        assert maps.shape == (2, 18, 16, 16)
        extra = heatmap_losses(maps, torch.zeros(2, 18, 3), torch.ones(2, 18))[0].sum()
    else:
        prediction, extra = network(images()), torch.zeros(())
    assert prediction.log_sigma is not None
    torch.autograd.backward(prediction.mu.square().sum() + prediction.log_sigma.sum() + extra)
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_heatmaps_are_for_training_alone() -> None:
    network = Regressor("resnet18", 8, heatmaps=True).eval()
    with torch.no_grad():
        beside, _ = network.forward_with_heatmaps(images())
        network.heatmap_head = None  # forward does not need it
        alone = network(images())
        assert torch.equal(alone.mu, beside.mu)
        with pytest.raises(ValueError, match="heatmaps=True"):
            network.forward_with_heatmaps(images())


def slow_heatmap(u: float, v: float, height: int, width: int) -> Tensor:
    """A round Gaussian, in a crop of any shape; its deviation is 1/32 of the longer side."""
    heatmap, deviation = torch.zeros(height, width), max(height, width) / 32
    for row in range(height):
        for column in range(width):
            dx = column - ((u + 0.5) * width - 0.5)
            dy = row - ((v + 0.5) * height - 0.5)
            heatmap[row, column] = math.exp(-(dx**2 + dy**2) / (2 * deviation**2))
    return heatmap


def test_heatmap_losses_are_mean_squares() -> None:
    target = torch.tensor([[[0.1, -0.2, 0.3], [-0.45, 0.52, 0.0]]])
    right = torch.stack([slow_heatmap(u, v, 32, 64) for u, v, _ in target[0].tolist()])[None]
    assert heatmap_losses(right, target, torch.ones(1, 2))[0].max() < 1e-12
    off = right + torch.tensor([0.1, 0.3])[:, None, None]
    for weight in (torch.tensor([[1.0, 1.0]]), torch.tensor([[0.5, 0.0]])):
        losses, counted = heatmap_losses(off, target, weight)
        torch.testing.assert_close(losses, weight * torch.tensor([[0.01, 0.09]]))
        assert torch.equal(counted, weight)


def test_heatmap_losses_leave_joints_out() -> None:
    """A joint without a label, whatever its target, or far outside the crop has neither a value nor a gradient."""
    maps = torch.randn(1, 4, 16, 16, requires_grad=True)
    target = torch.tensor([[[0.1, 0.1, 0.0], [math.nan] * 3, [math.inf, 0, 0], [0.0, 0.7, math.nan]]])
    losses, counted = heatmap_losses(maps, target, torch.tensor([[1.0, 0.0, 0.0, 1.0]]))
    torch.autograd.backward(losses.sum())
    assert torch.equal(counted, torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    torch.testing.assert_close(losses[0, 0], (maps[0, 0] - slow_heatmap(0.1, 0.1, 16, 16)).square().mean())
    assert (losses[0, 1:] == 0).all()
    assert maps.grad is not None and maps.grad.isfinite().all()
    assert maps.grad[0, 0].abs().max() > 0
    assert (maps.grad[0, 1:] == 0).all()


# Integral Pose


def test_soft_argmax_finds_planted_peaks() -> None:
    volume = torch.zeros(2, 3, 16, 8, 32, dtype=torch.bfloat16)  # d, v, u
    planted = torch.tensor([[[5, 0, 31], [0, 7, 0], [15, 3, 16]], [[2, 2, 2], [9, 1, 30], [8, 4, 11]]])
    for b in range(2):
        for j, (d, v, u) in enumerate(planted[b].tolist()):
            volume[b, j, d, v, u] = 60.0
    expected = ((planted + 0.5) / torch.tensor([16, 8, 32]) - 0.5).flip(-1)
    found = soft_argmax(volume)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(soft_argmax(torch.full((1, 1, 4, 4, 4), 1e4)), torch.zeros(1, 1, 3))


def test_soft_argmax_is_a_mean_over_a_softmax() -> None:
    torch.manual_seed(0)
    volume = torch.randn(1, 2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    share = torch.softmax(volume.flatten(2), -1)
    slow = torch.zeros(1, 2, 3, dtype=torch.float64)
    for cell in range(60):
        d, v, u = cell // 20, cell // 5 % 4, cell % 5
        place = torch.tensor([(u + 0.5) / 5, (v + 0.5) / 4, (d + 0.5) / 3], dtype=torch.float64) - 0.5
        slow = slow + share[..., cell, None] * place
    torch.testing.assert_close(soft_argmax(volume), slow)
    direction = torch.randn(1, 2, 3, dtype=torch.float64)
    grads = [torch.autograd.grad((x * direction).sum(), volume)[0] for x in (soft_argmax(volume), slow)]
    torch.testing.assert_close(*grads)


def test_integral() -> None:
    network = Integral("resnet18", 8, joints=4, depth=8)
    prediction = network(images())
    assert prediction.mu.shape == (2, 4, 3)
    assert prediction.log_sigma is None
    assert prediction.mu.abs().max() < 0.01  # a new network predicts the middle
    prediction.mu.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    with torch.no_grad():
        unlike_new(network)
        x = images(2, 96)
        maps = network.heatmap_head(network.backbone(network.normalise(x)))
        assert maps.shape == (2, 4 * 8, 24, 24)
        alone = soft_argmax(maps.view(2, 4, 8, 24, 24))
        found = network(x.contiguous(memory_format=torch.channels_last)).mu
    torch.testing.assert_close(found[..., :2], alone[..., :2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[..., 2], alone[..., 2] - alone[:, :1, 2], rtol=1e-4, atol=1e-5)
    assert alone[:, 0, 2].abs().min() > 1e-4


# By configuration


def test_image_models_by_configuration() -> None:
    regressor = build_image_model(
        RegressorConfig(backbone="resnet18", width=8, sigma="joint"), joints=18, with_sigma=True, heatmaps=True
    )
    assert isinstance(regressor, Regressor)
    assert regressor.heatmap_head is not None and regressor.sigma_head is not None
    assert regressor.sigma_head.out_features == 18
    config = IntegralConfig(backbone="resnet18", width=8)
    assert isinstance(build_image_model(config, joints=18, with_sigma=False), Integral)
    with pytest.raises(InputError, match=r"model.name integral: expected a loss without sigma \(loss.name l1, l2"):
        build_image_model(config, joints=18, with_sigma=True)
    with pytest.raises(InputError, match=r"model.name integral: expected loss.heatmap 0"):
        build_image_model(config, joints=18, with_sigma=False, heatmaps=True)


# Weights from files


def made_up(name: str = "resnet18") -> dict[str, Tensor]:
    """A classifier's weights of width 8."""
    torch.manual_seed(3)
    weights = {key: torch.rand_like(value, dtype=torch.float32) for key, value in ResNet(name, 8).state_dict().items()}
    return {**weights, "fc.weight": torch.rand(10, 64), "fc.bias": torch.rand(10)}


def test_backbones_of_every_kind_of_file(tmp_path: Path) -> None:
    plain = made_up()
    backbone = {key: value for key, value in plain.items() if not key.startswith("fc.")}
    inside = {f"backbone.{key}": value for key, value in backbone.items()}
    files = {
        "torchvision": (plain, "; left out fc.weight, fc.bias"),
        "mmpose": ({"meta": {"epoch": 3}, "state_dict": {**inside, "head.w": torch.ones(3)}}, "; left out head.w"),
        "wrapped": ({"model": {f"module.{key}": value for key, value in inside.items()}}, ""),
        "simplepose": (
            {**backbone, **{f"deconv_layers.{i}.weight": torch.ones(2) for i in range(6)}},
            "; left out deconv_layers.0.weight, deconv_layers.1.weight, deconv_layers.2.weight, deconv_layers.3.weight"
            " and 2 more",
        ),
        "reference": ({f"preact.{key}": value for key, value in backbone.items()}, ""),
    }
    for name, (content, _) in files.items():
        torch.save(content, tmp_path / f"{name}.pth")
    save_checkpoint(tmp_path / "ours.pth", {"network": {**inside, "mu_head.bias": torch.ones(54)}, "epoch": 1})
    for name, rest in {**{name: rest for name, (_, rest) in files.items()}, "ours": "; left out mu_head.bias"}.items():
        network = Regressor("resnet18", 8)
        before = network.mu_head.weight.clone()
        path = tmp_path / f"{name}.pth"
        assert load_backbone(network, path) == f"120 of 120 backbone weights from {path}{rest}"
        for key, value in network.backbone.state_dict().items():
            assert torch.equal(value, backbone[key].to(value.dtype)), (name, key)
        assert torch.equal(network.mu_head.weight, before)


def test_old_weights_have_no_counters(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = {key: value for key, value in made_up().items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    config = IntegralConfig(backbone="resnet18", width=8, weights=str(tmp_path / "old.pth"))
    with caplog.at_level(logging.INFO):
        network = build_image_model(config, joints=18, with_sigma=False)
    assert "100 of 120 backbone weights from" in caplog.text
    state = network.get_submodule("backbone").state_dict()
    assert torch.equal(state["bn1.running_var"], old["bn1.running_var"])
    assert state["bn1.num_batches_tracked"] == 0


def test_unusable_weights_are_refused(tmp_path: Path) -> None:
    good = made_up()
    cases: dict[str, tuple[object, str]] = {
        "other": ({"w": torch.ones(2)}, "expected weights of a ResNet, such as conv1.weight, got w"),
        "none": ({"epoch": 3}, "expected named weights, got none"),
        "list": ([torch.ones(2)], "expected named weights, got none"),
        "code": ({"conv1.weight": torch.ones(2), "args": Path("x")}, "is broken, or holds more than tensors"),
        "wide": (
            {**good, "layer2.0.conv1.weight": torch.ones(32, 16, 3, 3)},
            r"layer2.0.conv1.weight: expected \(16, 8, 3, 3\), got \(32, 16, 3, 3\)",
        ),
        "part": (
            {key: value for key, value in good.items() if key != "layer4.1.bn2.bias"},
            r"layer4.1.bn2.bias: expected \(64,\), got nothing",
        ),
        "deep": (made_up("resnet34"), r"layer1.2.conv1.weight: expected no such weight, got \(8, 8, 3, 3\)"),
    }
    for name, (content, _) in cases.items():
        torch.save(content, tmp_path / f"{name}.pth")
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "empty.pth").touch()
    torch.save(good, tmp_path / "half.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "half.pth").read_bytes()[:5000])
    expected = {name: line for name, (_, line) in cases.items()}
    expected |= {
        "text": "is broken",
        "half": "is broken",
        "empty": "is empty",
        "absent": "expected a file, found nothing",
    }
    network = Regressor("resnet18", 8)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    for name, line in expected.items():
        with pytest.raises(InputError, match=f"weights.*{name}.pth.*{line}|weights: {line}.*{name}.pth") as refusal:
            load_backbone(network, tmp_path / f"{name}.pth")
        assert "\n" not in str(refusal.value)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


# The reference's layout


def reference_state(name: str = "resnet18", joints: int = 18) -> dict[str, Tensor]:
    """Random weights as the authors' code saves them, with shapes from the list and from the flows' description."""
    torch.manual_seed(4)
    state = {f"preact.{key}": torch.randn(shape) for key, shape in listed_shapes(LISTED[name]).items()}
    state |= {key: torch.tensor(7) for key in state if key.endswith("num_batches_tracked")}
    features = 2048 if "preact.layer1.0.conv3.weight" in state else 512
    for head in ("fc_coord.linear", "fc_sigma"):
        state |= {f"{head}.weight": torch.randn(3 * joints, features), f"{head}.bias": torch.randn(3 * joints)}
    for flow, masks in (("flow3d", [[0, 0, 1], [1, 1, 0]] * 3), ("flow2d", [[0, 1], [1, 0]] * 3)):
        state[f"{flow}.mask"] = torch.tensor(masks, dtype=torch.float32)
        dim = len(masks[0])
        for net in ("t", "s"):
            for k in range(6):
                for place, (inputs, outputs) in {0: (dim, 64), 2: (64, 64), 4: (64, dim)}.items():
                    state[f"{flow}.{net}.{k}.{place}.weight"] = torch.randn(outputs, inputs) / inputs**0.5
                    state[f"{flow}.{net}.{k}.{place}.bias"] = 0.3 * torch.randn(outputs)
    return state


def test_the_references_flows_are_ours(tmp_path: Path) -> None:
    state = reference_state()
    state["flow3d.mask"] = state["flow3d.mask"].flip(0)  # our code takes them in either order
    torch.save(state, tmp_path / "reference.pth")
    _, likelihood = load_reference(tmp_path / "reference.pth")
    for flow, dim, ours in (("flow3d", 3, likelihood.with_depth), ("flow2d", 2, likelihood.without_depth)):
        assert isinstance(ours, ReferenceRLE)
        x = torch.randn(200, dim)
        with torch.no_grad():
            found = ours.flow.double().log_prob(x.double())
        twin = slow_flow({key: value.double() for key, value in state.items()}, f"{flow}.", x.double())
        torch.testing.assert_close(found, twin, rtol=1e-6, atol=1e-6)
        assert (found + 0.5 * (x**2).sum(1)).std() > 0.5  # far from a normal density


def test_the_references_network_is_ours(tmp_path: Path) -> None:
    state = reference_state()
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "reference.pth")
    network, _ = load_reference(tmp_path / "reference.pth")
    assert network.input == "reference"
    for key, value in network.backbone.state_dict().items():
        assert torch.equal(value, state[f"preact.{key}"])
    for ours, theirs in (("mu_head", "fc_coord.linear"), ("sigma_head", "fc_sigma")):
        assert torch.equal(network.get_submodule(ours).get_parameter("weight"), state[f"{theirs}.weight"])
        assert torch.equal(network.get_submodule(ours).get_parameter("bias"), state[f"{theirs}.bias"])


def test_the_layout_goes_both_ways_bit_for_bit(tmp_path: Path) -> None:
    state = reference_state(joints=17)
    torch.save(state, tmp_path / "theirs.pth")
    save_reference(tmp_path / "ours.pth", *load_reference(tmp_path / "theirs.pth"))
    back = torch.load(tmp_path / "ours.pth", weights_only=True)
    assert back.keys() == state.keys()
    for name, weight in state.items():
        assert back[name].dtype == weight.dtype, name
        assert torch.equal(back[name], weight), name


def test_ours_in_the_references_layout() -> None:
    """For a network and flows of sizes other than the authors'; the heatmap head is left out."""
    torch.manual_seed(2)
    network = Regressor("resnet34", 8, joints=5, sigma="coordinate", input="reference", heatmaps=True)
    likelihood = Mixed(ReferenceRLE(3, RealNVP(3, 4, 2, 16)), ReferenceRLE(2, RealNVP(2, 2, 4, 8)))
    network_state, likelihood_state = from_reference(to_reference(network, likelihood))
    assert network_state.keys() == {key for key in network.state_dict() if not key.startswith("heatmap_head")}
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in network_state.items())
    assert likelihood_state.keys() == likelihood.state_dict().keys()
    assert all(torch.equal(value, likelihood.state_dict()[key]) for key, value in likelihood_state.items())


@pytest.mark.parametrize("name", RESNETS)
def test_the_depth_follows_from_the_names(name: str) -> None:
    state = reference_state("resnet18" if name in ("resnet18", "resnet34") else "resnet50")
    shapes = {f"preact.{key}": shape for key, shape in listed_shapes(LISTED[name]).items()}
    state = {key: value for key, value in state.items() if not key.startswith("preact.")}
    state |= {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    state |= {"preact.fc.weight": torch.zeros(10, 512), "preact.fc.bias": torch.zeros(10)}
    network_state, _ = from_reference(state)
    with torch.device("meta"):
        expected = Regressor(name, sigma="coordinate").state_dict()
    assert {key: value.shape for key, value in network_state.items()} == {k: v.shape for k, v in expected.items()}


@pytest.mark.parametrize(
    ("name", "change", "line"),
    [
        ("fc_sigma.weight", (51, 512), r"fc_sigma.weight: expected \(54, 512\), got \(51, 512\)"),
        ("flow3d.s.3.2.weight", (64, 63), r"flow3d.s.3.2.weight: expected \(64, 64\), got \(64, 63\)"),
        ("flow2d.t.5.4.bias", None, r"flow2d.t.5.4.bias: expected \(2,\), got nothing"),
        ("flow2d.mask", None, r"flow2d.mask: expected a weight, got nothing"),
        ("fc_coord.linear.weight", None, r"fc_coord.linear.weight: expected a weight, got nothing"),
        ("preact.layer3.1.bn2.running_var", None, r"layer3.1.bn2.running_var: expected \(256,\), got nothing"),
        (
            "preact.layer4.2.conv1.weight",
            (512, 512, 3, 3),
            r"expected one of resnet18, .* got stages of \(2, 2, 2, 3\)",
        ),
        ("fcs.0.weight", (512, 512), r"fcs.0.weight: expected no such weight, got \(512, 512\)"),
    ],
)
def test_wrong_reference_weights(tmp_path: Path, name: str, change: tuple[int, ...] | None, line: str) -> None:
    state = reference_state()
    if change is None:
        del state[name]
    else:
        state[name] = torch.zeros(change)
    with pytest.raises(InputError, match=line):
        from_reference(state)


def test_masks_are_zeros_and_ones() -> None:
    state = reference_state()
    state["flow2d.mask"][3, 1] = 0.5
    with pytest.raises(InputError, match=r"flow2d.mask: expected zeros and ones, got \[\[0.0, 1.0\]"):
        from_reference(state)


def test_what_the_reference_could_not_use() -> None:
    right = Mixed(ReferenceRLE(3), ReferenceRLE(2))
    with pytest.raises(InputError, match=r"expected a network with model\.input reference, got imagenet"):
        to_reference(Regressor("resnet18", 8), right)
    for with_sigma, got in ((False, "none"), (True, "one per joint")):
        network = Regressor("resnet18", 8, input="reference", with_sigma=with_sigma)
        with pytest.raises(InputError, match=f"expected a network with one sigma per coordinate, got {got}"):
            to_reference(network, right)
    loss = LossConfig(name="rle", flow=FlowConfig(width=8))
    network = Regressor("resnet18", 8, sigma="coordinate", input="reference")
    with pytest.raises(InputError, match=r"expected loss.name rle_reference"):
        to_reference(network, Mixed(build_likelihood(loss), ReferenceRLE(2)))


# Cost


def test_cost_is_the_papers() -> None:
    """Tab. 8 and 9: 23.8M parameters (of the network and both flows) and 5.4 G; 34.3M and 14.1 G."""
    regressor, integral = Regressor("resnet50", sigma="coordinate").train(), Integral("resnet50")
    found = image_model_cost(regressor, 256)
    flows = sum(p.numel() for p in Mixed(ReferenceRLE(3), ReferenceRLE(2)).parameters())
    assert found["parameters"] == 23_729_324
    assert round((found["parameters"] + flows) / 1e6, 1) == 23.8
    assert round(found["multiply_adds_as_published"] / 1e9, 1) == 5.4
    assert regressor.training
    assert not regressor.backbone.conv1._forward_hooks
    found = image_model_cost(integral, 256)
    assert round(found["parameters"] / 1e6, 1) == 34.3
    assert round(found["multiply_adds_as_published"] / 1e9, 1) == 14.1


def test_cost_by_hand() -> None:
    """Deconvolutions as computed and as published; batch norm as published."""
    network = nn.Sequential(Normalise("imagenet"), nn.ConvTranspose2d(3, 5, 4, stride=2, padding=1), nn.BatchNorm2d(5))
    found = image_model_cost(network, 8)
    truly = sum(
        3 * 5
        for y in range(8)
        for x in range(8)
        for dy in range(4)
        for dx in range(4)  # each pixel and weight once, also where the product falls outside
    )
    assert found == {
        "parameters": 3 * 5 * 16 + 5 + 10,
        "multiply_adds": truly,
        "multiply_adds_as_published": 4 * truly + 2 * 5 * 16 * 16,
    }
