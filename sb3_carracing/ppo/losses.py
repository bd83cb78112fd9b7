"""PPO's losses and what is measured beside them: pure functions of tensors.

"Eq." refers to Schulman et al. 2017, "Proximal Policy Optimization Algorithms".
"""

import torch as th
from torch.nn import functional as F

from sb3_carracing.ppo.options import ValueLoss


def clipped_surrogate_loss(log_ratio: th.Tensor, advantages: th.Tensor, clip_range: float) -> th.Tensor:
    """Return the negated clipped surrogate objective, eq. 7, a scalar.

    :param log_ratio: `log pi(a|s) - log pi_old(a|s)`, `(n_batch,)`
    :param advantages: `(n_batch,)`
    :param clip_range: how far the probability ratio may leave 1 before it stops to pay
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
    """Return the loss of the critic against the TD(lambda) returns, a scalar; all tensors are `(n_batch,)`.

    With `clip_range_vf` the prediction moves at most that far from the rollout's (in units of return, so it depends
    on the reward's scale). Unlike in OpenAI's baselines the clipped loss is used alone, as SB3 does, not the larger
    of both. "huber" is quadratic up to an error of 1 and linear beyond.
    """
    if clip_range_vf is not None:
        values = old_values + (values - old_values).clamp(-clip_range_vf, clip_range_vf)
    if kind == "huber":
        return F.smooth_l1_loss(values, returns)
    return F.mse_loss(values, returns)


def approximate_kl(log_ratio: th.Tensor) -> th.Tensor:
    """Return the estimate of `KL(pi_old || pi)` by `E[(r - 1) - log r]`, a scalar: unbiased and never negative.

    Schulman 2020, "Approximating KL Divergence", http://joschu.net/blog/kl-approx.html (his k3).
    """
    return (log_ratio.expm1() - log_ratio).mean()


def clip_fraction(log_ratio: th.Tensor, clip_range: float) -> th.Tensor:
    """Return the share of the batch whose probability ratio lies outside `1 +- clip_range`, a scalar."""
    return ((log_ratio.exp() - 1.0).abs() > clip_range).float().mean()


def normalized(advantages: th.Tensor) -> th.Tensor:
    """Return the minibatch's advantages with mean 0 and standard deviation 1; a single one is returned as it is."""
    if len(advantages) < 2:
        return advantages
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)
