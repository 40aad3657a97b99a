"""The fully connected lifter and its parts."""

import pytest
import torch
from torch import Tensor

from lifting.config import FCConfig, load_config
from lifting.geometry.skeleton import H36M17, JOINT_SETS, JointSet
from lifting.lifter import build_objective, cost
from lifting.models import build_lifter
from lifting.models.fc import Dropout, FCBaseline, Head
from lifting.models.srnet import SRNet


def test_parameter_counts() -> None:
    """34 -> 1024, two blocks of two layers, -> 51: 4.29M as in the paper; a second head adds a sigma per joint."""
    plain, with_sigma = (
        sum(p.numel() for p in build_lifter(FCConfig(), H36M17, with_sigma=s).parameters()) for s in (False, True)
    )
    assert plain == 4_296_755
    assert with_sigma == plain + 1024 * 17 + 17


def test_a_new_network_predicts_joints_near_the_root() -> None:
    torch.manual_seed(0)
    prediction = FCBaseline().eval()(torch.randn(32, 17, 2))
    assert prediction.mu.shape == (32, 17, 3)
    assert prediction.sigma is not None
    assert prediction.mu.abs().max() < 0.05
    torch.testing.assert_close(prediction.sigma[:, 1:].median(), torch.tensor(0.12), rtol=0.2, atol=0)
    assert ((prediction.sigma >= 0) & (prediction.sigma < 1)).all()


def test_the_root_and_its_sigma_are_zero() -> None:
    network = FCBaseline(width=32)
    torch.nn.init.normal_(network.mu_head.weight)
    prediction = network(torch.randn(8, 17, 2))
    assert (prediction.mu[:, 0] == 0).all()
    assert prediction.sigma is not None
    assert (prediction.sigma[:, 0] == 0).all()
    assert (prediction.sigma[:, 1:] > 0).all()
    assert FCBaseline(width=32, with_sigma=False)(torch.randn(8, 17, 2)).sigma is None


@pytest.mark.parametrize("joint_set", JOINT_SETS.values(), ids=JOINT_SETS)
def test_a_configuration_builds_it_for_any_joint_set(joint_set: JointSet) -> None:
    network = build_lifter(FCConfig(width=8), joint_set, with_sigma=True)
    assert network.known == (joint_set.root,)
    prediction = network(torch.randn(8, len(joint_set), 2))
    assert prediction.mu.shape == (8, len(joint_set), 3)
    assert (prediction.mu.norm(dim=-1) == 0).nonzero()[:, 1].unique().tolist() == [joint_set.root]


@pytest.mark.parametrize("shape", [(64, 1000), (7, 3), (1, 1), (333,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_the_share_it_should(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = Dropout(0.25)
    x = torch.ones(shape, dtype=dtype)
    y = layer(x)
    assert y.shape == x.shape
    assert y.dtype == dtype
    assert set(y.float().unique().tolist()) <= {0.0, torch.tensor(1 / 0.75, dtype=dtype).item()}
    n = x.numel()
    assert abs((y == 0).sum().item() - 0.25 * n) < 5 * (0.25 * 0.75 * n) ** 0.5
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def test_dropout_draws_anew_and_follows_the_seed() -> None:
    layer, x = Dropout(0.5), torch.ones(100, 100)
    torch.manual_seed(3)
    one, two = layer(x), layer(x)
    torch.manual_seed(3)
    assert torch.equal(layer(x), one)
    assert ((one != two).float().mean() - 0.5).abs() < 0.05
    # neighbours, which share a machine word, are independent
    dropped = (one == 0).float()
    assert torch.corrcoef(torch.stack([dropped[:, :-1].flatten(), dropped[:, 1:].flatten()]))[0, 1].abs() < 0.05


def test_heads_keep_their_precision_under_autocast() -> None:
    head = Head(64, 5, scale=0.5, bias=-2.0)
    x = torch.randn(9, 64)
    with torch.autocast("cpu", torch.bfloat16):
        y = head(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, 0.5 * x @ head.weight.T - 2)


def test_multiply_adds_are_the_papers() -> None:
    """Tab. 8 of the RLE paper gives the FC baseline 4.29M parameters and 0.275 G, which is for a batch of 64."""
    l2, rle = (build_objective(load_config(overrides=[f"loss.name={name}"]), H36M17) for name in ("l2", "rle"))
    found = cost(l2, 17)
    assert found["parameters"] / 1e6 == pytest.approx(4.29, abs=0.01)
    assert 64 * found["multiply_adds"] / 1e9 == pytest.approx(0.275, abs=0.001)
    assert set(cost(rle, 17)) == {"parameters", "multiply_adds", "flow_parameters", "flow_multiply_adds"}


@pytest.mark.parametrize("network", [FCBaseline(width=64), SRNet(width=64)], ids=["fc", "srnet"])
def test_keypoints_are_not_rounded_under_autocast(network: FCBaseline | SRNet) -> None:
    """Only their product with the weights is rounded: near the border of a picture, bfloat16 has steps of 2 pixels."""
    network.eval()
    entered: list[Tensor] = []
    product = network.entry[0] if isinstance(network, FCBaseline) else network.entry.product
    product.register_forward_hook(lambda module, inputs, output: entered.append(output))
    keypoints = 0.9 + torch.rand(32, 17, 2) / 1000
    network(keypoints)
    with torch.autocast("cpu", torch.bfloat16):
        network(keypoints)
    exact, rounded = entered
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(rounded, exact.bfloat16())
