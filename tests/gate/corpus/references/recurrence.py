"""A linear recurrence along the last dimension."""

import torch
from torch import nn


class Model(nn.Module):
    """A linear recurrence along the last dimension."""

    def forward(self, a, x):
        """See the class."""
        decay, x = torch.stack([torch.sigmoid(a), x])
        state = torch.zeros_like(x[..., 0])
        states = []
        for step in range(x.shape[-1]):
            state = decay[..., step] * state + x[..., step]
            states.append(state)
        return torch.stack(states, dim=-1)


def get_inputs():
    """Inputs."""
    return [torch.randn(4, 24), torch.randn(4, 24)]


def get_init_inputs():
    """No arguments."""
    return []
