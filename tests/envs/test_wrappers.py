"""The wrappers: on stock CarRacing, on ours (where some only set the environment), on any other, and under rl-zoo3."""

import copy
import doctest
import pickle
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from drivers import CentreLineDriver, OutwardDriver, cheap_render
from gymnasium import spaces
from gymnasium.envs.box2d import car_racing as stock
from gymnasium.wrappers import FrameStackObservation, TimeAwareObservation, TimeLimit, TransformObservation
from gymnasium.wrappers.common import OrderEnforcing, PassiveEnvChecker
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import StopTrainingOnRewardThreshold
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import sb3_carracing  # noqa: F401  (registers the ids)
from sb3_carracing.envs import pedals, wrappers
from sb3_carracing.envs.car_racing import CarRacing, off_road, to_gray
from sb3_carracing.envs.fast.dashboard import shown_speed
from sb3_carracing.envs.pedals import gripping_gas
from sb3_carracing.envs.wrappers import (
    ActionRepeat,
    Contrast,
    Crop,
    FrameLimit,
    GrassPenalty,
    Grayscale,
    ScaleReward,
    SignedPedals,
    TargetSpeed,
)

GAS = np.array([0.0, 1.0, 0.0], np.float32)


class Flicker(gym.Env):
    """Random images 20x30; the n-th step is worth n and the last one ends the episode."""

    def __init__(self, n_steps: int = 10, shape: tuple[int, ...] = (20, 30, 3), dtype: Any = np.uint8) -> None:
        self.observation_space = spaces.Box(0, 255, shape, dtype)
        self.action_space = spaces.Box(np.array([-2, 0], np.float32), np.array([1, 5], np.float32))
        self.n_steps = n_steps

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.n = 0
        return self._image(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.n += 1
        return self._image(), float(self.n), self.n == self.n_steps, False, {"n": self.n}

    def _image(self) -> np.ndarray:
        return self.np_random.integers(0, 256, self.observation_space.shape).astype(self.observation_space.dtype)


@pytest.fixture
def drawings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Draw cheaply and note every drawing's mode."""
    modes = []

    def counted(self: Any, mode: str) -> Any:
        if "t" in vars(self):
            modes.append(mode)
        return cheap_render(self, mode)

    monkeypatch.setattr(stock.CarRacing, "_render", counted)
    return modes


def ours(**kwargs: Any) -> Any:
    return gym.make("CarRacingFast-v3", renderer="stock", **kwargs)


def theirs(**kwargs: Any) -> Any:
    return gym.make("CarRacing-v3", **kwargs)


def episodes_equal(one: gym.Env, other: gym.Env, n_steps: int = 1000, seed: int = 3) -> None:
    """Drive both off the field with the same actions: same spaces, observations, rewards and ends."""
    assert one.observation_space == other.observation_space
    assert one.action_space == other.action_space
    assert np.array_equal(one.reset(seed=seed)[0], other.reset(seed=seed)[0])
    drive = OutwardDriver(one)
    for _ in range(n_steps):
        action = drive()
        observation, reward, *ends, _ = one.step(action)
        observation_2, reward_2, *ends_2, _ = other.step(action)
        assert observation in one.observation_space
        assert np.array_equal(observation, observation_2)
        assert reward == pytest.approx(reward_2, abs=1e-12)
        assert ends == ends_2
        if any(ends):
            return


# ActionRepeat


def test_action_repeat_sums_up_to_the_end() -> None:
    env = ActionRepeat(Flicker(n_steps=10), frame_skip=4)
    env.reset(seed=0)
    steps = [env.step(env.action_space.sample()) for _ in range(3)]
    assert [step[1] for step in steps] == [1 + 2 + 3 + 4, 5 + 6 + 7 + 8, 9 + 10]
    assert [step[2] for step in steps] == [False, False, True]
    assert [step[4]["n"] for step in steps] == [4, 8, 10]


def test_action_repeat_is_the_same_on_stock_and_on_ours(drawings: list[str]) -> None:
    episodes_equal(ActionRepeat(theirs(), 6), ActionRepeat(ours(), 6))


def test_repeats_of_repeats_multiply(drawings: list[str]) -> None:
    nested = ActionRepeat(ActionRepeat(ours(frame_skip=2), 3), 2)
    nested.reset(seed=0)
    assert nested.step(GAS)[4]["frames"] == 12
    episodes_equal(ActionRepeat(theirs(), 12), nested)


def test_view_wrappers_on_ours_draw_once_a_step(drawings: list[str]) -> None:
    env = FrameStackObservation(Crop(Grayscale(ActionRepeat(Monitor(ours()), 8)), 0, 84, 6, 90), 4)
    env.reset(seed=0)
    for _ in range(5):
        env.step(GAS)
    assert len(drawings) == 1 + 5


@pytest.mark.parametrize("env_id", ["CarRacingBlog-v3", "CarRacingIurin-v3"])
def test_ids_draw_once_a_step(env_id: str, drawings: list[str]) -> None:
    env = gym.make(env_id)
    env.reset(seed=0)
    for _ in range(5):
        env.step(env.action_space.sample())
    assert len(drawings) == 1 + 5


def test_crop_below_action_repeat_draws_once_a_step_too(drawings: list[str]) -> None:
    env = ActionRepeat(Crop(Contrast(Grayscale(ours())), 0, 84, 6, 90), 8)
    env.reset(seed=0)
    env.step(GAS)
    assert len(drawings) == 2
    episodes_equal(env, ActionRepeat(Crop(Contrast(Grayscale(theirs())), 0, 84, 6, 90), 8))


def test_a_wrapper_that_counts_frames_still_counts_frames(drawings: list[str]) -> None:
    """Below ActionRepeat a TimeLimit or a GrassPenalty means frames; on ours as on stock."""
    limited = ActionRepeat(TimeLimit(ours(), 30), 8)
    limited.reset(seed=0)
    ends = [limited.step(GAS)[3] for _ in range(4)]
    assert ends == [False, False, False, True]
    assert limited.unwrapped.step(GAS)[4]["frames"] == 31
    stock_env, our_env = (ActionRepeat(GrassPenalty(env, 0.5), 8) for env in (theirs(), ours()))
    episodes_equal(stock_env, our_env)


def test_wrapping_a_used_env_changes_nothing_below(drawings: list[str]) -> None:
    used = ours()
    used.reset(seed=0)
    env = Grayscale(ActionRepeat(used, 3))
    assert used.step(GAS)[4]["frames"] == 1
    episodes_equal(env, Grayscale(ActionRepeat(theirs(), 3)))


def test_wrapping_twice_repeats_as_often_as_once_and_leaves_the_env_as_it_was(drawings: list[str]) -> None:
    """A notebook's cell run twice, and somebody else who goes on with the same environment."""
    for make in (theirs, ours):
        raw = make()
        ActionRepeat(raw, 4)
        twice, other, gray = ActionRepeat(raw, 4), ActionRepeat(raw, 2), Grayscale(raw)
        assert gray.observation_space == Grayscale(raw).observation_space
        sibling = TransformObservation(raw, lambda observation: observation, raw.observation_space)
        frames = []
        for env in (twice, raw, other, gray, sibling):
            observation, _ = env.reset(seed=0)
            assert observation in env.observation_space
            for _ in range(2):
                observation = env.step(GAS)[0]
                assert observation in env.observation_space
            frames.append(round(raw.unwrapped.t * 50) - 1)
        assert frames == [8, 2, 4, 2, 2]


def test_wrappers_around_one_env_take_turns() -> None:
    """Each observation is what an environment of its own would show, whoever has drawn before."""
    shared: Any = gym.make("CarRacingFast-v3")
    expected = gym.make("CarRacingFast-v3")
    gray, crop = Grayscale(shared), Crop(shared, 10, 84, 6, 90)
    gray.reset(seed=5)
    expected.reset(seed=5)
    drive = CentreLineDriver(shared)
    for n in range(40):
        action = drive()
        colour = expected.step(action)[0]
        seen = (gray, shared, crop)[n % 3].step(action)[0]
        if n % 3 == 0:
            assert np.abs(to_gray(colour).astype(int) - seen).max() <= 1
            assert np.array_equal(shared.unwrapped.observation(), colour)
        else:
            assert np.array_equal(seen, colour if n % 3 == 1 else colour[10:84, 6:90])


def test_an_error_in_a_step_leaves_the_env_as_it_was(drawings: list[str]) -> None:
    raw = ours(continuous=False)
    env = Grayscale(ActionRepeat(raw, 4))
    env.reset(seed=0)
    with pytest.raises(gym.error.InvalidAction):
        env.step(9)
    observation, _, _, _, info = raw.step(3)
    assert observation in raw.observation_space
    assert info["frames"] == 1


def test_a_subclass_with_a_step_of_its_own_is_asked_for_every_frame(drawings: list[str]) -> None:
    class Counting(CarRacing):
        n_steps = 0

        def step(self, action: Any) -> Any:
            self.n_steps += action is not None
            return super().step(action)

    env: Any = Grayscale(ActionRepeat(Counting(renderer="stock"), 4))
    env.reset(seed=0)
    env.step(GAS)
    assert env.unwrapped.n_steps == 4
    episodes_equal(env, Grayscale(ActionRepeat(theirs(), 4)), n_steps=5)


def test_monitor_below_action_repeat_counts_decisions_around_ours_and_frames_around_stock(drawings: list[str]) -> None:
    lengths = {}
    for make in (theirs, ours):
        env: Any = ActionRepeat(Monitor(make()), 8)
        env.reset(seed=0)
        over = False
        while not over:
            *_, terminated, truncated, info = env.step(np.zeros(3, np.float32))
            over = terminated or truncated
        lengths[make] = info["episode"]["l"]
        assert info["episode"]["r"] == pytest.approx(-100 + 1000 / len(env.unwrapped.track) * env.unwrapped.tile_visited_count)
    assert lengths == {theirs: 1000, ours: 125}


@pytest.mark.filterwarnings("error")
def test_checkers_between_the_wrappers_have_nothing_to_say(drawings: list[str]) -> None:
    env = Grayscale(ActionRepeat(PassiveEnvChecker(OrderEnforcing(CarRacing())), 4))
    env.reset(seed=0)
    env.step(GAS)
    env.step(GAS)


# Metadata


@pytest.mark.parametrize(
    ("make", "rate"),
    [
        (lambda: ours(), 50),
        (lambda: ours(frame_skip=4), 12.5),
        (lambda: CarRacing(frame_skip=2), 25),
        (lambda: ActionRepeat(ours(), 4), 12.5),
        (lambda: ActionRepeat(theirs(), 4), 12.5),
        (lambda: ActionRepeat(ActionRepeat(ours(frame_skip=2), 2), 2), 6.25),
        (lambda: Grayscale(ActionRepeat(Monitor(ours()), 8)), 6.25),
        (lambda: gym.make("CarRacingBlog-v3"), 6.25),
        (lambda: gym.make("CarRacingIurin-v3"), 12.5),
        (lambda: make_vec_env("CarRacingFast-v3", 2, wrapper_class=lambda env: ActionRepeat(env, 4)), 12.5),
        (lambda: ActionRepeat(gym.make("Pendulum-v1"), 3), 10),
        (lambda: ActionRepeat(ours(render_mode="rgb_array_list"), 4), 50),  # which renders every frame
        (lambda: gym.make("CarRacingBlog-v3", render_mode="rgb_array_list"), 6.25),  # which renders every decision
    ],
)
def test_films_run_at_the_speed_of_the_drive(make: Any, rate: float) -> None:
    assert make().metadata["render_fps"] == rate


def test_render_rates_are_each_envs_own() -> None:
    raw = ours()
    ActionRepeat(raw, 4)
    CarRacing(frame_skip=4)
    assert raw.metadata["render_fps"] == CarRacing.metadata["render_fps"] == stock.CarRacing.metadata["render_fps"] == 50


def test_action_repeat_around_an_env_without_a_rate() -> None:
    assert "render_fps" not in ActionRepeat(Flicker(), 4).metadata


# The limit


def played_steps(env: gym.Env, most: int = 1400) -> int:
    """Stand still until the environment truncates; return after how many steps."""
    env.reset(seed=0)
    for n in range(1, most + 1):
        _, _, terminated, truncated, _ = env.step(np.zeros(3, np.float32))
        assert not terminated
        if truncated:
            return n
    return most


@pytest.mark.parametrize(
    ("kwargs", "steps", "limit"),
    [
        ({}, 1000, 1000),
        ({"max_episode_steps": 1200}, 1200, 1200),
        ({"max_episode_steps": 30}, 30, 30),
        ({"max_episode_steps": -1}, 1400, None),
        ({"frame_skip": 3}, 334, 334),
        ({"frame_skip": 3, "max_episode_steps": 400}, 400, 400),
        ({"frame_skip": 3, "max_episode_steps": 20}, 20, 20),
        ({"frame_skip": 3, "max_episode_steps": -1}, 1400, None),
    ],
)
def test_the_limit_that_make_is_given_counts(kwargs: Any, steps: int, limit: int | None, drawings: list[str]) -> None:
    env = ours(**kwargs)
    assert env.spec.max_episode_steps == limit
    assert played_steps(env) == steps
    again = gym.make(env.spec)
    assert again.spec == env.spec
    assert played_steps(again) == steps


def test_a_limit_is_kept_in_the_middle_of_a_repeat(drawings: list[str]) -> None:
    envs: list[Any] = [ActionRepeat(make(max_episode_steps=30), 8) for make in (ours, theirs)]
    for env in envs:
        assert played_steps(env) == 4
        assert round(env.unwrapped.t * 50) - 1 == 30


def test_a_limit_concerns_nobody_else(drawings: list[str]) -> None:
    env = ours(max_episode_steps=20)
    assert played_steps(env.unwrapped) == 1000
    assert played_steps(env) == 20


@pytest.mark.parametrize(("env_id", "steps"), [("CarRacingBlog-v3", 125), ("CarRacingIurin-v3", 250)])
def test_the_ids_end_after_1000_frames(env_id: str, steps: int, drawings: list[str]) -> None:
    for spec in (gym.spec(env_id), gym.make(env_id).spec, gym.spec("CarRacing-v3")):
        assert spec is not None
        assert (spec.max_episode_steps, spec.reward_threshold) == (1000, 900)
    assert played_steps(gym.make(env_id, continuous=True)) == steps
    assert played_steps(gym.make(env_id, continuous=True, max_episode_steps=1200)) == steps * 6 // 5
    assert played_steps(gym.make(env_id, continuous=True, max_episode_steps=-1), 300) == 300


def test_what_reads_the_spec_works(drawings: list[str]) -> None:
    env: Any = TimeAwareObservation(ActionRepeat(ours(), 4), flatten=False, normalize_time=True)
    env.reset(seed=0)
    assert env.step(GAS)[0]["time"] == pytest.approx(1 / 1000)
    assert StopTrainingOnRewardThreshold(env.spec.reward_threshold).reward_threshold == 900


def test_frame_limit_leaves_other_environments_alone(drawings: list[str]) -> None:
    for env in (theirs(max_episode_steps=40), FrameLimit(ours(max_episode_steps=40)), TimeLimit(Monitor(ours()), 40)):
        limited = FrameLimit(env)
        assert limited.env is env
        assert played_steps(limited) == 40
    spec = FrameLimit(gym.make("Pendulum-v1")).spec
    assert spec is not None
    assert gym.make("Pendulum-v1").spec == replace(spec, additional_wrappers=())


@pytest.mark.parametrize("frame_skip", [0, -1, 1.5, None, "4", True])
def test_action_repeat_refuses(frame_skip: Any) -> None:
    with pytest.raises(ValueError, match=f"frame_skip must be .*got {frame_skip!r}"):
        ActionRepeat(Flicker(), frame_skip)


# Grayscale and Crop


def test_grayscale_anywhere() -> None:
    env, colour = Grayscale(Flicker()), Flicker()
    assert env.observation_space == spaces.Box(0, 255, (20, 30), np.uint8)
    observation, _ = env.reset(seed=1)
    rgb, _ = colour.reset(seed=1)
    assert observation in env.observation_space
    assert np.array_equal(observation, to_gray(rgb))


def test_grayscale_is_the_same_on_stock_and_on_ours() -> None:
    episodes_equal(Grayscale(theirs()), Grayscale(ours()), n_steps=20)


def test_grayscale_leaves_colours_to_a_penalty_below(drawings: list[str]) -> None:
    stock_env, our_env = (Grayscale(GrassPenalty(env, 0.5, "green", 170)) for env in (theirs(), ours()))
    episodes_equal(stock_env, our_env)


def test_grayscale_of_a_crop_is_a_crop_of_grayscale(drawings: list[str]) -> None:
    episodes_equal(Grayscale(Crop(ours(), 10, 84, 6, 90)), Crop(Grayscale(theirs()), 10, 84, 6, 90), n_steps=30)


@pytest.mark.parametrize("env", [Flicker(shape=(20, 30)), Flicker(dtype=np.float32), gym.make("Pendulum-v1")])
def test_grayscale_refuses(env: gym.Env) -> None:
    with pytest.raises(ValueError, match=r"Grayscale needs uint8 observations of shape .*got the observation space"):
        Grayscale(env)
    with pytest.raises(ValueError, match="Grayscale needs"):
        Grayscale(Grayscale(ours()))


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (20, 30, 1)])
def test_crop_anywhere(shape: tuple[int, ...]) -> None:
    env, whole = Crop(Flicker(shape=shape), top=2, bottom=20, left=5, right=6), Flicker(shape=shape)
    assert env.observation_space.shape == (18, 1, *shape[2:])
    assert np.array_equal(env.reset(seed=1)[0], whole.reset(seed=1)[0][2:20, 5:6])


@pytest.mark.parametrize(
    ("window", "name"),
    [
        ((-1, 20, 0, 30), "top"),
        ((20, 20, 0, 30), "top"),
        ((0, 21, 0, 30), "bottom"),
        ((0, 20, 30, 30), "left"),
        ((0, 20, 0, 31), "right"),
        ((0, 20, 0, 3.5), "right"),
    ],
)
def test_crop_refuses(window: tuple[Any, ...], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a whole number from"):
        Crop(Flicker(), *window)


def test_crop_refuses_what_is_no_image() -> None:
    with pytest.raises(ValueError, match="Crop needs uint8 observations"):
        Crop(gym.make("Pendulum-v1"), 0, 1, 0, 1)


# Contrast


@pytest.mark.parametrize("make", [theirs, ours])
def test_contrast_moves_road_and_grass_apart(make: Any) -> None:
    env, plain = Contrast(Grayscale(make())), Grayscale(make())
    assert env.observation_space == plain.observation_space
    seen, gray = env.reset(seed=0)[0], plain.reset(seed=0)[0]
    for _ in range(60):  # beyond the opening zoom
        seen, gray = env.step(GAS)[0], plain.step(GAS)[0]
    assert seen.dtype == np.uint8
    order = np.argsort(gray[:84], axis=None)
    assert (np.diff(seen[:84].ravel()[order].astype(int)) >= 0).all()  # the order of the levels stays
    on_track, on_grass = np.abs(gray.astype(int) - 102) < 5, np.abs(gray.astype(int) - 170) < 12  # two greens: 162 and 177
    assert min(on_track.sum(), on_grass.sum()) > 500
    assert abs(np.median(seen[on_track]) - 64) < 5
    assert abs(np.median(seen[on_grass]) - 235) < 10


def test_contrast_keeps_black_and_white() -> None:
    env = Contrast(Flicker(shape=(20, 30)), road=10, grass=10)
    observations = np.array([[0, 51, 102, 162, 255]], np.uint8)
    assert env.observation(observations).tolist() == [[0, 5, 10, 10, 255]]
    stack = FrameStackObservation(Flicker(shape=(20, 30)), 4)
    assert Contrast(stack).reset(seed=0)[0].shape == (4, 20, 30)


@pytest.mark.parametrize(
    ("road", "grass", "message"), [(-1, 5, "road"), (64, 63, "grass"), (64, 256, "grass"), ("a", 5, "road")]
)
def test_contrast_refuses_levels(road: Any, grass: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"{message} must be"):
        Contrast(Flicker(shape=(20, 30)), road, grass)


def test_contrast_refuses_colors() -> None:
    with pytest.raises(ValueError, match="Contrast needs gray observations"):
        Contrast(Flicker())


# GrassPenalty, ScaleReward, SignedPedals


@pytest.mark.parametrize("make", [theirs, ours])
def test_grass_penalty_by_wheels(make: Any, drawings: list[str]) -> None:
    plain, punished = make(), GrassPenalty(make(), penalty=0.25)
    plain.reset(seed=3)
    punished.reset(seed=3)
    drive = OutwardDriver(plain)
    due = []
    for _ in range(60):
        action = drive()
        reward, shaped = plain.step(action)[1], punished.step(action)[1]
        due.append(off_road(plain.unwrapped.car))
        assert shaped == reward - 0.25 * due[-1]
    assert 10 < sum(due) < 60


def test_the_wrapper_is_the_keyword(drawings: list[str]) -> None:
    for rule in ("wheels", "green"):
        keyword = ours(frame_skip=4, grass_penalty=0.25, grass_rule=rule, green_threshold=185)
        episodes_equal(keyword, ActionRepeat(GrassPenalty(ours(), 0.25, rule, 185), 4))


def test_grass_penalty_by_colour_anywhere() -> None:
    env, plain = GrassPenalty(Flicker(n_steps=40), 2.0, "green", 127.5), Flicker(n_steps=40)
    env.reset(seed=2)
    plain.reset(seed=2)
    rewards = []
    for _ in range(40):
        rgb, reward, *_ = plain.step(None)
        rewards.append(reward - 2.0 * (rgb[..., 1].mean() > 127.5))
    assert [env.step(None)[1] for _ in range(40)] == rewards
    assert 0 < sum(range(1, 41)) - sum(rewards) < 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0,), "penalty must be .*got -1.0"),
        ((float("nan"),), "penalty must be .*got nan"),
        ((0.1, "colour"), "rule must be one of 'wheels', 'green', got 'colour'"),
        ((0.1, "green", float("inf")), "green_threshold must be .*got inf"),
    ],
)
def test_grass_penalty_refuses(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GrassPenalty(theirs(), *arguments)


def test_grass_penalty_refuses_envs_that_it_cannot_judge() -> None:
    with pytest.raises(ValueError, match="'wheels' needs a CarRacing"):
        GrassPenalty(Flicker(), 0.1)
    with pytest.raises(ValueError, match="'green' needs uint8 observations"):
        GrassPenalty(Grayscale(ours()), 0.1, "green")


def test_scale_reward() -> None:
    env = ScaleReward(Flicker(), scale=0.1)
    env.reset(seed=0)
    assert [env.step(None)[1] for _ in range(3)] == pytest.approx([0.1, 0.2, 0.3])
    for scale in (float("nan"), "1", None):
        with pytest.raises(ValueError, match=f"scale must be .*got {scale!r}"):
            ScaleReward(Flicker(), scale)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [theirs, ours])
def test_signed_pedals(make: Any, drawings: list[str]) -> None:
    env, plain = SignedPedals(make()), make()
    assert env.action_space == spaces.Box(-1.0, 1.0, (2,), np.float32)
    env.reset(seed=0)
    plain.reset(seed=0)
    for pedal, gas, brake in [(0.7, 0.7, 0.0), (-0.4, 0.0, 0.4), (0.0, 0.0, 0.0), (1.0, 1.0, 0.0), (-1.0, 0.0, 1.0)]:
        one = env.step(np.array([-0.3, pedal], np.float32))
        other = plain.step(np.array([-0.3, gas, brake], np.float32))
        assert np.array_equal(one[0], other[0])
        assert one[1] == other[1]


@pytest.mark.parametrize("env", [theirs(continuous=False), Flicker()])
def test_signed_pedals_refuse(env: gym.Env) -> None:
    with pytest.raises(ValueError, match="SignedPedals needs three continuous actions"):
        SignedPedals(env)


# TargetSpeed


@pytest.mark.parametrize("make", [theirs, ours])
@pytest.mark.parametrize("view", [lambda env: env, Grayscale])
def test_target_speed_brings_the_car_to_its_speed(make: Any, view: Any) -> None:
    env: Any = TargetSpeed(view(ActionRepeat(make(), 4)), slowest=10.0, fastest=90.0)
    assert env.action_space == spaces.Box(-1.0, 1.0, (2,), np.float32)
    env.reset(seed=0)
    for wanted, target in [(0.0, 50.0), (-1.0, 10.0), (-0.5, 30.0)]:  # faster, firm braking, faster
        for _ in range(25):
            env.step(np.array([0.0, wanted], np.float32))
        assert abs(np.hypot(*env.unwrapped.car.hull.linearVelocity) - target) < 4.0


def test_target_speed_leaves_the_steering_and_presses_one_pedal() -> None:
    pressed: list[np.ndarray] = []

    class Noted(gym.ActionWrapper):
        def action(self, action: Any) -> Any:
            pressed.append(action)
            return action

    env = TargetSpeed(Noted(ours()), slowest=0.0, band=5.0, traction=100.0)
    env.reset(seed=0)
    for wanted in (0.2, 1.0, -1.0, 0.0):
        for _ in range(12):
            env.step(np.array([-0.7, wanted], np.float32))
    steering, gas, brake = np.array(pressed).T
    assert np.allclose(steering, -0.7)
    assert (gas * brake == 0.0).all()
    assert (gas.min(), gas.max(), brake.min()) == (0.0, 1.0, 0.0)
    assert 0.1 < brake.max() <= 0.25


def slip_at_full_acceleration(share: float) -> float:
    """Return by how much [units/s] the rear wheels of a stock car turn too fast at most, in two seconds straight ahead."""
    env: Any = theirs().unwrapped
    env.reset(seed=1)
    car, slips = env.car, []
    for _ in range(100):
        speed = car.hull.linearVelocity.length
        car.gas(share * gripping_gas(speed))
        for wheel in car.wheels:
            wheel.tiles.add(env.road[0])
        car.step(1.0 / 50.0)
        env.world.Step(1.0 / 50.0, 180, 60)
        slips.append(max(wheel.omega * wheel.wheel_rad for wheel in car.wheels[2:]) - speed)
    return float(max(slips))


def test_rear_wheels_spin_only_above_the_gripping_gas() -> None:
    assert slip_at_full_acceleration(1.0) < 4.9 < 10.0 < slip_at_full_acceleration(2.0)


def turn_at_last(traction: float = 1.0, **training: Any) -> float:
    """Return by how much [rad] the car turns in the last second after something has turned it quickly."""
    env: Any = TargetSpeed(Grayscale(ActionRepeat(gym.make("CarRacingFast-v3", **training), 4)), traction=traction)
    env.reset(seed=3)
    ahead = np.array([0.0, 0.2], np.float32)
    for _ in range(25):
        env.step(ahead)
    env.unwrapped.car.hull.angularVelocity = 8.0
    for n in range(60):
        env.step(ahead)
        if n == 47:
            before = env.unwrapped.car.hull.angle
    return float(abs(env.unwrapped.car.hull.angle - before))


def test_target_speed_ends_a_spin() -> None:
    """Without a limit the car turns on the spot for good."""
    assert turn_at_last() < 0.1
    assert turn_at_last(traction=100.0) > 3.0
    assert turn_at_last(unlimited_gas=True) > 3.0


def test_target_speed_knows_the_latest_observation() -> None:
    env: Any = TargetSpeed(Grayscale(ours()))
    env.reset(seed=0)
    slow, target = env.step(np.array([0.0, 1.0], np.float32))[0], np.array([0.0, -0.2], np.float32)
    assert shown_speed(slow[84:]) < 10.0
    env.unwrapped.car.hull.linearVelocity = (0.0, 70.0)  # not yet on the dashboard: 40 is still faster
    env.step(target)
    assert [wheel.brake for wheel in env.unwrapped.car.wheels] == [0.0] * 4
    env.step(target)
    assert min(wheel.brake for wheel in env.unwrapped.car.wheels) > 0.0


def test_target_speed_draws_once_a_step(drawings: list[str]) -> None:
    env = TargetSpeed(Grayscale(ActionRepeat(ours(), 8)))
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.array([0.0, 0.5], np.float32))
    assert len(drawings) == 1 + 3


@pytest.mark.parametrize(
    ("make", "keywords", "message"),
    [
        (lambda: theirs(continuous=False), {}, "TargetSpeed needs three continuous actions"),
        (lambda: Crop(ours(), 0, 84, 0, 96), {}, r"needs uint8 observations of shape \(96, 96\) or \(96, 96, 3\)"),
        (lambda: FrameStackObservation(Grayscale(ours()), 4), {}, r"needs uint8 observations of shape \(96, 96\) or"),
        (ours, {"slowest": -1.0}, "slowest must be .*got -1.0"),
        (ours, {"slowest": 50.0, "fastest": 49.0}, "fastest must be .*got 49.0"),
        (ours, {"band": 0.0}, "band must be .*got 0.0"),
        (ours, {"brake": 1.5}, "brake must be .*got 1.5"),
        (ours, {"traction": 0.0}, "traction must be .*got 0.0"),
    ],
)
def test_target_speed_refuses(make: Any, keywords: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TargetSpeed(make(), **keywords)


# All of them


def test_examples_in_the_docstrings() -> None:
    results = [doctest.testmod(module) for module in (wrappers, pedals)]
    assert sum(result.failed for result in results) == 0
    assert min(result.attempted for result in results) > 4
    assert sum(result.attempted for result in results) > 10


def all_wrapped(env: gym.Env) -> gym.Env:
    env = ActionRepeat(GrassPenalty(SignedPedals(env), 0.1), 4)
    return FrameStackObservation(ScaleReward(Crop(Contrast(Grayscale(env)), 0, 84, 6, 90), 0.1), 4, padding_type="reset")


def preset(env: gym.Env) -> gym.Env:
    env = Contrast(TargetSpeed(Grayscale(ActionRepeat(env, 4)), fastest=90.0), grass=230)
    return FrameStackObservation(env, 4, padding_type="reset")


@pytest.mark.parametrize("make", [theirs, ours])
@pytest.mark.parametrize("wrapped", [all_wrapped, preset])
def test_specs_and_copies(make: Any, wrapped: Any, drawings: list[str]) -> None:
    """Gymnasium makes the whole stack again from its spec; SB3 and tuning copy and pickle it."""
    env: Any = wrapped(make())
    twins = [gym.make(env.spec), copy.deepcopy(env), pickle.loads(pickle.dumps(env))]
    first, _ = env.reset(seed=9)
    following, reward, *_ = env.step(np.array([0.1, 0.9], np.float32))
    for twin in twins:
        assert twin.observation_space == env.observation_space
        assert np.array_equal(twin.reset(seed=9)[0], first)
        observation, reward_2, *_ = twin.step(np.array([0.1, 0.9], np.float32))
        assert np.array_equal(observation, following)
        assert reward == reward_2


def test_the_views_of_an_id_fit_around_stock(drawings: list[str]) -> None:
    env = theirs()
    for view in gym.spec("CarRacingBlog-v3").additional_wrappers:
        make_view: Any = gym.envs.registration.load_env_creator(view.entry_point)
        env = make_view(env, **(view.kwargs or {}))
    episodes_equal(env, gym.make("CarRacingBlog-v3"))


def zoo_wrapper() -> Any:
    utils = pytest.importorskip("rl_zoo3.utils")
    return utils.get_wrapper_class(
        {
            "env_wrapper": [
                {"sb3_carracing.envs.wrappers.ActionRepeat": {"frame_skip": 8}},
                "sb3_carracing.envs.wrappers.Grayscale",
                {"sb3_carracing.envs.wrappers.Crop": {"top": 0, "bottom": 84, "left": 6, "right": 90}},
                {"sb3_carracing.envs.wrappers.ScaleReward": {"scale": 0.1}},
                "sb3_carracing.envs.wrappers.SignedPedals",
                {"gymnasium.wrappers.FrameStackObservation": {"stack_size": 4, "padding_type": "reset"}},
            ]
        }
    )


@pytest.mark.parametrize(
    "stop", [{"no_progress_frames": 40, "no_progress_reward": -0.05}, {"off_road_frames": 5}], ids=["progress", "road"]
)
def test_monitor_below_a_yamls_wrappers_sees_every_episode(stop: dict[str, Any], drawings: list[str]) -> None:
    """The regression that put these stops into the environment: Monitor was blind and `evaluate_policy` hung."""
    venv = make_vec_env("CarRacingFast-v3", 2, seed=0, env_kwargs={"renderer": "stock", **stop}, wrapper_class=zoo_wrapper())
    assert venv.observation_space.shape == (4, 84, 84)
    assert venv.get_attr("frame_skip") == [8, 8]
    model = PPO("CnnPolicy", venv, n_steps=64, batch_size=32, n_epochs=1, policy_kwargs={"net_arch": [8]}, seed=0)
    model.learn(256)
    assert model.ep_info_buffer is not None
    assert len(model.ep_info_buffer) > 2
    # Monitor stands below ScaleReward and above the stop: raw rewards, whole episodes.
    for episode in model.ep_info_buffer:
        assert 0 < episode["l"] <= 125
        assert episode["r"] > -100
    returns, lengths = evaluate_policy(model, venv, n_eval_episodes=2, return_episode_rewards=True)
    assert isinstance(returns, list)
    assert isinstance(lengths, list)
    assert len(returns) == 2
    assert max(lengths) <= 125


def test_a_yaml_around_stock_gymnasium(drawings: list[str]) -> None:
    env = zoo_wrapper()(Monitor(theirs()))
    observation, _ = env.reset(seed=0)
    over = False
    while not over:
        observation, _, terminated, truncated, info = env.step(np.array([0.5, 0.1], np.float32))
        over = terminated or truncated
    assert observation.shape == (4, 84, 84)
    assert info["episode"]["l"] == 1000


def test_training_rules_do_not_reach_the_views(drawings: list[str]) -> None:
    """Rules are keywords of the environment: evaluation makes the id without them and gets all 1000 frames."""
    env = gym.make("CarRacingBlog-v3")
    assert isinstance(env.unwrapped, CarRacing)
    env.reset(seed=0)
    over, n_steps = False, 0
    while not over:
        _, _, terminated, truncated, info = env.step(np.array([0.0, 0.0, 1.0], np.float32))
        over, n_steps = terminated or truncated, n_steps + 1
    assert (n_steps, info["frames"], truncated) == (125, 1000, True)
