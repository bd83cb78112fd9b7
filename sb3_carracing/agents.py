"""Agents: which algorithms there are, and how an agent's file is read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_carracing.deprecated import old_names
from sb3_carracing.errors import UserError
from sb3_carracing.files import listing
from sb3_carracing.pipelines import Pipeline, import_by_path, pipeline_env
from sb3_carracing.ppo.beta_algorithm import BetaAlgorithm
from sb3_carracing.ppo.saving.sb3_files import load_sb3_agent

__getattr__ = old_names(__name__)

ALGORITHMS = {
    "beta_ppo": "sb3_carracing.BetaPPO",
    "beta_ppo_lstm": "sb3_carracing.ppo.recurrent.BetaRecurrentPPO",
    **{name: f"stable_baselines3.{name.upper()}" for name in ("a2c", "ddpg", "dqn", "ppo", "sac", "td3")},
    **{name: f"sb3_contrib.{name.upper()}" for name in ("ars", "qrdqn", "tqc", "trpo")},
    "crossq": "sb3_contrib.CrossQ",
    "ppo_lstm": "sb3_contrib.RecurrentPPO",
}
"""rl-zoo3's name of each algorithm, and the dotted path of its class."""


def check_algorithm(algo: str) -> str:
    """Return `algo` if it is one of `ALGORITHMS`.

    Raises:
        UserError: it is not; lists the valid names.
    """
    if algo not in ALGORITHMS:
        raise UserError(f"unknown algorithm {algo!r}; valid: {', '.join(sorted(ALGORITHMS))}")
    return algo


def read_agent(file: str | Path, algo: str = "beta_ppo", device: str = "cpu", trust: bool = False) -> BaseAlgorithm:
    """Load an agent's .zip to act, not to train on: schedules and the replay buffer are left out.

    Args:
        file: the .zip that `save` wrote.
        algo: the agent's algorithm, a key of `ALGORITHMS`.
        device: torch device that the agent computes on.
        trust: also read what may run code: classes from other packages, and pickled objects that SB3 does not write.

    Returns:
        The model, with SB3's `predict`.

    Raises:
        UserError: the algorithm is unknown or not installed, or the file is missing, needs trust, or holds no agent of it.
    """
    check_algorithm(algo)
    file = Path(file)
    if not file.is_file():
        beside = sorted(path.name for path in file.parent.glob("*.zip")) if file.parent.is_dir() else []
        raise UserError(f"there is no agent {file}; {file.parent} holds {listing(beside, 'no .zip file')}")
    algorithm: type[BaseAlgorithm] = import_by_path(ALGORITHMS[algo])
    # Unpickling a schedule of rl-zoo3's would import rl-zoo3, which patches gymnasium. Acting needs no schedule.
    idle = {"learning_rate": 0.0, "lr_schedule": _zero, "clip_range": _zero, "clip_range_vf": None}
    off_policy = issubclass(algorithm, OffPolicyAlgorithm)
    memory: dict[str, Any] = {"buffer_size": 1, "optimize_memory_usage": False} if off_policy else {}
    try:
        if issubclass(algorithm, BetaAlgorithm):
            return algorithm.load(file, device=device, custom_objects=idle, trust=trust)
        return load_sb3_agent(algorithm, file, trust, idle, device=device, **memory)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{file} is not an agent that {algo!r} can load: {str(error).removeprefix(f'{file}: ')}") from error


def _zero(_: float) -> float:
    return 0.0


@dataclass(frozen=True)
class Agent:
    """An agent with everything it needs to drive.

    Attributes:
        name: its name in tables.
        model: anything with SB3's `predict`.
        algo: its algorithm, a key of `ALGORITHMS`, or "random".
        pipeline: what stands between the environment and the agent.
        file: its .zip; None for the random baseline.
        folder: where its results go.
    """

    name: str
    model: Any
    algo: str
    pipeline: Pipeline
    file: Path | None
    folder: Path


class RandomPolicy:
    """The random baseline: uniform actions, drawn with torch's generator, which `evaluate` seeds at every step."""

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        if not isinstance(action_space, spaces.Box | spaces.Discrete):
            raise UserError(f"random actions need a Box or Discrete action space, got {action_space}")
        self.action_space = action_space

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Return a batch of one random action."""
        space = self.action_space
        if isinstance(space, spaces.Box):
            unit = th.rand(1, *space.shape, dtype=th.float64).numpy()
            return (space.low + unit * (space.high - space.low)).astype(space.dtype), None
        return space.start + th.randint(int(space.n), (1,)).numpy(), None


def random_agent(pipeline: Pipeline, folder: Path) -> Agent:
    """Return the random baseline in a pipeline."""
    env = pipeline_env(pipeline)()
    model = RandomPolicy(env.action_space)
    env.close()
    return Agent("random", model, "random", pipeline, None, folder)
