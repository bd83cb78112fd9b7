"""`evaluate`: run an agent on test tracks and write a table and a JSON file."""

import argparse
import functools
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from sb3_carracing.agents import Agent
from sb3_carracing.checks import whole_number
from sb3_carracing.cli.agent_options import add_agent_arguments, open_agent
from sb3_carracing.drives import DriveRecorder, Drives, with_car_states, write_drives
from sb3_carracing.errors import UserError, preparation
from sb3_carracing.evaluation import (
    N_TEST_TRACKS,
    TEST_SEED,
    Summary,
    action_kinds,
    check_actions,
    check_pipeline,
    evaluate,
    summarize,
)
from sb3_carracing.files import check_output_file, next_free, write_atomically
from sb3_carracing.pipelines import FAST_ID, STOCK_ID, PipelineEnv, pipeline_env
from sb3_carracing.system import n_cores
from sb3_carracing.timing import estimate_seconds

_N_TRACKS = 10
_BYTES_OF_REPORT = 10_000
_BYTES_PER_EPISODE = 60_000  # of which the drive takes nearly all
_REPORTED_PACKAGES = (
    *("sb3-carracing", "stable-baselines3", "sb3-contrib", "gymnasium"),
    *("torch", "numpy", "box2d", "pygame-ce"),
)


def main(argv: list[str]) -> None:
    """Run `python -m sb3_carracing evaluate`."""
    parser = _parser()
    args = parser.parse_args(argv)
    with preparation():
        agent, make_env, kinds, output = _prepare(args)
    seeds = range(args.seed_start, args.seed_start + args.n)
    n_envs = min(args.n_envs or n_cores(), args.n)
    report = _report(agent, make_env, seeds, output)
    summaries: dict[str, Summary] = {}
    drives: dict[str, Drives] = {}
    drives_file = output.with_name(f"{output.stem}_drives.npz")
    try:
        _announce(agent, make_env, args.n, len(kinds), n_envs)
        for kind in kinds:
            start = time.perf_counter()
            recorder = DriveRecorder(agent.model)
            results = evaluate(
                agent.model,
                functools.partial(with_car_states, make_env),
                seeds,
                actions=kind,
                n_envs=n_envs,
                wrap_vec_env=agent.pipeline.wrap_vec_env,
                watch=recorder,
                progress=True,
            )
            summaries[kind] = summarize(results)
            report["results"][kind] = {
                "seconds": round(time.perf_counter() - start, 1),
                "summary": asdict(summaries[kind]),
                "episodes": [asdict(result) for result in results],
            }
            write_atomically(output, json.dumps(report, indent=1) + "\n")
            drives[kind] = recorder.drives()
            write_drives(drives_file, drives)
    except KeyboardInterrupt:
        parser.exit(130, "interrupted\n")
    finally:
        # Even if the file cannot be written after all.
        if summaries:
            console = Console()
            console.print(results_table(f"{agent.name} on {make_env.spec.id}", summaries, console.width))
    print(f"written: {output} {drives_file.name}")


def _announce(agent: Agent, make_env: PipelineEnv, n_tracks: int, n_kinds: int, n_envs: int) -> None:
    """Say on stderr what is to be done and how long that takes."""
    seconds = estimate_seconds(agent.model, make_env, n_tracks, n_envs=n_envs, wrap_vec_env=agent.pipeline.wrap_vec_env)
    shortest, longest = (max(1, round(n_kinds * limit / 60)) for limit in seconds)
    minutes = f"{shortest}" if shortest == longest else f"{shortest} to {longest}"
    work = f"{n_tracks} tracks of {make_env.spec.id}" + (f", {n_kinds} kinds of actions" if n_kinds > 1 else "")
    print(f"{work}, {n_envs} at a time: about {minutes} min", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sb3_carracing evaluate",
        description="Run an agent on test tracks of stock CarRacing-v3 (raw score, whole episodes); write a table and JSON.",
    )
    add_agent_arguments(parser)
    parser.add_argument("-n", type=int, metavar="N", help=f"number of tracks (default: {_N_TRACKS})")
    parser.add_argument(
        "--protocol",
        action="store_true",
        help=f"the whole protocol, for results to be quoted: the {N_TEST_TRACKS} test tracks of {STOCK_ID}",
    )
    parser.add_argument(
        "--renderer",
        choices=("stock", "fast"),
        help=f"renderer of the observations: gymnasium's {STOCK_ID} (default), or {FAST_ID} with the same tracks several "
        "times as fast, for a first look",
    )
    parser.add_argument("--seed-start", type=int, metavar="S", help=f"seed of the first track (default: {TEST_SEED})")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--actions",
        nargs="+",
        choices=("deterministic", "mean", "mode", "sample"),
        default=["deterministic"],
        help="kind of action (default: deterministic, the agent's own choice of mean or mode)",
    )
    how.add_argument("--all-actions", action="store_true", help="every kind of action that the agent has")
    parser.add_argument(
        "--n-envs", type=int, metavar="K", help="environments, in worker processes if above 1 (default: one per core)"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="JSON (default: evaluation.json in RUN); never overwritten, but numbered",
    )
    return parser


def _prepare(args: argparse.Namespace) -> tuple[Agent, PipelineEnv, list[str], Path]:
    """Check everything that can go wrong before the first episode."""
    fixed = {"-n": args.n, "--renderer": args.renderer, "--seed-start": args.seed_start}
    given = [option for option, value in fixed.items() if value is not None]
    if args.protocol and given:
        raise UserError(f"--protocol plays the {N_TEST_TRACKS} test tracks of {STOCK_ID}: leave {given[0]} out")
    args.n = N_TEST_TRACKS if args.protocol else whole_number("-n", _N_TRACKS if args.n is None else args.n, 1)
    args.seed_start = whole_number("--seed-start", TEST_SEED if args.seed_start is None else args.seed_start, 0)
    if args.n_envs is not None:
        whole_number("--n-envs", args.n_envs, 1)
    agent = open_agent(args)
    wanted = action_kinds(agent.model) if args.all_actions else args.actions
    kinds = list(dict.fromkeys(check_actions(agent.model, kind) for kind in wanted))
    make_env = pipeline_env(agent.pipeline, renderer=args.renderer or "stock")
    check_pipeline(agent.model, make_env, agent.pipeline.wrap_vec_env)
    default = agent.folder / ("evaluation.json" if agent.file else "evaluation_random.json")
    output = args.output or default
    check_output_file(output, _BYTES_OF_REPORT + _BYTES_PER_EPISODE * args.n * len(kinds))
    return agent, make_env, kinds, next_free(output)


def _report(agent: Agent, make_env: PipelineEnv, seeds: Sequence[int], output: Path) -> dict[str, Any]:
    """Return what the JSON file holds besides the results."""
    installed = {name: version for name in _REPORTED_PACKAGES if (version := _version(name)) is not None}
    return {
        "agent": str(agent.file or "random"),
        "sha256": hashlib.sha256(agent.file.read_bytes()).hexdigest() if agent.file else None,
        "algorithm": agent.algo,
        "trained_in": agent.pipeline.env_id,
        "evaluated_in": make_env.spec.id,
        "env_kwargs": make_env.kwargs,
        "wrappers": [{wrapper.path: wrapper.kwargs} for wrapper in make_env.wrappers],
        "frame_stack": agent.pipeline.frame_stack,
        "normalized": agent.pipeline.normalize is not None,
        "seeds": [seeds[0], seeds[-1]],
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": [Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]],
        "versions": {"python": platform.python_version(), **installed},
        "machine": {"platform": platform.platform(), "processor": platform.machine(), "cpus": os.cpu_count()},
        "drives": f"{output.stem}_drives.npz",
        "results": {},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def results_table(title: str, summaries: dict[str, Summary], width: int = 80) -> Table:
    """Return a table of raw scores with a row for each kind of action.

    The interval is of the mean, and laps are those finished. Too few tracks for an interval have no standard deviation either.

    Args:
        title: above the table.
        summaries: by kind of action.
        width: characters that there are; below 80 the last columns are left out.
    """
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("actions", no_wrap=True)
    rows = {kind: _cells(summary) for kind, summary in summaries.items()}
    columns = [*next(iter(rows.values()))][: None if width >= 80 else 5]
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for kind, cells in rows.items():
        table.add_row(kind, *(cells[column] for column in columns))
    return table


def _cells(summary: Summary) -> dict[str, str]:
    """Return the texts of a row by column, most important first."""
    has_interval = summary.ci_low is not None
    return {
        "tracks": str(summary.n_episodes),
        "score": f"{summary.mean:.1f}",
        "std": f"{summary.std:.1f}" if has_interval else "-",
        "95 % interval": f"{summary.ci_low:.1f} .. {summary.ci_high:.1f}" if has_interval else "-",
        "laps": f"{summary.laps_finished:.0%}",
        "median": f"{summary.median:.1f}",
        "min": f"{summary.min:.1f}",
        ">= 900": f"{summary.at_least_900:.0%}",
    }
