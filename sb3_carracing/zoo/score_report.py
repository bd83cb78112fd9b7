"""What rl-zoo3's enjoy prints, with the raw score first and its rewards called what they are."""

import builtins
import re
from typing import Any

import numpy as np

from sb3_carracing.envs.counts import counts_of
from sb3_carracing.evaluation import MIN_EPISODES_FOR_INTERVAL


class ScoreReport:
    """Collects scores of episodes and stands in for `print` in rl-zoo3's enjoy.

    The rewards that enjoy sums up have passed the wrappers of the training, which scale and shape them.
    """

    def __init__(self) -> None:
        self._scores: list[float] = []

    def note(self, info: dict[str, Any]) -> None:
        """Note an episode's score from the info of its last step: of CarRacing itself, else the return below all wrappers."""
        counts = counts_of(info)
        if counts is not None:
            self._scores.append(counts.score)
        elif "episode" in info:
            self._scores.append(float(info["episode"]["r"]))

    def print(self, *values: object, **kwargs: Any) -> None:
        """Print like the builtin, with rl-zoo3's `Episode Reward` and `Mean reward` as training returns behind the score."""
        text = " ".join(map(str, values))
        if text.startswith("Episode Reward") and self._scores:
            builtins.print(f"Score: {self._scores[-1]:.1f}")
        if text.startswith("Mean reward") and self._scores:
            builtins.print(f"Mean score: {mean_and_spread(self._scores)}")
        text = text.replace("Episode Reward", "Training return").replace("Mean reward", "Mean training return")
        if len(self._scores) < MIN_EPISODES_FOR_INTERVAL:
            text = re.sub(r"^(Mean .*) \+/- .*", r"\1", text)
        builtins.print(text, **kwargs)


def mean_and_spread(scores: list[float] | np.ndarray) -> str:
    """Return `mean +- standard deviation`, or the mean alone for few scores."""
    spread = f" +- {np.std(scores):.1f}" if len(scores) >= MIN_EPISODES_FOR_INTERVAL else ""
    return f"{np.mean(scores):.1f}{spread}"
