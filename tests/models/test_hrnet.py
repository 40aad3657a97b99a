"""HRNet and RLE on it: names and shapes of the public weights, what the network computes, files, cost."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifting import single_stage
from lifting.command import InputError
from lifting.config import SingleStageConfig, read_config
from lifting.geometry.skeleton import COCO17
from lifting.models.heatmap import SimplePose
from lifting.models.hrnet import HRNETS, HRNet
from lifting.models.hrnet_pose import HRNetPose
from lifting.models.pretrained import load_backbone
from lifting.models.resnet import Normalise
from tests.models.networks import listed_shapes, unlike_new

# Convolutions and batch norms by name, with the shape of their weight. Written once from timm 1.0.31, whose classifiers
# have the weights that HRNet's authors published, without those of the last exchange that a pose network does not have.
LISTED: dict[str, dict[str, list[int]]] = json.loads(Path(__file__).with_name("hrnet_names.json").read_text())


def images(height: int = 64, width: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator)


# The backbone


@pytest.mark.parametrize("name", HRNETS)
def test_names_and_shapes_are_the_authors(name: str) -> None:
    with torch.device("meta"):
        network = HRNet(name)
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == listed_shapes(LISTED[name])


@pytest.mark.parametrize(("name", "millions"), [("hrnet_w32", 28.5), ("hrnet_w48", 63.6)])
def test_cost_is_the_papers(name: str, millions: float) -> None:
    """Table 1 of the HRNet paper, for 17 joints."""
    with torch.device("meta"):
        network = HRNetPose(name, with_sigma=False)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == millions


def slow_hrnet(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """HRNet computed from nothing but the names of its weights."""

    def layer(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        weight = state[f"{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var, scale, shift = (
            state[f"{norm}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * scale + shift

    def block(x: Tensor, at: str) -> Tensor:
        y, last = x, 3 if f"{at}.conv3.weight" in state else 2
        for i in range(1, last + 1):
            y = layer(y, f"{at}.conv{i}", f"{at}.bn{i}")
            y = y if i == last else y.relu()
        return ((layer(x, f"{at}.downsample.0", f"{at}.downsample.1") if f"{at}.downsample.0.weight" in state else x)
                + y).relu()  # fmt: skip

    def path(x: Tensor, at: str, start: int, end: int) -> Tensor:
        if start > end:
            factor = 2 ** (start - end)
            return layer(x, f"{at}.0", f"{at}.1").repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        for k in range(end - start):
            x = layer(x, f"{at}.{k}.0", f"{at}.{k}.1", 2)
            x = x.relu() if k < end - start - 1 else x
        return x

    x = layer(layer(x, "conv1", "bn1", 2).relu(), "conv2", "bn2", 2).relu()
    for i in range(4):
        x = block(x, f"layer1.{i}")
    maps = [
        layer(x, "transition1.0.0", "transition1.0.1").relu(),
        layer(x, "transition1.1.0.0", "transition1.1.0.1", 2).relu(),
    ]
    for stage, modules in ((2, 1), (3, 4), (4, 3)):
        if stage > 2:
            at = f"transition{stage - 1}.{stage - 1}.0"
            maps.append(layer(maps[-1], f"{at}.0", f"{at}.1", 2).relu())
        for m in range(modules):
            at = f"stage{stage}.{m}"
            for j in range(stage):
                for i in range(4):
                    maps[j] = block(maps[j], f"{at}.branches.{j}.{i}")
            ends = [end for end in range(stage) if end == 0 or f"{at}.fuse_layers.{end}.0.0.0.weight" in state]
            maps = [
                torch.stack([path(maps[j], f"{at}.fuse_layers.{end}.{j}", j, end) for j in range(stage)]).sum(0).relu()
                for end in ends
            ]
    (x,) = maps
    return x


def test_hrnet_is_what_its_names_say() -> None:
    network = unlike_new(HRNet("hrnet_w32", width=8))
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        y = network(x)
        assert y.shape == (1, network.channels, 16, 24)
        torch.testing.assert_close(y, slow_hrnet(network.state_dict(), x), rtol=1e-3, atol=1e-4 * float(y.max()))


def test_what_hrnet_refuses() -> None:
    with pytest.raises(ValueError, match="multiple of 4, got 6"):
        HRNet("hrnet_w32", width=6)
    with pytest.raises(ValueError, match="multiples of 32, got 64 x 100"):
        HRNet("hrnet_w32", width=4)(torch.zeros(1, 3, 64, 100))


# The pose network


@pytest.mark.parametrize("sigma", ["coordinate", "joint"])
def test_the_heads_compute_what_is_written(sigma: str) -> None:
    network = HRNetPose("hrnet_w32", 8, joints=3, sigma=sigma)
    unlike_new(network)
    state, x = network.state_dict(), images(64, 96)
    with torch.no_grad():
        features: Tensor = network.backbone(Normalise("imagenet")(x))
        state["final_layer.weight"] /= features.std()  # so that more than one cell counts
        state["sigma_head.weight"] /= features.std()
        found, maps = network.forward_with_heatmaps(x)
        assert torch.equal(network(x).mu, found.mu)
    expected_maps = torch.einsum("jc,bchw->bjhw", state["final_layer.weight"][..., 0, 0], features)
    expected_maps = expected_maps + state["final_layer.bias"][:, None, None]
    assert maps.shape == (2, 3, 16, 24)
    torch.testing.assert_close(maps, expected_maps, rtol=1e-4, atol=1e-4)
    share = expected_maps.flatten(2).softmax(2).view(2, 3, 16, 24)
    u = sum(share[..., column].sum(2) * ((column + 0.5) / 24 - 0.5) for column in range(24))
    v = sum(share[..., row, :].sum(2) * ((row + 0.5) / 16 - 0.5) for row in range(16))
    torch.testing.assert_close(found.mu, torch.stack([torch.as_tensor(u), torch.as_tensor(v)], -1))
    raw = features.mean((2, 3)) @ state["sigma_head.weight"].T + state["sigma_head.bias"]
    torch.testing.assert_close(found.sigma, raw.view(2, 3, -1).sigmoid().expand(2, 3, 2))
    assert found.mu.abs().max() > 0.01


def test_a_new_network_is_modest_and_every_weight_learns() -> None:
    torch.manual_seed(0)
    network = HRNetPose("hrnet_w32", 8)
    prediction = network(images())
    assert prediction.mu.shape == (2, 17, 2)
    assert prediction.mu.abs().max() < 0.02
    assert prediction.sigma is not None and prediction.log_sigma is not None
    torch.testing.assert_close(prediction.sigma.median(), torch.tensor(0.12), rtol=0.2, atol=0)
    torch.autograd.backward(((prediction.mu - 0.1).square() / prediction.sigma).sum() + prediction.log_sigma.sum())
    for name, parameter in network.named_parameters():
        silent = name == "final_layer.bias"  # a softmax does not see it
        assert parameter.grad is not None and (silent or parameter.grad.abs().max() > 0), name
    assert HRNetPose("hrnet_w32", 8, with_sigma=False).eval()(images()).log_sigma is None


# Weights from files


def published(width: int = 8, joints: int = 17) -> dict[str, Tensor]:
    """Made-up weights of a pose network as its authors save them."""
    torch.manual_seed(3)
    network = HRNetPose("hrnet_w32", width, joints, with_sigma=False)
    own = network.backbone.state_dict() | {f"final_layer.{k}": v for k, v in network.final_layer.state_dict().items()}
    # Half of the weights of a convolution are negative, so that its features stay finite.
    return {key: torch.rand_like(value, dtype=torch.float32) - 0.5 * (value.dim() == 4) for key, value in own.items()}


def test_pose_weights_of_the_authors_and_of_mmpose(tmp_path: Path) -> None:
    pose = published()
    count = len(pose) - 2
    for kind, head in (
        ("authors", "final_layer."),
        ("mmpose", "head.final_layer."),
        ("old", "keypoint_head.final_layer."),
    ):
        names = {key: key.replace("final_layer.", head) if "final" in key else f"backbone.{key}" for key in pose}
        content = pose if kind == "authors" else {"state_dict": {names[key]: value for key, value in pose.items()}}
        path = tmp_path / f"{kind}.pth"
        torch.save(content, path)
        network = HRNetPose("hrnet_w32", 8)
        assert load_backbone(network, path) == f"{count} of {count} backbone weights and final_layer from {path}"
        for key, value in network.state_dict().items():
            if not key.startswith("sigma_head"):
                assert torch.equal(value, pose[key.removeprefix("backbone.")].to(value.dtype)), (kind, key)


def test_weights_of_the_classifier(tmp_path: Path) -> None:
    """These have what only a classifier needs: heads, and an exchange to all resolutions at the end."""
    backbone = {key: value for key, value in published().items() if "final" not in key}
    more = {
        "stage4.2.fuse_layers.1.0.0.0.weight": torch.ones(8, 4, 3, 3),
        "stage4.2.fuse_layers.3.2.0.1.bias": torch.ones(32),
        "incre_modules.0.0.conv1.weight": torch.ones(32, 4, 1, 1),
        "final_layer.0.weight": torch.ones(2048, 1024, 1, 1),
        "classifier.bias": torch.ones(1000),
    }
    torch.save(backbone | more, tmp_path / "classifier.pth")
    network = HRNetPose("hrnet_w32", 8)
    before = network.final_layer.weight.clone()
    line = load_backbone(network, tmp_path / "classifier.pth")
    assert line.startswith(f"{len(backbone)} of {len(backbone)} backbone weights from ")
    assert line.endswith("; left out " + ", ".join(list(more)[:4]) + " and 1 more")
    assert torch.equal(network.final_layer.weight, before)
    assert torch.equal(network.backbone.conv2.weight, backbone["conv2.weight"])


def test_other_weights(tmp_path: Path) -> None:
    torch.save(published(joints=16), tmp_path / "mpii.pth")
    network, whole = HRNetPose("hrnet_w32", 8), published()
    line = load_backbone(network, tmp_path / "mpii.pth")
    assert line.endswith("; left out final_layer.weight, final_layer.bias")  # of 16 joints
    for change, expected in (
        (
            {"stage4.2.fuse_layers.0.3.0.weight": None},
            r"fuse_layers.0.3.0.weight: expected \(4, 32, 1, 1\), got nothing",
        ),
        ({"conv1.weight": (8, 3, 7, 7)}, r"conv1.weight: expected \(8, 3, 3, 3\), got \(8, 3, 7, 7\)"),
        ({"layer1.4.conv1.weight": (8, 32, 1, 1)}, r"layer1.4.conv1.weight: expected no such weight"),
    ):
        state = {name: value for name, value in whole.items() if name not in change}
        state |= {name: torch.zeros(shape) for name, shape in change.items() if shape is not None}
        torch.save(state, tmp_path / "wrong.pth")
        with pytest.raises(InputError, match=expected):
            load_backbone(network, tmp_path / "wrong.pth")
    torch.save({"w": torch.ones(2)}, tmp_path / "none.pth")
    with pytest.raises(InputError, match=r"expected weights of a HRNet, such as conv1.weight, got w"):
        load_backbone(network, tmp_path / "none.pth")


# By configuration


def test_hrnet_by_configuration(tmp_path: Path) -> None:
    """RLE on HRNet, and its heatmap network, which is the authors' network with their weights."""
    torch.save(published(), tmp_path / "pose.pth")
    start = ["model.width=8", f"model.weights={tmp_path / 'pose.pth'}"]

    def built(*overrides: str) -> nn.Module:
        config = read_config(SingleStageConfig, overrides=[*overrides, *start])
        objective = single_stage.build_objective(config, COCO17, start=True)
        assert objective.dims == 2
        return objective.network

    with pytest.raises(InputError, match=r"model.name hrnet: expected loss.heatmap 0"):
        built("model.name=hrnet", "loss.heatmap=0.1")
    network = built("model.name=hrnet", "model.sigma=coordinate")
    assert isinstance(network, HRNetPose)
    assert network.sigma_head is not None
    assert (network.backbone.name, network.sigma_head.out_features) == ("hrnet_w32", 34)
    assert torch.equal(network.final_layer.weight, published()["final_layer.weight"])
    baseline = built("model.name=simplepose", "model.backbone=hrnet_w32", "loss.name=heatmap")
    assert isinstance(baseline, SimplePose)
    assert torch.equal(baseline.final_layer.weight, published()["final_layer.weight"])
    with torch.no_grad():
        prediction, maps = baseline.eval().forward_with_heatmaps(images())
        torch.testing.assert_close(maps, network.eval().forward_with_heatmaps(images())[1])
    assert maps.shape == (2, 17, 16, 16)
    assert maps.isfinite().all() and maps.std() > 0
    assert prediction.log_sigma is None and prediction.peak is not None
