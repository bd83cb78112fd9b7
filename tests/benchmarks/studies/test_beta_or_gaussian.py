"""The study of BetaPPO and a Gaussian on standard tasks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rl_zoo3
import torch as th
import yaml
from gymnasium import spaces

from benchmarks import report as statistics
from benchmarks import tables
from benchmarks.studies.beta_or_gaussian import report
from benchmarks.studies.beta_or_gaussian.run import ALGORITHMS, for_beta, plan, study
from sb3_carracing.ppo.policies import BetaActorCriticPolicy

GSDE = ("use_sde", "sde_sample_freq")


@pytest.fixture(autouse=True)
def _fewer_repetitions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(statistics, "REPETITIONS", 100)


@pytest.fixture(scope="module")
def rl_zoo3s() -> dict[str, dict[str, Any]]:
    text = Path(rl_zoo3.__file__).with_name("hyperparams").joinpath("ppo.yml").read_text()
    entries: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return entries


@pytest.mark.parametrize("task", list(plan()))
def test_the_values_are_those_of_rl_zoo3_without_gsde(task: str, rl_zoo3s: dict[str, dict[str, Any]]) -> None:
    theirs = dict(rl_zoo3s.get(task) or rl_zoo3s[task.replace("-v5", "-v4")])
    ours = dict(plan()[task]["hyperparams"])
    has_gsde = theirs.get("use_sde", False)
    theirs = {key: value for key, value in theirs.items() if key not in GSDE}
    written, values = theirs.pop("policy_kwargs", "dict()"), ours.pop("policy_kwargs", {})
    expected = eval(written, {"nn": th.nn, "dict": dict})  # rl-zoo3 evaluates it as well
    if has_gsde:
        expected.pop("log_std_init", None)
    if values.get("activation_fn") == "relu":
        values = values | {"activation_fn": th.nn.ReLU}
    assert values == expected
    steps, their_steps = ours.pop("n_timesteps"), theirs.pop("n_timesteps")
    assert steps == min(their_steps, 1_000_000)
    assert ours == theirs


def test_both_arms_differ_in_the_policy_and_the_name_of_its_width_alone() -> None:
    configs = study().configs
    for task in plan():
        beta, gaussian = (configs[f"{algo}_{task}"].hyperparams for algo in ALGORITHMS)
        own = {"policy_kwargs": None, "policy": None}
        assert gaussian | own == beta | own
        names = set(gaussian.get("policy_kwargs", {})) ^ set(beta.get("policy_kwargs", {}))
        assert names in (set(), {"log_std_init", "initial_concentration"})


def test_an_untrained_beta_is_as_wide_as_the_gaussian() -> None:
    options = for_beta({"policy_kwargs": {"log_std_init": -2.0}})["policy_kwargs"]
    space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    th.manual_seed(0)
    policy = BetaActorCriticPolicy(spaces.Box(-1.0, 1.0, (4,), np.float32), space, lambda _: 1e-3, **options)
    with th.no_grad():
        samples = policy.get_distribution(th.zeros(20_000, 4)).sample()
    assert samples.std(dim=0).numpy() == pytest.approx(np.exp(-2.0), rel=0.02)


def stored(folder: Path, beta: list[float], gaussian: list[float]) -> None:
    """Store runs of Pendulum-v1 and MountainCarContinuous-v0 with these scores."""
    rows, progress = [], []
    for task in ("Pendulum-v1", "MountainCarContinuous-v0"):
        for algo, values in (("beta_ppo", beta), ("ppo", gaussian)):
            for seed, score in enumerate(values):
                run = f"{algo}_{task}-{seed}"
                rows.append({"run": run, "config": f"{algo}_{task}", "seed": seed, "score": score})
                progress += [
                    {"run": run, "time/total_timesteps": steps, "rollout/ep_rew_mean": score * steps} for steps in (10, 20)
                ]
    tables.write(folder / tables.RUNS, rows)
    tables.write(folder / tables.PROGRESS, progress)
    tables.write(folder / "random.csv", [{"task": task, "episodes": 1, "score": -1000.0} for task in plan()])


def test_the_report_counts_pairs_and_leaves_single_seeds_out(tmp_path: Path) -> None:
    stored(tmp_path, beta=[1.0, 3.0, 5.0, 7.0, 100.0], gaussian=[2.0, 4.0, 6.0, 8.0])
    own = report.scores(tmp_path)["Pendulum-v1"]
    assert list(own["beta_ppo"]) == [1.0, 3.0, 5.0, 7.0]  # the fifth has no Gaussian beside it
    value, low, high = statistics.improvement(own["beta_ppo"][:, None], own["ppo"][:, None])
    assert value == 6 / 16  # of all pairs
    assert low < value < high
    assert list(statistics.improvement(own["beta_ppo"][:, None], own["ppo"][:, None])) == [value, low, high]
    assert statistics.interquartile_mean(own["beta_ppo"][:, None, None])[0] == 4.0


def test_two_seeds_are_not_reported(tmp_path: Path) -> None:
    stored(tmp_path, beta=[3.0, 4.0, 5.0], gaussian=[1.0, 2.0])
    assert report.scores(tmp_path) == {}


def test_the_table_and_the_figure_show_the_tasks_with_runs(tmp_path: Path) -> None:
    stored(tmp_path, beta=[3.0, 4.0, 5.0], gaussian=[1.0, 2.0, 2.5])
    page = report.table(tmp_path)
    assert page.count("| 1.00 | ") == 2  # every Beta run beats every Gaussian run: no interval
    assert "| BipedalWalker-v3 |" not in page
    report.draw(tmp_path / "figure.svg", tmp_path)
    drawn = (tmp_path / "figure.svg").read_text()
    assert all(text in drawn for text in ("Pendulum-v1", "MountainCarContinuous-v0", "performance profile"))


@pytest.mark.slow  # the bootstrap
def test_the_page_says_what_is_stored() -> None:
    page = report.PAGE.read_text()
    assert page == statistics.with_results(page, report.table()), "run `python -m benchmarks.studies.beta_or_gaussian.report`"
