"""`demo`: watch the shipped agent drive."""

import argparse
import random
import sys
from pathlib import Path

from sb3_carracing.agents import Agent
from sb3_carracing.checks import whole_number
from sb3_carracing.cli.record import print_laps
from sb3_carracing.errors import UserError, preparation
from sb3_carracing.evaluation import RECORDING_SEED, evaluate
from sb3_carracing.pipelines import FAST_ID, WrapperCall, env_spec, is_car_racing, pipeline_env
from sb3_carracing.recording import WindowCloses, record
from sb3_carracing.runs import read_run
from sb3_carracing.system import has_window

_N_TRACKS = 1_000


def main(argv: list[str]) -> None:
    """Run `python -m sb3_carracing demo`."""
    parser = argparse.ArgumentParser(
        prog="python -m sb3_carracing demo",
        description="Watch an agent drive: in a window until you close it, or without a display, one lap as a GIF.",
    )
    parser.add_argument("agent", nargs="?", default=FAST_ID, metavar="RUN", help="run folder (default: the shipped agent)")
    parser.add_argument("--seed", type=int, metavar="S", help="first track (default: another one each time)")
    parser.add_argument("--film", action="store_true", help="make a GIF although there is a display")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("demo"), metavar="DIR", help="folder for the GIF (default: demo)"
    )
    parser.add_argument("--trust", action="store_true", help="import classes and wrappers from anywhere and run their code")
    args = parser.parse_args(argv)
    # Tracks that no one trains, validates or is tested on.
    seed = RECORDING_SEED + random.randrange(_N_TRACKS) if args.seed is None else whole_number("--seed", args.seed, 0)
    with preparation():
        run = read_run(args.agent, args.trust)
        if not is_car_racing(env_spec(run.pipeline.env_id)):
            raise UserError(f"demo shows CarRacing, and {run.folder} is of {run.pipeline.env_id}: use enjoy")
        agent = run.agent(run.agent_file())
    try:
        if args.film or not has_window():
            _film(agent, args.output, seed)
        else:
            _show(agent, seed)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)


def _film(agent: Agent, folder: Path, seed: int) -> None:
    results = record(agent, folder, [seed], plain=True, renderer="fast", progress=True)
    print_laps(results)
    (film,) = sorted(folder.glob(f"track_{seed}_score_*.gif"), key=lambda path: path.stat().st_mtime)[-1:]
    print(f"film: {film}")


def _show(agent: Agent, seed: int) -> None:
    print("Close the window or press Ctrl-C to stop.", file=sys.stderr)
    closing = WrapperCall(f"{WindowCloses.__module__}.{WindowCloses.__name__}")
    make_env = pipeline_env(agent.pipeline, renderer="fast", render_mode="human", innermost=[closing])
    for track in range(seed, seed + _N_TRACKS):
        print_laps(evaluate(agent.model, make_env, [track], wrap_vec_env=agent.pipeline.wrap_vec_env))
