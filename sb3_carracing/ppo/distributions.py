"""The Beta distribution on a finite Box, in the environment's own units.

Chou et al. 2017, "Improving Stochastic Policy Gradients in Continuous Control with Deep Reinforcement Learning
using the Beta Distribution", section 4: an action in `[low, high]` is `low + (high - low) * u` with
`u ~ Beta(alpha, beta)`. Scaling lives here and nowhere else: log-probabilities and entropies are those of the
scaled action, so the rest of SB3 need not know that the policy is not Gaussian.
"""

import math
from typing import Literal, Self, TypeAlias, get_args

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from torch import nn
from torch.distributions import Beta, Dirichlet, kl_divergence
from torch.nn.functional import softplus

from sb3_carracing.checks import finite_number, one_of
from sb3_carracing.ppo.beta_integrals import BetaIntegrals
from sb3_carracing.ppo.tails import Tails

Parameterization: TypeAlias = Literal["softplus", "exp", "mode"]
DeterministicAction: TypeAlias = Literal["mean", "mode"]

# In float32 a sample mapped to the bounds can equal a bound, where the log-probability is -inf. The same clamp
# serves the rollout (which samples) and the update (which maps actions back).
UNIT_MARGIN = 1e-6
# Beyond these the parameterizations only overflow: softplus is linear, exp(30) is 1e13.
_RAW_LIMIT = {"softplus": 1e6, "exp": 30.0, "mode": 1e6}
# alpha + beta of an untrained softplus head, whose outputs are about zero.
_SOFTPLUS_CONCENTRATION = 2.0 + 2.0 * float(np.log(2.0))


class BetaDistribution(Distribution):
    """Independent Beta distributions, one for each dimension of a finite `Box`.

    Shapes: parameters are `(n_batch, 2 * n_actions)`, actions `(n_batch, n_actions)` in the environment's units,
    log-probabilities and entropies `(n_batch,)`, `n_actions` being the Box's flattened size.

    The density is evaluated in float64 (float32 on devices without it): in float32 the log-probability is off by
    0.007 at a concentration of 1e4 and by 0.13 at 1e5, which PPO would take for a change of the policy.

    `parameterization` selects how raw network outputs become `alpha, beta >= 1`, which gives a density with one mode:

    - `softplus`: both are `1 + softplus(raw)` (Chou et al. 2017, section 4).
    - `exp`: both are `1 + exp(raw)`.
    - `mode`: the first half of the outputs is the logit of the mode `m`, and the softplus of the second half is an excess `k`.
      `alpha = 1 + m k` and `beta = 1 + (1 - m) k`, so the mode does not move when the policy becomes more certain.

    With alpha, beta >= 1 no mass gathers at a bound, as bang-bang control would need. A `margin` above 0 widens the support
    and moves the mass beyond a bound to the bound. The distribution is then a mixture of a density within the bounds and an
    atom at each bound. Log-probability, entropy and KL divergence are those of the mixture. Their reference measure is length
    within the bounds and counting at the bounds. Fujita & Maeda 2018, "Clipped Action Policy Gradient", do this for a
    Gaussian. `alpha`, `beta` and `concentration` are the wider Beta's, and so are mean and mode before they are clipped to
    the bounds.

    Args:
        action_space: Finite Box; every dimension has its own bounds.
        parameterization: "softplus", "exp" or "mode".
        initial_mean: Mean action of the untrained policy, in the environment's units: one number for all dimensions or
            one for each, strictly between the bounds. None means the middle of the range.
        initial_concentration: `alpha + beta` of the untrained policy, above 2: one number for all dimensions or one for
            each. An `initial_mean` near a bound raises it as far as alpha, beta >= 1 requires. For a mean in the middle of
            the range, the standard deviation is `(high - low) / (2 sqrt(initial_concentration + 1))`. With an
            `initial_mean`, None means `2 + 2 ln 2`, the concentration of an untrained softplus head. Without one, None
            leaves the network's initial bias as it is.
        deterministic_action: What `get_actions(deterministic=True)` returns, "mean" or "mode".
        max_concentration: Upper bound of `alpha + beta`, above 2. At the bound, the mode is kept.
        margin: Fraction of the range by which the support exceeds it on either side, at most 0.25.

    Raises:
        ValueError: A bound, mean, name or number is invalid.
    """

    def __init__(
        self,
        action_space: spaces.Box,
        parameterization: Parameterization = "exp",
        initial_mean: float | list[float] | None = None,
        deterministic_action: DeterministicAction = "mode",
        max_concentration: float = 1e4,
        margin: float = 0.0,
        initial_concentration: float | list[float] | None = None,
    ):
        super().__init__()  # type: ignore[no-untyped-call]
        low, high = _checked_bounds(action_space)
        one_of("parameterization", parameterization, sorted(get_args(Parameterization)))
        one_of("deterministic_action", deterministic_action, sorted(get_args(DeterministicAction)))
        is_number = isinstance(max_concentration, int | float | np.number)
        if not (is_number and np.isfinite(max_concentration) and max_concentration > 2.0):
            raise ValueError(f"max_concentration must be a finite number above 2 (alpha = beta = 1), got {max_concentration}")
        self.action_dim = len(low)
        # Bounds of the support.
        self.margin = finite_number("margin", margin, 0.0, 0.25)
        self.low = th.as_tensor(low - self.margin * (high - low))
        self.width = th.as_tensor((high - low) * (1.0 + 2.0 * self.margin))
        self._log_width = self.width.log()
        self._tails: Tails | None = None
        self._low32, self._high32 = _float32_within(low, high)
        # SB3's buffers store actions in the dtype of the space, so narrower dtypes get only actions that they can hold.
        self._is_half = action_space.dtype == np.float16
        self.parameterization = parameterization
        self.initial_mean = initial_mean
        self.deterministic_action = deterministic_action
        self.max_concentration = float(max_concentration)
        unit_mean = _checked_unit_mean(initial_mean, low, high, self.max_concentration)
        self._initial_unit_mean = None if unit_mean is None else (unit_mean + self.margin) / (1.0 + 2.0 * self.margin)
        self.initial_concentration = initial_concentration
        self._least: list[float] = []  # concentrations, one for all actions or one for each
        if initial_concentration is not None:
            self._least = _one_per_action("initial_concentration", initial_concentration, self.action_dim)
        for number in self._least:
            finite_number("initial_concentration", number, 2.001, self.max_concentration)

    # --- parameters -------------------------------------------------------------------------------------------

    def proba_distribution_net(self, latent_dim: int) -> nn.Linear:
        """Return the layer from the actor's latent code, `(n_batch, latent_dim)`, to the raw parameters."""
        return nn.Linear(latent_dim, 2 * self.action_dim)

    def initialize_bias(self, action_net: nn.Linear) -> None:
        """Set the layer's bias so that latent codes near zero give `initial_mean` and `initial_concentration`.

        The layer's weights stay, and so does its bias if both options are None.
        """
        mean, least = self._initial_unit_mean, self._least
        if mean is None and not least:
            return
        if mean is None:
            mean = th.full((self.action_dim,), 0.5, dtype=th.float64)
        required = 1.2 / th.minimum(mean, 1.0 - mean)
        concentrations = th.maximum(required, required.new_tensor(least or [_SOFTPLUS_CONCENTRATION]))
        concentrations.clamp_(max=self.max_concentration)
        excess_alpha = mean * concentrations - 1.0
        excess_beta = (1.0 - mean) * concentrations - 1.0
        if self.parameterization == "exp":
            raw = th.cat([excess_alpha.log(), excess_beta.log()])
        elif self.parameterization == "softplus":
            raw = th.cat([_inverse_softplus(excess_alpha), _inverse_softplus(excess_beta)])
        else:
            total = excess_alpha + excess_beta
            raw = th.cat([th.logit(excess_alpha / total), _inverse_softplus(total)])
        with th.no_grad():
            action_net.bias.copy_(raw)

    def proba_distribution(self, params: th.Tensor) -> Self:
        """Set the distribution from the network's raw outputs.

        Args:
            params: `(n_batch, 2 * n_actions)`, any finite or infinite number.

        Returns:
            Self, with `alpha` and `beta` of shape `(n_batch, n_actions)`.

        Raises:
            ValueError: An output is NaN. This is checked wherever it costs no host synchronization, but not in
                `torch.export`.
        """
        # .to() also converts autocast's bfloat16, in which the density is never computed.
        raw = params.to(_exact_dtype(params.device))
        limit = _RAW_LIMIT[self.parameterization]
        excesses = self._excesses(raw.clamp(-limit, limit).unflatten(-1, (2, self.action_dim)))
        # Stored in place of alpha and beta, because alpha - 1 would lose all digits of a small excess.
        self._excess_alpha, self._excess_beta = self._bounded(*excesses.unbind(dim=-2))
        self._integrals: BetaIntegrals | None = None
        self._tails = None
        return self.to(params.device)

    def _excesses(self, raw: th.Tensor) -> th.Tensor:
        """Return `alpha - 1` and `beta - 1`, both >= 0, from the raw outputs; both are `(n_batch, 2, n_actions)`."""
        if self.parameterization == "softplus":
            return softplus(raw)
        if self.parameterization == "exp":
            return raw.exp()
        first, second = raw.chunk(2, dim=-2)
        mode, excess = th.sigmoid(first), softplus(second)
        return th.cat([mode * excess, (1.0 - mode) * excess], dim=-2)

    def _bounded(self, excess_alpha: th.Tensor, excess_beta: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Shrink both excesses by one factor, so that the mode is kept, until the concentration is within bounds."""
        limit = self.max_concentration - 2.0
        total = excess_alpha + excess_beta
        looks = (total.device.type == "cpu" or not th.is_grad_enabled()) and not th.compiler.is_exporting()
        if looks and total.numel() > 0:
            largest = total.max().item()  # NaN if any is
            if math.isnan(largest):
                raise ValueError(
                    "The policy network returned NaN: the observations or the weights hold NaN or inf. Look at "
                    "train/grad_norm and train/concentration_max before this update, or wrap the environment in VecCheckNan."
                )
            if largest <= limit:
                return excess_alpha, excess_beta
        factor = limit / total.clamp(min=limit)
        return excess_alpha * factor, excess_beta * factor

    def to(self, device: th.device) -> Self:
        """Move the bounds to a device, in the dtype in which the density is computed there, and return self."""
        dtype = _exact_dtype(device)
        if self.low.device != device or self.low.dtype != dtype:
            self._low32, self._high32 = self._low32.to(device), self._high32.to(device)
            # On the CPU every dtype can be converted. `low` comes last: it tells other threads that all is there.
            self.width = self.width.cpu().to(dtype).to(device)
            self._log_width = self.width.log()
            self.low = self.low.cpu().to(dtype).to(device)
        return self

    @property
    def alpha(self) -> th.Tensor:
        """First shape parameter, `(n_batch, n_actions)`, at least 1."""
        return 1.0 + self._excess_alpha

    @property
    def beta(self) -> th.Tensor:
        """Second shape parameter, `(n_batch, n_actions)`, at least 1."""
        return 1.0 + self._excess_beta

    @property
    def concentration(self) -> th.Tensor:
        """`alpha + beta`, `(n_batch, n_actions)`: 2 is the uniform distribution."""
        return 2.0 + self._excess_alpha + self._excess_beta

    @property
    def distribution(self) -> Beta:  # type: ignore[override]  # SB3 declares an attribute
        """PyTorch's distribution on the unit interval."""
        return Beta(self.alpha, self.beta, validate_args=False)

    # --- density ----------------------------------------------------------------------------------------------

    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        """Return the log-density of actions in the environment's units.

        `log p(a) = sum_i [log Beta(u_i; alpha_i, beta_i) - log(width_i)]`, by the change of variables. With a `margin` an
        action at a bound has the logarithm of its probability instead.

        Args:
            actions: `(n_batch, n_actions)` or `(n_batch, *box_shape)`; within the bounds.

        Returns:
            `(n_batch,)`, float32.
        """
        actions = actions.reshape(-1, self.action_dim)
        unit = ((actions.to(self.low) - self.low) / self.width).clamp(UNIT_MARGIN, 1.0 - UNIT_MARGIN)
        log_prob = self._of_current().log_density(unit) - self._log_width
        if self.margin > 0.0:
            at_low, at_high = self._beyond_bounds().log_mass
            log_prob = th.where(actions <= self._low32, at_low, th.where(actions >= self._high32, at_high, log_prob))
        return log_prob.sum(dim=1).float()

    def entropy(self) -> th.Tensor:
        """Return the entropy in the environment's units, `(n_batch,)`, float32."""
        entropy = self._of_current().entropy + self._log_width
        if self.margin > 0.0:
            tails = self._beyond_bounds()
            log_density = tails.log_density - self._log_width[:, None]
            entropy = entropy + (tails.integral(log_density) - tails.log_mass.exp() * tails.log_mass).sum(dim=0)
        return entropy.sum(dim=1).float()

    def kl(self, other: "BetaDistribution") -> th.Tensor:
        """Return `KL(self || other)`, `(n_batch,)`, float32; the scaling cancels out. Both must have the same `margin`."""
        kl: th.Tensor = kl_divergence(self.distribution, other.distribution)
        if self.margin > 0.0:
            tails, others = self._beyond_bounds(), other._beyond_bounds()
            atoms = tails.log_mass.exp() * (tails.log_mass - others.log_mass)
            kl = kl + (atoms - tails.integral(tails.log_density - others.log_density)).sum(dim=0)
        return kl.sum(dim=1).float()

    def _of_current(self) -> BetaIntegrals:
        """Return the integrals of the current distribution, which log-probability and entropy share."""
        if self._integrals is None:
            self._integrals = BetaIntegrals(self._excess_alpha, self._excess_beta)
        return self._integrals

    def _beyond_bounds(self) -> Tails:
        """Return the tails of the current distribution, which log-probability and entropy share."""
        if self._tails is None:
            width = self.margin / (1.0 + 2.0 * self.margin)
            self._tails = Tails(self._excess_alpha, self._excess_beta, width)
        return self._tails

    # --- actions ----------------------------------------------------------------------------------------------

    def sample(self) -> th.Tensor:
        """Return a random action, `(n_batch, n_actions)`, float32; gradients flow through it."""
        # As PyTorch's Beta draws. Around this function, its classes take as long as a small network's actor.
        shapes = 1.0 + th.stack([self._excess_alpha, self._excess_beta], dim=-1)
        if shapes.requires_grad:
            return self._scaled(Dirichlet(shapes, validate_args=False).rsample()[..., 0])
        return self._scaled(th._sample_dirichlet(shapes)[..., 0])

    def mean(self) -> th.Tensor:
        """Return the mean action, `(n_batch, n_actions)`, float32; with a `margin` the wider Beta's, cut off at the bounds."""
        return self._scaled(self.alpha / self.concentration)

    def mode(self) -> th.Tensor:
        """Return the most likely action, `(n_batch, n_actions)`, float32; the middle if all are equally likely."""
        excess = self._excess_alpha + self._excess_beta
        # Far above the smallest number, so that the quotient's derivatives do not overflow.
        flat = excess < th.finfo(excess.dtype).tiny ** (1 / 3)
        return self._scaled(th.where(flat, 0.5, self._excess_alpha / th.where(flat, 1.0, excess)))

    def get_actions(self, deterministic: bool = False) -> th.Tensor:
        """Return `mean()` or `mode()`, as `deterministic_action` says, or a sample; `(n_batch, n_actions)`."""
        if not deterministic:
            return self.sample()
        return self.mean() if self.deterministic_action == "mean" else self.mode()

    def actions_from_params(self, params: th.Tensor, deterministic: bool = False) -> th.Tensor:
        """Return actions, `(n_batch, n_actions)`, for raw parameters, `(n_batch, 2 * n_actions)`."""
        return self.proba_distribution(params).get_actions(deterministic)

    def log_prob_from_params(self, params: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Return sampled actions, `(n_batch, n_actions)`, and their log-probabilities, `(n_batch,)`."""
        actions = self.actions_from_params(params)
        return actions, self.log_prob(actions)

    def _scaled(self, unit: th.Tensor) -> th.Tensor:
        actions = (self.low + self.width * unit.clamp(UNIT_MARGIN, 1.0 - UNIT_MARGIN)).float()
        if self._is_half:
            actions = actions.half().float()
        return actions.clamp(self._low32, self._high32)


def _exact_dtype(device: th.device) -> th.dtype:
    # Apple's MPS has no float64.
    return th.float32 if device.type == "mps" else th.float64


def _inverse_softplus(value: th.Tensor) -> th.Tensor:
    return value + th.log(-th.expm1(-value))


def _checked_bounds(action_space: spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """Return the flattened bounds in float64, `(n_actions,)` each, or raise if a dimension cannot have a Beta."""
    if not isinstance(action_space, spaces.Box):
        raise ValueError(f"A Beta distribution needs a Box action space, got {action_space}")
    if not np.issubdtype(action_space.dtype, np.floating):
        raise ValueError(
            f"A Beta distribution needs a Box of floating-point actions, got {action_space}: SB3 would store rounded numbers "
            "instead of the actions played. Use float32, or MultiDiscrete."
        )
    low = action_space.low.astype(np.float64).flatten()
    high = action_space.high.astype(np.float64).flatten()
    # Actions are float32. `~(<=)` also catches NaN.
    largest = np.finfo(np.float32).max
    bad = np.flatnonzero(~((np.abs(low) <= largest) & (np.abs(high) <= largest) & (high > low)))
    if len(bad) > 0:
        i = int(bad[0])
        raise ValueError(
            f"A Beta distribution needs finite bounds with low < high in every action dimension; dimension {i} of "
            f"{action_space} has low={low[i]:g}, high={high[i]:g}. Give it finite bounds, or leave it out, with a wrapper "
            "(gymnasium.wrappers.TransformAction)."
        )
    return low, high


def _float32_within(low: np.ndarray, high: np.ndarray) -> tuple[th.Tensor, th.Tensor]:
    """Return the outermost float32 actions within float64 bounds, since the float32 nearest to a bound may lie beyond it.

    If the range holds no float32 at all, return those nearest to its bounds.
    """
    nearest_low, nearest_high = low.astype(np.float32), high.astype(np.float32)
    low32 = np.where(nearest_low < low, np.nextafter(nearest_low, np.float32(np.inf)), nearest_low)
    high32 = np.where(nearest_high > high, np.nextafter(nearest_high, np.float32(-np.inf)), nearest_high)
    empty = low32 > high32
    return th.as_tensor(np.where(empty, nearest_low, low32)), th.as_tensor(np.where(empty, nearest_high, high32))


def _one_per_action(name: str, value: float | list[float], n_actions: int) -> list[float]:
    """Return the numbers of an option that takes one for all actions or one for each."""
    numbers: list[float] = np.asarray(value, dtype=object).flatten().tolist()
    if len(numbers) not in (1, n_actions):
        raise ValueError(f"{name} must hold 1 or {n_actions} numbers (one per action), got {value}")
    return numbers


def _checked_unit_mean(
    initial_mean: float | list[float] | None, low: np.ndarray, high: np.ndarray, max_concentration: float
) -> th.Tensor | None:
    """Return the wanted mean in the unit interval, `(n_actions,)`, float64."""
    if initial_mean is None:
        return None
    mean = np.asarray(_one_per_action("initial_mean", initial_mean, low.size), dtype=np.float64)
    unit = (mean - low) / (high - low)
    margin = 1e-3 - 1e-9  # so that exactly 0.1 % survives rounding
    if not np.all((unit >= margin) & (unit <= 1.0 - margin)):
        raise ValueError(
            f"initial_mean must lie between the bounds, at least 0.1 % of the range away from each: got "
            f"{initial_mean} for low={low.tolist()}, high={high.tolist()}"
        )
    # alpha = mean * concentration and beta = (1 - mean) * concentration must both exceed 1.
    needed = float(1.0 / np.minimum(unit, 1.0 - unit).min())
    if needed >= max_concentration:
        raise ValueError(
            f"initial_mean {initial_mean} needs a concentration above {needed:g} with low={low.tolist()}, "
            f"high={high.tolist()}, but max_concentration is {max_concentration:g}: raise it, or move the mean inwards"
        )
    return th.as_tensor(unit)
