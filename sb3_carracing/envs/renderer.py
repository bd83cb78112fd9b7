"""CarRacing's picture for agents, more than a hundred times faster than gymnasium draws it.

Gymnasium draws every polygon of track and field into a 1000 x 800 window, each frame anew, and shrinks it to 96 x 96.
Here field and road are drawn once an episode into a texture seen from above; a picture is one warp of that texture,
with the car drawn over it in a small enlarged patch and a dashboard put together from ready-made strips. Camera, zoom,
outlines and colours are gymnasium's; this module knows neither gymnasium nor Box2D, only numbers.

Lengths are in gymnasium's world units unless a name or a comment says window pixels, picture pixels or texels.
"""

import cmath
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from sb3_carracing.envs.dashboard import GRAY, Dashboard, darkened
from sb3_carracing.envs.texture import FIELD, Level, Texture

Picture = NDArray[np.uint8]
"""(96, 96, 3) in colour or (96, 96) in grey."""
Color = Sequence[float] | NDArray[np.float64]
"""(3,) RGB, 0 to 255."""

SIZE = 96  # picture pixels a side
ROAD_ROWS = 84  # picture rows above the dashboard
WINDOW = (1000, 800)  # window pixels, shrunk to the picture
CAMERA = (500.0, 200.0)  # where the car stands: window pixels from the left and from below
FIRST_ZOOM, FINAL_ZOOM = 0.6, 16.2  # window pixels a unit at time 0, and from one second on

FINE = 2000  # texels a side: 3 a unit, where linear interpolation blurs as much as gymnasium's shrinking
COARSE = 480  # texels a side of the texture for the opening, which shows the whole field

CAR_UNIT = 0.02
"""Of the outlines below: points x + iy in the car's own frame, y ahead, and turned over, as picture rows go down."""
WHEEL_CENTRES = [complex(x, -y) * CAR_UNIT for x, y in ((-55, 80), (55, 80), (-55, -82), (55, -82))]
WHEEL_HALF = (14 + 27j) * CAR_UNIT  # half its width, and its radius
WHEEL_CORNERS = [complex(x * WHEEL_HALF.real, y * WHEEL_HALF.imag) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
STRIPE_TURN = 1.2  # radians of a wheel's rim that are lighter
ANGLE_STEPS, PHASE_STEPS = 32, 10  # a radian, in which a wheel's steering and rotation are told apart
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

CAR_ROWS, CAR_COLUMNS = slice(66, 78), slice(45, 51)  # picture pixels that the car can cover
CELLS = (60, 96)  # columns and rows of these pixels enlarged: 10 x 8 cells a pixel
CELLS_PER_WINDOW_PIXEL = 0.96  # the same across and down
CAR_CELL = 30 + 48j  # where the car stands, from the left and from above


class CarView(NamedTuple):
    """What a picture shows of the car, its instruments and the episode."""

    time: float  # since reset [s]
    x: float
    y: float
    angle: float  # [rad]
    wheel_angles: Sequence[float]  # (4,) against the hull [rad]: front left and right, rear left and right
    wheel_phases: Sequence[float]  # (4,) rotation [rad]
    wheel_speeds: Sequence[float]  # (4,) [rad/s]
    speed: float
    turning: float  # angular velocity [rad/s]
    score: float


class Renderer:
    """Draws the pictures of one episode after another.

    Args:
        grayscale: draw one channel, in colours converted by 0.299 R + 0.587 G + 0.114 B.
    """

    def __init__(self, *, grayscale: bool = False) -> None:
        self.grayscale = grayscale
        self._channels = () if grayscale else (4,)  # cv2 warps four channels twice as fast as three
        self._fine, self._coarse = Texture(FINE, self._channels), Texture(COARSE, self._channels)
        self._halved: list[Picture] = []
        self._road = np.zeros((ROAD_ROWS, SIZE, *self._channels), np.uint8)
        self._dashboard = Dashboard(grayscale=grayscale)
        self._stripe_color, self._hull_color, self._road_color = self._colors([STRIPE_COLOR, HULL_COLOR, (0, 0, 0)])
        self._final_hull = np.zeros((CELLS[1], CELLS[0], *self._channels), np.uint8)
        self._final_hull_mask = np.zeros((CELLS[1], CELLS[0]), np.uint8)
        _fill_hull(self._final_hull, self._hull_color, FINAL_ZOOM)
        _fill_hull(self._final_hull_mask, [255.0], FINAL_ZOOM)

    def start(
        self,
        polygons: NDArray[np.float64],
        colors: Sequence[Color],
        *,
        road_color: Color,
        field_color: Color,
        grass_color: Color,
    ) -> None:
        """Draw the texture of a new track.

        Args:
            polygons: (n, 4, 2), in drawing order: left and right at a tile's one end, right and left at its other.
            colors: (n, 3) of the polygons.
            road_color: of a polygon after `touch`.
            field_color: of the field around the road.
            grass_color: of the patches on the field.
        """
        field, grass, self._road_color = self._colors([field_color, grass_color, road_color])
        levels = self._colors(colors)
        for texture in (self._fine, self._coarse):
            texture.start(polygons, levels, field, grass)
        self._halved = []

    def touch(self, index: int) -> None:
        """Give polygon `index` the road's colour, as gymnasium does once the car has touched a tile."""
        self._fine.repaint(index, self._road_color)

    def draw(self, view: CarView) -> Picture:
        """Return a new picture."""
        picture = np.empty((SIZE, SIZE) if self.grayscale else (SIZE, SIZE, 3), np.uint8)
        road = picture[:ROAD_ROWS] if self.grayscale else self._road
        zoom = FIRST_ZOOM * max(1.0 - view.time, 0.0) + FINAL_ZOOM * min(view.time, 1.0)
        self._draw_road(road, view, zoom)
        self._draw_car(road[CAR_ROWS, CAR_COLUMNS], view, zoom)
        if not self.grayscale:
            cv2.cvtColor(road, cv2.COLOR_RGBA2RGB, picture[:ROAD_ROWS])
        speeds = (view.speed, *view.wheel_speeds)
        self._dashboard.draw(picture[ROAD_ROWS:], speeds, view.wheel_angles[0], view.turning, view.score)
        return picture

    def _colors(self, colors: Sequence[Color]) -> list[Level]:
        """Turn RGB colours (n, 3) into the texture's: as dark as shrinking leaves them, in one channel or four."""
        rgb = darkened(np.asarray(colors, np.float64))
        levels = np.rint(rgb @ GRAY[:, None]) if self.grayscale else np.pad(rgb, ((0, 0), (0, 1)))
        return cast(list[Level], levels.tolist())

    def _draw_road(self, picture: Picture, view: CarView, zoom: float) -> None:
        if zoom == FINAL_ZOOM:
            _warp(self._fine.texels, picture, view, zoom, finer=1)
            return
        # In the opening four points a pixel are averaged, of a texture on which they lie no more than 4 texels apart.
        halvings = int(math.log2(FINAL_ZOOM / zoom))
        texels = self._fine.texels if halvings < 2 else self._coarse_halved(halvings - 2)
        points = np.empty((2 * ROAD_ROWS, 2 * SIZE, *self._channels), np.uint8)
        _warp(texels, points, view, zoom, finer=2)
        cv2.resize(points, (SIZE, ROAD_ROWS), picture, interpolation=cv2.INTER_AREA)

    def _coarse_halved(self, times: int) -> Picture:
        """Return the coarse texture halved so many times, made when the episode first asks for it."""
        if not self._halved:
            self._halved = [self._coarse.texels]
        while len(self._halved) <= times:
            side = COARSE >> len(self._halved)
            smaller = cv2.resize(self._halved[-1], (side, side), interpolation=cv2.INTER_AREA)
            self._halved.append(np.asarray(smaller, np.uint8))
        return self._halved[times]

    def _draw_car(self, part: Picture, view: CarView, zoom: float) -> None:
        """Draw wheels and hull over `part` of a picture, enlarged, and shrink it again: that smooths their edges."""
        cells = np.asarray(cv2.resize(part, CELLS, interpolation=cv2.INTER_NEAREST), np.uint8)
        for outline, stripe in _wheels(view, zoom):
            cv2.fillConvexPoly(cells, outline, WHEEL_COLOR)
            if stripe is not None:
                cv2.fillConvexPoly(cells, stripe, self._stripe_color)
        if zoom == FINAL_ZOOM:
            cv2.copyTo(self._final_hull, self._final_hull_mask, cells)
        else:
            _fill_hull(cells, self._hull_color, zoom)
        cv2.resize(cells, part.shape[1::-1], part, interpolation=cv2.INTER_AREA)


def _warp(texture: Picture, picture: Picture, view: CarView, zoom: float, finer: int) -> None:
    """Fill `picture`, whose pixels are `finer` times as fine as the final ones, with what the camera sees."""
    per_unit = len(texture) / (2 * FIELD)
    scale = per_unit / zoom  # texels a window pixel
    right, down = WINDOW[0] / (SIZE * finer), WINDOW[1] / (SIZE * finer)  # window pixels a pixel
    cos, sin = scale * math.cos(view.angle), scale * math.sin(view.angle)
    left = 0.5 * right - CAMERA[0]
    top = WINDOW[1] - 0.5 * down - CAMERA[1]
    matrix = np.array(
        (
            (cos * right, sin * down, cos * left - sin * top + (view.x + FIELD) * per_unit - 0.5),
            (sin * right, -cos * down, sin * left + cos * top + (view.y + FIELD) * per_unit - 0.5),
        )
    )
    size = (picture.shape[1], picture.shape[0])
    cv2.warpAffine(texture, matrix, size, picture, cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def _in_cells(points: NDArray[np.complex128], zoom: float) -> NDArray[np.int32]:
    """Return whole cells (..., 2) of points (...,) in the car's frame."""
    cells = CAR_CELL + points * (zoom * CELLS_PER_WINDOW_PIXEL)
    return cells.view(np.float64).reshape(*points.shape, 2).astype(np.int32)


def _fill_hull(cells: Picture, color: Level, zoom: float) -> None:
    for outline in HULL:
        cv2.fillConvexPoly(cells, _in_cells(np.asarray(outline, np.complex128), zoom), color)


def _stripe(phase: float) -> list[complex] | None:
    """Return the corners of a wheel's lighter stripe as far as it is on the upper side, or None."""
    sin_1, sin_2 = math.sin(phase), math.sin(phase + STRIPE_TURN)
    if sin_1 > 0 and sin_2 > 0:
        return None
    cos_1, cos_2 = math.cos(phase), math.cos(phase + STRIPE_TURN)
    first = math.copysign(1.0, cos_1) if sin_1 > 0 else cos_1
    last = math.copysign(1.0, cos_2) if sin_2 > 0 else cos_2
    left, right = -WHEEL_HALF.real, WHEEL_HALF.real
    first, last = -WHEEL_HALF.imag * first, -WHEEL_HALF.imag * last
    return [complex(left, first), complex(right, first), complex(right, last), complex(left, last)]


class Wheel(NamedTuple):
    """Outlines in cells (4, 2) of a wheel and of its stripe, which may be out of sight."""

    outline: NDArray[np.int32]
    stripe: NDArray[np.int32] | None


def _wheel(place: int, angle: float, phase: float, zoom: float) -> Wheel:
    turn = cmath.rect(1.0, -angle)
    outline = _in_cells(WHEEL_CENTRES[place] + turn * np.array(WHEEL_CORNERS), zoom)
    stripe = _stripe(phase)
    return Wheel(outline, None if stripe is None else _in_cells(WHEEL_CENTRES[place] + turn * np.array(stripe), zoom))


@lru_cache(maxsize=1 << 13)
def _final_wheel(place: int, angle_step: int, phase_step: int) -> Wheel:
    """Return a wheel at the final zoom, in steps by which nothing moves as far as half a window pixel."""
    return _wheel(place, angle_step / ANGLE_STEPS, phase_step / PHASE_STEPS, FINAL_ZOOM)


def _wheels(view: CarView, zoom: float) -> list[Wheel]:
    wheels = []
    for place in range(4):
        angle, phase = view.wheel_angles[place], view.wheel_phases[place] % math.tau
        if zoom == FINAL_ZOOM:
            wheels.append(_final_wheel(place, round(angle * ANGLE_STEPS), round(phase * PHASE_STEPS)))
        else:
            wheels.append(_wheel(place, angle, phase, zoom))
    return wheels
