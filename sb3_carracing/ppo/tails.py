"""The mass of a Beta distribution beyond the bounds of the actions."""

from functools import cached_property, lru_cache

import numpy as np
import torch as th

# Resolves a density of concentration 1e4 in a tail as wide as a sixth of the support.
_N_NODES = 96


class Tails:
    """Integrals over both ends of Beta distributions, by Gauss-Legendre quadrature.

    PyTorch has no incomplete beta function. With the density at fixed nodes, gradients flow to both parameters. In all shapes
    the first dimension, of size 2, is the lower and the upper tail.

    Args:
        excess_alpha: `alpha - 1`, `(n_batch, n_actions)`.
        excess_beta: `beta - 1`, `(n_batch, n_actions)`.
        width: Width of either tail, as a fraction of the support.
    """

    def __init__(self, excess_alpha: th.Tensor, excess_beta: th.Tensor, width: float):
        log_near, log_far, self._log_weights = (values.to(excess_alpha) for values in _nodes(width))
        alpha, beta = excess_alpha[..., None], excess_beta[..., None]
        log_norm = th.lgamma(1.0 + alpha) + th.lgamma(1.0 + beta) - th.lgamma(2.0 + alpha + beta)
        #: Log-density at the nodes, `(2, n_batch, n_actions, n_nodes)`.
        self.log_density = th.stack([alpha * log_near + beta * log_far, alpha * log_far + beta * log_near]) - log_norm

    @cached_property
    def log_mass(self) -> th.Tensor:
        """Logarithm of the probability of each tail, `(2, n_batch, n_actions)`."""
        return (self.log_density + self._log_weights).logsumexp(dim=-1)

    def integral(self, values: th.Tensor) -> th.Tensor:
        """Return the integral of density times `values`, which are given at the nodes, `(2, n_batch, n_actions)`."""
        return ((self.log_density + self._log_weights).exp() * values).sum(dim=-1)


@lru_cache
def _nodes(width: float) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """Return `log u`, `log(1 - u)` and the logarithms of the weights for nodes `u` in `[0, width]`."""
    nodes, weights = np.polynomial.legendre.leggauss(_N_NODES)
    unit = (nodes + 1.0) / 2.0 * width
    return th.as_tensor(np.log(unit)), th.as_tensor(np.log1p(-unit)), th.as_tensor(np.log(weights / 2.0 * width))
