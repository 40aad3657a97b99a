"""The Triton kernels of a flow: which flows have them, and in Triton's interpreter the density of `RealNVP.inverse`.

No GPU is needed.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lifting import likelihood
from lifting.likelihood import flow as flows
from lifting.likelihood.flow import RealNVP
from tests.conftest import ROOT

CHECK = """
import torch
from lifting.likelihood.flow import KERNEL_DIM, RealNVP
from lifting.likelihood.flow_kernels import log_prob

torch.manual_seed(0)
# Several blocks of rows for a program; a block that is not full; one row; none.
for dim, width, couplings, rows in [(3, 16, 2, 400), (2, 32, 3, 70), (KERNEL_DIM, 16, 2, 1), (3, 16, 1, 0)]:
    flow = RealNVP(dim, couplings, 3, width)
    for parameter in flow.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    weights = [part for net in flow.nets for pair in zip(net.biases, net.weights) for part in pair]
    x, weight = torch.randn(rows, dim, requires_grad=True), torch.rand(rows)
    for function in (flow._log_prob, lambda x: log_prob(x, flow.masks, weights, flow._log_prob, "tf32x3")):
        values = function(x)
        gradients = torch.autograd.grad((values * weight).sum(), [x, *weights], allow_unused=True)
        second = torch.autograd.grad(
            torch.autograd.grad(function(x).sum(), x, create_graph=True)[0].square().sum(), weights, allow_unused=True
        )
        found = [0 * w if g is None else g for w, g in zip([x, *weights, *weights], [*gradients, *second])]
        if function == flow._log_prob:
            expected = [values, *found]
    for one, other in zip([values, *found], expected, strict=True):
        scale = other.abs().max().clamp(min=1) if other.numel() else 1
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=1e-5)
print("equal")
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton comes with a GPU build of torch")
def test_the_kernels_have_the_density_and_its_gradients() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHECK], cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "equal"


def rows(device: str = "cuda", dtype: torch.dtype = torch.float32) -> Any:
    """What the choice looks at: this machine can have no tensor there."""
    return SimpleNamespace(device=torch.device(device), dtype=dtype)


def test_kernels_are_for_the_flows_and_gpus_that_they_are_written_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert flows._has_triton() == (find_spec("triton") is not None)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(flows, "_has_triton", lambda: True)
    for dim, width in ((2, 16), (3, 32), (16, 64)):
        assert RealNVP(dim, 1, 3, width)._has_kernels(rows())
    other_sizes = (3, 1, 2, 64), (3, 1, 4, 64), (3, 1, 3, 48), (17, 1, 3, 64)
    for flow in (*(RealNVP(*sizes) for sizes in other_sizes), RealNVP(3).double()):
        assert not flow._has_kernels(rows())
    usual = RealNVP(3)
    assert not usual._has_kernels(rows("cpu"))
    assert not usual._has_kernels(rows(dtype=torch.float64))
    assert not usual._has_kernels(rows(dtype=torch.bfloat16))
    lacks: list[tuple[object, str, object]] = [
        (torch.version, "cuda", None),
        (torch.cuda, "get_device_capability", lambda device: (7, 5)),
        (flows, "_has_triton", lambda: False),
        (torch._C, "_are_functorch_transforms_active", lambda: True),
        (torch.compiler, "is_compiling", lambda: True),
    ]
    for place, name, value in lacks:
        with monkeypatch.context() as patch:
            patch.setattr(place, name, value)
            assert not usual._has_kernels(rows()), name


@pytest.mark.parametrize(("autocast", "expected"), [(False, "tf32x3"), (True, "tf32")])
def test_kernels_get_every_row_and_a_precision(monkeypatch: pytest.MonkeyPatch, autocast: bool, expected: str) -> None:
    def log_prob(rows: Tensor, masks: Any, weights: Any, plain: Any, precision: str) -> Any:
        assert precision == expected
        return plain(rows)

    monkeypatch.setattr(likelihood, "flow_kernels", SimpleNamespace(log_prob=log_prob), raising=False)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: autocast)
    monkeypatch.setattr(RealNVP, "_has_kernels", lambda *_: True)
    monkeypatch.setattr(RealNVP, "_moved_halves", lambda *_: [])
    flow, x = RealNVP(3, 2, 3, 16), torch.randn(2, 5, 3)
    torch.testing.assert_close(flow.log_prob(x), flow._log_prob(x))
