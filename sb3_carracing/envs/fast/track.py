"""CarRacing's track generation, three times as fast as gymnasium's and equal to the last bit.

A car that steers for twelve random checkpoints is followed for some laps, and its last whole lap is the road. The algorithm
and the order of its arithmetic are gymnasium's (MIT license, see LICENSE.gymnasium in this folder), on plain floats.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

from gymnasium.envs.box2d import car_racing as stock

CHECKPOINTS = 12
LONGEST_WALK = 2500  # steps after which a car that goes astray is given up
LAPS = 5
START_ALPHA = 2 * math.pi * (-0.5) / CHECKPOINTS
FAR_OFF = 1.5 * math.pi  # radians between heading and place from which on the heading is taken a turn further
STRAIGHT = 0.3  # distance from the line to a checkpoint up to which the car does not steer
BEND = stock.TRACK_TURN_RATE * 0.2  # radians from one tile to the next that make a hard turn

Point: TypeAlias = tuple[float, float]
Place: TypeAlias = tuple[float, float, float, float]
"""Angle around the middle of the field [rad], heading [rad], x, y."""
Polygon: TypeAlias = list[Point]
"""Left and right corner at one end of a tile, right and left at the other."""


def checkpoints(random: Any) -> list[tuple[float, float, float]]:
    """Draw angle, x and y of the checkpoints from a numpy `Generator`."""
    points = []
    for i in range(CHECKPOINTS):
        noise = random.uniform(0, 2 * math.pi * 1 / CHECKPOINTS)
        radius = random.uniform(stock.TRACK_RAD / 3, stock.TRACK_RAD)
        alpha = 2 * math.pi * i / CHECKPOINTS
        if i in (0, CHECKPOINTS - 1):  # where a lap starts, the road is as far out as it can be
            radius = 1.5 * stock.TRACK_RAD
        else:
            alpha += noise
        points.append((alpha, radius * math.cos(alpha), radius * math.sin(alpha)))
    return points


def walk(points: Sequence[tuple[float, float, float]]) -> list[Place]:
    """Return the places of a car that steers for one checkpoint after the other."""
    atan2, cos, sin, turn = math.atan2, math.cos, math.sin, 2 * math.pi
    step, scale, fastest = stock.TRACK_DETAIL_STEP, stock.SCALE, stock.TRACK_TURN_RATE
    x, y, beta = 1.5 * stock.TRACK_RAD, 0.0, 0.0
    target, (target_alpha, target_x, target_y) = 0, points[0]
    laps, on_far_side = 0, False
    places: list[Place] = []
    for _ in range(LONGEST_WALK):
        alpha = atan2(y, x)
        if alpha < 0:
            on_far_side = True
            alpha += turn
        elif on_far_side and alpha > 0:
            on_far_side = False
            laps += 1
        while alpha > target_alpha:
            target += 1
            if target == CHECKPOINTS:
                target = 0
                alpha -= turn
            target_alpha, target_x, target_y = points[target]

        ahead_x, ahead_y = cos(beta), sin(beta)
        aside = (ahead_x * (target_x - x) + ahead_y * (target_y - y)) * scale
        while beta - alpha > FAR_OFF:
            beta -= turn
        while beta - alpha < -FAR_OFF:
            beta += turn
        before = beta
        if aside > STRAIGHT:
            change = 0.001 * aside
            beta -= change if change < fastest else fastest
        elif aside < -STRAIGHT:
            change = -0.001 * aside
            beta += change if change < fastest else fastest
        x -= ahead_y * step
        y += ahead_x * step
        places.append((alpha, before * 0.5 + beta * 0.5, x, y))
        if laps >= LAPS:
            break
    return places


def last_lap(places: Sequence[Place]) -> tuple[int, int] | None:
    """Return the indices of the last two passes of the start, or None if there are fewer."""
    passes: list[int] = []
    for i in range(len(places) - 1, 0, -1):
        if places[i - 1][0] <= START_ALPHA < places[i][0]:
            passes.append(i)
            if len(passes) == 2:
                return passes[1], passes[0]
    return None


def closes(track: Sequence[Place]) -> bool:
    """Return whether the two ends of a lap are at most a tile apart."""
    _, beta, x, y = track[0]
    gap_x, gap_y = math.cos(beta) * (x - track[-1][2]), math.sin(beta) * (y - track[-1][3])
    return math.sqrt(gap_x * gap_x + gap_y * gap_y) <= stock.TRACK_DETAIL_STEP


def hard_turns(track: Sequence[Place]) -> list[bool]:
    """Return for each tile whether it has a border: it is in a run of four or more that bend hard to one side."""
    betas = [place[1] for place in track]
    bends = [beta - before for before, beta in zip([betas[-1], *betas], betas, strict=False)]
    sides = [(bend > BEND) - (bend < -BEND) for bend in bends]
    n, count = len(sides), stock.BORDER_MIN_COUNT
    last_ones = zip(*([*sides[n - back :], *sides[: n - back]] for back in range(count)), strict=True)
    bordered = [abs(sum(same)) == count for same in last_ones]
    # In place and in order: at the seam the last tiles pass on what they received from the first ones.
    for i in range(n):
        if bordered[i]:
            for back in range(1, count):
                bordered[i - back] = True
    return bordered


def tiles(track: Sequence[Place]) -> list[Polygon]:
    """Return the polygon of each tile, which extends from its place back to the previous one."""
    width = stock.TRACK_WIDTH
    ends = []
    for _, beta, x, y in track:
        aside_x, aside_y = width * math.cos(beta), width * math.sin(beta)
        ends.append(((x - aside_x, y - aside_y), (x + aside_x, y + aside_y)))
    before = [ends[-1], *ends]
    return [[left, right, last_right, last_left] for (left, right), (last_left, last_right) in zip(ends, before, strict=False)]


def border(here: Place, before: Place) -> Polygon:
    """Return the polygon of the red or white strip beside a tile of a hard turn."""
    ends = []
    side = (before[1] > here[1]) - (before[1] < here[1])
    near, far = side * stock.TRACK_WIDTH, side * (stock.TRACK_WIDTH + stock.BORDER)
    for _, beta, x, y in (here, before):
        cos, sin = math.cos(beta), math.sin(beta)
        ends += [(x + near * cos, y + near * sin), (x + far * cos, y + far * sin)]
    return [ends[0], ends[1], ends[3], ends[2]]
