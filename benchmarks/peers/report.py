"""Fill docs/peers.md with a table and a picture of the stored runs; no number in them is typed.

python -m benchmarks.peers.report
"""

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from benchmarks.ablations.report import LOST
from benchmarks.peers.run import EVALUATION, PEERS, RESULTS, ROOT

PAGE = ROOT / "docs" / "peers.md"
PICTURE = "peers.png"
PAIR = ("beta_ppo", "ppo_gaussian")
_BLOCK = re.compile(r"(<!-- results -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Seed:
    """A finished run: its evaluation and its validation curve, a row each of frames and mean score."""

    summary: dict[str, Any]
    episodes: list[dict[str, Any]]
    curve: np.ndarray

    @property
    def lost(self) -> int:
        """Number of test tracks below `LOST`."""
        return sum(episode["score"] < LOST for episode in self.episodes)


def finished(name: str, results: Path = RESULTS) -> dict[int, Seed]:
    """Return the finished runs of a peer by seed."""
    seeds = {}
    for file in sorted(results.glob(f"{name}/seed_*/{EVALUATION}")):
        (result,) = json.loads(file.read_text())["results"].values()
        with file.with_name("evaluations.csv").open(newline="") as stream:
            curve = [(float(row["frames"]), float(row["mean"])) for row in csv.DictReader(stream)]
        seeds[int(file.parent.name.removeprefix("seed_"))] = Seed(result["summary"], result["episodes"], np.array(curve))
    return seeds


def interval(values: np.ndarray) -> np.ndarray:
    """Return half the width of Student's 95 % interval of the mean over axis 0, NaN for a single value."""
    n = len(values)
    if n == 1:
        return np.full(values.shape[1:], np.nan)
    return np.asarray(stats.t.ppf(0.975, n - 1) * stats.sem(values, axis=0))


def table(results: Path = RESULTS) -> str:
    """Return a Markdown table of the finished runs; empty if there is none."""
    rows = []
    for name, peer in PEERS.items():
        seeds = finished(name, results)
        if seeds:
            means = np.array([seed.summary["mean"] for seed in seeds.values()])
            half = interval(means)
            between = "" if np.isnan(half) else f"{means.mean() - half:.0f} .. {means.mean() + half:.0f}"
            each = ", ".join(f"{seed.summary['mean']:.1f} +- {seed.summary['std']:.1f}" for seed in seeds.values())
            laps = ", ".join(f"{100 * seed.summary['laps_finished']:.0f}" for seed in seeds.values())
            medians = ", ".join(f"{seed.summary['median']:.0f}" for seed in seeds.values())
            lost = ", ".join(str(seed.lost) for seed in seeds.values())
            first = f"| {peer.what} (`{name}`) | **{means.mean():.1f}** | {between} "
            rows.append(f"{first}| {each} | {medians} | {laps} | {lost} |")
    if not rows:
        return ""
    lost = f"lost (< {LOST:.0f}), of 100"
    columns = ("", "mean over seeds", "95 % interval", "each seed", "median track", "laps finished, %", lost)
    head = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join(["", *head, *rows, *_test(results), "", f"![validation scores over frames]({PICTURE})", ""]) + "\n"


def _test(results: Path) -> list[str]:
    """Return what Welch's test says of the Beta's and the Gaussian's seeds, nothing unless both have several."""
    means = [[seed.summary["mean"] for seed in finished(name, results).values()] for name in PAIR]
    if min(map(len, means)) < 2:
        return []
    p = stats.ttest_ind(*means, equal_var=False).pvalue
    first, second = PAIR
    return ["", f"Welch's t-test of the seeds' means, `{first}` against `{second}`: p = {p:.2f}."]


def draw(file: Path, results: Path = RESULTS) -> None:
    """Draw the mean validation score over frames with Student's interval over the seeds, thin lines for each seed."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, (name, peer) in enumerate(PEERS.items()):
        curves = [seed.curve for seed in finished(name, results).values()]
        if not curves:
            continue
        colour = f"C{number}"
        for curve in curves:
            axes.plot(curve[:, 0] / 1e6, curve[:, 1], color=colour, alpha=0.25, linewidth=0.8)
        length = min(map(len, curves))
        scores = np.array([curve[:length, 1] for curve in curves])
        frames, mean, half = curves[0][:length, 0] / 1e6, scores.mean(axis=0), interval(scores)
        axes.plot(frames, mean, color=colour, label=f"{peer.what.replace('`', '')} ({len(curves)})")
        axes.fill_between(frames, mean - half, mean + half, color=colour, alpha=0.12)
    axes.set(xlabel="million frames", ylabel="raw score, 5 validation tracks, deterministic action", ylim=(-150, 1000))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="lower right")
    figure.savefig(file, dpi=110)


def rendered(page: str, results: Path = RESULTS) -> str:
    """Return the page with its table made anew."""
    return _BLOCK.sub(lambda block: f"{block[1]}{table(results)}{block[2]}", page)


def main() -> None:
    PAGE.write_text(rendered(PAGE.read_text()))
    if table():
        draw(PAGE.with_name(PICTURE))
    print(PAGE)


if __name__ == "__main__":
    main()
