"""What joins gymnasium's CarRacing to `Renderer`: reads the numbers of a picture from track and car."""

import math
from itertools import chain
from typing import Any

import Box2D
import numpy as np
from Box2D import _Box2D

from sb3_carracing.envs.fast.renderer import CarView, Observation, Renderer

# Box2D's own getters: several times as fast as its Python properties.
_x, _y = Box2D.b2Vec2.x.fget, Box2D.b2Vec2.y.fget
_angle, _turning = _Box2D.b2Body___GetAngle, _Box2D.b2Body___GetAngularVelocity
_joint_angle = _Box2D.b2RevoluteJoint___GetJointAngle


class Camera:
    """Takes pictures of one CarRacing, episode after episode.

    Args:
        grayscale: (96, 96) pictures instead of (96, 96, 3).
    """

    def __init__(self, *, grayscale: bool) -> None:
        self._renderer = Renderer(grayscale=grayscale)
        self._polygon_of_tile: list[int] = []
        self._car: Any = None
        self._parts: Any = None

    def start(self, env: Any) -> None:
        """Draw the new track of a gymnasium `CarRacing` into the texture; to be called when it has made one."""
        self._car = self._parts = None
        polygons, colors = zip(*env.road_poly, strict=True)
        numbers = np.fromiter(chain.from_iterable(chain.from_iterable(polygons)), np.float64)
        self._renderer.start(
            numbers.reshape(-1, 4, 2),
            colors,
            road_color=env.road_color,
            field_color=env.bg_color,
            grass_color=env.grass_color,
        )
        # Tiles and borders share one list; a tile's polygon holds the very array that is the tile's colour.
        own_color = {id(tile.color) for tile in env.road}
        self._polygon_of_tile = [i for i, color in enumerate(colors) if id(color) in own_color]

    def touch(self, tile_index: int) -> None:
        """Note that the car has touched a tile for the first time: gymnasium then evens out its colour."""
        self._renderer.touch(self._polygon_of_tile[tile_index])

    def take(self, car: Any, time: float, score: float) -> Observation:
        """Return a new picture of a gymnasium `Car`, `time` [s] after reset, with `score` on the dashboard."""
        if car is not self._car:
            self._car, self._parts = car, _parts_of(car)
        hull, position, velocity, joints, wheels = self._parts
        view = CarView(
            time,
            _x(position),
            _y(position),
            _angle(hull),
            [_joint_angle(joint) for joint in joints],
            [wheel["phase"] for wheel in wheels],
            [wheel["omega"] for wheel in wheels],
            math.hypot(_x(velocity), _y(velocity)),
            _turning(hull),
            score,
        )
        return self._renderer.draw(view)


def _parts_of(car: Any) -> tuple[Any, Any, Any, list[Any], list[dict[str, Any]]]:
    """Return hull, its position and velocity, the wheels' joints and own attributes; all stay views of a living car."""
    hull = car.hull
    joints = [wheel.joint.this for wheel in car.wheels]
    return hull.this, hull.position.this, hull.linearVelocity.this, joints, [vars(wheel) for wheel in car.wheels]
