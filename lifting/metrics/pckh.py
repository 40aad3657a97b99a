"""PCKh, MPII's measure of joints in a picture."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


def pckh_report(error: Tensor, labelled: Tensor, head_size: Tensor, joint_names: Sequence[str]) -> dict[str, Any]:
    """MPII's measure: joints that are off by at most a share of the head's size, in percent.

    ``pckh_50`` and ``pckh_10`` are at shares of 0.5 and 0.1, ``pckh_auc`` is the mean over shares of 0, 0.01, ..., 0.5.
    All three are over every labelled joint but pelvis and thorax, as MPII's own evaluation has it.

    Args:
        error: (N, 16) pixels.
        labelled: (N, 16) bool.
        head_size: (N,) pixels, 0.6 times the diagonal of the head's box; people without one (NaN) are left out.
        joint_names: MPII's 16.

    Raises:
        ValueError: shapes that do not fit, or nobody whose head's size is known.
    """
    if error.shape != labelled.shape or error.shape != (len(head_size), len(joint_names)):
        raise ValueError(
            f"error, labelled, head_size: expected (N, {len(joint_names)}), the same, (N,), got {tuple(error.shape)}, "
            f"{tuple(labelled.shape)}, {tuple(head_size.shape)}"
        )
    known = head_size.isfinite()
    if not known.any():
        raise ValueError("head_size: expected some that are known, got none")
    share, counted = error[known] / head_size[known, None], labelled[known].clone()
    per_joint = {
        joint: {"pckh_50": 100 * float((share[mine, j] <= 0.5).double().mean()), "n": int(mine.sum())}
        for j, joint in enumerate(joint_names)
        if (mine := counted[:, j]).any()
    }
    for joint in ("pelvis", "thorax"):
        counted[:, list(joint_names).index(joint)] = False
    shares = share[counted]

    def within(limit: float) -> float:
        return 100 * float((shares <= limit).double().mean())

    auc_value = sum(within(hundredth / 100) for hundredth in range(51)) / 51
    return {
        "pckh_50": within(0.5),
        "pckh_10": within(0.1),
        "pckh_auc": auc_value,
        "n_people": int(known.sum()),
        "pckh_per_joint": per_joint,
    }


def format_pckh(report: Mapping[str, Any]) -> str:
    """A `pckh_report` as lines for the screen."""
    joints = "  ".join(f"{joint} {row['pckh_50']:.1f}" for joint, row in report["pckh_per_joint"].items())
    return (
        f"2D, {report['n_people']:,} people: PCKh@0.5 {report['pckh_50']:.1f} %, PCKh@0.1 {report['pckh_10']:.1f} %, "
        f"AUC {report['pckh_auc']:.1f} %\nPCKh@0.5 by joint: {joints}"
    )
