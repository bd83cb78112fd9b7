"""Mistakes of two published implementations, one small class each, on top of a sound PPO.

Use them to see what a mistake does, never to train. "The Iurin implementation" is
https://github.com/Evgenii-Iurin/PPO_Car_Racing, "the blog implementation" is the post "Solving the Car Racing Environment with
PPO". docs/debugging_ppo.md measures what each class costs.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_carracing import BetaPPO
from sb3_carracing.errors import UserError
from sb3_carracing.pipelines import import_by_path


class PlainPPO(BetaPPO):
    """BetaPPO without a mistake, whose `rollout_buffer_class` may be a dotted path, so that a YAML can name it."""

    def _setup_model(self) -> None:
        # Here and not in the constructor, since `load` sets attributes and then calls this.
        if isinstance(self.rollout_buffer_class, str):
            self.rollout_buffer_class = import_by_path(self.rollout_buffer_class)
        super()._setup_model()


class StoresNextObservation(PlainPPO):
    """The Iurin implementation: the rollout keeps each action with the observation that it led to.

    The values and log-probabilities beside it are those of the right observation, so the first ratio is not 1 and the
    critic learns the return of a step from the observation after it. At an episode's end that is the last observation.
    """

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Collect as usual, then replace the observations by their successors."""
        recorder = _SuccessorRecorder(env)
        completed = super().collect_rollouts(recorder, callback, rollout_buffer, n_rollout_steps)
        if completed:
            rollout_buffer.observations[:] = np.stack(recorder.successors)
        return completed


class _SuccessorRecorder(VecEnvWrapper):
    """Remembers what each step led to: the next observation, or the last one of an episode that ended."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.successors: list[np.ndarray] = []

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        successors = np.array(observations)
        for index in np.flatnonzero(dones):
            successors[index] = infos[index]["terminal_observation"]
        self.successors.append(successors)
        return observations, rewards, dones, infos


class ResetsEveryRollout(PlainPPO):
    """The Iurin implementation: every rollout starts a new episode; the last one of the rollout before stays unfinished."""

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Reset, then collect as usual."""
        self._last_obs = env.reset()  # type: ignore[assignment]
        self._last_episode_starts = np.ones(env.num_envs, dtype=bool)
        return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)


class IurinPPO(StoresNextObservation, ResetsEveryRollout):
    """The Iurin implementation: how it collects, as published."""


class ForgetsDones(RolloutBuffer):
    """The Iurin implementation: `done` is cleared before it is stored, so every stored one is 0 and GAE runs across episodes.

    Only an episode that ends with a rollout's last step ends there: SB3 hands that one over by itself. The value that
    follows any other's last step is that of the next episode's first observation. To be used with
    `ReportEnds(as_="terminated")`, since otherwise SB3 adds the value at the time limit as well.
    """

    def add(
        self,
        obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: th.Tensor,
        log_prob: th.Tensor,
    ) -> None:
        """Store everything but where episodes start."""
        super().add(obs, action, reward, np.zeros_like(episode_start), value, log_prob)


class RenormalizesBatch(RolloutBuffer):
    """The Iurin implementation: before every minibatch the whole rollout's advantages are normalized in place.

    To be used with `normalize_advantage=False`. The second normalization finds mean 0 and deviation 1 and changes
    nothing but roundings: what remains is one normalization per rollout instead of one per minibatch.
    """

    def _get_samples(self, batch_inds: np.ndarray, env: Any = None) -> RolloutBufferSamples:
        deviation = self.advantages.std(ddof=1)
        self.advantages = (self.advantages - self.advantages.mean()) / (deviation + 1e-8)
        return super()._get_samples(batch_inds, env)


class IurinBuffer(ForgetsDones, RenormalizesBatch):
    """The Iurin implementation: its storage but for the observations, which `StoresNextObservation` replaces."""


class ReportEnds(gym.Wrapper[Any, Any, Any, Any]):
    """Report every end of an episode in one way.

    "terminated": a time limit counts as an end, as in code that knows only `done`; SB3 adds no value there. "truncated":
    every end counts as a time limit, and SB3 adds the last observation's value everywhere, as the blog implementation does.
    """

    def __init__(self, env: gym.Env[Any, Any], as_: str) -> None:
        super().__init__(env)
        if as_ not in ("terminated", "truncated"):
            raise UserError(f"as_ must be 'terminated' or 'truncated', got {as_!r}")
        self._as = as_

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step and rename the end."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        over = terminated or truncated
        return observation, reward, over and self._as == "terminated", over and self._as == "truncated", info
