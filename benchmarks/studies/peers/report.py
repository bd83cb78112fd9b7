"""Fill docs/peers.md with a table and a figure of the stored runs; no number in them is typed.

python -m benchmarks.studies.peers.report
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from benchmarks import tables
from benchmarks.provenance import ROOT
from benchmarks.report import LOST, interval, markdown, with_results
from benchmarks.studies.peers.run import study

RESULTS = tables.RESULTS / "peers"
PAGE = ROOT / "docs" / "peers.md"
FIGURE = "peers.png"
PAIR = ("beta_ppo", "ppo_gaussian")


def summaries(results: Path = RESULTS) -> pd.DataFrame:
    """Return a row per finished run with its configuration, in the order of the study, and statistics of its episodes."""
    runs = tables.finished(results, study().configs)
    episodes = tables.read(results, tables.EPISODES).groupby("run")
    statistics = pd.DataFrame(
        {
            "mean": episodes["score"].mean(),
            "std": episodes["score"].std(ddof=0),
            "median": episodes["score"].median(),
            "laps": 100 * episodes["lap"].mean(),
            "lost": episodes["score"].apply(lambda scores: int((scores < LOST).sum())),
        }
    )
    return runs[["run", "config", "seed"]].join(statistics, on="run")


def table(results: Path = RESULTS) -> str:
    """Return a Markdown table of the finished runs, Welch's test and the link to the figure; empty if there is none."""
    rows = []
    found = summaries(results)
    for name, runs in found.groupby("config", sort=False):
        means = runs["mean"].to_numpy()
        half = interval(means)
        between = "" if np.isnan(half) else f"{means.mean() - half:.0f} .. {means.mean() + half:.0f}"
        each = ", ".join(f"{run.mean:.1f} +- {run.std:.1f}" for run in runs[["mean", "std"]].itertuples())
        joined = [", ".join(f"{value:.0f}" for value in runs[column]) for column in ("median", "laps", "lost")]
        rows.append([f"{study().configs[str(name)].what} (`{name}`)", f"**{means.mean():.1f}**", between, each, *joined])
    if not rows:
        return ""
    lost = f"lost (< {LOST:.0f}), of 100"
    headings = ("", "mean over seeds", "95 % interval", "each seed", "median track", "laps finished, %", lost)
    return f"{markdown(headings, rows)}{_test(found)}![validation scores over frames]({FIGURE})\n\n"


def _test(found: pd.DataFrame) -> str:
    """Return what Welch's test says of the Beta's and the Gaussian's seeds, nothing unless both have several."""
    means = [found["mean"][found["config"] == name] for name in PAIR]
    if min(map(len, means)) < 2:
        return ""
    p = stats.ttest_ind(*means, equal_var=False).pvalue
    first, second = PAIR
    return f"Welch's t-test of the seeds' means, `{first}` against `{second}`: p = {p:.2f}.\n\n"


def draw(file: Path, results: Path = RESULTS) -> None:
    """Draw the mean validation score over frames with Student's interval over the seeds, thin lines for each seed."""
    runs, validation = tables.finished(results, study().configs), tables.read(results, tables.VALIDATION)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, (name, config) in enumerate(study().configs.items()):
        own = runs["run"][runs["config"] == name]
        curves = [validation.loc[validation["run"] == run, ["frames", "mean"]].to_numpy(float) for run in own]
        if not curves:
            continue
        color = f"C{number}"
        for curve in curves:
            axes.plot(curve[:, 0] / 1e6, curve[:, 1], color=color, alpha=0.25, linewidth=0.8)
        length = min(map(len, curves))
        scores = np.array([curve[:length, 1] for curve in curves])
        frames, mean, half = curves[0][:length, 0] / 1e6, scores.mean(axis=0), interval(scores)
        axes.plot(frames, mean, color=color, label=f"{config.what.replace('`', '')} ({len(curves)})")
        axes.fill_between(frames, mean - half, mean + half, color=color, alpha=0.12)
    axes.set(xlabel="million frames", ylabel="raw score, 5 validation tracks, deterministic action", ylim=(-150, 1000))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="lower right")
    figure.savefig(file, dpi=110)


def main() -> None:
    """Write the page and its figure."""
    PAGE.write_text(with_results(PAGE.read_text(), table()))
    if table():
        draw(PAGE.with_name(FIGURE))
    print(PAGE)


if __name__ == "__main__":
    main()
