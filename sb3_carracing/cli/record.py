"""`record`: film laps."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sb3_carracing.agents import Agent
from sb3_carracing.checks import whole_number
from sb3_carracing.cli.agent_options import add_agent_arguments, open_agent
from sb3_carracing.errors import UserError, preparation
from sb3_carracing.evaluation import RECORDING_SEED, EpisodeResult, evaluate
from sb3_carracing.pipelines import pipeline_env
from sb3_carracing.recording import pick, record
from sb3_carracing.runs import read_run, steps_in_name
from sb3_carracing.system import n_cores


def main(argv: list[str]) -> None:
    """Run `python -m sb3_carracing record`."""
    parser = _parser()
    args = parser.parse_args(argv)
    first = whole_number("--seed", args.seed, 0)
    seeds: Sequence[int] = range(first, first + whole_number("-n", args.n, 1))
    with preparation():
        agents = _checkpoints(args) if args.checkpoints is not None else [open_agent(args), *_beside(args)]
    agent, *beside = agents
    if args.plain and beside:
        raise UserError("--plain shows one agent; leave out --beside and --checkpoints")
    folder = args.output or agent.folder / "recordings"
    actions = "sample" if args.stochastic else "deterministic"
    try:
        if args.pick:
            make_env, wrap = pipeline_env(agent.pipeline), agent.pipeline.wrap_vec_env
            driven = evaluate(
                agent.model, make_env, seeds, actions=actions, n_envs=n_cores(), wrap_vec_env=wrap, progress=True
            )
            seeds = pick(driven, args.pick)
        options = {"mp4": args.mp4, "plain": args.plain, "progress": True}
        results = record(agent, folder, seeds, beside=beside, actions=actions, **options)
    except KeyboardInterrupt:
        parser.exit(130, "interrupted\n")
    print_laps(results, [agent.name for agent in agents] if beside else [""])
    print(f"written to {folder}/")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sb3_carracing record",
        description="Film laps on stock CarRacing-v3: the rendering, and under it a map, what the agent sees, speed and "
        "controls, the density of each action and the value. GIF files, or MP4.",
    )
    add_agent_arguments(parser)
    parser.add_argument("-n", type=int, default=1, metavar="N", help="number of laps (default: 1)")
    parser.add_argument(
        "--pick", nargs="+", choices=("worst", "median", "best"), help="drive N laps and film only these of them"
    )
    parser.add_argument(
        "--beside", nargs="+", type=Path, default=[], metavar="RUN", help="further runs, filmed side by side on the same track"
    )
    parser.add_argument(
        "--checkpoints", type=int, metavar="K", help="K of the run's checkpoints side by side: the training learns to drive"
    )
    parser.add_argument("--stochastic", action="store_true", help="sampled actions instead of deterministic ones")
    parser.add_argument("--seed", type=int, default=RECORDING_SEED, metavar="S", help="first track (default: 3000000)")
    parser.add_argument("--mp4", action="store_true", help="MP4 files with every frame (needs the video extra)")
    parser.add_argument("--plain", action="store_true", help="films with frame and score only, small as GIF")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder (default: RUN/recordings)")
    return parser


def _beside(args: argparse.Namespace) -> list[Agent]:
    runs = [read_run(folder, args.trust) for folder in args.beside]
    return [run.agent(run.agent_file(), device=args.device) for run in runs]


def _checkpoints(args: argparse.Namespace) -> list[Agent]:
    """Return as many of a run's checkpoints as asked for, from the first to the last and evenly spaced between."""
    n = whole_number("--checkpoints", args.checkpoints, 1)
    if args.agent is None or args.beside or args.random or args.best or args.last or args.checkpoint is not None:
        raise UserError("--checkpoints takes a run folder, and neither --beside nor an option that chooses an agent")
    run = read_run(args.agent, args.trust)
    files = sorted(run.folder.glob("rl_model_*_steps.zip"), key=steps_in_name)
    if not files:
        raise UserError(f"{run.folder} holds no checkpoint rl_model_N_steps.zip; train with --save-freq N")
    places = np.unique(np.linspace(0, len(files) - 1, n).round().astype(int))
    chosen = [files[place] for place in places]
    return [replace(run.agent(file, device=args.device), name=f"{steps_in_name(file):,} steps") for file in chosen]


def print_laps(results: Sequence[EpisodeResult], names: Sequence[str] = ("",)) -> None:
    """Print one line per episode, with the agents' names if there are several; they take turns in `results`."""
    for number, result in enumerate(results):
        lap = "finished" if result.lap_finished else "not finished"
        name = names[number % len(names)]
        who = f"{name}: " if name else ""
        print(f"{who}track {result.seed}: score {result.score:.1f} in {result.frames} frames, lap {lap}", flush=True)
