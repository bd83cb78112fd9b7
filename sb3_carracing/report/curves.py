"""The curves of a report, and the warning signs in them.

The signs look at the logs afterwards, so that they also hold for runs of other algorithms and versions.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sb3_carracing.curves import PANELS, Curve, Panel, Unit, logged
from sb3_carracing.ppo.health import CLIPPED_TO, EXPLAINED, KL_JUMP, LEAST_KL, N_BEFORE_KL
from sb3_carracing.ppo.health import N_BEFORE_CRITIC as N_OF_CRITIC

SHOWN = {
    "score": PANELS["score"],
    "evaluation": Panel("validation, mean ± std", PANELS["evaluation"].read),
    "entropy": PANELS["entropy"],
    "concentration": Panel("concentration alpha + beta, mean", logged("train/concentration_mean", "concentration")),
    "concentration_max": Panel("concentration alpha + beta, largest", logged("train/concentration_max", "concentration")),
    "std": Panel("standard deviation of the Gaussian", logged("train/std", "std")),
    "kl": PANELS["kl"],
    "clip_fraction": Panel("clip fraction", logged("train/clip_fraction", "share")),
    "explained_variance": Panel("explained variance", logged("train/explained_variance", "explained variance")),
    "grad_norm": Panel("gradient norm before clipping", logged("train/grad_norm", "norm")),
    "critic_loss": PANELS["critic_loss"],
    "actor_loss": PANELS["actor_loss"],
    "bounds": Panel("share of actions at the bounds", logged("train/actions_at_bounds", "share")),
    "learning_rate": Panel("learning rate", logged("train/learning_rate", "rate")),
    "speed": Panel("frames per second", logged("time/frames_per_second", "frames/s")),
}
"""Every diagram of a report by its key."""

LOGARITHMIC = ("concentration", "concentration_max", "grad_norm", "critic_loss")
N_POINTS = 240

# Limits of the signs that only a report looks for; the others are those that a training warns of.
CLIPPED, N_OF_CLIPPED = 0.6, 10
CERTAIN = 1000.0
NARROWEST_STD = 0.01
LEAST_ENTROPY = 0.01
FALLEN = 0.8


class Sign(NamedTuple):
    """A warning sign.

    Attributes:
        panel: key of the diagram.
        x: where it shows.
        text: what it means, in a sentence.
    """

    panel: str
    x: np.ndarray
    text: str


def read_curves(run: Path, unit: Unit = "frames") -> dict[str, Curve]:
    """Return the curves that a run folder has data for, over frames, steps or minutes."""
    found = {key: panel.read(run, unit) for key, panel in SHOWN.items()}
    return {key: curve for key, curve in found.items() if curve is not None}


def warning_signs(curves: dict[str, Curve], max_grad_norm: float = 0.5) -> list[Sign]:
    """Return the warning signs in the curves of a run.

    Args:
        curves: see `read_curves`.
        max_grad_norm: limit that the gradient was clipped to.
    """
    rules: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
        "kl": (
            _kl_jumps,
            "An update changed the policy far more than the others. Lower learning_rate or n_epochs, or set target_kl.",
        ),
        "explained_variance": (
            lambda y: _rolling(np.median, y, N_OF_CRITIC) < EXPLAINED,
            f"The critic explained nothing of the returns for {N_OF_CRITIC} updates. Look at vf_coef and the reward's scale.",
        ),
        "clip_fraction": (
            lambda y: _rolling(np.mean, y, N_OF_CLIPPED) > CLIPPED,
            f"More than {CLIPPED:.0%} of the samples were clipped. Lower learning_rate or n_epochs.",
        ),
        "concentration": (lambda y: y > CERTAIN, "The policy hardly tries anything but one action. Look at ent_coef."),
        "std": (lambda y: y < NARROWEST_STD, "The Gaussian hardly tries anything but one action. Look at ent_coef."),
        "grad_norm": (
            lambda y: y * CLIPPED_TO > max_grad_norm,
            "Clipping leaves next to nothing of the gradient. Scale the reward, or use VecNormalize.",
        ),
        "evaluation": (_has_fallen, "The last agent is much worse than the best one: what it had learned was lost."),
    }
    if "std" not in curves and "concentration" not in curves:  # discrete actions, whose first entropy is about the largest
        rules["entropy"] = (
            lambda y: y < LEAST_ENTROPY * y[0],
            "The entropy has collapsed: the policy hardly tries anything but one action. Look at ent_coef.",
        )
    signs = []
    for key, (rule, text) in rules.items():
        if key in curves and (where := rule(curves[key].y) & np.isfinite(curves[key].x)).any():
            signs.append(Sign(key, curves[key].x[where], text))
    return signs


def _kl_jumps(y: np.ndarray) -> np.ndarray:
    before = [np.median(y[max(0, i - 100) : i]) if i >= N_BEFORE_KL else np.inf for i in range(len(y))]
    return np.asarray(y > np.maximum(KL_JUMP * np.array(before), LEAST_KL))


def _rolling(statistic: Callable[[np.ndarray], Any], y: np.ndarray, n: int) -> np.ndarray:
    """Return a statistic of the last n values at each position, NaN where there are fewer."""
    return np.array([statistic(y[i - n + 1 : i + 1]) if i >= n - 1 else np.nan for i in range(len(y))])


def _has_fallen(y: np.ndarray) -> np.ndarray:
    fallen = np.zeros(len(y), dtype=bool)
    fallen[-1] = y.max() > 0.0 and y[-1] < FALLEN * y.max()
    return fallen


def points(curve: Curve, unit: Unit) -> dict[str, Any]:
    """Return at most `N_POINTS` points of a curve for JSON: means of bins, and the range that each bin covers."""
    known = np.isfinite(curve.x)
    y = curve.y
    low = y if curve.low is None else curve.low
    high = y if curve.high is None else curve.high
    bins = [part for part in np.array_split(np.flatnonzero(known), N_POINTS) if len(part)]
    return {
        "x": [float(curve.x[part].mean()) for part in bins],
        "y": [_number(y[part].mean()) for part in bins],
        "low": [_number(low[part].min()) for part in bins],
        "high": [_number(high[part].max()) for part in bins],
        "x_name": unit,
    }


def _number(value: float) -> float:
    return float(f"{value:.5g}")
