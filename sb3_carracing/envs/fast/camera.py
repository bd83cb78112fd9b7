"""Connect gymnasium's CarRacing to `Renderer` by reading the numbers of an observation from track and car."""

import math
from itertools import chain
from typing import Any

import Box2D
import numpy as np
from Box2D import _Box2D

from sb3_carracing.envs.fast.renderer import CarView, Observation, Renderer, Track

# Box2D's own getters: several times as fast as its Python properties.
_x, _y = Box2D.b2Vec2.x.fget, Box2D.b2Vec2.y.fget
_angle, _turning = _Box2D.b2Body___GetAngle, _Box2D.b2Body___GetAngularVelocity
_joint_angle = _Box2D.b2RevoluteJoint___GetJointAngle


class Camera:
    """Takes the observations of one CarRacing, episode after episode.

    There is one renderer for color and one for gray, each with a texture of several megabytes. Each is made when its first
    observation is requested.
    """

    def __init__(self) -> None:
        self._renderers: dict[bool, Renderer] = {}
        self._started: dict[bool, Renderer] = {}  # those that have drawn this track
        self._touched: list[int] = []
        self._polygon_of_tile: list[int] = []
        self._car: Any = None
        self._parts: Any = None

    def start(self, env: Any) -> None:
        """Note the new track of a gymnasium `CarRacing`; call this whenever it has made one."""
        self._car = self._parts = None
        self._started.clear()
        self._touched.clear()
        polygons, colors = zip(*env.road_poly, strict=True)
        numbers = np.fromiter(chain.from_iterable(chain.from_iterable(polygons)), np.float64)
        # The colors are copied: a tile's own changes when the car touches it.
        self._track = Track(
            numbers.reshape(-1, 4, 2),
            np.array(colors, np.float64),
            road_color=env.road_color,
            field_color=env.bg_color,
            grass_color=env.grass_color,
        )
        # Tiles and borders share one list; a tile's polygon holds the same array object as the tile's color.
        own_color = {id(tile.color) for tile in env.road}
        self._polygon_of_tile = [i for i, color in enumerate(colors) if id(color) in own_color]

    def touch(self, tile_index: int) -> None:
        """Note that the car has touched a tile for the first time: gymnasium then evens out its color."""
        polygon = self._polygon_of_tile[tile_index]
        self._touched.append(polygon)
        for renderer in self._started.values():
            renderer.touch(polygon)

    def take(self, car: Any, time: float, score: float, *, grayscale: bool = False) -> Observation:
        """Return a new observation.

        Args:
            car: A gymnasium `Car`.
            time: Since reset [s].
            score: Shown on the dashboard.
            grayscale: Return (96, 96) instead of (96, 96, 3).
        """
        if car is not self._car:
            self._car, self._parts = car, _parts_of(car)
        hull, position, velocity, joints, wheels = self._parts
        view = CarView(
            time,
            _x(position),
            _y(position),
            _angle(hull),
            [_joint_angle(joint) for joint in joints],
            [wheel["phase"] % math.tau for wheel in wheels],
            [wheel["omega"] for wheel in wheels],
            math.hypot(_x(velocity), _y(velocity)),
            _turning(hull),
            score,
        )
        renderer = self._started.get(grayscale) or self._start_renderer(grayscale)
        return renderer.draw(view)

    def _start_renderer(self, grayscale: bool) -> Renderer:
        """Draw the track as it is now, with the tiles touched so far."""
        if grayscale not in self._renderers:
            self._renderers[grayscale] = Renderer(grayscale=grayscale)
        renderer = self._started[grayscale] = self._renderers[grayscale]
        renderer.start(self._track)
        for polygon in self._touched:
            renderer.touch(polygon)
        return renderer


def _parts_of(car: Any) -> tuple[Any, Any, Any, list[Any], list[dict[str, Any]]]:
    """Return hull, its position and velocity, the wheels' joints and own attributes; all stay views of a living car."""
    hull = car.hull
    joints = [wheel.joint.this for wheel in car.wheels]
    return hull.this, hull.position.this, hull.linearVelocity.this, joints, [vars(wheel) for wheel in car.wheels]
