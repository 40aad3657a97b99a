"""Adam as torch has it, for training steps that are not compiled themselves."""

import inspect

import torch


class Adam(torch.optim.Adam):
    """torch's Adam without the wrappers that keep ``torch.compile`` out of an optimiser, or lead it through.

    The first call of any of these imports ``torch._dynamo``: 700 modules, which take longer than the rest of what a
    command does before its first step. Here only the network is ever compiled (``train.compile``). Steps and state are
    those of torch's class, to the bit.
    """

    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Adam.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Adam.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Adam.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))
