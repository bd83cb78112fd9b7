"""The real commands in a subprocess, as a user types them."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from refusals import refusal
from terminals import stderr_in_terminal

REPOSITORY = Path(__file__).parents[2]
WRAPPERS = "sb3_carracing.envs.wrappers"


def run_command(*arguments: str, cwd: Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m sb3_carracing ...` in another folder."""
    env = {**os.environ, "SDL_VIDEODRIVER": "dummy", "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "sb3_carracing", *arguments]
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


def pendulum(*arguments: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    short = ["-params", "n_steps:32", "n_envs:2", "batch_size:32", "n_epochs:2"]
    return run_command(
        "train", "--env", "Pendulum-v1", "--eval-freq", "-1", "--seed", "1", *arguments, *short, cwd=cwd, check=check
    )


@pytest.mark.slow
def test_a_task_that_is_no_car_racing_is_trained_and_plotted(tmp_path: Path) -> None:
    short = ["--eval-freq", "-1", "-n", "256", "-params", "n_steps:128", "n_envs:1", "batch_size:128"]
    done = run_command("train_and_report", "--", "--env", "Pendulum-v1", *short, cwd=tmp_path)
    assert "Pendulum-v1 is not a CarRacing: skipping evaluate and record" in done.stdout
    run = tmp_path / "logs/beta_ppo/Pendulum-v1_1"
    assert (run / "plots/all.png").is_file()
    assert (run / "report.html").is_file()


@pytest.mark.slow
def test_train_then_resume_goes_on_where_it_was(tmp_path: Path) -> None:
    from sb3_carracing import BetaPPO

    pendulum("-n", "640", "--save-freq", "320", cwd=tmp_path)
    run = tmp_path / "logs/beta_ppo/Pendulum-v1_1"
    config = yaml.unsafe_load((run / "Pendulum-v1/config.yml").read_text())
    assert dict(config)["gamma"] == 0.95, "the packaged hyperparameters were not read"

    checkpoint = run / "rl_model_320_steps.zip"
    decaying = ["-n", "640", "-params", "learning_rate:'lin_0.001'", "n_steps:32", "n_envs:2", "batch_size:32"]
    resumed = run_command("train", "--env", "Pendulum-v1", "--eval-freq", "-1", "-i", str(checkpoint), *decaying, cwd=tmp_path)
    assert "Resuming at step 320 of 640" in resumed.stdout
    model = BetaPPO.load(tmp_path / "logs/beta_ppo/Pendulum-v1_2/Pendulum-v1.zip")
    assert model.num_timesteps == 640
    # A checkpoint holds the update of its last rollout: five of two epochs, then five of ten.
    assert model._n_updates == 5 * 2 + 5 * 10
    # The last update sees the progress at its rollout's end: nothing remains.
    assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-4)

    finished = run_command(
        "train", "--env", "Pendulum-v1", "-n", "320", "-i", str(checkpoint), "--eval-freq", "-1", cwd=tmp_path, check=False
    )
    assert finished.returncode == 2
    assert "already played 320 steps" in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.slow
def test_a_resume_goes_on_with_the_running_means_of_its_agent(tmp_path: Path) -> None:
    """rl-zoo3 keeps those of the end only, and reads them for every agent of the folder."""
    from stable_baselines3.common.env_util import make_vec_env

    from sb3_carracing.ppo.saving.vec_normalize import read_statistics

    normalized = ["-params", "n_steps:32", "n_envs:2", "batch_size:32", "normalize:True"]
    train = ["train", "--env", "Pendulum-v1", "--eval-freq", "-1", "--save-freq", "64"]
    run_command(*train, "-n", "192", *normalized, cwd=tmp_path)
    run = tmp_path / "logs/beta_ppo/Pendulum-v1_1"
    shutil.copy(run / "rl_model_128_steps.zip", run / "best_model.zip")
    shutil.copy(run / "rl_model_vecnormalize_128_steps.pkl", run / "best_model_vecnormalize.pkl")

    def seen(file: Path) -> Any:
        """Return how many observations the running means are of: the steps, and those of resets."""
        return pytest.approx(read_statistics(file, make_vec_env("Pendulum-v1")).obs_rms.count, abs=6)  # type: ignore[attr-defined]

    assert seen(run / "rl_model_vecnormalize_64_steps.pkl") == 64
    assert seen(run / "Pendulum-v1/vecnormalize.pkl") == 192
    for number, agent in ((2, "rl_model_64_steps.zip"), (3, "best_model.zip")):
        run_command(*train, "-n", "256", "-i", str(run / agent), *normalized, cwd=tmp_path)
        assert seen(run.with_name(f"Pendulum-v1_{number}") / "Pendulum-v1/vecnormalize.pkl") == 256


@pytest.mark.slow
def test_the_best_agent_is_the_validations(tmp_path: Path) -> None:
    """rl-zoo3's own evaluation, on by default, measures a shaped reward and must not replace the agent."""
    from sb3_carracing import BetaPPO

    validation = "callback:[{'sb3_carracing.callbacks.ValidationCallback':{'every_frames':1,'n_episodes':1}}]"
    small = ["n_envs:1", "n_steps:3", "batch_size:3", "n_epochs:1", validation]
    command = ["train", "--env", "CarRacingFast-v3", "-n", "3", "--eval-freq", "3", "--eval-episodes", "1", "--verbose", "1"]
    command += ["-params", *small]
    printed = run_command(*command, cwd=tmp_path).stdout
    run = tmp_path / "logs/beta_ppo/CarRacingFast-v3_1"
    assert "Eval num_timesteps=3" in printed, "rl-zoo3 has not evaluated"
    with np.load(run / "evaluations.npz") as evaluations:
        assert evaluations["timesteps"].tolist() == [1, 2, 3]
        assert evaluations["results"].shape == evaluations["ep_lengths"].shape == (3, 1)
    # The three validations see the same weights, so the first remains the best; rl-zoo3 evaluates after them.
    assert BetaPPO.load(run / "best_model.zip").num_timesteps == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "unknown command 'fly'"),
        (["train", "--env", "CarRacingFats-v3"], "you maybe meant CarRacingFast-v3"),
        (["train", "--env", "Pendulum-v1", "-i", "nowhere.zip"], "valid path to a .zip file"),
        (
            ["train", "--env", "Pendulum-v1", "-params", "policy_kwargs:dict(parameterization='gauss')"],
            "'exp', 'mode', 'softplus'",
        ),
        (
            ["train", "--env", "Pendulum-v1", "-params", "policy_kwargs:dict(features_extractor_class='vgg')"],
            "'blog', 'combined', 'flatten'",
        ),
        (["train", "--env", "CarRacingFast-v3", "--env-kwargs", "frame_skp:3"], "unexpected keyword argument 'frame_skp'"),
        (
            [
                "train",
                "--env",
                "CarRacingFast-v3",
                "-params",
                f"env_wrapper:[{{'{WRAPPERS}.ActionRepeat':{{'frame_skp':4}}}}]",
            ],
            "unexpected keyword argument 'frame_skp'",
        ),
        (["train", "--env", "CarRacingFast-v3", "-params", f"env_wrapper:'{WRAPPERS}.Nope'"], "has no attribute 'Nope'"),
        (
            ["train", "--env", "CarRacingFast-v3", "--vec-env", "subproc", "--env-kwargs", "frame_skp:3"],
            "unexpected keyword argument 'frame_skp'",
        ),
        (["train", "--env", "Pendulum-v1", "-params", "n_stepps:64"], "unexpected keyword argument 'n_stepps'"),
        (["evaluate", "logs/none"], "logs"),
    ],
)
def test_bad_input_is_one_clear_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    errors = refusal(capsys, *arguments).err
    assert message in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_interrupt_saves_the_agent_and_a_second_start_gets_its_own_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sb3_carracing", "train", "--env", "Pendulum-v1", "--eval-freq", "-1", "-n", "10000000"]
    command += ["--verbose", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    # The second table of the log: an update lies behind.
    seen = 0
    for line in process.stdout:
        seen += "total_timesteps" in line
        if seen == 2:
            break
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGINT, errors
    assert "Traceback" not in errors
    assert "Stopped by SIGINT: the agent after" in errors
    agent = tmp_path / "logs/beta_ppo/Pendulum-v1_1/Pendulum-v1.zip"
    saved = agent.stat().st_mtime_ns
    pendulum("-n", "64", cwd=tmp_path)
    assert (tmp_path / "logs/beta_ppo/Pendulum-v1_2/Pendulum-v1.zip").is_file()
    assert agent.stat().st_mtime_ns == saved


@pytest.mark.parametrize(("command", "library"), [("train", "rl_zoo3"), ("enjoy", "huggingface_sb3")])
def test_a_missing_library_is_named(tmp_path: Path, command: str, library: str) -> None:
    # None in sys.modules makes an import fail as if the library were not installed.
    program = f"import sys; sys.modules[{library!r}] = None; from sb3_carracing.__main__ import main; main([{command!r}])"
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert f"{command} needs {library}" in result.stderr
    assert "sb3-carracing[zoo]" in result.stderr


def test_help_lists_every_command_everyday_ones_first(tmp_path: Path) -> None:
    from sb3_carracing.cli.table import COMMANDS

    usage = run_command("--help", cwd=tmp_path).stdout
    assert all(f"  {command.name} " in usage and command.help in usage for command in COMMANDS.values())
    everyday, of_rl_zoo3 = usage.split("rl-zoo3's other commands")
    for name in ("demo", "train", "enjoy", "evaluate", "record", "plot", "tune"):
        assert f"  {name} " in everyday
    for name in ("record_video", "benchmark", "plot_train", "all_plots"):
        assert f"  {name} " in of_rl_zoo3
    assert all(len(line) <= 80 for line in usage.splitlines())


def test_on_a_terminal_a_command_says_at_once_that_it_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    from sb3_carracing.cli import main, table

    class Loading:
        def load(self) -> Any:
            print("loaded", file=sys.stderr)
            return lambda _: None

    monkeypatch.setitem(table.COMMANDS, "train", Loading())
    with stderr_in_terminal(80) as terminal:
        main(["train"])
    assert terminal.states() == ["sb3-carracing train: loading", "loaded"]


def test_a_training_may_be_counted_in_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sb3_carracing.cli import main

    monkeypatch.chdir(tmp_path)
    repeat = f"env_wrapper:[{{'{WRAPPERS}.ActionRepeat':{{'frame_skip':4}}}}]"
    short = ["--env", "Pendulum-v1", "--eval-freq", "-1", "-params", "n_steps:16", "n_envs:1", "batch_size:16", repeat]
    main(["train", "--frames", "1.28e2", *short])
    arguments = yaml.unsafe_load((tmp_path / "logs/beta_ppo/Pendulum-v1_1/Pendulum-v1/args.yml").read_text())
    assert arguments["n_timesteps"] == 32
    for options, sentence in (
        (["--frames", "1e3", "-n", "64"], "--frames and -n both set the length"),
        (["--frames", "0.5"], "--frames must be a whole number of at least 1, got 0.5"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["train", *options, *short])
        assert sentence in capsys.readouterr().err


def test_every_command_has_the_same_default_environment() -> None:
    from sb3_carracing.zoo.commands import _with_defaults
    from sb3_carracing.zoo.played_agents import AskedAgent

    assert _with_defaults(["-n", "5"]) == ["--algo", "beta_ppo", "--env", "CarRacingFast-v3", "-n", "5"]
    assert _with_defaults(["--env=Ant-v5", "--algo", "ppo"]) == ["--env=Ant-v5", "--algo", "ppo"]
    assert AskedAgent.of("enjoy", []).env == "CarRacingFast-v3"


def test_importing_the_command_line_loads_no_torch() -> None:
    program = "import sys; from sb3_carracing.cli import main; main([sys.argv[1]]); assert 'torch' not in sys.modules"
    for option in ("--help", "--version"):
        subprocess.run([sys.executable, "-c", program, option], check=True, capture_output=True)


def test_errors_are_sorted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Bad input and files that cannot be used are one line; everything else is not caught."""
    from sb3_carracing import cli
    from sb3_carracing.cli import table
    from sb3_carracing.errors import UserError

    errors: list[Exception] = []

    class Raising:
        def load(self) -> Any:
            def run(_: list[str]) -> None:
                raise errors[-1]

            return run

    monkeypatch.setitem(table.COMMANDS, "train", Raising())
    for error, line in (
        (UserError("n must\n be 3"), "sb3_carracing: n must be 3\n"),
        (FileNotFoundError(2, "No such file", "a"), "sb3_carracing: [Errno 2] No such file: 'a'\n"),
        (OSError(28, "No space left on device"), "sb3_carracing: [Errno 28] No space left on device\n"),
    ):
        errors.append(error)
        with pytest.raises(SystemExit) as exit_info:
            cli.main(["train"])
        assert exit_info.value.code == 2
        assert capsys.readouterr().err == line
        monkeypatch.setenv("SB3_CARRACING_TRACEBACK", "1")
        with pytest.raises(type(error)):
            cli.main(["train"])
        monkeypatch.delenv("SB3_CARRACING_TRACEBACK")
    for bug in (ValueError("x"), AssertionError(), TypeError("x"), ConnectionResetError(104, "gone"), OSError("x")):
        errors.append(bug)
        with pytest.raises(type(bug)):
            cli.main(["train"])


@pytest.mark.slow
def test_wheel_brings_its_data(tmp_path: Path) -> None:
    """The built wheel finds its hyperparameters from another folder."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(REPOSITORY)],
        check=True,
        capture_output=True,
    )
    wheel = next(tmp_path.glob("*.whl"))
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel], check=True)
    code = (
        "import sb3_carracing.files as d; f = d.hyperparams_file('beta_ppo'); "
        "assert f.is_file() and f.is_relative_to(d._PACKAGE), f; print(f)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert str(site) in result.stdout
