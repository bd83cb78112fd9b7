"""The command line of scripts that let trained agents of the study drive development tracks once more."""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch as th

from benchmarks import options, tables
from benchmarks.runner import LOGS, Study, run_id, start_folders
from benchmarks.studies.quick.run import FIRST_SEED, evaluation_env
from sb3_carracing.agents import read_agent
from sb3_carracing.pipelines import PipelineEnv
from sb3_carracing.runs import read_run

Drives = Callable[[Any, PipelineEnv, Sequence[int]], Iterable[dict[str, Any]]]
"""Drives tracks with a model in environments of a factory; gives the rows of the table."""


def main(
    argv: Sequence[str] | None,
    doc: str | None,
    study: Study,
    table: str,
    drives: Drives,
    report: Callable[[Path], str],
    *,
    seeds: Sequence[int],
    n_tracks: int,
) -> None:
    """Put the rows of the chosen runs' last agents into a table, or print its report.

    Args:
        argv: Arguments; None for those of the process.
        doc: Docstring of the script.
        study: Its runs can be chosen.
        table: File name of the table.
        drives: Drives the tracks.
        report: Returns the report of what a folder holds.
        seeds: Default of --seeds.
        n_tracks: Default of --tracks.
    """
    out = tables.RESULTS / "quick"
    parser = options.parser(doc, out=out, out_help="folder of the study's tables", seeds=seeds)
    parser.add_argument("--only", nargs="+", metavar="CONFIG", help="configurations (default: all)")
    parser.add_argument("--logs", type=Path, default=LOGS / "quick", help="where the trainings lie (default: %(default)s)")
    parser.add_argument("--tracks", type=int, default=n_tracks, help="development tracks (default: %(default)s)")
    parser.add_argument("--report", action="store_true", help="print the table of what is stored and stop")
    args = parser.parse_args(argv)
    if args.report:
        print(report(args.out))
        return
    th.set_num_threads(1)
    tracks = range(FIRST_SEED, FIRST_SEED + args.tracks)
    for config in study.chosen(args.only):
        for seed in args.seeds:
            if starts := start_folders(config, args.logs / config.name / f"seed_{seed}"):
                run = read_run(starts[-1], trust=True)
                model = read_agent(run.agent_file(last=True), run.algo, trust=True)
                rows = list(drives(model, evaluation_env(run, config), tracks))
                tables.add(args.out, {table: rows}, run_id(config, seed))
                print(run_id(config, seed), file=sys.stderr)
