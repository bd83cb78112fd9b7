"""`beta_ppo_lstm` through the commands: train, enjoy, evaluate, tune, load_agent."""

from pathlib import Path

import numpy as np
import pytest

from sb3_carracing import load_agent
from sb3_carracing.cli import main
from sb3_carracing.evaluation import evaluate
from sb3_carracing.ppo.recurrent import BetaRecurrentPPO

RUN = Path("logs/beta_ppo_lstm/Pendulum-v1_1")
THE_TASK = ["--algo", "beta_ppo_lstm", "--env", "Pendulum-v1"]
SMALL = ["n_envs:2", "n_steps:16", "batch_size:16", "n_epochs:1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lstm")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["train", *THE_TASK, "-n", "64", "--seed", "1", "--eval-freq", "32", "--eval-episodes", "1", "-params", *SMALL])
    return folder


def test_load_agent_plays_with_its_memory_and_without_velocities(trained: Path) -> None:
    model, make_env = load_agent(trained / RUN)
    assert isinstance(model, BetaRecurrentPPO)
    env = make_env()
    env.reset(seed=0)
    velocities = [env.step(env.action_space.sample())[0][2] for _ in range(5)]
    assert velocities == [0.0] * 5
    one, two = (evaluate(model, make_env, range(3), n_envs=n_envs) for n_envs in (1, 3))
    assert one == two
    # Without its memory it would play otherwise.
    observation = np.array([[1.0, 0.0, 0.0]], np.float32)
    first, state = model.predict(observation, deterministic=True)
    assert not np.array_equal(first, model.predict(observation, state=state, deterministic=True)[0])


def test_enjoy(trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(trained)
    main(["enjoy", *THE_TASK, "-f", "logs", "-n", "200", "--no-render"])
    assert "score" in capsys.readouterr().out.lower()


def test_resume(trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(trained)
    agent = str(RUN / "Pendulum-v1.zip")
    main(["train", *THE_TASK, "-n", "128", "-i", agent, "--eval-freq", "-1", "-f", "resumed", "-params", *SMALL])
    assert "Resuming at step 64 of 128" in capsys.readouterr().out


def test_tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    size = [
        "-n",
        "1024",
        "--n-trials",
        "1",
        "--n-evaluations",
        "1",
        "--eval-episodes",
        "1",
        "--seed",
        "3",
        "-params",
        "n_envs:2",
    ]
    main(["tune", *THE_TASK, *size])
    printed = capsys.readouterr().out
    assert "1 complete" in printed
    assert "lstm_hidden_size: 64" in printed, "what is not searched stays as in the YAML"


@pytest.mark.slow
def test_pendulum_without_velocities_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random agent scores -1298 on these episodes, the agent of one run scored -353."""
    monkeypatch.chdir(tmp_path)
    main(["train", *THE_TASK, "-n", "65536", "--seed", "1", "--eval-freq", "-1", "--save-freq", "0", "--verbose", "0"])
    model, make_env = load_agent(RUN)
    scores = [result.score for result in evaluate(model, make_env, range(100, 150))]
    assert np.mean(scores) > -700, scores
