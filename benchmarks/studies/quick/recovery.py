"""Whether the last agents of the plan's and the preset's runs drive on after a spin, with and without a limit on the gas.

    python -m benchmarks.studies.quick.recovery --only decay_from_40 --seeds 597
    python -m benchmarks.studies.quick.recovery --only quick --seeds 41 42 43 --logs logs/quick_test
    python -m benchmarks.studies.quick.recovery --report

Reads the agents in `--logs` and puts a row per track into recovery.csv. Each agent drives the tracks four times: with and
without the limit of `TargetSpeed`, and with and without a stop, in which the environment once steers the car at random and
brakes until it stands (`standstill_rate`). Hard braking in a turn often leaves the car beside the road or turned around.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.report import LOST, markdown
from benchmarks.runner import Study
from benchmarks.studies.quick import agents
from benchmarks.studies.quick.run import study, test_study
from sb3_carracing.evaluation import evaluate
from sb3_carracing.pipelines import PipelineEnv

TABLE = "recovery.csv"
TRACTIONS = {"none": 100.0, "1": 1.0}
"""Limits of the gas, see `TargetSpeed`."""


def both_studies() -> Study:
    """Return the plan's runs and the preset's as one study."""
    return replace(study(), configs=study().configs | test_study().configs)


def drives(model: Any, make_env: PipelineEnv, tracks: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Drive the tracks with an agent; yield the rows of the table."""
    for stops, (limit, traction) in itertools.product((0, 1), TRACTIONS.items()):
        wrappers = tuple(
            replace(call, kwargs=call.kwargs | {"traction": traction}) if call.path.endswith(".TargetSpeed") else call
            for call in make_env.wrappers
        )
        changed = replace(make_env, kwargs=make_env.kwargs | {"standstill_rate": float(stops)}, wrappers=wrappers)
        for result in evaluate(model, changed, tracks):
            yield {"stops": stops, "limit": limit, "track": result.seed, "score": result.score, "frames": result.frames}


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
    agents.main(argv, __doc__, both_studies(), TABLE, drives, report, seeds=(41, 42, 43, 44), n_tracks=40)


if __name__ == "__main__":
    main()
