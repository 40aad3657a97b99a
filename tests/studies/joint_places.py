"""Draws docs/joint_places.png: CMU's joints, and where `lifting.sources.joint_places` brings them.

    python tests/studies/joint_places.py ../shared/data/cmu_bvh.zip docs/joint_places.png

A T-pose (the first frame of a file, which training never sees), a walk, and a dancer, each from the front and from the
person's left, in his own axes; and the mean bone lengths over people beside those of Human3.6M's published skeleton.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from lifting.drawing.pose_figures import LEFT, MIDDLE, RIGHT, new_figure, save_figure
from lifting.geometry.skeleton import COCO17, H36M17
from lifting.sources.bvh import parse_bvh
from lifting.sources.bvh_map import BvhMap, read_map
from lifting.sources.joint_places import Body, place_joints
from lifting.sources.motion_files import MotionFile, find_motion_files

ROOT = Path(__file__).parents[2]
# Half the width of a panel in metres, from the front and from the left.
WIDTHS = ((0.85, 0.3), (0.45, 0.5), (0.45, 0.5))
SHOWN = (("02_01", 0, "T-pose"), ("07_01", 150, "walking"), ("05_02", 240, "dancing"))
# Metres: the skeleton of S1, see `joint_places`.
PUBLISHED = {
    "hip": 0.133, "knee": 0.443, "ankle": 0.454, "spine": 0.233, "thorax": 0.257, "neck": 0.121,
    "head": 0.115, "shoulder": 0.151, "elbow": 0.279, "wrist": 0.252,
}  # fmt: skip


def main() -> None:
    source, output = map(Path, sys.argv[1:])
    bvh_map = read_map(ROOT / "data" / "maps" / "cmu.yaml")
    files = {file.stem: file for file in find_motion_files(source, ".bvh")}
    figure = new_figure(10, 6.6)
    widths = [width for pair in WIDTHS for width in pair]
    panels = figure.subplots(2, len(widths), width_ratios=widths)
    for column, (name, frame, title) in enumerate(SHOWN):
        body = one_frame(bvh_map, files[name].text(), name, frame)
        for view in range(2):
            front, own = panels[0, 2 * column + view], body.own_places()[0]
            draw(front, seen(body, own, view), H36M17.bones, "#b8b8b8", 3.0)
            draw_sides(front, seen(body, place_joints(body, H36M17)[0], view))
            below = panels[1, 2 * column + view]
            draw(below, seen(body, own, view), H36M17.bones, "#b8b8b8", 3.0)
            draw(below, seen(body, place_joints(body, COCO17)[0], view), COCO17.bones, "#009e73", 1.4)
            for panel in (front, below):
                panel.set(xlim=(-WIDTHS[column][view], WIDTHS[column][view]), ylim=(-1.0, 0.75))
            front.set_title(f"{title}\n{'from the left' if view else 'from the front'}", fontsize=8)
    panels[0, 0].set_ylabel("Human3.6M's places")
    panels[1, 0].set_ylabel("COCO's places")
    figure.suptitle("Grey: where CMU has its joints. Colours: where the labels of detectors have them", fontsize=10)
    save_figure(figure, output)
    report(bvh_map, files)


def one_frame(bvh_map: BvhMap, text: str, name: str, frame: int) -> Body:
    bvh = parse_bvh(text, name)
    return bvh_map.body(
        bvh_map.model_copy(update={"drop": 0}).bones(replace(bvh, motion=bvh.motion[frame : frame + 1]))
    )


def seen(body: Body, points: np.ndarray, view: int) -> np.ndarray:
    """(J, 3) -> (J, 2): from the front (0) or from the left (1), upright, the person's pelvis at the origin."""
    left = body.axes["pelvis"].apply([1.0, 0, 0])[0] * [1, 1, 0]
    left /= np.linalg.norm(left)
    forward = np.array([left[1], -left[0], 0])
    across = left if view == 0 else forward * -1
    offset = points - body.joints["pelvis"][0]
    return np.stack([offset @ across, offset[:, 2]], 1)


def draw(panel: Axes, flat: np.ndarray, bones: list[tuple[int, int]], colour: str, width: float) -> None:
    for parent, child in bones:
        panel.plot(*flat[[parent, child]].T, color=colour, lw=width, solid_capstyle="round", zorder=1)
    panel.plot(*flat.T, "o", color=colour, ms=width + 1, zorder=2)
    panel.set(aspect="equal", xticks=[], yticks=[])
    panel.spines[:].set_visible(False)


def draw_sides(panel: Axes, flat: np.ndarray) -> None:
    for parent, child in H36M17.bones:
        colour = LEFT if child in H36M17.left else RIGHT if child in H36M17.right else MIDDLE
        panel.plot(*flat[[parent, child]].T, color=colour, lw=1.4, marker="o", ms=2.4, zorder=3)


def report(bvh_map: BvhMap, files: dict[str, MotionFile]) -> None:
    lengths = []
    for name in ("01_01", "02_01", "03_03", "05_01", "06_01", "07_01", "08_01", "09_12"):
        body = bvh_map.body(bvh_map.bones(parse_bvh(files[name].text(), name), 4))
        joints = place_joints(body, H36M17)
        bones = [np.linalg.norm(joints[:, child] - joints[:, parent], axis=-1) for parent, child in H36M17.bones]
        lengths.append(np.median(bones, axis=1))
    for name, published in PUBLISHED.items():
        ours = [
            np.mean(lengths, 0)[i] for i, (_, child) in enumerate(H36M17.bones) if H36M17.joints[child].endswith(name)
        ]
        print(f"{name:<10}{1000 * np.mean(ours):6.0f} mm, Human3.6M's S1{1000 * published:6.0f}")


if __name__ == "__main__":
    main()
