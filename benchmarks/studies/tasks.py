"""Compare BetaPPO with stock PPO on small tasks: packaged hyperparameters of both, equal steps, the same seeds.

    python -m benchmarks.studies.tasks [--only Pendulum-v1] [--seeds 1 2 3]

Every agent plays 100 episodes with deterministic actions, reset with seeds from 5,000,000, which nothing else uses; the score
is the raw return. The table that is printed at the end has Student's interval over the training seeds' means.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import yaml

from benchmarks import runner, tables
from benchmarks.provenance import ROOT
from benchmarks.report import interval
from benchmarks.runner import Config, Study

TASKS = {"Pendulum-v1": 100_000, "MountainCarContinuous-v0": 20_000, "LunarLanderContinuous-v3": 300_000}
ALGORITHMS = ("ppo", "beta_ppo")
FIRST_EVALUATION_SEED = 5_000_000
RESULTS = tables.RESULTS / "tasks"


@functools.cache
def study() -> Study:
    """Return the study: a configuration for each task and algorithm; a task's name stands for both."""
    configs = {}
    for task, steps in TASKS.items():
        for algo in ALGORITHMS:
            entry = yaml.safe_load((ROOT / "hyperparams" / f"{algo}.yml").read_text())[task]
            name = f"{algo}_{task}"
            configs[name] = Config(name, f"{algo} on {task}", task, entry | {"n_timesteps": steps}, algo, group=task)
    return Study("tasks", configs, seed_factor=1, first_seed=FIRST_EVALUATION_SEED)


def table(results: Path = RESULTS) -> str:
    """Return a line per configuration: mean and interval over the seeds' mean returns, and each of them."""
    configs = study().configs
    lines = []
    for name, runs in tables.finished(results, configs).groupby("config", sort=False):
        config, scores = configs[str(name)], runs["score"].to_numpy()
        mean, half = scores.mean(), interval(scores)
        each = ", ".join(f"{score:.1f}" for score in scores)
        between = f"{mean - half:8.1f} .. {mean + half:.1f}"
        lines.append(f"{config.env_id:26s} {config.steps:>9,d} {config.algo:8s} {mean:8.1f} {between}  ({each})")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and print the table of what is stored."""
    runner.main(study(), __doc__, argv)
    print(table())


if __name__ == "__main__":
    main()
