"""Collect rollouts with one forward pass of the actor per step.

With a small network and few environments, SB3's `collect_rollouts` spends most of its time on the overhead of many small
operations. During the rollout only the action is needed. `collect` computes values and log-probabilities at its end, for all
steps at once.
"""

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from sb3_carracing.ppo.buffers import CompactRolloutBuffer
from sb3_carracing.ppo.distributions import BetaDistribution
from sb3_carracing.ppo.policies import MlpPolicy


def can_collect(policy: ActorCriticPolicy, buffer: RolloutBuffer) -> bool:
    """Return whether `collect` can replace SB3's method.

    With images it does not pay: the second pass over the rollout would cost more than it saves.
    """
    # Subclasses may override any step between observation and action.
    is_known = type(policy) is MlpPolicy and type(buffer) is CompactRolloutBuffer
    has_vectors = isinstance(policy.observation_space, spaces.Box) and not is_image_space(policy.observation_space)
    flattens = type(policy.features_extractor) is FlattenExtractor
    return is_known and has_vectors and flattens and isinstance(policy.action_dist, BetaDistribution)


def collect(
    self: OnPolicyAlgorithm, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
) -> bool:
    """Fill the rollout buffer and return False if a callback stopped the training.

    Callbacks see the local variables under SB3's names, except `values` and `log_probs`, which do not exist yet during a step.
    """
    policy, space, n_steps = self.policy, self.action_space, 0
    assert isinstance(self._last_obs, np.ndarray)
    assert isinstance(rollout_buffer, CompactRolloutBuffer)
    assert isinstance(space, spaces.Box)
    policy.set_training_mode(False)
    rollout_buffer.reset()
    unknown = th.zeros(env.num_envs)  # values and log-probabilities, until the end of the rollout
    cut_off: list[tuple[int, int, np.ndarray]] = []
    callback.on_rollout_start()
    while n_steps < n_rollout_steps:
        with th.no_grad():
            obs_tensor = th.as_tensor(self._last_obs, device=self.device)
            latent_pi = policy.mlp_extractor.forward_actor(obs_tensor.float().flatten(1))
            actions = policy._get_action_dist_from_latent(latent_pi).get_actions().cpu().numpy().reshape(-1, *space.shape)
        # The actions are within the bounds already. As in SB3, the environment gets a copy in the dtype of its bounds.
        clipped_actions = np.clip(actions, space.low, space.high)
        new_obs, rewards, dones, infos = env.step(clipped_actions)
        self.num_timesteps += env.num_envs
        callback.update_locals(locals())
        if not callback.on_step():
            return False
        self._update_info_buffer(infos, dones)
        for number in np.flatnonzero(dones):
            last_obs = infos[number].get("terminal_observation")
            if last_obs is not None and infos[number].get("TimeLimit.truncated", False):
                cut_off.append((n_steps, int(number), last_obs))
        rollout_buffer.add(self._last_obs, actions, rewards, self._last_episode_starts, unknown, unknown)  # type: ignore[arg-type]
        n_steps += 1
        self._last_obs, self._last_episode_starts = new_obs, dones  # type: ignore[assignment]

    with th.no_grad():
        rollout_buffer.evaluate(policy)
        for step, index, last_obs in cut_off:
            last_value = policy.predict_values(policy.obs_to_tensor(last_obs)[0])[0]
            rollout_buffer.rewards[step, index] += self.gamma * last_value.item()
        values = policy.predict_values(obs_as_tensor(new_obs, self.device))  # type: ignore[arg-type]
    rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
    callback.update_locals(locals())
    callback.on_rollout_end()
    return True
