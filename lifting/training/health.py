"""Why a loss or a gradient is not finite, and what can be mended."""

import torch
from torch import Tensor, nn

from lifting.likelihood.flow import Density
from lifting.prediction import Batch, Prediction
from lifting.training.objective import AnyObjective, Objective

# A sigma this near to its ceiling of 1, or this small, has no gradient left or has ended in one pose.
CEILING, FLOOR = 1 - 1e-5, 1e-7


def cause_of(objective: AnyObjective, batch: Batch) -> str:
    """The first part of a step that is not finite, in the order of its computation; weights and generators stay.

    The step is repeated, since clipping by a norm that is not finite has spoiled all of its gradients. Every rank
    calls this.
    """
    for name, weight in objective.named_parameters():
        if not weight.isfinite().all():
            return f"the weight {name}"
    if not batch.input.isfinite().all():
        return "the input"
    buffers = [(buffer, buffer.clone()) for buffer in objective.buffers()]
    with torch.random.fork_rng(devices=[]):
        with torch.no_grad():
            found = _first_part(objective, batch)
        if not found:
            objective.zero_grad()
            objective(batch)[0].backward()
    for buffer, before in buffers:
        buffer.copy_(before)
    # From the end, because a gradient goes from the likelihood's weights to those of the network's first layer.
    spoiled = [
        f"the gradient of {name}"
        for name, weight in reversed(list(objective.named_parameters()))
        if weight.grad is not None and not weight.grad.isfinite().all()
    ]
    return found or next(iter(spoiled), "the loss")


def _first_part(objective: AnyObjective, batch: Batch) -> str:
    made = objective.outputs(batch.input)
    prediction, target = made[0] if isinstance(made, tuple) else made, batch.target
    if isinstance(objective, Objective):
        prediction, target = objective.free(prediction, target)
        batch = objective.labelled(batch)
    target = target[..., : prediction.mu.shape[-1]]  # a 2D network's labels have a third coordinate too
    counts = torch.ones_like(target[..., 0]) if batch.weight is None else batch.weight
    seen = (counts > 0)[..., None].expand_as(target).clone()  # (B, J, D): which count
    if batch.has_depth is not None and target.shape[-1] == 3:
        seen[..., 2] &= batch.has_depth > 0
    parts = {"the labels": target, "mu": prediction.mu, "sigma": prediction.log_sigma}
    for name, values in parts.items():
        if values is not None and not values[seen].isfinite().all():
            return name
    return _flow_at(objective.likelihood, prediction, target, seen)


def _flow_at(likelihood: nn.Module, prediction: Prediction, target: Tensor, seen: Tensor) -> str:
    """ "the flow" if the log-density of one of them at the standardised deviations is not finite."""
    if prediction.log_sigma is None:
        return ""
    x_bar = torch.where(seen, (target - prediction.mu) * torch.exp(-prediction.log_sigma), 0)
    for name, module in likelihood.named_modules():
        flow = getattr(module, "flow", None)
        if isinstance(flow, Density) and not flow.log_prob(x_bar[..., : module.dim].flatten(0, -2)).isfinite().all():
            return f"the flow {name}".strip()
    return ""


def sigma_warning(sigma_median: float) -> str:
    """What to say about this median sigma of a step: "" if nothing."""
    if sigma_median > CEILING:
        return "sigma is dead: at least half of all sigmas are at their ceiling of 1, where they no longer learn"
    if sigma_median < FLOOR:
        return f"sigma is dead: at least half of all sigmas are below {FLOOR:g}, as if the error were known to be zero"
    return ""


def mend_statistics(objective: nn.Module) -> None:
    """Starts batch norm's running statistics again where a step that was not finite has spoiled them."""
    for norm in objective.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None:
            assert norm.running_var is not None
            if not (norm.running_mean.isfinite().all() and norm.running_var.isfinite().all()):
                norm.reset_running_stats()
