"""Learning curves: what the log files of a run say over frames, steps or minutes, and means of several runs."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from sb3_carracing.errors import UserError
from sb3_carracing.logs import Table, read_episodes, read_evaluations, read_table
from sb3_carracing.run_safety import read_yaml

AVERAGED_EPISODES = 100
MIN_RUNS_FOR_INTERVAL = 5
_GRID_POINTS = 500

Unit = Literal["frames", "steps", "minutes"]


@dataclass(frozen=True)
class Curve:
    """Points of a diagram.

    Attributes:
        x: `(n,)`.
        y: `(n,)`.
        y_name: label of the axis.
        low: `(n,)`, lower edge of a band around y.
        high: `(n,)`, upper edge of the band.
        points: `(n,)`, single values that y is an average of.
        label: what the legend calls it.
    """

    x: np.ndarray
    y: np.ndarray
    y_name: str = ""
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    points: np.ndarray | None = None
    label: str = ""


@dataclass(frozen=True)
class Panel:
    """One diagram: its title, and a function that reads its curve from a run folder or returns None."""

    title: str
    read: Callable[[Path, Unit], Curve | None]


@dataclass(frozen=True)
class RunInfo:
    """What the legend and the grouping need to know about a run.

    Attributes:
        folder: where it is.
        algo: its algorithm, as rl-zoo3 names it.
        env_id: its environment, empty if unknown.
        seed: its random seed, None if unknown.
    """

    folder: Path
    algo: str
    env_id: str
    seed: int | None


def run_info(folder: Path) -> RunInfo:
    """Read algorithm, environment and seed from the args.yml of a run; without one, its folders' names say the former two.

    Warns:
        UserWarning: args.yml cannot be read.
    """
    args = {}
    for file in sorted(folder.glob("*/args.yml"))[:1]:
        try:
            args = read_yaml(file)
        except UserError as error:
            warnings.warn(str(error), stacklevel=2)
    folder = folder.resolve()
    seed = args.get("seed")
    return RunInfo(
        folder,
        str(args.get("algo") or folder.parent.name),
        str(args.get("env") or folder.name.rpartition("_")[0] or folder.name),
        seed if isinstance(seed, int) and seed >= 0 else None,
    )


def _x_of(table: Table, unit: Unit) -> np.ndarray | None:
    """Return the column of progress.csv or evaluations.csv with a unit, None if there is none."""
    names = {"frames": ("time/frames", "frames"), "steps": ("time/total_timesteps", "steps")}
    for name in names.get(unit, ("time/time_elapsed", "seconds")):
        if name in table:
            return table.numbers(name) / (60.0 if unit == "minutes" else 1.0)
    return None


def logged(column: str, y_name: str, sign: float = 1.0) -> Callable[[Path, Unit], Curve | None]:
    """Return a function that reads a column of progress.csv, times `sign`."""

    def read(run: Path, unit: Unit) -> Curve | None:
        table = read_table(run / "progress.csv")
        if table is None or column not in table:
            return None
        y, x = sign * table.numbers(column), _x_of(table, unit)
        if x is None:
            return None
        # SB3 logs an update with the next rollout. We draw it where it took place, at the end of the previous one.
        x = _shift(_fill_forward(x))
        drawn = np.isfinite(x) & np.isfinite(y)
        return Curve(x[drawn], y[drawn], y_name) if drawn.any() else None

    return read


def _fill_forward(x: np.ndarray) -> np.ndarray:
    """Replace each NaN by the last number before it."""
    last = np.maximum.accumulate(np.where(np.isnan(x), 0, np.arange(len(x))))
    return np.asarray(x[last])


def _shift(x: np.ndarray) -> np.ndarray:
    return np.concatenate([[np.nan], x[:-1]])


def _evaluation(run: Path, unit: Unit) -> Curve | None:
    table = read_table(run / "evaluations.csv")
    x = _x_of(table, unit) if table is not None else None
    if table is not None and x is not None and "mean" in table:
        mean = table.numbers("mean")
        # A trial of a search has no deviation.
        std = table.numbers("std") if "std" in table else None
        whole = np.isfinite(x) & np.isfinite(mean) & (np.isfinite(std) if std is not None else True)
        if whole.any():
            return _with_spread(x[whole], mean[whole], "raw score [points]", std[whole] if std is not None else None)
    evaluations = read_evaluations(run / "evaluations.npz")
    if evaluations is None or not len(evaluations.timesteps) or unit != "steps":
        return None
    returns = evaluations.results
    return _with_spread(evaluations.timesteps, returns.mean(axis=1), "return [points]", returns.std(axis=1))


def _with_spread(x: np.ndarray, mean: np.ndarray, y_name: str, std: np.ndarray | None) -> Curve:
    low, high = (mean - std, mean + std) if std is not None else (None, None)
    return Curve(x, mean, y_name, low, high)


def _score(run: Path, unit: Unit) -> Curve | None:
    episodes = read_episodes(run)
    if episodes is None:
        return None
    # Monitor's "r" is the training return, "l" counts steps. Runs of CarRacing have both of the raw score and frames.
    is_ours = all(name in episodes and np.isfinite(episodes[name]).all() for name in ("score", "frames"))
    y, y_name = (episodes["score"], "raw score [points]") if is_ours else (episodes["r"], "training return [points]")
    if unit == "minutes":
        x = episodes["elapsed"] / 60.0
    elif unit == "steps":
        x = episodes["l"].cumsum()
    elif is_ours:
        x = episodes["frames"].cumsum()
    else:
        return None
    return Curve(x, _moving_average(y, AVERAGED_EPISODES), y_name, points=y)


def _moving_average(y: np.ndarray, n: int) -> np.ndarray:
    """Return the mean of the last n values at each position, or of all values so far if there are fewer."""
    sums = np.concatenate([[0.0], y.cumsum()])
    ends = np.arange(1, len(y) + 1)
    starts = np.maximum(ends - n, 0)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


PANELS = {
    "score": Panel(f"Training episodes, mean of {AVERAGED_EPISODES}", _score),
    "evaluation": Panel("Evaluation, mean of its episodes", _evaluation),
    "actor_loss": Panel("Policy loss", logged("train/policy_gradient_loss", "loss")),
    "critic_loss": Panel("Value loss", logged("train/value_loss", "loss")),
    "entropy": Panel("Entropy of the policy", logged("train/entropy_loss", "entropy [nats]", sign=-1.0)),
    "kl": Panel("KL divergence per update, approximate", logged("train/approx_kl", "KL divergence [nats]")),
}
"""Every diagram by the name of its file."""


def mean_curve(curves: Sequence[Curve], label: str) -> Curve:
    """Return the mean over runs, with the runs' range, or from five runs on the 95 % bootstrap interval of the mean.

    It covers only the x that all runs have: where one run ends, the mean of the others would jump.
    """
    start, end = max(curve.x[0] for curve in curves), min(curve.x[-1] for curve in curves)
    points = np.unique(np.concatenate([curve.x for curve in curves]))
    x = points[(points >= start) & (points <= end)]
    if len(x) > _GRID_POINTS:
        x = np.linspace(start, end, _GRID_POINTS)
    y = np.array([np.interp(x, curve.x, curve.y) for curve in curves])
    low, high, band = y.min(axis=0), y.max(axis=0), "range"
    if len(curves) >= MIN_RUNS_FOR_INTERVAL:
        drawn = np.random.default_rng(0).integers(len(curves), size=(1_000, len(curves)))
        low, high = np.percentile([y[rows].mean(axis=0) for rows in drawn], [2.5, 97.5], axis=0)
        band = "95 % interval"
    name = f"{label}, mean and {band} of {len(curves)} runs"
    return Curve(x, y.mean(axis=0), curves[0].y_name, low, high, label=name)


def unit_of(runs: Sequence[Path]) -> Unit:
    """Return "frames" if every run that has curves has them over frames, else "steps"."""
    for run in runs:
        drawable = [panel for panel in PANELS.values() if panel.read(run, "steps") is not None]
        if any(panel.read(run, "frames") is None for panel in drawable):
            return "steps"
    return "frames"


def groups_of(runs: Sequence[RunInfo]) -> dict[str, list[RunInfo]]:
    """Group runs by algorithm and environment, by the name for the legend.

    Runs of one seed are no independent repetitions, so a group that holds a seed twice is split into its runs.
    """
    n_envs = len({run.env_id for run in runs})
    groups: dict[str, list[RunInfo]] = {}
    for run in runs:
        name = _ALGORITHM_NAMES.get(run.algo, run.algo.upper())
        groups.setdefault(f"{name} on {run.env_id}" if n_envs > 1 else name, []).append(run)
    split: dict[str, list[RunInfo]] = {}
    for name, members in groups.items():
        seeds = [run.seed for run in members if run.seed is not None]
        if len(set(seeds)) == len(seeds):
            split[name] = members
        else:
            split |= {f"{name}, {short}": [run] for short, run in separate(members).items()}
    return split


def separate(runs: Sequence[RunInfo]) -> dict[str, RunInfo]:
    """Name each run by the shortest end of its path that tells the runs apart."""
    for n_parts in range(1, max(len(run.folder.parts) for run in runs) + 1):
        names = {"/".join(run.folder.parts[-n_parts:]): run for run in runs}
        if len(names) == len(runs):
            break
    return names


_ALGORITHM_NAMES = {
    "beta_ppo": "BetaPPO",
    "beta_ppo_lstm": "BetaRecurrentPPO",
    "ppo_lstm": "RecurrentPPO",
    "crossq": "CrossQ",
    "qrdqn": "QR-DQN",
}
