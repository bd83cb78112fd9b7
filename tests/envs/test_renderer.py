"""The fast observation against gymnasium's, drawn from the same track and car: whole observations, and part by part."""

import math
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pygame
import pytest
from drivers import CentreLineDriver
from gymnasium.envs.box2d import car_dynamics
from gymnasium.envs.box2d import car_racing as stock
from numpy.typing import NDArray

from sb3_carracing.envs.car_racing import CarRacing, to_gray
from sb3_carracing.envs.fast import dashboard, renderer, texture
from sb3_carracing.envs.fast.camera import Camera

LIMIT, LIMIT_RANDOMIZED = 1.5, 3.0  # mean absolute difference of a whole observation, in grey levels
Observation = NDArray[np.uint8]


def difference(first: Observation, second: Observation) -> float:
    return float(np.mean(cv2.absdiff(first, second)))


class Pair:
    """A stock environment and both cameras on it, colour and grey, told of every tile that the car touches."""

    def __init__(self, seed: int, **kwargs: Any) -> None:
        self.env = stock.CarRacing(**kwargs)
        self.camera = Camera()
        self.reset(seed)

    def reset(self, seed: int) -> None:
        self.env.reset(seed=seed)
        self.camera.start(self.env)

    def observations(self) -> tuple[Observation, Observation, Observation]:
        """Gymnasium's observation of the present moment, ours in colour and ours in grey."""
        env = self.env
        colour, gray = (self.camera.take(env.car, env.t, env.reward, grayscale=gray) for gray in (False, True))
        return env._render("state_pixels"), colour, gray

    def assert_alike(self, limit: float) -> None:
        official, colour, gray = self.observations()
        assert difference(official, colour) <= limit
        assert difference(to_gray(official), gray) <= limit
        assert np.max(cv2.absdiff(to_gray(colour), gray)) <= 1
        assert_bars_end_together(official, colour)
        # The car is a hundredth of the observation: without this it could be missing.
        car = (renderer.CAR_ROWS, renderer.CAR_COLUMNS)
        assert difference(official[car], colour[car]) <= 12.0


def bar_lengths(observation: Observation) -> NDArray[np.float64]:
    """Lengths in pixels of speed, the middles of the wheels' bars, steering and turning, from their mass."""
    strip = observation[84:].astype(float)
    upright = [strip[:, column].sum(axis=0).max() / 253 for column in (13, 18, 20, 22, 25)]
    sideways = [strip[4, 30:72, 1].sum() / 253, strip[4, 50:, 0].sum() / 253]
    return np.array(upright + sideways)


def assert_bars_end_together(official: Observation, ours: Observation) -> None:
    assert np.max(np.abs(bar_lengths(official) - bar_lengths(ours))) <= 1.0


def place_anywhere(env: Any, rng: np.random.Generator, time: float) -> None:
    """Put the car anywhere on the field or just off it, in any state that a observation shows."""
    car = env.car
    env.t, env.reward = time, rng.uniform(-100, 1000)
    if rng.random() < 0.7:
        x, y = env.track[rng.integers(len(env.track))][2:] + rng.normal(0, 5, 2)
    else:
        x, y = rng.uniform(-stock.PLAYFIELD - 10, stock.PLAYFIELD + 10, 2)
    angle = rng.uniform(-10, 10)
    car.hull.position, car.hull.angle = (x, y), angle
    car.hull.linearVelocity = rng.normal(0, 40, 2).tolist()
    car.hull.angularVelocity = rng.normal(0, 2)
    for i, (wheel, (right, forward)) in enumerate(zip(car.wheels, car_dynamics.WHEELPOS, strict=True)):
        w_x, w_y = right * car_dynamics.SIZE, forward * car_dynamics.SIZE
        cos, sin = math.cos(angle), math.sin(angle)
        wheel.position = (x + cos * w_x - sin * w_y, y + sin * w_x + cos * w_y)
        wheel.angle = angle + (rng.uniform(-0.4, 0.4) if i < 2 else rng.uniform(-0.05, 0.05))
        wheel.phase, wheel.omega = rng.uniform(-50, 50), rng.uniform(-20, 300)


@pytest.mark.parametrize("domain_randomize", [False, True])
def test_any_moment_looks_like_gymnasiums(domain_randomize: bool) -> None:
    rng = np.random.default_rng(1)
    for seed in range(3):
        pair = Pair(seed, domain_randomize=domain_randomize)
        for _ in range(25):
            place_anywhere(pair.env, rng, rng.choice([rng.uniform(0.02, 1.0), rng.uniform(1.0, 20.0)]))
            pair.assert_alike(LIMIT_RANDOMIZED if domain_randomize else LIMIT)


def test_the_opening_looks_like_gymnasiums_in_every_frame() -> None:
    rng = np.random.default_rng(2)
    pair = Pair(3)
    for frame in range(1, 60):
        place_anywhere(pair.env, rng, frame / stock.FPS)
        pair.assert_alike(LIMIT)


def assert_episode_alike(seed: int, driven: bool, every: int, n_frames: int, **kwargs: Any) -> None:
    """Play one episode on both environments: every frame of the opening and then every so many are compared."""
    theirs: Any = stock.CarRacing(**kwargs)
    mine = CarRacing(**kwargs)
    observation, _ = theirs.reset(seed=seed)
    observation_2, _ = mine.reset(seed=seed)
    draw = theirs._render
    drive = CentreLineDriver(theirs)
    rng = np.random.default_rng(seed)
    limit = LIMIT_RANDOMIZED if kwargs.get("domain_randomize") else LIMIT
    for frame in range(1, n_frames + 1):
        assert difference(observation, observation_2) <= limit, f"frame {frame - 1}"
        assert_bars_end_together(observation, observation_2)
        action = drive() if driven else rng.uniform([-1, 0, 0], [1, 1, 1]).astype(np.float32)
        theirs._render = draw if frame < 60 or frame % every == 0 else lambda mode: None
        observation, _, terminated, _, _ = theirs.step(action)
        observation_2, *_ = mine.step(action)
        if observation is None:
            observation = observation_2
        if terminated:
            break


@pytest.mark.parametrize("driven", [False, True])
@pytest.mark.parametrize("domain_randomize", [False, True])
def test_a_drive_looks_like_gymnasiums(driven: bool, domain_randomize: bool) -> None:
    assert_episode_alike(7, driven, every=20, n_frames=400, domain_randomize=domain_randomize)


@pytest.mark.slow
@pytest.mark.parametrize("driven", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_whole_episodes_look_like_gymnasiums(seed: int, driven: bool) -> None:
    assert_episode_alike(100 + seed, driven, every=5, n_frames=1000)


@pytest.mark.slow
@pytest.mark.parametrize("driven", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_whole_randomized_episodes_look_like_gymnasiums(seed: int, driven: bool) -> None:
    assert_episode_alike(200 + seed, driven, every=5, n_frames=1000, domain_randomize=True)


def test_grey_is_the_colour_observation_converted() -> None:
    colour, gray = CarRacing(frame_skip=4), CarRacing(frame_skip=4, grayscale=True)
    first, second = colour.reset(seed=5)[0], gray.reset(seed=5)[0]
    drive = CentreLineDriver(colour)
    for _ in range(60):
        assert np.max(cv2.absdiff(to_gray(first), second)) <= 1
        action = drive()
        first, second = colour.step(action)[0], gray.step(action)[0]


@pytest.mark.parametrize("gray", [False, True])
def test_a_new_track_leaves_nothing_of_the_last_one(gray: bool) -> None:
    """Colours that change and colours that stay; a texture that restores and one that is painted whole."""
    first, second = (Pair(seed) for seed in (1, 2))
    randomized = Pair(3, domain_randomize=True)
    used, fresh = Camera(), Camera()
    for pair in (first, randomized, first, second):
        used.start(pair.env)
        used.take(pair.env.car, 2.0, 0.0, grayscale=gray)
        used.touch(5)
    fresh.start(second.env)
    fresh.touch(5)
    rng = np.random.default_rng(0)
    for time in (0.02, 0.2, 0.4, 0.9, 2.0, 3.0):
        place_anywhere(second.env, rng, time)
        view = (second.env.car, time, 0.0)
        assert np.array_equal(used.take(*view, grayscale=gray), fresh.take(*view, grayscale=gray))
    assert np.array_equal(used._renderers[gray]._texture.texels, fresh._renderers[gray]._texture.texels)


def test_a_touched_tile_takes_the_roads_colour() -> None:
    pair = Pair(4)
    env: Any = pair.env
    place_anywhere(env, np.random.default_rng(0), 2.0)
    tile = next(i for i, t in enumerate(env.road) if i > 20 and (t.color != env.road_color).all())
    x, y = np.mean(env.track[tile - 1 : tile + 1], axis=0)[2:]
    env.car.hull.position, env.car.hull.angle = (x, y - 8), 0.0
    _, before, _ = pair.observations()
    env.road[tile].color[:] = env.road_color
    pair.camera.touch(tile)
    official, after, _ = pair.observations()
    changed = np.argwhere(np.any(before != after, axis=2))
    assert len(changed) > 20
    assert tuple(after[tuple(np.median(changed, axis=0).astype(int))]) == (100, 100, 100)
    assert difference(official, after) < difference(official, before)


def test_bars_and_digits_are_gymnasiums_for_any_values() -> None:
    rng = np.random.default_rng(0)
    drawn = dashboard.Dashboard(grayscale=False)
    theirs: Any = stock.CarRacing
    for i in range(150):
        speed, turning, steering = abs(rng.normal(0, 40)), rng.normal(0, 3), rng.uniform(-0.45, 0.45)
        omegas = rng.uniform(-60, 320, 4) * (rng.random(4) < 0.8)
        score = rng.uniform(-150, 1000) if i else -0.4
        wheels = [SimpleNamespace(omega=omega, joint=SimpleNamespace(angle=steering)) for omega in omegas]
        hull = SimpleNamespace(linearVelocity=(speed, 0.0), angularVelocity=turning)
        window = pygame.Surface((1000, 800))
        stage = SimpleNamespace(surf=window, car=SimpleNamespace(hull=hull, wheels=wheels))
        theirs._render_indicators(stage, 1000, 800)
        official = theirs._create_image_array(None, window, (96, 96))
        ours = np.zeros_like(official)
        drawn.draw(ours[84:], (speed, *omegas), steering, turning, score)
        # A bar that ends in a pixel of another's: one window pixel of the ten across may differ.
        assert_bars_end_together(official, ours)
        assert np.mean(cv2.absdiff(ours[84:, 12:], official[84:, 12:]) > 30) < 0.01
    pygame.font.init()


def test_the_bar_shows_the_speed() -> None:
    rng = np.random.default_rng(0)
    pair = Pair(1)
    errors = []
    for _ in range(40):
        speed = float(rng.uniform(3.0, 130.0))  # a shorter bar ends in its lowest row
        place_anywhere(pair.env, rng, 2.0)
        angle = rng.uniform(-np.pi, np.pi)
        assert pair.env.car is not None
        pair.env.car.hull.linearVelocity = (speed * np.cos(angle), speed * np.sin(angle))
        errors += [dashboard.shown_speed(observation[84:]) - speed for observation in pair.observations()]
    assert np.abs(errors).max() < 1.5
    assert abs(np.mean(errors)) < 0.2
    assert dashboard.shown_speed(np.zeros((12, 96), np.uint8)) == 0.0


@pytest.mark.parametrize("score", [0.0, -0.4, 7.6, -12.0, 123.4, 899.5, 999.9, -100.0])
def test_digits_are_gymnasiums(score: float) -> None:
    pair = Pair(1)
    place_anywhere(pair.env, np.random.default_rng(0), 2.0)
    pair.env.reward = score
    official, colour, gray = pair.observations()
    assert official[84:, :12].max() > 100
    assert np.max(cv2.absdiff(official[84:, :12], colour[84:, :12])) <= 1
    assert np.max(cv2.absdiff(to_gray(official)[84:, :12], gray[84:, :12])) <= 1


def test_digits_are_written_also_after_pygame_has_quit() -> None:
    first = dashboard._score("4321", True)
    dashboard._score.cache_clear()
    pygame.quit()
    assert np.array_equal(dashboard._score("4321", True), first)


def test_geometry_is_gymnasiums() -> None:
    assert (stock.STATE_W, stock.STATE_H) == (renderer.SIZE, renderer.SIZE)
    assert (stock.WINDOW_W, stock.WINDOW_H) == renderer.WINDOW
    assert stock.PLAYFIELD == texture.FIELD
    assert pytest.approx(2 * texture.FIELD) == stock.GRASS_DIM * texture.PATCHES
    assert pytest.approx(renderer.FINAL_ZOOM) == stock.ZOOM * stock.SCALE
    assert pytest.approx(renderer.FIRST_ZOOM) == stock.SCALE * 0.1
    unit = car_dynamics.SIZE
    hull = (car_dynamics.HULL_POLY1, car_dynamics.HULL_POLY2, car_dynamics.HULL_POLY3, car_dynamics.HULL_POLY4)
    for outline, corners in zip(renderer.HULL, hull, strict=True):
        assert np.allclose(outline, [complex(x, -y) * unit for x, y in corners])
    assert np.allclose(renderer.WHEEL_CENTRES, [complex(x, -y) * unit for x, y in car_dynamics.WHEELPOS])
    assert np.allclose(renderer.WHEEL_HALF, complex(car_dynamics.WHEEL_W, car_dynamics.WHEEL_R) * unit)
    assert renderer.STRIPE_COLOR == car_dynamics.WHEEL_WHITE


def test_every_observation_is_its_own() -> None:
    camera = Pair(1).camera
    env = Pair(1).env
    camera.start(env)
    first = camera.take(env.car, 2.0, 0.0)
    kept = first.copy()
    camera.take(env.car, 3.0, 500.0)
    assert np.array_equal(first, kept)
