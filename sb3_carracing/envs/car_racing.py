"""CarRacing with a built-in action repeat that draws one observation per step.

Physics, rewards, episode ends and track are gymnasium's. This subclass changes when an observation is drawn and when an
episode is truncated, and it applies the training rules after each frame.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, SupportsFloat, TypeVar

import cv2
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.box2d import car_racing as stock
from gymnasium.utils import EzPickle

from sb3_carracing.checks import one_of, whole_number
from sb3_carracing.envs.counts import put_counts
from sb3_carracing.envs.fast import track
from sb3_carracing.envs.fast.camera import Camera
from sb3_carracing.envs.fast.car import FastCar, Ground, TileContacts, World
from sb3_carracing.envs.fast.renderer import Observation
from sb3_carracing.envs.training_rules import (
    MAX_FRAMES,
    Frame,
    TrainingRules,
    describe_options,
)
from sb3_carracing.envs.training_rules import mostly_green as mostly_green
from sb3_carracing.envs.training_rules import off_road as off_road

RENDERERS = ("fast", "stock")

Result = TypeVar("Result")


def to_gray(rgb: Observation) -> Observation:
    """Turn an RGB observation (H, W, 3) into gray (H, W) as OpenCV does: 0.299 R + 0.587 G + 0.114 B, rounded."""
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY), dtype=np.uint8)


class PlainAction(tuple[float, ...]):
    """An action as plain floats, so that gymnasium does not convert it again in every repeated frame."""

    def astype(self, dtype: type) -> "PlainAction":
        """Return itself: Python floats already have the 64 bits that gymnasium asks for."""
        return self


@dataclass
class Asked:
    """What the wrappers around a `CarRacing` ask of the current call.

    Between calls it holds the environment's own settings. A wrapper changes it only during a call, so other holders of the
    environment never see the change.

    Attributes:
        frame_skip: Frames per step.
        max_frames: Frames after which the episode is truncated.
        drawn: Whether the observation that the call returns is used. If not, its content is undefined.
    """

    frame_skip: int
    max_frames: float = MAX_FRAMES
    drawn: bool = True

    def during(self, name: str, value: float, call: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        """Return the result of `call`, made with the attribute `name` set to `value`."""
        before = getattr(self, name)
        setattr(self, name, value)
        try:
            return call(*args, **kwargs)
        finally:
            setattr(self, name, before)


class CarRacing(stock.CarRacing):
    """Gymnasium's CarRacing with action repeat, grayscale and training rules inside the frame loop.

    With the defaults every reward, episode end, car state and random number equals stock `CarRacing-v3`'s. The environment
    itself truncates an episode at frame 1000, even in the middle of a repeat, so it needs no TimeLimit.

    The `info` of `reset` and `step` holds `frames` (physics frames since reset, no-op frames included) and `score` (the sum of
    gymnasium's own reward over those frames, unchanged by training rules). The `info` of `step` also holds `episode_over`
    (whether the environment itself has ended the episode). At the end of an episode it holds gymnasium's `lap_finished`, or
    `stopped_by` if a training rule ended the episode.

    Args:
        render_mode: As in gymnasium: None, "human", "rgb_array" (for people) or "state_pixels" (what the agent sees).
        verbose: Print track generation.
        lap_complete_percent: See gymnasium. It has no effect in gymnasium 1.4.0.
        domain_randomize: Draw new colors at every reset.
        continuous: Take actions (3,): steering in [-1, 1], gas and brake in [0, 1]. Otherwise take gymnasium's five discrete
            actions.
        frame_skip: Physics frames per step, at least 1. Rewards are summed, and one observation is drawn.
        grayscale: Observations (96, 96) uint8 instead of (96, 96, 3).
        renderer: "fast" (ours) or "stock" (gymnasium's) for observations.
        {training_rules}

    Raises:
        UserError: An argument is invalid. The message names it, its value and what is valid.
    """

    road: Any  # gymnasium's annotations of these are narrower than their values
    track: Any
    car: Any
    world: World

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
        **training: Any,
    ) -> None:
        self.rules = TrainingRules(training, continuous=continuous)
        self.frame_skip = whole_number("frame_skip", frame_skip, 1)
        self.grayscale = bool(grayscale)
        self.renderer = one_of("renderer", renderer, RENDERERS)
        super().__init__(render_mode, verbose, lap_complete_percent, domain_randomize, continuous)
        EzPickle.__init__(
            self,
            render_mode=render_mode,
            verbose=verbose,
            lap_complete_percent=lap_complete_percent,
            domain_randomize=domain_randomize,
            continuous=continuous,
            frame_skip=self.frame_skip,
            grayscale=self.grayscale,
            renderer=renderer,
            **training,
        )
        self.world = World((0, 0), contactListener=self.contactListener_keepref)
        self._shape = (stock.STATE_H, stock.STATE_W) if self.grayscale else (stock.STATE_H, stock.STATE_W, 3)
        self.observation_space = spaces.Box(0, 255, self._shape, np.uint8)
        self.metadata = self.metadata | {"render_fps": stock.FPS / self.frame_skip}
        self.asked = Asked(self.frame_skip)
        self._ground = Ground(self.world)
        self._camera: Camera | None = None
        this = weakref.proxy(self)
        self._frame = Frame(lambda: this.observation(grayscale=False), lambda: this._skip_opening())
        self._inside_frame = False
        self._drawn: dict[bool, Observation] = {}  # observations of this frame, in color and in gray

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Make a new track and return the first observation and `{"frames": ..., "score": ...}`."""
        self._score = 0.0
        self.rules.seed(seed)
        super().reset(seed=seed, options=options)
        self.rules.begin(self._frame)
        return self._seen(), {"frames": self._frame.number, "score": self._score}

    def step(self, action: Any) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """Play `frame_skip` frames under `action`, fewer where the episode ends, and draw the last one."""
        if self.car is None:
            raise gym.error.ResetNeeded("Cannot step an environment before reset, or after close without another reset")
        if action is None:
            return self._first_step()
        if self.continuous:
            action = PlainAction(action.tolist())
        total = self._play(action, self.asked.frame_skip)
        frame = self._frame
        if self.rules.act_after_steps:
            self.rules.after_step(frame, self._drive)
        info, over = frame.info, frame.over
        info["frames"], info["score"], info["episode_over"] = frame.number, self._score, over
        put_counts(info, self._score, frame.number, over, info.get("lap_finished", False))
        return self._seen(), total, frame.terminated, frame.truncated, info

    def observation(self, *, grayscale: bool | None = None) -> Observation:
        """Return the current observation, drawn on the first request.

        Args:
            grayscale: In gray (96, 96) or in color (96, 96, 3); None for the environment's own.
        """
        grayscale = self.grayscale if grayscale is None else grayscale
        if grayscale not in self._drawn:
            self._drawn[grayscale] = self._draw(grayscale)
        return self._drawn[grayscale]

    def close(self) -> None:
        """Close gymnasium's window and free memory; `reset` allocates it again."""
        super().close()  # type: ignore[no-untyped-call]
        self._destroy()
        self.car = self.surf = self.state = None
        self._drawn.clear()
        self._camera = None
        self._frame.start(None, ())
        # The listeners refer to the environment. Without them there is no reference cycle to wait for the garbage collector.
        self.world.contactListener = None
        self.world.contactListener_bug_workaround = self.contactListener_keepref = None  # type: ignore[assignment]

    def _seen(self) -> Observation:
        """Return the observation, or any array of its shape if it is not used."""
        self.state = seen = self.observation() if self.asked.drawn else np.empty(self._shape, np.uint8)
        return seen

    def _first_step(self) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Play the frames before the agent's first decision; gymnasium's `reset` ends with `step(None)`.

        That single frame without an action is not counted, just as gymnasium's TimeLimit does not count it. Idle frames are.
        """
        self.world.building_car = False
        self.car = FastCar(self.car)
        self._frame.start(self.car, self.road)
        self._drawn.clear()
        self._inside_frame = True
        try:
            super().step(None)  # type: ignore[arg-type]
        finally:
            self._inside_frame = False
        idle = PlainAction((0.0, 0.0, 0.0)) if self.continuous else 0
        self._play(idle, self.rules.idle_frames, ruled=False)
        return None, 0.0, False, False, {}

    def _play(self, action: Any, n_frames: int, *, ruled: bool = True) -> float:
        """Play up to `n_frames` frames with one action and return the sum of their rewards; `_frame` is the last one."""
        frame, max_frames, play_frame = self._frame, self.asked.max_frames, super().step
        rules = self.rules if ruled and self.rules.act_on_frames else None
        total = 0.0
        self._inside_frame = True
        try:
            for _ in range(n_frames):
                self._drawn.clear()
                _, reward, frame.terminated, _, frame.info = play_frame(action)
                self._score += reward
                frame.number += 1
                frame.truncated = frame.number >= max_frames
                total += reward if rules is None else rules.after_frame(frame, reward)
                if frame.terminated or frame.truncated:
                    break
        finally:
            self._inside_frame = False
        return total

    def _skip_opening(self) -> None:
        """Show the next observation as after gymnasium's opening zoom, which lasts a second."""
        self.t = max(self.t, 1.0)
        self._drawn.clear()

    def _drive(self, steering: float, gas: float, brake: float) -> bool:
        """Play one frame for a training rule; return whether the episode goes on."""
        self._play(PlainAction((steering, gas, brake)), 1)
        return not self._frame.over

    def _destroy(self) -> None:
        if self.road:
            assert self.car is not None
            self._ground.clear()
            self.road = []
            self.car.destroy()

    def _create_track(self) -> bool:
        """Make a track from the next random numbers; return False if its ends do not meet, so that gymnasium retries."""
        self.road = []
        self.start_alpha = track.START_ALPHA
        places = track.walk(track.checkpoints(self.np_random))
        passes = track.last_lap(places)
        if passes is None:
            return False
        first, end = passes
        if self.verbose:
            print(f"Track generation: {first}..{end} -> {end - first}-tiles track")
        lap = places[first : end - 1]
        if not track.closes(lap):
            return False
        first_tile = self.rules.first_tile(len(lap))
        lap = lap[first_tile:] + lap[:first_tile]
        polygons = track.tiles(lap)
        shades = np.array([0.01 * (i % 3) * 255 for i in range(len(lap))])
        for_people = self.renderer == "stock" or self.render_mode in ("human", "rgb_array")
        self.road = self._ground.lay(polygons, self.road_color + shades[:, None], for_hull=for_people)
        for i, (tile, polygon, bordered) in enumerate(zip(self.road, polygons, track.hard_turns(lap), strict=True)):
            self.road_poly.append((polygon, tile.color))
            if bordered:
                self.road_poly.append((track.border(lap[i], lap[i - 1]), (255, 0, 0) if i % 2 else (255, 255, 255)))
        self.track = lap
        self._follow_track()
        self.world.building_car = True
        return True

    def _follow_track(self) -> None:
        """Draw the new track for our renderer and have its tiles' contacts reported."""
        on_touch = None
        if self.renderer == "fast":
            self._camera = self._camera or Camera()
            self._camera.start(self)
            on_touch = self._camera.touch
        # Box2D does not own its listener: the world's Python object has to keep it alive.
        self.world.contactListener_bug_workaround = TileContacts(self, self._ground.tiles, on_touch)
        self.world.contactListener = self.world.contactListener_bug_workaround

    def _render(self, mode: str) -> Any:
        """Draw what gymnasium asks for, except within a frame, where it is not yet known whether the image is needed."""
        if self._inside_frame and mode == "state_pixels":
            # Gymnasium draws before it subtracts the frame's 0.1. The digits have to agree if we draw later.
            self._drawn_score = self.reward
            return None
        if self.car is None:
            return None
        if mode == "state_pixels":
            return self.observation()
        if mode == "human":
            return self._show_in_window()
        return super()._render(mode)

    def _show_in_window(self) -> Any:
        """Show a frame in the window, which shows every frame at gymnasium's rate regardless of the action repeat."""
        metadata, self.metadata = self.metadata, type(self).metadata
        try:
            return super()._render("human")
        finally:
            self.metadata = metadata

    def _draw(self, grayscale: bool) -> Observation:
        if grayscale and (self._camera is None or self.rules.needs_observations):
            return to_gray(self.observation(grayscale=False))
        if self._camera is None:
            return self._stock_observation()
        return self._camera.take(self.car, self.t, self._drawn_score, grayscale=grayscale)

    def _stock_observation(self) -> Observation:
        score, self.reward = self.reward, self._drawn_score
        try:
            observation: Observation = super()._render("state_pixels")
        finally:
            self.reward = score
        return observation


CarRacing.__doc__ = (CarRacing.__doc__ or "").replace("        {training_rules}", describe_options(" " * 8))
