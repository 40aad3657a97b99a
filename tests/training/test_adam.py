"""The optimiser of training is that of torch, to the bit."""

import copy

import pytest
import torch
from torch import nn

from lifting.training.adam import Adam


@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_is_that_of_torch_to_the_bit_and_takes_up_its_state(amsgrad: bool) -> None:
    def network() -> nn.Linear:
        torch.manual_seed(0)
        return nn.Linear(3, 3)

    networks = [network(), network()]
    ours = Adam(networks[0].parameters(), amsgrad=amsgrad, fused=True)
    theirs = torch.optim.Adam(networks[1].parameters(), amsgrad=amsgrad, fused=True)
    rng = torch.Generator().manual_seed(0)
    for round_ in range(3):
        x = torch.randn(8, 3, generator=rng)
        for one, optimizer in zip(networks, (ours, theirs), strict=True):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + round_)
            optimizer.zero_grad()
            one(x).square().sum().backward()
            optimizer.step()
        if round_ == 1:  # a checkpoint of either is one of the other
            states = copy.deepcopy([ours.state_dict(), theirs.state_dict()])
            ours.load_state_dict(states[1])
            theirs.load_state_dict(states[0])
    for left, right in zip(*(one.parameters() for one in networks), strict=True):
        assert torch.equal(left, right)
    assert {key: value for key, value in ours.state_dict().items() if key != "state"} == {
        key: value for key, value in theirs.state_dict().items() if key != "state"
    }
    with pytest.raises(ValueError, match="some parameters appear"):
        ours.add_param_group({"params": networks[0].weight})
