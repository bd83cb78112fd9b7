"""CarRacing whose physics repeats under one action while its picture is drawn once, at the end.

Physics, rewards, endings and track are gymnasium's: this is a subclass, and what it overrides is when a picture is
made, when an episode is cut off, and which extra rules a training run asks for.
"""

import hashlib
import inspect
from functools import lru_cache
from typing import Any, SupportsFloat

import cv2
import numpy as np
from gymnasium import spaces
from gymnasium.envs.box2d import car_racing as stock
from gymnasium.utils import EzPickle
from gymnasium.utils.seeding import np_random

from sb3_carracing.checks import one_of, whole_number
from sb3_carracing.envs.counts import Counts, put_counts
from sb3_carracing.envs.fast import track
from sb3_carracing.envs.fast.camera import Camera
from sb3_carracing.envs.fast.car import FastCar, Ground, TileContacts
from sb3_carracing.envs.fast.renderer import Picture as Picture
from sb3_carracing.envs.training_rules import MAX_FRAMES, Lap, Progress, Standstill, TrainingRules

RENDERERS = ("fast", "stock")


def off_road(car: Any) -> bool:
    """Whether no wheel of a gymnasium `Car` touches a tile of the road."""
    return not any(wheel.tiles for wheel in car.wheels)


def mostly_green(rgb: Picture, threshold: float) -> bool:
    """Whether the mean of the green channel of an RGB picture (H, W, 3) lies above `threshold` (0 to 255)."""
    return bool(np.mean(rgb[:, :, 1]) > threshold)


def to_gray(rgb: Picture) -> Picture:
    """Turn an RGB picture (H, W, 3) into grey (H, W): 0.299 R + 0.587 G + 0.114 B, rounded (OpenCV, both seeds)."""
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY), dtype=np.uint8)


STEP_BY_HEART = "a36964c15e2e9fa24907b6e923ad3c7a633dc30842083bf2c07850f7a741566c"
"""SHA-256 of gymnasium's text (version 1.4.0) that `CarRacing._frame_by_heart` and `TileContacts._count` are written from."""

FRAME = 1.0 / stock.FPS
"""Seconds."""


@lru_cache(maxsize=1)
def step_is_known() -> bool:
    """Whether the installed gymnasium's `step` and contacts are those that we know by heart; any others are called."""
    try:
        text = inspect.getsource(stock.CarRacing.step) + inspect.getsource(stock.FrictionDetector)
    except OSError:
        return False
    return hashlib.sha256(text.encode()).hexdigest() == STEP_BY_HEART


class PlainAction(tuple[float, ...]):
    """An action that gymnasium need not convert again in each of the frames that repeat it."""

    def astype(self, dtype: type) -> "PlainAction":
        """Return itself: Python's floats have the 64 bits that gymnasium asks for."""
        return self


class CarRacing(stock.CarRacing):
    """Gymnasium's CarRacing with action repeat, greyscale and training rules inside the frame loop.

    With the defaults every reward, end, car state and random number is stock `CarRacing-v3`'s. An episode is truncated
    at frame 1000 by the environment itself, in the middle of a repeat too, so no TimeLimit belongs around it.

    `info` of `reset` and of every `step` holds `frames` (physics frames since reset, no-op frames counted) and `score`
    (sum of gymnasium's own reward over those frames, whatever the training rules make of it), of `step` also `episode_over`
    (the environment's own end, whatever a wrapper makes of it); at the end of an episode gymnasium's `lap_finished`, or
    `stopped_by` if a training rule ended it.

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
        gap_penalty: training only: subtracted for every stretch of tiles that the car has passed and no wheel has touched.
        truncate_lap: training only: where the car has come round the episode is truncated, not terminated, whether or not
            tiles are left out: a learner that bootstraps truncated episodes then need not know where the lap ends, which
            no picture shows.
        standstill_rate: training only: share of the episodes, 0 to 1, in which the car is once steered at random and braked
            until it stands. That passes inside one step and pays nothing; from there on leaving the road no longer ends
            the episode. Continuous actions only.
        retry_rate: training only: probability, 0 to 1, that an episode whose lap was not finished is followed by one on the
            same track, unless `reset` is given a seed: hard turns are rare, and so are seen more often.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """

    road: Any  # gymnasium's annotations of these are narrower than their values
    track: Any
    car: Any
    _standstill: Standstill | None  # the coming one

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
        gap_penalty: float = 0.0,
        truncate_lap: bool = False,
        standstill_rate: float = 0.0,
        retry_rate: float = 0.0,
    ) -> None:
        self.rules = TrainingRules(
            noop_frames=noop_frames,
            grass_penalty=grass_penalty,
            grass_rule=grass_rule,
            green_threshold=green_threshold,
            end_bonus=end_bonus,
            no_progress_frames=no_progress_frames,
            no_progress_reward=no_progress_reward,
            off_road_frames=off_road_frames,
            gap_penalty=gap_penalty,
            truncate_lap=truncate_lap,
            standstill_rate=standstill_rate,
            retry_rate=retry_rate,
        )
        if standstill_rate and not continuous:
            raise ValueError(f"standstill_rate is for continuous actions, got {standstill_rate!r} with continuous=False")
        self._shapes = self.rules.shape_frames
        self.renderer = one_of("renderer", renderer, RENDERERS)
        super().__init__(render_mode, verbose, lap_complete_percent, domain_randomize, continuous)
        self._by_heart = continuous and render_mode != "human" and step_is_known()
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
        self._unfinished = False
        self._dice = np.random.default_rng()
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
        if seed is not None:
            self._dice = np.random.default_rng(seed)
        if self.rules.retry_rate:
            self._choose_track(seed)
        observation, _ = super().reset(seed=seed, options=options)
        # By other random numbers than the track's, so that a track that is driven again may have another standstill.
        if self.rules.standstill_rate and self._dice.random() < self.rules.standstill_rate:
            self._standstill = Standstill(self._dice)
        return observation, {"frames": self._frames, "score": self._score}

    def step(self, action: Any) -> tuple[Picture, SupportsFloat, bool, bool, dict[str, Any]]:
        """Play `frame_skip` frames under `action`, fewer where the episode ends, and draw the last one."""
        if action is None:
            return self._first_step()
        if self.continuous:
            action = PlainAction(action.astype(np.float64).tolist())
        total, terminated, truncated, info = self._play(action, self.frame_skip)
        if self._standstill is not None and self._frames >= self._standstill.begins and not (terminated or truncated):
            terminated, truncated, info = self._come_to_a_standstill(self._standstill)
        self._unfinished = (terminated or truncated) and not info.get("lap_finished", False)
        info["frames"], info["score"], info["episode_over"] = self._frames, self._score, terminated or truncated
        put_counts(info, Counts(self._score, self._frames, terminated or truncated, info.get("lap_finished", False)))
        self.state = self._render("state_pixels")
        return self.state, total, terminated, truncated, info

    def _choose_track(self, seed: int | None) -> None:
        """Set the random numbers back to those of the last track if it is to be driven again."""
        if seed is not None:
            self._random_state = np_random(seed)[0].bit_generator.state  # as `reset` will make it
            return
        if self._unfinished and self._dice.random() < self.rules.retry_rate:
            self.np_random.bit_generator.state = self._random_state
        self._random_state = self.np_random.bit_generator.state

    def _play(self, action: Any, n_frames: int) -> tuple[float, bool, bool, dict[str, Any]]:
        """Play up to `n_frames` frames under an action: sum of rewards, terminated, truncated, the last frame's info."""
        play = self._shaped_frame if self._shapes else self._scored_frame
        if self._by_heart:
            self._set_steering_and_brake(action)
        total = 0.0
        for _ in range(n_frames):
            reward, terminated, truncated, info = play(action)
            total += reward
            if terminated or truncated:
                break
        return total, terminated, truncated, info

    def _come_to_a_standstill(self, how: Standstill) -> tuple[bool, bool, dict[str, Any]]:
        """Steer, then brake until the car stands or the episode ends: terminated, truncated, the last frame's info."""
        self._standstill, self._may_leave_road = None, True
        for frame in range(how.turn_frames + how.LONGEST_STOP):
            brake = float(frame >= how.turn_frames)
            _, terminated, truncated, info = self._play(PlainAction((how.steering, 0.0, brake)), 1)
            if terminated or truncated or self.car.hull.linearVelocity.length < how.STANDS:
                break
        return terminated, truncated, info

    def _start_counting(self) -> None:
        self._frames = 0
        self._score = 0.0
        self._off_road_run = 0
        self._progress = Progress(self.rules.no_progress_frames) if self.rules.no_progress_frames else None
        self._drawn: Picture | None = None
        self._drawn_score = 0.0
        self._standstill = None
        self._may_leave_road = False

    def _first_step(self) -> tuple[Picture, SupportsFloat, bool, bool, dict[str, Any]]:
        """Play what comes before the agent's first decision; gymnasium's `reset` ends in `step(None)`.

        Its one frame without action is not counted (TimeLimit does not see it either); no-op frames are.
        """
        assert self.car is not None
        self.car = FastCar(self.car)
        self._lap = Lap(self.road) if self.rules.gap_penalty or self.rules.truncate_lap else None
        self._stock_frame(None)
        idle = PlainAction((0.0, 0.0, 0.0)) if self.continuous else 0
        if isinstance(idle, PlainAction) and self._by_heart:
            self._set_steering_and_brake(idle)
        for _ in range(self.rules.noop_frames):
            self._scored_frame(idle)
        self.state = self._render("state_pixels")
        return self.state, 0.0, False, False, {}

    def _stock_frame(self, action: Any) -> tuple[float, bool, dict[str, Any]]:
        """Play one frame as gymnasium does, drawing nothing: its reward, whether it terminated, its info."""
        self._drawn = None
        if self._by_heart and action is not None:
            return self._frame_by_heart(action[1])
        self._inside_frame = True
        try:
            _, reward, terminated, _, info = stock.CarRacing.step(self, action)
        finally:
            self._inside_frame = False
        return float(reward), terminated, info

    def _set_steering_and_brake(self, action: PlainAction) -> None:
        """Set what stays as it is for all frames of an action, where gymnasium's `step` does not."""
        self.car.steer(-action[0])
        self.car.brake(action[2])

    def _frame_by_heart(self, gas: float) -> tuple[float, bool, dict[str, Any]]:
        """Play what gymnasium's `step` does with continuous actions, in 1.6 us less of some 42."""
        car = self.car
        car.gas(gas)
        car.step(FRAME)
        self.world.Step(FRAME, 6 * 30, 2 * 30)
        self.t += FRAME
        self._drawn_score = self.reward  # gymnasium draws before it takes off the frame's 0.1
        self.reward -= 0.1
        car.fuel_spent = 0.0
        reward = self.reward - self.prev_reward
        self.prev_reward = self.reward
        info: dict[str, Any] = {}
        terminated = self.tile_visited_count == len(self.track) or self.new_lap
        if terminated:
            info["lap_finished"] = True
        if car.is_beyond(stock.PLAYFIELD):
            terminated = True
            info["lap_finished"] = False
            reward = -100.0
        return reward, terminated, info

    def _scored_frame(self, action: Any) -> tuple[float, bool, bool, dict[str, Any]]:
        """Play one frame that counts towards `frames`, `score` and the limit of 1000."""
        reward, terminated, info = self._stock_frame(action)
        self._frames += 1
        self._score += reward
        return reward, terminated, self._frames >= MAX_FRAMES, info

    def _shaped_frame(self, action: Any) -> tuple[float, bool, bool, dict[str, Any]]:
        """Play one frame under the training rules."""
        reward, terminated, truncated, info = self._scored_frame(action)
        rules = self.rules
        if rules.end_bonus and (terminated or truncated):
            reward += rules.end_bonus
        if rules.grass_penalty and self._on_grass():
            reward -= rules.grass_penalty
        if self._lap is not None:
            reward -= rules.gap_penalty * self._lap.advance(self.car)
        stopped_by = self._stopping_rule(reward)
        if stopped_by is not None and not terminated:
            terminated = True
            info["stopped_by"] = stopped_by
        elif rules.truncate_lap and self._lap_ends(info):
            terminated, truncated = False, True
        return reward, terminated, truncated, info

    def _lap_ends(self, info: dict[str, Any]) -> bool:
        """Whether the car has come round; `info` learns so where gymnasium would let it go on."""
        assert self._lap is not None
        if self._lap.came_round and "lap_finished" not in info:
            info["stopped_by"] = "came_round"
        return self._lap.came_round or info.get("lap_finished", False)

    def _on_grass(self) -> bool:
        if self.rules.grass_rule == "wheels":
            return off_road(self.car)
        return mostly_green(self._picture(), self.rules.green_threshold)

    def _stopping_rule(self, reward: float) -> str | None:
        """Name of the training rule that ends the episode with this frame's shaped reward, or None."""
        stopped_by = None
        if self.rules.off_road_frames:
            self._off_road_run = self._off_road_run + 1 if off_road(self.car) else 0
            if self._off_road_run >= self.rules.off_road_frames and not self._may_leave_road:
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
        return True

    def _follow_track(self) -> None:
        """Draw the new track for our renderer and have its tiles' contacts reported."""
        on_touch = None
        if self.renderer == "fast":
            if self._camera is None:
                self._camera = Camera(grayscale=self.grayscale and not self.rules.see_green)
            self._camera.start(self)
            on_touch = self._camera.touch
        # Box2D does not own its listener: the world's Python object has to keep it alive.
        self.world.contactListener_bug_workaround = TileContacts(self, self._ground.tiles, on_touch, by_heart=self._by_heart)
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
