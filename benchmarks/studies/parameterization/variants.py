"""Beta distributions that the study compares with the package's, each with one change."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from torch.distributions import Beta

from sb3_carracing.ppo.distributions import UNIT_MARGIN, BetaDistribution
from sb3_carracing.ppo.policies import BetaActorCriticPolicy

_N_NODES = 48


class LowFloorBeta(BetaDistribution):
    """`alpha, beta >= 1/2`: below 1 the density is unbounded at a bound, so that mass may gather there."""

    floor = 0.5

    def _excesses(self, first: th.Tensor, second: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        return self.floor - 1.0 + first.exp(), self.floor - 1.0 + second.exp()

    def mode(self) -> th.Tensor:
        """Return the highest point of the density, at a bound where only that side is unbounded.

        With both shape parameters below 1 it is the bound of the larger one.
        """
        excess_alpha, excess_beta = self._excess_alpha.clamp(min=0.0), self._excess_beta.clamp(min=0.0)
        total = excess_alpha + excess_beta
        bound = (self._excess_alpha > self._excess_beta).to(total)
        return self._scaled(th.where(total > 0.0, excess_alpha / th.where(total > 0.0, total, 1.0), bound))


class WideBeta(BetaDistribution):
    """A Beta on a wider range; the environment clips its actions, as it does a Gaussian's.

    The log-probability is that of the action before clipping.
    """

    margin = 0.25  # of the range, on either side

    def __init__(self, action_space: spaces.Box, **options: Any):
        super().__init__(action_space, **options)
        self.low = self.low - self.margin * self.width
        self.width = self.width * (1.0 + 2.0 * self.margin)
        self._open_range()

    def _open_range(self) -> None:
        self._low32, self._high32 = self.low.float(), (self.low + self.width).float()


class CensoredBeta(WideBeta):
    """A Beta on a wider range whose mass beyond a bound is collected there: a mixture of a density and two atoms.

    The distribution function is integrated by Gauss-Legendre quadrature of the density, through which gradients flow.
    """

    margin = 0.1

    def _open_range(self) -> None:
        """Keep the bounds of the action space."""

    def _log_tail_densities(self) -> tuple[th.Tensor, th.Tensor]:
        """Return log-densities at the nodes outside the range, `(2, n_batch, n_actions, n_nodes)`, and log-weights."""
        width = self.margin / (1.0 + 2.0 * self.margin)
        nodes, weights = (th.as_tensor(values).to(self.low) for values in np.polynomial.legendre.leggauss(_N_NODES))
        unit = (nodes + 1.0) / 2.0 * width
        density = Beta(self.alpha[..., None], self.beta[..., None], validate_args=False)
        return th.stack([density.log_prob(unit), density.log_prob(1.0 - unit)]), (weights / 2.0 * width).log()

    def _log_masses(self) -> th.Tensor:
        log_density, log_weights = self._log_tail_densities()
        return (log_density + log_weights).logsumexp(dim=-1)

    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        """Return the log-density of actions within the bounds, and the log-probability of a bound."""
        actions = actions.reshape(-1, self.action_dim)
        unit = ((actions.to(self.low) - self.low) / self.width).clamp(UNIT_MARGIN, 1.0 - UNIT_MARGIN)
        log_prob: th.Tensor = self.distribution.log_prob(unit) - self.width.log()
        at_low, at_high = self._log_masses()
        log_prob = th.where(actions <= self._low32, at_low, th.where(actions >= self._high32, at_high, log_prob))
        return log_prob.sum(dim=1).float()

    def entropy(self) -> th.Tensor:
        """Return the entropy of the mixture: the density's within the bounds, and that of the two atoms."""
        log_density, log_weights = self._log_tail_densities()
        log_masses = (log_density + log_weights).logsumexp(dim=-1)
        beyond = ((log_density + log_weights).exp() * log_density).sum(dim=-1)  # integral of p log p there
        masses = log_masses.exp()
        inside = self.distribution.entropy() + beyond.sum(dim=0) + (1.0 - masses.sum(dim=0)) * self.width.log()
        entropy: th.Tensor = inside - (masses * log_masses).sum(dim=0)
        return entropy.sum(dim=1).float()


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

    def _excesses(self, first: th.Tensor, second: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        return (first + 1.0).exp(), (second + 1.0).exp()


def policy_with(distribution: type[BetaDistribution]) -> type[BetaActorCriticPolicy]:
    """Return a policy class whose Box actions are drawn from another class of distribution."""

    class Policy(BetaActorCriticPolicy):
        def _build(self, lr_schedule: Callable[[float], float]) -> None:
            super()._build(lr_schedule)
            assert isinstance(self.action_space, spaces.Box)
            self.action_dist = distribution(self.action_space, **self._beta_options)

    return Policy
