"""`plot`: draw the learning curves of one or several runs."""

import argparse
import sys
import warnings
from pathlib import Path
from typing import get_args

from sb3_carracing.curves import PANELS, Unit
from sb3_carracing.plotting import plot_runs


def main(argv: list[str]) -> None:
    """Run `python -m sb3_carracing plot`."""
    parser = argparse.ArgumentParser(
        prog="python -m sb3_carracing plot",
        description="Draw learning curves as PNG and SVG: losses, entropy, KL, evaluation and score. Runs of one algorithm "
        "with different seeds are drawn as their mean.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="run folders; several share each diagram")
    parser.add_argument(
        "-x", choices=get_args(Unit), help="horizontal axis (default: frames if all runs have them, else steps)"
    )
    parser.add_argument(
        "--separate", action="store_true", help="draw each run by itself, not the mean of an algorithm's seeds"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="default: RUN/plots; for several runs: plots")
    args = parser.parse_args(argv)
    folder = args.output or (args.runs[0] / "plots" if len(args.runs) == 1 else Path("plots"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ResourceWarning)  # of what ran before in this process
        try:
            files = plot_runs(args.runs, folder, x=args.x, group=not args.separate)
        finally:
            for message in dict.fromkeys(str(warning.message) for warning in caught):
                print(f"warning: {message}", file=sys.stderr)
    missing = [key for key in PANELS if folder / f"{key}.png" not in files]
    if missing:
        print(f"no data for: {', '.join(missing)}")
    print(f"written: {folder}/ {' '.join(file.name for file in files if file.suffix == '.png')}, and each as .svg")
