"""`plot`: draw the learning curves of one or several runs."""

import argparse
import sys
import warnings
from pathlib import Path

from sb3_carracing.plotting import PANELS, plot_runs


def main(argv: list[str]) -> None:
    """Run `python -m sb3_carracing plot`."""
    parser = argparse.ArgumentParser(
        prog="python -m sb3_carracing plot",
        description="Draw learning curves: actor loss, critic loss, entropy, KL, evaluation return and score.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="run folder; several share each diagram")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="default: RUN/plots; for several runs: plots")
    args = parser.parse_args(argv)
    folder = args.output or (args.runs[0] / "plots" if len(args.runs) == 1 else Path("plots"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            files = plot_runs(args.runs, folder)
        finally:
            for message in dict.fromkeys(str(warning.message) for warning in caught):
                print(f"warning: {message}", file=sys.stderr)
    missing = [key for key in PANELS if folder / f"{key}.png" not in files]
    if missing:
        print(f"no data for: {', '.join(missing)}")
    print(f"written: {folder}/ {' '.join(file.name for file in files)}")
