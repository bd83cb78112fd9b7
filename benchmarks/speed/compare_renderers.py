"""Draws one moment with gymnasium's renderer and with ours, and their difference, side by side into a PNG.

python -m benchmarks.speed.compare_renderers [--seed 2] [--frames 420] [--out docs/renderers.png]
"""

import os

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

import cv2
import numpy as np
from gymnasium.envs.box2d import car_racing as stock
from numpy.typing import NDArray

from benchmarks import options
from benchmarks.provenance import ROOT
from benchmarks.speed.env_speed import StockUndrawn, centre_line_action
from sb3_carracing.envs.car_racing import CarRacing

ZOOM = 4  # enlargement of the observations
GAIN = 8  # of the difference, around middle gray
MARGIN = 24  # pixels above the observations, for their titles

Image = NDArray[np.uint8]


def titled(image: Image, title: str) -> Image:
    enlarged = cv2.resize(image, None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_NEAREST)
    framed = cv2.copyMakeBorder(enlarged, MARGIN, 4, 4, 4, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    cv2.putText(framed, title, (6, MARGIN - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.asarray(framed, np.uint8)


def same_moment(seed: int, frames: int) -> tuple[Image, Image]:
    """Return gymnasium's observation and ours after the same drive."""
    fast, official = CarRacing(), StockUndrawn()
    fast.reset(seed=seed)
    official.reset(seed=seed)
    for _ in range(frames):
        action = centre_line_action(fast)
        ours, *_ = fast.step(action)
        official.step(action)
    image: Image = stock.CarRacing._render(official, "state_pixels")
    return image, ours


def main() -> None:
    parser = options.parser(__doc__, out=ROOT / "docs" / "renderers.png", out_help="image to write")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--frames", type=int, default=420)
    args = parser.parse_args()
    official, ours = same_moment(args.seed, args.frames)
    difference = ours.astype(int) - official
    amplified = np.clip(128 + GAIN * difference, 0, 255).astype(np.uint8)
    mean = np.abs(difference).mean()
    panels = [
        titled(official, "gymnasium"),
        titled(ours, "sb3_carracing"),
        titled(amplified, f"difference x {GAIN} (mean {mean:.2f} of 255)"),
    ]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.out), np.hstack(panels)[..., ::-1])
    print(f"{args.out}: mean absolute difference {mean:.2f} levels")


if __name__ == "__main__":
    main()
