"""Draw the scores of several agents over frames and seconds of training: docs/sample_efficiency.svg.

    python -m benchmarks.studies.sample_efficiency

The curves are stored validations: 5 tracks, deterministic actions, raw scores. With three or more seeds they are interquartile
means with their 95 % intervals, see `benchmarks.report`. The large markers at their ends are the seeds' mean scores on the 100
test tracks. The script trains nothing.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks import report, tables
from benchmarks.provenance import ROOT
from sb3_carracing.plotting import COLORS

FIGURE = ROOT / "docs" / "sample_efficiency.svg"
# 30 tracks of CarRacing-v3 after 200,000 raw frames, one training seed; 2.2 hours on an RTX 5080. Its docs/reports/MRQ.md.
PUBLISHED = ("MRQ, as published (ylf11235, 1 seed)", 200_000, 2.2 * 3600, 902.1)


@dataclass(frozen=True)
class Agent:
    """Runs that one curve shows.

    Args:
        label: in the legend.
        study: folder in `benchmarks/results`.
        config: of the runs.
    """

    label: str
    study: str
    config: str


AGENTS = [
    Agent("BetaPPO, preset", "quick_test", "quick"),
    Agent("BetaPPO, a million frames", "presets", "one_pedal"),
    Agent("stock PPO, preset with a Gaussian", "quick_test", "quick_gaussian"),
    Agent("stock PPO, an earlier preset with a Gaussian", "peers", "ppo_gaussian"),
    Agent("stock PPO, rl-zoo3's values", "peers", "ppo_zoo"),
    Agent("the blog implementation", "ablations", "blog_published"),
    Agent("the Iurin implementation", "ablations", "iurin_own_budget"),
]


def curves(agent: Agent, results: Path = tables.RESULTS) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Return the runs, the frames and seconds of their validations, `(2, n_points)`, and the scores, `(n_runs, n_points)`."""
    runs = tables.finished(results / agent.study, [agent.config])
    validation = tables.read(results / agent.study, tables.VALIDATION).groupby("run")
    own = [validation.get_group(run)[["frames", "seconds", "mean"]].to_numpy(float).T for run in runs["run"]]
    length = min(curve.shape[1] for curve in own)
    stacked = np.stack([curve[:, :length] for curve in own])
    return runs, stacked[:, :2].mean(axis=0), stacked[:, 2]


def draw(file: Path, results: Path = tables.RESULTS) -> None:
    """Draw both panels."""
    figure = Figure(figsize=(11.0, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for agent, color in zip(AGENTS, COLORS, strict=True):
        runs, (frames, seconds), scores = curves(agent, results)
        estimates = report.interquartile_mean(scores[:, None]) if len(runs) > 2 else np.array([scores.mean(axis=0)] * 3)
        for panel, costs, total in zip(panels, (frames, seconds), ("frames", "seconds"), strict=True):
            label = f"{agent.label} ({len(runs)} seed{'s' * (len(runs) > 1)})"
            report.draw_band(panel, costs, estimates, color=color, marker=".", label=label)
            panel.plot(runs[total], runs["score"], linestyle="", marker="D", markersize=5, color=color)
    label, published_frames, published_seconds, score = PUBLISHED
    for panel, cost, unit in zip(
        panels, (published_frames, published_seconds), ("frames", "seconds of training"), strict=True
    ):
        panel.plot([cost], [score], linestyle="", marker="*", markersize=11, color="black", zorder=3, label=label)
        panel.set(xscale="log", xlabel=unit, ylim=(-120, 1000))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("raw score on CarRacing-v3")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    report.save_svg(figure, file)


if __name__ == "__main__":
    draw(FIGURE)
    print(FIGURE)
