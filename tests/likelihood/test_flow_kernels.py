"""The Triton kernels of a flow against `RealNVP.inverse`, in Triton's interpreter: no GPU is needed, only Triton."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

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
