"""CarRacing's field and road, drawn once per episode and seen from above."""

from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Level: TypeAlias = list[float]
"""A color as the texture holds it: one number per channel."""

FIELD = 2000.0 / 6.0
"""Half of the field's side, in gymnasium's world units."""

PATCHES = 40  # across the field; every second one in every second row has the other color of grass
OVERFILL = 0.4  # texels that cv2 fills beyond a polygon's edge
FRACTION_BITS = 6  # of the polygons' fixed-point corners

RESTORED = 8 << 20
"""Size [bytes] from which on restoring what the last road covered is faster than painting the whole field."""


class Texture:
    """A square map of the field whose row 0 is at the lowest y.

    Args:
        side: Length of a side [texels], a multiple of 40 so that the patches of grass end between texels.
        channels: () or (n,).
    """

    def __init__(self, side: int, channels: tuple[int, ...]) -> None:
        self.texels = np.zeros((side, side, *channels), np.uint8)
        self.per_unit = side / (2 * FIELD)
        self._patch = side // PATCHES
        self._large = self.texels.nbytes > RESTORED
        self._field: tuple[Level, Level] | None = None
        self._covered = np.zeros((0, 2), np.intp)
        self._polygons = np.zeros((0, 4, 2), np.int32)

    def start(self, polygons: NDArray[np.float64], colors: list[Level], field: Level, grass: Level) -> None:
        """Draw polygons over a fresh field.

        Args:
            polygons: (n, 4, 2), each with left and right corner at one end of a tile, right and left at the other.
            colors: The polygons' colors.
            field: Color of the field.
            grass: Color of the patches on the field.
        """
        corners = (polygons + FIELD) * self.per_unit - 0.5
        if self._large and (field, grass) == self._field:
            self._restore_patches(field, grass)
        else:
            self._paint_field(field, grass)
        if self._large:
            self._field, self._covered = (field, grass), _patches_under(corners, self._patch)
        across = corners[:, [1, 0, 3, 2]] - corners
        lengths = np.linalg.norm(across, axis=2, keepdims=True)
        corners += across * (OVERFILL / np.maximum(lengths, 2 * OVERFILL))
        self._polygons = np.rint(corners * (1 << FRACTION_BITS)).astype(np.int32)
        for polygon, color in zip(self._polygons, colors, strict=True):
            cv2.fillConvexPoly(self.texels, polygon, color, cv2.LINE_8, FRACTION_BITS)

    def repaint(self, index: int, color: Level) -> None:
        """Draw a polygon again in another color."""
        cv2.fillConvexPoly(self.texels, self._polygons[index], color, cv2.LINE_8, FRACTION_BITS)

    def _paint_field(self, field: Level, grass: Level) -> None:
        patch, period = self._patch, 2 * self._patch
        rows = np.empty((period, PATCHES // 2, period, *self.texels.shape[2:]), np.uint8)
        rows[:] = field
        rows[:patch, :, :patch] = grass
        self.texels.reshape(PATCHES // 2, *rows.shape)[:] = rows

    def _restore_patches(self, field: Level, grass: Level) -> None:
        """Repaint the patches of the field that the last road covered, about a tenth of all patches."""
        last = self._patch - 1
        for column, row in self._covered.tolist():
            corner = (column * self._patch, row * self._patch)
            color = field if column % 2 or row % 2 else grass
            cv2.rectangle(self.texels, corner, (corner[0] + last, corner[1] + last), color, cv2.FILLED)


def _patches_under(corners: NDArray[np.float64], patch: int) -> NDArray[np.intp]:
    """Return columns and rows (n_patches, 2) of the patches that polygons with `corners` [texels] may cover."""
    # A polygon is shorter than a patch, so the corners of its bounding box lie in every patch that it covers.
    left, bottom = np.clip((corners.min(axis=1) - 2.0) // patch, 0, PATCHES - 1).astype(np.intp).T
    right, top = np.clip((corners.max(axis=1) + 2.0) // patch, 0, PATCHES - 1).astype(np.intp).T
    covered = np.zeros((PATCHES, PATCHES), bool)
    for columns in (left, right):
        for rows in (bottom, top):
            covered[columns, rows] = True
    return np.argwhere(covered)
