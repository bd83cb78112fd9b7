"""Log-density and entropy of a Beta distribution on the unit interval, each as a single autograd node."""

from functools import cached_property
from typing import Any

import torch as th
from torch.autograd.function import once_differentiable


class BetaIntegrals:
    """Log-density and entropy of `Beta(alpha, beta)`, and the special functions that both need, computed on demand.

    With a small network, PyTorch's own `Beta` takes a large part of an update, because density and entropy consist of many
    small operations. Here both share their special functions, and the gradients are written out. Second derivatives are not
    supported.

    Args:
        excess_alpha: `alpha - 1`, of any shape.
        excess_beta: `beta - 1`, of the same shape.
    """

    def __init__(self, excess_alpha: th.Tensor, excess_beta: th.Tensor):
        self._inputs = excess_alpha, excess_beta
        with th.no_grad():
            # In all stacks, the last row belongs to alpha + beta.
            self.excesses = th.stack([excess_alpha, excess_beta, excess_alpha + excess_beta])
            self.shapes = self.excesses + 1.0
            self.shapes[2] += 1.0

    def log_density(self, unit: th.Tensor) -> th.Tensor:
        """Return the log-density at points of the unit interval."""
        value: th.Tensor = _LogDensity.apply(*self._inputs, unit.log(), (-unit).log1p(), self)  # type: ignore[no-untyped-call]
        return value

    @property
    def entropy(self) -> th.Tensor:
        """Differential entropy."""
        value: th.Tensor = _Entropy.apply(*self._inputs, self)  # type: ignore[no-untyped-call]
        return value

    @cached_property
    def log_beta(self) -> th.Tensor:
        """Logarithm of the beta function, without gradients."""
        of_alpha, of_beta, of_both = self.shapes.lgamma().unbind()
        return of_alpha + of_beta - of_both

    @cached_property
    def digamma(self) -> th.Tensor:
        """First derivatives of the logarithm of the gamma function."""
        return self.shapes.digamma()


class _LogDensity(th.autograd.Function):
    """`d log p / d alpha = log u - psi(alpha) + psi(alpha + beta)`, where `psi` is the digamma function."""

    @staticmethod
    def forward(
        ctx: Any,
        excess_alpha: th.Tensor,
        excess_beta: th.Tensor,
        log_u: th.Tensor,
        log_rest: th.Tensor,
        integrals: BetaIntegrals,
    ) -> th.Tensor:
        ctx.integrals, ctx.logs = integrals, (log_u, log_rest)
        return excess_alpha * log_u + excess_beta * log_rest - integrals.log_beta

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: th.Tensor) -> tuple[th.Tensor | None, ...]:
        of_alpha, of_beta, of_both = ctx.integrals.digamma.unbind()
        log_u, log_rest = ctx.logs
        to_alpha, to_beta = gradient * (log_u - of_alpha + of_both), gradient * (log_rest - of_beta + of_both)
        if not ctx.needs_input_grad[2]:
            return to_alpha, to_beta, None, None, None
        to_log_u, to_log_rest = gradient * ctx.integrals.excesses[:2]
        return to_alpha, to_beta, to_log_u, to_log_rest, None


class _Entropy(th.autograd.Function):
    """`H = log B - a psi(1 + a) - b psi(1 + b) + (a + b) psi(2 + a + b)`, `a` and `b` being the excesses.

    `dH / da = (a + b) psi'(2 + a + b) - a psi'(1 + a)`.
    """

    @staticmethod
    def forward(ctx: Any, _excess_alpha: th.Tensor, _excess_beta: th.Tensor, integrals: BetaIntegrals) -> th.Tensor:
        ctx.integrals = integrals
        of_alpha, of_beta, of_both = (integrals.excesses * integrals.digamma).unbind()
        return integrals.log_beta - of_alpha - of_beta + of_both

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: th.Tensor) -> tuple[th.Tensor, th.Tensor, None]:
        slopes = ctx.integrals.excesses * th.polygamma(1, ctx.integrals.shapes)
        to_alpha, to_beta = (gradient * (slopes[2] - slopes[:2])).unbind()
        return to_alpha, to_beta, None
