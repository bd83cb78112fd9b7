"""The training rules for rolling starts and for speed."""

import numpy as np
import pytest
from drivers import CentreLineDriver, cheap_render
from gymnasium.envs.box2d import car_racing as stock

from sb3_carracing.envs.car_racing import CarRacing
from sb3_carracing.envs.training_rules import off_road

GAS = np.array([0.0, 1.0, 0.0], np.float32)


@pytest.fixture
def cheap_observations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock.CarRacing, "_render", cheap_render)


def start_of(env: CarRacing) -> tuple[int, float]:
    """Return the start's distance from gymnasium's [tiles], and the speed."""
    plain = CarRacing()
    plain.reset(seed=int(env.np_random_seed))
    return plain.track.index(env.track[0]), env.car.hull.linearVelocity.length


@pytest.mark.usefixtures("cheap_observations")
def test_a_rolling_start_is_anywhere_on_the_same_track() -> None:
    plain, rolling = CarRacing(), CarRacing(rolling_start_rate=1.0, rolling_start_speed=50.0)
    starts = []
    for seed in range(30):
        plain.reset(seed=seed)
        rolling.reset(seed=seed)
        first, speed = start_of(rolling)
        assert rolling.track == plain.track[first:] + plain.track[:first]
        assert len(rolling.road) == len(plain.road)
        starts.append((first / len(plain.track), speed))
    places, speeds = np.array(starts).T
    assert np.histogram(places, 3, (0.0, 1.0))[0].min() >= 3
    assert np.histogram(speeds, 3, (0.0, 50.0))[0].min() >= 3
    assert speeds.max() <= 50.0
    # The tracks after the first come from gymnasium's generator, which the rule leaves alone.
    plain.reset()
    rolling.reset()
    assert sorted(rolling.track) == sorted(plain.track)


@pytest.mark.usefixtures("cheap_observations")
def test_the_car_rolls_along_the_road_without_slipping() -> None:
    env = CarRacing(rolling_start_rate=1.0)
    for seed in range(10):
        env.reset(seed=seed)
        before, velocity = env.car.hull.position.copy(), env.car.hull.linearVelocity.copy()
        x, y = env.track[1][2] - env.track[0][2], env.track[1][3] - env.track[0][3]
        cosine = (velocity[0] * x + velocity[1] * y) / (np.hypot(x, y) * velocity.length)
        assert cosine > 0.95
        for _ in range(5):
            env.step(np.zeros(3, np.float32))
        assert not off_road(env.car)
        moved = (env.car.hull.position - before).length / (5 / stock.FPS)
        assert moved == pytest.approx(velocity.length, rel=0.02, abs=0.1), "slipping wheels would slow the car"


@pytest.mark.usefixtures("cheap_observations")
def test_a_lap_ends_where_it_began() -> None:
    env = CarRacing(rolling_start_rate=1.0, rolling_start_speed=30.0)
    env.reset(seed=4)
    assert start_of(env)[0] > 10
    drive, over = CentreLineDriver(env), False
    while not over:
        _, _, terminated, truncated, info = env.step(drive())
        over = terminated or truncated
    assert info["lap_finished"] is True
    assert info["score"] > 900


@pytest.mark.parametrize("renderer", ["fast", "stock"])
def test_the_opening_zoom_is_skipped(renderer: str) -> None:
    """In the first half second gymnasium's observations of a car at rest change, a rolling start's do not."""
    changes = {}
    for rate in (0.0, 1.0):
        env = CarRacing(renderer=renderer, rolling_start_rate=rate, rolling_start_speed=0.0)
        first, _ = env.reset(seed=1)
        for _ in range(25):
            later, *_ = env.step(np.zeros(3, np.float32))
        changes[rate] = float(np.abs(later[:80].astype(int) - first[:80]).mean())
    assert changes[1.0] < 0.5
    assert changes[0.0] > 5.0


@pytest.mark.usefixtures("cheap_observations")
def test_rolling_starts_are_a_share_of_the_episodes_and_follow_the_seed() -> None:
    one, other = CarRacing(rolling_start_rate=0.5), CarRacing(rolling_start_rate=0.5)
    speeds = []
    for seed in [7, *[None] * 40]:
        one.reset(seed=seed)
        other.reset(seed=seed)
        assert one.track == other.track
        assert one.car.hull.linearVelocity == other.car.hull.linearVelocity
        speeds.append(one.car.hull.linearVelocity.length)
    assert 8 <= sum(speed > 0.5 for speed in speeds) <= 33


@pytest.mark.usefixtures("cheap_observations")
def test_speed_above_the_limit_costs() -> None:
    plain, ruled = CarRacing(), CarRacing(speed_penalty=0.5, speed_limit=40.0)
    plain.reset(seed=2)
    ruled.reset(seed=2)
    costs: list[bool] = []
    for _ in range(80):
        _, reward, _, _, info = plain.step(GAS)
        _, ruled_reward, _, _, ruled_info = ruled.step(GAS)
        speed = float(np.hypot(*plain.car.hull.linearVelocity))
        assert float(reward) - float(ruled_reward) == pytest.approx(0.5 * max(0.0, speed - 40.0), abs=1e-5)
        assert info["score"] == ruled_info["score"]
        costs.append(speed > 40.0)
    assert 20 < sum(costs) < 60


@pytest.mark.usefixtures("cheap_observations")
def test_slippery_roads() -> None:
    """Each episode has its own friction, and the wheels push the car that much less at full gas."""
    plain, ruled = CarRacing(), CarRacing(lowest_friction=0.6)
    frictions, shares = [], []
    for seed in range(12):
        plain.reset(seed=seed)
        ruled.reset(seed=seed)
        assert plain.track == ruled.track
        (friction,) = {tile.road_friction for tile in ruled.road}
        frictions.append(friction)
        for _ in range(25):
            plain.step(GAS)
            ruled.step(GAS)
        shares.append(ruled.car.hull.linearVelocity.length / plain.car.hull.linearVelocity.length)
    assert 0.6 <= min(frictions) < 0.7 < 0.9 < max(frictions) < 1.0
    np.testing.assert_allclose(shares, frictions, atol=0.05)
