"""The lap's rules: what counts as left out, and where a lap ends for training."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from drivers import CentreLineDriver, OutwardDriver, cheap_render
from gymnasium.envs.box2d import car_racing as stock

from sb3_carracing.envs.car_racing import CarRacing
from sb3_carracing.envs.training_rules import Lap, Standstill

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


GAS = np.array([0.0, 0.3, 0.0], np.float32)


def test_a_standstill_passes_inside_one_step_and_pays_nothing() -> None:
    n_struck = 0
    for seed in range(6):
        env, plain = CarRacing(frame_skip=4, standstill_rate=1.0), CarRacing(frame_skip=4)
        env.reset(seed=seed)
        plain.reset(seed=seed)
        assert env._standstill is not None
        env._standstill.begins = 100
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
        if env._standstill is not None:
            env._standstill.begins = 0
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
        n_struck += struck._standstill is not None
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
    rules = CarRacing(grass_penalty=np.float32(0.5), off_road_frames=np.int64(5)).rules
    assert type(rules.grass_penalty) is float, "float32 would make rewards float32"
    assert type(rules.off_road_frames) is int


def test_standstills_need_continuous_actions() -> None:
    with pytest.raises(ValueError, match=r"standstill_rate is for continuous actions, got 0.5 with continuous=False"):
        CarRacing(standstill_rate=0.5, continuous=False)


def _tracks(env: CarRacing, n_episodes: int, *, finish: bool = False) -> list[object]:
    """Return the tracks of episodes of one step each after the first, which is seeded; `finish` claims finished laps."""
    tracks: list[object] = []
    for episode in range(n_episodes):
        env.reset(seed=3 if episode == 0 else None)
        tracks.append(env.track)
        env._frames = 999
        _, _, terminated, truncated, _ = env.step(GAS)
        assert truncated
        assert not terminated
        if finish:
            env._unfinished = False
    return tracks


def test_an_unfinished_track_is_driven_again_and_the_order_of_tracks_stays() -> None:
    plain = _tracks(CarRacing(), 8)
    retried = _tracks(CarRacing(retry_rate=0.7), 16)
    distinct = [track for index, track in enumerate(retried) if index == 0 or track != retried[index - 1]]
    assert 2 <= len(distinct) < 10
    assert distinct == plain[: len(distinct)]
    assert _tracks(CarRacing(retry_rate=0.7), 16) == retried, "the choice follows the seed"
    assert _tracks(CarRacing(retry_rate=1.0), 4) == [plain[0]] * 4


def test_a_finished_track_is_not_driven_again_nor_one_before_a_seed() -> None:
    plain = _tracks(CarRacing(), 6)
    assert _tracks(CarRacing(retry_rate=1.0), 6, finish=True) == plain
    env = CarRacing(retry_rate=1.0)
    _tracks(env, 2)
    env.reset(seed=3)
    assert env.track == plain[0]


def test_a_finished_lap_counts_as_finished() -> None:
    env = CarRacing(retry_rate=1.0, truncate_lap=True)
    env.reset(seed=1)
    track, drive, over = env.track, CentreLineDriver(env), False
    while not over:
        _, _, terminated, truncated, info = env.step(drive())
        over = terminated or truncated
    assert info["lap_finished"]
    env.reset()
    assert env.track != track


def test_a_track_that_is_driven_again_has_another_standstill() -> None:
    env = CarRacing(standstill_rate=0.5, retry_rate=1.0)
    tracks, begins = [], []
    for episode in range(8):
        env.reset(seed=3 if episode == 0 else None)
        tracks.append(env.track)
        begins.append(None if env._standstill is None else env._standstill.begins)
        env._frames = 999
        env.step(GAS)
    assert tracks == [tracks[0]] * 8
    assert None in begins
    assert len(set(begins)) >= 3
    plain = _tracks(CarRacing(), 4)
    assert _tracks(CarRacing(standstill_rate=1.0), 4) == plain, "standstills change no track"
