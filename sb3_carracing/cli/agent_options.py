"""The options that name an agent, shared by the commands that run one."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from gymnasium import spaces

from sb3_carracing.agents import Agent, random_agent, read_agent
from sb3_carracing.errors import UserError
from sb3_carracing.pipelines import FAST_ID, Pipeline, env_spec, is_car_racing, wrapper_calls
from sb3_carracing.runs import read_run, shipped_agents


def add_agent_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that name an agent."""
    parser.add_argument(
        "agent", nargs="?", metavar="RUN", help="run folder, id of a shipped agent, or an agent's .zip with --env-id"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--checkpoint", type=int, metavar="N", help="the run's checkpoint after N steps")
    which.add_argument("--last", action="store_true", help="the run's last agent (default: its best, if there is one)")
    which.add_argument("--best", action="store_true", help="the run's best agent")
    which.add_argument("--random", action="store_true", help="uniform random actions, in the run's pipeline if one is given")
    parser.add_argument("--env-id", metavar="ID", help="for a .zip: the environment that it was trained in")
    parser.add_argument("--algo", help="for a .zip: its algorithm (default: beta_ppo)")
    parser.add_argument("--frame-stack", type=int, metavar="N", help="for a .zip: observations stacked by VecFrameStack")
    parser.add_argument(
        "--wrapper",
        action="append",
        metavar="WRAPPER",
        help="for a .zip: wrapper by dotted path, innermost first; with keywords as in a YAML file: 'PATH: {frame_skip: 4}'",
    )
    parser.add_argument("--trust", action="store_true", help="import classes and wrappers from anywhere and run their code")
    parser.add_argument("--device", default="cpu", help="torch device that the agent computes on (default: cpu)")


def open_agent(args: argparse.Namespace) -> Agent:
    """Open the agent that the options of `add_agent_arguments` name.

    Raises:
        UserError: an option is missing or unknown, or options contradict each other.
    """
    path = Path(args.agent) if args.agent else None
    by_hand = [name for name in ("env_id", "algo", "frame_stack", "wrapper") if getattr(args, name) is not None]
    if path is None and not args.random:
        raise UserError(
            f"name a run folder, an agent's .zip or a shipped agent ({', '.join(shipped_agents())}), or pass --random"
        )
    if path is not None and path.suffix != ".zip":
        if by_hand:
            raise UserError(f"--{by_hand[0].replace('_', '-')} is for a .zip; the run folder {path} says it itself")
        return _agent_of_run(path, args)
    if path is not None and (args.last or args.best or args.checkpoint is not None):
        raise UserError(f"--checkpoint, --last and --best choose from a run folder, and {path} is a .zip")
    return _agent_by_hand(path, args)


def _agent_of_run(folder: Path, args: argparse.Namespace) -> Agent:
    run = read_run(folder, args.trust)
    env_spec(run.pipeline.env_id)
    # Results of a packaged agent go into the current folder, not into site-packages. A folder of the agent's own name would
    # be mistaken for the run from then on.
    results = folder if folder.is_dir() else Path()
    if args.random:
        return random_agent(run.pipeline, results)
    return run.agent(run.agent_file(checkpoint=args.checkpoint, best=args.best, last=args.last), results, args.device)


def _agent_by_hand(file: Path | None, args: argparse.Namespace) -> Agent:
    if file is not None and args.env_id is None:
        raise UserError(f"{file} does not say which environment it drives in: pass --env-id (or its run folder instead)")
    wrappers = wrapper_calls(_from_yaml(args.wrapper or []))
    pipeline = Pipeline(args.env_id or FAST_ID, wrappers=wrappers, frame_stack=args.frame_stack)
    spec = env_spec(pipeline.env_id)
    if file is None or args.random:
        return random_agent(pipeline, Path())
    algo = args.algo or "beta_ppo"
    model = read_agent(file, algo, args.device, args.trust)
    if isinstance(model.action_space, spaces.Discrete) and is_car_racing(spec) and "continuous" not in spec.kwargs:
        pipeline.env_kwargs["continuous"] = False
    return Agent(file.name, model, algo, pipeline, file, file.parent)


def _from_yaml(texts: Sequence[str]) -> list[Any]:
    try:
        return [yaml.safe_load(text) for text in texts]
    except yaml.YAMLError as error:
        raise UserError(f"--wrapper cannot be read as YAML: {' '.join(str(error).split())}") from error
