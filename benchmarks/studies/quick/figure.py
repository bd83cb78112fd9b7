"""Draw the figures of docs/short_trainings.md from the stored runs: `python -m benchmarks.studies.quick.figure`."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks import tables
from benchmarks.provenance import ROOT
from benchmarks.report import save_svg
from benchmarks.studies.quick.run import FIRST_CHANGE, development_runs, study
from sb3_carracing.plotting import COLORS

CURVES = ROOT / "docs" / "short_trainings_curves.svg"
CHANGES = ROOT / "docs" / "short_trainings_changes.svg"
PRESET = "speed_30_90_rolling_50"
LABELS = {"quick": "BetaPPO, the preset", "quick_gaussian": "stock PPO, Gaussian"}


def draw_curves(folder: Path) -> Figure:
    """Draw the scores of the training episodes over frames, a line per test seed."""
    figure = Figure(figsize=(7.0, 4.0), layout="constrained")
    axes = figure.subplots()
    runs, progress = tables.finished(folder), tables.read(folder, tables.PROGRESS).groupby("run")
    for (config, label), color in zip(LABELS.items(), COLORS, strict=False):
        for number, run in enumerate(runs["run"][runs["config"] == config]):
            own = progress.get_group(run).dropna(subset=["rollout/score"])
            name = label if number == 0 else None
            axes.plot(own["time/frames"] / 1000, own["rollout/score"], color=color, alpha=0.7, linewidth=1.0, label=name)
    axes.set(xlabel="thousand frames", ylabel="score in training (sampled actions)")
    axes.legend(fontsize="small")
    return figure


def draw_changes(folder: Path) -> Figure:
    """Draw mean scores and lost development tracks of the preset and of its changes, a dot per seed."""
    runs = development_runs(folder, "target_speed", range(FIRST_CHANGE, 1000))
    figure = Figure(figsize=(11.0, 8.0), layout="constrained")
    scores, lost = figure.subplots(1, 2, sharey=True)
    labels = []
    for place, (config, own) in enumerate(runs.groupby("config", sort=False)):
        what = "the preset without the limit" if config == PRESET else study().configs[str(config)].what.replace("`", "")
        labels.append(f"{what} ({len(own)})")
        y = place + np.linspace(-0.25, 0.25, len(own)) if len(own) > 1 else [float(place)]
        scores.plot(own["score"], y, "o", color=COLORS[0], markersize=5)
        lost.plot(100.0 * own["lost"], y, "o", color=COLORS[0], markersize=5)
    scores.axvline(runs["score"][runs["config"] == PRESET].mean(), color="gray", linewidth=1.0)
    scores.set(xlabel="mean score", yticks=range(len(labels)), yticklabels=labels)
    scores.invert_yaxis()
    lost.set(xlabel="lost tracks, %")
    return figure


def main() -> None:
    """Write the figures."""
    for file, figure in (
        (CURVES, draw_curves(tables.RESULTS / "quick_test")),
        (CHANGES, draw_changes(tables.RESULTS / "quick")),
    ):
        for axes in figure.axes:
            axes.grid(alpha=0.3)
        save_svg(figure, file)
        print(file)


if __name__ == "__main__":
    main()
