"""Train BetaPPO and stock PPO with a Gaussian on standard tasks, with equal values; see `benchmarks.runner`.

    python -m benchmarks.studies.beta_or_gaussian.run --list
    python -m benchmarks.studies.beta_or_gaussian.run --only Pendulum-v1 --seeds 11 12 13
    python -m benchmarks.studies.beta_or_gaussian.report

plan.yml holds the values. The last agents play 100 episodes with deterministic actions, reset with seeds from 5,000,000, which
nothing else uses. The score is the raw return. The MuJoCo tasks need `pip install "gymnasium[mujoco]"`.
"""

import functools
import math
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from benchmarks import runner
from benchmarks.runner import Config, Study
from benchmarks.studies.tasks import FIRST_EVALUATION_SEED

# SB3's Gaussian policy, which understands `activation_fn: relu`.
GAUSSIAN = "sb3_carracing.ppo.policies.NamedPartsPolicy"
PLAN = Path(__file__).with_name("plan.yml")
ALGORITHMS = {"beta_ppo": "BetaPPO", "ppo": "stock PPO, Gaussian"}
SEEDS = range(11, 16)


@functools.cache
def plan() -> dict[str, dict[str, Any]]:
    """Return the entries of plan.yml by environment id."""
    entries: dict[str, dict[str, Any]] = yaml.safe_load(PLAN.read_text())
    return entries


@functools.cache
def study() -> Study:
    """Return the study: a configuration for each task and algorithm; a task's name stands for both."""
    configs = {}
    for task, entry in plan().items():
        values = entry["hyperparams"]
        for algo, what in ALGORITHMS.items():
            hyperparams = for_beta(values) if algo == "beta_ppo" else values | {"policy": GAUSSIAN}
            name = f"{algo}_{task}"
            configs[name] = Config(name, f"{what} on {task}", task, hyperparams, algo, group=task)
    return Study(
        "beta_or_gaussian", configs, seed_factor=1, first_seed=FIRST_EVALUATION_SEED, keep_progress=True, progress_rows=200
    )


def for_beta(hyperparams: dict[str, Any]) -> dict[str, Any]:
    """Return a Gaussian's hyperparameters for a Beta whose untrained policy has the same standard deviation.

    On [-1, 1], the range of all tasks with a `log_std_init`, a Beta with mean 0 has the standard deviation
    `1 / sqrt(concentration + 1)`.
    """
    result = deepcopy(hyperparams)
    policy_kwargs = result.get("policy_kwargs", {})
    if "log_std_init" in policy_kwargs:
        policy_kwargs["initial_concentration"] = round(math.exp(-2.0 * policy_kwargs.pop("log_std_init")) - 1.0, 3)
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    runner.main(study(), __doc__, argv, seeds=SEEDS)


if __name__ == "__main__":
    main()
