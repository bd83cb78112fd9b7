"""CarRacing's observation, drawn more than a hundred times faster than by gymnasium.

Gymnasium draws every polygon of track and field into a 1000 x 800 window, anew for each frame, and shrinks it to 96 x 96.
Here field and road are drawn once per episode into a texture seen from above. An observation is one warp of that texture.
The car is drawn over it in a small enlarged patch, and the dashboard is put together from prepared strips. Camera, zoom,
outlines and colors are gymnasium's. This module knows neither gymnasium nor Box2D, only numbers.

Lengths are in gymnasium's world units unless a name or a comment says window pixels, pixels (of the observation) or texels.
"""

import cmath
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from sb3_carracing.envs.fast.dashboard import GRAY, Dashboard, darkened
from sb3_carracing.envs.fast.texture import FIELD, Level, Texture

Observation = NDArray[np.uint8]
"""(96, 96, 3) in color or (96, 96) in gray."""
Color = Sequence[float] | NDArray[np.float64]
"""(3,) RGB, 0 to 255."""

SIZE = 96  # pixels per side
ROAD_ROWS = 84  # rows above the dashboard
WINDOW = (1000, 800)  # window pixels, shrunk to the observation
CAMERA = (500.0, 200.0)  # position of the car: window pixels from the left and from below
FIRST_ZOOM, FINAL_ZOOM = 0.6, 16.2  # window pixels per unit at time 0, and from one second on

TEXELS = 1600  # per side: at 2.4 per unit linear interpolation blurs nearly as much as gymnasium's shrinking

CAR_UNIT = 0.02
"""Unit of the outlines below: points x + iy in the car's own frame, with y ahead, negated since rows count downwards."""
WHEEL_CENTRES = [complex(x, -y) * CAR_UNIT for x, y in ((-55, 80), (55, 80), (-55, -82), (55, -82))]
WHEEL_HALF = (14 + 27j) * CAR_UNIT  # half of its width, and its radius
WHEEL_CORNERS = [complex(x * WHEEL_HALF.real, y * WHEEL_HALF.imag) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
STRIPE_TURN = 1.2  # part of a wheel's rim that is lighter [rad]
ANGLE_STEPS, PHASE_STEPS = 16, 10  # per radian: resolution of a wheel's steering and of its rotation
HULL = [
    np.conj(outline) * CAR_UNIT
    for outline in (
        [-60 + 130j, 60 + 130j, 60 + 110j, -60 + 110j],
        [-15 + 120j, 15 + 120j, 20 + 20j, -20 + 20j],
        [25 + 20j, 50 - 10j, 50 - 40j, 20 - 90j, -20 - 90j, -50 - 40j, -50 - 10j, -25 + 20j],
        [-50 - 120j, 50 - 120j, 50 - 90j, -50 - 90j],
    )
]
WHEEL_COLOR, STRIPE_COLOR, HULL_COLOR = (0, 0, 0), (77, 77, 77), (204, 0, 0)

CAR_ROWS, CAR_COLUMNS = slice(66, 78), slice(45, 51)  # pixels that the car can cover
CAR_SHAPE = (CAR_ROWS.stop - CAR_ROWS.start, CAR_COLUMNS.stop - CAR_COLUMNS.start)
QUARTERS = [(rows, columns) for rows in (slice(6), slice(6, None)) for columns in (slice(3), slice(3, None))]
"""Those of these pixels that a wheel can cover, by wheel."""
CELLS = (60, 96)  # columns and rows of these pixels enlarged: 10 x 8 cells per pixel
CELLS_PER_WINDOW_PIXEL = 0.96  # the same across and down
CAR_CELL = 30 + 48j  # position of the car, from the left and from above


class CarColors(NamedTuple):
    """Colors of the parts of the car, as levels of each channel."""

    wheel: tuple[float, ...]
    stripe: tuple[float, ...]
    hull: tuple[float, ...]


class CarView(NamedTuple):
    """What an observation shows of the car, its instruments and the episode."""

    time: float  # since reset [s]
    x: float
    y: float
    angle: float  # [rad]
    wheel_angles: Sequence[float]  # (4,) relative to the hull [rad]: front left and right, rear left and right
    wheel_phases: Sequence[float]  # (4,) rotation [rad], from 0 to a full turn
    wheel_speeds: Sequence[float]  # (4,) [rad/s]
    speed: float
    turning: float  # angular velocity [rad/s]
    score: float


class Track(NamedTuple):
    """What the texture shows.

    Attributes:
        polygons: (n, 4, 2), in drawing order: left and right at a tile's one end, right and left at its other.
        colors: (n, 3) of the polygons.
        road_color: Of a polygon after `touch`.
        field_color: Of the field around the road.
        grass_color: Of the patches on the field.
    """

    polygons: NDArray[np.float64]
    colors: NDArray[np.float64]
    road_color: Color
    field_color: Color
    grass_color: Color


class Renderer:
    """Draws the observations of one episode after another.

    Args:
        grayscale: Draw one channel, with colors converted by 0.299 R + 0.587 G + 0.114 B.
    """

    def __init__(self, *, grayscale: bool = False) -> None:
        self.grayscale = grayscale
        self._shape = (SIZE, SIZE) if grayscale else (SIZE, SIZE, 3)
        self._channels = () if grayscale else (4,)  # cv2 warps four channels twice as fast as three
        self._texture = Texture(TEXELS, self._channels)
        self._halvings = [self._texture.texels]
        self._road = np.zeros((ROAD_ROWS, SIZE, *self._channels), np.uint8)
        self._points = np.empty((2 * ROAD_ROWS, 2 * SIZE, *self._channels), np.uint8)
        self._dashboard = Dashboard(grayscale=grayscale)
        self._car_colors = CarColors(*map(tuple, self._colors([WHEEL_COLOR, STRIPE_COLOR, HULL_COLOR])))
        self._quarters = _quarters(self._car_colors)
        car = np.empty((2, *CAR_SHAPE, *self._channels), np.float32)
        self._visible, self._added = car
        self._places = [car[:, rows, columns] for rows, columns in QUARTERS]
        self._levels = np.empty_like(self._added)
        self._road_color: Level = []

    def start(self, track: Track) -> None:
        """Draw the texture of a new track."""
        field, grass, self._road_color = self._colors([track.field_color, track.grass_color, track.road_color])
        self._texture.start(track.polygons, self._colors(track.colors), field, grass)
        self._halvings = [self._texture.texels]

    def touch(self, index: int) -> None:
        """Give polygon `index` the road's color, as gymnasium does once the car has touched a tile."""
        self._texture.repaint(index, self._road_color)

    def draw(self, view: CarView) -> Observation:
        """Return a new observation."""
        observation = np.zeros(self._shape, np.uint8)
        road = observation[:ROAD_ROWS] if self.grayscale else self._road
        zoom = FINAL_ZOOM if view.time >= 1.0 else FIRST_ZOOM * (1.0 - view.time) + FINAL_ZOOM * view.time
        self._draw_road(road, view, zoom)
        self._draw_car(road[CAR_ROWS, CAR_COLUMNS], view, zoom)
        if not self.grayscale:
            cv2.cvtColor(road, cv2.COLOR_RGBA2RGB, observation[:ROAD_ROWS])
        speeds = (view.speed, *view.wheel_speeds)
        self._dashboard.draw(observation[ROAD_ROWS:], speeds, view.wheel_angles[0], view.turning, view.score)
        return observation

    def _colors(self, colors: Sequence[Color] | NDArray[np.float64]) -> list[Level]:
        """Turn RGB colors (n, 3) into the texture's: as dark as shrinking leaves them, in one channel or four."""
        rgb = darkened(np.asarray(colors, np.float64))
        levels = np.rint(rgb @ GRAY[:, None]) if self.grayscale else np.pad(rgb, ((0, 0), (0, 1)))
        return cast(list[Level], levels.tolist())

    def _draw_road(self, pixels: Observation, view: CarView, zoom: float) -> None:
        if zoom == FINAL_ZOOM:
            _warp(self._texture.texels, pixels, view, zoom, finer=1)
            return
        # In the first second four points per pixel are averaged, from a texture on which they are at most 2 texels apart.
        texels = self._halved(int(math.log2(FINAL_ZOOM / zoom)))
        _warp(texels, self._points, view, zoom, finer=2)
        cv2.resize(self._points, (SIZE, ROAD_ROWS), pixels, interpolation=cv2.INTER_AREA)

    def _halved(self, times: int) -> Observation:
        """Return the texture halved a number of times, made when an episode first needs it."""
        while len(self._halvings) <= times:
            side = len(self._halvings[-1]) // 2
            smaller = cv2.resize(self._halvings[-1], (side, side), interpolation=cv2.INTER_AREA)
            self._halvings.append(np.asarray(smaller, np.uint8))
        return self._halvings[times]

    def _draw_car(self, part: Observation, view: CarView, zoom: float) -> None:
        """Draw wheels and hull over the `part` of an observation where the car is."""
        wheels = zip(range(4), view.wheel_angles, view.wheel_phases, strict=True)
        if zoom != FINAL_ZOOM:
            cells = np.asarray(cv2.resize(part, CELLS, interpolation=cv2.INTER_NEAREST), np.uint8)
            _fill_wheels(cells, wheels, zoom, self._car_colors[:2])
            _fill_hull(cells, zoom, self._car_colors.hull)
            cv2.resize(cells, part.shape[1::-1], part, interpolation=cv2.INTER_AREA)
            return
        for place, angle, phase in wheels:
            state = (place, round(angle * ANGLE_STEPS), round(phase * PHASE_STEPS))
            quarter = self._quarters.get(state)
            if quarter is None:
                quarter = self._quarters[state] = _final_quarter(*state, self._car_colors)
            self._places[place][...] = quarter
        levels = self._levels
        levels[...] = part  # not as an operand of `*`, where numpy takes longer to convert it
        levels *= self._visible
        levels += self._added
        part[...] = np.rint(levels, levels)


class Lens(NamedTuple):
    """The mapping from pixels to texels, apart from the position and direction of the camera."""

    per_unit: float  # texels per unit
    right: float  # texels from pixel to pixel
    down: float
    left: float  # texels from the car to the first pixel
    top: float


@lru_cache(maxsize=4)
def _lens(side: int, zoom: float, finer: int) -> Lens:
    per_unit = side / (2 * FIELD)
    scale = per_unit / zoom  # texels per window pixel
    right, down = WINDOW[0] / (SIZE * finer), WINDOW[1] / (SIZE * finer)  # window pixels per pixel
    left, top = 0.5 * right - CAMERA[0], WINDOW[1] - 0.5 * down - CAMERA[1]
    return Lens(per_unit, scale * right, scale * down, scale * left, scale * top)


def _warp(texture: Observation, pixels: Observation, view: CarView, zoom: float, finer: int) -> None:
    """Fill `pixels`, which are `finer` times as fine as the final ones, with what the camera sees."""
    per_unit, right, down, left, top = _lens(len(texture), zoom, finer)
    cos, sin = math.cos(view.angle), math.sin(view.angle)
    x = cos * left - sin * top + (view.x + FIELD) * per_unit - 0.5
    y = sin * left + cos * top + (view.y + FIELD) * per_unit - 0.5
    matrix = np.array(((cos * right, sin * down, x), (sin * right, -cos * down, y)))
    cv2.warpAffine(texture, matrix, pixels.shape[1::-1], pixels, cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def _in_cells(points: NDArray[np.complex128], zoom: float) -> NDArray[np.int32]:
    """Return the cells (..., 2) of points (...,) in the car's frame."""
    cells = CAR_CELL + points * (zoom * CELLS_PER_WINDOW_PIXEL)
    return cells.view(np.float64).reshape(*points.shape, 2).astype(np.int32)


def _stripe(phase: float) -> list[complex] | None:
    """Return the corners of the visible part of a wheel's lighter stripe, or None if it is on the lower side."""
    sin_1, sin_2 = math.sin(phase), math.sin(phase + STRIPE_TURN)
    if sin_1 > 0 and sin_2 > 0:
        return None
    cos_1, cos_2 = math.cos(phase), math.cos(phase + STRIPE_TURN)
    first = math.copysign(1.0, cos_1) if sin_1 > 0 else cos_1
    last = math.copysign(1.0, cos_2) if sin_2 > 0 else cos_2
    left, right = -WHEEL_HALF.real, WHEEL_HALF.real
    first, last = -WHEEL_HALF.imag * first, -WHEEL_HALF.imag * last
    return [complex(left, first), complex(right, first), complex(right, last), complex(left, last)]


def _fill_wheels(
    cells: Observation, wheels: Iterable[tuple[int, float, float]], zoom: float, colors: Sequence[Sequence[float]]
) -> None:
    """Draw wheels, each given by its index, angle and phase, and their stripes, in two colors."""
    outlines, fillings = [], []
    for place, angle, phase in wheels:
        center, turn = WHEEL_CENTRES[place], cmath.rect(1.0, -angle)
        for corners, color in zip((WHEEL_CORNERS, _stripe(phase)), colors, strict=True):
            if corners is not None:
                outlines.append([center + turn * corner for corner in corners])
                fillings.append(color)
    for outline, color in zip(_in_cells(np.array(outlines), zoom), fillings, strict=True):
        cv2.fillConvexPoly(cells, outline, color)


@lru_cache(maxsize=64)
def _hull_in_cells(zoom: float) -> list[NDArray[np.int32]]:
    """Return the hull's outlines. The zooms of the first second are the same in every episode."""
    return [_in_cells(np.asarray(outline, np.complex128), zoom) for outline in HULL]


def _fill_hull(cells: Observation, zoom: float, color: Sequence[float]) -> None:
    for outline in _hull_in_cells(zoom):
        cv2.fillConvexPoly(cells, outline, color)


@lru_cache(maxsize=1)
def _final_hull() -> Observation:
    """Return cells (96, 60) at the final zoom that are 3 under the hull and 0 elsewhere."""
    labels = np.zeros(CELLS[::-1], np.uint8)
    _fill_hull(labels, FINAL_ZOOM, (3,))
    return labels


@lru_cache(maxsize=2)
def _quarters(colors: CarColors) -> dict[tuple[int, int, int], NDArray[np.float32]]:
    """Return the cache of `_final_quarter` that all renderers of these colors share, by its first three arguments."""
    return {}


def _final_quarter(place: int, angle_step: int, phase_step: int, colors: CarColors) -> NDArray[np.float32]:
    """Draw a wheel and its quarter of the hull at the final zoom, in steps of less than half a window pixel of motion.

    Returns:
        (2, 6, 3) or (2, 6, 3, 4) for a quarter of the pixels that the car can cover: the share of the ground that remains
        visible, and the levels that the car adds.
    """
    labels = np.zeros(CELLS[::-1], np.uint8)  # 0 ground, 1 wheel, 2 stripe, 3 hull
    _fill_wheels(labels, [(place, angle_step / ANGLE_STEPS, phase_step / PHASE_STEPS)], FINAL_ZOOM, ((1,), (2,)))
    labels = np.maximum(labels, _final_hull())
    levels = np.array(((1, *(0 for _ in colors.hull)), *((0, *color) for color in colors)), np.float32)
    shares = np.asarray(cv2.resize(levels[labels], CAR_SHAPE[::-1], interpolation=cv2.INTER_AREA), np.float32)[QUARTERS[place]]
    quarter = np.empty((2, *shares.shape[:2], len(colors.hull)), np.float32)
    quarter[0], quarter[1] = shares[..., :1], shares[..., 1:]
    return quarter if len(colors.hull) > 1 else quarter[..., 0]
