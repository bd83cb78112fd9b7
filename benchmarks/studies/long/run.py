"""Train the runs of plan.yml and evaluate their last agents on development tracks with the fast rendering.

    python -m benchmarks.studies.long.run --list
    python -m benchmarks.studies.long.run --only adaptive --seeds 801

See `benchmarks.runner`.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import runner
from benchmarks.runner import Study
from benchmarks.studies.ablations.plan import read_plan
from benchmarks.studies.quick.run import FIRST_SEED, evaluation_env


def study() -> Study:
    """Return the study with all runs of the plan."""
    configs = read_plan(Path(__file__).with_name("plan.yml"))
    return Study("long", configs, seed_factor=1, first_seed=FIRST_SEED, keep_progress=True, evaluation_env=evaluation_env)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    runner.main(study(), __doc__, argv, seeds=(801,))


if __name__ == "__main__":
    main()
