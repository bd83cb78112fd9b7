"""CarRacing whose physics repeats under one action while its picture is drawn once, at the end.

Physics, rewards, endings and track are gymnasium's: this is a subclass, and what it overrides is when a picture is
made, when an episode is cut off, and which extra rules a training run asks for.
"""

import math
import operator
from dataclasses import dataclass
from numbers import Real
from typing import Any, SupportsFloat

import cv2
import numpy as np
from gymnasium import spaces
from gymnasium.envs.box2d import car_racing as stock
from gymnasium.utils import EzPickle

from sb3_carracing.envs.camera import Camera
from sb3_carracing.envs.fast_car import FastCar, Ground, TileContacts
from sb3_carracing.envs.renderer import Picture as Picture

MAX_FRAMES = 1000
"""Frames after which an episode is truncated; gymnasium's registration of `CarRacing-v3` says the same."""

GRASS_RULES = ("wheels", "green")
RENDERERS = ("fast", "stock")


def whole_number(name: str, value: int, low: int, high: int | None = None) -> int:
    """Return `value` as an int; ValueError names it unless it is a whole number from `low` up to `high`."""
    bounds = f"from {low} to {high}" if high is not None else f"of at least {low}"
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if isinstance(value, bool) or number < low or (high is not None and number > high):
        raise ValueError(f"{name} must be a whole number {bounds}, got {value!r}")
    return number


def finite_number(name: str, value: float, low: float = -math.inf) -> float:
    """Return `value` as a float; ValueError names it unless it is finite and at least `low`."""
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value) or value < low:
        bounds = "a finite number" if low == -math.inf else f"a finite number of at least {low:g}"
        raise ValueError(f"{name} must be {bounds}, got {value!r}")
    return float(value)


def one_of(name: str, value: str, choices: tuple[str, ...]) -> str:
    """Return `value`; ValueError names it and the choices unless it is one of them."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def off_road(car: Any) -> bool:
    """Whether no wheel of a gymnasium `Car` touches a tile of the road."""
    return not any(wheel.tiles for wheel in car.wheels)


def mostly_green(rgb: Picture, threshold: float) -> bool:
    """Whether the mean of the green channel of an RGB picture (H, W, 3) lies above `threshold` (0 to 255)."""
    return bool(np.mean(rgb[:, :, 1]) > threshold)


def to_gray(rgb: Picture) -> Picture:
    """Turn an RGB picture (H, W, 3) into grey (H, W): 0.299 R + 0.587 G + 0.114 B, rounded (OpenCV, both seeds)."""
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY), dtype=np.uint8)


@dataclass(frozen=True)
class TrainingRules:
    """What only training changes. See `CarRacing` for the meaning of each."""

    noop_frames: int
    grass_penalty: float
    grass_rule: str
    green_threshold: float
    end_bonus: float
    no_progress_frames: int
    no_progress_reward: float
    off_road_frames: int


class Progress:
    """Mean of the last `n_frames` rewards, over a history that starts at zeros (the blog's `reward_memory`)."""

    def __init__(self, n_frames: int) -> None:
        self._history = np.zeros(n_frames)
        self._next = 0

    def mean_with(self, reward: float) -> float:
        """Put `reward` in the place of the oldest and return the mean.

        The array is circular, not shifted: the seed's threshold of -0.1 is met or missed by the last bit of a sum of
        100 times -0.1, so the terms have to stand in the seed's order.
        """
        self._history[self._next] = reward
        self._next = (self._next + 1) % len(self._history)
        return float(np.mean(self._history))


class CarRacing(stock.CarRacing):
    """Gymnasium's CarRacing with action repeat, greyscale and training rules inside the frame loop.

    With the defaults every reward, end, car state and random number is stock `CarRacing-v3`'s. An episode is truncated
    at frame 1000 by the environment itself, in the middle of a repeat too, so no TimeLimit belongs around it.

    `info` of `reset` and of every `step` holds `frames` (physics frames since reset, no-op frames counted) and `score`
    (sum of gymnasium's own reward over those frames, whatever the training rules make of it); at the end of an episode
    also gymnasium's `lap_finished`, or `stopped_by` if a training rule ended it.

    Args:
        render_mode: as in gymnasium: None, "human", "rgb_array" (people's picture) or "state_pixels" (the agent's).
        verbose: print track generation.
        lap_complete_percent: see gymnasium (in its version 1.4.0 it has no effect).
        domain_randomize: new colours at every reset.
        continuous: (3,) steering in [-1, 1], gas and brake in [0, 1]; else gymnasium's five discrete actions.
        frame_skip: physics frames a step; rewards are summed, one picture is drawn. At least 1.
        grayscale: observations (96, 96) uint8 instead of (96, 96, 3).
        renderer: "fast" (ours) or "stock" (gymnasium's) for observations.
        noop_frames: training only: frames without action after reset; their reward counts in `score` alone. 0 to 999.
        grass_penalty: training only: subtracted for every frame on the grass.
        grass_rule: "wheels": no wheel touches the road. "green": the frame's mean green is above `green_threshold`,
            as in both seeds; this draws every frame.
        green_threshold: 0 to 255.
        end_bonus: training only: added on the frame that ends the stock episode, good ends and bad; the blog has 100.
        no_progress_frames: training only: end when the mean shaped reward of as many frames, history starting at
            zeros, is at most `no_progress_reward`; 0 is off.
        no_progress_reward: see `no_progress_frames`.
        off_road_frames: training only: end after as many consecutive frames with no wheel on the road; 0 is off.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """

    def __init__(
        self,
        render_mode: str | None = None,
        verbose: bool = False,
        lap_complete_percent: float = 0.95,
        domain_randomize: bool = False,
        continuous: bool = True,
        *,
        frame_skip: int = 1,
        grayscale: bool = False,
        renderer: str = "fast",
        noop_frames: int = 0,
        grass_penalty: float = 0.0,
        grass_rule: str = "wheels",
        green_threshold: float = 180.0,
        end_bonus: float = 0.0,
        no_progress_frames: int = 0,
        no_progress_reward: float = -0.1,
        off_road_frames: int = 0,
    ) -> None:
        self.rules = TrainingRules(
            noop_frames=whole_number("noop_frames", noop_frames, 0, MAX_FRAMES - 1),
            grass_penalty=finite_number("grass_penalty", grass_penalty, 0.0),
            grass_rule=one_of("grass_rule", grass_rule, GRASS_RULES),
            green_threshold=finite_number("green_threshold", green_threshold),
            end_bonus=finite_number("end_bonus", end_bonus),
            no_progress_frames=whole_number("no_progress_frames", no_progress_frames, 0),
            no_progress_reward=finite_number("no_progress_reward", no_progress_reward),
            off_road_frames=whole_number("off_road_frames", off_road_frames, 0),
        )
        self._rule_sees_green = grass_rule == "green" and grass_penalty > 0
        self.renderer = one_of("renderer", renderer, RENDERERS)
        super().__init__(render_mode, verbose, lap_complete_percent, domain_randomize, continuous)
        self._ground = Ground(self.world)
        EzPickle.__init__(
            self,
            render_mode=render_mode,
            verbose=verbose,
            lap_complete_percent=lap_complete_percent,
            domain_randomize=domain_randomize,
            continuous=continuous,
            renderer=renderer,
            **vars(self.rules),
        )
        self.set_view(frame_skip=frame_skip, grayscale=grayscale)
        self._start_counting()
        self._inside_frame = False
        self._camera: Camera | None = None

    def set_view(self, *, frame_skip: int | None = None, grayscale: bool | None = None) -> None:
        """Change what a step and an observation are, before the first reset; None leaves one as it is.

        The wrappers `ActionRepeat` and `Grayscale` use it, so that the frames and colours they would throw away are
        never drawn.

        Raises:
            ValueError: `frame_skip` is below 1 or not whole.
            RuntimeError: an episode has begun: whoever holds the observation space would be misled.
        """
        if self.car is not None:
            raise RuntimeError("set_view must be called before the first reset")
        if frame_skip is not None:
            self.frame_skip = whole_number("frame_skip", frame_skip, 1)
        if grayscale is not None:
            self.grayscale = bool(grayscale)
            shape = (stock.STATE_H, stock.STATE_W) if self.grayscale else (stock.STATE_H, stock.STATE_W, 3)
            self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        # A copy or an unpickled twin is made by the constructor: it has to see the change.
        self._ezpickle_kwargs |= {"frame_skip": self.frame_skip, "grayscale": self.grayscale}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Picture, dict[str, Any]]:
        """Make a new track and return the first observation and `{"frames": ..., "score": ...}`."""
        self._start_counting()
        observation, _ = super().reset(seed=seed, options=options)
        return observation, {"frames": self._frames, "score": self._score}

    def step(self, action: Any) -> tuple[Picture, SupportsFloat, bool, bool, dict[str, Any]]:
        """Play `frame_skip` frames under `action`, fewer where the episode ends, and draw the last one."""
        if action is None:
            return self._first_step()
        total = 0.0
        for _ in range(self.frame_skip):
            reward, terminated, truncated, info = self._frame(action)
            total += reward
            if terminated or truncated:
                break
        self.state = self._render("state_pixels")
        return self.state, total, terminated, truncated, info

    def _start_counting(self) -> None:
        self._frames = 0
        self._score = 0.0
        self._off_road_run = 0
        self._progress = Progress(self.rules.no_progress_frames) if self.rules.no_progress_frames else None
        self._drawn: Picture | None = None
        self._drawn_score = 0.0

    def _first_step(self) -> tuple[Picture, SupportsFloat, bool, bool, dict[str, Any]]:
        """Play what comes before the agent's first decision; gymnasium's `reset` ends in `step(None)`.

        Its one frame without action is not counted (TimeLimit does not see it either); no-op frames are.
        """
        assert self.car is not None
        self.car = FastCar(self.car)
        if self.renderer == "fast" and self.render_mode in (None, "state_pixels"):
            self.car.touch_with_bumper_only()
        self._stock_frame(None)
        idle = np.zeros(3) if self.continuous else 0
        for _ in range(self.rules.noop_frames):
            self._scored_frame(idle)
        self.state = self._render("state_pixels")
        return self.state, 0.0, False, False, {}

    def _stock_frame(self, action: Any) -> tuple[float, bool, dict[str, Any]]:
        """Play one frame as gymnasium does, drawing nothing: its reward, whether it terminated, its info."""
        self._drawn = None
        self._inside_frame = True
        try:
            _, reward, terminated, _, info = super().step(action)
        finally:
            self._inside_frame = False
        return float(reward), terminated, info

    def _scored_frame(self, action: Any) -> tuple[float, bool, bool, dict[str, Any]]:
        """Play one frame that counts towards `frames`, `score` and the limit of 1000."""
        reward, terminated, info = self._stock_frame(action)
        self._frames += 1
        self._score += reward
        info |= {"frames": self._frames, "score": self._score}
        return reward, terminated, self._frames >= MAX_FRAMES, info

    def _frame(self, action: Any) -> tuple[float, bool, bool, dict[str, Any]]:
        """Play one frame under the training rules."""
        reward, terminated, truncated, info = self._scored_frame(action)
        rules = self.rules
        if rules.end_bonus and (terminated or truncated):
            reward += rules.end_bonus
        if rules.grass_penalty and self._on_grass():
            reward -= rules.grass_penalty
        stopped_by = self._stopping_rule(reward)
        if stopped_by is not None and not terminated:
            terminated = True
            info["stopped_by"] = stopped_by
        return reward, terminated, truncated, info

    def _on_grass(self) -> bool:
        if self.rules.grass_rule == "wheels":
            return off_road(self.car)
        return mostly_green(self._picture(), self.rules.green_threshold)

    def _stopping_rule(self, reward: float) -> str | None:
        """Name of the training rule that ends the episode with this frame's shaped reward, or None."""
        stopped_by = None
        if self.rules.off_road_frames:
            self._off_road_run = self._off_road_run + 1 if off_road(self.car) else 0
            if self._off_road_run >= self.rules.off_road_frames:
                stopped_by = "off_road"
        if self._progress is not None and self._progress.mean_with(reward) <= self.rules.no_progress_reward:
            stopped_by = "no_progress"
        return stopped_by

    def _destroy(self) -> None:
        if self.road:
            assert self.car is not None
            self._ground.clear()
            self.road = []
            self.car.destroy()

    def _create_track(self) -> bool:
        made: bool = super()._create_track()  # type: ignore[no-untyped-call]
        if made:
            self._follow_track()
        return made

    def _follow_track(self) -> None:
        """Draw the new track for our renderer and have its tiles' contacts reported."""
        on_touch = None
        if self.renderer == "fast":
            if self._camera is None:
                self._camera = Camera(grayscale=self.grayscale and not self._rule_sees_green)
            self._camera.start(self)
            on_touch = self._camera.touch
        # Box2D does not own its listener: the world's Python object has to keep it alive.
        self.world.contactListener_bug_workaround = TileContacts(self, self._ground.tiles, on_touch)
        self.world.contactListener = self.world.contactListener_bug_workaround

    def _render(self, mode: str) -> Any:
        """Make the picture that gymnasium asks for; inside a frame nobody has asked yet whether it will be seen."""
        if mode != "state_pixels":
            return super()._render(mode)
        if self._inside_frame:
            # Gymnasium draws before it takes off the frame's 0.1; the digits of a later drawing have to agree.
            self._drawn_score = self.reward
            return None
        if self.car is None:
            return None
        picture = self._picture()
        return to_gray(picture) if self.grayscale and picture.ndim == 3 else picture

    def _picture(self) -> Picture:
        """Return this frame's picture, drawn at most once: in colour unless our renderer may draw grey directly."""
        if self._drawn is None:
            self._drawn = self._fast_picture() if self._camera is not None else self._stock_picture()
        return self._drawn

    def _fast_picture(self) -> Picture:
        assert self._camera is not None
        return self._camera.take(self.car, self.t, self._drawn_score)

    def _stock_picture(self) -> Picture:
        score, self.reward = self.reward, self._drawn_score
        try:
            picture: Picture = super()._render("state_pixels")
        finally:
            self.reward = score
        return picture
