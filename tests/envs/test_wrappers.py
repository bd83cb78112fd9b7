"""The wrappers: on stock CarRacing, on ours (where some only set the environment), on any other, and under rl-zoo3."""

import copy
import doctest
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from drivers import OutwardDriver, cheap_render
from gymnasium import spaces
from gymnasium.envs.box2d import car_racing as stock
from gymnasium.wrappers import FrameStackObservation, TimeLimit
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import sb3_carracing  # noqa: F401  (registers the ids)
from sb3_carracing.envs import wrappers
from sb3_carracing.envs.car_racing import CarRacing, off_road, to_gray
from sb3_carracing.envs.wrappers import ActionRepeat, Crop, GrassPenalty, Grayscale, ScaleReward, SignedPedals

GAS = np.array([0.0, 1.0, 0.0], np.float32)


class Flicker(gym.Env):
    """Random pictures 20x30; the n-th step is worth n and the last one ends the episode."""

    def __init__(self, n_steps: int = 10, shape: tuple[int, ...] = (20, 30, 3), dtype: Any = np.uint8) -> None:
        self.observation_space = spaces.Box(0, 255, shape, dtype)
        self.action_space = spaces.Box(np.array([-2, 0], np.float32), np.array([1, 5], np.float32))
        self.n_steps = n_steps

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.n = 0
        return self._picture(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.n += 1
        return self._picture(), float(self.n), self.n == self.n_steps, False, {"n": self.n}

    def _picture(self) -> np.ndarray:
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


def ours(**kwargs: Any) -> gym.Env:
    return gym.make("CarRacingFast-v3", renderer="stock", **kwargs)


def theirs(**kwargs: Any) -> gym.Env:
    return gym.make("CarRacing-v3", **kwargs)


def episodes_equal(one: gym.Env, other: gym.Env, n_steps: int = 1000, seed: int = 3) -> None:
    """Drive both off the field with the same actions: same spaces, pictures, rewards and ends."""
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
    assert nested.unwrapped.frame_skip == 12
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
    env = ActionRepeat(Crop(Grayscale(ours()), 0, 84, 6, 90), 8)
    env.reset(seed=0)
    env.step(GAS)
    assert len(drawings) == 2
    episodes_equal(env, ActionRepeat(Crop(Grayscale(theirs()), 0, 84, 6, 90), 8))


def test_a_wrapper_that_counts_frames_still_counts_frames(drawings: list[str]) -> None:
    """Below ActionRepeat a TimeLimit or a GrassPenalty means frames; on ours as on stock."""
    limited = ActionRepeat(TimeLimit(ours(), 30), 8)
    limited.reset(seed=0)
    ends = [limited.step(GAS)[3] for _ in range(4)]
    assert ends == [False, False, False, True]
    assert limited.unwrapped.frame_skip == 1
    punished = [ActionRepeat(GrassPenalty(env, 0.5), 8) for env in (theirs(), ours())]
    episodes_equal(*punished)


def test_wrapping_a_used_env_changes_nothing_below(drawings: list[str]) -> None:
    used = ours()
    used.reset(seed=0)
    env = Grayscale(ActionRepeat(used, 3))
    assert used.unwrapped.frame_skip == 1
    episodes_equal(env, Grayscale(ActionRepeat(theirs(), 3)))


@pytest.mark.parametrize("frame_skip", [0, -1, 1.5, None, "4", True])
def test_action_repeat_refuses(frame_skip: Any) -> None:
    with pytest.raises(ValueError, match=f"frame_skip must be .*got {frame_skip!r}"):
        ActionRepeat(Flicker(), frame_skip)


# Grayscale and Crop


def test_grayscale_anywhere() -> None:
    env, colour = Grayscale(Flicker()), Flicker()
    assert env.observation_space == spaces.Box(0, 255, (20, 30), np.uint8)
    picture, _ = env.reset(seed=1)
    rgb, _ = colour.reset(seed=1)
    assert picture in env.observation_space
    assert np.array_equal(picture, to_gray(rgb))


def test_grayscale_is_the_same_on_stock_and_on_ours() -> None:
    episodes_equal(Grayscale(theirs()), Grayscale(ours()), n_steps=20)


def test_grayscale_leaves_colours_to_a_penalty_below(drawings: list[str]) -> None:
    envs = [Grayscale(GrassPenalty(env, 0.5, "green", 170)) for env in (theirs(), ours())]
    assert not envs[1].unwrapped.grayscale
    episodes_equal(*envs)


def test_grayscale_of_a_crop_is_a_crop_of_grayscale(drawings: list[str]) -> None:
    episodes_equal(Grayscale(Crop(ours(), 10, 84, 6, 90)), Crop(Grayscale(theirs()), 10, 84, 6, 90), n_steps=30)


@pytest.mark.parametrize("env", [Flicker(shape=(20, 30)), Flicker(dtype=np.float32), gym.make("Pendulum-v1")])
def test_grayscale_refuses(env: gym.Env) -> None:
    with pytest.raises(ValueError, match=r"Grayscale needs uint8 pictures of shape .*got the observation space"):
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


def test_crop_refuses_what_is_no_picture() -> None:
    with pytest.raises(ValueError, match="Crop needs uint8 pictures"):
        Crop(gym.make("Pendulum-v1"), 0, 1, 0, 1)


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
    with pytest.raises(ValueError, match="'green' needs uint8 pictures"):
        GrassPenalty(Grayscale(ours()), 0.1, "green")


def test_scale_reward() -> None:
    env = ScaleReward(Flicker(), scale=0.1)
    env.reset(seed=0)
    assert [env.step(None)[1] for _ in range(3)] == pytest.approx([0.1, 0.2, 0.3])
    for scale in (float("nan"), "1", None):
        with pytest.raises(ValueError, match=f"scale must be .*got {scale!r}"):
            ScaleReward(Flicker(), scale)


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


# All of them


def test_examples_in_the_docstrings() -> None:
    failed, attempted = doctest.testmod(wrappers)
    assert failed == 0
    assert attempted > 10


def all_wrapped(env: gym.Env) -> gym.Env:
    env = ActionRepeat(GrassPenalty(SignedPedals(env), 0.1), 4)
    return FrameStackObservation(ScaleReward(Crop(Grayscale(env), 0, 84, 6, 90), 0.1), 4, padding_type="reset")


@pytest.mark.parametrize("make", [theirs, ours])
def test_specs_and_copies(make: Any, drawings: list[str]) -> None:
    """Gymnasium makes the whole stack again from its spec; SB3 and tuning copy and pickle it."""
    env = all_wrapped(make())
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
        env = gym.envs.registration.load_env_creator(view.entry_point)(env, **view.kwargs)
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
    assert venv.envs[0].unwrapped.frame_skip == 8
    model = PPO("CnnPolicy", venv, n_steps=64, batch_size=32, n_epochs=1, policy_kwargs={"net_arch": [8]}, seed=0)
    model.learn(256)
    assert len(model.ep_info_buffer) > 2
    # Monitor stands below ScaleReward and above the stop: raw rewards, whole episodes.
    for episode in model.ep_info_buffer:
        assert 0 < episode["l"] <= 125
        assert episode["r"] > -100
    returns, lengths = evaluate_policy(model, venv, n_eval_episodes=2, return_episode_rewards=True)
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
