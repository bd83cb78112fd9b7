"""The fast physics is gymnasium's to the last bit: car, wheels, traces and tiles, frame by frame."""

import ctypes
import gc
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from Box2D import b2BodyDef
from drivers import CentreLineDriver, OutwardDriver, cheap_render, five_actions
from gymnasium.envs.box2d import car_dynamics
from gymnasium.envs.box2d import car_racing as stock

from sb3_carracing.envs.car_racing import CarRacing
from sb3_carracing.envs.fast.car import FastCar

Driver = Callable[[int], Any]


class Undrawn(stock.CarRacing):
    """Gymnasium's own environment without its drawing, which takes nearly all of its time."""

    def _render(self, mode: str) -> Any:
        return cheap_render(self, mode)


def random_driver(env: Any, seed: int) -> Driver:
    rng = np.random.default_rng(seed)
    return lambda frame: rng.uniform([-1, 0, 0], [1, 1, 1]).astype(np.float32)


def wild_driver(env: Any, seed: int) -> Driver:
    """Full gas in waves of steering with locked wheels now and then: skids, traces, spins, grass."""
    rng = np.random.default_rng(seed)
    wave = rng.uniform(20, 60)

    def drive(frame: int) -> Any:
        return np.array([np.sin(frame / wave), 1.0, 0.95 * (frame % 90 > 80)], np.float32)

    return drive


def lap_driver(env: Any, seed: int) -> Driver:
    driver = CentreLineDriver(env)
    return lambda frame: driver()


def crash_driver(env: Any, seed: int) -> Driver:
    driver = OutwardDriver(env)
    return lambda frame: driver()


DRIVERS = [random_driver, wild_driver, lap_driver, crash_driver]


def everything(env: Any) -> list[Any]:
    """All numbers of an episode's state that anyone can read, exactly."""
    car = env.car
    bodies = [
        (tuple(body.position), body.angle, tuple(body.linearVelocity), body.angularVelocity, body.awake)
        for body in [car.hull, *car.wheels]
    ]
    wheels = [
        (wheel.gas, wheel.brake, wheel.steer, wheel.phase, wheel.omega, wheel.joint.angle, wheel.joint.motorSpeed)
        for wheel in car.wheels
    ]
    contacts = [sorted(tile.idx for tile in wheel.tiles) for wheel in car.wheels]
    traces = [(particle.color, particle.poly, particle.grass) for particle in car.particles]
    skids = [(wheel.skid_start is None, wheel.skid_particle is None) for wheel in car.wheels]
    score = (env.reward, env.prev_reward, env.tile_visited_count, env.new_lap, env.t, car.fuel_spent)
    return [bodies, wheels, contacts, traces, skids, score, [tile.road_visited for tile in env.road]]


def assert_same_episode(theirs: Any, mine: Any, make_driver: Any, seed: int, n_frames: int = 1000) -> dict[str, Any]:
    theirs.reset(seed=seed)
    mine.reset(seed=seed)
    assert [tile.fixtures[0].shape.vertices for tile in theirs.road[:20]] == [
        tile.fixtures[0].shape.vertices for tile in mine.road[:20]
    ]
    drive = make_driver(theirs, seed)
    info: dict[str, Any]
    for frame in range(n_frames):
        assert everything(theirs) == everything(mine), f"seed {seed}, frame {frame}"
        action = drive(frame) if theirs.continuous else five_actions(drive(frame), frame)
        _, reward, terminated, _, info = theirs.step(action)
        _, reward_2, terminated_2, _, info_2 = mine.step(action)
        assert (reward, terminated) == (reward_2, terminated_2)
        assert info.items() <= info_2.items()
        if terminated:
            break
    assert everything(theirs) == everything(mine)
    return info


@pytest.fixture(scope="module")
def cheap() -> Any:
    """Our environment, its own observations left out: only physics is compared here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CarRacing, "_draw", lambda self, grayscale: cheap_render(self, "state_pixels"))
        yield


@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize("make_driver", DRIVERS)
def test_every_number_is_gymnasiums(make_driver: Any, continuous: bool, cheap: None) -> None:
    theirs, mine = Undrawn(continuous=continuous), CarRacing(continuous=continuous)
    info = assert_same_episode(theirs, mine, make_driver, seed=21)
    if continuous and make_driver in (lap_driver, crash_driver):
        assert info["lap_finished"] is (make_driver is lap_driver)
    # The next episode begins with what the last one left behind.
    assert_same_episode(theirs, mine, make_driver, seed=22, n_frames=60)


@pytest.mark.slow
@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize("make_driver", DRIVERS)
def test_every_number_is_gymnasiums_on_many_tracks(make_driver: Any, continuous: bool, cheap: None) -> None:
    theirs = Undrawn(continuous=continuous, domain_randomize=True)
    mine = CarRacing(continuous=continuous, domain_randomize=True)
    for seed in range(1000, 1006):
        assert_same_episode(theirs, mine, make_driver, seed)


def test_a_gymnasium_with_other_rules_is_obeyed(monkeypatch: pytest.MonkeyPatch, cheap: None) -> None:
    step: Any = stock.CarRacing.step
    contact: Any = stock.FrictionDetector._contact

    def generous_step(self: Any, action: Any) -> Any:
        observation, reward, *rest = step(self, action)
        return observation, reward + 1000, *rest

    def generous_contact(self: Any, touch: Any, begin: bool) -> None:
        contact(self, touch, begin)
        self.env.reward += 5000 * begin

    monkeypatch.setattr(stock.CarRacing, "step", generous_step)
    env: Any = CarRacing(frame_skip=4)
    env.reset(seed=0)
    assert 1000 < env.step(np.zeros(3, np.float32))[1] < 5000
    monkeypatch.setattr(stock.FrictionDetector, "_contact", generous_contact)
    env.reset(seed=0)
    assert env.step(np.zeros(3, np.float32))[1] > 5000


def the_track(env: Any) -> list[Any]:
    """All that track generation makes, exactly, and the random numbers that come next."""
    tiles = [
        (tile.idx, tile.color.tolist(), tile.road_visited, tile.road_friction, tile.userData is tile) for tile in env.road
    ]
    fixtures = [fixture for tile in env.road for fixture in tile.fixtures]
    shapes = [(fixture.shape.vertices, fixture.shape.normals, fixture.sensor, fixture.friction) for fixture in fixtures]
    polygons = [(np.array(polygon).tolist(), np.array(color).tolist()) for polygon, color in env.road_poly]
    own_colors = {id(color) for _, color in env.road_poly}
    assert all(id(tile.color) in own_colors for tile in env.road)
    return [env.track, env.start_alpha, tiles, shapes, polygons, env.np_random.bit_generator.state]


def assert_same_tracks(seeds: range, domain_randomize: bool) -> int:
    """Reset both environments; return how often generation had to be tried again."""
    theirs: Any = Undrawn(domain_randomize=domain_randomize)
    # Whoever lets people watch has the hull's contacts reported in full: tiles touched in the first frame are alike.
    mine = CarRacing(domain_randomize=domain_randomize, render_mode="rgb_array")
    tries: list[Any] = []
    create = theirs._create_track

    def create_and_note() -> Any:
        tries.append(create())
        return tries[-1]

    theirs._create_track = create_and_note
    for seed in seeds:
        theirs.reset(seed=seed)
        mine.reset(seed=seed)
        assert the_track(theirs) == the_track(mine), f"seed {seed}"
        # Without a seed the random numbers go on.
        theirs.reset()
        mine.reset()
        assert the_track(theirs) == the_track(mine), f"seed {seed}, second episode"
    return tries.count(False)


@pytest.mark.parametrize("domain_randomize", [False, True])
def test_tracks_are_gymnasiums(domain_randomize: bool, cheap: None) -> None:
    assert assert_same_tracks(range(30), domain_randomize) > 0


@pytest.mark.slow
@pytest.mark.parametrize("domain_randomize", [False, True])
def test_many_tracks_are_gymnasiums(domain_randomize: bool, cheap: None) -> None:
    assert assert_same_tracks(range(5000, 5150), domain_randomize) > 5


@pytest.mark.parametrize("seed", range(40))
def test_borders_at_the_seam_and_bends_of_any_kind_are_gymnasiums(seed: int) -> None:
    """Of walks between checkpoints anywhere, most of which gymnasium would never draw."""
    envs: tuple[Any, Any] = (Undrawn(), CarRacing())
    theirs, mine = envs
    for env in envs:
        env.road_poly = []
        env._np_random = AnyCheckpoints(seed)
    while not theirs._create_track():
        assert not mine._create_track()
    assert mine._create_track()
    assert theirs.track == mine.track
    assert [np.array(p).tolist() for p, _ in theirs.road_poly] == [np.array(p).tolist() for p, _ in mine.road_poly]


class AnyCheckpoints(np.random.Generator):
    """Random numbers that reach further than they are asked for."""

    def __init__(self, seed: int) -> None:
        super().__init__(np.random.PCG64(seed))

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        return super().uniform(low * 0.7, high * 1.2, size)


@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_tiles_take_the_roads_colour_as_in_gymnasium(render_mode: str | None, cheap: None) -> None:
    """To the frame where people may see gymnasium's own rendering; else one tile may wait for the first wheel."""
    envs: tuple[Any, Any] = (Undrawn(), CarRacing(render_mode=render_mode))
    theirs, mine = envs
    for env in envs:
        env.reset(seed=3)
    drive = CentreLineDriver(theirs)
    n_waiting = []
    for _ in range(400):
        action = drive()
        for env in (theirs, mine):
            env.step(action)
        official, ours = (np.array([tile.color for tile in env.road]) for env in envs)
        waiting = (official != ours).any(axis=1)
        assert (official[waiting] == theirs.road_color).all()
        n_waiting.append(waiting.sum())
    assert max(n_waiting) <= (0 if render_mode else 1)
    assert np.mean(n_waiting) < 0.25


def test_a_friction_that_someone_has_changed_counts(cheap: None) -> None:
    envs: tuple[Any, Any] = (Undrawn(), CarRacing())
    theirs, mine = envs
    for env in envs:
        env.reset(seed=4)
        for tile in env.road:
            tile.road_friction = 0.7 + 0.2 * (tile.idx % 3)
    for frame in range(300):
        action = np.array([np.sin(frame / 15), 1.0, 0.0], np.float32)
        for env in (theirs, mine):
            env.step(action)
        assert everything(theirs) == everything(mine)


@pytest.mark.parametrize("brake", [0.0, 0.3, 0.899, 0.9, 1.0])
def test_actions_beyond_their_bounds_act_as_in_gymnasium(brake: float, cheap: None) -> None:
    theirs, mine = Undrawn(), CarRacing()
    for env in (theirs, mine):
        env.reset(seed=6)
    for frame in range(120):
        action = np.array([3.0 * (-1) ** (frame // 30), 2.0 - frame / 40, brake * (frame > 60)])
        for env in (theirs, mine):
            env.step(action)
        assert everything(theirs) == everything(mine)


def test_the_car_is_still_a_gymnasium_car(cheap: None) -> None:
    env = CarRacing()
    env.reset(seed=1)
    car = env.car
    assert isinstance(car, FastCar)
    assert isinstance(car, car_dynamics.Car)
    n_bodies = len(env.world.bodies)
    env.reset(seed=1)
    assert len(env.world.bodies) == n_bodies
    assert car.wheels == []
    car.step(0.02)  # the bodies are gone: nothing to do, and nothing to crash on


def test_bodies_that_someone_adds_to_the_world_are_no_tiles(cheap: None) -> None:
    env = CarRacing()
    env.reset(seed=1)
    x, y = env.car.hull.position
    wall = env.world.CreateBody(b2BodyDef(position=(x, y + 6)))
    wall.CreatePolygonFixture(box=(20, 1))
    for _ in range(80):
        env.step(np.array([0.0, 1.0, 0.0]))
    assert math.dist(env.car.hull.position, (x, y)) < 6
    assert env.tile_visited_count > 0


class Mallinfo2(ctypes.Structure):
    """What glibc's malloc tells of itself: the fifth number is the bytes in large blocks, the eighth those in all others."""

    _fields_ = [(f"field_{i}", ctypes.c_size_t) for i in range(10)]


def allocated() -> np.ndarray:
    """Return the bytes that C and C++ have allocated and not freed, and Python's number of blocks. glibc 2.33 or later."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo2
    gc.collect()
    found = mallinfo2()
    return np.array([found.field_4 + found.field_7, sys.getallocatedblocks()])


needs_glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="no glibc")


@needs_glibc
def test_a_reset_leaks_no_shapes() -> None:
    env = CarRacing()
    sizes = []
    for episode in range(60):
        env.reset(seed=episode % 10)
        if episode % 10 == 9:
            sizes.append(allocated()[0])
    assert (sizes[-1] - sizes[1]) / 40 < 1000  # a car has eight shapes of 304 bytes


@needs_glibc
@pytest.mark.slow
@pytest.mark.parametrize("grayscale", [True, False])
def test_an_episode_leaves_no_memory_behind(grayscale: bool) -> None:
    """Five tracks are driven alike in each round, so that the eight shapes of a car would show, which are 2.4 KB."""
    env = CarRacing(frame_skip=8, grayscale=grayscale)
    sizes = []
    for _ in range(10):
        rng = np.random.default_rng(0)
        for seed in range(5):
            env.reset(seed=seed)
            for _ in range(50):
                env.step(rng.uniform([-0.3, 0, 0], [0.3, 0.5, 0.1]))
        sizes.append(allocated())
    n_bytes, n_blocks = (sizes[-1] - sizes[4]) / 25  # Box2D fills its blocks of memory in the first rounds
    assert n_bytes < 1500
    assert n_blocks < 10
