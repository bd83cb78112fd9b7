"""PPO's losses and diagnostics: pure functions of tensors.

"Eq." refers to Schulman et al. 2017, "Proximal Policy Optimization Algorithms".
"""

from typing import Literal, TypeAlias

import torch as th
from torch.nn import functional as F

ValueLoss: TypeAlias = Literal["mse", "huber"]


def clipped_surrogate_loss(log_ratio: th.Tensor, advantages: th.Tensor, clip_range: float) -> th.Tensor:
    """Return the negated clipped surrogate objective, eq. 7, a scalar.

    Args:
        log_ratio: `log pi(a|s) - log pi_old(a|s)`, `(n_batch,)`.
        advantages: `(n_batch,)`.
        clip_range: Clipping range of the probability ratio around 1.
    """
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    return -th.min(advantages * ratio, advantages * clipped).mean()


def value_loss(
    values: th.Tensor,
    returns: th.Tensor,
    old_values: th.Tensor,
    clip_range_vf: float | None = None,
    kind: ValueLoss = "mse",
) -> th.Tensor:
    """Return the loss of the critic, a scalar.

    As in SB3, the clipped loss is used alone. OpenAI's baselines take the larger of the clipped and the plain loss.

    Args:
        values: Predictions, `(n_batch,)`.
        returns: TD(lambda) returns, `(n_batch,)`.
        old_values: Predictions of the rollout, `(n_batch,)`.
        clip_range_vf: Clipping range of `values` around `old_values` [units of return], or None.
        kind: "mse", or "huber", which is quadratic up to an error of 1 and linear beyond.
    """
    if clip_range_vf is not None:
        values = old_values + (values - old_values).clamp(-clip_range_vf, clip_range_vf)
    if kind == "huber":
        return F.smooth_l1_loss(values, returns)
    return F.mse_loss(values, returns)


def approximate_kl(log_ratio: th.Tensor) -> th.Tensor:
    """Return an unbiased estimate of `KL(pi_old || pi)` that is never negative, `E[(r - 1) - log r]`, a scalar.

    This is k3 of Schulman 2020, "Approximating KL Divergence", http://joschu.net/blog/kl-approx.html.

    Args:
        log_ratio: `log pi(a|s) - log pi_old(a|s)`, `(n_batch,)`.
    """
    return (log_ratio.expm1() - log_ratio).mean()


def clip_fraction(log_ratio: th.Tensor, clip_range: float) -> th.Tensor:
    """Return the share of the batch whose probability ratio lies outside `1 +- clip_range`, a scalar."""
    return ((log_ratio.exp() - 1.0).abs() > clip_range).float().mean()


def normalized(advantages: th.Tensor) -> th.Tensor:
    """Return advantages, `(n_batch,)`, with mean 0 and standard deviation 1. A single one is returned as it is."""
    if len(advantages) < 2:
        return advantages
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)
