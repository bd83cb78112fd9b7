"""`report`: one HTML file about one or several runs."""

import argparse
import time
from pathlib import Path

import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_carracing.agents import Agent
from sb3_carracing.checks import whole_number
from sb3_carracing.cli.table import COMMANDS
from sb3_carracing.curves import run_info, separate
from sb3_carracing.envs.counts import counts_of
from sb3_carracing.errors import preparation
from sb3_carracing.evaluation import TEST_SEED, check_pipeline
from sb3_carracing.files import check_output_file, next_free
from sb3_carracing.pipelines import env_spec, is_car_racing, pipeline_env
from sb3_carracing.report.contents import Evaluation, read_evaluations_of
from sb3_carracing.report.page import SIZE_LIMIT, write_report
from sb3_carracing.runs import Run, read_run
from sb3_carracing.system import n_cores, no_window

_FRAMES_OF_LAP = 700
_TRIAL_STEPS = 10


def main(argv: list[str]) -> None:
    """Run `python -m sb3_carracing report`."""
    parser = argparse.ArgumentParser(
        prog="python -m sb3_carracing report",
        description="Write one HTML file about runs: summary, settings, curves with warning signs, scores, maps and replays "
        "of the test tracks. It needs no network.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="run folder; several are compared")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: RUN/report.html; for several: report.html")
    parser.add_argument(
        "--tracks",
        type=int,
        default=10,
        metavar="N",
        help="number of test tracks to drive for a run without a stored evaluation; 0 for none (default: 10)",
    )
    parser.add_argument("--trust", action="store_true", help="import classes and wrappers from anywhere and run their code")
    args = parser.parse_args(argv)
    whole_number("--tracks", args.tracks, 0)
    with preparation():
        runs = {path: read_run(path, args.trust) for path in args.runs}
        output = args.output or (_results(args.runs[0]) / "report.html" if len(runs) == 1 else Path("report.html"))
        check_output_file(output, SIZE_LIMIT)
    found: dict[str, tuple[Run, list[Evaluation]]] = {}
    names = {info.folder: name for name, info in separate([run_info(path) for path in runs]).items()}
    for path, run in runs.items():
        folders = {run.folder.resolve(), _results(path).resolve()}
        evaluations = read_evaluations_of(run, folders)
        if (
            args.tracks
            and not any(evaluation.drives for evaluation in evaluations)
            and is_car_racing(env_spec(run.pipeline.env_id))
        ):
            _evaluate(path, run, args.tracks, args.trust)
            evaluations = read_evaluations_of(run, folders)
        found[names[path.resolve()]] = run, evaluations
    write_report(found, output)
    print(f"written: {output}")


def _results(path: Path) -> Path:
    """Return the folder for a run's results: the current one for a packaged agent, as `evaluate` does."""
    return path if path.is_dir() else Path()


def _evaluate(path: Path, run: Run, n_tracks: int, trust: bool) -> None:
    """Evaluate a run's agent on its first test tracks, and say first how long it takes."""
    with preparation():
        agent = run.agent(run.agent_file())
        seconds = n_tracks * _seconds_per_lap(agent) / min(n_tracks, n_cores())
    tracks = "track" if n_tracks == 1 else "tracks"
    print(f"{path} has no evaluation with drives: evaluating {n_tracks} {tracks}, which takes about {seconds:.0f} s")
    output = next_free(_results(path) / "evaluation.json")
    COMMANDS["evaluate"].load()([str(path), "-n", str(n_tracks), "-o", str(output), *(["--trust"] if trust else [])])


def _seconds_per_lap(agent: Agent) -> float:
    """Return how long a lap on stock CarRacing takes here, from a few decisions."""
    no_window()
    make_env = pipeline_env(agent.pipeline)
    check_pipeline(agent.model, make_env, agent.pipeline.wrap_vec_env)
    venv = agent.pipeline.wrap_vec_env(DummyVecEnv([make_env]))
    venv.seed(TEST_SEED)
    observation, state, start, frames = venv.reset(), None, time.perf_counter(), 0
    for step in range(_TRIAL_STEPS):
        actions, state = agent.model.predict(observation, state, np.array([step == 0]), deterministic=True)
        observation, _, _, infos = venv.step(actions)
        counts = counts_of(infos[0])
        frames = counts.frames if counts is not None else step + 1
    venv.close()
    return _FRAMES_OF_LAP * (time.perf_counter() - start) / frames
