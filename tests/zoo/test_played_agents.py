"""Which agent is played, and with which running means; what `benchmark` states about it."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_carracing import BetaPPO
from sb3_carracing.cli import main
from sb3_carracing.files import data_dir
from sb3_carracing.ppo.saving.vec_normalize import read_statistics
from sb3_carracing.zoo import safe_files
from sb3_carracing.zoo.played_agents import AskedAgent, options_for

ENV = "Pendulum-v1"
OLD_CONFIG = "beta_ppo/CarRacingFast-v3_1/CarRacingFast-v3/config.yml"
VALIDATION = {"sb3_carracing.callbacks.ValidationCallback": {"every_frames": 64, "n_episodes": 1}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train two normalised runs, one with our validation and one with rl-zoo3's evaluation; return the folder."""
    folder = tmp_path_factory.mktemp("normalised")
    small = {"policy": "MlpPolicy", "n_timesteps": 256, "n_steps": 32, "batch_size": 32, "n_epochs": 1, "normalize": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for options, entry in (
            (["-f", "validated", "--eval-freq", "-1"], small | {"callback": [VALIDATION]}),
            (["-f", "evaluated", "--eval-freq", "64", "--eval-episodes", "1"], small),
        ):
            Path("c.yml").write_text(yaml.safe_dump({ENV: entry}))
            main(["train", "--env", ENV, "-conf", "c.yml", "--save-freq", "64", "--seed", "1", *options])
    return folder


@pytest.fixture
def loaded(trained: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which every set of running means that is loaded adds how many observations it has seen."""
    counts: list[int] = []

    def spy(path: str, venv: Any, trust: bool) -> VecNormalize:
        normalize = read_statistics(path, venv, trust)
        counts.append(round(normalize.obs_rms.count))  # type: ignore[attr-defined]
        return normalize

    monkeypatch.setattr(safe_files, "read_statistics", spy)
    monkeypatch.chdir(trained)
    return counts


def seen(file: Path) -> int:
    return round(read_statistics(file, make_vec_env(ENV)).obs_rms.count)  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("folder", ["validated", "evaluated"])
@pytest.mark.parametrize(
    ("options", "statistics"),
    [
        (["--load-checkpoint", "64"], "rl_model_vecnormalize_64_steps.pkl"),
        (["--load-last-checkpoint"], "rl_model_vecnormalize_256_steps.pkl"),
        (["--load-best"], "best_model_vecnormalize.pkl"),
        ([], f"{ENV}/vecnormalize.pkl"),
    ],
)
def test_an_agent_is_played_with_its_own_running_means(
    loaded: list[int], folder: str, options: list[str], statistics: str, tmp_path: Path
) -> None:
    run = Path(folder, "beta_ppo", f"{ENV}_1")
    own = [seen(run / statistics)]
    main(["enjoy", "--env", ENV, "-f", folder, "--no-render", "-n", "3", *options])
    assert loaded == own
    loaded.clear()
    main(["record_video", "--env", ENV, "-f", folder, "-n", "3", "-o", str(tmp_path), *options])
    assert loaded == own
    assert list(tmp_path.glob("*.mp4"))


def test_the_running_means_differ(trained: Path) -> None:
    """So that the test above can tell them apart."""
    run = trained / f"validated/beta_ppo/{ENV}_1"
    assert seen(run / "rl_model_vecnormalize_64_steps.pkl") < seen(run / f"{ENV}/vecnormalize.pkl")
    evaluated = trained / f"evaluated/beta_ppo/{ENV}_1"
    best = BetaPPO.load(evaluated / "best_model.zip")
    # Those of the time of the evaluation, and resets.
    assert seen(evaluated / "best_model_vecnormalize.pkl") == pytest.approx(best.num_timesteps, abs=6)


def asked(*arguments: str) -> AskedAgent:
    return AskedAgent.of("enjoy", ["--env", ENV, *arguments])


def test_a_run_without_the_agent_does_not_hide_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = {number: Path(f"logs/beta_ppo/{ENV}_{number}") for number in (1, 2, 10)}
    for run in runs.values():
        run.mkdir(parents=True)
    (runs[1] / f"{ENV}.zip").touch()
    (runs[2] / f"{ENV}.zip").touch()
    (runs[2] / "best_model.zip").touch()
    (runs[10] / "rl_model_64_steps.zip").touch()

    def chosen(*arguments: str) -> str:
        return options_for("enjoy", asked("-f", "logs", *arguments))[-1]

    assert chosen() == "2"
    assert f"There is no {ENV}.zip in {runs[10]}: taking {runs[2]}" in capsys.readouterr().out
    assert chosen("--load-best") == "2"
    assert chosen("--load-last-checkpoint") == "10"
    assert chosen("--exp-id", "1") == "1"
    with pytest.raises(ValueError, match=f"no {ENV}.zip in {runs[10]}, which holds rl_model_64_steps.zip"):
        chosen("--exp-id", "10")
    with pytest.raises(ValueError, match=r"no rl_model_5_steps\.zip"):
        chosen("--load-checkpoint", "5")


@pytest.mark.slow
def test_a_run_that_failed_after_its_first_step_does_not_hide_the_one_before(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained / "validated", "logs")
    shutil.copytree(f"logs/beta_ppo/{ENV}_1", f"logs/beta_ppo/{ENV}_2", ignore=shutil.ignore_patterns("*.zip"))
    main(["enjoy", "--env", ENV, "-f", "logs", "--no-render", "-n", "210"])
    printed = capsys.readouterr().out
    # Of fewer than five episodes there is no spread.
    assert re.search(r"Mean score: (-[\d.]+)\nMean training return: \1", printed)
    assert "+/-" not in printed
    main(["benchmark", "--log-dir", "logs", "--no-hub", "-n", "210", "--verbose", "0"])
    (row,) = [line for line in Path("benchmark.md").read_text().splitlines() if line.startswith("|beta_ppo|")]
    # The steps of this agent's training and of its one episode here.
    assert row.split("|")[5:8] == ["256", "200", "1"]


@pytest.mark.slow
def test_benchmark_states_only_what_is_so(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = BetaPPO.load(trained / f"validated/beta_ppo/{ENV}_1/{ENV}.zip")
    run = Path(f"logs/beta_ppo/{ENV}_1")
    shutil.copytree(trained / f"validated/beta_ppo/{ENV}_1", run)
    # -n of the command line: the YAML's n_timesteps is not what was trained.
    config = run / ENV / "config.yml"
    config.write_text(config.read_text().replace("256", "100000"))
    main(["benchmark", "--log-dir", "logs", "--no-hub", "-n", "410"])
    text = Path("benchmark.md").read_text()
    assert text == Path("logs/benchmark/benchmark.md").read_text()
    assert "`python -m sb3_carracing benchmark --log-dir logs --no-hub -n 410`" in text
    assert f"|{model.num_timesteps}|400|2|" in text
    assert "huggingface" not in text
    assert "araffin" not in text
    assert "rl_zoo3" not in text


@pytest.fixture
def old_agent(tmp_path: Path) -> Path:
    """The packaged agents with a config.yml of 0.1.0, which names `retry_rate`; their folder."""
    folder = tmp_path / "agents"
    shutil.copytree(data_dir("rl-trained-agents"), folder)
    file = folder / OLD_CONFIG
    config = yaml.safe_load(file.read_text())
    config["env_kwargs"]["retry_rate"] = 0.5
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


def test_a_retired_training_rule_is_ignored_where_an_agent_is_played(old_agent: Path) -> None:
    options = ["--env", "CarRacingFast-v3", "-f", str(old_agent)]
    with pytest.warns(UserWarning, match="ignoring retry_rate, which is no longer a training rule"):
        main(["enjoy", *options, "--no-render", "-n", "2"])


def test_a_retired_training_rule_is_refused_in_training(
    old_agent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yml").write_text(yaml.safe_dump({"CarRacingFast-v3": yaml.safe_load((old_agent / OLD_CONFIG).read_text())}))
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--env", "CarRacingFast-v3", "-conf", "c.yml", "-f", "logs", "-n", "1"])
    assert "retry_rate is no longer a training rule" in capsys.readouterr().err
    assert not Path("logs").exists()
