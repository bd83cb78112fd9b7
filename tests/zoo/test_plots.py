"""rl-zoo3's plots: what is missing is named, and without a display they are files."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image
from refusals import refusal
from rl_zoo3.plots import all_plots

from sb3_carracing.cli import main

ENV = "Pendulum-v1"


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("Agg")


def write_run(algo: str, number: int, n_evaluations: int = 3, env: str = ENV, folder: str = "logs") -> Path:
    """Write what rl-zoo3 leaves of a run: evaluations and training episodes."""
    run = Path(folder, algo, f"{env}_{number}")
    run.mkdir(parents=True)
    returns = np.arange(2.0 * n_evaluations).reshape(n_evaluations, 2) + 10 * number
    np.savez(run / "evaluations.npz", timesteps=np.arange(1, n_evaluations + 1) * 100, results=returns, ep_lengths=returns)
    rows = "\n".join(f"{-number},200,{episode}" for episode in range(5))
    (run / "0.monitor.csv").write_text(f'#{{"t_start": 0.0, "env_id": "{env}"}}\nr,l,t\n{rows}\n')
    return run


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must exit with status 2 and one line, without a number; return the line."""
    printed = refusal(capsys, *arguments)
    assert "0.0 +/- 0.0" not in printed.out
    assert not list(Path().glob("*.png"))
    line: str = printed.err.splitlines()[-1]
    return line


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (["-a", "beta_ppo", "-e", ENV, "-f", "nowhere"], f"nowhere/beta_ppo/{ENV}"),
        (["-a", "no_such_algo", "-e", ENV, "-f", "logs"], f"logs/no_such_algo/{ENV}"),
        (["-a", "beta_ppo", "-e", ENV, "Hopper-v5", "-f", "logs"], "logs/beta_ppo/Hopper-v5"),
        (["-a", "beta_ppo", "ppo", "-e", ENV, "-f", "logs"], f"logs/ppo/{ENV}"),
        (["-a", "beta_ppo", "-e", "Single-v0", "-f", "logs"], "logs/beta_ppo/Single-v0"),
        (["-a", "beta_ppo", "-e", ENV, "-f", "logs", "nowhere", "-l", "ours", "theirs"], f"theirs/beta_ppo/{ENV}"),
    ],
)
def test_all_plots_names_what_has_no_evaluations(
    capsys: pytest.CaptureFixture[str], arguments: list[str], missing: str
) -> None:
    write_run("beta_ppo", 1)
    write_run("beta_ppo", 1, n_evaluations=1, env="Single-v0")
    assert f"no evaluations of {missing}: all_plots needs" in refused(capsys, "all_plots", *arguments)


def test_all_plots_and_plot_from_file_write_files_without_a_display(capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        write_run("beta_ppo", number)
    main(["all_plots", "-a", "beta_ppo", "-e", ENV, "-f", "logs", "-o", "curves"])
    # The last evaluations' means are 14.5 and 24.5.
    printed = capsys.readouterr().out
    assert "20 +/- 4" in printed
    assert "Saving to curves.json\n" in printed
    assert Path(f"all_plots_Results_{ENV}.png").is_file()
    main(["plot_from_file", "-i", "curves", "-o", "figure.png"])
    with Image.open("figure.png") as figure:
        assert figure.format == "PNG"
    main(["plot_from_file", "-i", "curves.json", "-o", "figure"])
    assert Path("figure").read_text().startswith("<?xml")
    assert not plt.get_fignums()
    assert not list(Path().rglob("*.pkl"))


def test_results_are_json_with_the_numbers_that_rl_zoo3_pickles(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        write_run("beta_ppo", number)
    arguments = ["-a", "beta_ppo", "-e", ENV, "-f", "logs", "--no-display"]
    main(["all_plots", *arguments, "-o", "ours.json"])
    monkeypatch.setattr("sys.argv", ["all_plots", *arguments, "-o", "theirs"])
    all_plots()
    theirs = pickle.loads(Path("theirs.pkl").read_bytes())

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return value.tolist() if isinstance(value, np.ndarray) else value

    assert json.loads(Path("ours.json").read_text()) == plain(theirs)
    capsys.readouterr()
    # rl-zoo3's own file is read too, without unpickling it.
    theirs[ENV]["PPO-logs"] = theirs[ENV]["BETA_PPO-logs"]
    Path("theirs.pkl").write_bytes(pickle.dumps(theirs))
    main(["plot_from_file", "-i", "ours", "--merge", "theirs", "-o", "figure.png"])
    assert "keys: ['BETA_PPO-logs', 'PPO-logs']" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-i", "nothing"], "No such file or directory: 'nothing'"),
        (["-i", "junk"], "junk.pkl is not a file that all_plots has saved"),
        (["-i", "attack"], "attack.pkl is not a file that all_plots has saved"),
        (["-i", "incomplete"], "incomplete.json is not a file that all_plots has saved: 'mean'"),
        (["-i", "curves", "--merge", "incomplete"], "incomplete.json is not a file that all_plots has saved: 'mean'"),
        (["-i", "curves", "--keep-envs", "Hopper-v5"], f"curves has no results of Hopper-v5; it has {ENV}"),
        (["-i", "curves", "--skip-keys", "PPO-logs"], "curves has no results of PPO-logs; it has BETA_PPO-logs"),
        (["-i", "curves", "--skip-envs", ENV], "curves has no results of anything that is to be plotted"),
        (["-i", "curves", "-o", "x.png", "--format", "svg"], "--format svg does not fit -o x.png"),
        (["-i", "curves", "-o", "x.txt"], "Format 'txt' is not supported"),
        (["-i", "uneven"], "uneven has no results of PPO-logs on Other-v0"),
    ],
)
def test_plot_from_file_names_what_is_missing(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    for number in (1, 2):
        write_run("beta_ppo", number)
    main(["all_plots", "-a", "beta_ppo", "-e", ENV, "-f", "logs", "-o", "curves", "--no-display"])
    results = json.loads(Path("curves.json").read_text())
    results["Other-v0"] = copy.deepcopy(results[ENV])
    results[ENV]["PPO-logs"] = results[ENV]["BETA_PPO-logs"]
    Path("uneven.json").write_text(json.dumps(results))
    del results["Other-v0"]["BETA_PPO-logs"]["mean"]
    Path("incomplete.json").write_text(json.dumps(results))
    Path("junk.pkl").write_bytes(pickle.dumps([1]))
    Path("attack.pkl").write_bytes(pickle.dumps({ENV: exit}))
    assert message in refused(capsys, "plot_from_file", *arguments)


def test_plot_train_names_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    write_run("beta_ppo", 1)
    plot = ["plot_train", "-a", "beta_ppo", "-f", "logs"]
    assert f"no run of {ENV} with 100 episodes or more in logs/beta_ppo" in refused(capsys, *plot, "-e", ENV)
    assert "no run of Hopper-v5 with 2 episodes" in refused(capsys, *plot, "-e", ENV, "Hopper-v5", "-w", "2")
    assert "No such file or directory: 'logs/ppo'" in refused(capsys, "plot_train", "-a", "ppo", "-f", "logs", "-e", ENV)
    main([*plot, "-e", ENV, "-w", "2"])
    with Image.open("plot_train_Training_Episodic_Reward.png") as figure:
        assert np.asarray(figure).std() > 0
