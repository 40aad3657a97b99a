"""PCKh by hand, and what it refuses."""

import json

import numpy as np
import pytest
import torch

from lifting.geometry.skeleton import MPII16
from lifting.metrics.pckh import format_pckh, pckh_report


@pytest.mark.parametrize("shapes", [((2, 16), (2, 15)), ((2, 15), (2, 16)), ((2, 15), (2, 15)), ((2, 17), (2, 17)),
                                    ((1, 16), (1, 16)), ((3, 16), (3, 16))])  # fmt: skip
def test_pckh_of_other_shapes_is_refused(shapes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    error, labelled = torch.zeros(shapes[0]), torch.ones(shapes[1], dtype=torch.bool)
    with pytest.raises(ValueError, match="expected \\(N, 16\\), the same, \\(N,\\)"):
        pckh_report(error, labelled, torch.ones(2), MPII16.joints)


def test_pckh_by_hand() -> None:
    """Two people, heads of 10 and 100 pixels; pelvis and thorax do not count, unlabelled joints neither."""
    error = torch.full((3, 16), 1.0)
    labelled = torch.ones(3, 16, dtype=torch.bool)
    head = torch.tensor([10.0, 100.0, torch.nan])
    error[0, 0] = 5.0  # at half of the head: just within
    error[0, 1] = 5.1
    error[0, 2], labelled[0, 2] = 1e6, False
    error[:, 6:8] = 1e6  # pelvis, thorax
    error[2] = 1e6  # nobody knows the head of the third
    report = pckh_report(error, labelled, head, MPII16.joints)
    counted = 14 + 14 - 1
    assert report["n_people"] == 2
    assert report["pckh_50"] == pytest.approx(100 * (counted - 1) / counted)
    assert report["pckh_10"] == pytest.approx(100 * (counted - 2) / counted)
    shares = np.array([0.5, 0.51] + [0.1] * 11 + [0.01] * 14)
    assert report["pckh_auc"] == pytest.approx(100 * np.mean([(shares <= t / 100).mean() for t in range(51)]))
    assert report["pckh_per_joint"]["pelvis"]["pckh_50"] == 0
    assert report["pckh_per_joint"]["right_hip"]["n"] == 1
    assert [report["pckh_per_joint"][joint]["pckh_50"] for joint in MPII16.joints[:2]] == [100, 50]
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert "PCKh@0.5 96.3 %" in format_pckh(report)


def test_pckh_needs_heads_and_shapes() -> None:
    error, labelled = torch.ones(2, 16), torch.ones(2, 16, dtype=torch.bool)
    with pytest.raises(ValueError, match="got none"):
        pckh_report(error, labelled, torch.full((2,), torch.nan), MPII16.joints)
    with pytest.raises(ValueError, match="head_size"):
        pckh_report(error, labelled, torch.ones(3), MPII16.joints)
