"""Scenes: level floors, places, and the ray frame in the camera frame."""

from dataclasses import replace

import numpy as np
import pytest

from lifting.drawing.scene import ANKLE, build_scene, rotation_between
from tests.drawing.people import absent, people


def test_the_smallest_rotation() -> None:
    random = np.random.default_rng(0)
    start, end = random.normal(size=(2, 100, 3))
    start, end = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (start, end))
    rotation = rotation_between(start, end)
    np.testing.assert_allclose(np.einsum("nab,nb->na", rotation, start), end, atol=1e-12)
    np.testing.assert_allclose(rotation @ rotation.swapaxes(1, 2), np.broadcast_to(np.eye(3), (100, 3, 3)), atol=1e-12)
    cosine = (np.trace(rotation, axis1=1, axis2=2) - 1) / 2
    np.testing.assert_allclose(cosine, (start * end).sum(-1), atol=1e-12)  # smallest: its angle is that between them


@pytest.mark.parametrize("pitch", [0.0, 0.3, -0.4])
def test_the_floor_is_level(pitch: float) -> None:
    lifted, truth = people(pitch=pitch)
    scene = build_scene(lifted, truth)
    assert scene.truth is not None
    up = (scene.truth[..., 8, :] - scene.truth[..., [3, 6], :].mean(-2)).mean((0, 1))
    assert np.degrees(np.arccos(up[1] / np.linalg.norm(up))) < 1
    assert scene.tilt == pytest.approx(abs(np.degrees(pitch)), abs=1)
    np.testing.assert_allclose(scene.axes @ scene.axes.swapaxes(-1, -2), np.eye(3)[None, None], atol=1e-12)
    # Column i of the axes is axis i: with it, joints come back as the file has them.
    np.testing.assert_allclose(scene.joints @ scene.axes[0, 0], lifted.joints, atol=1e-9)


def test_who_never_stands_does_not_tilt_the_floor() -> None:
    lifted, _ = people(pitch=0.3)
    lifted.joints[..., [3, 6], :] = lifted.joints[..., [1, 4], :]  # ankles at the hips
    assert build_scene(lifted).tilt == 0


def test_without_places_people_stand_side_by_side_as_the_picture_has_them() -> None:
    lifted, _ = people(count=3)
    scene = build_scene(lifted)
    x = scene.place[0, :, 0]
    assert x[0] > x[1] > x[2]
    assert np.diff(x[::-1]).min() > 1
    lowest = (scene.joints + scene.place[:, :, None])[..., 1].min(-1)
    np.testing.assert_allclose(lowest, ANKLE, atol=1e-9)
    assert scene.camera is None


def test_people_who_never_meet_share_a_place() -> None:
    lifted, _ = people(count=3)
    absent(lifted, slice(0, 20), 1)
    absent(lifted, slice(20, None), 2)
    x = build_scene(lifted).place[0, :, 0]
    assert x[1] == x[2] != x[0]


@pytest.mark.parametrize("axes", ["camera", "ray"])
def test_known_places(axes: str) -> None:
    """Distances between people and from the camera are those of the camera frame."""
    lifted, truth = people(count=2, root=True, pitch=0.2)
    assert lifted.root is not None
    seen, true = lifted.joints + lifted.root[:, :, None], truth + lifted.root[:, :, None]
    if axes == "ray":
        ray = lifted.root / np.linalg.norm(lifted.root, axis=-1, keepdims=True)
        to_ray = rotation_between(ray, np.array([0.0, 0.0, 1.0]))
        lifted = replace(lifted, axes="ray", joints=np.einsum("tpab,tpjb->tpja", to_ray, lifted.joints))
        truth = np.einsum("tpab,tpjb->tpja", to_ray, truth)
    scene = build_scene(lifted, truth)
    assert scene.camera is not None and scene.truth is not None
    shown = scene.joints + scene.place[:, :, None]
    assert np.linalg.norm(shown - scene.camera, axis=-1) == pytest.approx(np.linalg.norm(seen, axis=-1), abs=1e-9)
    apart = np.linalg.norm(shown[:, 0] - shown[:, 1], axis=-1)
    assert apart == pytest.approx(np.linalg.norm(seen[:, 0] - seen[:, 1], axis=-1), abs=1e-9)
    ghost = scene.truth + scene.place[:, :, None]
    errors = np.linalg.norm(ghost - shown, axis=-1)
    assert errors == pytest.approx(np.linalg.norm(true - seen, axis=-1), abs=1e-9)
    assert np.abs(np.median(shown[..., 1].min(-1)) - ANKLE) < 0.05
    back = np.einsum("tpji,tpkj->tpki", np.broadcast_to(scene.axes, (*shown.shape[:2], 3, 3)), scene.joints)
    np.testing.assert_allclose(back, lifted.joints, atol=1e-9)


def test_gaps_in_places_are_filled() -> None:
    lifted, _ = people(count=2, root=True)
    assert lifted.root is not None
    lifted.root[5:9, 0] = np.nan
    lifted.root[:, 1] = np.nan
    scene = build_scene(lifted)
    assert np.isfinite(scene.place).all()
    steps = np.diff(scene.place[:, 0], axis=0)
    np.testing.assert_allclose(steps, np.broadcast_to(steps[:1], steps.shape), atol=1e-9)


def test_truth_of_another_shape() -> None:
    lifted, truth = people()
    with pytest.raises(ValueError, match=r"truth: expected \(40, 1, 17, 3\), got \(39, 1, 17, 3\)"):
        build_scene(lifted, truth[1:])
