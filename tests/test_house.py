"""The rooms of the package: which floor each is on, which files it has, and that nothing imports upwards."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lifting"

# Floors from the ground up, each with its rooms and single files. The files of a room are listed from the bottom up: a
# file may import those before it. Rooms and files on the same floor do not import each other.
HOUSE: list[dict[str, list[str]]] = [
    {
        "geometry": ["skeleton", "joint_maps", "cameras", "views", "rays", "crops", "alignment", "h36m"],
        "command": [],
        "prediction": [],
        "shipped": [],
        "chunks": [],
    },
    {"safe_yaml": [], "safe_npz": [], "safe_hdf5": [], "safe_json": []},
    {"config": ["sections", "reading"], "checkpoint": [],
     "metrics": ["pose_errors", "calibration", "scores", "bones", "oks", "pckh"]},
    {
        "keypoints": [
            "joint_sets", "detections", "people", "checks", "array_formats",
            "json_people", "json_frames", "json_formats", "formats",
        ],
        "likelihood": [
            "unit_densities", "coupling_step", "flow_kernels", "flow", "scalar_flow", "scale",
            "shared_flow", "learned", "mixed", "build", "radial_mixture", "pose_density",
        ],
        "datasets": [
            "pose_checks", "store", "poses", "recordings", "pose_augment", "pose_batches",
            "image_set", "decode", "coco_truth", "image_index", "image_packing", "augment", "image_batches",
        ],
    },
    {"lifted": []},
    {
        "models": [
            "person", "fc", "srnet", "folded",
            "resnet", "hrnet", "integral", "heatmap", "regressor", "hrnet_pose", "pretrained",
            "reference_weights", "published_weights", "cost",
        ],
        "sources": [
            "bone_frames", "asf_amc", "bvh", "joint_places", "motion_files", "bvh_map", "recorded_motion",
            "apart", "h36m_poses", "annotations", "h36m_images", "mpii_images", "coco_images", "image_readers",
        ],
        "synthetic": [
            "proportions", "motion", "action_scripts", "poses", "rendering", "body_shape", "scenery", "making",
            "pictures", "group_pictures",
        ],
        "drawing": [
            "pose_figures", "keypoint_figures", "hypothesis_figure", "diagrams", "scene", "viewer", "brush", "stage",
            "moving_figures",
        ],
    },
    {"training": [
        "adam", "allocator", "ranks", "stops", "run_folder", "norms", "objective", "steps", "recorded", "health",
        "progress", "engine", "evaluation",
    ], "evaluate": [], "series": []},
    {"lifter": [], "chosen_pictures": []},
    {"reports": [
        "density_scores", "uncertainty", "camera_evidence", "hypotheses", "image_evaluation", "robustness",
        "keypoint_evaluation",
    ]},
    {"single_stage": [], "estimate": [], "crossfit": []},
    {"inference": [
        "onnx_backend", "pixel_lifter", "export", "lifter", "lifted_people", "intrinsics", "root", "picture_lifter",
        "picture_report",
        "rts", "smoothing", "bvh",
    ]},
    {"commands": [
        "options", "runs", "truth", "lift",
        "lifting_verbs", "single_stage_verbs", "lifting_track", "single_stage_track",
    ]},
]  # fmt: skip
FLOOR = {room: number for number, floor in enumerate(HOUSE) for room in floor}
SHELF = {room: files for floor in HOUSE for room, files in floor.items()}


def parts(path: Path) -> tuple[str, str]:
    """A file's room and its name in the room; the name is "" for a single file and for the ``__init__`` of a room."""
    room, *name = path.relative_to(PACKAGE).with_suffix("").parts
    return room, "" if name in ([], ["__init__"]) else ".".join(name)


def imports(path: Path) -> set[tuple[str, str]]:
    """The room and file of everything in this package that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            # `from lifting.room import x`: x is a file of the room, or a name of its __init__
            names = [f"{module}.{alias.name}" for alias in node.names] if module.count(".") < 2 else [module]
        for name in names:
            top, _, rest = name.partition(".")
            if top == "lifting":
                room, _, file = rest.partition(".")
                found.add((room, file if file in SHELF.get(room, []) else ""))
    return found


def test_every_file_has_its_place() -> None:
    modules = {parts(path) for path in PACKAGE.rglob("*.py")} - {("__init__", "")}
    assert modules == {(room, file) for room, files in SHELF.items() for file in ["", *files]}


def test_no_file_imports_upwards() -> None:
    for path in sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "__init__.py"}):  # which stands above everything
        room, file = parts(path)
        for other, other_file in imports(path):
            edge = f"{room}.{file} imports {other}.{other_file}"
            if other != room:
                assert FLOOR[other] < FLOOR[room], edge
            elif file:  # a room's __init__ stands above its files
                assert other_file, f"{edge}: a file does not import its own room"
                assert SHELF[room].index(other_file) < SHELF[room].index(file), edge


def test_no_room_is_the_whole_house() -> None:
    lines = dict.fromkeys(SHELF, 0)
    for path in PACKAGE.rglob("*.py"):
        lines[parts(path)[0]] = lines.get(parts(path)[0], 0) + len(path.read_text().splitlines())
    room = max(lines, key=lambda room: lines[room])
    assert lines[room] < 0.16 * sum(lines.values()), f"{room} has outgrown the house: {lines}"


def test_the_tests_mirror_the_rooms() -> None:
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and list(path.glob("test_*.py"))}
    hurt = {"faults", "fuzz", "hostile", "load"}  # what `make faults`, `fuzz` and `load` run, and files made to do harm
    assert folders <= {room for room, files in SHELF.items() if files} | {"gpu"} | hurt


def test_print_is_for_command_lines() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "commands" and path.name not in ("command.py", "evaluate.py", "series.py"):
            calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
            assert not any(isinstance(n.func, ast.Name) and n.func.id == "print" for n in calls), path


def test_nothing_runs_at_import() -> None:
    command = [sys.executable, "-c", "import lifting.series, lifting.lifter, lifting.evaluate, lifting.estimate"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
