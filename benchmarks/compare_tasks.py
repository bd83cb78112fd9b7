"""BetaPPO against stock PPO on small tasks: the packaged hyperparameters of both, equal steps, the same seeds.

    python benchmarks/compare_tasks.py LOGS [-o benchmarks/results/compare_tasks.json] [--task ID:STEPS ...]

LOGS holds the runs; a run that is finished there is not trained again. Every agent plays 100 episodes with deterministic
actions, reset with seeds from 5,000,000, which nothing else uses; the score is the raw return. The interval is Student's
over the training seeds' means.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from sb3_carracing.agents import load_agent
from sb3_carracing.evaluation import evaluate
from sb3_carracing.pipelines import pipeline_env
from sb3_carracing.runs import read_run

TASKS = {"Pendulum-v1": 100_000, "MountainCarContinuous-v0": 20_000, "LunarLanderContinuous-v3": 300_000}
ALGORITHMS = ("ppo", "beta_ppo")
FIRST_EVALUATION_SEED = 5_000_000


def train(logs: Path, algo: str, task: str, steps: int, seed: int, extra: list[str] | None = None) -> Path:
    """Train by the real command unless the run is there already; return the run's folder."""
    folder = logs / f"seed_{seed}"
    run = folder / algo / f"{task}_1"
    if not (run / f"{task}.zip").is_file():
        arguments = ["--algo", algo, "--env", task, "-n", str(steps), "--seed", str(seed), "-f", str(folder)]
        quiet = ["--eval-freq", "-1", "--verbose", "0", "--num-threads", "1"]
        command = [sys.executable, "-m", "sb3_carracing", "train", *arguments, *quiet, *(extra or [])]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    return run


def score(run_folder: Path, n_episodes: int) -> float:
    """Return the agent's mean raw return, deterministic actions."""
    run = read_run(run_folder)
    model = load_agent(run.agent_file(last=True), run.algo)
    seeds = range(FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + n_episodes)
    results = evaluate(model, pipeline_env(run.pipeline, renderer=None), seeds, wrap_vec_env=run.pipeline.wrap_vec_env)
    return float(np.mean([result.score for result in results]))


def summary(scores: list[float]) -> dict[str, Any]:
    """Return mean and 95 % interval of the mean over training seeds; no interval for a single seed."""
    mean, n = float(np.mean(scores)), len(scores)
    interval = stats.t.interval(0.95, n - 1, mean, stats.sem(scores)) if n > 1 else (np.nan, np.nan)
    return {"scores": scores, "mean": mean, "interval": [float(bound) for bound in interval]}


def main() -> None:
    """Train, evaluate, write the file, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--task", nargs="+", default=[f"{task}:{steps}" for task, steps in TASKS.items()])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("-n", type=int, default=100, help="evaluation episodes an agent")
    args = parser.parse_args()
    results: dict[str, Any] = {}
    for task, steps in (item.rsplit(":", 1) for item in args.task):
        results[task] = {"steps": int(steps)}
        for algo in ALGORITHMS:
            runs = [train(args.logs, algo, task, int(steps), seed) for seed in args.seeds]
            results[task][algo] = found = summary([score(run, args.n) for run in runs])
            low, high = found["interval"]
            each = ", ".join(f"{value:.1f}" for value in found["scores"])
            print(
                f"{task:26s} {int(steps):>9,d} {algo:8s} {found['mean']:8.1f} {low:8.1f} .. {high:.1f}  ({each})", flush=True
            )
        if args.output:
            packages = ("stable_baselines3", "rl_zoo3", "gymnasium", "torch", "numpy")
            versions = {name: metadata.version(name) for name in packages} | {"python": platform.python_version()}
            settings = {"seeds": args.seeds, "episodes": args.n, "first_evaluation_seed": FIRST_EVALUATION_SEED}
            args.output.write_text(json.dumps({**settings, "versions": versions, "tasks": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
