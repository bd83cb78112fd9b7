"""The pipelines of the two source projects, each read afresh from its text, against the id and env_kwargs that reproduce it.

The readings below are plain loops over stock gymnasium in float64, as the projects have them, and know nothing of the
package. Both sides get the same actions; observations, rewards and ends have to agree over whole episodes. Most episodes
run on cheap observations; some, and all of the slow ones, on gymnasium's own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import pytest
import yaml
from drivers import CentreLineDriver, OutwardDriver, cheap_render, five_actions
from gymnasium.envs.box2d import car_racing as stock

import sb3_carracing  # noqa: F401  (registers the ids)

BLOG_KWARGS: dict[str, Any] = {
    "grass_penalty": 0.05,
    "grass_rule": "green",
    "green_threshold": 185.0,
    "end_bonus": 100.0,
    "no_progress_frames": 100,
    "no_progress_reward": -0.1,
}
IURIN_KWARGS: dict[str, Any] = {"noop_frames": 50, "grass_penalty": 0.05, "grass_rule": "green", "green_threshold": 180.0}

ENDINGS = ("no progress", "time limit", "crash", "lap")

Driver = Callable[[], Any]


class BlogReading:
    """The blog's `ObservationWrapper`: action repeat 8, +100 at ends, green penalty, 100-frame average, stack of 4."""

    def __init__(self) -> None:
        self.env: Any = gym.make("CarRacing-v3")

    def reset(self, seed: int) -> np.ndarray:
        self.history, self.cursor = np.zeros(100), 0
        rgb, _ = self.env.reset(seed=seed)
        self.stack = [self.gray(rgb)] * 4
        return np.array(self.stack)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        """Return the stack, the summed reward, whether the average stopped the episode, whether gymnasium did."""
        total = 0.0
        for _ in range(8):
            rgb, reward, terminated, truncated, _ = self.env.step(action)
            die = terminated or truncated
            if die:
                reward += 100
            if np.mean(rgb[:, :, 1]) > 185.0:
                reward -= 0.05
            total += reward
            self.history[self.cursor] = reward
            self.cursor = (self.cursor + 1) % 100
            done = np.mean(self.history) <= -0.1
            if done or die:
                break
        self.stack = [*self.stack[1:], self.gray(rgb)]
        return np.array(self.stack), total, bool(done), die

    @staticmethod
    def gray(rgb: np.ndarray) -> np.ndarray:
        gray: np.ndarray = np.dot(rgb, [0.299, 0.587, 0.114])  # the blog goes on with / 128 - 1
        return gray


class IurinReading:
    """The Iurin implementation's `CarEnv`: 50 idle frames, action repeat 4, green penalty, 84x84 crop, stack of 4."""

    def __init__(self) -> None:
        self.env: Any = gym.make("CarRacing-v3", continuous=False)

    def reset(self, seed: int) -> np.ndarray:
        self.env.reset(seed=seed)
        for _ in range(50):
            rgb, *_ = self.env.step(0)
        self.stack = np.stack([self.view(rgb)] * 4)
        return self.stack

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool]:
        """Return the stack, the summed reward, terminated, truncated."""
        total = 0.0
        for _ in range(4):
            rgb, reward, terminated, truncated, _ = self.env.step(action)
            if np.mean(rgb[:, :, 1]) > 180.0:
                total -= 0.05
            total += reward
            if terminated or truncated:
                break
        self.stack = np.concatenate([self.stack[1:], self.view(rgb)[None]])
        return self.stack, total, terminated, truncated

    @staticmethod
    def view(rgb: np.ndarray) -> np.ndarray:
        return cv2.cvtColor(np.ascontiguousarray(rgb[:84, 6:90]), cv2.COLOR_RGB2GRAY) / 255.0


def random_driver(env: gym.Env) -> Driver:
    env.action_space.seed(5)
    return env.action_space.sample


def braking_driver(env: gym.Env) -> Driver:
    return lambda: np.array([0.0, 0.0, 1.0], np.float32)


def slow_driver(env: gym.Env) -> Driver:
    """Round the track without hurry: progress in any two seconds, no whole lap."""
    follow = CentreLineDriver(env)
    follow.speeds = np.minimum(follow.speeds, 30.0)
    return follow


DRIVERS: dict[str, Callable[[gym.Env], Driver]] = {
    "random": random_driver,
    "braking": braking_driver,
    "outward": OutwardDriver,
    "slow": slow_driver,
    "lap": CentreLineDriver,
}


def play_blog(driver: str, seed: int, prepare: Callable[[gym.Env], None] | None = None) -> str:
    """Compare the blog implementation's reading with ours over an episode and return how it ended."""
    reading, mine = BlogReading(), gym.make("CarRacingBlog-v3", **BLOG_KWARGS)
    theirs, (observation, _) = reading.reset(seed), mine.reset(seed=seed)
    if prepare is not None:
        prepare(reading.env)
        prepare(mine)
    drive = DRIVERS[driver](reading.env)
    while True:
        # OpenCV's fixed-point grey is within 0.004 of the exact sum before both are rounded.
        assert np.abs(observation - theirs).max() < 0.504
        action = drive()
        theirs, total, done, die = reading.step(action)
        observation, reward, terminated, truncated, info = mine.step(action)
        assert reward == total
        assert (terminated or truncated) == (done or die)
        if done or die:
            assert np.abs(observation - theirs).max() < 0.504
            assert terminated == (done or "lap_finished" in info)
            assert truncated == (info["frames"] == 1000)
            lap = {None: "time limit", True: "lap", False: "crash"}[info.get("lap_finished")]
            assert info.get("stopped_by") == ("no_progress" if done and lap == "time limit" else None)
            return lap if die else "no progress"


def play_iurin(driver: str, seed: int, prepare: Callable[[gym.Env], None] | None = None) -> str:
    """Compare the Iurin implementation's reading with ours over an episode and return how it ended."""
    reading, mine = IurinReading(), gym.make("CarRacingIurin-v3", **IURIN_KWARGS)
    theirs, (observation, info) = reading.reset(seed), mine.reset(seed=seed)
    assert info["frames"] == 50
    if prepare is not None:
        prepare(reading.env)
        prepare(mine)
    drive = DRIVERS[driver](reading.env)
    step = 0
    while True:
        assert np.array_equal(observation / 255.0, theirs)
        action = drive()
        step += 1
        if isinstance(action, np.ndarray) and action.shape == (3,):
            action = five_actions(action, step)
        theirs, total, *ends = reading.step(action)
        observation, reward, terminated, truncated, info = mine.step(action)
        assert reward == pytest.approx(total, abs=1e-9)
        assert [terminated, truncated] == ends
        if terminated or truncated:
            assert np.array_equal(observation / 255.0, theirs)
            assert truncated == (info["frames"] == 1000)
            return {None: "time limit", True: "lap", False: "crash"}[info.get("lap_finished")]


def lap_ends_soon(env: gym.Env) -> None:
    """Count all tiles but the next few as visited."""
    base: Any = env.unwrapped
    for tile in base.road[12:]:
        if not tile.road_visited:
            tile.road_visited = True
            base.tile_visited_count += 1


def near_the_edge(env: gym.Env) -> None:
    """Put the car where it leaves the field before the blog's average can stop it."""
    base: Any = env.unwrapped
    car = base.car
    shift = stock.PLAYFIELD - 20 - car.hull.position[0]
    for body in (car.hull, *car.wheels):
        body.position = (body.position[0] + shift, body.position[1])


def never_green(car_racing: Any, mode: str) -> Any:
    """Draw cheaply and without grass: a car that stands still then earns -0.1 a frame, on the stop's very edge."""
    observation = cheap_render(car_racing, mode)
    if observation is not None:
        observation[:, :, 1] = 100
    return observation


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("driver", "render", "prepare", "ending"),
    [
        ("random", cheap_render, None, "no progress"),
        ("braking", cheap_render, None, "no progress"),
        ("braking", never_green, None, "no progress"),
        ("outward", cheap_render, near_the_edge, "crash"),
        ("slow", cheap_render, None, "time limit"),
        ("slow", cheap_render, lap_ends_soon, "lap"),
        ("lap", cheap_render, None, None),
    ],
)
def test_blog_over_whole_episodes(
    driver: str, render: Any, prepare: Any, ending: str | None, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stock.CarRacing, "_render", render)
    assert play_blog(driver, seed, prepare) in ((ending,) if ending else ENDINGS)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("driver", "prepare", "ending"),
    [
        ("random", None, "time limit"),
        ("outward", None, "crash"),
        ("slow", lap_ends_soon, "lap"),
        ("lap", None, None),
    ],
)
def test_iurin_over_whole_episodes(
    driver: str, prepare: Any, ending: str | None, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stock.CarRacing, "_render", cheap_render)
    assert play_iurin(driver, seed, prepare) in ((ending,) if ending else ENDINGS)


@pytest.mark.slow
def test_blog_on_real_observations() -> None:
    assert play_blog("braking", 4) == "no progress"


@pytest.mark.slow
def test_iurin_on_real_observations() -> None:
    assert play_iurin("outward", 4) == "crash"


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["random", "outward", "slow", "lap"])
@pytest.mark.parametrize("play", [play_blog, play_iurin])
def test_whole_episodes_on_real_observations(play: Callable[[str, int], str], driver: str) -> None:
    assert play(driver, 5) in ENDINGS


@pytest.mark.parametrize(("env_id", "kwargs"), [("CarRacingBlog-v3", BLOG_KWARGS), ("CarRacingIurin-v3", IURIN_KWARGS)])
def test_the_presets_have_the_keywords_held_here(env_id: str, kwargs: dict[str, Any]) -> None:
    path = Path(__file__).parents[1] / "hyperparams" / "beta_ppo.yml"
    assert yaml.safe_load(path.read_text())[env_id]["env_kwargs"] == kwargs
