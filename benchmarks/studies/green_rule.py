"""How often the green rule of the two source implementations would decide otherwise with the fast rendering.

    python -m benchmarks.studies.green_rule [--frames 20000] [--out FILE]

Both renderers draw the same drive: along the middle of the road, and in every second episode with disturbed steering at full
speed, so that the car also drives over grass. A decision is whether a frame's mean green is above a threshold.
"""

import itertools
import os
from collections.abc import Iterator

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

import numpy as np

from benchmarks import options, provenance
from benchmarks.speed.env_speed import Actions, centre_line_action
from sb3_carracing.envs.car_racing import CarRacing

THRESHOLDS = {"Iurin implementation": 180.0, "blog implementation": 185.0}
FIRST_SEED = 4_100_000


def mean_greens() -> Iterator[list[float]]:
    """Yield the mean green of frame after frame, as gymnasium draws it and as we do."""
    envs = CarRacing(renderer="stock"), CarRacing()
    rng = np.random.default_rng(0)
    for episode in itertools.count():
        for env in envs:
            env.reset(seed=FIRST_SEED + episode)
        over, frame, disturbance = False, 0, 0.0
        while not over:
            action: Actions = centre_line_action(envs[0])
            if episode % 2:
                if frame % 50 == 0:
                    disturbance = rng.normal(0.0, 0.5)
                action = np.array([np.clip(action[0] + disturbance, -1.0, 1.0), 0.5, 0.0], np.float32)
            steps = [env.step(action) for env in envs]
            yield [float(image[..., 1].mean()) for image, *_ in steps]
            over = steps[0][2] or steps[0][3]
            frame += 1


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--frames", type=int, default=20_000)
    args = parser.parse_args()
    greens = np.array([*itertools.islice(mean_greens(), args.frames)])
    decisions = {}
    for name, threshold in THRESHOLDS.items():
        stock, fast = (greens > threshold).T
        decisions[name] = {"green": int(stock.sum()), "different": int((stock != fast).sum())}
        print(f"{name}, threshold {threshold:g}: {decisions[name]} of {args.frames} frames")
    if args.out is not None:
        largest = float(np.abs(np.diff(greens)).max())
        provenance.write_json(args.out, args, {"decisions": decisions, "largest_difference_of_means": largest})


if __name__ == "__main__":
    main()
