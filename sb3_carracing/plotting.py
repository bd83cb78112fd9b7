"""Learning curves of one or several runs as PNG files, drawn only from the log files in their folders.

The panels actor_loss, critic_loss, entropy and kl use progress.csv. The panel evaluation uses evaluations.csv, or else
rl-zoo3's evaluations.npz. The panel score, with its mean over 100 episodes, uses monitor.csv. all.png shows all panels.
"""

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sb3_carracing.deprecated import old_names
from sb3_carracing.errors import UserError
from sb3_carracing.files import check_writable, write_atomically
from sb3_carracing.logs import read_episodes, read_evaluations, read_table

__getattr__ = old_names(__name__)

AVERAGED_EPISODES = 100
_X_COLUMNS = {"time/frames": "frames", "time/total_timesteps": "steps"}


@dataclass(frozen=True)
class Curve:
    """Points of a diagram.

    Attributes:
        x: `(n,)`.
        y: `(n,)`.
        x_name: label of the axis.
        y_name: label of the axis.
        spread: `(n,)`, half the width of a band around y.
        average: `(n,)`, a smooth line through y.
    """

    x: np.ndarray
    y: np.ndarray
    x_name: str
    y_name: str = ""
    spread: np.ndarray | None = None
    average: np.ndarray | None = None


@dataclass(frozen=True)
class Panel:
    """One diagram: its title, and a function that reads its curve from a run folder or returns None."""

    title: str
    read: Callable[[Path], Curve | None]


def logged(column: str, sign: float = 1.0) -> Callable[[Path], Curve | None]:
    """Return a function that reads a column of progress.csv, times `sign`."""

    def read(run: Path) -> Curve | None:
        table = read_table(run / "progress.csv")
        if table is None or column not in table:
            return None
        y = sign * table.numbers(column)
        logged = np.isfinite(y)
        if not logged.any():
            return None
        x_name = next((name for name in _X_COLUMNS if name in table), "")
        # SB3 logs an update with the next rollout. We draw it where it took place, at the end of the previous one.
        x = _shift(_fill_forward(table.numbers(x_name)))[logged] if x_name else np.arange(logged.sum(), dtype=float)
        return Curve(x, y[logged], _X_COLUMNS.get(x_name, "updates"))

    return read


def _fill_forward(x: np.ndarray) -> np.ndarray:
    """Replace each NaN by the last number before it."""
    last = np.maximum.accumulate(np.where(np.isnan(x), 0, np.arange(len(x))))
    return np.asarray(x[last])


def _shift(x: np.ndarray) -> np.ndarray:
    return np.concatenate([[np.nan], x[:-1]])


def _evaluation(run: Path) -> Curve | None:
    table = read_table(run / "evaluations.csv")
    # A trial of a search counts steps, and has no deviation.
    x_name = next((name for name in ("frames", "steps") if table is not None and name in table), None)
    if table is not None and x_name is not None and "mean" in table:
        spread_name = "std" if "std" in table else "mean"
        x, y, spread = table.where_finite(x_name, "mean", spread_name)
        if len(x):
            return Curve(x, y, x_name, "raw score", spread=spread if "std" in table else None)
    evaluations = read_evaluations(run / "evaluations.npz")
    if evaluations is None or not len(evaluations.timesteps):
        return None
    returns = evaluations.results
    return Curve(evaluations.timesteps, returns.mean(axis=1), "steps", "return", spread=returns.std(axis=1))


def _score(run: Path) -> Curve | None:
    episodes = read_episodes(run)
    if episodes is None:
        return None
    # Monitor's "r" is the training return, "l" counts steps. Runs of CarRacing have both of the raw score and frames.
    is_ours = all(name in episodes and np.isfinite(episodes[name]).all() for name in ("score", "frames"))
    y, y_name = (episodes["score"], "raw score") if is_ours else (episodes["r"], "training return")
    x, x_name = (episodes["frames"], "frames") if is_ours else (episodes["l"], "steps")
    return Curve(x.cumsum(), y, x_name, y_name, average=_moving_average(y, AVERAGED_EPISODES))


def _moving_average(y: np.ndarray, n: int) -> np.ndarray:
    """Return the mean of the last n values at each position, or of all values so far if there are fewer."""
    sums = np.concatenate([[0.0], y.cumsum()])
    ends = np.arange(1, len(y) + 1)
    starts = np.maximum(ends - n, 0)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


PANELS = {
    "score": Panel(f"score of every training episode, mean of {AVERAGED_EPISODES}", _score),
    "evaluation": Panel("evaluation return, mean +- std", _evaluation),
    "actor_loss": Panel("actor loss", logged("train/policy_gradient_loss")),
    "critic_loss": Panel("critic loss", logged("train/value_loss")),
    "entropy": Panel("entropy", logged("train/entropy_loss", sign=-1.0)),
    "kl": Panel("approximate KL divergence", logged("train/approx_kl")),
}
"""Every diagram by the name of its file."""


def plot_runs(runs: Sequence[str | Path], folder: str | Path) -> list[Path]:
    """Draw every diagram that any run has data for, and one figure with all of them.

    Args:
        runs: run folders.
        folder: where the PNG files go.

    Returns:
        The files.

    Raises:
        UserError: a folder does not exist, or none holds anything to draw.
    """
    folders = [Path(run) for run in runs]
    for run in folders:
        if not run.is_dir():
            raise UserError(f"there is no run folder {run}")
    names = short_names(folders)
    curves = {
        key: found
        for key, panel in PANELS.items()
        if (found := {name: curve for name, run in names.items() if (curve := panel.read(run)) is not None})
    }
    if not curves:
        where = ", ".join(map(str, folders))
        raise UserError(f"nothing to plot: no progress.csv, evaluations.csv or monitor.csv with a row in {where}")
    folder = Path(folder)
    check_writable(folder)
    files = [_draw(folder / f"{key}.png", {key: found}) for key, found in curves.items()]
    return [*files, _draw(folder / "all.png", curves)]


def _draw(file: Path, curves: dict[str, dict[str, Curve]]) -> Path:
    columns = min(len(curves), 3)
    rows = -(-len(curves) // columns)
    size = (6.0 * columns, 4.0 * rows)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, (key, found) in zip(axes.flat, curves.items(), strict=False):
        _draw_panel(axis, PANELS[key].title, found)
    for axis in axes.flat[len(curves) :]:
        axis.set_axis_off()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    write_atomically(file, content.getvalue())
    return file


def _draw_panel(axis: Axes, title: str, curves: dict[str, Curve]) -> None:
    for number, (name, curve) in enumerate(curves.items()):
        color = f"C{number}"
        if curve.average is not None:
            axis.plot(curve.x, curve.y, ".", color=color, alpha=0.25, markersize=3)
            axis.plot(curve.x, curve.average, color=color, label=name)
        else:
            axis.plot(curve.x, curve.y, color=color, label=name, marker="." if len(curve.x) < 50 else "")
        if curve.spread is not None:
            axis.fill_between(curve.x, curve.y - curve.spread, curve.y + curve.spread, color=color, alpha=0.2)
    axis.set_title(title)
    # Runs in one diagram may count differently if one has no frames.
    axis.set_xlabel(" or ".join(sorted({curve.x_name for curve in curves.values()})))
    axis.set_ylabel(" or ".join(sorted({curve.y_name for curve in curves.values()})))
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")


def short_names(runs: Sequence[Path]) -> dict[str, Path]:
    """Name each run by the shortest end of its path that tells the runs apart."""
    paths = list(dict.fromkeys(run.resolve() for run in runs))
    for n_parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = {os.path.join(*path.parts[-n_parts:]): path for path in paths}
        if len(names) == len(paths):
            break
    return names
