"""What `train` prints: six lines, one line of progress, and the commands to go on with."""

import re
import shlex
from pathlib import Path

import pytest
from terminals import stderr_in_terminal

from sb3_carracing.cli import main
from sb3_carracing.zoo import summary

TRAIN = ["train", "--env", "Pendulum-v1", "--eval-freq", "-1", "--seed", "1", "--device", "cpu"]
SMALL = ["-params", "n_steps:16", "n_envs:2", "batch_size:16", "n_epochs:1"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_training_is_summed_up_in_six_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with stderr_in_terminal(80) as terminal:
        main([*TRAIN, "-n", "64", *SMALL])
    printed = capsys.readouterr().out.splitlines()
    labels = [line[:12].strip() for line in printed]
    assert labels[:6] == ["algorithm", "environment", "length", "machine", "folder", "to stop"]
    assert [label for label in labels[6:] if label] == ["Saving to lo", "watch", "film", "plot", "train on"]
    assert "BetaPPO" in printed[0]
    assert printed[1].endswith("Pendulum-v1, 2 copies")
    assert printed[2].endswith("64 steps")
    assert printed[4].endswith("logs/beta_ppo/Pendulum-v1_1, seed 1")
    assert "a checkpoint every 5 minutes" in printed[5]
    *_, last = terminal.states()
    assert re.match(r"100% \| .* left$", last), "a live line although the YAML names no ProgressCallback"
    assert Path("logs/beta_ppo/Pendulum-v1_1/progress.csv").is_file()


def test_the_last_line_trains_on(capsys: pytest.CaptureFixture[str]) -> None:
    main([*TRAIN, "--frames", "64", "--save-freq", "32", *SMALL])
    printed = capsys.readouterr().out
    assert "a checkpoint every 32 steps" in printed
    (command,) = re.findall(r"train on +sb3-carracing (.*)", printed)
    assert "-i logs/beta_ppo/Pendulum-v1_1 -n 128" in command
    main(shlex.split(command))
    printed = capsys.readouterr().out
    assert "128 steps, of which 64 are done" in printed
    assert "The training goes on exactly" in printed


def test_verbose_1_shows_what_rl_zoo3_and_sb3_print(capsys: pytest.CaptureFixture[str]) -> None:
    main([*TRAIN, "-n", "64", "--verbose", "1", *SMALL])
    printed = capsys.readouterr().out
    for text in ("Seed: 1", "Default hyperparameters", "total_timesteps", "algorithm    BetaPPO"):
        assert text in printed


def test_an_evaluation_of_rl_zoo3_is_one_line_above_the_live_line() -> None:
    with stderr_in_terminal(80) as terminal:
        main([*TRAIN, "-n", "64", *SMALL, "--eval-freq", "32", "--eval-episodes", "1"])
    states = terminal.states()
    for steps in (32, 64):
        assert any(re.match(rf"evaluation at {steps} steps: training return -\d+\.\d$", state) for state in states)
    assert Path("logs/beta_ppo/Pendulum-v1_1/best_model.zip").is_file()


def test_what_follows_a_training_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with stderr_in_terminal(80) as terminal:
        main(["train_and_report", "--", *TRAIN[1:], "-n", "64", *SMALL])
    printed = capsys.readouterr().out
    assert "length       64 steps; then plots, scores, film and report" in printed
    assert "train on" not in printed, "train_and_report does these things itself"
    assert any(state.endswith(" left, then report") for state in terminal.states())


def test_a_car_racing_has_frames_and_is_evaluated() -> None:
    lines = summary.commands_for(Path("logs/beta_ppo/CarRacingFast-v3_1"), "beta_ppo", "CarRacingFast-v3", Path("logs"))
    assert [line.split() for line in lines] == [
        ["evaluate", "sb3-carracing", "evaluate", "logs/beta_ppo/CarRacingFast-v3_1"],
        ["film", "sb3-carracing", "record", "logs/beta_ppo/CarRacingFast-v3_1"],
    ]


def test_options_are_left_out_with_their_values() -> None:
    argv = ["--env", "X", "-n", "5", "--frames=1e6", "-i", "a.zip", "-params", "n_steps:8"]
    assert summary.without_options(argv, "-n", "--frames", "-i") == ["--env", "X", "-params", "n_steps:8"]


@pytest.mark.parametrize(("env_kwargs", "is_slow"), [([], True), (["--env-kwargs", "renderer:'fast'"], False)])
def test_the_price_of_gymnasiums_drawing_is_said_first(
    capsys: pytest.CaptureFixture[str], env_kwargs: list[str], is_slow: bool
) -> None:
    train = ["train", "--env", "CarRacingBlog-v3", "-n", "4", "--eval-freq", "-1", "--device", "cpu", *env_kwargs]
    main([*train, "-params", "n_steps:4", "batch_size:4", "n_epochs:1", "callback:None"])
    (length,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("length")]
    assert "4 steps (32 frames" in length
    assert (summary.STOCK_SPEED in length) == is_slow
