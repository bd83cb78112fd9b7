"""The peers' commands are ones that `train` understands, and what the page says is what is stored."""

import csv
import functools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats
from stable_baselines3 import PPO

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.peers import report, run  # noqa: E402


@pytest.mark.parametrize("name", list(run.PEERS))
def test_all_play_two_million_frames(name: str) -> None:
    command = run.train_command(name, 3)
    steps = int(command[command.index("-n") + 1])
    conf = (
        command[command.index("-conf") + 1]
        if "-conf" in command
        else f"hyperparams/{command[command.index('--algo') + 1]}.yml"
    )
    values = yaml.safe_load((ROOT / conf).read_text())[run.ENV_ID]
    (repeat,) = {
        skip
        for wrapper in values["env_wrapper"]
        if isinstance(wrapper, dict)
        for path, keywords in wrapper.items()
        if path.endswith(("FrameSkip", "ActionRepeat"))
        for skip in keywords.values()
    }
    assert steps * repeat == 2_000_000


def test_the_zoos_values_are_the_zoos() -> None:
    rl_zoo3 = pytest.importorskip("rl_zoo3")
    theirs = yaml.safe_load((Path(rl_zoo3.__file__).parent / "hyperparams" / "ppo.yml").read_text())["CarRacing-v3"]
    ours = yaml.safe_load((ROOT / "benchmarks" / "peers" / "ppo_zoo.yml").read_text())[run.ENV_ID]
    del ours["callback"]
    for values in (theirs, ours):
        values["policy_kwargs"] = "".join(values["policy_kwargs"].split()).replace(",)", ")")
    assert ours == theirs


@pytest.mark.parametrize("name", list(run.PEERS))
def test_the_stored_runs_had_these_values(name: str) -> None:
    arguments = run.PEERS[name].arguments
    values = yaml.safe_load((ROOT / arguments[arguments.index("-conf") + 1]).read_text())[run.ENV_ID]
    if "-params" in arguments:
        values["policy"] = arguments[arguments.index("-params") + 1].removeprefix("policy:").strip("'")
    stored = sorted((run.RESULTS / name).glob("seed_*/config.yml"))
    assert stored
    for file in stored:
        theirs = dict(yaml.unsafe_load(file.read_text()))  # rl-zoo3 writes an OrderedDict
        assert theirs | {"n_timesteps": None} == values | {"n_timesteps": None}, file  # -n has the last word


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
    rows = run.joined(folders)
    assert [float(row["mean"]) for row in rows] == [1.0, 2.5, 3.5]
    (folders[0] / "rl_model_15_steps.zip").unlink()
    assert [float(row["mean"]) for row in run.joined(folders)] == [2.5, 3.5], "the second start began anew"


def test_the_latest_checkpoint_of_all_starts_is_gone_on_from(tmp_path: Path) -> None:
    assert run.last_checkpoint(run.run_folders(tmp_path)) is None
    for start, steps in ((1, 50_000), (1, 100_000), (2, 90_000), (10, 150_000)):
        folder = tmp_path / "ppo" / f"{run.ENV_ID}_{start}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"rl_model_{steps}_steps.zip").touch()
    folders = run.run_folders(tmp_path)
    assert [folder.name[-2:] for folder in folders] == ["_1", "_2", "10"]
    assert run.last_checkpoint(folders) == folders[-1] / "rl_model_150000_steps.zip"


def test_the_table_and_the_picture_are_made_from_the_stored_runs(tmp_path: Path) -> None:
    assert report.table(tmp_path) == ""
    scores = (900.0, 910.0, 950.0)
    for seed, score in enumerate(scores, 1):
        folder = tmp_path / "beta_ppo" / f"seed_{seed}"
        write_curve(folder / "evaluations.csv", [(100, score - 50), (200, score)])
        summary = {"mean": score, "std": 5.0, "median": score + 4, "laps_finished": 0.97}
        episodes = [{"score": 699.9}] * seed + [{"score": 700.0}]
        result = {"results": {"mean": {"summary": summary, "episodes": episodes}}}
        (folder / run.EVALUATION).write_text(json.dumps(result))
    (row,) = [line for line in report.table(tmp_path).splitlines() if "beta_ppo" in line]
    low, high = stats.t.interval(0.95, 2, np.mean(scores), stats.sem(scores))
    each = "900.0 +- 5.0, 910.0 +- 5.0, 950.0 +- 5.0"
    assert f"| **920.0** | {low:.0f} .. {high:.0f} | {each} | 904, 914, 954 | 97, 97, 97 | 1, 2, 3 |" in row
    assert "Welch" not in report.table(tmp_path)
    for seed in (1, 2):
        shutil.copytree(tmp_path / "beta_ppo" / f"seed_{seed}", tmp_path / "ppo_gaussian" / f"seed_{seed}")
    # By hand: means 920 and 905, squared errors 700 / 3 and 25, degrees of freedom by Welch and Satterthwaite.
    errors = np.array([700 / 3, 25.0])
    freedom = errors.sum() ** 2 / (errors**2 / [2, 1]).sum()
    p = 2 * stats.t.sf(15 / np.sqrt(errors.sum()), freedom)
    assert f"`beta_ppo` against `ppo_gaussian`: p = {p:.2f}." in report.table(tmp_path)
    report.draw(tmp_path / "picture.png", tmp_path)
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_the_page_shows_what_is_stored() -> None:
    page = report.PAGE.read_text()
    assert page == report.rendered(page), "run `python -m benchmarks.peers.report`"


def test_an_interrupted_agent_is_not_the_trained_one(tmp_path: Path) -> None:
    """rl-zoo3 saves both under one name."""
    agent = PPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, n_epochs=1, device="cpu").learn(64)
    agent.save(tmp_path / "agent.zip")
    assert run.is_trained(tmp_path / "agent.zip", 64)
    assert not run.is_trained(tmp_path / "agent.zip", 65)
    assert not run.is_trained(tmp_path / "none.zip", 64)
    (tmp_path / "torn.zip").write_bytes((tmp_path / "agent.zip").read_bytes()[:1000])
    assert not run.is_trained(tmp_path / "torn.zip", 64)


def test_a_run_is_finished_once_its_evaluation_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second start evaluates again what a first one was stopped at."""
    folder = tmp_path / "logs" / "beta_ppo" / "seed_1" / "beta_ppo" / f"{run.ENV_ID}_1"
    (folder / run.ENV_ID).mkdir(parents=True)
    (folder / run.ENV_ID / "config.yml").touch()
    (folder / f"{run.ENV_ID}.zip").touch()
    write_curve(folder / "evaluations.csv", [(100, 1.0)])
    monkeypatch.setattr(run, "is_trained", lambda agent, steps: True)
    monkeypatch.chdir(run.ROOT)  # as `_package` does

    def stopped(arguments: list[str]) -> None:
        Path(arguments[arguments.index("-o") + 1]).touch()
        raise KeyboardInterrupt

    def evaluated(arguments: list[str]) -> None:
        output = Path(arguments[arguments.index("-o") + 1])
        assert not output.exists()
        output.write_text("{}")

    play = functools.partial(run.play, "beta_ppo", 1, tmp_path / "logs", tmp_path / "results")
    stored = tmp_path / "results" / "beta_ppo" / "seed_1" / run.EVALUATION
    monkeypatch.setattr(run, "_package", stopped)
    with pytest.raises(KeyboardInterrupt):
        play()
    assert not stored.exists()
    monkeypatch.setattr(run, "_package", evaluated)
    play()
    assert stored.read_text() == "{}"
