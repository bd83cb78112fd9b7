"""The search: its command, its seeds, what it prunes, and rl-zoo3's own `-optimize`."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import optuna
import pytest
import yaml
from optuna.trial import TrialState
from stable_baselines3 import PPO

from sb3_carracing import BetaPPO
from sb3_carracing.cli.tune import main as tune_command
from sb3_carracing.evaluation import evaluate
from sb3_carracing.pipelines import Pipeline, pipeline_env, wrapper_calls
from sb3_carracing.zoo import commands
from sb3_carracing.zoo import study as studies
from sb3_carracing.zoo.register import register
from sb3_carracing.zoo.reporter import divergence
from sb3_carracing.zoo.search_space import convert_beta_ppo_params, fitting_extractors, n_steps_powers, sample_beta_ppo_params
from sb3_carracing.zoo.storage import open_storage
from sb3_carracing.zoo.study import entry_of
from sb3_carracing.zoo.worker import Worker

REPOSITORY = Path(__file__).parents[2]
SMALL = ["--env", "Pendulum-v1", "-n", "512", "--n-evaluations", "1", "--eval-episodes", "1", "--verbose", "0", "--seed", "3"]


class Poisoned(gym.Wrapper[Any, Any, Any, Any]):
    """Pendulum whose reward, from the third environment made on, is NaN for as many as a test says."""

    n_made = 0
    poisoned: tuple[int, ...] = ()
    error: Exception | None = None

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        type(self).n_made += 1
        self.number = type(self).n_made

    def step(self, action: Any) -> Any:
        """Step, with what the test wants to go wrong."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self.number in self.poisoned:
            if self.error is not None:
                raise self.error
            reward = float("nan")
        return observation, reward, terminated, truncated, info


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def poisoned_env() -> Iterator[type[Poisoned]]:
    """Register an environment that counts how often it is made."""
    Poisoned.n_made, Poisoned.poisoned, Poisoned.error = 0, (), None
    gym.register("Poisoned-v0", entry_point=lambda: Poisoned(gym.make("Pendulum-v1")))  # type: ignore[arg-type]
    yield Poisoned
    del gym.registry["Poisoned-v0"]


def tune(*arguments: str) -> None:
    """Run the command in this process."""
    tune_command([*SMALL, *arguments])


def study(storage: str, name: str = "beta_ppo_Pendulum-v1") -> optuna.Study:
    """Return a study that the command has made."""
    return studies.load_study(storage, name)


@pytest.mark.slow
def test_a_study_repeats_also_when_it_is_interrupted() -> None:
    tune("--n-trials", "3", "--n-startup-trials", "1", "--storage", "sqlite:///whole.db")
    tune("--n-trials", "2", "--n-startup-trials", "1", "--storage", "journal.log")
    tune("--n-trials", "1", "--n-startup-trials", "1", "--storage", "journal.log")
    whole, parts = study("sqlite:///whole.db").trials, study("journal.log").trials
    assert [trial.params for trial in whole] == [trial.params for trial in parts]
    assert [trial.values for trial in whole] == [trial.values for trial in parts]
    assert len({trial.value for trial in whole}) == 3
    assert [trial.user_attrs["seed"] for trial in whole] == [3, 4, 5]
    assert all(trial.params["batch_size_pow"] >= 6 for trial in whole)
    assert not list(Path("logs").glob("*/Pendulum-v1_*")), "a run folder that enjoy might take for an agent's"

    with pytest.raises(ValueError, match=r"begun with n_timesteps 512 \(now 640\)"):
        tune("-n", "640", "--storage", "journal.log")
    with pytest.raises(ValueError, match=r"begun with seed 3 \(now 4\)"):
        tune("--seed", "4", "--storage", "journal.log")


@pytest.mark.parametrize(("sampler", "pruner"), [("gp", "hyperband"), ("random", "none")])
@pytest.mark.slow
def test_samplers_and_pruners(sampler: str, pruner: str) -> None:
    tune("--n-trials", "3", "--n-startup-trials", "2", "--sampler", sampler, "--pruner", pruner, "--storage", "sqlite:///s.db")
    trials = study("sqlite:///s.db").trials
    assert all(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)
    assert len({str(trial.params) for trial in trials}) == 3


def test_the_pruner_ends_a_trial_before_its_last_report() -> None:
    reports = ["-n", "1536", "--n-evaluations", "3", "--n-startup-trials", "0", "--storage", "sqlite:///s.db"]
    tune(*reports, "--n-trials", "1")
    kept = study("sqlite:///s.db")
    (first,) = kept.trials
    assert list(first.intermediate_values) == [1, 2, 3]
    better = {1: 1e6, 2: 1e6, 3: 1e6}
    for _ in range(2):
        kept.add_trial(
            optuna.create_trial(value=1e6, params=first.params, distributions=first.distributions, intermediate_values=better)
        )
    tune(*reports, "--n-trials", "1", "--pruner", "median")
    pruned = kept.trials[3]
    assert pruned.state == TrialState.PRUNED
    assert list(pruned.intermediate_values) == [1]
    assert pruned.user_attrs["pruned"].startswith("by the pruner at report 1, mean score -")


@pytest.mark.parametrize("algo", ["beta_ppo", "ppo"])
@pytest.mark.slow
def test_nan_prunes_its_trial_with_the_reason_and_no_other(poisoned_env: type[Poisoned], algo: str) -> None:
    # Made: two by the set-up, then in each trial one to train in and one to evaluate in.
    poisoned_env.poisoned = (5,)
    Path("nan.yml").write_text("default: {policy: MlpPolicy, n_timesteps: 512}")
    command = ["--env", "Poisoned-v0", "--algo", algo, "--n-trials", "3", "--storage", "sqlite:///s.db", "-conf", "nan.yml"]
    tune(*command, "-n", "8192", "--pruner", "none", "--sampler", "random")
    trials = study("sqlite:///s.db", f"{algo}_Poisoned-v0").trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE]
    assert trials[1].user_attrs["pruned"].startswith("NaN")
    assert all("pruned" not in trials[number].user_attrs for number in (0, 2))


def test_other_errors_are_not_hidden(poisoned_env: type[Poisoned]) -> None:
    poisoned_env.poisoned, poisoned_env.error = (3,), ValueError("the track is closed")
    with pytest.raises(ValueError, match="the track is closed"):
        tune("--env", "Poisoned-v0", "--n-trials", "3", "--storage", "sqlite:///s.db")
    (trial,) = study("sqlite:///s.db", "beta_ppo_Poisoned-v0").trials
    assert trial.state == TrialState.FAIL
    # A failed trial takes no place of the budget.
    poisoned_env.poisoned = ()
    tune("--env", "Poisoned-v0", "--max-total-trials", "1", "--storage", "sqlite:///s.db")
    trials = study("sqlite:///s.db", "beta_ppo_Poisoned-v0").trials
    assert [trial.state for trial in trials] == [TrialState.FAIL, TrialState.COMPLETE]


def test_the_value_is_the_raw_score_whatever_scales_the_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    scaled = {
        "policy": "MlpPolicy",
        "n_timesteps": 512,
        "env_wrapper": [{"sb3_carracing.envs.wrappers.ScaleReward": {"scale": 0}}],
    }
    Path("scaled.yml").write_text(yaml.safe_dump({"default": scaled}))
    tune("--n-trials", "1", "--storage", "sqlite:///s.db", "-conf", "scaled.yml", "--optimization-log-path", "trials")
    (trial,) = study("sqlite:///s.db").trials
    assert trial.value is not None
    assert trial.value < -100
    assert BetaPPO.load("trials/trial_0/best_model.zip").num_timesteps == trial.user_attrs["steps"]
    _, row = Path("trials/trial_0/evaluations.csv").read_text().splitlines()
    assert float(row.split(",")[1]) == pytest.approx(trial.value)


@pytest.mark.slow
def test_best_prints_yaml_that_trains_the_same_and_trains_it(capsys: pytest.CaptureFixture[str]) -> None:
    storage = ["--storage", "sqlite:///s.db"]
    tune("--n-trials", "2", *storage)
    best = study("sqlite:///s.db").best_trial
    capsys.readouterr()
    tune("--best", "--print-only", *storage)
    printed = capsys.readouterr().out
    entry = yaml.safe_load(printed)["Pendulum-v1"]
    assert entry["n_steps"] == 2 ** best.params["n_steps_pow"]
    assert entry["policy_kwargs"]["parameterization"] == best.params["parameterization"]
    assert entry["n_envs"] == 4, "the packaged entry is not in it"
    assert not list(Path("logs/beta_ppo").glob("Pendulum-v1_*"))

    tune("--best", *storage, "--", "--eval-freq", "-1")
    agent = BetaPPO.load("logs/beta_ppo/Pendulum-v1_1/Pendulum-v1.zip")
    assert agent.n_steps == entry["n_steps"]
    assert agent.gamma == entry["gamma"]
    assert agent.policy_kwargs == entry["policy_kwargs"]


def test_a_trial_is_trained_as_it_was() -> None:
    """With the study's YAML and `-params`, not the packaged YAML."""
    wrapper = {"sb3_carracing.envs.wrappers.ScaleReward": {"scale": 0.1}}
    scaled = {"policy": "MlpPolicy", "n_timesteps": 512, "env_wrapper": [wrapper]}
    Path("own.yml").write_text(yaml.safe_dump({"default": scaled}))
    storage = ["--storage", "journal.log", "--study-name", "mine"]
    tune("--n-trials", "1", *storage, "-conf", "own.yml", "-params", "n_envs:2")
    train = ["--env", "Pendulum-v1", "-n", "64", "--eval-freq", "-1", *storage, "--trial-id", "0"]
    run_folder = commands.train([*train, "-params", "n_epochs:1"])
    assert run_folder is not None
    config = dict(yaml.unsafe_load((run_folder / "Pendulum-v1/config.yml").read_text()))
    (trial,) = study("journal.log", "mine").trials
    assert config == yaml.safe_load(entry_of(study("journal.log", "mine"), trial))["Pendulum-v1"] | {"n_epochs": 1}
    assert config["n_envs"] == 2
    assert config["env_wrapper"] == scaled["env_wrapper"]
    with pytest.raises(ValueError, match="is of beta_ppo, not of ppo"):
        commands.train(["--algo", "ppo", *train])


@pytest.mark.slow
def test_best_overwrites_no_file() -> None:
    storage = ["--storage", "sqlite:///s.db"]
    tune("--n-trials", "1", *storage)
    for _ in range(2):
        tune("--best", *storage, "--", "-n", "64", "--eval-freq", "-1")
    names = {path.name for path in Path("logs/beta_ppo").glob("*.yml")}
    assert names == {"beta_ppo_Pendulum-v1_best.yml", "beta_ppo_Pendulum-v1_best_2.yml"}


@pytest.mark.slow
def test_ppo_is_tuned_with_rl_zoo3s_space_and_its_best_is_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    Path("ppo.yml").write_text("Pendulum-v1: {policy: MlpPolicy, n_timesteps: 512}")
    command = ["--algo", "ppo", "--storage", "sqlite:///s.db"]
    # Rollouts of up to 4096 steps need that much between two reports.
    tune(*command, "--n-trials", "1", "-n", "4096", "-conf", "ppo.yml")
    capsys.readouterr()
    tune(*command, "--best", "--print-only")
    entry = yaml.safe_load(capsys.readouterr().out)["Pendulum-v1"]
    assert entry["policy_kwargs"].startswith("dict(net_arch={'pi'")
    assert "activation_fn=nn." in entry["policy_kwargs"]


def test_a_too_long_rollout_is_pruned_with_its_reason() -> None:
    Path("ppo.yml").write_text("Pendulum-v1: {policy: MlpPolicy, n_timesteps: 512}")
    tune("--algo", "ppo", "--storage", "sqlite:///s.db", "--n-trials", "1", "-n", "8", "-conf", "ppo.yml")
    (trial,) = study("sqlite:///s.db", "ppo_Pendulum-v1").trials
    assert trial.state == TrialState.PRUNED
    assert "does not fit between two reports, 8" in trial.user_attrs["pruned"]


@pytest.mark.parametrize(
    ("n_envs", "max_rollout", "expected"), [(16, 8192, (5, 9)), (4, 8192, (6, 11)), (1, 8192, (8, 11)), (1, 128, (7, 7))]
)
def test_rollouts_hold_a_batch_and_leave_updates_between_reports(
    n_envs: int, max_rollout: int, expected: tuple[int, int]
) -> None:
    low, high = n_steps_powers(n_envs, max_rollout)
    assert (low, high) == expected
    assert 64 <= 2**low * n_envs <= 2**high * n_envs <= max_rollout


@pytest.mark.slow
def test_rl_zoo3s_own_test_command_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """50 steps between two reports, where the smallest rollout has 64: `train -optimize` only warns."""
    command = ["-n", "100", "--algo", "beta_ppo", "--env", "Pendulum-v1", "-params", "policy_kwargs:dict(net_arch=[32])"]
    command += ["n_envs:1", "--seed", "14", "--log-folder", "zt", "--n-trials", "2", "--n-jobs", "1", "--sampler", "tpe"]
    command += ["--pruner", "halving", "--n-evaluations", "2", "--n-startup-trials", "1", "--optimization-log-path", "./ztl/"]
    with pytest.warns(UserWarning, match="50 steps between two reports"):
        commands.train([*command, "-optimize", "--no-optim-plots"])
    assert "Best trial: " in capsys.readouterr().out
    assert len(list(Path("ztl").glob("trial_*/evaluations.csv"))) == 2


def test_a_refused_search_leaves_no_storage() -> None:
    """So that the corrected command is not refused as another one than the study's."""
    Path("junk.zip").touch()
    for arguments, message in [
        (["-f", "junk.zip"], "junk.zip/beta_ppo cannot be written to: Not a directory"),
        (["--optimization-log-path", "junk.zip"], "junk.zip cannot be written to"),
        (["-params", "nonsense:1"], "unexpected keyword argument 'nonsense'"),
        (["-params", "policy_kwargs:dict(nonsense=1)"], "unexpected keyword argument 'nonsense'"),
    ]:
        with pytest.raises(ValueError, match=message):
            tune("--n-trials", "1", "--storage", "sqlite:///s.db", *arguments)
    assert not Path("s.db").exists()


def test_the_best_trial_is_printed_before_its_table_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("pandas.DataFrame.to_csv", fail)
    with pytest.raises(OSError, match="the disk is full"):
        tune("--n-trials", "1")
    assert "Best trial: 0" in capsys.readouterr().out


def test_a_waiting_worker_says_so_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    storage = open_storage("sqlite:///s.db")
    kept = optuna.create_study(storage=storage)
    other = kept.ask()
    pauses = []

    def pause(_: float) -> None:
        pauses.append(_)
        if len(pauses) == 3:
            kept.tell(other, 1.0)

    monkeypatch.setattr("sb3_carracing.zoo.worker.time.sleep", pause)
    Worker(kept, storage, lambda _: 0.0, n_trials=1).run()
    assert len(pauses) == 3
    assert capsys.readouterr().out.count("Waiting for trials that run elsewhere (0)") == 1


def test_a_sampled_policy_is_complete() -> None:
    """What is sampled replaces the YAML's policy_kwargs: those that are not searched have to be in it."""
    carracing = yaml.safe_load((REPOSITORY / "hyperparams/beta_ppo.yml").read_text())["CarRacingFast-v3"]
    # As rl-zoo3's own script leaves them for the sampler.
    searched = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    searched.set_user_attr("policy", carracing["policy"])
    searched.set_user_attr("policy_kwargs", str(carracing["policy_kwargs"]))
    seen = set()
    for _ in range(12):
        trial = searched.ask()
        hyperparams = sample_beta_ppo_params(trial, 3, 16, {"using_her_replay_buffer": False, "her_kwargs": {}})
        kwargs = hyperparams["policy_kwargs"]
        assert kwargs["initial_mean"] == [0.0, 0.0]
        assert kwargs["deterministic_action"] == "mean"
        assert hyperparams["batch_size"] >= 64
        assert hyperparams["n_steps"] * 16 >= hyperparams["batch_size"]
        seen |= {kwargs["features_extractor_class"], kwargs["parameterization"]}
        assert convert_beta_ppo_params(trial.params)["policy_kwargs"] == kwargs
    assert seen == {"blog", "iurin", "nature", "impala", "exp", "mode", "softplus"}

    searched.set_user_attr("policy_kwargs", "{'activation_fn': <class 'torch.nn.ReLU'>}")
    with pytest.raises(ValueError, match="classes by name"):
        sample_beta_ppo_params(searched.ask(), 3, 16, {})


def test_only_extractors_that_take_the_images_are_tried() -> None:
    assert fitting_extractors(gym.spaces.Box(0, 255, (4, 96, 96), np.uint8)) == ["blog", "impala", "iurin", "nature"]
    assert fitting_extractors(gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)) == ["impala", "iurin", "nature"]
    assert fitting_extractors(gym.spaces.Box(-1, 1, (3,), np.float32)) == []


def test_two_workers_do_not_exceed_the_budget() -> None:
    """Both ask for the last place: the later trial gives way."""
    storage = open_storage(None)
    kept = optuna.create_study(storage=storage)
    ran = []

    def objective(trial: Any) -> float:
        ran.append(trial.number)
        return 0.0

    worker = Worker(kept, storage, objective, 0, max_total_trials=2)
    other = kept.ask()
    kept.optimize(lambda _: 0.0, n_trials=1)
    worker._run_trial()
    assert ran == []
    assert kept.trials[2].state == TrialState.FAIL
    kept.tell(other, state=TrialState.FAIL)
    worker.run()
    assert ran == [3]


def test_divergence_is_told_from_other_errors() -> None:
    model = PPO("MlpPolicy", "Pendulum-v1", n_steps=64, device="cpu")
    assert divergence(model, ValueError("the track is closed")) is None
    assert divergence(model, RuntimeError("out of memory")) is None
    next(model.policy.parameters()).data.fill_(float("nan"))
    assert str(divergence(model, RuntimeError("probabilities"))).startswith("NaN")


def run(module: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command line in a process of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY / "examples")}
    result = subprocess.run([sys.executable, "-m", module, *arguments], env=env, capture_output=True, text=True, timeout=300)
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sampler", "cmaes"], "invalid choice: 'cmaes'"),
        (["--pruner", "best"], "invalid choice: 'best'"),
        (["--storage", "somewhere"], "neither a database's URL"),
        (["--storage", "postgresql://me:secret@127.0.0.1:1/none"], "me:***@127.0.0.1:1/none cannot be opened"),
        (["--best", "--storage", "sqlite:///none.db"], "there is no storage sqlite:///none.db"),
        (["--best"], "both --storage and --study-name are needed"),
        (["--print-only"], "go with --best"),
        (["--env", "Pendulum-v7"], "unknown environment 'Pendulum-v7'"),
        (["-n", "100"], "raise -n, or lower --n-evaluations or n_envs"),
        (["-n", "0"], "-n must be at least 1, or -1 for the YAML's n_timesteps, got 0"),
        (["--n-trials", "0"], "n_trials must be at least 1, got 0"),
    ],
)
def test_bad_input_is_one_clear_sentence(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    from sb3_carracing.cli import main

    with pytest.raises(SystemExit) as exit_info:
        main(["tune", *SMALL, *arguments])
    errors = capsys.readouterr().err
    # `main` exits with what `_fail` returns, argparse by itself.
    assert exit_info.value.code == 2
    assert message in errors


def test_best_names_the_studies_there_are() -> None:
    tune("--n-trials", "1", "--storage", "sqlite:///s.db", "--study-name", "mine")
    with pytest.raises(ValueError, match=r"no study 'yours' in sqlite:///s.db; it holds 'mine'"):
        tune("--best", "--storage", "sqlite:///s.db", "--study-name", "yours")


def test_only_a_trial_that_ended_well_can_be_chosen() -> None:
    study = optuna.create_study()
    running, pruned = study.ask(), study.ask()
    study.tell(pruned, state=TrialState.PRUNED)
    with pytest.raises(ValueError, match=r"trial 0 of the study .* is running, neither complete nor pruned"):
        studies.find_trial(study, running.number)
    assert studies.find_trial(study, pruned.number).number == 1


def test_a_storage_may_have_options() -> None:
    tune("--n-trials", "1", "--storage", "sqlite:///s.db", "--study-name", "mine")
    assert studies.load_study("sqlite:///s.db?timeout=60", "mine").study_name == "mine"
    with pytest.raises(ValueError, match=r"there is no storage sqlite:///t.db\?timeout=60"):
        studies.load_study("sqlite:///t.db?timeout=60", "mine")


@pytest.mark.slow
def test_trial_zero_is_trained() -> None:
    """rl-zoo3 takes `--trial-id 0` for none."""
    register()
    storage = ["--storage", "journal.log", "--study-name", "mine"]
    said = run("sb3_carracing", "tune", *SMALL, "--n-trials", "1", *storage).stdout
    assert "journal.log, which has no heartbeats" in said
    (trial,) = study("journal.log", "mine").trials
    train = ["train", "--env", "Pendulum-v1", "-n", "64", "--eval-freq", "-1", *storage, "--trial-id"]
    run("sb3_carracing", *train, "0")
    agent = BetaPPO.load("logs/beta_ppo/Pendulum-v1_1/Pendulum-v1.zip")
    assert agent.gamma == 1 - trial.params["one_minus_gamma"]
    assert "there is no trial 7" in run("sb3_carracing", *train, "7", check=False).stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "sampler", "pruner"),
    [("rl_zoo3.train", "tpe", "median"), ("sb3_carracing", "random", "halving"), ("sb3_carracing", "random", "none")],
)
def test_rl_zoo3s_own_optimize(module: str, sampler: str, pruner: str) -> None:
    command = ["train"] if module == "sb3_carracing" else ["-conf", str(REPOSITORY / "hyperparams/beta_ppo.yml")]
    command += ["--algo", "beta_ppo", "--env", "Pendulum-v1", "-n", "600", "-optimize", "--n-trials", "2", "--seed", "1"]
    command += ["--n-evaluations", "1", "--eval-episodes", "1", "--no-optim-plots", "--sampler", sampler, "--pruner", pruner]
    said = run(module, *command, "--study-name", "mine", "--storage", "sqlite:///s.db").stdout
    assert "Best trial" in said
    assert len(study("sqlite:///s.db", "mine").trials) == 2
    assert bool(list(Path("logs/beta_ppo").glob("Pendulum-v1_*"))) == (module == "rl_zoo3.train")


@pytest.mark.slow
def test_car_racing_is_tuned() -> None:
    """The real space on pictures: the callbacks of the YAML stay out, the value is the raw score on a validation track."""
    small = ["-n", "512", "--n-evaluations", "1", "--eval-episodes", "1", "-params", "n_envs:4"]
    small += ["--n-trials", "2", "--sampler", "random", "--seed", "0", "--optimization-log-path", "trials"]
    run("sb3_carracing", "tune", *small, "--storage", "sqlite:///s.db")
    trials = study("sqlite:///s.db", "beta_ppo_CarRacingFast-v3").trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    assert not list(Path().glob("**/progress.csv"))

    views = yaml.safe_load((REPOSITORY / "hyperparams/beta_ppo.yml").read_text())["CarRacingFast-v3"]["env_wrapper"]
    make_env = pipeline_env(Pipeline("CarRacingFast-v3", {}, wrapper_calls(views)), renderer=None)
    for trial in trials:
        (result,) = evaluate(BetaPPO.load(f"trials/trial_{trial.number}/best_model.zip"), make_env, [2_000_000])
        assert trial.value == pytest.approx(result.score)
