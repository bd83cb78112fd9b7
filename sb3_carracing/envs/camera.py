"""What joins gymnasium's CarRacing to `Renderer`: reads the numbers of a picture from track and car."""

import math
from typing import Any

import numpy as np

from sb3_carracing.envs.renderer import CarView, Picture, Renderer


class Camera:
    """Takes pictures of one CarRacing, episode after episode.

    Args:
        grayscale: (96, 96) pictures instead of (96, 96, 3).
    """

    def __init__(self, *, grayscale: bool) -> None:
        self._renderer = Renderer(grayscale=grayscale)
        self._polygon_of_tile: list[int] = []

    def start(self, env: Any) -> None:
        """Draw the new track of a gymnasium `CarRacing` into the texture; to be called when it has made one."""
        polygons, colors = zip(*env.road_poly, strict=True)
        self._renderer.start(
            np.array(polygons),
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

    def take(self, car: Any, time: float, score: float) -> Picture:
        """Return a new picture of a gymnasium `Car`, `time` [s] after reset, with `score` on the dashboard."""
        hull, wheels = car.hull, car.wheels
        position, velocity = hull.position, hull.linearVelocity
        view = CarView(
            time,
            position.x,
            position.y,
            hull.angle,
            [wheel.joint.angle for wheel in wheels],
            [wheel.phase for wheel in wheels],
            [wheel.omega for wheel in wheels],
            math.hypot(velocity.x, velocity.y),
            hull.angularVelocity,
            score,
        )
        return self._renderer.draw(view)
