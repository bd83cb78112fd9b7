"""Wrappers of observations, actions and rewards, for any suitable environment and by dotted path in any rl-zoo3 YAML.

Rules that start or end an episode are in `CarRacing` itself. rl-zoo3 and SB3 put `Monitor` below the wrappers of a YAML file,
and Monitor would miss an end that a wrapper above it causes.

Each wrapper takes a gymnasium environment and keyword arguments, and raises `UserError` for invalid values. Around this
package's `CarRacing`, `ActionRepeat` and `Grayscale` delegate their work to the environment, so that it draws no unused
observations. They ask for this in each call (`CarRacing.asked`) and leave the environment's own settings unchanged.
"""

import math
from collections.abc import Collection
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import TimeLimit

from sb3_carracing.checks import finite_number, one_of, whole_number
from sb3_carracing.envs.car_racing import CarRacing, mostly_green, off_road, to_gray
from sb3_carracing.envs.fast.renderer import Observation
from sb3_carracing.envs.pedals import Env, SignedPedals, Step, TargetSpeed
from sb3_carracing.envs.training_rules import GRASS_RULES, MAX_FRAMES
from sb3_carracing.errors import UserError

GRAY_ROAD, GRAY_GRASS = 102, 162
"""Gray levels of the road and of the darker grass in `CarRacing-v3`."""

__all__ = [
    "ActionRepeat",
    "Contrast",
    "Crop",
    "FrameLimit",
    "GrassPenalty",
    "Grayscale",
    "ScaleReward",
    "SignedPedals",
    "TargetSpeed",
]

# Wrappers that allow delegation to a CarRacing below, since they use neither observations nor single frames' rewards. They are
# listed by name, because importing SB3's would load torch, which the environments do not need.
_OF_GYM_MAKE = {"gymnasium.wrappers.common.PassiveEnvChecker", "gymnasium.wrappers.common.OrderEnforcing"}
_TRANSPARENT = _OF_GYM_MAKE | {
    "stable_baselines3.common.monitor.Monitor",
    "sb3_carracing.envs.wrappers.FrameLimit",
    "sb3_carracing.envs.wrappers.ActionRepeat",
    "sb3_carracing.envs.pedals.SignedPedals",
}
_TRANSFORM_OBSERVATIONS = {f"sb3_carracing.envs.wrappers.{name}" for name in ("Grayscale", "Contrast", "Crop")}


def _car_racing_below(env: Env, transparent: Collection[str]) -> CarRacing | None:
    """Return the CarRacing at the bottom if all wrappers around it are transparent, else None."""
    while isinstance(env, gym.Wrapper):
        if f"{type(env).__module__}.{type(env).__qualname__}" not in transparent:
            return None
        env = env.env
    if isinstance(env, CarRacing) and (type(env).step, type(env).reset) == (CarRacing.step, CarRacing.reset):
        return env
    return None  # A subclass with a step of its own may count or change single frames.


def _image_space(env: Env, wrapper: str, in_colour: bool = False) -> spaces.Box:
    """Return the observation space of an environment with uint8 images.

    Args:
        env: The environment.
        wrapper: Name for the error message.
        in_colour: Accept only shapes (H, W, 3), instead of (H, W) and (H, W, C).

    Raises:
        UserError: The space is different.
    """
    space = env.observation_space
    if (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and (space.shape[2:] == (3,) if in_colour else len(space.shape) in (2, 3))
    ):
        return space
    shapes = "(height, width, 3)" if in_colour else "(height, width[, channels])"
    raise UserError(f"{wrapper} needs uint8 observations of shape {shapes}, got the observation space {space}")


class ActionRepeat(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Repeat each action for `frame_skip` steps of `env` and sum their rewards, up to the episode's end.

    This package's `CarRacing` repeats the action by itself and draws only the last frame. A `Monitor` between it and this
    wrapper then counts decisions in its `l`, like a `Monitor` outside of this wrapper. Around any other environment, a
    `Monitor` below counts single steps. Its `r` is the same sum in all cases.

    `metadata["render_fps"]` is that of `env` divided by `frame_skip`, so that a video of every step runs at the right speed.

    Args:
        env: Any environment.
        frame_skip: Steps of `env` per step, at least 1.

    Example:
        >>> env = ActionRepeat(gym.make("CarRacing-v3"), frame_skip=8)
        >>> observation, info = env.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        >>> round(env.unwrapped.t * 50)  # the frame of reset and the eight of one step
        9
    """

    def __init__(self, env: Env, frame_skip: int) -> None:
        RecordConstructorArgs.__init__(self, frame_skip=frame_skip)
        super().__init__(env)
        self.frame_skip = whole_number("frame_skip", frame_skip, 1)
        self._car_racing = _car_racing_below(env, _TRANSPARENT | _TRANSFORM_OBSERVATIONS)
        # An environment that renders lists renders one image per step of its own.
        if "render_fps" in env.metadata and not str(env.render_mode).endswith("_list"):
            self.metadata = env.metadata | {"render_fps": env.metadata["render_fps"] / self.frame_skip}

    def step(self, action: Any) -> Step:
        """Return the last observation and info, and the sum of the rewards."""
        if self._car_racing is not None:
            asked = self._car_racing.asked
            return asked.during("frame_skip", asked.frame_skip * self.frame_skip, self.env.step, action)
        total = 0.0
        for _ in range(self.frame_skip):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


class Grayscale(gym.ObservationWrapper[Observation, Any, Any], RecordConstructorArgs):
    """Turn observations (H, W, 3) into gray (H, W): 0.299 R + 0.587 G + 0.114 B, the weights of both source projects.

    Gymnasium's own `GrayscaleObservation` has other weights (0.2125, 0.7154, 0.0721). Around this package's `CarRacing` the
    environment draws in gray instead of in color.

    Example:
        >>> env = Grayscale(gym.make("CarRacing-v3"))
        >>> env.observation_space.shape
        (96, 96)
    """

    def __init__(self, env: Env) -> None:
        RecordConstructorArgs.__init__(self)
        space = _image_space(env, "Grayscale", in_colour=True)
        super().__init__(env)
        self._car_racing = _car_racing_below(env, _TRANSPARENT)
        self.observation_space = spaces.Box(0, 255, space.shape[:2], np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Return the first observation in gray."""
        if self._car_racing is None:
            return super().reset(seed=seed, options=options)
        seen, info = self._car_racing.asked.during("drawn", False, self.env.reset, seed=seed, options=options)
        return self._in_gray(seen), info

    def step(self, action: Any) -> Step:
        """Return what `env` returns, with the observation in gray."""
        if self._car_racing is None:
            return super().step(action)
        seen, reward, terminated, truncated, info = self._car_racing.asked.during("drawn", False, self.env.step, action)
        return self._in_gray(seen), reward, terminated, truncated, info

    def observation(self, observation: Observation) -> Observation:
        """Return the observation in gray (H, W)."""
        return to_gray(observation)

    def _in_gray(self, undrawn: Observation) -> Observation:
        """Return the observation in gray, or any array of its shape if it is not used."""
        assert self._car_racing is not None
        return self._car_racing.observation(grayscale=True) if self._car_racing.asked.drawn else undrawn[..., 0]


class Contrast(gym.ObservationWrapper[Observation, Any, Any], RecordConstructorArgs):
    """Increase the contrast between road and grass.

    In gray, the road has level 102 and the grass 162 or 177, so they differ by only a quarter of the range. This wrapper maps
    102 to `road` and 162 to `grass`. Black and white stay, and other levels are interpolated linearly.

    Args:
        env: An environment with gray observations (H, W), or stacks of them: `Grayscale` around a CarRacing.
        road: Output level of the road, 0 to 255.
        grass: Output level of the grass, `road` to 255.

    Example:
        >>> env = Contrast(Grayscale(gym.make("CarRacing-v3")))
        >>> env.observation_space.shape
        (96, 96)
    """

    def __init__(self, env: Env, road: int = 64, grass: int = 235) -> None:
        RecordConstructorArgs.__init__(self, road=road, grass=grass)
        space = _image_space(env, "Contrast")
        if space.shape[2:] == (3,):
            raise UserError(f"Contrast needs gray observations, as from Grayscale, got the observation space {space}")
        super().__init__(env)
        self.road = whole_number("road", road, 0, 255)
        self.grass = whole_number("grass", grass, self.road, 255)
        levels = np.interp(np.arange(256), [0, GRAY_ROAD, GRAY_GRASS, 255], [0, self.road, self.grass, 255])
        self._levels = np.rint(levels).astype(np.uint8)

    def observation(self, observation: Observation) -> Observation:
        """Return the observation with the levels exchanged."""
        return self._levels[observation]


class FrameLimit(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Let `CarRacing` itself enforce the time limit given to `gym.make`, even in the middle of a repeat.

    This package's ids put it around the environment instead of gymnasium's `TimeLimit`, which counts steps, and a step may be
    many frames. The registered limit of 1000 means 1000 frames. Any other `max_episode_steps` counts steps of the environment
    below the wrappers. Such a step is one frame unless the environment's own `frame_skip` is larger. -1 means no limit.
    `spec.max_episode_steps` holds the limit in these steps.

    Around other environments, and around another `FrameLimit`, it does nothing.
    """

    def __init__(self, env: Env) -> None:
        RecordConstructorArgs.__init__(self)
        within, limit = (env.env, env._max_episode_steps) if isinstance(env, TimeLimit) else (env, None)
        self._car_racing = _car_racing_below(within, _OF_GYM_MAKE)
        super().__init__(env if self._car_racing is None else within)
        if self._car_racing is not None:
            skip = self._car_racing.frame_skip
            stock_limit = math.ceil(MAX_FRAMES / skip)
            self._max_steps = stock_limit if limit == MAX_FRAMES else limit
            self._max_frames = math.inf if limit is None else MAX_FRAMES if self._max_steps == stock_limit else limit * skip

    @property
    def spec(self) -> EnvSpec | None:  # type: ignore[override]
        """Specification of `env`, with the limit in steps."""
        spec = super().spec
        if spec is not None and self._car_racing is not None:
            spec.max_episode_steps = self._max_steps
        return spec

    def step(self, action: Any) -> Step:
        """Return what `env` returns under the limit."""
        if self._car_racing is None:
            return self.env.step(action)
        return self._car_racing.asked.during("max_frames", self._max_frames, self.env.step, action)


class Crop(gym.ObservationWrapper[Observation, Any, Any], RecordConstructorArgs):
    """Crop images to rows `top` to `bottom` and columns `left` to `right`, excluding the last of each.

    Example:
        The Iurin implementation's 84x84, without the dashboard:

        >>> env = Crop(gym.make("CarRacing-v3"), top=0, bottom=84, left=6, right=90)
        >>> env.observation_space.shape
        (84, 84, 3)
    """

    def __init__(self, env: Env, top: int, bottom: int, left: int, right: int) -> None:
        RecordConstructorArgs.__init__(self, top=top, bottom=bottom, left=left, right=right)
        space = _image_space(env, "Crop")
        super().__init__(env)
        height, width = space.shape[:2]
        bottom = whole_number("bottom", bottom, 1, height)
        right = whole_number("right", right, 1, width)
        rows = slice(whole_number("top", top, 0, bottom - 1), bottom)
        columns = slice(whole_number("left", left, 0, right - 1), right)
        self._window = (rows, columns)
        self.observation_space = spaces.Box(space.low[self._window], space.high[self._window], dtype=np.uint8)

    def observation(self, observation: Observation) -> Observation:
        """Return the cropped observation, as a view."""
        return observation[self._window]


class GrassPenalty(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Subtract `penalty` from the reward of every step of `env` that ends on the grass.

    It applies once per step. Inside `ActionRepeat`, or as `CarRacing`'s own `grass_penalty`, it applies once per frame.

    Args:
        env: Any CarRacing for the rule "wheels"; any environment with RGB observations for "green".
        penalty: At least 0.
        rule: "wheels": no wheel touches the road. "green": the observation's mean green is above `green_threshold`.
        green_threshold: 0 to 255. The Iurin implementation uses 180, the blog implementation 185.

    Example:
        >>> env = GrassPenalty(gym.make("CarRacing-v3"), penalty=0.05, rule="green", green_threshold=185)
    """

    def __init__(self, env: Env, penalty: float, rule: str = "wheels", green_threshold: float = 180.0) -> None:
        RecordConstructorArgs.__init__(self, penalty=penalty, rule=rule, green_threshold=green_threshold)
        super().__init__(env)
        self.penalty = finite_number("penalty", penalty, 0.0)
        self.rule = one_of("rule", rule, GRASS_RULES)
        self.green_threshold = finite_number("green_threshold", green_threshold)
        if rule == "green":
            _image_space(env, "GrassPenalty with rule='green'", in_colour=True)
        elif not hasattr(env.unwrapped, "car"):
            raise UserError(f"GrassPenalty with rule='wheels' needs a CarRacing environment, got {env.unwrapped}")

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Return what `env` returns, with the penalty subtracted if the car is on the grass."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._on_grass(observation):
            reward = float(reward) - self.penalty
        return observation, reward, terminated, truncated, info

    def _on_grass(self, observation: Any) -> bool:
        if self.rule == "wheels":
            return off_road(self.get_wrapper_attr("car"))
        return mostly_green(observation, self.green_threshold)


class ScaleReward(gym.RewardWrapper[Any, Any], RecordConstructorArgs):
    """Multiply every reward by `scale`, so that returns in the hundreds do not dominate the value loss.

    Example:
        >>> env = ScaleReward(gym.make("CarRacing-v3"), scale=0.1)
    """

    def __init__(self, env: Env, scale: float) -> None:
        RecordConstructorArgs.__init__(self, scale=scale)
        super().__init__(env)
        self.scale = finite_number("scale", scale)

    def reward(self, reward: SupportsFloat) -> float:
        """Return the scaled reward."""
        return float(reward) * self.scale
