"""What a lifter sees of a person: relative to him, with joints that may be missing, and on the screen."""

import pytest
import torch

from lifting.config import FCConfig, SRNetConfig
from lifting.geometry.joint_maps import flip
from lifting.geometry.skeleton import H36M17
from lifting.models import build_lifter
from lifting.models.person import CHANNELS, SEEN, relative_to_person, seen_by


def keypoints(count: int = 6) -> torch.Tensor:
    uv = torch.randn(count, 17, 2, dtype=torch.float64)
    return torch.cat([uv, torch.ones_like(uv[..., :1])], -1)


def test_place_and_size_in_the_picture_do_not_matter() -> None:
    points = keypoints()
    moved = points.clone()
    moved[..., :2] = 0.3 * points[..., :2] + torch.tensor([2.0, -1.0])
    torch.testing.assert_close(relative_to_person(moved), relative_to_person(points))


def test_the_joints_that_are_seen_have_mean_zero_and_distance_one() -> None:
    points = keypoints()
    points[0, 3:9, 2] = 0
    points[1, :, 2] = 0.4
    uv = relative_to_person(points)[..., :2]
    seen = points[..., 2:] > 0
    torch.testing.assert_close((uv * seen).sum(1), torch.zeros(6, 2, dtype=torch.float64))
    torch.testing.assert_close((uv.norm(dim=-1, keepdim=True) * seen).sum(1) / seen.sum(1), torch.ones(6, 1).double())
    torch.testing.assert_close(relative_to_person(points)[..., 2], points[..., 2])  # the confidence passes


def test_coordinates_of_missing_joints_are_ignored() -> None:
    points = keypoints()
    points[:, [0, 5, 16], 2] = 0
    other = points.clone()
    other[:, [0, 5, 16], :2] = 1e4
    assert torch.equal(relative_to_person(other), relative_to_person(points))
    assert (relative_to_person(points)[:, [0, 5, 16]] == 0).all()


def test_no_joint_or_one_joint_is_finite() -> None:
    points = keypoints(2)
    points[0, :, 2] = 0
    points[1, 1:, 2] = 0
    assert relative_to_person(points).isfinite().all()


@pytest.mark.parametrize("config", [FCConfig(width=32, input="person"), SRNetConfig(width=64, input="person")])
def test_networks_take_three_channels(config: FCConfig | SRNetConfig) -> None:
    torch.manual_seed(0)
    network = build_lifter(config, H36M17, with_sigma=True).eval()
    points = keypoints().float()
    out = network(points)
    assert out.mu.shape == out.log_sigma.shape == (6, 17, 3)
    moved = torch.cat([0.5 * points[..., :2] - 0.1, points[..., 2:]], -1)
    torch.testing.assert_close(network(moved).mu, out.mu, atol=1e-6, rtol=1e-4)
    masked = points.clone()
    masked[:, 4, 2] = 0
    assert not torch.allclose(network(masked).mu, out.mu, atol=1e-6)  # the mask is seen
    assert network.channels == 3


@pytest.mark.parametrize("config", [FCConfig(width=32, input="both"), SRNetConfig(width=64, input="both")])
def test_networks_see_both_places(config: FCConfig | SRNetConfig) -> None:
    """With the weights of the screen at zero, the place relative to the person is left, and only that."""
    torch.manual_seed(0)
    network = build_lifter(config, H36M17, with_sigma=True).eval()
    points = keypoints().float()[..., :2]
    moved = 0.5 * points - 0.1
    assert network.channels == 2
    assert not torch.allclose(network(moved).mu, network(points).mu, atol=1e-6)
    entry = network.get_submodule("entry")
    for weight in entry.parameters():
        if weight.ndim == 2:
            weight.data.view(len(weight), -1, 4)[..., :2] = 0
    torch.testing.assert_close(network(moved).mu, network(points).mu, atol=1e-6, rtol=1e-4)
    assert not torch.allclose(network(points.flip(0)).mu, network(points).mu, atol=1e-6)


@pytest.mark.parametrize("kind", ["screen", "both", "person"])
def test_the_mirror_image_is_seen_as_the_mirror_image(kind: str) -> None:
    points = keypoints()[..., : CHANNELS[kind]]
    seen, mirrored = seen_by(kind, points), seen_by(kind, flip(points, H36M17))
    assert seen.shape == (6, 17, SEEN[kind])
    for pair in torch.split(torch.stack([seen, mirrored]), 2, dim=-1):
        torch.testing.assert_close(pair[1], flip(pair[0], H36M17) if pair.shape[-1] == 2 else pair[0])
