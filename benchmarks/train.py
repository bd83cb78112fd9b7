"""The real `train` command for algorithms that are no part of the package: `--algo` may be the dotted path of a class.

python -m benchmarks.train train --algo benchmarks.studies.ablations.bugs.IurinPPO --env CarRacingIurin-v3 ...
"""

import sys

from rl_zoo3.utils import ALGOS

from sb3_carracing.agents import ALGORITHMS
from sb3_carracing.cli import main
from sb3_carracing.pipelines import import_by_path


def register(path: str) -> None:
    """Make rl-zoo3 and the package know a class by its dotted path."""
    ALGOS[path] = import_by_path(path)
    ALGORITHMS[path] = path


if __name__ == "__main__":
    register(sys.argv[sys.argv.index("--algo") + 1])
    main()
