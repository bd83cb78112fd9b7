"""Draws how many laps our environment finishes while gymnasium's finishes one, into a GIF.

    python -m benchmarks.speed.race [--rounds 5] [--out benchmarks/results/speed/race.json] [--film docs/race.gif]

The shipped agent drives in both, one environment at a time on one thread, with its inference, the resets and the making of the
environment included. A round is one lap of gymnasium's and four of ours, on the same tracks. The film uses the median of the
processor's time per lap, which other programs disturb less than the time that passes; both are stored.
"""

import functools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks import options, provenance
from benchmarks.provenance import ROOT
from sb3_carracing.agents import Agent
from sb3_carracing.cockpit import TrackMap
from sb3_carracing.drives import COLUMNS, Drive, DriveRecorder, with_car_states
from sb3_carracing.evaluation import RECORDING_SEED, evaluate
from sb3_carracing.pipelines import Renderer, pipeline_env
from sb3_carracing.recording import write_gif
from sb3_carracing.runs import read_run

AGENT = "rl-trained-agents/beta_ppo/CarRacingFast-v3_1"
NAMES: dict[str, Renderer] = {"gymnasium": "stock", "ours": "fast"}
LAPS_OF_OURS = 4  # in a round
N_IMAGES = 80
SIDE = 300


class Spent(NamedTuple):
    """Seconds per lap that passed, and the processor's."""

    wall: float
    cpu: float


def measure(agent: Agent, renderer: Renderer, seeds: Sequence[int]) -> Spent:
    """Time the laps on some tracks."""
    wall, cpu = time.perf_counter(), time.process_time()
    evaluate(agent.model, pipeline_env(agent.pipeline, renderer=renderer), seeds, wrap_vec_env=agent.pipeline.wrap_vec_env)
    return Spent((time.perf_counter() - wall) / len(seeds), (time.process_time() - cpu) / len(seeds))


def drives(agent: Agent, renderer: Renderer, seeds: Sequence[int]) -> tuple[Drive, ...]:
    """Drive the laps for the film, which takes longer and is not timed."""
    recorder = DriveRecorder(agent.model)
    make_env = functools.partial(with_car_states, pipeline_env(agent.pipeline, renderer=renderer))
    evaluate(agent.model, make_env, seeds, wrap_vec_env=agent.pipeline.wrap_vec_env, watch=recorder)
    return recorder.drives().drives


def draw(stock: Drive, ours: Sequence[Drive], seconds: float, n_laps: float) -> list[np.ndarray]:
    """Return the film's images: both cars over the time that gymnasium's lap takes."""
    x, y = COLUMNS.index("x"), COLUMNS.index("y")
    maps = [TrackMap(drive.road, drive.states[:, [x, y]], SIDE) for drive in (stock, *ours)]
    large, small = ImageFont.load_default(20), ImageFont.load_default(13)
    images = []
    for share in np.linspace(0.0, 1.0, N_IMAGES):
        finished = share * n_laps
        lap = min(int(finished), len(ours) - 1)
        image = Image.new("RGB", (2 * SIDE + 10, SIDE + 64), "white")
        text = ImageDraw.Draw(image)
        shown = [
            (0, "gymnasium's CarRacing-v3", "1 lap" if share == 1.0 else "0 laps", maps[0], stock, share),
            (SIDE + 10, "CarRacingFast-v3", f"{int(finished)} laps", maps[1 + lap], ours[lap], min(finished - lap, 1.0)),
        ]
        for left, name, laps, track_map, drive, way in shown:
            image.paste(track_map.draw(round(way * (len(drive.states) - 1))), (left, 64))
            text.text((left + 6, 6), name, fill="black", font=small)
            text.text((left + 6, 24), laps, fill="black", font=large)
        text.text((2 * SIDE + 4, 6), f"{share * seconds:.1f} s on one core", fill="black", font=small, anchor="ra")
        images.append(np.asarray(image))
    return images


def main() -> None:
    """Run the command line."""
    parser = options.parser(__doc__, rounds=5)
    parser.add_argument("--film", type=Path, default=ROOT / "docs" / "race.gif", help="GIF to write (default: docs/race.gif)")
    args = parser.parse_args()
    run = read_run(ROOT / AGENT)
    agent = run.agent(run.agent_file())
    for renderer in NAMES.values():
        measure(agent, renderer, [RECORDING_SEED])  # fills caches
    spent: dict[str, list[Spent]] = {name: [] for name in NAMES}
    for number in range(args.rounds):
        first = RECORDING_SEED + number * LAPS_OF_OURS
        spent["gymnasium"].append(measure(agent, "stock", [first]))
        spent["ours"].append(measure(agent, "fast", range(first, first + LAPS_OF_OURS)))
    stock, ours = (float(np.median([each.cpu for each in spent[name]])) for name in NAMES)
    n_laps = stock / ours
    print(f"While gymnasium's finishes one lap in {stock:.2f} s, ours finishes {n_laps:.1f} laps of {ours:.3f} s.")
    if args.out is not None:
        rows = {name: [each._asdict() for each in values] for name, values in spent.items()}
        provenance.write_json(args.out, args, {"seconds_per_lap": rows, "laps_of_ours": n_laps})
    seeds = range(RECORDING_SEED, RECORDING_SEED + int(np.ceil(n_laps)))
    (lap,) = drives(agent, "stock", seeds[:1])
    write_gif(draw(lap, drives(agent, "fast", seeds), stock, n_laps), args.film)
    print(f"written: {args.film}")


if __name__ == "__main__":
    main()
