"""What is stored is what was played: at a learning rate of 0 nothing moves, whatever the dtype of the actions."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_carracing import BetaPPO
from sb3_carracing.ppo.distributions import BetaDistribution
from sb3_carracing.ppo.policies import MlpPolicy, MultiInputPolicy, NamedPartsPolicy

sb3_contrib = pytest.importorskip("sb3_contrib")

VECTOR = spaces.Box(-1.0, 1.0, (3,))
DICT = spaces.Dict({"a": VECTOR, "b": spaces.Discrete(3)})
RANGES = [(-1, 1), (0, 1000), (100, 101)]


class Recording(gym.Env[Any, Any]):
    """Keeps the actions that it is given; the reward depends on them."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Box) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.played: list[np.ndarray] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.played.append(np.array(action))
        return self.observation_space.sample(), float(action[0]), False, len(self.played) % 10 == 0, {}


def box(low: float, high: float, dtype: Any) -> spaces.Box:
    return spaces.Box(low, high, (2,), dtype)


@pytest.mark.parametrize(("low", "high"), RANGES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("policy", "observation_space", "buffer"),
    [
        ("MlpPolicy", VECTOR, None),
        ("MlpPolicy", VECTOR, RolloutBuffer),
        ("MultiInputPolicy", DICT, None),
        (ActorCriticPolicy, VECTOR, None),
        (ActorCriticPolicy, VECTOR, RolloutBuffer),
    ],
    ids=["beta", "beta, SB3's buffer", "beta, dict", "gaussian", "gaussian, SB3's buffer"],
)
def test_beta_ppo(policy: Any, observation_space: Any, buffer: Any, low: float, high: float, dtype: Any) -> None:
    env = Recording(observation_space, box(low, high, dtype))
    options = {"n_steps": 256, "batch_size": 64, "n_epochs": 2, "seed": 0, "device": "cpu", "rollout_buffer_class": buffer}
    model = BetaPPO(policy, env, learning_rate=0.0, target_kl=1e-3, **options).learn(256)
    logged = model.logger.name_to_value
    assert logged["train/approx_kl"] < 1e-6
    assert logged["train/clip_fraction"] == 0.0
    assert model._n_updates == 2, "target_kl must not end the update"
    stored = np.clip(model.rollout_buffer.actions.reshape(-1, 2), low, high)
    np.testing.assert_array_equal(stored.astype(np.float64), np.array(env.played, dtype=np.float64))


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (100, 101)])
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("observation_space", [VECTOR, DICT], ids=["vector", "dict"])
@pytest.mark.parametrize("algorithm", [PPO, A2C, sb3_contrib.TRPO])
def test_beta_policies_in_other_algorithms(
    algorithm: Any, observation_space: Any, low: float, high: float, dtype: Any
) -> None:
    """SB3's buffers round actions to the dtype of the action space: the policy plays none that would change."""
    policy = MultiInputPolicy if isinstance(observation_space, spaces.Dict) else MlpPolicy
    env = Recording(observation_space, box(low, high, dtype))
    model = algorithm(policy, env, n_steps=64, seed=0, device="cpu")
    _, callback = model._setup_learn(64, None)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 64)
    np.testing.assert_array_equal(model.rollout_buffer.actions.reshape(-1, 2), np.array(env.played))
    (batch,) = model.rollout_buffer.get()
    with th.no_grad():
        _, log_prob, _ = model.policy.evaluate_actions(batch.observations, batch.actions)
    th.testing.assert_close(log_prob, batch.old_log_prob, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_half_precision_actions_are_within_the_bounds(low: float, high: float) -> None:
    space = box(low, high, np.float16)
    dist = BetaDistribution(space).proba_distribution(th.randn(500, 4) * 20)
    for actions in (dist.sample(), dist.mode(), dist.mean()):
        assert actions.dtype == th.float32
        assert th.equal(actions.half().float(), actions)
        assert all(space.contains(action) for action in actions.half().numpy())


@pytest.mark.parametrize("policy", [NamedPartsPolicy, ActorCriticPolicy])
def test_a_gaussian_on_whole_numbers(policy: Any) -> None:
    """SB3 would store 2 where 2.88 was played."""
    env = Recording(VECTOR, spaces.Box(0, 4, (2,), np.int64))
    model = BetaPPO(policy, env, n_steps=64, batch_size=64, n_epochs=1, learning_rate=0.0, seed=0, device="cpu").learn(64)
    assert model.logger.name_to_value["train/approx_kl"] < 1e-6
    np.testing.assert_allclose(np.clip(model.rollout_buffer.actions.reshape(-1, 2), 0, 4), np.array(env.played))
