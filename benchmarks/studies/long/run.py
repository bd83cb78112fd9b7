"""Train the runs of plan.yml and evaluate their last agents on development tracks, see `benchmarks.runner`.

    python -m benchmarks.studies.long.run --list
    python -m benchmarks.studies.long.run --only speed_120 --seeds 961
    python -m benchmarks.studies.long.run --report

The agents drive with the fast rendering. None of the tracks is a test track. --report prints the scores.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import runner, tables
from benchmarks.report import markdown
from benchmarks.runner import Study
from benchmarks.studies.ablations.plan import read_plan
from benchmarks.studies.quick.run import FIRST_SEED, SCORE_COLUMNS, evaluation_env, measured, score_cells

RESULTS = tables.RESULTS / "long"


def study() -> Study:
    """Return the study with all runs of the plan."""
    configs = read_plan(Path(__file__).with_name("plan.yml"))
    return Study("long", configs, seed_factor=1, first_seed=FIRST_SEED, keep_progress=True, evaluation_env=evaluation_env)


def report(folder: Path = RESULTS) -> str:
    """Return a Markdown table with a row per stored run."""
    configs = tables.read_configs(folder)
    runs = measured(folder).join(tables.finished(folder).set_index("run")["frames"])
    parts = zip(runs["config"], runs["seed"], runs["frames"], score_cells(runs), strict=True)
    rows = [[configs[config]["what"], f"{seed}", f"{frames / 1e6:.2f} M", *cells] for config, seed, frames, cells in parts]
    return markdown(["run", "seed", "frames", *SCORE_COLUMNS], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    argv = sys.argv[1:] if argv is None else argv
    if "--report" in argv:
        print(report())
    else:
        runner.main(study(), __doc__, argv, seeds=(961,))


if __name__ == "__main__":
    main()
