"""`record`: film laps."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from sb3_carracing.checks import whole_number
from sb3_carracing.cli.agent_options import add_agent_arguments, open_agent
from sb3_carracing.errors import preparation
from sb3_carracing.evaluation import RECORDING_SEED, EpisodeResult
from sb3_carracing.recording import record


def main(argv: list[str]) -> None:
    """Run `python -m sb3_carracing record`."""
    parser = argparse.ArgumentParser(
        prog="python -m sb3_carracing record",
        description="Film laps on stock CarRacing-v3 with the running score on them, as GIF files.",
    )
    add_agent_arguments(parser)
    parser.add_argument("-n", type=int, default=1, metavar="N", help="number of laps (default: 1)")
    parser.add_argument("--stochastic", action="store_true", help="sampled actions instead of deterministic ones")
    parser.add_argument("--seed", type=int, default=RECORDING_SEED, metavar="S", help="first track (default: 3000000)")
    parser.add_argument("--mp4", action="store_true", help="MP4 files with every frame (needs the video extra)")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder (default: RUN/recordings)")
    args = parser.parse_args(argv)
    first = whole_number("--seed", args.seed, 0)
    seeds = range(first, first + whole_number("-n", args.n, 1))
    with preparation():
        agent = open_agent(args)
    folder = args.output or agent.folder / "recordings"
    actions = "sample" if args.stochastic else "deterministic"
    try:
        results = record(agent, folder, seeds, actions=actions, mp4=args.mp4, progress=True)
    except KeyboardInterrupt:
        parser.exit(130, "interrupted\n")
    print_laps(results)
    print(f"written to {folder}/")


def print_laps(results: Sequence[EpisodeResult]) -> None:
    """Print one line per episode."""
    for result in results:
        lap = "finished" if result.lap_finished else "not finished"
        print(f"track {result.seed}: score {result.score:.1f} in {result.frames} frames, lap {lap}", flush=True)
