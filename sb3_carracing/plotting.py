"""Learning curves of one or many runs as PNG and SVG files, drawn only from the log files in their folders.

The panels actor_loss, critic_loss, entropy and kl use progress.csv. The panel evaluation uses evaluations.csv, or else
rl-zoo3's evaluations.npz. The panel score, with its mean over 100 episodes, uses monitor.csv. `all` shows all panels. Runs of
one algorithm with different seeds are drawn as their mean.
"""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from sb3_carracing.curves import PANELS, Curve, RunInfo, Unit, groups_of, mean_curve, run_info, separate, unit_of
from sb3_carracing.deprecated import old_names
from sb3_carracing.errors import UserError
from sb3_carracing.files import check_writable, write_atomically

__getattr__ = old_names(__name__)

FORMATS = ("png", "svg")
_X_NAMES = {"frames": "environment frames", "steps": "agent steps", "minutes": "training time [min]"}
# Okabe and Ito's colors, which color-blind people can tell apart. In a print without color, the line style does.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_STYLES = ("-", "--", "-.", ":")


def plot_runs(runs: Sequence[str | Path], folder: str | Path, *, x: Unit | None = None, group: bool = True) -> list[Path]:
    """Draw every diagram that any run has data for, and one figure with all of them, as PNG and SVG.

    Args:
        runs: run folders.
        folder: where the files go.
        x: "frames", "steps" or "minutes"; None means frames if all runs have them, else steps.
        group: draw runs of one algorithm and environment, with different seeds, as their mean.

    Returns:
        The files.

    Raises:
        UserError: a folder does not exist, or none holds anything to draw over `x`.
    """
    folders = list(dict.fromkeys(Path(run).resolve() for run in runs))
    for given, run in zip(runs, map(Path, runs), strict=True):
        if not run.is_dir():
            raise UserError(f"there is no run folder {given}")
    unit = x or unit_of(folders)
    infos = [run_info(run) for run in folders]
    groups = groups_of(infos) if group else {name: [run] for name, run in separate(infos).items()}
    drawn = {key: found for key in PANELS if (found := _curves(key, groups, unit))}
    if not drawn:
        over = f" and {x}" if x else ""
        where = ", ".join(map(str, runs))
        raise UserError(f"nothing to plot: no progress.csv, evaluations.csv or monitor.csv with a row{over} in {where}")
    folder = Path(folder)
    check_writable(folder)
    title = ", ".join(sorted({info.env_id for info in infos}))
    files = [file for key, found in drawn.items() for file in _draw(folder / key, {key: found}, unit, title)]
    return [*files, *_draw(folder / "all", drawn, unit, title)]


def _curves(key: str, groups: dict[str, list[RunInfo]], unit: Unit) -> list[Curve]:
    """Return a panel's curves, one per group that has any."""
    curves = []
    for name, members in groups.items():
        found = [curve for run in members if (curve := PANELS[key].read(run.folder, unit)) is not None]
        if len(found) > 1 and len({curve.y_name for curve in found}) == 1:
            curves.append(mean_curve(found, name))
        else:
            curves += [replace(curve, label=f"{name}, mean and std" if curve.low is not None else name) for curve in found]
    return curves


def _draw(file: Path, panels: dict[str, list[Curve]], unit: Unit, title: str) -> list[Path]:
    """Write one figure in each format; `file` has no ending."""
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(6.0 * columns, 4.0 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, (key, curves) in zip(axes.flat, panels.items(), strict=False):
        _draw_panel(axis, PANELS[key].title, curves, unit)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    figure.suptitle(title)
    written = []
    for ending in FORMATS:
        content = io.BytesIO()
        # The same input gives the same file, and text stays text.
        with rc_context({"svg.hashsalt": "sb3_carracing", "svg.fonttype": "none"}):
            figure.savefig(content, format=ending, dpi=110, metadata={"Date": None} if ending == "svg" else None)
        figure.set_layout_engine("none")  # it stays as it is, and takes most of the time
        written.append(file.with_suffix(f".{ending}"))
        write_atomically(written[-1], content.getvalue())
    return written


def _draw_panel(axis: Axes, title: str, curves: Sequence[Curve], unit: Unit) -> None:
    for number, curve in enumerate(curves):
        color, style = COLORS[number % len(COLORS)], _STYLES[number % len(_STYLES)]
        if curve.points is not None:
            # Thousands of points would make a large SVG.
            axis.plot(curve.x, curve.points, ".", color=color, alpha=0.25, markersize=3, rasterized=True)
        marker = "." if len(curve.x) < 50 else ""
        axis.plot(curve.x, curve.y, linestyle=style, color=color, label=curve.label, marker=marker)
        if curve.low is not None and curve.high is not None:
            axis.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.2, linewidth=0)
    axis.set_title(title)
    axis.set_xlabel(_X_NAMES[unit])
    if unit != "minutes":
        axis.xaxis.set_major_formatter(EngFormatter())
    axis.set_ylabel(" or ".join(sorted({curve.y_name for curve in curves})))
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
