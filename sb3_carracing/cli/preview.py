"""`preview`: show the full rendering beside the agent's observation."""

import argparse
from pathlib import Path

from sb3_carracing.checks import whole_number
from sb3_carracing.errors import preparation
from sb3_carracing.pipelines import Pipeline
from sb3_carracing.recording import preview
from sb3_carracing.runs import is_run, read_run


def main(argv: list[str]) -> None:
    """Run `python -m sb3_carracing preview`."""
    parser = argparse.ArgumentParser(
        prog="python -m sb3_carracing preview",
        description="Draw the full rendering beside the agent's observation, for an environment id or a run.",
    )
    parser.add_argument("subject", metavar="ID|RUN", help="environment id, or run folder")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="image file (default: preview_<ID>.png)")
    parser.add_argument("--frames", type=int, default=60, metavar="N", help="frames to drive at random first (default: 60)")
    parser.add_argument("--trust", action="store_true", help="import wrappers of the run from anywhere, which runs their code")
    args = parser.parse_args(argv)
    whole_number("--frames", args.frames, 1, 900)
    with preparation():
        pipeline = read_run(args.subject, args.trust).pipeline if is_run(args.subject) else Pipeline(args.subject)
    file = args.output or Path(f"preview_{pipeline.env_id.replace('/', '-')}.png")
    preview(pipeline, file, args.frames)
    print(f"written: {file}")
