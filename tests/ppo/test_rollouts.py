"""Rollouts with one pass of the actor per step, against SB3's loop; the parts of a lean update, against PyTorch's own."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize
from tasks import AnySpaces
from torch.distributions import Beta

from sb3_carracing import BetaPPO
from sb3_carracing.ppo import rollouts
from sb3_carracing.ppo.beta_integrals import BetaIntegrals
from sb3_carracing.ppo.distributions import BetaDistribution
from sb3_carracing.ppo.gradients import clip_gradients
from sb3_carracing.ppo.policies import MlpPolicy

VECTOR = spaces.Box(-1.0, 1.0, (2, 3))
ACTION = spaces.Box(np.array([[-1.0, 0.0]], dtype=np.float32), np.array([[3.0, 0.5]], dtype=np.float32))


def model_on(env_fn: Callable[[], gym.Env[Any, Any]], **options: Any) -> BetaPPO:
    env = VecNormalize(make_vec_env(env_fn, n_envs=2, seed=0))
    return BetaPPO("MlpPolicy", env, **{"n_steps": 70, "batch_size": 28, "seed": 0, "device": "cpu", **options})


def collected(model: BetaPPO, loop: Callable[..., bool], callback: BaseCallback | None = None) -> dict[str, Any]:
    _, begun = model._setup_learn(10**6, callback)
    completed = loop(model, model.env, begun, model.rollout_buffer, model.n_steps)
    names = ("observations", "actions", "rewards", "episode_starts", "values", "log_probs", "advantages", "returns")
    return {
        **{name: getattr(model.rollout_buffer, name).copy() for name in names},
        **{"completed": completed, "steps": model.num_timesteps, "last": model._last_obs},
        "episodes": [episode["r"] for episode in model.ep_info_buffer or ()],
    }


def cut_short() -> gym.Env[Any, Any]:
    """End every episode by the time limit, whose last value the rewards must hold."""
    return gym.wrappers.TimeLimit(AnySpaces(VECTOR, ACTION), 9)


def test_the_rollout_is_that_of_sb3s_loop() -> None:
    ours, stock = (collected(model_on(cut_short), loop) for loop in (rollouts.collect, OnPolicyAlgorithm.collect_rollouts))
    assert ours["episode_starts"].sum() > 10
    for name, value in stock.items():
        np.testing.assert_allclose(ours[name], value, rtol=2e-5, atol=2e-6, err_msg=name)
    for name in ("observations", "actions", "episode_starts", "last"):
        np.testing.assert_array_equal(ours[name], stock[name], err_msg=name)


def test_a_callback_stops_the_rollout_where_it_stops_sb3s() -> None:
    for loop in (rollouts.collect, OnPolicyAlgorithm.collect_rollouts):
        seen: list[set[str]] = []

        def look(names: dict[str, Any], _globals: dict[str, Any], seen: list[set[str]] = seen) -> bool:
            seen.append(set(names))
            return len(seen) < 5

        result = collected(model_on(cut_short), loop, ConvertCallback(look))
        assert not result["completed"]
        assert result["steps"] == 10
        assert seen[0] >= {"self", "env", "rewards", "dones", "infos", "new_obs", "actions", "clipped_actions", "n_steps"}


def test_it_is_used_for_vectors_and_known_policies_only() -> None:
    class Changed(MlpPolicy):
        pass

    model = model_on(cut_short)
    assert rollouts.can_collect(model.policy, model.rollout_buffer)
    others: list[tuple[Any, Any, Any]] = [
        (Changed, VECTOR, ACTION),
        ("MlpPolicy", spaces.Discrete(3), ACTION),
        ("MlpPolicy", spaces.Box(0, 255, (36, 36, 3), np.uint8), ACTION),
        ("MlpPolicy", VECTOR, spaces.Discrete(2)),
    ]
    for policy, observations, actions in others:
        other = BetaPPO(policy, AnySpaces(observations, actions), n_steps=8, batch_size=8, device="cpu")
        assert not rollouts.can_collect(other.policy, other.rollout_buffer)


def test_log_density_and_entropy_are_pytorchs_with_their_gradients() -> None:
    rng = np.random.default_rng(0)
    a, b, unit = (th.as_tensor(rng.uniform(0.0, high, (6, 3))).requires_grad_() for high in (30.0, 0.5, 1.0))
    integrals, law = BetaIntegrals(a, b), Beta(1.0 + a, 1.0 + b)
    for ours, reference in [(integrals.log_density(unit), law.log_prob(unit)), (integrals.entropy, law.entropy())]:
        th.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-9)
        got, wanted = (th.autograd.grad((x * x).sum(), (a, b, unit), allow_unused=True) for x in (ours, reference))
        th.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("max_norm", [0.5, 1e3, float("inf")])
def test_gradients_are_clipped_as_by_pytorch(max_norm: float) -> None:
    layers = [th.nn.Linear(5, 4), th.nn.Linear(5, 4)]
    layers[1].load_state_dict(layers[0].state_dict())
    for layer in layers:
        layer(th.ones(3, 5)).square().sum().backward()
    ours, theirs = (list(layer.parameters()) for layer in layers)
    assert clip_gradients(ours, max_norm) == th.nn.utils.clip_grad_norm_(theirs, max_norm)
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert th.equal(one.grad, other.grad)


def test_adam_is_fused_unless_options_exclude_it() -> None:
    for options, fused in [({}, True), ({"fused": False}, False), ({"foreach": True}, None)]:
        model = model_on(cut_short, policy_kwargs={"optimizer_kwargs": {"eps": 1e-5, **options}})
        assert model.policy.optimizer.defaults["fused"] is fused


def test_the_fused_step_is_adams_where_channels_come_last() -> None:
    layers = [th.nn.Conv2d(3, 4, 3).to(memory_format=th.channels_last) for _ in range(2)]  # type: ignore[call-overload]
    layers[1].load_state_dict(layers[0].state_dict())
    optimizers = [
        th.optim.Adam(layer.parameters(), 0.01, fused=fused) for layer, fused in zip(layers, (True, False), strict=True)
    ]
    images = th.rand(5, 2, 3, 8, 8)
    for layer, optimizer in zip(layers, optimizers, strict=True):
        for batch in images:
            optimizer.zero_grad()
            layer(batch).square().mean().backward()
            optimizer.step()
    for one, other in zip(*(layer.parameters() for layer in layers), strict=True):
        th.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_seed_draws_the_same_with_and_without_gradients() -> None:
    dist = BetaDistribution(ACTION)
    raw = th.randn(50, 4)
    drawn = []
    for params in (raw, raw.clone().requires_grad_()):
        th.manual_seed(3)
        drawn.append(dist.proba_distribution(params).sample())
        th.manual_seed(3)
        drawn.append(dist._scaled(dist.distribution.sample()))
    assert all(th.equal(drawn[0], other) for other in drawn[1:])
