"""The training rules: laps, standstills, and how a rule of one's own is added."""

import math
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from drivers import CentreLineDriver, OutwardDriver, cheap_render
from gymnasium.envs.box2d import car_racing as stock
from stable_baselines3.common.env_util import make_vec_env

from sb3_carracing import BetaPPO
from sb3_carracing.envs import rule_engine
from sb3_carracing.envs.car_racing import CarRacing
from sb3_carracing.envs.lap import Lap
from sb3_carracing.envs.training_rules import (
    Frame,
    Standstill,
    Standstills,
    TrainingRule,
    at_least_0,
    evaluation_kwargs,
    option,
    training_rule,
)
from sb3_carracing.errors import UserError

N_TILES = 200


@pytest.fixture(autouse=True)
def cheap_observations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock.CarRacing, "_render", cheap_render)


class Walk:
    """A car with one wheel on a road of `N_TILES` tiles, moved by hand."""

    def __init__(self) -> None:
        self.road = [SimpleNamespace(idx=idx, road_visited=False) for idx in range(N_TILES)]
        self.lap = Lap(self.road)

    def touch(self, *tiles: int) -> int:
        for idx in tiles:
            self.road[idx].road_visited = True
        wheel = SimpleNamespace(tiles=[self.road[idx] for idx in tiles])
        return self.lap.advance(SimpleNamespace(wheels=[wheel]))


def test_a_lap_without_gaps() -> None:
    walk = Walk()
    for idx in range(N_TILES):
        assert not walk.lap.came_round
        assert walk.touch(idx) == 0
    assert walk.lap.came_round


@pytest.mark.parametrize("length", [1, 3, 30])
def test_a_stretch_left_out_is_one_gap_noted_once(length: int) -> None:
    walk = Walk()
    left_out = range(50, 50 + length)
    gaps = [walk.touch(idx) for idx in range(N_TILES) if idx not in left_out]
    assert sum(gaps) == 1
    assert 50 <= gaps.index(1) <= 60, "noted when the car is a few tiles further"
    assert walk.lap.came_round


def test_each_gap_counts_and_the_last_one_before_the_end_too() -> None:
    walk = Walk()
    assert sum(walk.touch(idx) for idx in range(N_TILES) if idx not in (20, 21, 23, 90, N_TILES - 2)) == 4


def test_a_rear_wheel_may_touch_a_tile_later_than_the_front() -> None:
    walk = Walk()
    order = [idx for idx in range(N_TILES) if idx != 80]
    order.insert(order.index(83) + 1, 80)
    assert sum(walk.touch(idx) for idx in order) == 0


def test_a_lap_may_end_beyond_its_last_tile() -> None:
    walk = Walk()
    gaps = [walk.touch(idx) for idx in range(N_TILES - 3)]
    assert not walk.lap.came_round
    gaps.append(walk.touch(2))
    assert walk.lap.came_round
    assert sum(gaps) == 1, "the last three tiles"


def test_a_road_that_runs_beside_is_not_ahead() -> None:
    walk = Walk()
    assert walk.touch(0, N_TILES - 1) == 0, "the car starts between the lap's ends"
    assert not walk.lap.came_round
    for idx in range(1, 20):
        walk.touch(idx)
    assert walk.touch(20, 150) == 0
    assert [walk.touch(idx) for idx in range(21, 40)] == [0] * 19


def _leap(env: CarRacing, n_tiles: int) -> None:
    """Put the car as many tiles further along the road, in the same position towards it."""
    base: Any = env.unwrapped
    car = base.car
    points = np.array([tile[2:4] for tile in env.track])
    angles = np.array([tile[1] for tile in env.track])
    here = int(np.argmin(np.hypot(*(points - np.array(car.hull.position)).T)))
    turn = angles[here + n_tiles] - angles[here]
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    for body in [car.hull, *car.wheels]:
        place = points[here + n_tiles] + rotation @ (np.array(body.position) - points[here])
        velocity = rotation @ np.array(body.linearVelocity)
        body.position, body.angle = tuple(map(float, place)), float(body.angle + turn)
        body.linearVelocity = tuple(map(float, velocity))


@pytest.mark.parametrize("renderer", ["fast", "stock"])
def test_a_finished_lap_is_truncated_with_every_reward_as_it_was(renderer: str) -> None:
    plain, ruled = CarRacing(renderer=renderer), CarRacing(renderer=renderer, truncate_lap=True, gap_penalty=50.0)
    plain.reset(seed=1)
    ruled.reset(seed=1)
    drive = CentreLineDriver(plain)
    over = False
    while not over:
        action = drive()
        _, reward, terminated, _, _ = plain.step(action)
        _, ruled_reward, ruled_terminated, over, info = ruled.step(action)
        assert ruled_reward == reward
        assert not ruled_terminated
        assert over == terminated
    assert info["lap_finished"] is True
    assert "stopped_by" not in info
    assert info["frames"] < 1000


@pytest.mark.parametrize("n_leaps", [1, 2])
def test_a_lap_with_gaps_ends_where_it_began_and_pays_for_each(n_leaps: int) -> None:
    plain, ruled = CarRacing(), CarRacing(truncate_lap=True, gap_penalty=50.0)
    plain.reset(seed=1)
    ruled.reset(seed=1)
    drive = CentreLineDriver(plain)
    paid, over = [], False
    for frame in range(1000):
        if frame in (200, 350)[:n_leaps]:
            _leap(plain, 20)
            _leap(ruled, 20)
        action = drive()
        _, reward, terminated, _, _ = plain.step(action)
        _, ruled_reward, ruled_terminated, over, info = ruled.step(action)
        assert not terminated
        assert not ruled_terminated
        paid.append(round(float(reward) - float(ruled_reward), 6))
        if over:
            break
    assert sorted(paid)[-n_leaps:] == [50.0] * n_leaps
    assert sum(paid) == 50.0 * n_leaps
    assert over
    assert info["stopped_by"] == "came_round"
    assert "lap_finished" not in info
    assert info["frames"] < 1000
    assert any(tile.idx in (0, 1, len(plain.road) - 1) for wheel in plain.car.wheels for tile in wheel.tiles)


def test_a_crash_terminates_all_the_same() -> None:
    env = CarRacing(truncate_lap=True)
    env.reset(seed=8)
    drive = OutwardDriver(env)
    terminated = truncated = False
    while not (terminated or truncated):
        _, reward, terminated, truncated, info = env.step(drive())
    assert terminated
    assert not truncated
    assert reward == -100.0
    assert info["lap_finished"] is False


GAS = np.array([0.0, 0.3, 0.0], np.float32)


def coming_standstill(env: CarRacing) -> Standstill | None:
    """Return the standstill of the running episode, if there is one still to come."""
    return next((rule.coming for rule in env.rules.active if isinstance(rule, Standstills)), None)


def test_a_standstill_passes_inside_one_step_and_pays_nothing() -> None:
    n_struck = 0
    for seed in range(6):
        env, plain = CarRacing(frame_skip=4, standstill_rate=1.0), CarRacing(frame_skip=4)
        env.reset(seed=seed)
        plain.reset(seed=seed)
        standstill = coming_standstill(env)
        assert standstill is not None
        standstill.begins = 100
        drive, before = CentreLineDriver(plain), {"frames": 0, "score": 0.0}
        for _ in range(60):
            action = drive()
            _, reward, _, _, info = env.step(action)
            _, plain_reward, _, _, plain_info = plain.step(action)
            if info["frames"] - before["frames"] > 4:
                break
            assert info == plain_info
            before = info
        else:
            pytest.fail("the car was never stopped")
        assert plain_info["frames"] == 100
        assert reward == plain_reward, "the agent gets its own four frames only"
        assert info["score"] - before["score"] != pytest.approx(reward), "gymnasium's score has all"
        n_struck += env.car.hull.linearVelocity.length < 1.0
        _, _, _, _, after = env.step(np.array([0.0, 1.0, 0.0], np.float32))
        assert after["frames"] == info["frames"] + 4, "once in an episode"
    assert n_struck == 6


def test_after_a_standstill_leaving_the_road_ends_nothing() -> None:
    ends = {}
    for rate in (0.0, 1.0):
        env = CarRacing(frame_skip=4, standstill_rate=rate, off_road_frames=5)
        env.reset(seed=3)
        standstill = coming_standstill(env)
        if standstill is not None:
            standstill.begins = 0
        over = False
        while not over:
            _, _, terminated, truncated, info = env.step(GAS)
            over = terminated or truncated
        ends[rate] = info
    assert ends[0.0]["stopped_by"] == "off_road"
    assert "stopped_by" not in ends[1.0]


def test_standstills_strike_their_share_of_the_episodes_and_change_no_first_track() -> None:
    plain, struck = CarRacing(), CarRacing(standstill_rate=0.25)
    plain.reset(seed=5)
    struck.reset(seed=5)
    assert plain.track == struck.track
    n_struck = 0
    for seed in range(60):
        struck.reset(seed=seed)
        n_struck += coming_standstill(struck) is not None
    assert 2 <= n_struck <= 28  # four standard deviations of a binomial


def test_standstills_vary() -> None:
    random = np.random.default_rng(0)
    standstills = [Standstill(random) for _ in range(500)]
    assert {standstill.turn_frames for standstill in standstills} == set(range(26))
    assert min(standstill.steering for standstill in standstills) < -0.9
    assert max(standstill.steering for standstill in standstills) > 0.9
    begins = [standstill.begins for standstill in standstills]
    assert 50 <= min(begins) < 100
    assert 650 < max(begins) < 700


def test_rules_keep_pythons_numbers_whatever_they_are_given() -> None:
    options = CarRacing(grass_penalty=np.float32(0.5), off_road_frames=np.int64(5)).rules.options
    assert type(options["grass_penalty"]) is float, "float32 would make rewards float32"
    assert type(options["off_road_frames"]) is int


def test_standstills_need_continuous_actions() -> None:
    with pytest.raises(ValueError, match=r"standstill_rate is for continuous actions, got 0.5 with continuous=False"):
        CarRacing(standstill_rate=0.5, continuous=False)


def _tracks_and_standstills(env: CarRacing, n_episodes: int) -> tuple[list[object], list[int | None]]:
    """Return the tracks of some episodes, the first of them seeded, and when their standstills begin."""
    tracks: list[object] = []
    begins: list[int | None] = []
    for episode in range(n_episodes):
        env.reset(seed=3 if episode == 0 else None)
        standstill = coming_standstill(env)
        tracks.append(env.track)
        begins.append(None if standstill is None else standstill.begins)
    return tracks, begins


def test_standstills_follow_the_seed_and_change_no_track() -> None:
    plain, _ = _tracks_and_standstills(CarRacing(), 8)
    tracks, begins = _tracks_and_standstills(CarRacing(standstill_rate=0.5), 8)
    assert tracks == plain
    assert None in begins
    assert len(set(begins)) >= 3
    assert _tracks_and_standstills(CarRacing(standstill_rate=0.5), 8) == (tracks, begins)


def test_a_retired_rule_is_refused_by_name_and_ignored_by_evaluations() -> None:
    with pytest.raises(UserError, match="retry_rate is no longer a training rule"):
        CarRacing(retry_rate=0.0)
    with pytest.warns(UserWarning, match="ignoring retry_rate, which is no longer a training rule"):
        assert evaluation_kwargs({"retry_rate": 0.5, "frame_skip": 4}) == {"frame_skip": 4}


def test_evaluations_keep_what_is_not_for_training_only() -> None:
    kept = {"continuous": False, "frame_skip": 4, "grayscale": True, "renderer": "fast", "lap_complete_percent": 0.9}
    training_only = CarRacing().rules.options | {"max_episode_steps": 5}
    assert evaluation_kwargs(kept | training_only) == kept


@pytest.fixture
def forgotten_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the rules that a test defines."""
    monkeypatch.setattr(rule_engine, "_RULES", dict(rule_engine._RULES))


@pytest.mark.usefixtures("forgotten_afterwards")
def test_a_rule_of_ones_own_in_ten_lines() -> None:
    @training_rule
    class StraightOn(TrainingRule):
        steering_cost: float = option(0.0, at_least_0, "Cost per frame at full lock.")
        most_turns: int = option(10, at_least_0, "End after so many frames of steering.")

        def begin(self, frame: Frame, random: np.random.Generator) -> None:
            self.n_turns = 0

        def change_reward(self, frame: Frame) -> float:
            steering: float = abs(frame.car.wheels[0].steer)
            self.n_turns += steering > 0.1
            return -self.steering_cost * steering

        def end(self, frame: Frame) -> None:
            if self.n_turns > self.most_turns:
                frame.stop("turned too often")

    options: list[dict[str, Any]] = [{"steering_cost": 0.5}, {}]
    env, plain = (gym.make("CarRacingFast-v3", frame_skip=4, **kwargs) for kwargs in options)
    assert "steering_cost" not in evaluation_kwargs({"steering_cost": 0.5})
    with pytest.raises(UserError, match="steering_cost must be a finite number of at least 0, got -1"):
        CarRacing(steering_cost=-1)
    for _ in range(2):
        env.reset(seed=1)
        plain.reset(seed=1)
        ends = []
        for steering in (0.5, 0.0, -1.0, 1.0):
            action = np.array([steering, 0.1, 0.0], np.float32)
            _, reward, terminated, _, info = env.step(action)
            _, plain_reward, *_ = plain.step(action)
            ends.append(terminated)
            if not terminated:
                assert reward == pytest.approx(float(plain_reward) - 4 * 0.5 * abs(steering))
        assert ends == [False, False, False, True]
        assert info["stopped_by"] == "turned too often"
        assert info["frames"] == 15
    venv = make_vec_env("CarRacingFast-v3", 2, env_kwargs={"frame_skip": 8, "steering_cost": 0.5})
    model = BetaPPO("CnnPolicy", venv, n_steps=16, batch_size=16, n_epochs=1, seed=0, policy_kwargs={"net_arch": [8]})
    model.learn(64)
    assert model.ep_info_buffer is not None
    assert len(model.ep_info_buffer) > 2
    assert all(episode["l"] <= 8 for episode in model.ep_info_buffer)


@pytest.mark.usefixtures("forgotten_afterwards")
def test_an_option_has_one_rule() -> None:
    for name in ("grass_penalty", "retry_rate"):
        rule = type("Greedy", (TrainingRule,), {"__annotations__": {name: float}, name: option(0.0, at_least_0, "")})
        with pytest.raises(ValueError, match=f"Greedy has options that are taken already: {name}"):
            training_rule(rule)


def test_every_option_is_documented_and_off_by_default() -> None:
    env = CarRacing()
    assert env.rules.active == []
    for name in env.rules.options:
        assert f"        {name}: Training only. " in (CarRacing.__doc__ or "")
