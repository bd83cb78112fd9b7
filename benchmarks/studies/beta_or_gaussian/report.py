"""Fill docs/beta_or_gaussian.md with a table and a figure of the stored runs; no number in them is typed.

    python -m benchmarks.studies.beta_or_gaussian.report

The statistics are those of rliable, see `benchmarks.report`.
"""

import functools
from collections.abc import Iterable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rliable import library

from benchmarks import report, tables
from benchmarks.provenance import ROOT
from benchmarks.studies.beta_or_gaussian.run import ALGORITHMS, plan
from benchmarks.studies.tasks import FIRST_EVALUATION_SEED
from sb3_carracing.agents import RandomPolicy
from sb3_carracing.evaluation import evaluate
from sb3_carracing.plotting import COLORS

RESULTS = tables.RESULTS / "beta_or_gaussian"
PAGE = ROOT / "docs" / "beta_or_gaussian.md"
FIGURE = "beta_or_gaussian.svg"
FEWEST = 3
"""Seeds without which a task is not reported yet."""


def scores(results: Path = RESULTS) -> dict[str, dict[str, np.ndarray]]:
    """Return the scores `(n_seeds,)` by task and algorithm, of the seeds that both algorithms have finished.

    Tasks with fewer than `FEWEST` of them are left out.
    """
    runs = tables.finished(results)
    found = {}
    for task in plan():
        own = runs[runs["config"].isin([f"{algo}_{task}" for algo in ALGORITHMS])]
        table = own.pivot_table(index="seed", columns="config", values="score").dropna()
        if len(table.columns) == len(ALGORITHMS) and len(table) >= FEWEST:
            found[task] = {algo: table[f"{algo}_{task}"].to_numpy() for algo in ALGORITHMS}
    return found


def normalized(found: dict[str, dict[str, np.ndarray]], results: Path = RESULTS) -> dict[str, np.ndarray]:
    """Return scores `(n_seeds, n_tasks)` by algorithm; 0 is a random policy, 1 is rl-zoo3's published agent.

    The number of seeds is that of the task with the fewest.
    """
    n_seeds = min(len(values) for task in found.values() for values in task.values())
    zero = random_returns(found, results)
    return {
        algo: np.column_stack(
            [
                (task[algo][:n_seeds] - zero[env_id]) / (plan()[env_id]["published"] - zero[env_id])
                for env_id, task in found.items()
            ]
        )
        for algo in ALGORITHMS
    }


def random_returns(tasks: Iterable[str], results: Path = RESULTS, n_episodes: int = 100) -> dict[str, float]:
    """Return the mean return of uniformly random actions by task; what is missing in random.csv is played and stored."""
    file = results / "random.csv"
    rows = tables.read_rows(file)
    for task in set(tasks) - {row["task"] for row in rows}:
        make_env = functools.partial(gym.make, task)
        seeds = range(FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + n_episodes)
        played = evaluate(RandomPolicy(make_env().action_space), make_env, seeds, actions="sample")
        mean = np.mean([episode.score for episode in played])
        rows.append({"task": task, "episodes": str(n_episodes), "score": f"{mean:.2f}"})
        tables.write(file, sorted(rows, key=lambda row: list(plan()).index(row["task"])))
    return {row["task"]: float(row["score"]) for row in rows}


def table(results: Path = RESULTS) -> str:
    """Return a Markdown table with a row per task, and a sentence on several tasks together; empty if there are no runs."""
    found = scores(results)
    if not found:
        return ""
    rows = []
    for task, own in found.items():
        beta, gaussian = own["beta_ppo"][:, None], own["ppo"][:, None]
        means = [_mean(values, ".1f") for values in (beta, gaussian)]
        published = f"{plan()[task]['published']:g}"
        rows.append([task, str(len(beta)), *means, _written(report.improvement(beta, gaussian), ".2f"), published])
    headings = ("task", "seeds", "BetaPPO", "Gaussian", "Beta beats Gaussian", "published")
    summary = _together(normalized(found, results)) if len(found) > 1 else ""
    return f"{report.markdown(headings, rows)}\n{summary}![learning curves and performance profile]({FIGURE})\n\n"


def _together(scores: dict[str, np.ndarray]) -> str:
    """Return what normalized scores `(n_seeds, n_tasks)` say of all tasks together."""
    beta, gaussian = scores["beta_ppo"], scores["ppo"]
    n_seeds, n_tasks = beta.shape
    return (
        f"All {n_tasks} tasks, {n_seeds} seeds each: a Beta run beats a Gaussian run with a probability of "
        f"**{_written(report.improvement(beta, gaussian), '.2f')}**. The interquartile means of the normalized scores are "
        f"{_mean(beta, '.2f')} (BetaPPO) and {_mean(gaussian, '.2f')} (Gaussian).\n\n"
    )


def _mean(scores: np.ndarray, form: str) -> str:
    """Return the interquartile mean of `(n_runs, n_tasks)`."""
    return _written(report.interquartile_mean(scores[:, :, None])[:, 0], form)


def _written(estimate: np.ndarray, form: str) -> str:
    """Return an estimate with its interval; a single run has none."""
    value, low, high = (format(number, form) for number in estimate)
    return value if low == high else f"{value} ({low} to {high})"


def draw(file: Path, results: Path = RESULTS) -> None:
    """Draw the tasks' training returns, interquartile means over the seeds with intervals, and the performance profile."""
    found = scores(results)
    n_rows = -(-(len(found) + 1) // 3)
    figure = Figure(figsize=(12.0, 3.0 * n_rows), layout="constrained")
    *panels, profile = figure.subplots(n_rows, 3, squeeze=False).flatten()[: len(found) + 1]
    for axes, task in zip(panels, found, strict=True):
        _draw_returns(axes, task, results)
    taus = np.linspace(-0.5, 1.5, 81)
    with report.seeded():
        shares, bounds = library.create_performance_profile(normalized(found, results), taus, reps=report.REPETITIONS)
    for (algo, label), color in zip(ALGORITHMS.items(), COLORS, strict=False):
        report.draw_band(profile, taus, np.vstack([shares[algo], bounds[algo]]), color=color, label=label)
    profile.set(title="performance profile", xlabel="normalized score", ylabel="share of runs above it")
    profile.legend(fontsize="small")
    for axes in figure.axes:
        axes.grid(alpha=0.3)
        axes.set_visible(axes in (*panels, profile))
    report.save_svg(figure, file)


def _draw_returns(axes: Axes, task: str, results: Path) -> None:
    """Draw the training returns of both algorithms on a task."""
    runs, progress = tables.finished(results), tables.read(results, tables.PROGRESS).groupby("run")
    for algo, color in zip(ALGORITHMS, COLORS, strict=False):
        own = runs["run"][runs["config"] == f"{algo}_{task}"]
        steps, returns = _on_one_grid([progress.get_group(run) for run in own])
        report.draw_band(axes, steps, report.interquartile_mean(returns[:, None]), color=color)
    axes.set(title=task, xlabel="steps", ylabel="training return")


def _on_one_grid(runs: list[pd.DataFrame], n_points: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Return steps `(n_points,)` and the runs' training returns at these steps, `(n_runs, n_points)`."""
    curves = [run[["time/total_timesteps", "rollout/ep_rew_mean"]].dropna().to_numpy(float).T for run in runs]
    first, last = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    grid = np.linspace(first, last, n_points)
    return grid, np.array([np.interp(grid, steps, returns) for steps, returns in curves])


def main() -> None:
    """Write the page and its figure."""
    PAGE.write_text(report.with_results(PAGE.read_text(), table()))
    if scores():
        draw(PAGE.with_name(FIGURE))
    print(PAGE)


if __name__ == "__main__":
    main()
