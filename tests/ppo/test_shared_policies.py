"""What one call leaves behind: threads that share a policy, and copies of policies and models."""

import copy
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecMonitor, VecNormalize
from tasks import AnySpaces

from sb3_carracing import BetaPPO
from sb3_carracing.ppo.policies import MlpPolicy, NamedPartsPolicy

sb3_contrib = pytest.importorskip("sb3_contrib")

VECTOR = spaces.Box(-1.0, 1.0, (3,))
ACTION = spaces.Box(-1.0, 1.0, (2,))
ACTION_SPACES = [ACTION, spaces.Discrete(4), spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(3)]
POLICIES = [
    *((MlpPolicy, space, {}) for space in ACTION_SPACES),
    (NamedPartsPolicy, ACTION, {}),
    (NamedPartsPolicy, ACTION, {"use_sde": True}),
]
SMALL: dict[str, Any] = {"n_steps": 64, "batch_size": 32, "n_epochs": 1, "device": "cpu", "seed": 0}


def small(action_space: spaces.Space[Any] = ACTION, policy: Any = "MlpPolicy", **options: Any) -> BetaPPO:
    return BetaPPO(policy, AnySpaces(VECTOR, action_space), **{**SMALL, **options})


def weights(policy: Any) -> dict[str, th.Tensor]:
    return {key: value.clone() for key, value in policy.state_dict().items()}


@pytest.mark.parametrize(("policy_class", "action_space", "options"), POLICIES, ids=str)
def test_threads_share_a_policy(policy_class: Any, action_space: Any, options: dict[str, Any]) -> None:
    th.manual_seed(0)
    policy = policy_class(VECTOR, action_space, lambda _: 0.0, ortho_init=False, **options)
    observations = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)

    def action(observation: np.ndarray) -> np.ndarray:
        played, _ = policy.predict(observation, deterministic=True)
        assert isinstance(played, np.ndarray)
        return played

    alone = np.array([action(observation) for observation in observations])
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            np.testing.assert_array_equal(list(pool.map(action, observations)), alone)


@pytest.mark.parametrize(("policy_class", "action_space", "options"), POLICIES, ids=str)
def test_a_call_leaves_the_policy_as_it_was(policy_class: Any, action_space: Any, options: dict[str, Any]) -> None:
    """Its distribution belongs to the caller: a second call does not change it."""
    th.manual_seed(0)
    policy = policy_class(VECTOR, action_space, lambda _: 0.0, ortho_init=False, **options)
    first = policy.get_distribution(th.zeros(1, 3))
    mode = first.mode().clone()
    second = policy.get_distribution(th.ones(1, 3))
    assert first is not second
    assert first is not policy.action_dist
    th.testing.assert_close(first.mode(), mode, rtol=0, atol=0)
    assert not hasattr(policy.action_dist, "distribution")


@pytest.mark.parametrize(
    ("algorithm", "action_space"),
    [(BetaPPO, space) for space in ACTION_SPACES] + [(algorithm, ACTION) for algorithm in (PPO, A2C, sb3_contrib.TRPO)],
)
def test_a_trained_policy_can_be_copied(algorithm: Any, action_space: Any) -> None:
    sizes = {"n_steps": 64} if algorithm is A2C else {"n_steps": 64, "batch_size": 32}
    model: OnPolicyAlgorithm = algorithm(MlpPolicy, AnySpaces(VECTOR, action_space), device="cpu", seed=0, **sizes)
    policy = model.learn(64).policy
    copied = copy.deepcopy(policy)
    observations = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    before = policy.predict(observations, deterministic=True)[0]
    np.testing.assert_array_equal(copied.predict(observations, deterministic=True)[0], before)
    model.learn(64)
    np.testing.assert_array_equal(copied.predict(observations, deterministic=True)[0], before)


@pytest.mark.parametrize("action_space", [ACTION, spaces.Discrete(4)], ids=str)
@pytest.mark.parametrize("wrappers", [(), (VecNormalize,), (VecMonitor, VecNormalize, partial(VecFrameStack, n_stack=2))])
def test_a_trained_model_can_be_copied(action_space: Any, wrappers: Any) -> None:
    env: VecEnv = DummyVecEnv([lambda: AnySpaces(VECTOR, action_space)])
    for wrapper in wrappers:
        env = wrapper(env)
    model = BetaPPO("MlpPolicy", env, **SMALL, learning_rate=lambda left: 1e-3 * left)
    model.learn(64)
    copied = copy.deepcopy(model)
    assert copied.env is not model.env
    assert copied.policy is not model.policy
    assert copied.logger is model.logger
    assert copied.env is not None
    assert (copied.get_vec_normalize_env() is None) == (VecNormalize not in wrappers)
    assert copied.get_vec_normalize_env() is None or copied.get_vec_normalize_env() is not model.get_vec_normalize_env()
    start = weights(model.policy)
    results = []
    for one in (model, copied):
        assert all(th.equal(value, start[key]) for key, value in weights(one.policy).items())
        one.set_random_seed(5)
        one.learn(128)
        results.append(weights(one.policy))
        assert not all(th.equal(value, start[key]) for key, value in results[-1].items())
    for key, value in results[0].items():
        assert th.equal(results[1][key], value), key


def test_a_model_that_has_not_learned_can_be_copied() -> None:
    copy.deepcopy(small()).learn(64)


def test_a_copied_policy_acts_in_its_own_way() -> None:
    policy = small().policy
    copied = copy.deepcopy(policy)
    copied.deterministic_action = "mean"  # type: ignore[assignment]
    assert policy.deterministic_action == "mode"


def test_concentration_is_the_policys() -> None:
    """Logged without a distribution that stays on the policy: with no learning it is the rollout's."""
    model = small(learning_rate=0.0, batch_size=64, n_epochs=3).learn(64)
    observations = th.as_tensor(model.rollout_buffer.observations).flatten(0, 1)
    concentration = model.policy.get_distribution(observations).concentration.detach()  # type: ignore[attr-defined]
    logged = model.logger.name_to_value
    assert logged["train/concentration_mean"] == pytest.approx(float(concentration.mean()))
    assert logged["train/concentration_max"] == pytest.approx(float(concentration.max()))
    assert not model.policy.action_net._forward_hooks
