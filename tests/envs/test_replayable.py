"""Replayable: an environment comes back to the middle of an episode, and a failure to do so is noticed."""

import csv
import doctest
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.wrappers import FrameStackObservation, NormalizeObservation, NormalizeReward
from stable_baselines3.common.monitor import Monitor
from tasks import AnySpaces, Paid

import sb3_carracing  # noqa: F401  (registers the ids)
from sb3_carracing.envs import replayable
from sb3_carracing.envs.car_racing import CarRacing
from sb3_carracing.envs.replayable import REPLAY, Replayable, check_episode_state
from sb3_carracing.envs.wrappers import ActionRepeat, Contrast, Grayscale, ScaleReward, SignedPedals, TargetSpeed
from sb3_carracing.errors import UserError


def box() -> spaces.Box:
    return spaces.Box(-1.0, 1.0, (2,), np.float32)


class Rising(gym.Env[Any, Any]):
    """Episodes of 3, 4, 5, ... steps, so the number of the episode matters; noise of two generators of its own."""

    observation_space, action_space = box(), spaces.Box(0.0, 1.0, (1,), np.float32)

    def __init__(self, hidden: bool = False) -> None:
        self.n_episodes, self.levels, self.hidden = 0, [0.0], hidden
        self.noise = self.other_noise = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.n_episodes, self.n_steps = self.n_episodes + 1, 0
        self.levels.append(self.levels[-1] + self.noise.normal())
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.n_steps += 1
        return self._observation(), float(self.other_noise.normal()), self.n_steps == 2 + self.n_episodes, False, {}

    def _observation(self) -> Any:
        level = self.levels[-1] if self.hidden else self.noise.uniform()
        return np.array([self.n_episodes / 100, level], np.float32)


def monitored(env_id: str, *wrappers: Callable[[Any], Any], **kwargs: Any) -> Callable[[], Replayable]:
    def make() -> Replayable:
        env: Any = Monitor(gym.make(env_id, **kwargs))
        for wrapper in wrappers:
            env = wrapper(env)
        return Replayable(env)

    return make


def views(env: Any) -> Any:
    env = FrameStackObservation(Grayscale(ActionRepeat(env, 4)), 4, padding_type="reset")
    return SignedPedals(ScaleReward(env, 0.02))


def views_of_the_preset(env: Any) -> Any:
    env = Contrast(TargetSpeed(Grayscale(ActionRepeat(env, 4))))
    return ScaleReward(FrameStackObservation(env, 4, padding_type="reset"), 0.02)


RULES = {"grass_penalty": 0.3, "off_road_frames": 15, "truncate_lap": True, "standstill_rate": 0.5, "noop_frames": 3}
ENVS: dict[str, Callable[[], Any]] = {
    "CarRacingFast": monitored("CarRacingFast-v3", views, domain_randomize=True, **RULES),
    "target speed": monitored("CarRacingFast-v3", views_of_the_preset, **RULES),
    "Pendulum": monitored("Pendulum-v1"),
    "CartPole": monitored("CartPole-v1"),
    "LunarLander": monitored("LunarLander-v3", enable_wind=True),
    "running means": monitored("Pendulum-v1", NormalizeObservation, NormalizeReward),
    "own generators": lambda: Replayable(Rising()),
    "generators of spaces": lambda: Replayable(AnySpaces(spaces.Dict({"a": box(), "b": spaces.Discrete(5)}), box())),
}


def play(env: Any, n_steps: int, random: np.random.Generator) -> list[Any]:
    """Play random actions, reset where an episode ends, and return all observations and rewards."""
    seen = []
    for _ in range(n_steps):
        space = env.action_space
        action = random.integers(space.n) if isinstance(space, spaces.Discrete) else random.uniform(space.low, space.high)
        observation, reward, terminated, truncated, _ = env.step(np.asarray(action, space.dtype)[()])
        seen += [observation, float(reward)]
        if terminated or truncated:
            seen.append(env.reset()[0])
    return seen


@pytest.mark.parametrize("name", ENVS)
def test_it_goes_on_as_the_original(name: str) -> None:
    env = ENVS[name]()
    env.reset(seed=3)
    random = np.random.default_rng(0)
    for n_steps in (0, 8, 260):
        play(env, n_steps, random)
        state = env.episode_state()
        check_episode_state("the file", state, env.action_space)
        other = ENVS[name]()
        assert state is not None
        observation, info = other.reset(options={REPLAY: state})
        assert info[REPLAY] is True
        assert data_equivalence(observation, state["observation"], exact=True)
        seed = int(random.integers(1000))
        ours, theirs = (play(one, 60, np.random.default_rng(seed)) for one in (env, other))
        assert data_equivalence(ours, theirs, exact=True)
        other.close()
    env.close()


def test_a_used_environment_comes_back_as_well() -> None:
    env = ENVS["own generators"]()
    env.reset(seed=1, options={"level": 3})
    play(env, 10, np.random.default_rng(0))
    state = env.episode_state()
    assert state is not None
    ahead = play(env, 40, np.random.default_rng(1))
    assert env.reset(options={REPLAY: state})[1][REPLAY] is True
    assert data_equivalence(play(env, 40, np.random.default_rng(1)), ahead, exact=True)


@pytest.mark.parametrize("make", [lambda: Rising(hidden=True), lambda: Paid(tuple(range(99)))])
def test_what_is_different_is_noticed(make: Callable[[], Any]) -> None:
    """One keeps a list from episode to episode, which is not covered; the other gets another reward."""
    env = Replayable(make())
    env.reset(seed=1)
    play(env, 5, np.random.default_rng(0))
    state = env.episode_state()
    assert state is not None
    other = Replayable(make() if isinstance(env.unwrapped, Rising) else Paid((1.0, 1.0)))
    assert other.reset(options={REPLAY: state})[1][REPLAY] is False


def test_monitor_counts_on(tmp_path: Path) -> None:
    def make(name: str) -> Replayable:
        return Replayable(Monitor(gym.make("Pendulum-v1", max_episode_steps=20), str(tmp_path / name)))

    random, (env, other) = np.random.default_rng(0), (make("whole"), make("resumed"))
    env.reset(seed=0)
    play(env, 30, random)
    other.reset(options={REPLAY: env.episode_state()})
    for one in (env, other):
        play(one, 10, np.random.default_rng(1))
        one.close()
    whole, resumed = (
        list(csv.DictReader(itertools.islice((tmp_path / f"{name}.monitor.csv").open(), 1, None)))
        for name in ("whole", "resumed")
    )
    assert len(whole) == 2
    assert [{"r": row["r"], "l": row["l"]} for row in resumed] == [{"r": whole[1]["r"], "l": "20"}]


@pytest.mark.parametrize(("n_steps", "n_drawn"), [(0, 1), (2, 3), (30, 5)])
def test_it_draws_little_more_than_the_stack_keeps(monkeypatch: pytest.MonkeyPatch, n_steps: int, n_drawn: int) -> None:
    env = monitored("CarRacingFast-v3", views)()
    env.reset(seed=1)
    for _ in range(n_steps):
        env.step(np.array([0.2, 0.3], np.float32))
    drawn: list[bool] = []
    draw = CarRacing._draw

    def counted(self: CarRacing, grayscale: bool) -> Any:
        drawn.append(grayscale)
        return draw(self, grayscale)

    monkeypatch.setattr(CarRacing, "_draw", counted)
    other = monitored("CarRacingFast-v3", views)()
    assert other.reset(options={REPLAY: env.episode_state()})[1][REPLAY] is True
    assert len(drawn) == n_drawn


def test_long_episodes_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replayable, "MAX_STEPS", 5)
    env = monitored("Pendulum-v1")()
    assert env.episode_state() is None, "no episode has begun"
    env.reset(seed=0)
    play(env, 5, np.random.default_rng(0))
    assert env.episode_state() is not None
    play(env, 3, np.random.default_rng(0))
    assert env.episode_state() is None
    env.reset()
    assert env.episode_state() is not None


@pytest.mark.parametrize(
    "change",
    [
        {"actions": np.full((3, 1), np.nan)},
        {"actions": np.zeros((3, 2))},
        {"actions": np.zeros((20_000, 1))},
        {"actions": [0.0]},
        {"actions": np.array(["a"])},
        {"seed": 1.5},
        {"options": 3},
        {"options": {REPLAY: {}}},
        {"total": "1"},
        {"before": {"0 Monitor.filename": "/etc/passwd"}},
        {"before": {"0 PendulumEnv.step": [1]}},
        {"before": None},
        {"more": 1},
    ],
)
def test_states_of_strangers_are_checked(change: dict[str, Any]) -> None:
    env = monitored("Pendulum-v1")()
    env.reset(seed=0)
    play(env, 3, np.random.default_rng(0))
    state = env.episode_state()
    assert state is not None
    check_episode_state("a.zip", state, env.action_space)
    with pytest.raises(UserError, match=r"^a\.zip: [^\n]+$"):
        check_episode_state("a.zip", {**state, **change}, env.action_space)


def test_values_are_set_only_where_such_values_are() -> None:
    env = monitored("Pendulum-v1")()
    env.reset(seed=0)
    state = env.episode_state()
    assert state is not None
    names = ("PendulumEnv.step", "PendulumEnv.new", "Monitor.rewards")
    values = {f"{number} {name}": 7 for number in range(5) for name in names}
    other = monitored("Pendulum-v1")()
    assert other.reset(options={REPLAY: {**state, "before": {**state["before"], **values}}})[1][REPLAY] is True
    assert callable(other.unwrapped.step)
    assert not hasattr(other.unwrapped, "new")


def test_the_example() -> None:
    failed, attempted = doctest.testmod(replayable, extraglobs={"gym": gym, "np": np})
    assert (failed, attempted > 0) == (0, True)
