"""The runner of the studies trains by the real command, resumes, skips what is finished and writes the tables."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO

from benchmarks import runner, tables
from benchmarks.provenance import ROOT
from benchmarks.runner import Config, Options, Study
from benchmarks.studies.ablations.plan import read_plan, study
from sb3_carracing.errors import UserError

CALLBACKS = [
    {"sb3_carracing.callbacks.ProgressCallback": {"live_line": False}},
    {"sb3_carracing.callbacks.ValidationCallback": {"every_frames": 200, "n_episodes": 1}},
]
TINY = Config(
    "tiny",
    "a study to try the runner with",
    "Pendulum-v1",
    {"n_timesteps": 256, "policy": "MlpPolicy", "n_steps": 64, "batch_size": 32, "callback": CALLBACKS},
    "ppo",
    actions=("deterministic", "sample"),
)


def tiny_study() -> Study:
    return Study("tiny", {"tiny": TINY}, first_seed=5_000_000, keep_progress=True)


def write_curve(file: Path, rows: list[tuple[int, float]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["frames", "steps", "mean"])
        writer.writerows((4 * steps, steps, mean) for steps, mean in rows)


def test_what_was_played_again_counts_once(tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in (1, 2, 3)]
    write_curve(folders[0] / "evaluations.csv", [(10, 1.0), (20, 2.0), (30, 3.0)])
    (folders[0] / "rl_model_15_steps.zip").touch()
    # The same validations again, a rollout later than before.
    write_curve(folders[1] / "evaluations.csv", [(21, 2.5), (31, 3.5)])
    (folders[1] / "rl_model_35_steps.zip").touch()
    folders[2].mkdir()
    rows = runner.joined(folders, "evaluations.csv", "steps")
    assert [float(row["mean"]) for row in rows] == [1.0, 2.5, 3.5]
    (folders[0] / "rl_model_15_steps.zip").unlink()
    rows = runner.joined(folders, "evaluations.csv", "steps")
    assert [float(row["mean"]) for row in rows] == [2.5, 3.5], "the second start began anew"


def test_the_latest_checkpoint_of_all_starts_is_gone_on_from(tmp_path: Path) -> None:
    assert runner.last_checkpoint(runner.start_folders(TINY, tmp_path)) is None
    for start, steps in ((1, 50_000), (1, 100_000), (2, 90_000), (10, 150_000)):
        folder = tmp_path / "ppo" / f"Pendulum-v1_{start}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"rl_model_{steps}_steps.zip").touch()
    folders = runner.start_folders(TINY, tmp_path)
    assert [folder.name[-2:] for folder in folders] == ["_1", "_2", "10"]
    assert runner.last_checkpoint(folders) == folders[-1] / "rl_model_150000_steps.zip"


def test_an_interrupted_agent_is_not_the_trained_one(tmp_path: Path) -> None:
    """rl-zoo3 saves both under one name."""
    agent = PPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, n_epochs=1, device="cpu").learn(64)
    agent.save(tmp_path / "agent.zip")
    assert runner.is_trained(tmp_path / "agent.zip", 64)
    assert not runner.is_trained(tmp_path / "agent.zip", 65)
    assert not runner.is_trained(tmp_path / "none.zip", 64)
    (tmp_path / "torn.zip").write_bytes((tmp_path / "agent.zip").read_bytes()[:1000])
    assert not runner.is_trained(tmp_path / "torn.zip", 64)


@pytest.mark.parametrize(("n_rows", "expected"), [(0, 0), (1, 1), (200, 200), (201, 101), (400, 200), (2_500, 193)])
def test_long_progress_is_thinned_evenly(n_rows: int, expected: int) -> None:
    rows = [{"steps": str(number)} for number in range(n_rows)]
    kept = [int(row["steps"]) for row in runner.thinned(rows, 200)]
    assert len(kept) == expected
    assert kept[:1] == [0][:n_rows]
    assert len(set(np.diff(kept))) <= 1


def test_seconds_of_starts_add_up() -> None:
    rows = [{"time/time_elapsed": text} for text in ("1.0", "5.0", "", "2.0", "4.0")]
    assert runner.training_seconds(rows) == 9.0
    assert runner.training_seconds([]) is None


def test_names_of_groups_stand_for_their_runs() -> None:
    plan = study()
    iurin = [config.name for config in plan.configs.values() if config.group == "iurin"]
    assert [config.name for config in plan.chosen(["iurin"])] == iurin
    assert [config.name for config in plan.chosen(["iurin", "iurin_scaled", "repeat_2"])] == [*iurin, "repeat_2"]
    assert [config.name for config in plan.chosen(None)] == list(read_plan())
    with pytest.raises(UserError, match="unknown run 'nothing'; valid: blog, iurin, matters, iurin_published"):
        plan.chosen(["nothing"])


def test_the_list_names_every_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runner.main(study(), "", ["--list", "--out", str(tmp_path)])
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == list(read_plan())


def test_bad_input_exits_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--only", "nothing"], "error: unknown run 'nothing'; valid: tiny"),
        (["--steps", "10"], "pass --out and --logs"),
    ):
        with pytest.raises(SystemExit) as refused:
            runner.main(tiny_study(), "", arguments)
        assert refused.value.code == 2
        assert message in capsys.readouterr().err


@pytest.mark.skipif(th.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_refused_before_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        runner.main(tiny_study(), "", ["--device", "cuda", "--out", str(tmp_path / "out"), "--logs", str(tmp_path / "logs")])
    assert refused.value.code == 2
    assert "--device cuda: torch sees no GPU here; valid: cpu" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_training_with_other_values_is_not_gone_on_from(tmp_path: Path) -> None:
    folder = tmp_path / "seed_1"
    (folder / "ppo" / "Pendulum-v1_1").mkdir(parents=True)
    (folder / "hyperparams.yml").write_text("Pendulum-v1: {n_timesteps: 1}\n")
    with pytest.raises(UserError, match="holds a training with other values than tiny has now"):
        runner.train(tiny_study(), TINY, 1, folder, Options(tmp_path, tmp_path))


@pytest.mark.slow
def test_a_tiny_study_is_trained_evaluated_and_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rl_zoo3")
    use = Options(tmp_path / "logs", tmp_path / "out", n_tracks=2)
    runner.make_run(tiny_study(), TINY, 7, use)
    (run,) = tables.read_rows(use.out / tables.RUNS)
    assert (run["run"], run["config"], run["seed"], run["steps"], run["device"]) == ("tiny-7", "tiny", "7", "256", "cpu")
    assert run["evaluated_in"] == "Pendulum-v1"
    assert run["torch"] == th.__version__
    assert float(run["seconds"]) > 0
    episodes = tables.read(use.out, tables.EPISODES)
    assert episodes[["actions", "track"]].to_numpy().tolist() == [
        [kind, track] for kind in ("deterministic", "sample") for track in (5_000_000, 5_000_001)
    ]
    assert float(run["score"]) == np.mean(episodes["score"][:2])
    assert tables.read(use.out, tables.VALIDATION)["steps"].tolist() == [200, 256]
    # The last row holds what the last update left.
    assert tables.read(use.out, tables.PROGRESS)["time/total_timesteps"].tolist() == [64, 128, 192, 256, 256]
    assert tables.read_configs(use.out) == {"tiny": TINY.entry()}
    assert not list(use.logs.rglob("rl_model_*")), "the checkpoints of a finished run are removed"
    capsys.readouterr()
    runner.make_run(tiny_study(), TINY, 7, use)
    assert "tiny-7: finished already" in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupted_evaluation_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tells that a run is finished is its row in runs.csv."""
    pytest.importorskip("rl_zoo3")
    use = Options(tmp_path / "logs", tmp_path / "out", n_tracks=1)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(runner, "play", stopped)
        with pytest.raises(KeyboardInterrupt):
            runner.make_run(tiny_study(), TINY, 1, use)
    assert tables.read(use.out, tables.RUNS).empty
    # Trained elsewhere, evaluated here: what is stored is where it was trained.
    (use.logs / "tiny" / "seed_1" / "device").write_text("some GPU")
    runner.make_run(tiny_study(), TINY, 1, use)
    assert tables.read(use.out, tables.RUNS)["device"].tolist() == ["some GPU"]


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    paths = ["--logs", str(tmp_path / "logs"), "--out", str(tmp_path / "out")]
    options = ["--only", "iurin_published", "--seeds", "4", "--steps", "3000", "--tracks", "1", *paths]
    command = [sys.executable, "-m", "benchmarks.studies.ablations.run", *options]
    folder = tmp_path / "logs" / "iurin_published" / "seed_4"
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        deadline = time.monotonic() + 240
        while not list(folder.rglob("rl_model_1024_steps.zip")) and time.monotonic() < deadline:
            time.sleep(0.2)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the training is a process of its own
        process.wait()
    assert not (tmp_path / "out" / tables.RUNS).exists()

    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "iurin_published-4: resuming from rl_model_" in second.stderr
    steps = tables.read(tmp_path / "out", tables.PROGRESS)["time/total_timesteps"]
    assert steps.is_monotonic_increasing
    assert steps.iloc[-1] >= 3_000
    (run,) = tables.read_rows(tmp_path / "out" / tables.RUNS)
    assert int(run["steps"]) == steps.iloc[-1]
    assert 4.0 < int(run["frames"]) / int(run["steps"]) < 4.5  # repeat 4, and 50 idle frames per episode
    assert tables.read(tmp_path / "out", tables.EPISODES)["track"].tolist() == [1_000_000]

    third = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "finished already" in third.stderr
