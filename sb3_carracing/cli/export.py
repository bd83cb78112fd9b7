"""`export`: write an agent as ONNX."""

import argparse
import json
from pathlib import Path

from sb3_carracing.agents import read_agent
from sb3_carracing.errors import UserError, preparation
from sb3_carracing.export import N_CHECKED, OPSET, export
from sb3_carracing.files import next_free
from sb3_carracing.runs import read_run, statistics_of


def main(argv: list[str]) -> None:
    """Run `python -m sb3_carracing export`."""
    parser = argparse.ArgumentParser(
        prog="python -m sb3_carracing export",
        description="Write an agent's deterministic action as one ONNX file, which runs without torch and SB3.",
    )
    parser.add_argument("agent", metavar="RUN", help="run folder, or an agent's .zip")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--checkpoint", type=int, metavar="N", help="the run's checkpoint after N steps")
    which.add_argument("--last", action="store_true", help="the run's last agent (default: its best, if there is one)")
    which.add_argument("--best", action="store_true", help="the run's best agent")
    parser.add_argument("--algo", help="for a .zip: its algorithm (default: beta_ppo)")
    parser.add_argument("--trust", action="store_true", help="import classes from anywhere and run their code")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: the agent's name, in the current folder")
    args = parser.parse_args(argv)
    file, pipeline = Path(args.agent), None
    with preparation():
        if file.suffix == ".zip":
            if args.last or args.best or args.checkpoint is not None:
                raise UserError(f"--checkpoint, --last and --best choose from a run folder, and {file} is a .zip")
            model = read_agent(file, args.algo or "beta_ppo", trust=args.trust)
            statistics = statistics_of(file)
        else:
            if args.algo:
                raise UserError(f"--algo is for a .zip; the run folder {file} says it itself")
            run = read_run(file, args.trust)
            file = run.agent_file(checkpoint=args.checkpoint, best=args.best, last=args.last)
            model, pipeline = read_agent(file, run.algo, trust=args.trust), run.pipeline_of(file)
            statistics = pipeline.normalize
        output = args.output or next_free(Path(f"{file.stem}.onnx"))
        metadata, difference = export(model, output, pipeline, statistics, args.trust)
    print(f"written: {output} (opset {OPSET}; it differs from torch by {difference:.1g} over {N_CHECKED:,} observations)")
    print("outside of it:", *json.loads(metadata["outside"]), sep="\n  ")
