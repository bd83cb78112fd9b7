"""The black strip at the bottom of CarRacing's observation: speed, wheels, steering, turning and the score's digits.

Gymnasium draws it into a 1000 x 800 window and shrinks that to 96 x 96. The strip has 1000 x 100 window pixels there and
12 x 96 pixels here. Bars end on whole window pixels and scores are whole numbers, so every state of a bar and every score is
shrunk once and looked up from then on.

The score and the upright bars are side by side on the left, and neighbors share at most one column of pixels. They are stored
as integers whose bytes are pixels. Drawing a dashboard takes 6 us this way, and 15 us with sums of arrays.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pygame
from numpy.typing import NDArray

Strip = NDArray[np.uint8]
"""(12, width, 3) in color or (12, width) in gray."""

ROWS, COLUMNS = 12, 96  # pixels
WINDOW_ROWS, WINDOW_COLUMNS = 100, 1000  # window pixels
WINDOW_ABOVE = 700  # window rows above the dashboard

BAR = 25  # width of a bar's place [window pixels]
FOOT = 780  # window row on which the upright bars stand
UPRIGHT = (  # place, height at value 1 [window pixels], color: speed of the car, rotation of the four wheels
    (5, 0.4, (255, 255, 255)),
    (7, 0.2, (0, 0, 255)),
    (8, 0.2, (0, 0, 255)),
    (9, 0.2, (51, 0, 255)),
    (10, 0.2, (51, 0, 255)),
)
SPEED_COLUMNS = slice(12, 15)  # pixels that the bar of the speed, and no other, covers
STEERING = (500, -250.0, (0, 255, 0))  # window column of value 0, window pixels per radian, color
TURNING = (750, -20.0, (255, 0, 0))  # likewise, window pixels per rad/s
REACH = 250  # largest extent of these two to either side [window pixels]
SIDEWAYS_ROWS = (720, 761)  # window rows that they cover
VISIBLE = 1e-4  # only larger absolute values are drawn

SCORE_COLUMNS = 12
LEFT_COLUMNS = 27  # columns of score and upright bars
SCORE_CENTRE = (60, 50)  # window pixels, in the strip
SCORE_FONT = 42

GRAY = np.array([0.299, 0.587, 0.114])
"""Weights of R, G and B in gray (ITU-R BT.601, as in OpenCV)."""


@lru_cache(maxsize=1)
def shrinking_loss() -> int:
    """Return by how many levels pygame's smoothscale darkens a uniform surface. It rounds down in both directions."""
    window = pygame.Surface((WINDOW_COLUMNS, 800))
    window.fill((128, 128, 128))
    return 128 - int(pygame.transform.smoothscale(window, (96, 96)).get_at((48, 48))[0])


def darkened(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the whole levels that colors (..., 3), 0 to 255, have after gymnasium's shrinking."""
    colors: NDArray[np.float64] = np.maximum(np.trunc(rgb) - shrinking_loss(), 0.0)
    return colors


def shown_speed(strip: Strip) -> float:
    """Return the car's speed [units/s] that a dashboard's white bar shows, exact to 1.5 units/s from 3 units/s on.

    Args:
        strip: Last rows of the observation, (12, 96) or (12, 96, 3).
    """
    bar = strip[:, SPEED_COLUMNS] if strip.ndim == 2 else strip[:, SPEED_COLUMNS, 0]
    pixels = float(bar.sum()) / (255 - shrinking_loss())
    window_rows = pixels * (WINDOW_ROWS / ROWS) * (WINDOW_COLUMNS / COLUMNS) / (BAR + 1)  # a bar covers its last column, too
    # It also covers the row of its foot, and ends somewhere in its highest row.
    return max((window_rows - 1.5) / UPRIGHT[0][1], 0.0)


class UprightBar(NamedTuple):
    """A bar that grows upwards from row `FOOT`, or downwards for a negative value."""

    scale: float
    numbers: list[int]  # its pixels, by the window row of the strip at which the bar ends


class SidewaysBar(NamedTuple):
    """A bar that grows to either side of window column `zero`."""

    zero: int
    scale: float
    strips: list[tuple[slice, Strip]]  # columns and pixels, by the window column at which the bar ends, from zero - REACH on


class Dashboard:
    """Draws dashboards into observations.

    Args:
        grayscale: One channel instead of three.
    """

    def __init__(self, *, grayscale: bool) -> None:
        self.grayscale = grayscale
        self._upright = _upright_bars(grayscale)
        self._steering, self._turning = _sideways_bars(grayscale)
        self._left_shape = (ROWS, LEFT_COLUMNS) if grayscale else (ROWS, LEFT_COLUMNS, 3)
        self._left_bytes = math.prod(self._left_shape)

    def draw(self, strip: Strip, upright: Sequence[float], steering: float, turning: float, score: float) -> None:
        """Draw a dashboard.

        Args:
            strip: Last rows of the observation, (12, 96) or (12, 96, 3), black.
            upright: Speed [units/s] and rotation of the four wheels [rad/s].
            steering: Angle of the front left wheel relative to the hull [rad].
            turning: Angular velocity of the hull [rad/s].
            score: Shown without decimals.
        """
        number = _score_number(format(score, "04.0f"), self.grayscale)
        for (scale, numbers), value in zip(self._upright, upright, strict=True):
            if value > VISIBLE or value < -VISIBLE:
                end = int(FOOT - scale * value) - WINDOW_ABOVE
                number += numbers[0 if end < 0 else end if end < WINDOW_ROWS else -1]
        strip[:, :LEFT_COLUMNS] = np.ndarray(self._left_shape, np.uint8, number.to_bytes(self._left_bytes, "little"))
        for (zero, scale, strips), value in ((self._steering, steering), (self._turning, turning)):
            if value > VISIBLE or value < -VISIBLE:
                end = int(zero + scale * value) - zero + REACH
                columns, part = strips[0 if end < 0 else end if end < len(strips) else -1]
                strip[:, columns] = part


def _number(part: Strip) -> int:
    """Return the number whose bytes, lowest first, are the left columns of the strip: `part`, and black beside it."""
    left = np.zeros((ROWS, LEFT_COLUMNS, *part.shape[2:]), np.uint8)
    left[:, : part.shape[1]] = part
    return int.from_bytes(left.tobytes(), "little")


def _coverage(first: int, end: int, pixels: int, window_pixels: int) -> NDArray[np.float64]:
    """Return the share of each pixel (pixels,) that the window pixels from `first` up to `end` cover."""
    edges = np.linspace(0, window_pixels, pixels + 1)
    covered: NDArray[np.float64] = np.minimum(edges[1:], end) - np.maximum(edges[:-1], first)
    return np.maximum(covered, 0.0) * (pixels / window_pixels)


def _blend(rows: NDArray[np.float64], columns: NDArray[np.float64], color: Sequence[int], grayscale: bool) -> Strip:
    """Return a rectangle of `color` on black that covers these shares of each row and column."""
    rgb = darkened(np.array(color, np.float64))
    shares = np.outer(rows, columns)
    levels = shares * (rgb @ GRAY) if grayscale else shares[..., None] * rgb
    return np.rint(levels).astype(np.uint8)


@lru_cache(maxsize=2)
def _upright_bars(grayscale: bool) -> list[UprightBar]:
    bars = []
    foot = FOOT - WINDOW_ABOVE
    for i, (place, scale, color) in enumerate(UPRIGHT):
        # A bar covers its last window column, too, unless the next bar is drawn over it.
        last = (place + 1) * BAR + (i in (0, len(UPRIGHT) - 1))
        across = _coverage(place * BAR, last, COLUMNS, WINDOW_COLUMNS)
        numbers = []
        for end in range(WINDOW_ROWS):
            along = _coverage(min(end, foot), max(end, foot) + 1, ROWS, WINDOW_ROWS)
            numbers.append(_number(_blend(along, across[:LEFT_COLUMNS], color, grayscale)))
        bars.append(UprightBar(scale, numbers))
    return bars


@lru_cache(maxsize=2)
def _sideways_bars(grayscale: bool) -> tuple[SidewaysBar, SidewaysBar]:
    first, end_row = (row - WINDOW_ABOVE for row in SIDEWAYS_ROWS)
    rows = _coverage(first, end_row, ROWS, WINDOW_ROWS)

    def bar(zero: int, scale: float, color: Sequence[int]) -> SidewaysBar:
        strips = []
        for end in range(zero - REACH, min(zero + REACH + 1, WINDOW_COLUMNS)):
            across = _coverage(min(end, zero), max(end, zero) + 1, COLUMNS, WINDOW_COLUMNS)
            columns = slice(int(np.flatnonzero(across)[0]), int(np.flatnonzero(across)[-1]) + 1)
            strips.append((columns, _blend(rows, across[columns], color, grayscale)))
        return SidewaysBar(zero, scale, strips)

    return bar(*STEERING), bar(*TURNING)


@lru_cache(maxsize=1)
def _font() -> pygame.font.Font:
    return pygame.font.Font(pygame.font.get_default_font(), SCORE_FONT)


@lru_cache(maxsize=4096)
def _score(text: str, grayscale: bool) -> Strip:
    """Return the digits (12, 12) or (12, 12, 3), written and shrunk by pygame as in gymnasium."""
    pygame.font.init()
    try:
        digits = _font().render(text, True, (255, 255, 255), (0, 0, 0))
    except pygame.error:  # pygame.quit() was called, as gymnasium does when a window closes
        _font.cache_clear()
        digits = _font().render(text, True, (255, 255, 255), (0, 0, 0))
    place = digits.get_rect()
    place.center = SCORE_CENTRE
    corner = pygame.Surface((SCORE_COLUMNS * WINDOW_COLUMNS // COLUMNS, WINDOW_ROWS))
    corner.blit(digits, place)
    rgb = pygame.surfarray.array3d(pygame.transform.smoothscale(corner, (SCORE_COLUMNS, ROWS))).transpose(1, 0, 2)
    return np.rint(rgb @ GRAY).astype(np.uint8) if grayscale else np.ascontiguousarray(rgb)


@lru_cache(maxsize=4096)
def _score_number(text: str, grayscale: bool) -> int:
    return _number(_score(text, grayscale))
