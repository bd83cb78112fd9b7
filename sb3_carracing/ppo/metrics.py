"""Measurements during an update, besides the losses."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

MINIBATCH_MEANS = ("policy_gradient_loss", "value_loss", "entropy_loss", "loss", "approx_kl", "clip_fraction")
"""Metrics that are a mean over the minibatch."""


@contextmanager
def outputs_of(module: nn.Module | None) -> Iterator[list[th.Tensor]]:
    """Yield a list to which the outputs of a module are added, without gradients, until the block ends."""
    outputs: list[th.Tensor] = []
    if module is None:
        yield outputs
        return
    hook = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output.detach()))
    try:
        yield outputs
    finally:
        hook.remove()


def to_host(metrics: dict[str, list[th.Tensor]]) -> dict[str, np.ndarray]:
    """Return scalar tensors as float64 arrays by name, in a single transfer from the device.

    The conversion to float64 takes place on the host, since Apple's MPS has no float64.
    """
    values = th.stack([value.float() for values in metrics.values() for value in values]).cpu().numpy().astype(np.float64)
    ends = np.cumsum([len(values) for values in metrics.values()])
    return {name: part for name, part in zip(metrics, np.split(values, ends[:-1]), strict=True) if part.size}


def share_at_bounds(actions: np.ndarray, space: spaces.Box, margin: float = 0.01) -> float:
    """Return the share of actions within `margin` of the range from either bound."""
    # float64: the width of a float32 range may overflow float32.
    low, high = (bound.astype(np.float64).flatten() for bound in (space.low, space.high))
    unit = (actions.reshape(-1, low.size) - low) / (high - low)
    return float(np.mean((unit < margin) | (unit > 1.0 - margin)))
