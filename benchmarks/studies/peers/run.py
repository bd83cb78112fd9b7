"""Train BetaPPO and stock PPO for two million frames each, and evaluate the last agents; see `benchmarks.runner`.

    python -m benchmarks.studies.peers.run --list
    python -m benchmarks.studies.peers.run --only beta_ppo ppo_gaussian --seeds 1 2 3
    python -m benchmarks.studies.peers.report

The hyperparameters are in the YAML files beside this one. The test tracks are those of gymnasium's CarRacing-v3.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks import runner
from benchmarks.runner import Config, Study

ENV_ID = "CarRacingFast-v3"
POLICY = "sb3_carracing.ppo.policies.CnnPolicy"


def hyperparams(name: str) -> dict[str, Any]:
    """Return the hyperparameters of a YAML file of this folder."""
    entry: dict[str, Any] = yaml.safe_load(Path(__file__).with_name(f"{name}.yml").read_text())[ENV_ID]
    return entry


@functools.cache
def study() -> Study:
    """Return the study: two million frames each, at four frames per decision, of rl-zoo3's values two."""
    beta, gaussian, zoo = hyperparams("beta_ppo"), hyperparams("ppo"), hyperparams("ppo_zoo")
    configs = (
        _config("beta_ppo", "`BetaPPO`", "beta_ppo", beta, 500_000, "mean"),
        _config("ppo_beta", "stock PPO with our Beta policy", "ppo", beta | {"policy": POLICY}, 500_000, "mean"),
        _config("ppo_gaussian", "stock PPO, Gaussian, our preprocessing and network", "ppo", gaussian, 500_000),
        _config("ppo_zoo", "stock PPO, rl-zoo3's values", "ppo", zoo, 1_000_000),
    )
    return Study("peers", {config.name: config for config in configs})


def _config(name: str, what: str, algo: str, entry: dict[str, Any], steps: int, actions: str = "deterministic") -> Config:
    return Config(name, what, ENV_ID, entry | {"n_timesteps": steps}, algo, (actions,), renderer="stock")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    runner.main(study(), __doc__, argv)


if __name__ == "__main__":
    main()
