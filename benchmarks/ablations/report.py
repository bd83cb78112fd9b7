"""Fill the tables and pictures of docs/debugging_ppo.md and docs/what_matters.md from the stored results of the runs.

    python -m benchmarks.ablations.report

Between `<!-- runs: NAME ... -->` and `<!-- end -->` stands a table with a row for each named run (or run of a named group)
that is finished: score and how the learning went; with `scores` in place of `runs`, score and how it comes about. Between
`<!-- curves: FILE.png NAME ... -->` and `<!-- end -->` stands a picture of their validation scores. Where none is finished
there is nothing. Every number comes from evaluation.json, progress.csv and evaluations.csv.
"""

import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.ablations.plan import Run, read_plan
from benchmarks.ablations.run import RESULTS, ROOT

PAGES = (ROOT / "docs" / "debugging_ppo.md", ROOT / "docs" / "what_matters.md")
_BLOCK = re.compile(r"(<!-- (?P<kind>runs|scores|curves): (?P<names>[^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL)
LAST_ROLLOUTS = 10
LOST = 700.0
"""A lap below this score is lost; one that lacks a tile has some 35 points less than a full one."""
WARM_UP = 100_000
"""Frames after which the validations of a run are averaged."""


@dataclass(frozen=True)
class Seed:
    """A finished run: its evaluation.json and the rows of its progress.csv and evaluations.csv."""

    evaluation: dict[str, Any]
    progress: list[dict[str, str]]
    validations: list[dict[str, str]]

    def at_the_end(self, key: str, rollouts: int = LAST_ROLLOUTS) -> float:
        """Return the mean of a logged value over the last rollouts; NaN where it was never logged."""
        values = [float(row[key]) for row in self.progress if row.get(key)]
        return float(np.mean(values[-rollouts:])) if values else float("nan")

    def score(self, kind: str) -> float:
        """Return the mean score on the test tracks under a kind of action; NaN where it was not played."""
        result = self.evaluation["results"].get(kind)
        return float(result["summary"]["mean"]) if result else float("nan")

    def share(self, fact: Callable[[dict[str, Any]], bool]) -> float:
        """Return the percentage of the test tracks whose episode under the mean action has a property; NaN if not played."""
        result = self.evaluation["results"].get("mean")
        return 100.0 * float(np.mean([fact(episode) for episode in result["episodes"]])) if result else float("nan")

    def validation(self) -> float:
        """Return the mean validation score after `WARM_UP` frames; NaN if the run was shorter."""
        scores = [float(row["mean"]) for row in self.validations if float(row["frames"]) >= WARM_UP]
        return float(np.mean(scores)) if scores else float("nan")


def finished(name: str, results: Path = RESULTS) -> list[Seed]:
    """Return the finished seeds of a run."""
    return [
        Seed(json.loads(file.read_text()), _rows(file.with_name("progress.csv")), _rows(file.with_name("evaluations.csv")))
        for file in sorted(results.glob(f"{name}/seed_*/evaluation.json"))
    ]


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def finished_runs(names: Sequence[str], results: Path) -> list[tuple[Run, list[Seed]]]:
    """Return the runs that names of runs and groups stand for, as far as they are finished, with their seeds."""
    plan = read_plan()
    runs = [run for name in names for run in plan.values() if name in (run.name, run.group)]
    return [(run, seeds) for run in runs if (seeds := finished(run.name, results))]


# Heading, value of a seed, digits.
Column = tuple[str, Callable[[Seed], float], int]
_MEAN: Column = ("mean action", lambda seed: seed.score("mean"), 0)
_MODE: Column = ("mode", lambda seed: seed.score("mode"), 0)
_IN_TRAINING: Column = ("in training", lambda seed: seed.at_the_end("rollout/score", rollouts=1), 0)
_COLUMNS: dict[str, tuple[Column, ...]] = {
    "scores": (
        _MEAN,
        ("laps finished, %", lambda seed: seed.share(lambda episode: bool(episode["lap_finished"])), 0),
        ("lost, %", lambda seed: seed.share(lambda episode: episode["score"] < LOST), 0),
        ("validations", Seed.validation, 0),
        _MODE,
        _IN_TRAINING,
    ),
    "runs": (
        ("best action", lambda seed: seed.score("deterministic"), 0),
        _MEAN,
        _MODE,
        ("sampled", lambda seed: seed.score("sample"), 0),
        _IN_TRAINING,
        ("entropy", lambda seed: -seed.at_the_end("train/entropy_loss"), 2),
        ("explained variance", lambda seed: seed.at_the_end("train/explained_variance"), 2),
        ("clipped ratios", lambda seed: seed.at_the_end("train/clip_fraction"), 2),
        ("KL", lambda seed: seed.at_the_end("train/approx_kl"), 3),
        ("gradient norm", lambda seed: seed.at_the_end("train/grad_norm"), 1),
    ),
}


def cell(values: Sequence[float], digits: int) -> str:
    """Return the mean of the seeds' values, and each of them behind it."""
    if np.isnan(values).all():
        return ""
    each = ", ".join(f"{value:.{digits}f}" for value in values)
    return f"**{np.mean(values):.{digits}f}** ({each})" if len(values) > 1 else each


def table(names: Sequence[str], results: Path = RESULTS, kind: str = "runs") -> str:
    """Return a Markdown table of the finished runs among `names`, `runs` or `scores`; empty if there is none."""
    rows = finished_runs(names, results)
    if not rows:
        return ""
    columns = [
        column for column in _COLUMNS[kind] if not all(np.isnan(column[1](seed)) for _, seeds in rows for seed in seeds)
    ]
    lines = [f"| run | frames | {' | '.join(heading for heading, *_ in columns)} |", "|---" * (len(columns) + 2) + "|"]
    for run, seeds in rows:
        frames = f"{np.mean([seed.evaluation['frames'] for seed in seeds]) / 1000:.0f} k"
        cells = [cell([value(seed) for seed in seeds], digits) for _, value, digits in columns]
        lines.append(f"| {run.what} (`{run.name}`) | {frames} | {' | '.join(cells)} |")
    return "\n".join(["", *lines, ""]) + "\n"


def draw(file: Path, names: Sequence[str], results: Path = RESULTS) -> None:
    """Draw validation score over frames for the finished runs among `names`: a line a seed, a colour a run."""
    # Without pyplot, which would keep the figure.
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, (run, seeds) in enumerate(finished_runs(names, results)):
        for index, seed in enumerate(seeds):
            frames = [float(row["frames"]) / 1000 for row in seed.validations]
            scores = [float(row["mean"]) for row in seed.validations]
            axes.plot(frames, scores, color=f"C{number % 10}", alpha=0.8, label=run.name if index == 0 else None)
    axes.set(xlabel="thousand frames", ylabel="raw score, 5 validation tracks, best action")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(file, dpi=110)


def rendered(page: str, results: Path = RESULTS) -> str:
    """Return a page with all of its tables and links to pictures made anew."""

    def fill(block: re.Match[str]) -> str:
        names = block["names"].split()
        if block["kind"] == "curves":
            content = f"\n![validation scores]({names[0]})\n\n" if finished_runs(names[1:], results) else ""
        else:
            content = table(names, results, block["kind"])
        return f"{block[1]}{content}{block[4]}"

    return _BLOCK.sub(fill, page)


def main() -> None:
    for page in PAGES:
        text = page.read_text()
        page.write_text(rendered(text))
        for block in _BLOCK.finditer(text):
            file, *names = block["names"].split()
            if block["kind"] == "curves" and finished_runs(names, RESULTS):
                draw(page.with_name(file), names)
        print(page)


if __name__ == "__main__":
    main()
