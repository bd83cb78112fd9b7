"""A film's frame: gymnasium's rendering, and under it what the agent sees, does and wants.

The instruments are a map with the driven line, the newest image of the observation, speed and controls as bars, the density of
each action with the action chosen, and the value.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sb3_carracing.drives import COLUMNS, Decision, action_names, support_of

SIZE = (600, 400)
"""Width and height of gymnasium's rendering."""
PANEL_HEIGHT = 180
CAPTION_HEIGHT = 22
_TOP_SPEED = 110.0  # [units/s], a little more than the car reaches
_ROAD_WIDTH = 13.3  # [units]
_BACKGROUND, _SOFT, _INK, _LINE = (28, 33, 40), (70, 78, 90), (235, 238, 242), (90, 160, 255)
_BARS = {"speed": (64, 190, 140), "steering": (90, 160, 255), "gas": (80, 190, 90), "brake": (230, 80, 80)}
_CHOSEN = (255, 110, 90)
_JPEG_QUALITY = 95


class Thought(NamedTuple):
    """A decision as an agent makes it.

    Attributes:
        decision: density and value.
        action: `(n_actions,)`, or `(1,)` for a discrete one.
        seen: newest image of the observation, `(height, width)` or `(height, width, 3)`; None if there is none.
    """

    decision: Decision
    action: np.ndarray
    seen: np.ndarray | None


class Shot(NamedTuple):
    """A frame of an episode.

    Attributes:
        image: the rendering, as JPEG: a lap has up to 1,000, and each takes 720 kB as pixels.
        car: values of `COLUMNS`.
        thought: the decision being played; None before the first one.
    """

    image: bytes
    car: tuple[float, ...]
    thought: Thought | None

    def of_car(self, name: str) -> float:
        """Return the value of one of `COLUMNS`."""
        return self.car[COLUMNS.index(name)]


@dataclass
class Take:
    """One agent's episode on film.

    Attributes:
        name: what to call the agent.
        low: see `support_of`.
        high: see `support_of`.
        road: `(n_tiles, 2)`.
        shots: the frames, in order.
    """

    name: str
    low: np.ndarray
    high: np.ndarray
    road: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    shots: list[Shot] = field(default_factory=list)

    @classmethod
    def of(cls, name: str, model: Any) -> "Take":
        """Return an empty take of a model."""
        return cls(name, *support_of(model))


def compressed(image: np.ndarray) -> bytes:
    """Return an RGB image as JPEG."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()


def newest_image(observation: Any) -> np.ndarray | None:
    """Return the newest image in a batch of one observation, None if it holds no uint8 image.

    SB3 has images with channels first: a stack of gray ones, or colors in threes.
    """
    if not isinstance(observation, np.ndarray) or observation.dtype != np.uint8:
        return None
    image = observation[0]
    if image.ndim == 4:  # a stack of images in color
        return np.asarray(image[-1])
    if image.ndim == 2:
        return np.asarray(image)
    if image.ndim != 3:
        return None
    first = image if image.shape[0] < image.shape[-1] else np.moveaxis(image, -1, 0)
    return np.asarray(np.moveaxis(first[-3:], 0, -1) if len(first) % 3 == 0 else first[-1])


def peak_density(decision: Decision, action: int, low: float, high: float, n: int) -> np.ndarray:
    """Return a density at n places from `low` to `high`, divided by its largest value."""
    first, second = decision.parameters[action].astype(np.float64)
    if decision.density == "gaussian":
        return np.asarray(np.exp(-0.5 * ((np.linspace(low, high, n) - first) / second) ** 2))
    unit, a, b = np.linspace(1e-6, 1 - 1e-6, n), first - 1.0, second - 1.0
    mode = min(max(a / (a + b), 1e-6), 1 - 1e-6) if a + b > 1e-9 else 0.5
    return np.asarray(np.exp(a * np.log(unit / mode) + b * np.log((1 - unit) / (1 - mode))))


class TrackMap:
    """A square map of a track with the line that a car drove.

    Args:
        road: `(n_tiles, 2)`, middle of the road.
        places: `(n, 2)`, where the car was.
        side: width and height [pixels].
    """

    def __init__(self, road: np.ndarray, places: np.ndarray, side: int) -> None:
        self._side = side
        everything = np.vstack([road, places])
        self._middle = (everything.max(axis=0) + everything.min(axis=0)) / 2
        self._zoom = (side - 12) / max(float(np.ptp(everything, axis=0).max()), 1.0)
        self._line = self._on_map(places)
        self._empty = Image.new("RGB", (side, side), (44, 60, 44))
        closed = self._on_map(np.vstack([road, road[:2]]))
        width = max(3, round(_ROAD_WIDTH * self._zoom))
        ImageDraw.Draw(self._empty).line(closed, fill=(120, 126, 134), width=width, joint="curve")

    def _on_map(self, places: np.ndarray) -> list[tuple[float, float]]:
        moved = (places - self._middle) * self._zoom
        return [(self._side / 2 + x, self._side / 2 - y) for x, y in moved]

    def draw(self, index: int) -> Image.Image:
        """Draw the line up to an index, and the car there."""
        image = self._empty.copy()
        draw = ImageDraw.Draw(image)
        if index:
            draw.line(self._line[: index + 1], fill=(255, 214, 74), width=2)
        x, y = self._line[index]
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=(230, 60, 60))
        return image


class Frames(Sequence[np.ndarray]):
    """The frames of a film of one or several takes side by side, each drawn when it is asked for.

    A take that ends sooner keeps its last frame.

    Args:
        takes: the agents' episodes on one track.
    """

    def __init__(self, takes: Sequence[Take]) -> None:
        self._cockpits = [_Cockpit(take) for take in takes]
        self._n_columns = math.ceil(math.sqrt(len(takes)))
        self._n_frames = max(len(take.shots) for take in takes)

    def __len__(self) -> int:
        return self._n_frames

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        drawn = [np.asarray(cockpit.draw(index % len(self))) for cockpit in self._cockpits]
        drawn += [np.zeros_like(drawn[0])] * (-len(drawn) % self._n_columns)
        rows = [np.hstack(drawn[i : i + self._n_columns]) for i in range(0, len(drawn), self._n_columns)]
        return np.vstack(rows)


class _Cockpit:
    """Draws the frames of one take."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._font = ImageFont.load_default(12)
        self._side = PANEL_HEIGHT - CAPTION_HEIGHT - 10
        self._map = TrackMap(take.road, np.array([[shot.of_car("x"), shot.of_car("y")] for shot in take.shots]), self._side)

    def draw(self, index: int) -> Image.Image:
        """Draw the frame at an index, or the last one beyond it."""
        index = min(index, len(self._take.shots) - 1)
        shot = self._take.shots[index]
        width, height = SIZE
        rendering = Image.open(io.BytesIO(shot.image)).convert("RGB").resize(SIZE)
        image = Image.new("RGB", (width, height + PANEL_HEIGHT), _BACKGROUND)
        image.paste(rendering)
        draw = ImageDraw.Draw(image)
        value = (
            f"   value {shot.thought.decision.value:.2f}" if shot.thought and np.isfinite(shot.thought.decision.value) else ""
        )
        caption = f"{self._take.name}   frame {shot.of_car('frame'):.0f}   score {shot.of_car('score'):.1f}{value}"
        draw.text((6, height + CAPTION_HEIGHT // 2), caption, fill=_INK, font=ImageFont.load_default(14), anchor="lm")
        top = height + CAPTION_HEIGHT
        image.paste(self._map.draw(index), (5, top + 5))
        left = self._side + 15
        if shot.thought is not None and shot.thought.seen is not None:
            seen = Image.fromarray(shot.thought.seen).convert("RGB")
            image.paste(seen.resize((self._side, self._side), Image.Resampling.NEAREST), (left, top + 5))
        left += self._side + 10
        self._bars(draw, shot, left, top + 5, width - left - 8)
        if shot.thought is not None:
            self._densities(draw, shot.thought, left, top + 72, width - left - 8)
        return image

    def _bars(self, draw: ImageDraw.ImageDraw, shot: Shot, left: int, top: int, width: int) -> None:
        for row, (name, color) in enumerate(_BARS.items()):
            y, start = top + 16 * row, left + 58
            room = width - 58
            share = shot.of_car(name) / (_TOP_SPEED if name == "speed" else 1.0)
            zero = start + (room / 2 if name == "steering" else 0)
            end = zero + min(max(share, -1.0), 1.0) * (room / 2 if name == "steering" else room)
            draw.text((left, y + 6), name, fill=_INK, font=self._font, anchor="lm")
            draw.rectangle((start, y, start + room, y + 11), fill=_SOFT)
            draw.rectangle((min(zero, end), y, max(zero, end), y + 11), fill=color)

    def _densities(self, draw: ImageDraw.ImageDraw, thought: Thought, left: int, top: int, width: int) -> None:
        decision, n = thought.decision, len(thought.decision.parameters)
        names = action_names(decision.density, len(self._take.low))
        if not n or n > len(names):
            return
        each, floor = width // n - 6, top + 80
        for action in range(n):
            x0 = left + action * (each + 6)
            if decision.density == "categorical":
                is_chosen = int(thought.action[0]) == action
                tall = 56 * float(decision.parameters[action, 0])
                draw.rectangle((x0, floor - tall, x0 + each, floor), fill=_CHOSEN if is_chosen else _LINE)
            else:
                low, high = float(self._take.low[action]), float(self._take.high[action])
                curve = 56 * peak_density(decision, action, low, high, each)
                points = [(x0 + i, floor - tall) for i, tall in enumerate(curve)]
                draw.polygon([(x0, floor), *points, (x0 + each, floor)], fill=_LINE)
                chosen = x0 + each * (float(thought.action[action]) - low) / (high - low)
                draw.line((chosen, floor - 58, chosen, floor), fill=_CHOSEN, width=2)
            draw.line((x0, floor, x0 + each, floor), fill=_SOFT)
            draw.text((x0 + each / 2, top + 4), names[action], fill=_INK, font=self._font, anchor="mm")
