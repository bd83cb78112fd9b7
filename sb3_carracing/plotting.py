"""Learning curves of one or several runs as PNG files, from the CSV files in their folders alone.

actor_loss, critic_loss, entropy and kl come from progress.csv, evaluation from evaluations.csv (else from rl-zoo3's
evaluations.npz), score with its 100-episode average from monitor.csv; all.png has them side by side.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from stable_baselines3.common.monitor import LoadMonitorResultsError, load_results

from sb3_carracing.deprecated import old_names
from sb3_carracing.errors import UserError

__getattr__ = old_names(__name__)

AVERAGED_EPISODES = 100
_X_COLUMNS = {"time/frames": "frames", "time/total_timesteps": "steps"}


@dataclass(frozen=True)
class Curve:
    """Points, each array of shape (n,), and what is on the axes; `spread` is a +- band around y."""

    x: np.ndarray
    y: np.ndarray
    x_name: str
    y_name: str = ""
    spread: np.ndarray | None = None
    average: np.ndarray | None = None


@dataclass(frozen=True)
class Panel:
    """One diagram: its title and what reads its curve from a run folder (None if the run has not got it)."""

    title: str
    read: Callable[[Path], Curve | None]


def _logged(column: str, sign: float = 1.0) -> Callable[[Path], Curve | None]:
    def read(run: Path) -> Curve | None:
        table = _table(run / "progress.csv")
        if table is None or column not in table:
            return None
        logged = table[column].notna()
        y = sign * table[column][logged].to_numpy(float)
        x_name = next((name for name in _X_COLUMNS if name in table), "")
        # SB3 logs an update with the rollout after it; it is drawn where it took place, at the end of the one before.
        x = table[x_name].ffill().shift(1)[logged].to_numpy(float) if x_name else np.arange(len(y))
        return Curve(x, y, _X_COLUMNS.get(x_name, "updates"))

    return read


def _evaluation(run: Path) -> Curve | None:
    table = _table(run / "evaluations.csv")
    if table is not None:
        # A trial of a search counts steps, and has no deviation.
        x_name = "frames" if "frames" in table else "steps"
        spread = table["std"].to_numpy(float) if "std" in table else None
        return Curve(table[x_name].to_numpy(float), table["mean"].to_numpy(float), x_name, "raw score", spread=spread)
    if not (run / "evaluations.npz").is_file():
        return None
    with np.load(run / "evaluations.npz") as saved:
        returns = saved["results"]
        return Curve(saved["timesteps"], returns.mean(axis=1), "steps", "return", spread=returns.std(axis=1))


def _score(run: Path) -> Curve | None:
    try:
        episodes = load_results(str(run))
    except LoadMonitorResultsError:
        return None
    if episodes.empty:
        return None
    # Monitor's "r" is what training pays, "l" its steps; runs of ours have the raw score and frames beside them.
    y, y_name = ("score", "raw score") if "score" in episodes else ("r", "training return")
    x, x_name = ("frames", "frames") if "frames" in episodes else ("l", "steps")
    average = episodes[y].rolling(AVERAGED_EPISODES, min_periods=1).mean().to_numpy(float)
    return Curve(episodes[x].cumsum().to_numpy(float), episodes[y].to_numpy(float), x_name, y_name, average=average)


PANELS = {
    "score": Panel(f"score of every training episode, mean of {AVERAGED_EPISODES}", _score),
    "evaluation": Panel("evaluation return, mean +- std", _evaluation),
    "actor_loss": Panel("actor loss", _logged("train/policy_gradient_loss")),
    "critic_loss": Panel("critic loss", _logged("train/value_loss")),
    "entropy": Panel("entropy", _logged("train/entropy_loss", sign=-1.0)),
    "kl": Panel("approximate KL divergence", _logged("train/approx_kl")),
}
"""Every diagram by the name of its file."""


def plot_runs(runs: Sequence[str | Path], folder: str | Path) -> list[Path]:
    """Draw every diagram that any run has data for, and all of them together; return the files.

    Raises:
        ValueError: a folder does not exist, or none holds anything to draw.
    """
    folders = [Path(run) for run in runs]
    for run in folders:
        if not run.is_dir():
            raise UserError(f"there is no run folder {run}")
    names = _short_names(folders)
    curves = {
        key: found
        for key, panel in PANELS.items()
        if (found := {name: curve for name, run in names.items() if (curve := panel.read(run)) is not None})
    }
    if not curves:
        where = ", ".join(map(str, folders))
        raise UserError(f"nothing to plot: no progress.csv, evaluations.csv or monitor.csv with a row in {where}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
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
    figure.savefig(file, dpi=110)
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
    # Runs of one diagram may count differently, where one has no frames.
    axis.set_xlabel(" or ".join(sorted({curve.x_name for curve in curves.values()})))
    axis.set_ylabel(" or ".join(sorted({curve.y_name for curve in curves.values()})))
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")


def _table(file: Path) -> pd.DataFrame | None:
    try:
        table = pd.read_csv(file)
    except (FileNotFoundError, pd.errors.EmptyDataError):
        return None
    return None if table.empty else table


def _short_names(runs: Sequence[Path]) -> dict[str, Path]:
    """Name each run by as many last parts of its path as it takes to tell them apart."""
    paths = list(dict.fromkeys(run.resolve() for run in runs))
    for n_parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = {os.path.join(*path.parts[-n_parts:]): path for path in paths}
        if len(names) == len(paths):
            break
    return names
