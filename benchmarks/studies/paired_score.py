"""Evaluate one agent on the same tracks with the fast and the stock rendering, to see if the rendering matters.

    python -m benchmarks.studies.paired_score RUN [-n 50] [--out benchmarks/results/paired_score/scores.csv]
    python -m benchmarks.studies.paired_score --report

Prints the mean difference of the scores (fast - stock) with its 95 % bootstrap interval. The tracks are seeds from
4,000,000, used for nothing else.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import options, tables
from sb3_carracing.agents import read_agent
from sb3_carracing.evaluation import evaluate
from sb3_carracing.pipelines import Renderer, pipeline_env
from sb3_carracing.runs import read_run

FIRST_SEED = 4_000_000
RENDERERS: tuple[Renderer, ...] = ("fast", "stock")
SCORES = tables.RESULTS / "paired_score" / "scores.csv"


def play(run_folder: Path, n_tracks: int) -> list[dict[str, float]]:
    """Drive all tracks with both renderers and return a row per track."""
    run = read_run(run_folder)
    model = read_agent(run.agent_file(), run.algo)
    seeds = range(FIRST_SEED, FIRST_SEED + n_tracks)
    rows: list[dict[str, float]] = [{"track": seed} for seed in seeds]
    for name in RENDERERS:
        results = evaluate(model, pipeline_env(run.pipeline, renderer=name), seeds, n_envs=2)
        for row, result in zip(rows, results, strict=True):
            row[name] = result.score
    return rows


def report(scores: pd.DataFrame) -> str:
    """Return mean and deviation with each renderer, and the mean difference with its interval."""
    difference = (scores["fast"] - scores["stock"]).to_numpy()
    means = np.random.default_rng(0).choice(difference, (10_000, len(difference))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    lines = [f"{name:5s} {scores[name].mean():7.1f} +- {scores[name].std(ddof=0):.1f}" for name in RENDERERS]
    interval = f"95 % interval {low:.1f} .. {high:.1f} over {len(difference)} tracks"
    return "\n".join([*lines, f"fast - stock: {difference.mean():.1f}, {interval}"])


def main(argv: Sequence[str] | None = None) -> None:
    """Drive all tracks twice and compare, or compare what is stored."""
    parser = options.parser(__doc__, out_help="write a row per track to this file")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("run", nargs="?", type=Path, help="run folder")
    what.add_argument("--report", action="store_true", help="compare the stored scores")
    parser.add_argument("-n", type=int, default=50, help="number of tracks (default: 50)")
    args = parser.parse_args(argv)
    scores = pd.read_csv(SCORES, float_precision="round_trip") if args.report else pd.DataFrame(play(args.run, args.n))
    if args.out:
        tables.write(args.out, scores.to_dict("records"))
    print(report(scores))


if __name__ == "__main__":
    main()
