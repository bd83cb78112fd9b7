"""Clip the norm of the gradient."""

import torch as th
from torch import nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> th.Tensor:
    """Scale the gradients as `clip_grad_norm_` does, and return their norm before that, a scalar.

    Where reading the norm costs no synchronization, gradients that need no clipping are not touched.
    """
    norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if norm.device.type != "cpu" or not norm.item() + 1e-6 < max_norm:
        clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
