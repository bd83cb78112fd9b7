"""The lap's rules: what counts as left out, and where a lap ends for training."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from drivers import CentreLineDriver, OutwardDriver, cheap_render
from gymnasium.envs.box2d import car_racing as stock

from sb3_carracing.envs.car_racing import CarRacing
from sb3_carracing.envs.training_rules import Lap

N_TILES = 200


@pytest.fixture(autouse=True)
def cheap_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
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
    car = env.unwrapped.car
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
        paid.append(round(reward - ruled_reward, 6))
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
