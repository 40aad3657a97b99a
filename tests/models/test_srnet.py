"""SRNet against a twin that loops over groups, its parameter counts, and what a group can see of the others."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifting.command import InputError
from lifting.config import SRNetConfig
from lifting.geometry.joint_maps import flip
from lifting.geometry.skeleton import COCO17, H36M17, H36M18, MPII16, JointSet
from lifting.models import build_lifter
from lifting.models.srnet import GROUPS, RECOMBINE, GroupLayer, SRNet
from lifting.training.evaluation import mean_of_mirrored

VARIANTS = list(product(GROUPS, RECOMBINE))


def trained(**arguments: object) -> SRNet:
    """A network in float64 in which no weight, bias or statistic has its initial value."""
    torch.manual_seed(0)
    network = SRNet(**arguments).double()  # type: ignore[arg-type]
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network


def norm_of(norm: nn.BatchNorm1d, x: Tensor, training: bool) -> Tensor:
    """Batch norm of (B, C), by its formula."""
    assert norm.running_mean is not None and norm.running_var is not None
    mean = x.mean(0) if training else norm.running_mean
    variance = x.var(0, unbiased=False) if training else norm.running_var
    return (x - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias


def slow_layer(layer: GroupLayer, x: Tensor, training: bool) -> Tensor:
    """(B, C) -> (B, C'), by the equations: one group at a time, each with its own context."""
    made, first, used = [], 0, 0
    for g, (weight, size) in enumerate(zip(layer.weights, layer.inputs, strict=True)):
        own = x[:, first : first + size]
        context = torch.cat([x[:, :first], x[:, first + size :]], 1)
        w = layer.context[used : used + context.shape[1]]
        a = (context @ w + layer.bias[g])[:, None]
        if layer.norm is not None:
            ends = nn.BatchNorm1d(1).to(x.dtype)
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(ends, name).data = getattr(layer.norm, name).data[g : g + 1]
            made.append(torch.sigmoid(norm_of(ends, a, training)) * own @ weight.T)
        elif layer.recombine == "add":
            made.append((own + F.leaky_relu(a)) @ weight.T)
        else:
            made.append(torch.cat([own, F.leaky_relu(a)], 1) @ weight.T)
        first, used = first + size, used + context.shape[1]
    assert used == layer.context.numel()
    return torch.cat(made, 1)


def slow_forward(network: SRNet, keypoints: Tensor, scales: int, training: bool) -> tuple[Tensor, Tensor]:
    """mu and log sigma, (B, 17, 3) each."""

    def activated(layer: nn.Module, x: Tensor) -> Tensor:
        return F.leaky_relu(norm_of(layer.norm, slow_layer(layer.product, x, training), training), 0.01)  # type: ignore[arg-type]

    x = torch.cat([keypoints[:, list(group)].flatten(1) for group in network.groups], 1)
    x = activated(network.entry, x)
    for pair in network.pairs:
        x = x + activated(pair[1], activated(pair[0], x))  # type: ignore[index]
    out = slow_layer(network.head.product, x, training)
    mu = torch.zeros(len(x), 17, 3, dtype=x.dtype)
    log_sigma = torch.full_like(mu, -torch.inf)
    bias = network.head.sigma_bias
    assert bias is not None
    for group, inputs in zip(network.groups, network.head.inputs, strict=True):
        places, out = out[:, : 3 * len(group)].view(len(x), -1, 3) / inputs**0.5, out[:, 3 * len(group) :]
        free = len(group) - 1
        raw, out = out[:, : scales * free].view(len(x), free, scales), out[:, scales * free :]
        for i, joint in enumerate(group[1:]):
            mu[:, joint] = places[:, i + 1] - places[:, 0]
            log_sigma[:, joint] = F.logsigmoid(raw[:, i] + bias[joint - 1])
    assert out.shape[1] == 0
    return mu, log_sigma


@pytest.mark.parametrize(("groups", "recombine"), VARIANTS)
@pytest.mark.parametrize(("layers", "sigma", "training"), [(6, "joint", False), (8, "coordinate", True)])
def test_forward_equals_the_loop_over_groups(
    groups: int, recombine: str, layers: int, sigma: str, training: bool
) -> None:
    network = trained(width=100, groups=groups, layers=layers, recombine=recombine, sigma=sigma).train(training)
    keypoints = torch.randn(16, 17, 2, dtype=torch.float64)
    mu, log_sigma = slow_forward(network, keypoints, 1 if sigma == "joint" else 3, training)
    prediction = network(keypoints)
    torch.testing.assert_close(prediction.mu, mu)
    torch.testing.assert_close(prediction.log_sigma, log_sigma)


def counted(groups: int, layers: int, recombine: str) -> int:
    """Parameters without sigma, from the table of the design: 5 groups, 6 layers, multiply."""
    joints = [len(group) for group in GROUPS[groups]]
    channels = [2 * n for n in joints]
    features = [1024 * c // sum(channels) for c in channels[:-1]]
    features.append(1024 - sum(features))
    inputs = [channels, *[features] * (layers - 1)]
    outputs = [*[features] * (layers - 1), [3 * n for n in joints]]
    extra = int(recombine == "concat")
    total = (layers - 1) * 2 * 1024  # batch norm after each layer but the last
    for before, after in zip(inputs, outputs, strict=True):
        total += sum((i + extra) * o for i, o in zip(before, after, strict=True))
        total += sum(sum(before) - i + 1 for i in before)  # w and b of each group's context
        total += 2 * groups * (recombine == "multiply")  # BN_1
    return total


@pytest.mark.parametrize(("groups", "recombine"), VARIANTS)
@pytest.mark.parametrize("layers", [6, 8])
def test_parameter_counts(groups: int, recombine: str, layers: int) -> None:
    network = SRNet(groups=groups, layers=layers, recombine=recombine, with_sigma=False)
    assert sum(p.numel() for p in network.parameters()) == counted(groups, layers, recombine)


def test_the_count_of_the_paper() -> None:
    """0.899M. The authors have 899,029: one of their 64 outputs, in the group of 196 features, is not used."""

    def weights(with_sigma: bool = True, sigma: str = "joint") -> int:
        return sum(p.numel() for p in SRNet(with_sigma=with_sigma, sigma=sigma).parameters())

    network = SRNet(with_sigma=False)
    assert [layer.inputs for layer in (network.entry.product, network.head.product)] == [
        [8, 8, 10, 8, 8],
        [195, 195, 243, 195, 196],
    ]
    assert [len(weight) for weight in network.head.product.weights] == [12, 12, 15, 12, 12]
    assert weights(with_sigma=False) == 898_833 == 899_029 - 196
    joint = 195 * 3 + 195 * 3 + 243 * 4 + 195 * 3 + 196 * 3 + 16  # outputs of each group's joints, and their bias
    assert weights(sigma="joint") == 898_833 + joint
    assert weights(sigma="coordinate") == 898_833 + 3 * joint


@pytest.mark.parametrize(("groups", "recombine"), VARIANTS)
def test_a_group_sees_the_others_as_one_number(groups: int, recombine: str) -> None:
    """The output of a group depends on inputs outside it only through w . c, and not at all if w is zero."""
    torch.manual_seed(0)
    inputs = [2 * len(group) for group in GROUPS[groups]]
    layer = GroupLayer(inputs, [7] * groups, recombine).double().eval()
    x = torch.randn(sum(inputs), 1, dtype=torch.float64)

    def seen(g: int) -> Tensor:
        """(7, inputs outside g): the derivative of the group's outputs."""
        jacobian = torch.func.jacrev(layer)(x)[7 * g : 7 * g + 7, 0, :, 0]
        first = sum(inputs[:g])
        return torch.cat([jacobian[:, :first], jacobian[:, first + inputs[g] :]], 1)

    assert all((seen(g) == 0).all() for g in range(groups))
    nn.init.normal_(layer.context)
    rows = torch.split(layer.context, [sum(inputs) - i for i in inputs])
    for g, w in enumerate(rows):
        _, singular, right = torch.linalg.svd(seen(g))
        assert singular[0] > 1e-6
        assert singular[1] < 1e-9 * singular[0]
        assert F.cosine_similarity(right[0], w, dim=0).abs() > 1 - 1e-9


@pytest.mark.parametrize(("groups", "recombine"), VARIANTS)
def test_a_group_without_context_depends_only_on_its_joints(groups: int, recombine: str) -> None:
    """With context weights of zero, as at the start, the other joints can be exchanged or moved without effect."""
    network = trained(width=60, groups=groups, recombine=recombine).eval()
    for module in network.modules():
        if isinstance(module, GroupLayer):
            nn.init.zeros_(module.context)
    keypoints = torch.randn(4, 17, 2, dtype=torch.float64)
    before = network(keypoints)
    for group in GROUPS[groups]:
        others = [joint for joint in range(17) if joint not in group]
        exchanged, moved = keypoints.clone(), keypoints.clone()
        exchanged[:, others] = keypoints[:, others[1:] + others[:1]]
        moved[:, others] += torch.randn(4, len(others), 2, dtype=torch.float64)
        for other in (network(exchanged), network(moved)):
            assert torch.equal(other.mu[:, list(group)], before.mu[:, list(group)])
            assert torch.equal(other.log_sigma[:, list(group)], before.log_sigma[:, list(group)])
            assert not torch.allclose(other.mu[:, others], before.mu[:, others])


def test_a_trained_group_depends_on_the_others() -> None:
    network = trained(width=60).eval()
    keypoints = torch.randn(4, 17, 2, dtype=torch.float64)
    moved = keypoints.clone()
    moved[:, 16] += 0.5
    assert not torch.allclose(network(moved).mu[:, 1], network(keypoints).mu[:, 1])


@pytest.mark.parametrize("recombine", RECOMBINE)
def test_gradients(recombine: str) -> None:
    torch.manual_seed(0)
    layer = GroupLayer([4, 3], [2, 5], recombine).double()
    nn.init.normal_(layer.context)
    assert torch.autograd.gradcheck(layer, torch.randn(7, 6, dtype=torch.float64, requires_grad=True))
    network = SRNet(width=50, recombine=recombine)
    prediction = network(torch.randn(32, 17, 2))
    assert prediction.sigma is not None
    (prediction.mu.abs().sum() + prediction.sigma.sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("sigma", ["coordinate", "joint"])
def test_a_new_network_predicts_joints_near_the_root(sigma: str) -> None:
    torch.manual_seed(0)
    prediction = SRNet(sigma=sigma)(torch.randn(32, 17, 2))
    assert prediction.mu.shape == (32, 17, 3)
    assert prediction.sigma is not None and prediction.log_sigma is not None
    assert prediction.mu.abs().max() < 0.05
    torch.testing.assert_close(prediction.sigma[:, 1:].median(), torch.tensor(0.12), rtol=0.2, atol=0)
    network = trained(sigma=sigma, width=50)
    prediction = network(torch.randn(8, 17, 2, dtype=torch.float64))
    assert prediction.sigma is not None and prediction.log_sigma is not None
    assert (prediction.mu[:, 0] == 0).all()
    assert (prediction.log_sigma[:, 0] == -torch.inf).all()
    assert (prediction.sigma[:, 1:] > 0).all()
    assert (prediction.sigma[..., 0] == prediction.sigma[..., 2]).all() == (sigma == "joint")


def test_outputs_keep_their_precision_under_autocast() -> None:
    network = SRNet(width=100)
    with torch.autocast("cpu", torch.bfloat16):
        prediction = network(torch.randn(8, 17, 2))
    assert prediction.log_sigma is not None
    assert prediction.mu.dtype == prediction.log_sigma.dtype == torch.float32
    x = torch.randn(100, 8)
    with torch.autocast("cpu", torch.bfloat16):
        half = network.eval().head(x)[0]
    torch.testing.assert_close(half, network.head(x)[0], rtol=0, atol=0)


def test_the_flipped_mean_is_symmetric() -> None:
    """The flip-test mean of mirrored keypoints is the mirror image of that of the keypoints, in mu and in sigma."""
    network = trained(width=50).eval()
    keypoints = torch.randn(4, 17, 2, dtype=torch.float64)
    straight, mirrored = network(keypoints), network(flip(keypoints, H36M17))
    one, other = mean_of_mirrored(straight, mirrored, H36M17), mean_of_mirrored(mirrored, straight, H36M17)
    torch.testing.assert_close(flip(one.mu, H36M17), other.mu)
    assert one.sigma is not None and other.sigma is not None
    torch.testing.assert_close(one.sigma[:, list(H36M17.mirror)], other.sigma)


@pytest.mark.parametrize(("groups", "recombine"), VARIANTS)
def test_a_configuration_builds_it(groups: int, recombine: str) -> None:
    config = SRNetConfig.model_validate({"groups": groups, "recombine": recombine, "layers": 8, "width": 64})
    network = build_lifter(config, H36M17, with_sigma=True)
    assert isinstance(network, SRNet)
    assert (len(network.groups), len(network.pairs), network.head.product.recombine) == (groups, 3, recombine)
    assert SRNet(with_sigma=False, width=50)(torch.randn(4, 17, 2)).sigma is None


@pytest.mark.parametrize("joint_set", [COCO17, MPII16, H36M18], ids=lambda joint_set: joint_set.name)
def test_its_groups_refuse_joints_other_than_human36m(joint_set: JointSet) -> None:
    with pytest.raises(InputError, match=f"expected the joints h36m17, .* got {joint_set.name}"):
        build_lifter(SRNetConfig(), joint_set, with_sigma=True)


@pytest.mark.parametrize("wrong", [{"groups": 4}, {"layers": 5}, {"recombine": "mean"}])
def test_unsupported_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        SRNet(**wrong)  # type: ignore[arg-type]
