"""Published 2D weights: the authors' and mmpose's names and shapes, and what their code computes from them."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lifting import single_stage
from lifting.command import InputError
from lifting.likelihood import ReferenceRLE
from lifting.models.published_weights import from_published, is_published_2d, load_published
from lifting.models.resnet import RESNETS, ResNet
from lifting.prediction import Prediction
from tests.models.networks import slow_flow

HERE = Path(__file__).parent
# Heads and flows for 17 joints and a ResNet-50: the authors' from regression_nf.py and layers/real_nvp.py, mmpose's
# written by models/utils/realnvp.py of mmpose 1.3.2 and the hooks that rename older files. The backbones are
# torchvision's, by name and shape.
LISTED: dict[str, dict[str, list[int]]] = json.loads((HERE / "published_names.json").read_text())
RESNET: dict[str, dict[str, list[int]]] = json.loads((HERE / "resnet_names.json").read_text())
BACKBONE = {"authors": "preact.", "mmpose": "backbone.", "mmpose_0": "backbone."}
FLOW = {"authors": "flow.", "mmpose": "head.loss_module.flow_model.", "mmpose_0": "keypoint_head.loss.flow_model."}


def of_full_size(kind: str, name: str) -> dict[str, Tensor]:
    """The listed names with weights that take no memory."""
    shapes = {key: list(shape) for key, shape in LISTED[kind].items()}
    features = 2048 if RESNETS[name][0] else 512
    state = {
        key: torch.zeros(()).expand(*[features if n == 2048 else n for n in shape]) for key, shape in shapes.items()
    }
    for module, shape in RESNET[name].items():
        parts = ["weight"] if len(shape) > 1 else ["weight", "bias", "running_mean", "running_var"]
        state |= {f"{BACKBONE[kind]}{module}.{part}": torch.zeros(()).expand(*shape) for part in parts}
        state |= {f"{BACKBONE[kind]}{module}.num_batches_tracked": torch.tensor(7)} if len(shape) == 1 else {}
    if kind != "authors":
        state[FLOW[kind] + "cov"] = torch.eye(2)
    return state


def made_up(kind: str, joints: int = 5) -> dict[str, Tensor]:
    """Random weights under the listed names, with a ResNet-18 of width 8."""
    torch.manual_seed(4)
    backbone = ResNet("resnet18", 8).state_dict()
    for name, tensor in backbone.items():
        if name.endswith("running_var") or (tensor.dim() == 1 and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5)
    state = {BACKBONE[kind] + name: tensor for name, tensor in backbone.items()}
    for name, shape in LISTED[kind].items():
        first = joints * shape[0] // 17 if "fc" in name else shape[0]
        rest = [64 if n == 2048 else n for n in shape[1:]]
        state[name] = (0.03 if "fc" in name else 0.3) * torch.randn(first, *rest)
    state[FLOW[kind] + "mask"] = torch.tensor([[0.0, 1.0], [1.0, 0.0]] * 3)
    if kind != "authors":
        state |= {FLOW[kind] + "loc": torch.zeros(2), FLOW[kind] + "cov": torch.eye(2)}
    return state


@pytest.mark.filterwarnings("ignore:for .* to a meta parameter")
@pytest.mark.parametrize("kind", LISTED)
@pytest.mark.parametrize("name", RESNETS)
def test_the_listed_names_are_read(kind: str, name: str) -> None:
    state = of_full_size(kind, name)
    assert is_published_2d(state)
    with torch.device("meta"):
        network, likelihood, found = from_published(state)
    assert network.backbone.name == name
    assert (network.joints, network.dims, likelihood.form) == (17, 2, "authors" if kind == "authors" else "mmpose")
    owner = {"authors": "the authors of RLE", "mmpose": "mmpose", "mmpose_0": "mmpose 0.x"}[kind]
    flow = len(LISTED[kind]) - (4 if kind == "authors" else 2)
    assert found == (
        f"2D weights of {owner}: {name}, 17 joints; matched all {len(state)} weights, "
        f"{len(state) - len(LISTED[kind])} of the backbone, {flow} of the flow"
    )


def their_outputs(kind: str, state: dict[str, Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """Joints in pixels of the crop and sigma, both (B, J, 2), as their code computes them."""
    rgb, (height, width) = images.float(), images.shape[2:]
    if kind == "authors":
        pixels = rgb / 255 - torch.tensor([0.406, 0.457, 0.480])[:, None, None]
    else:
        mean, deviation = torch.tensor([[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]])[..., None, None]
        pixels = (rgb - mean) / deviation
    backbone = ResNet("resnet18", 8).eval()
    backbone.load_state_dict(
        {k.removeprefix(BACKBONE[kind]): v for k, v in state.items() if k.startswith(BACKBONE[kind])}
    )
    x = F.adaptive_avg_pool2d(backbone(pixels), 1)[..., 0, 0]
    side = torch.tensor([width, height])
    if kind == "authors":
        mu = x @ state["fc_coord.linear.weight"].T / x.norm(dim=1, keepdim=True) + state["fc_coord.linear.bias"]
        raw = x @ state["fc_sigma.linear.weight"].T + state["fc_sigma.linear.bias"]
        return (mu.view(len(x), -1, 2) + 0.5) * side, raw.view(len(x), -1, 2).sigmoid()
    head = "head.fc" if kind == "mmpose" else "keypoint_head.fc"
    out = F.linear(x, state[f"{head}.weight"], state[f"{head}.bias"]).view(len(x), -1, 4)
    return out[..., :2] * side, out[..., 2:].sigmoid()


def their_loss(kind: str, state: dict[str, Tensor], error: Tensor, sigma: Tensor) -> Tensor:
    """Of each joint, from error = mu - target and sigma, both (N, 2)."""
    log_phi = slow_flow(state, FLOW[kind], error / sigma)[:, None]
    if kind == "authors":
        amplitude = 1 / math.sqrt(2 * math.pi)
        log_q = torch.log(sigma / amplitude) + error.abs() / (math.sqrt(2) * sigma + 1e-9)
    else:
        log_q = torch.log(sigma * 2) + (error / (sigma + 1e-9)).abs()
    return (torch.log(sigma) - log_phi + log_q).sum(1)


@pytest.mark.parametrize("kind", LISTED)
@torch.no_grad()
def test_outputs_are_theirs(kind: str, tmp_path: Path) -> None:
    """For crops that are taller than wide; the same joint in pixels, whose middles are whole numbers in their code."""
    state = made_up(kind)
    content = state if kind == "authors" else {"meta": {"epoch": 210}, "state_dict": state}
    torch.save(content, tmp_path / "weights.pth")
    network, likelihood, _ = load_published(tmp_path / "weights.pth")
    images = torch.randint(0, 256, (2, 3, 96, 64), dtype=torch.uint8)
    found = network.eval()(images)
    joints, sigma = their_outputs(kind, state, images)
    torch.testing.assert_close((found.mu + 0.5) * torch.tensor([64, 96]) - 0.5, joints, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.sigma, sigma)
    assert joints.std() > 1 and sigma.std() > 0.05 and sigma.min() > 1e-3
    exact = {key: value.double() for key, value in state.items()}
    mu, log_sigma = found.mu.double(), sigma.double().log()
    target = mu + log_sigma.exp() * torch.randn_like(mu)
    expected = their_loss(kind, exact, (mu - target).view(-1, 2), log_sigma.exp().view(-1, 2)).view(2, 5)
    torch.testing.assert_close(likelihood.double()(Prediction(mu, log_sigma), target), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "name", "change", "line"),
    [
        ("authors", "fc_sigma.linear.weight", (8, 64), r"weight: expected \(10, 64\), got \(8, 64\)"),
        ("authors", "fc_coord.linear.weight", (9, 64), r"weight: expected 2 rows for each joint, got 9 in all"),
        ("authors", "fcs.0.weight", (64, 64), r"fcs.0.weight: expected no such weight, got \(64, 64\)"),
        ("mmpose", "head.fc.bias", (10,), r"head.fc.bias: expected \(20,\), got \(10,\)"),
        ("mmpose", "head.loss_module.flow_model.t.5.4.bias", None, r"t.5.4.bias: expected \(2,\), got nothing"),
        ("mmpose", "head.loss_module.flow_model.mask", (6, 2), None),
        ("mmpose_0", "keypoint_head.loss.flow_model.cov", (2, 2), r"cov: expected \[\[1.0, 0.0\], .*, got \[\[0.5"),
        ("authors", "flow.s.0.2.weight", None, r"flow.s.0: expected two layers or more, got one"),
        ("mmpose_0", "backbone.layer3.1.bn2.bias", None, r"layer3.1.bn2.bias: expected \(32,\), got nothing"),
        (
            "mmpose_0",
            "keypoint_head.fc.weight",
            None,
            "expected 2D weights with a flow, and with fc_coord.linear.weight or",
        ),
    ],
)
def test_other_weights_are_refused(kind: str, name: str, change: tuple[int, ...] | None, line: str | None) -> None:
    state = made_up(kind)
    if change is None:
        del state[name]
        if name.startswith("flow."):
            del state["flow.s.0.4.weight"]
    else:
        state[name] = torch.full(change, 0.5)
    with pytest.raises(InputError, match=line or r"mask: expected zeros and ones, got \[\[0.5, 0.5\]"):
        from_published(state)


def test_old_files_have_no_counters_and_classifiers_are_left_out() -> None:
    state = {key: value for key, value in made_up("authors").items() if not key.endswith("tracked")}
    state |= {"preact.fc.weight": torch.zeros(1000, 64), "preact.fc.bias": torch.zeros(1000)}
    network, _, found = from_published(state)
    assert f"matched all {len(state) - 2} weights, 100 of the backbone" in found
    assert network.backbone.bn1.num_batches_tracked == 0
    assert not is_published_2d({"flow3d.mask": torch.ones(6, 3), "fc_coord.linear.weight": torch.ones(54, 64)})


@pytest.mark.parametrize(("kind", "joints", "joint_set"), [("authors", 16, "mpii16"), ("mmpose", 17, "coco17")])
@torch.no_grad()
def test_convert_makes_a_checkpoint(kind: str, joints: int, joint_set: str, tmp_path: Path) -> None:
    state = made_up(kind, joints)
    torch.save(state, tmp_path / "theirs.pth")
    line = single_stage.convert(tmp_path / "theirs.pth", tmp_path / "ours.pt")
    assert f"{joints} joints; matched all {len(state)} weights" in line
    objective, config = single_stage.load(tmp_path / "ours.pt")
    assert (objective.dims, objective.joint_set.name) == (2, joint_set)
    assert config.data.size == ((192, 256) if joints == 17 else 256)
    images = torch.randint(0, 256, (1, 3, 96, 64), dtype=torch.uint8)
    joints_in_pixels, sigma = their_outputs(kind, state, images)
    found = objective.predict(images, torch.zeros(1, joints, dtype=torch.bool))
    assert found.sigma is not None
    torch.testing.assert_close(
        (found.mu[..., :2] + 0.5) * torch.tensor([64, 96]) - 0.5, joints_in_pixels, rtol=1e-4, atol=1e-3
    )
    torch.testing.assert_close(found.sigma[..., :2], sigma)
    assert isinstance(objective.likelihood, ReferenceRLE)
    assert objective.likelihood.form == kind
    assert torch.equal(objective.likelihood.flow.get_buffer("masks"), state[FLOW[kind] + "mask"].bool())


def test_convert_wants_a_known_set_of_joints(tmp_path: Path) -> None:
    torch.save(made_up("authors", 5), tmp_path / "theirs.pth")
    with pytest.raises(InputError, match="expected weights of 16 or 17 joints, got 5"):
        single_stage.convert(tmp_path / "theirs.pth", tmp_path / "ours.pt")
