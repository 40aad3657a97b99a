"""The errors that papers print, from poses to a table.

Protocol #1 is MPJPE and protocol #2 is PA-MPJPE, after the numbering that lifters use; other papers count otherwise, so
everything here goes by the metric's name. Metres come in; millimetres exist in the report alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lifting.chunks import in_chunks, rows_at_once
from lifting.geometry.alignment import align, scale_align

# How a prediction is moved towards its target before distances are taken.
_MOVES = {"mpjpe": lambda prediction, target: prediction, "pa_mpjpe": align, "n_mpjpe": scale_align}
_HEADS = {"mpjpe": "MPJPE (protocol #1)", "pa_mpjpe": "PA-MPJPE (protocol #2)", "n_mpjpe": "N-MPJPE"}
# Poses worked on at a time on a CPU: some megabytes, which malloc keeps (see likelihood.flow.ROWS).
CHUNK = 4096

# Poses of one set and of the other whose distances are taken at a time: a few megabytes, which stay in a CPU's cache.
_RARE_CHUNKS = (64, 1024)

PCK_THRESHOLD = 0.150
# Per cent of the poses, the rarest ones, that the SRNet paper reports.
RAREST = (5, 10, 20)
# 0, 5, ..., 150 mm
_AUC_THRESHOLDS = tuple(mm / 1000 for mm in range(0, 151, 5))


def joint_errors(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Distance of every joint from where it should be, under three alignments.

    With x a predicted pose and y the true one, both relative to the root, joint j is off by

    - ``mpjpe``: \\|x_j - y_j\\|. The root counts, with its error of zero.
    - ``pa_mpjpe``: \\|s R x_j + t - y_j\\|, the similarity that fits x to y best (`alignment.similarity`).
    - ``n_mpjpe``: \\|s x_j - y_j\\|, s = <x, y> / <x, x> (Rhodin et al. 2018).

    Float32 is accurate to about a micrometre for poses of a person's size.

    Args:
        prediction, target: (N, J, 3) metres, root-relative, one floating dtype and one device.

    Returns:
        each of the three as (N, J) metres.

    Raises:
        ValueError: the shapes differ or are not (N, J, 3), or poses are not finite.
    """
    if prediction.shape != target.shape or prediction.ndim != 3 or prediction.shape[-1] != 3:
        raise ValueError(
            f"prediction, target: expected equal (N, J, 3), got {tuple(prediction.shape)}, {tuple(target.shape)}"
        )
    for name, poses in (("prediction", prediction), ("target", target)):
        bad = int((~poses.sum((1, 2)).isfinite()).sum())  # one number that is not finite spoils a pose's sum
        if bad:
            raise ValueError(f"{name}: {bad} of {len(poses)} poses are not finite")
    errors = {name: prediction.new_empty(prediction.shape[:2]) for name in _MOVES}
    size = rows_at_once(CHUNK, prediction.device)
    for start in range(0, len(prediction), size):
        chunk = slice(start, start + size)
        x, y = prediction[chunk], target[chunk]
        for name, move in _MOVES.items():
            errors[name][chunk] = _distances(move(x, y), y)
    return errors


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """\\|x - y\\| over the last of (..., 3); `norm` takes twice as long over so few numbers."""
    a, b, c = (x - y).unbind(-1)
    return (a * a + b * b + c * c).sqrt()


def velocity_errors(prediction: Tensor, target: Tensor) -> Tensor:
    """How far each joint's velocity is off. The mean is MPJVE (Pavllo et al. 2019, VideoPose3D).

    \\|(x_t+1 - x_t) - (y_t+1 - y_t)\\|, in metres per frame.

    Args:
        prediction, target: (T, ..., J, 3) metres, the frames of one clip.

    Returns:
        (T - 1, ..., J); NaN where a frame is.

    Raises:
        ValueError: the shapes differ or do not end in 3.
    """
    if prediction.shape != target.shape or prediction.ndim < 3 or prediction.shape[-1] != 3:
        raise ValueError(
            f"prediction, target: expected equal (T, ..., J, 3), got {tuple(prediction.shape)}, {tuple(target.shape)}"
        )
    errors: Tensor = (prediction - target).diff(dim=0).norm(dim=-1)
    return errors


def pearson(x: Tensor, y: Tensor) -> float:
    """Pearson's correlation of two equally many numbers, of any shape; NaN where one of the two does not vary."""
    if x.numel() != y.numel():
        raise ValueError(f"x, y: expected equally many numbers, got {tuple(x.shape)}, {tuple(y.shape)}")
    return float(torch.corrcoef(torch.stack([x.flatten().double(), y.flatten().double()]))[0, 1])


def pck(error: Tensor, threshold: float = PCK_THRESHOLD) -> float:
    """Percentage of correct keypoints: joints of (N, J) metres that are off by less than ``threshold`` metres."""
    return 100 * int(torch.count_nonzero(error < threshold)) / error.numel()


def auc(error: Tensor) -> float:
    """Area under the PCK curve in percent: the mean PCK over thresholds of 0, 5, ..., 150 mm.

    As the evaluation code of MPI-INF-3DHP has it (Mehta et al. 2017, `mpii_compute_3d_pck.m`). Its first threshold, 0,
    is never met, so that a perfect prediction reaches 30 / 31.
    """
    return sum(pck(error, threshold) for threshold in _AUC_THRESHOLDS) / len(_AUC_THRESHOLDS)


def rareness(poses: Tensor, training: Tensor) -> Tensor:
    """How far each pose is from those of the training: the mean over all of them, and over the joints.

    r(x) = 1 / (M J) sum over m, j of \\|x_j - y_mj\\| for training poses y_1, ..., y_M. This is what SRNet's authors
    (Zeng et al. 2020) rank by (`un_frequent` in their `data/filter_data.py`), not the distance to the nearest pose.

    Args:
        poses: (N, J, 3) metres, root-relative.
        training: (M, J, 3) likewise; the authors take every 10th frame.

    Returns:
        (N,) float64 metres; from float32 poses a distance is good to 0.5 mm where joints coincide, else to micrometres.

    Raises:
        ValueError: shapes that are not (N, J, 3) and (M, J, 3), or no training poses.
    """
    if poses.ndim != 3 or poses.shape[1:] != training.shape[1:] or not len(training):
        raise ValueError(
            f"poses, training: expected (N, J, 3), (M, J, 3), got {tuple(poses.shape)}, {tuple(training.shape)}"
        )
    # |x - y|^2 = |x|^2 - 2 x.y + |y|^2 as one product of five-vectors; from the middle, which keeps the squares small.
    middle = training.mean(0)
    x, y = (poses - middle).transpose(0, 1), (training - middle).transpose(0, 1)
    xx, yy = x.square().sum(-1, keepdim=True), y.square().sum(-1, keepdim=True)
    left = torch.cat([-2 * x, xx, torch.ones_like(xx)], -1)
    right = torch.cat([y, torch.ones_like(yy), yy], -1).mT.contiguous()
    few, many = _RARE_CHUNKS
    sums = [
        torch.stack([(a @ b).clamp_(min=0).sqrt_().sum((0, 2)).double() for b in torch.split(right, many, dim=2)]).sum(
            0
        )
        for a in torch.split(left, few, dim=1)
    ]
    return torch.cat(sums) / (len(training) * training.shape[1])


def rare_report(errors: Mapping[str, Tensor], rare: Tensor) -> dict[str, Any]:
    """Mean errors of the rarest 5, 10 and 20 % of the poses, in millimetres, and how many these are, by the percentage.

    Args:
        errors: what `joint_errors` returned, (N, J) each.
        rare: (N,) what `rareness` returned.
    """
    order = rare.argsort(descending=True)
    report = {}
    for percent in RAREST:
        chosen = order[: max(1, len(order) * percent // 100)]
        means = {f"{m}_mm": 1000 * float(error[chosen].mean(dtype=torch.float64)) for m, error in errors.items()}
        report[str(percent)] = {**means, "n_poses": len(chosen)}
    return report


class PoseSums:
    """What a `pose_report` is made of, summed over parts of the poses, so that they need not be in memory all at once.

    Args:
        action_names: the actions that poses can be of.
        joint_names: J names.
    """

    def __init__(self, action_names: Sequence[str], joint_names: Sequence[str]) -> None:
        self.action_names, self.joint_names = action_names, joint_names
        self._counts = torch.zeros(len(action_names), dtype=torch.int64)
        self._sums: dict[str, Tensor] = {}  # metric -> (actions, J) float64
        self._correct = torch.zeros(len(_AUC_THRESHOLDS), dtype=torch.int64)

    def add(self, errors: Mapping[str, Tensor], actions: Tensor) -> None:
        """Adds some poses.

        Args:
            errors: what `joint_errors` returned, (N, J) metres each.
            actions: (N,) int64, each pose's index in ``action_names``.

        Raises:
            ValueError: no poses, or numbers of poses or joints that do not match.
        """
        expected = (len(actions), len(self.joint_names))
        for name, error in errors.items():
            if tuple(error.shape) != expected or not len(actions):
                raise ValueError(f"{name}: expected {expected} errors of at least one pose, got {tuple(error.shape)}")
        count = len(self.action_names)
        self._counts += torch.bincount(actions.cpu(), minlength=count)
        # In chunks, because a sum in float64 begins with a copy in float64.
        rows = in_chunks(actions, CHUNK)
        for name, error in errors.items():
            total = self._sums.setdefault(name, torch.zeros(count, expected[1], dtype=torch.float64))
            for part, mine in zip(in_chunks(error, CHUNK), rows, strict=True):
                share = torch.nn.functional.one_hot(mine, count).double()
                total += (share.mT @ part.double()).cpu()
        for part in in_chunks(errors["mpjpe"], CHUNK):
            self._correct += torch.stack([torch.count_nonzero(part < limit) for limit in _AUC_THRESHOLDS]).cpu()

    def report(self) -> dict[str, Any]:
        """The report of all poses so far, see `pose_report`.

        Raises:
            ValueError: there were none.
        """
        poses, joints = int(self._counts.sum()), len(self.joint_names)
        if not poses:
            raise ValueError("report: expected at least one pose, got none")
        per_action: dict[str, dict[str, float]] = {}
        for index in self._counts.nonzero()[:, 0].tolist():
            count = int(self._counts[index])
            means = {f"{m}_mm": 1000 * float(total[index].sum()) / (count * joints) for m, total in self._sums.items()}
            per_action[self.action_names[index]] = {**means, "n_poses": count}
        shares = [100 * correct / (poses * joints) for correct in self._correct.tolist()]
        return {
            **{f"{m}_mm": sum(row[f"{m}_mm"] for row in per_action.values()) / len(per_action) for m in self._sums},
            **{f"{m}_frame_mm": 1000 * float(total.sum()) / (poses * joints) for m, total in self._sums.items()},
            "n_poses": poses,
            "pck_150mm": shares[_AUC_THRESHOLDS.index(PCK_THRESHOLD)],
            "auc": sum(shares) / len(shares),
            "per_action": per_action,
            "per_joint": {
                joint: {f"{m}_mm": 1000 * float(self._sums[m][:, j].sum()) / poses for m in ("mpjpe", "pa_mpjpe")}
                for j, joint in enumerate(self.joint_names)
            },
        }


def pose_report(
    errors: Mapping[str, Tensor], actions: Tensor, action_names: Sequence[str], joint_names: Sequence[str]
) -> dict[str, Any]:
    """The numbers of a table, ready for JSON: millimetres and percent.

    ``mpjpe_mm``, ``pa_mpjpe_mm``, ``n_mpjpe_mm`` are means over the actions' means, the headline of the papers: an
    action of few frames weighs as much as one of many. The same with ``_frame_mm`` are means over all poses.

    Args:
        errors: what `joint_errors` returned, (N, J) each.
        actions: (N,) int64, each pose's index in ``action_names``; an action without poses is left out.
        joint_names: J names.

    Raises:
        ValueError: no poses, or numbers of poses or joints that do not match.
    """
    sums = PoseSums(action_names, joint_names)
    sums.add(errors, actions)
    return sums.report()


def format_report(report: Mapping[str, Any]) -> str:
    """A `pose_report` as a table for the screen: actions, means, joints.

    Where the report holds them, a `rare_report` (under ``rare``) and a `bones.bone_report` too.
    """
    actions, joints = report["per_action"], report["per_joint"]
    first = max(len(name) for name in (*actions, *joints, "mean over 15 actions"))

    def row(name: str, values: Mapping[str, float], kind: str = "mm") -> str:
        cells = (f"{values[f'{m}_{kind}']:>{len(h)}.1f}" for m, h in _HEADS.items() if f"{m}_{kind}" in values)
        poses = [f"{values['n_poses']:>9,}"] if "n_poses" in values else []
        return "  ".join([f"{name:<{first}}", *cells, *poses])

    head = "  ".join([f"{'millimetres':<{first}}", *_HEADS.values(), f"{'poses':>9}"])
    rule = "-" * len(head)
    over_actions = f"mean over {len(actions)} action{'s' if len(actions) > 1 else ''}"
    means = [row(over_actions, report), row("mean over all frames", report, "frame_mm")]
    means += [row(f"rarest {percent} %", values) for percent, values in report.get("rare", {}).items()]
    shares = f"PCK at 150 mm {report['pck_150mm']:.1f} %, AUC {report['auc']:.1f} %"
    names = {"mpsse_mm": "left against right (MPSSE)", "mpsce_mm": "over time (MPSCE)"}
    bones = [f"{name} {report[key]:.1f} mm" for key, name in names.items() if key in report]
    last = [f"bone lengths differ: {', '.join(bones)}"] if bones else []
    per_action, per_joint = ([row(*item) for item in table.items()] for table in (actions, joints))
    return "\n".join([head, rule, *per_action, rule, *means, rule, *per_joint, rule, shares, *last])
