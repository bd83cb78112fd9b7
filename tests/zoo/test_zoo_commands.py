"""What rl-zoo3's users type, with `beta_ppo` on CarRacing: real commands in a subprocess."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import yaml
from refusals import refusal

from sb3_carracing import BetaPPO
from sb3_carracing.cli import main
from sb3_carracing.files import data_dir
from sb3_carracing.zoo.played_agents import AskedAgent, options_for

REPOSITORY = Path(__file__).parents[2]
CAR = "CarRacingFast-v3"
WRAPPERS = "sb3_carracing.envs.wrappers"
ENVIRONMENT = {**os.environ, "SDL_VIDEODRIVER": "dummy", "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
VALIDATION = "callback:[{'sb3_carracing.callbacks.ValidationCallback':{'every_frames':256,'n_episodes':2}}]"
gym.register("SB3CarRacingGame-v0", "games:AtariEnv")  # by its name rl-zoo3 takes it for an Atari game
SMALL = ["n_envs:2", "n_steps:32", "batch_size:32", "n_epochs:1"]


def zoo(*arguments: str, cwd: Path, package: str = "sb3_carracing", status: int = 0, **environment: str) -> str:
    """Run `python -m <package> ...` and return what it printed."""
    start = [sys.executable, "-m", package] if package == "sb3_carracing" else [sys.executable, "-m"]
    environment = ENVIRONMENT | environment
    result = subprocess.run([*start, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    printed = result.stdout + result.stderr
    assert result.returncode == status, printed
    assert "Traceback" not in printed
    return printed


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Train with many of rl-zoo3's options; return the folder and what was printed."""
    folder = tmp_path_factory.mktemp("zoo")
    places = ["-P", "-tb", "tb", "--seed", "3", "--device", "cpu", "--vec-env", "subproc", "--num-threads", "1"]
    numbers = ["-n", "192", "--eval-freq", "64", "--eval-episodes", "2", "--save-freq", "64", "--log-interval", "1"]
    hyperparams = ["--env-kwargs", "off_road_frames:3", "-params", *SMALL, VALIDATION]
    return folder, zoo("train", "--env", CAR, *places, *numbers, "--verbose", "1", *hyperparams, cwd=folder)


@pytest.mark.slow
def test_train_takes_rl_zoo3s_options(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    run = folder / f"logs/beta_ppo/{CAR}_1"
    assert "Seed: 3" in printed
    assert "192/192" in printed, "-P has shown no progress bar"
    assert printed.count("| time/ ") >= 3, "--log-interval 1 writes a table a rollout"
    assert {f"Eval num_timesteps={steps}" in printed for steps in (64, 128, 192)} == {True}
    assert sorted(path.name for path in run.glob("rl_model_*")) == [f"rl_model_{n}_steps.zip" for n in (128, 192, 64)]
    assert list((folder / "tb").rglob("events.out.tfevents.*"))
    assert len(list(run.glob("*.monitor.csv"))) == 2
    arguments = yaml.unsafe_load((run / CAR / "args.yml").read_text())
    assert arguments["env_kwargs"] == {"off_road_frames": 3}
    assert (arguments["device"], arguments["num_threads"], arguments["vec_env"]) == ("cpu", 1, "subproc")
    assert dict(yaml.unsafe_load((run / CAR / "config.yml").read_text()))["n_steps"] == 32


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "file"),
    [
        (["--stochastic"], f"{CAR}.zip"),
        (["--load-best"], "best_model.zip"),
        (["--load-checkpoint", "64"], "rl_model_64_steps.zip"),
        (["--load-last-checkpoint", "--reward-log", "rewards"], "rl_model_192_steps.zip"),
    ],
)
def test_enjoy_plays_the_agent_asked_for(trained: tuple[Path, str], options: list[str], file: str) -> None:
    folder, _ = trained
    printed = zoo("enjoy", "--env", CAR, "-f", "logs", "--no-render", "-n", "260", *options, cwd=folder)
    assert f"{CAR}_1/{file}" in printed
    assert re.search(r"Score: [-\d.]+\nTraining return: [-\d.]+", printed)
    assert (folder / "rewards").is_dir() == ("--reward-log" in options)


@pytest.mark.slow
def test_resume_goes_on_in_steps(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    checkpoint = f"logs/beta_ppo/{CAR}_1/rl_model_64_steps.zip"
    command = ["train", "--env", CAR, "-i", checkpoint, "-n", "192", "-f", "resumed", "--eval-freq", "-1"]
    printed = zoo(*command, "--save-freq", "64", "-params", *SMALL, VALIDATION, cwd=folder)
    assert "Resuming at step 64 of 192" in printed
    assert sorted(path.name for path in (folder / "resumed").rglob("rl_model_*")) == [
        f"rl_model_{steps}_steps.zip" for steps in (128, 192)
    ]


@pytest.mark.slow
def test_films(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    zoo("record_video", "--env", CAR, "-f", "logs", "-n", "10", "-o", "film", "--load-best", cwd=folder)
    assert [path.suffix for path in (folder / "film").iterdir()].count(".mp4") == 1
    zoo("record_training", "--env", CAR, "-f", "logs", "-n", "10", cwd=folder)
    videos = folder / f"logs/beta_ppo/{CAR}_1/videos"
    # Three checkpoints, the best, the last, and all of them in one.
    assert len(list(videos.glob("*.mp4"))) == 6
    assert (videos / "training.mp4").stat().st_size > 1000


@pytest.mark.slow
def test_plots_compare_with_ppo(trained: tuple[Path, str]) -> None:
    """all_plots' table holds the validations' raw scores, of both algorithms."""
    folder, _ = trained
    small = ["-n", "192", "--eval-freq", "-1", "-params", *SMALL, VALIDATION]
    zoo("train", "--algo", "ppo", "--env", CAR, "--seed", "3", *small, cwd=folder)
    command = ["-a", "ppo", "beta_ppo", "-e", CAR, "-f", "logs", "--no-million", "--no-display", "-o", "curves"]
    zoo("all_plots", *command, cwd=folder)
    refusal = zoo("plot_from_file", "-i", "curves.json", "-o", "figure.png", cwd=folder, status=2)
    assert "needs two runs of each algorithm" in refusal
    last: dict[str, list[float]] = {"ppo": [], "beta_ppo": []}
    for algo in last:
        zoo("train", "--algo", algo, "--env", CAR, "--seed", "4", *small, cwd=folder)
        for run in (folder / "logs" / algo).glob(f"{CAR}_*"):
            validations = pd.read_csv(run / "evaluations.csv")
            with np.load(run / "evaluations.npz") as stored:
                assert stored["results"].mean(axis=1) == pytest.approx(validations["mean"].to_numpy())
                assert stored["timesteps"].tolist() == validations["steps"].tolist()
            last[algo].append(validations["mean"].iloc[-1])
    printed = zoo("all_plots", *command, cwd=folder)
    row = next(line for line in printed.splitlines() if line.startswith(f"|{CAR}"))
    assert [int(number) for number in re.findall(r"(-?\d+) \+/-", row)] == [round(np.mean(last[algo])) for algo in last]
    curves = json.loads((folder / "curves.json").read_text())
    assert len(curves[CAR]) == 2
    zoo("plot_from_file", "-i", "curves.json", "-o", "figure.png", cwd=folder)
    zoo("plot_train", "-a", "beta_ppo", "-e", CAR, "-f", "logs", "-w", "2", cwd=folder)


@pytest.mark.slow
def test_benchmark_plays_every_agent_of_a_folder(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    printed = zoo("benchmark", "--log-dir", "logs", "--no-hub", "-n", "260", "--num-threads", "1", "--test-mode", cwd=folder)
    assert f"on {CAR}" in printed
    assert f"|{CAR}|" in (folder / "logs/benchmark/benchmark.md").read_text().replace(" ", "")


@pytest.mark.slow
def test_yaml_with_wrappers_stack_normalisation_and_callbacks(tmp_path: Path) -> None:
    entry = {
        "env_wrapper": [{"sb3_carracing.envs.wrappers.ActionRepeat": {"frame_skip": 8}}],
        "frame_stack": 2,
        "normalize": "{'norm_obs': False, 'norm_reward': True}",
        "callback": ["sb3_carracing.callbacks.ProgressCallback"],
        "policy": "CnnPolicy",
        **{"n_envs": 1, "n_steps": 64, "batch_size": 32, "n_epochs": 1, "n_timesteps": 192},
    }
    (tmp_path / "own.yml").write_text(yaml.safe_dump({CAR: entry}))
    zoo("train", "--env", CAR, "-conf", "own.yml", "--eval-freq", "100", "--eval-episodes", "1", "--uuid", cwd=tmp_path)
    (run,) = (tmp_path / "logs/beta_ppo").iterdir()
    assert re.fullmatch(CAR + r"_1_[0-9a-f-]{36}", run.name), "--uuid"
    assert (run / CAR / "vecnormalize.pkl").is_file()
    assert (run / "progress.csv").is_file()
    run.rename(run.with_name(f"{CAR}_1"))
    printed = zoo("enjoy", "--env", CAR, "-f", "logs", "--no-render", "-n", "130", "--load-best", cwd=tmp_path)
    assert "Loading running average" in printed
    assert "Stacking 2 frames" in printed


@pytest.mark.slow
def test_unmodified_rl_zoo3_knows_beta_ppo_by_the_hook(tmp_path: Path) -> None:
    hook = str(REPOSITORY / "examples")
    config = ["-conf", str(REPOSITORY / "hyperparams/beta_ppo.yml"), "-params", *SMALL, VALIDATION]
    both = ["--algo", "beta_ppo", "--env", CAR]
    train = ["rl_zoo3.train", *both, "-n", "64", "--eval-freq", "-1", *config]
    zoo(*train, cwd=tmp_path, package="rl_zoo3", PYTHONPATH=hook)
    play = ["-f", "logs", "--no-render", "-n", "10"]
    zoo("rl_zoo3.enjoy", *both, *play, cwd=tmp_path, package="rl_zoo3", PYTHONPATH=hook)
    zoo("rl_zoo3.record_video", *both, *play, "-o", "film", cwd=tmp_path, package="rl_zoo3", PYTHONPATH=hook)
    assert list((tmp_path / "film").glob("*.mp4"))


@pytest.mark.slow
def test_the_packaged_agent_plays_from_any_folder(tmp_path: Path) -> None:
    printed = zoo("enjoy", "--env", CAR, "--no-render", "-n", "250", cwd=tmp_path)
    score, training_return = (re.search(rf"Mean {name}: ([-\d.]+)", printed) for name in ("score", "training return"))
    assert score is not None
    assert training_return is not None
    assert float(score[1]) > 800
    assert float(training_return[1]) == pytest.approx(float(score[1]) * 0.02, abs=0.02)
    zoo("record_video", "--env", CAR, "-n", "5", cwd=tmp_path)
    assert list((tmp_path / "videos").glob("*.mp4"))
    zoo("evaluate", f"rl-trained-agents/beta_ppo/{CAR}_1", "-n", "1", cwd=tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text())["results"]["mean"]["summary"]["mean"] > 800


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["enjoy", "--env", "Pendulum-v1"], f"no numbered run of Pendulum-v1 in .*, which holds .*{CAR}_1"),
        (["push_to_hub", "--env", CAR, "-f", "logs", "-orga", "nobody"], "upload the run's folder with `hf upload`"),
    ],
)
@pytest.mark.slow
def test_what_cannot_work_is_told_in_a_sentence(tmp_path: Path, arguments: list[str], message: str) -> None:
    assert re.search(message, zoo(*arguments, cwd=tmp_path, status=2))


def test_tracking_without_wandb_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import fails as if it were not installed
    assert "pip install wandb" in refused(capsys, "train", "--env", CAR, "--track")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that has to exit with status 2; return what it wrote to stderr."""
    errors: str = refusal(capsys, *arguments).err
    return errors


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run's folder in the current one, with the packaged agent's files."""
    monkeypatch.chdir(tmp_path)
    run = Path(f"logs/beta_ppo/{CAR}_1")
    shutil.copytree(data_dir("rl-trained-agents") / f"beta_ppo/{CAR}_1", run)
    return run


def test_record_training_empties_no_folder_and_films_something(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["record_training", "--env", CAR, "-f", "logs"]
    film = run_folder / "videos/film.mp4"
    film.parent.mkdir()
    film.touch()
    assert f"would empty {film.parent}" in refused(capsys, *command)
    assert "-o names another one" in refused(capsys, *command, "-o", "logs")
    assert film.is_file()
    (run_folder / f"{CAR}.zip").unlink()
    assert f"no agent to film in {run_folder}" in refused(capsys, *command, "-o", "films")


def test_nothing_is_downloaded_into_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def options(*arguments: str) -> list[str]:
        command, *further = arguments
        return options_for(command, AskedAgent.of(command, further))

    packaged = str(data_dir("rl-trained-agents"))
    run = ["--exp-id", "1"]
    there = ["--folder", packaged]
    assert options("enjoy", "--algo", "beta_ppo", "--env", CAR) == [*there, *run]
    assert options("record_video", "--algo", "beta_ppo", "--env", CAR) == [*there, "--output-folder", "videos", *run]
    assert options("record_video", "--algo", "beta_ppo", "--env", CAR, "--output-folder=films") == [*there, *run]
    assert options("enjoy", "--algo", "ppo", "--env", CAR) == []
    assert "no run 7 of CarRacingFast-v3" in refused(capsys, "enjoy", "--env", CAR, "--exp-id", "7")
    assert "No model found" in refused(capsys, "enjoy", "--env", CAR, "--load-best")
    assert "pass --no-hub to play the packaged agents" in refused(capsys, "benchmark")
    (tmp_path / "rl-trained-agents/beta_ppo").mkdir(parents=True)
    (tmp_path / f"rl-trained-agents/beta_ppo/report_{CAR}.csv").touch()
    assert "which holds no run;" in refused(capsys, "enjoy", "--env", CAR)


def test_benchmark_keeps_the_users_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("benchmark.md").write_text("mine")
    # A folder without agents: nothing is played, an empty table is written.
    Path("logs/benchmark").mkdir(parents=True)
    main(["benchmark", "--log-dir", "logs", "--no-hub"])
    assert Path("benchmark_2.md").read_text() == "mine"
    assert "Performance" in Path("benchmark.md").read_text()


@pytest.mark.slow
def test_an_unreachable_hub_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    said = zoo("benchmark", "--log-dir", "logs", cwd=tmp_path, status=2, HF_ENDPOINT="http://127.0.0.1:1")
    assert "--no-hub plays only the agents of --log-dir" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "-params", "n_envs:1", "learning_rate:abc"], "-params learning_rate:abc is not key:value"),
        (["enjoy", "--env", CAR, "--env-kwargs", "frame_skip"], "--env-kwargs frame_skip is not key:value"),
        (["enjoy", "--env-kwargs", "off_road_frames:3"], "off_road_frames is for training: enjoy plays whole episodes"),
        (["tune", "--env-kwargs", "frame_skip:"], "--env-kwargs frame_skip: is not key:value"),
        (["all_plots"], "required: -a/--algos, -e/--env, -f/--exp-folders"),
        (["plot_from_file"], "required: -i/--input"),
        (["train", "--env", "Pendulum-v1", "-conf", "bad.yml"], "bad.yml is not YAML"),
        (["train", "--env", "Pendulum-v1", "-conf", "empty.yml"], "empty.yml has to map environment ids"),
        (["train", "--env", "Pendulum-v1", "-conf", "policy.yml"], "policy.yml lack n_timesteps"),
        (["train", "--env", "Pendulum-v1", "-conf", "empty"], "'empty' is neither a file *.yml, *.yaml or *.py nor"),
        (["train", "--env", "SB3CarRacingGame-v0"], "beta_ppo.yml has no entry 'atari' for SB3CarRacingGame-v0"),
        (["train", "--env", "Pendulum-v1", "-conf", "none.yml"], "No such file or directory: 'none.yml'"),
        (["train", "--env", "Pendulum-v1", "-f", "bad.yml"], "Not a directory: 'bad.yml/beta_ppo"),
        (
            ["train", "--env", "Pendulum-v1", "-params", "policy_kwargs:'dict(net'"],
            "rl-zoo3 evaluates as Python",
        ),
    ],
)
def test_input_that_cannot_be_read_is_told_in_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yml").write_text("Pendulum-v1: {policy: [")
    Path("empty.yml").touch()
    Path("policy.yml").write_text("default: {policy: MlpPolicy}")
    assert message in refused(capsys, *arguments)
    assert not list(tmp_path.glob("logs/*/*_*"))


def test_push_to_hub_answers_a_question(capsys: pytest.CaptureFixture[str]) -> None:
    status: object = 0
    try:
        main(["push_to_hub", "--help"])
    except SystemExit as exit_info:
        # Where its libraries fit together, rl-zoo3's own help ends so.
        status = exit_info.code
    assert status in (None, 0)
    assert capsys.readouterr().out


def test_a_run_that_fails_before_its_first_step_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`enjoy` takes the latest folder, so that one without an agent would hide the run before it."""
    monkeypatch.chdir(tmp_path)
    train = ["train", "--env", "Pendulum-v1", "--eval-freq", "-1", "-n", "64", "-params", *SMALL]
    main(train)
    callback = "callback:[{'sb3_carracing.callbacks.ValidationCallback':{'every_frames':256,'actions':'nonsense'}}]"
    assert "nonsense" in refused(capsys, *train, callback)
    agent = "logs/beta_ppo/Pendulum-v1_1/Pendulum-v1.zip"
    assert "already played 64 steps" in refused(capsys, *train, "-i", agent)
    assert [path.name for path in Path("logs/beta_ppo").iterdir()] == ["Pendulum-v1_1"]


class Diverges(gym.Wrapper[Any, Any, Any, Any]):
    """Pendulum whose 70th step returns an infinite observation."""

    SPOILED = 70

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(gym.make("Pendulum-v1", **kwargs))
        self.n_steps = 0

    def step(self, action: Any) -> Any:
        """Step, and spoil the one."""
        observation, *rest = self.env.step(action)
        self.n_steps += 1
        return (observation * np.inf if self.n_steps == self.SPOILED else observation), *rest


def test_a_training_that_diverges_saves_what_it_had_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(gym.registry, "Diverges-v0", gym.envs.registration.EnvSpec("Diverges-v0", Diverges))
    Path("small.yml").write_text(
        "default: {policy: MlpPolicy, n_timesteps: 1000, normalize: true, n_envs: 1, n_steps: 32, batch_size: 32}"
    )
    command = ["train", "--env", "Diverges-v0", "-conf", "small.yml", "--eval-freq", "-1", "--verbose", "0", "--seed", "1"]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2
    (sentence,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sb3_carracing: ")]
    assert "The observation of environment 0 is" in sentence
    assert "step 70" in sentence
    agent = sentence.rpartition("-i ")[2]
    monkeypatch.setattr(Diverges, "SPOILED", 0)  # the environment is corrected, as the message advises
    main([*command, "-n", "134", "-i", agent])
    resumed = BetaPPO.load(tmp_path / "logs/beta_ppo/Diverges-v0_2/Diverges-v0.zip")
    assert resumed.num_timesteps >= 134
