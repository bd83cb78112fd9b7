"""Beta distributions that the study compares with the package's, each with one change."""

from collections.abc import Callable
from typing import Any

import torch as th
from gymnasium import spaces
from torch.distributions import Beta

from sb3_carracing.ppo.distributions import BetaDistribution
from sb3_carracing.ppo.policies import BetaActorCriticPolicy


class LowFloorBeta(BetaDistribution):
    """`alpha, beta >= 1/2`: below 1 the density is unbounded at a bound, so that mass may gather there."""

    floor = 0.5

    def _excesses(self, raw: th.Tensor) -> th.Tensor:
        return self.floor - 1.0 + raw.exp()

    def mode(self) -> th.Tensor:
        """Return the highest point of the density, at a bound where only that side is unbounded.

        With both shape parameters below 1 it is the bound of the larger one.
        """
        excess_alpha, excess_beta = self._excess_alpha.clamp(min=0.0), self._excess_beta.clamp(min=0.0)
        total = excess_alpha + excess_beta
        bound = (self._excess_alpha > self._excess_beta).to(total)
        return self._scaled(th.where(total > 0.0, excess_alpha / th.where(total > 0.0, total, 1.0), bound))


class WideBeta(BetaDistribution):
    """The margin's wider range without atoms; the environment clips the actions, as it does a Gaussian's.

    The log-probability is that of the action before clipping.
    """

    def __init__(self, action_space: spaces.Box, **options: Any):
        super().__init__(action_space, **{**options, "margin": 0.2})
        self.margin = 0.0  # from here on no mass is collected
        self._low32, self._high32 = self.low.float(), (self.low + self.width).float()


class CertaintyEntropyBeta(BetaDistribution):
    """The entropy's gradient moves the concentration only, not the mean."""

    def entropy(self) -> th.Tensor:
        """Return the entropy; gradients do not flow through the mean."""
        mean = (self.alpha / self.concentration).detach()
        density = Beta(mean * self.concentration, (1.0 - mean) * self.concentration, validate_args=False)
        entropy: th.Tensor = density.entropy() + self.width.log()
        return entropy.sum(dim=1).float()


class CertainStartBeta(BetaDistribution):
    """The untrained policy has `alpha = beta = 1 + e`, in place of 2."""

    def _excesses(self, raw: th.Tensor) -> th.Tensor:
        return (raw + 1.0).exp()


def policy_with(distribution: type[BetaDistribution]) -> type[BetaActorCriticPolicy]:
    """Return a policy class whose Box actions are drawn from another class of distribution."""

    class Policy(BetaActorCriticPolicy):
        def _build(self, lr_schedule: Callable[[float], float]) -> None:
            super()._build(lr_schedule)
            assert isinstance(self.action_space, spaces.Box)
            self.action_dist = distribution(self.action_space, **self._beta_options)

    return Policy
