"""Train and evaluate the runs of plan.yml, see `benchmarks.runner`.

    python -m benchmarks.studies.ablations.run --list
    python -m benchmarks.studies.ablations.run --only iurin_published iurin_repaired --seeds 1 2
    python -m benchmarks.studies.ablations.run --only matters --seeds 1

A name of a group (iurin, blog, matters) stands for all of its runs. The last agent drives the test tracks: raw score, whole
episodes, drawn as in training (see `benchmarks.studies.paired_score` for what the rendering is worth).
"""

from collections.abc import Sequence

from benchmarks import runner
from benchmarks.studies.ablations.plan import study


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    runner.main(study(), __doc__, argv, seeds=(1, 2))


if __name__ == "__main__":
    main()
