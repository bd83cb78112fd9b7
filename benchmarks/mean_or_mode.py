"""One CarRacing agent by mean, mode and sampled actions, the same tracks.

    python benchmarks/mean_or_mode.py RUN [-n 100] [-o FILE]

The test tracks with the fast picture and gymnasium's rules, whole episodes, raw score (`sb3-carracing evaluate RUN
--all-actions` plays the same on gymnasium's own environment, which takes several times as long).
"""

import argparse
import dataclasses
import json
from pathlib import Path

from sb3_carracing.evaluation import TEST_SEED, evaluate, pipeline_env, summarize
from sb3_carracing.runs import load_agent, read_run


def main() -> None:
    """Play all tracks in three ways, print a line each, write every episode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("-n", type=int, default=100, help="number of tracks (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    run = read_run(args.run)
    model = load_agent(run.agent_file(), run.algo)
    make_env = pipeline_env(dataclasses.replace(run.pipeline, env_kwargs={}), stock=False)
    seeds = range(TEST_SEED, TEST_SEED + args.n)
    results = {}
    for kind in ("mean", "mode", "sample"):
        episodes = evaluate(model, make_env, seeds, actions=kind)
        summary = summarize(episodes)
        print(f"{kind:6} {summary.mean:6.1f} +- {summary.std:5.1f}, {summary.laps_finished:.0%} laps", flush=True)
        results[kind] = {
            "summary": dataclasses.asdict(summary),
            "episodes": [dataclasses.asdict(episode) for episode in episodes],
        }
    if args.output:
        args.output.write_text(json.dumps({"agent": str(args.run), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
