"""Fill the tables and figures of docs/debugging_ppo.md and docs/what_matters.md from the stored results of the runs.

    python -m benchmarks.studies.ablations.report

Between `<!-- runs: NAME ... -->` and `<!-- end -->` stands a table with a row for each named run (or run of a named group)
that is finished: score and how the learning went; with `scores` in place of `runs`, score and how it comes about. Between
`<!-- curves: FILE.png NAME ... -->` and `<!-- end -->` stands a figure of their validation scores. Where none is finished
there is nothing.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks import tables
from benchmarks.provenance import ROOT
from benchmarks.report import LOST, markdown, per_run
from benchmarks.studies.ablations.plan import study

RESULTS = tables.RESULTS / "ablations"
PAGES = (ROOT / "docs" / "debugging_ppo.md", ROOT / "docs" / "what_matters.md")
_BLOCK = re.compile(r"(<!-- (?P<kind>runs|scores|curves): (?P<names>[^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL)
LAST_ROLLOUTS = 10
WARM_UP = 100_000
"""Frames after which the validations of a run are averaged."""
_DIGITS = {"entropy": 2, "explained variance": 2, "clipped ratios": 2, "KL": 3, "gradient norm": 1}
_LOGGED = {
    "explained variance": "train/explained_variance",
    "clipped ratios": "train/clip_fraction",
    "KL": "train/approx_kl",
    "gradient norm": "train/grad_norm",
}
_COLUMNS = {
    "scores": ("mean action", "laps finished, %", "lost, %", "validations", "mode", "in training"),
    "runs": ("best action", "mean action", "mode", "sampled", "in training", "entropy", *_LOGGED),
}


def measured(results: Path = RESULTS) -> pd.DataFrame:
    """Return every column of both tables, a row per run; NaN where it was not measured."""
    episodes = tables.read(results, tables.EPISODES)
    mean_action = episodes[episodes["actions"] == "mean"]
    validation = tables.read(results, tables.VALIDATION)
    progress = tables.read(results, tables.PROGRESS)
    scores = episodes.pivot_table(index="run", columns="actions", values="score").reindex(
        columns=["deterministic", "mean", "mode", "sample"]
    )
    scores.columns = pd.Index(["best action", "mean action", "mode", "sampled"])
    columns = {
        "laps finished, %": 100 * mean_action.groupby("run")["lap"].mean(),
        "lost, %": 100 * (mean_action["score"] < LOST).groupby(mean_action["run"]).mean(),
        "validations": validation[validation["frames"] >= WARM_UP].groupby("run")["mean"].mean(),
        "in training": _at_the_end(progress, "rollout/score", 1),
        "entropy": -_at_the_end(progress, "train/entropy_loss", LAST_ROLLOUTS),
        **{heading: _at_the_end(progress, key, LAST_ROLLOUTS) for heading, key in _LOGGED.items()},
    }
    return scores.join(pd.DataFrame(columns), how="outer").astype(float)


def _at_the_end(progress: pd.DataFrame, key: str, rollouts: int) -> pd.Series:
    """Return the mean of a logged value over each run's last rollouts that logged it."""
    if key not in progress:
        return pd.Series(dtype=float)
    logged = progress.dropna(subset=[key])
    return logged.groupby("run").tail(rollouts).groupby("run")[key].mean()


def finished(names: Sequence[str], results: Path) -> pd.DataFrame:
    """Return the finished runs that names of runs and groups stand for."""
    configs = [config.name for config in study().configs.values() if {config.name, config.group} & set(names)]
    configs.sort(key=lambda name: _place(name, names))
    return tables.finished(results, configs)


def _place(name: str, names: Sequence[str]) -> int:
    group = study().configs[name].group
    return min(place for place, chosen in enumerate(names) if chosen in (name, group))


def cell(values: Sequence[float], digits: int) -> str:
    """Return the mean of the seeds' values, and each of them behind it."""
    if np.isnan(values).all():
        return ""
    each = ", ".join(f"{value:.{digits}f}" for value in values)
    return f"**{np.mean(values):.{digits}f}** ({each})" if len(values) > 1 else each


def table(names: Sequence[str], results: Path = RESULTS, kind: str = "runs", values: pd.DataFrame | None = None) -> str:
    """Return a Markdown table of the finished runs among `names`, `runs` or `scores`; empty if there is none.

    values: `measured(results)` if the caller has it already.
    """
    runs = finished(names, results)
    if runs.empty:
        return ""
    configs, values = study().configs, (measured(results) if values is None else values).reindex(runs["run"])
    columns = [heading for heading in _COLUMNS[kind] if values[heading].notna().any()]
    rows = []
    for name, own in runs.groupby("config", sort=False):
        cells = [cell(per_run(values[heading], own), _DIGITS.get(heading, 0)) for heading in columns]
        rows.append([f"{configs[str(name)].what} (`{name}`)", f"{own['frames'].mean() / 1000:.0f} k", *cells])
    return markdown(("run", "frames", *columns), rows)


def draw(file: Path, names: Sequence[str], results: Path = RESULTS) -> None:
    """Draw validation score over frames for the finished runs among `names`: a line per seed, a color per run."""
    validation = tables.read(results, tables.VALIDATION)
    # Without pyplot, which would keep the figure.
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, (name, own) in enumerate(finished(names, results).groupby("config", sort=False)):
        for index, run in enumerate(own["run"]):
            curve = validation[validation["run"] == run]
            label = str(name) if index == 0 else None
            axes.plot(curve["frames"] / 1000, curve["mean"], color=f"C{number % 10}", alpha=0.8, label=label)
    axes.set(xlabel="thousand frames", ylabel="raw score, 5 validation tracks, best action")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(file, dpi=110)


def rendered(page: str, results: Path = RESULTS) -> str:
    """Return a page with all of its tables and links to figures made anew."""
    values = measured(results)

    def fill(block: re.Match[str]) -> str:
        names = block["names"].split()
        if block["kind"] == "curves":
            content = "" if finished(names[1:], results).empty else f"\n![validation scores]({names[0]})\n\n"
        else:
            content = table(names, results, block["kind"], values)
        return f"{block[1]}{content}{block[4]}"

    return _BLOCK.sub(fill, page)


def main() -> None:
    """Write the pages and their figures."""
    for page in PAGES:
        text = page.read_text()
        page.write_text(rendered(text))
        for block in _BLOCK.finditer(text):
            file, *names = block["names"].split()
            if block["kind"] == "curves" and not finished(names, RESULTS).empty:
                draw(page.with_name(file), names)
        print(page)


if __name__ == "__main__":
    main()
