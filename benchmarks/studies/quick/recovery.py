"""Whether the last agents of the plan's and the preset's runs drive on after a spin, with and without a limit on the gas.

    python -m benchmarks.studies.quick.recovery --only decay_from_40 --seeds 597
    python -m benchmarks.studies.quick.recovery --only quick --seeds 41 42 43 --logs logs/quick_test
    python -m benchmarks.studies.quick.recovery --report

Reads the agents in `--logs` and puts a row per track into recovery.csv. Each agent drives the tracks four times: with and
without the limit of `TargetSpeed`, and with and without a stop, in which the environment once steers the car at random and
brakes until it stands (`standstill_rate`). Hard braking in a turn often leaves the car beside the road or turned around.
"""

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch as th

from benchmarks import options, tables
from benchmarks.report import LOST, markdown
from benchmarks.runner import LOGS, Config, Study, run_id, start_folders
from benchmarks.studies.quick.run import FIRST_SEED, evaluation_env, study, test_study
from sb3_carracing.agents import read_agent
from sb3_carracing.runs import read_run

TABLE = "recovery.csv"
TRACTIONS = {"none": 100.0, "1": 1.0}
"""Limits of the gas, see `TargetSpeed`."""


def both_studies() -> Study:
    """Return the plan's runs and the preset's as one study."""
    return replace(study(), configs=study().configs | test_study().configs)


def drives(config: Config, folder: Path, tracks: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Drive the tracks with the last agent in a run's folder; yield the rows of the table."""
    run = read_run(folder, trust=True)
    model = read_agent(run.agent_file(last=True), run.algo, trust=True)
    plain = evaluation_env(run, config)
    for stops, (limit, traction) in itertools.product((0, 1), TRACTIONS.items()):
        wrappers = tuple(
            replace(call, kwargs=call.kwargs | {"traction": traction}) if call.path.endswith(".TargetSpeed") else call
            for call in plain.wrappers
        )
        env = replace(plain, kwargs=plain.kwargs | {"standstill_rate": float(stops)}, wrappers=wrappers)()
        for track in tracks:
            obs, _ = env.reset(seed=track)
            over = False
            while not over:
                action, _ = model.predict(obs, deterministic=True)
                obs, _, terminated, truncated, info = env.step(action)
                over = terminated or truncated
            yield {"stops": stops, "limit": limit, "track": track, "score": info["score"], "frames": info["frames"]}


def report(folder: Path) -> str:
    """Return a Markdown table with a row per run: mean scores without a stop, and lost tracks without a stop and with one."""
    configs, rows = both_studies().configs, []
    for run, own in tables.read(folder, TABLE).groupby("run", sort=False):
        name, _, seed = str(run).rpartition("-")
        kinds = own.groupby(["stops", "limit"])["score"]
        mean, lost = kinds.mean(), kinds.agg(lambda scores: (scores < LOST).sum())
        rows.append(
            [configs[name].what, seed]
            + [f"{mean[0, limit]:.1f}" for limit in TRACTIONS]
            + [f"{lost[stops, limit]} of {own['track'].nunique()}" for stops in (0, 1) for limit in TRACTIONS]
        )
    columns = (f"{column}, {kind}" for column in ("score", "lost", "lost after a stop") for kind in ("no limit", "limit"))
    return markdown(["run", "seed", *columns], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    out = tables.RESULTS / "quick"
    parser = options.parser(__doc__, out=out, out_help="folder of the study's tables", seeds=(581, 597, 613, 629))
    parser.add_argument("--only", nargs="+", metavar="CONFIG", help="configurations (default: all)")
    parser.add_argument("--logs", type=Path, default=LOGS / "quick", help="where the trainings lie (default: %(default)s)")
    parser.add_argument("--tracks", type=int, default=40, help="development tracks (default: 40)")
    parser.add_argument("--report", action="store_true", help="print the table of what is stored and stop")
    args = parser.parse_args(argv)
    if args.report:
        print(report(args.out))
        return
    th.set_num_threads(1)
    tracks = range(FIRST_SEED, FIRST_SEED + args.tracks)
    for config in both_studies().chosen(args.only):
        for seed in args.seeds:
            if starts := start_folders(config, args.logs / config.name / f"seed_{seed}"):
                tables.add(args.out, {TABLE: list(drives(config, starts[-1], tracks))}, run_id(config, seed))
                print(run_id(config, seed), file=sys.stderr)


if __name__ == "__main__":
    main()
