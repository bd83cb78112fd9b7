"""Draw docs/short_trainings.svg from the stored runs: `python -m benchmarks.studies.quick.figure`.

It shows how agents learn, and what changes of the preset did.
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import tables
from benchmarks.provenance import ROOT
from benchmarks.report import LOST, save_svg
from benchmarks.studies.quick.run import study
from sb3_carracing.plotting import COLORS

FIRST_SEED = 581  # of the runs that evaluate on 100 development tracks
FIGURE = ROOT / "docs" / "short_trainings.svg"
LABELS = {"quick": "BetaPPO, the preset", "quick_gaussian": "stock PPO, Gaussian"}


def draw_training(axes: Axes, folder: Path) -> None:
    """Draw the scores of the training episodes over frames, a line per test seed."""
    runs, progress = tables.finished(folder), tables.read(folder, tables.PROGRESS).groupby("run")
    for (config, label), color in zip(LABELS.items(), COLORS, strict=False):
        for number, run in enumerate(runs["run"][runs["config"] == config]):
            own = progress.get_group(run).dropna(subset=["rollout/score"])
            name = label if number == 0 else None
            axes.plot(own["time/frames"] / 1000, own["rollout/score"], color=color, alpha=0.7, linewidth=1.0, label=name)
    axes.set(xlabel="thousand frames", ylabel="score in training (sampled actions)")
    axes.legend(fontsize="small")


def draw_changes(scores: Axes, lost: Axes, folder: Path) -> None:
    """Draw mean score and lost tracks of the changes of the preset on development tracks, a dot per seed."""
    episodes = tables.read(folder, tables.EPISODES).groupby("run")["score"]
    runs = tables.finished(folder, [name for name, config in study().configs.items() if config.group == "target_speed"])
    runs = runs[runs["seed"] >= FIRST_SEED]
    shares = episodes.agg(lambda values: 100.0 * (values < LOST).mean())
    labels = []
    for place, (config, own) in enumerate(runs.groupby("config", sort=False)):
        what = study().configs[str(config)].what.replace("`", "")
        labels.append("the preset" if what.endswith(": the preset") else what.removeprefix("the preset, "))
        y = np.full(len(own), float(place))
        scores.plot(own["score"], y, "o", color=COLORS[0], alpha=0.6)
        lost.plot(shares[own["run"]], y, "o", color=COLORS[1], alpha=0.6)
    scores.set(xlabel="mean score", yticks=range(len(labels)), yticklabels=labels)
    scores.tick_params(axis="y", labelsize="small")
    scores.invert_yaxis()
    lost.set(xlabel="lost tracks, %")


def main() -> None:
    """Write the figure."""
    figure = Figure(figsize=(13.0, 4.5), layout="constrained")
    training, scores, lost = figure.subplots(1, 3, gridspec_kw={"width_ratios": [3, 3, 2]})
    lost.sharey(scores)
    draw_training(training, tables.RESULTS / "quick_test")
    draw_changes(scores, lost, tables.RESULTS / "quick")
    lost.tick_params(axis="y", labelleft=False)
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    save_svg(figure, FIGURE)
    print(FIGURE)


if __name__ == "__main__":
    main()
