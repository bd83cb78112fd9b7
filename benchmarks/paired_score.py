"""One agent on the fast environment and on gymnasium's, the same tracks: do the pictures make a difference?

    python benchmarks/paired_score.py RUN [-n 50] [-o FILE]

Prints the mean difference of the scores (fast - stock) with its 95 % bootstrap interval; the tracks are seeds from
4,000,000, used for nothing else.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from sb3_carracing.agents import load_agent
from sb3_carracing.evaluation import evaluate
from sb3_carracing.pipelines import Renderer, pipeline_env
from sb3_carracing.runs import read_run

FIRST_SEED = 4_000_000
RENDERERS: tuple[Renderer, ...] = ("fast", "stock")


def main() -> None:
    """Play all tracks twice and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("-n", type=int, default=50, help="number of tracks")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    run = read_run(args.run)
    model = load_agent(run.agent_file(), run.algo)
    seeds = range(FIRST_SEED, FIRST_SEED + args.n)
    scores = {}
    for name in RENDERERS:
        results = evaluate(model, pipeline_env(run.pipeline, renderer=name), seeds, n_envs=2)
        scores[name] = np.array([result.score for result in results])
    difference = scores["fast"] - scores["stock"]
    means = np.random.default_rng(0).choice(difference, (10_000, len(difference))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    for name, values in scores.items():
        print(f"{name:5s} {values.mean():7.1f} +- {values.std():.1f}")
    print(f"fast - stock: {difference.mean():.1f}, 95 % interval {low:.1f} .. {high:.1f} over {len(difference)} tracks")
    if args.output:
        rows = {"seeds": list(seeds), **{name: values.tolist() for name, values in scores.items()}}
        args.output.write_text(json.dumps({**rows, "difference": difference.mean(), "interval": [low, high]}, indent=1))


if __name__ == "__main__":
    main()
