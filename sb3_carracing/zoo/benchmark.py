"""`benchmark`: rl-zoo3's table of trained agents, with the command, the number of episodes and the training steps."""

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rl_zoo3.utils import get_hf_trained_models
from stable_baselines3.common.monitor import LoadMonitorResultsError, load_results
from tqdm import tqdm

from sb3_carracing.errors import UserError
from sb3_carracing.evaluation import MIN_EPISODES_FOR_INTERVAL
from sb3_carracing.files import data_dir, next_free
from sb3_carracing.logs import read_episodes
from sb3_carracing.ppo.saving.loading import trained_steps
from sb3_carracing.progress import ProgressLine
from sb3_carracing.runs import TRAINED_AGENTS, read_run
from sb3_carracing.zoo.played_agents import AskedAgent, run_number
from sb3_carracing.zoo.score_report import mean_and_spread
from sb3_carracing.zoo.scripts import hub_errors

_SECONDS_PER_LOOK = 1.0
_ONE_ENV_ONLY = ("dqn", "qrdqn", "ddpg", "sac", "td3", "tqc")
_COLUMNS = ("algo", "env_id", "mean_score", "std_score", "n_timesteps", "eval_timesteps", "eval_episodes")


def benchmark(args: argparse.Namespace, command: list[str]) -> None:
    """Evaluate the last agent of each algorithm and environment in a folder and write the table benchmark.md.

    Args:
        args: arguments of `benchmark`.
        command: its arguments as typed, for the table.

    Raises:
        UserError: there is no such folder, or the hub does not answer.
    """
    folder = Path(args.log_dir or TRAINED_AGENTS)
    if args.log_dir is None and not folder.is_dir():
        if not args.no_hub:
            raise UserError(
                f"benchmark downloads the hub's agents into --log-dir, and there is no {folder} here: name a folder, or pass "
                "--no-hub to play the packaged agents"
            )
        folder = data_dir(TRAINED_AGENTS)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    agents = sorted(set(_agents_in(folder)) | (set() if args.no_hub else _agents_on_the_hub()))
    agents = [(algo, env_id) for algo, env_id in agents if args.with_mujoco or "Fetch" not in env_id]
    agents = agents[:1] if args.test_mode else agents
    rows = []
    with ProgressLine("benchmark", max(len(agents), 1), disable=not args.verbose).ticking() as line:
        for number, (algo, env_id) in enumerate(agents):
            line.reach(number, f"{algo} on {env_id}", f"{number}/{len(agents)} agents")
            row = _evaluate(args, folder, algo, env_id, line)
            if row is not None:
                rows.append(row)
        line.reach(line.total, f"{len(agents)}/{len(agents)} agents")
    table = args.benchmark_dir / "benchmark.md"
    table.parent.mkdir(parents=True, exist_ok=True)
    text = _text(folder, command, rows)
    table.write_text(text)
    print(f"Results written to: {table}")
    if not args.test_mode:
        _write_and_keep(Path("benchmark.md"), text)


def _agents_in(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield algorithm and environment id of every run with a last agent."""
    for run_folder in sorted(path for path in folder.glob("*/*/") if any(path.glob("*/args.yml"))):
        run = read_run(run_folder)
        if (run_folder / run.last_agent).is_file():
            yield run.algo, run.pipeline.env_id


def _agents_on_the_hub() -> set[tuple[str, str]]:
    with hub_errors("benchmark", "; --no-hub plays only the agents of --log-dir"):
        return set(get_hf_trained_models().values())


def _evaluate(args: argparse.Namespace, folder: Path, algo: str, env_id: str, line: ProgressLine) -> dict[str, str] | None:
    """Run an agent with `enjoy` in a separate process and return its row of the table, or None if that failed."""
    n_envs, n_timesteps = args.n_envs, args.n_timesteps
    if algo in _ONE_ENV_ONLY:
        n_envs, n_timesteps = 1, n_timesteps * args.n_envs
    asked = AskedAgent.of("benchmark", ["--algo", algo, "--env", env_id])
    log = args.benchmark_dir / f"{algo}-{asked.env}"
    options = ["-n", n_timesteps, "--n-envs", n_envs, "-f", folder, "--algo", algo, "--env", env_id, "--no-render"]
    options += ["--num-threads", args.num_threads, "--seed", args.seed, "--verbose", 0, "--reward-log", log]
    command = [sys.executable, "-m", "sb3_carracing", "enjoy", *map(str, options)]
    for earlier in log.glob("*.monitor.csv"):
        earlier.unlink()
    if _run(command, log, n_timesteps * n_envs, line) != 0:
        tqdm.write(f"{algo} on {env_id}: error during evaluation, skipping")
        return None
    try:
        episodes = load_results(str(log))
    except LoadMonitorResultsError:
        episodes = None
    if episodes is None or episodes.empty:
        tqdm.write(f"{algo} on {env_id}: not enough timesteps for an episode")
        return None
    number = run_number(folder, asked, asked.pattern())
    agent = folder / algo / f"{asked.env}_{number}" / f"{asked.env}.zip"
    scores, steps = episodes["r"].to_numpy(), int(episodes["l"].sum())
    if args.verbose:
        tqdm.write(f"{algo} on {env_id}: score {mean_and_spread(scores)} in {len(episodes)} episodes, {steps} steps")
    std = f"{scores.std():.3f}" if len(scores) >= MIN_EPISODES_FOR_INTERVAL else "-"
    values = (algo, env_id, f"{scores.mean():.3f}", std, _trained_steps(agent), str(steps), str(len(episodes)))
    return dict(zip(_COLUMNS, values, strict=True))


def _run(command: list[str], log: Path, n_steps: int, line: ProgressLine) -> int:
    """Run a command that logs episodes, show its progress within one agent, and return its exit status."""
    start, parts = line.n, line.parts
    with subprocess.Popen(command) as process:
        try:
            while process.poll() is None:
                episodes = read_episodes(log)
                played = episodes["l"].sum() if episodes is not None else 0
                line.reach(start + min(played / n_steps, 0.99), *parts)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_SECONDS_PER_LOOK)
        except BaseException:
            process.kill()
            raise
    return process.returncode


def _trained_steps(agent: Path) -> str:
    """Return how many steps an agent was trained for, as its file says."""
    return str(trained_steps(agent) or "unknown")


def _text(folder: Path, command: list[str], rows: list[dict[str, str]]) -> str:
    """Return the Markdown file."""
    words = shlex.join(["python", "-m", "sb3_carracing", "benchmark", *command])
    lines = [
        "## Performance of trained agents",
        "",
        f"The last agents in `{folder}`, played with `{words}` on {time.strftime('%Y-%m-%d')}.",
        "",
        "`n_timesteps`: steps of the agent's training. `eval_timesteps`, `eval_episodes`: what was played here. The score is",
        "the return of the environment named, without training rules and wrappers' rewards, with the agent's deterministic",
        f"actions (sampled ones on Atari). Fewer than {MIN_EPISODES_FOR_INTERVAL} episodes have no standard deviation.",
        "One run of each algorithm and environment: this is not a comparison of algorithms.",
        "",
        f"|{'|'.join(_COLUMNS)}|",
        f"|{'|'.join('---' if column in ('algo', 'env_id') else '--:' for column in _COLUMNS)}|",
        *(f"|{'|'.join(row.values())}|" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _write_and_keep(file: Path, text: str) -> None:
    """Write a file and rename an existing one."""
    if file.exists():
        kept = next_free(file)
        file.rename(kept)
        print(f"The {file} that was here is now {kept}")
    file.write_text(text)
    print(f"Results copied to: {file}")
