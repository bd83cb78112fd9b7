"""CarRacing whose physics repeats under one action while its observation is drawn once, at the end.

Physics, rewards, endings and track are gymnasium's. This subclass overrides when an observation is drawn and when an
episode is truncated, and it asks the training rules after each frame.
"""

from typing import Any, SupportsFloat

import cv2
import numpy as np
from gymnasium import spaces
from gymnasium.envs.box2d import car_racing as stock
from gymnasium.utils import EzPickle

from sb3_carracing.checks import one_of, whole_number
from sb3_carracing.envs.counts import Counts, put_counts
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


def to_gray(rgb: Observation) -> Observation:
    """Turn an RGB observation (H, W, 3) into grey (H, W) as OpenCV does: 0.299 R + 0.587 G + 0.114 B, rounded."""
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY), dtype=np.uint8)


class PlainAction(tuple[float, ...]):
    """An action that gymnasium need not convert again in each of the frames that repeat it."""

    def astype(self, dtype: type) -> "PlainAction":
        """Return itself: Python's floats have the 64 bits that gymnasium asks for."""
        return self


class CarRacing(stock.CarRacing):
    """Gymnasium's CarRacing with action repeat, greyscale and training rules inside the frame loop.

    With the defaults every reward, end, car state and random number is stock `CarRacing-v3`'s. The environment itself
    truncates an episode at frame 1000, in the middle of a repeat too, so no TimeLimit belongs around it.

    `info` of `reset` and of every `step` holds `frames` (physics frames since reset, no-op frames included) and `score` (the
    sum of gymnasium's own reward over those frames, whatever the training rules make of it). That of `step` also holds
    `episode_over` (the environment's own end, whatever a wrapper makes of it). At the end of an episode it holds gymnasium's
    `lap_finished`, or `stopped_by` if a training rule ended the episode.

    Args:
        render_mode: As in gymnasium: None, "human", "rgb_array" (for people) or "state_pixels" (what the agent sees).
        verbose: Print track generation.
        lap_complete_percent: See gymnasium. In its version 1.4.0 it has no effect.
        domain_randomize: New colours at every reset.
        continuous: Actions (3,) of steering in [-1, 1] and gas and brake in [0, 1]. Otherwise gymnasium's five discrete ones.
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
        self.renderer = one_of("renderer", renderer, RENDERERS)
        super().__init__(render_mode, verbose, lap_complete_percent, domain_randomize, continuous)
        EzPickle.__init__(
            self,
            render_mode=render_mode,
            verbose=verbose,
            lap_complete_percent=lap_complete_percent,
            domain_randomize=domain_randomize,
            continuous=continuous,
            renderer=renderer,
            **training,
        )
        self.world = World((0, 0), contactListener=self.contactListener_keepref)
        self._ground = Ground(self.world)
        self._camera: Camera | None = None
        self._frame = Frame(self._rgb_observation)
        self._inside_frame = False
        self._drawn: Observation | None = None
        self.set_view(frame_skip=frame_skip, grayscale=grayscale)

    def set_view(self, *, frame_skip: int | None = None, grayscale: bool | None = None) -> None:
        """Change what a step and an observation are, before the first reset; None leaves one as it is.

        The wrappers `ActionRepeat` and `Grayscale` use it, so that the frames and colours they would throw away are
        never drawn.

        Raises:
            UserError: `frame_skip` is below 1 or not whole.
            RuntimeError: An episode has begun: whoever holds the observation space would be misled.
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

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Make a new track and return the first observation and `{"frames": ..., "score": ...}`."""
        self._score = 0.0
        observation, _ = super().reset(seed=seed, options=options)
        self.rules.begin(self._frame, seed)
        return observation, {"frames": self._frame.number, "score": self._score}

    def step(self, action: Any) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """Play `frame_skip` frames under `action`, fewer where the episode ends, and draw the last one."""
        if action is None:
            return self._first_step()
        if self.continuous:
            action = PlainAction(action.astype(np.float64).tolist())
        total = self._play(action, self.frame_skip)
        frame = self._frame
        self.rules.after_step(frame, self._drive)
        info = frame.info
        info["frames"], info["score"], info["episode_over"] = frame.number, self._score, frame.over
        put_counts(info, Counts(self._score, frame.number, frame.over, info.get("lap_finished", False)))
        self.state = self._render("state_pixels")
        return self.state, total, frame.terminated, frame.truncated, info

    def _first_step(self) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """Play what comes before the agent's first decision; gymnasium's `reset` ends in `step(None)`.

        Its one frame without action is not counted (TimeLimit does not see it either); idle frames are.
        """
        assert self.car is not None
        self.world.building_car = False
        self.car = FastCar(self.car)
        self._frame.start(self.car, self.road)
        self._stock_frame(None)
        idle = PlainAction((0.0, 0.0, 0.0)) if self.continuous else 0
        for _ in range(self.rules.idle_frames):
            self._scored_frame(idle)
        self.state = self._render("state_pixels")
        return self.state, 0.0, False, False, {}

    def _play(self, action: Any, n_frames: int) -> float:
        """Play up to `n_frames` frames under an action and return the sum of their rewards."""
        frame, rules = self._frame, self.rules
        total = 0.0
        for _ in range(n_frames):
            self._scored_frame(action)
            if rules.act_on_frames:
                rules.after_frame(frame)
            total += frame.reward
            if frame.terminated or frame.truncated:
                break
        return total

    def _drive(self, steering: float, gas: float, brake: float) -> bool:
        """Play one frame for a training rule; return whether the episode goes on."""
        self._play(PlainAction((steering, gas, brake)), 1)
        return not self._frame.over

    def _scored_frame(self, action: Any) -> None:
        """Play one frame that counts towards `frames`, `score` and the limit of 1000."""
        reward, terminated, info = self._stock_frame(action)
        frame = self._frame
        frame.number += 1
        self._score += reward
        frame.record(reward, terminated, frame.number >= MAX_FRAMES, info)

    def _stock_frame(self, action: Any) -> tuple[float, bool, dict[str, Any]]:
        """Play one frame as gymnasium does, drawing nothing: its reward, whether it terminated, its info."""
        self._drawn = None
        self._inside_frame = True
        try:
            _, reward, terminated, _, info = super().step(action)
        finally:
            self._inside_frame = False
        return float(reward), terminated, info

    def _destroy(self) -> None:
        if self.road:
            assert self.car is not None
            self._ground.clear()
            self.road = []
            self.car.destroy()

    def _create_track(self) -> bool:
        """Make a track from the next random numbers; False if its ends do not meet, and gymnasium tries again."""
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
            if self._camera is None:
                self._camera = Camera(grayscale=self.grayscale and not self.rules.needs_observations)
            self._camera.start(self)
            on_touch = self._camera.touch
        # Box2D does not own its listener: the world's Python object has to keep it alive.
        self.world.contactListener_bug_workaround = TileContacts(self, self._ground.tiles, on_touch)
        self.world.contactListener = self.world.contactListener_bug_workaround

    def _render(self, mode: str) -> Any:
        """Draw what gymnasium asks for; inside a frame nobody has asked yet whether it will be seen."""
        if mode != "state_pixels":
            return super()._render(mode)
        if self._inside_frame:
            # Gymnasium draws before it takes off the frame's 0.1; the digits of a later drawing have to agree.
            self._drawn_score = self.reward
            return None
        if self.car is None:
            return None
        observation = self._observation()
        return to_gray(observation) if self.grayscale and observation.ndim == 3 else observation

    def _observation(self) -> Observation:
        """Return this frame's observation, drawn at most once: in colour unless our renderer may draw grey directly."""
        if self._drawn is None:
            self._drawn = self._fast_observation() if self._camera is not None else self._stock_observation()
        return self._drawn

    def _rgb_observation(self) -> Observation:
        """Return this frame's observation for the rules that look at it."""
        return self._observation()

    def _fast_observation(self) -> Observation:
        assert self._camera is not None
        return self._camera.take(self.car, self.t, self._drawn_score)

    def _stock_observation(self) -> Observation:
        score, self.reward = self.reward, self._drawn_score
        try:
            observation: Observation = super()._render("state_pixels")
        finally:
            self.reward = score
        return observation


CarRacing.__doc__ = (CarRacing.__doc__ or "").replace("        {training_rules}", describe_options(" " * 8))
