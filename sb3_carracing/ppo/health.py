"""Warn once, in words, when the metrics of a training show that it goes wrong.

The limits separate the runs of benchmarks/results that learned from those with a mistake put in, see docs/debugging_ppo.md.
"""

import math
import warnings
from collections import deque
from typing import Any

import numpy as np
from gymnasium import spaces

CLIPPED_TO = 1e-3
"""Clipping that leaves less than this share of the gradient is warned of."""
NARROWEST = 0.01
"""Least share of the possible entropy (on a Box: of the range) that a policy may use."""
KL_JUMP, LEAST_KL = 10.0, 0.05
"""An update's KL may be this many times the median, and is harmless below the second number."""
EXPLAINED = 0.05
"""Least explained variance of a critic that has had time to learn."""
N_BEFORE_KL, N_BEFORE_CRITIC = 10, 20
"""Updates seen before a KL is compared with their median, and over which the critic is judged."""


class Watch:
    """Looks at each update of one training; warns of each trouble once."""

    def __init__(self) -> None:
        self._kls: deque[float] = deque(maxlen=100)
        self._explained: deque[float] = deque(maxlen=N_BEFORE_CRITIC)
        self._warned: set[str] = set()

    def look(self, update: int, metrics: dict[str, float], max_grad_norm: float, action_space: spaces.Space[Any]) -> None:
        """Warn if an update's metrics show a trouble for the first time.

        Args:
            update: The number that the log calls `train/n_updates`.
            metrics: Means over the update by SB3's names: `grad_norm`, `entropy_loss`, `approx_kl`, `explained_variance`.
            max_grad_norm: Limit that the gradient was clipped to.
            action_space: The agent's.
        """
        grad_norm = metrics.get("grad_norm", 0.0)
        if grad_norm * CLIPPED_TO > max_grad_norm:
            self._warn(
                "Unscaled returns",
                f"clipping shrinks the gradient by a factor of {grad_norm / max_grad_norm:,.0f} in update {update} (norm "
                f"{grad_norm:.3g}, max_grad_norm {max_grad_norm:g}), so that next to nothing of it is left for the policy. "
                "Scale the reward, or use VecNormalize.",
            )
        used = used_share(action_space, -metrics["entropy_loss"])
        if used < NARROWEST:
            self._warn(
                "Entropy",
                f"the entropy has collapsed in update {update} ({-metrics['entropy_loss']:.3g}): the policy hardly tries "
                "anything but one action. If the return has stopped to rise, look at train/concentration_max, the scale of "
                "the reward and ent_coef.",
            )
        kl = metrics["approx_kl"]
        median = float(np.median(self._kls)) if len(self._kls) >= N_BEFORE_KL else math.inf
        if kl > max(KL_JUMP * median, LEAST_KL):
            self._warn(
                "In which order to look",
                f"update {update} changed the policy far more than the others: its KL divergence is {kl:.3g}, and the median "
                f"is {median:.3g}. What the agent had learned may be lost. Lower learning_rate or n_epochs, or set "
                "target_kl, and look at the scale of the reward.",
            )
        self._kls.append(kl)
        explained = metrics["explained_variance"]
        if not math.isnan(explained):  # all returns are equal
            self._explained.append(explained)
        if len(self._explained) == N_BEFORE_CRITIC and np.median(self._explained) < EXPLAINED:
            self._warn(
                "Dones are never stored",
                f"the critic explains nothing of the returns: over {N_BEFORE_CRITIC} updates up to {update}, the median of "
                f"the explained variance is {np.median(self._explained):.2g}. Look at vf_coef, at the scale of the reward, "
                "at how episodes end, and whether the observation shows what the return depends on.",
            )

    def _warn(self, section: str, what: str) -> None:
        if section not in self._warned:
            self._warned.add(section)
            warnings.warn(f'BetaPPO: {what} See "{section}" in docs/debugging_ppo.md.', stacklevel=3)


def used_share(space: spaces.Space[Any], entropy: float) -> float:
    """Return how much of what is possible a policy tries, from its entropy [nats]: 1 is uniform, 0 is a single action.

    On a Box it is the width, as a share of the range, of the uniform distribution with the same entropy per dimension. It is
    infinite where the range is. Elsewhere, it is the share of the largest possible entropy.
    """
    if isinstance(space, spaces.Box):
        width = space.high.astype(np.float64) - space.low.astype(np.float64)
        if not np.isfinite(width).all():
            return math.inf
        return float(np.exp((entropy - np.log(width).sum()) / width.size))
    if isinstance(space, spaces.Discrete):
        largest = math.log(space.n)
    elif isinstance(space, spaces.MultiDiscrete):
        largest = float(np.log(space.nvec).sum())
    else:
        assert isinstance(space, spaces.MultiBinary)
        largest = float(np.prod(space.shape)) * math.log(2.0)
    return entropy / largest if largest > 0.0 else math.inf
