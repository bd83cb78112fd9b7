"""The mistakes of the source implementations do what they say."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env

from benchmarks.studies.ablations import bugs
from sb3_carracing import BetaPPO

EPISODE = 5


class Counter(gym.Env[np.ndarray, Any]):
    """Observes how many steps it has played in all its life; an episode is `EPISODE` steps, the reward the count."""

    observation_space = spaces.Box(0.0, 1e6, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, end: str = "truncated") -> None:
        self.end = end
        self.count = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.begun = self.count
        self.count += 1
        return self.observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.count += 1
        over = self.count - self.begun > EPISODE
        return self.observe(), float(self.count), over and self.end == "terminated", over and self.end == "truncated", {}

    def observe(self) -> np.ndarray:
        return np.array([self.count], np.float32)


def rollout_of(model_class: type[BetaPPO], wrap: Any = None, end: str = "truncated", **arguments: Any) -> dict[str, Any]:
    """Play one rollout of 12 steps and return what it stored, before any update."""
    venv = make_vec_env(lambda: Counter(end), n_envs=1, seed=0, wrapper_class=wrap)
    settings = {"n_steps": 12, "batch_size": 4, "gamma": 0.5, "gae_lambda": 0.5, "seed": 0} | arguments
    model = model_class("MlpPolicy", venv, device="cpu", **settings)
    return collected(model)


def collected(model: BetaPPO) -> dict[str, Any]:
    _, callback = model._setup_learn(100, reset_num_timesteps=model._last_obs is None)
    assert model.env is not None
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    names = ("observations", "rewards", "values", "advantages", "returns", "episode_starts", "log_probs", "actions")
    return {name: np.array(getattr(model.rollout_buffer, name)) for name in names}


def terminated(env: gym.Env) -> gym.Env:
    return bugs.ReportEnds(env, as_="terminated")


def truncated(env: gym.Env) -> gym.Env:
    return bugs.ReportEnds(env, as_="truncated")


def test_next_observation_is_paired_with_the_action() -> None:
    right = rollout_of(BetaPPO)["observations"].flatten()
    wrong = rollout_of(bugs.StoresNextObservation)["observations"].flatten()
    # One step on, also where the episode ends and the next step's observation is another episode's first.
    assert np.array_equal(wrong, right + 1)
    assert np.diff(right)[EPISODE - 1] == 2


def test_next_observation_leaves_all_else_right() -> None:
    right, wrong = rollout_of(BetaPPO), rollout_of(bugs.StoresNextObservation)
    for name in ("rewards", "values", "log_probs", "advantages", "actions"):
        assert np.array_equal(right[name], wrong[name])


@pytest.mark.parametrize(("model_class", "sound"), [(BetaPPO, True), (bugs.StoresNextObservation, False)])
def test_the_first_ratio_is_one_only_with_the_right_observation(model_class: type[BetaPPO], sound: bool) -> None:
    venv = make_vec_env("Pendulum-v1", n_envs=1, seed=0)
    model = model_class("MlpPolicy", venv, n_steps=64, batch_size=64, seed=0, device="cpu")
    collected(model)
    batch = next(iter(model.rollout_buffer.get(64)))
    with th.no_grad():
        _, log_prob, _ = model.policy.evaluate_actions(batch.observations, batch.actions)
    assert th.allclose(log_prob, batch.old_log_prob, atol=1e-5) == sound


def test_every_rollout_starts_anew() -> None:
    venv = make_vec_env(Counter, n_envs=1, seed=0)
    model = bugs.ResetsEveryRollout("MlpPolicy", venv, n_steps=7, batch_size=7, seed=0, device="cpu")
    first = collected(model)
    second = collected(model)
    assert first["episode_starts"].flatten().tolist() == second["episode_starts"].flatten().tolist() == [1, 0, 0, 0, 0, 1, 0]
    assert second["observations"][0] == first["observations"][-1] + 2  # its successor was seen, then came the reset


def test_dones_are_never_stored_and_gae_runs_across_episodes() -> None:
    stored = rollout_of(BetaPPO, wrap=terminated, rollout_buffer_class=bugs.ForgetsDones)
    assert not stored["episode_starts"].any()
    values, rewards, advantages = (stored[name].flatten() for name in ("values", "rewards", "advantages"))
    last = EPISODE - 1  # the episode's last step: the next episode's value and advantage follow
    expected = rewards[last] + 0.5 * values[last + 1] - values[last] + 0.25 * advantages[last + 1]
    assert advantages[last] == pytest.approx(expected, rel=1e-5)
    sound = rollout_of(BetaPPO, wrap=terminated)
    assert sound["episode_starts"].flatten()[EPISODE] == 1
    assert sound["advantages"][last] == pytest.approx(sound["rewards"][last] - sound["values"][last], rel=1e-5)


def test_ends_reported_as_time_limits_are_bootstrapped_with_the_last_observation() -> None:
    arguments = {"gae_lambda": 0.0}
    as_blog = rollout_of(BetaPPO, wrap=truncated, end="terminated", **arguments)
    sound = rollout_of(BetaPPO, end="terminated", **arguments)
    last = EPISODE - 1
    model = BetaPPO("MlpPolicy", make_vec_env(Counter, seed=0), seed=0, device="cpu")
    with th.no_grad():
        value = float(model.policy.predict_values(th.tensor([[float(EPISODE + 1)]])))
    assert as_blog["advantages"][last] - sound["advantages"][last] == pytest.approx(0.5 * value, rel=1e-3)
    assert as_blog["episode_starts"].flatten()[EPISODE] == 1


def test_what_ends_are_reported_as_must_be_known() -> None:
    with pytest.raises(ValueError, match="'terminated' or 'truncated', got 'over'"):
        bugs.ReportEnds(Counter(), as_="over")


def filled(buffer_class: type[RolloutBuffer]) -> RolloutBuffer:
    buffer = buffer_class(64, Counter.observation_space, Counter.action_space, device="cpu")
    rng = np.random.default_rng(0)
    for _ in range(64):
        one = th.zeros(1)
        buffer.add(np.zeros((1, 1)), np.zeros((1, 1)), rng.normal(3.0, 20.0, 1), np.zeros(1), one, one)
    buffer.compute_returns_and_advantage(th.zeros(1), np.zeros(1))
    return buffer


def test_renormalising_again_changes_nothing() -> None:
    buffer = filled(bugs.RenormalizesBatch)
    raw = buffer.advantages.flatten()
    batches = buffer.get(8)
    next(batches)
    once = buffer.advantages.flatten()
    assert once.mean() == pytest.approx(0.0, abs=1e-6)
    assert once.std(ddof=1) == pytest.approx(1.0, abs=1e-6)
    assert np.corrcoef(once, raw)[0, 1] == pytest.approx(1.0)
    for _ in range(16):
        for _ in buffer.get(8):
            pass
    assert np.allclose(buffer.advantages.flatten(), once, atol=1e-5)


def test_the_published_storage_has_both_mistakes() -> None:
    buffer = filled(bugs.IurinBuffer)
    next(buffer.get(8))
    assert buffer.advantages.std(ddof=1) == pytest.approx(1.0, abs=1e-6)
    assert isinstance(buffer, bugs.ForgetsDones)


def test_a_buffer_may_be_named_by_its_path(tmp_path: Path) -> None:
    venv = make_vec_env(Counter, n_envs=1, seed=0)
    by_path: dict[str, Any] = {"rollout_buffer_class": "benchmarks.studies.ablations.bugs.ForgetsDones"}
    model = bugs.PlainPPO("MlpPolicy", venv, n_steps=12, batch_size=4, device="cpu", **by_path)
    assert type(model.rollout_buffer) is bugs.ForgetsDones
    model.save(tmp_path / "agent.zip")
    # As rl-zoo3 does it when a training is resumed.
    assert type(bugs.PlainPPO.load(tmp_path / "agent.zip", env=venv, **by_path).rollout_buffer) is bugs.ForgetsDones
