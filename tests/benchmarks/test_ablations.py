"""The seeds' mistakes do what they say, the plan is sound, and the runner finishes, resumes and skips."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env

from sb3_carracing import BetaPPO

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.ablations import bugs, report, run  # noqa: E402
from benchmarks.ablations.plan import merged, read_plan  # noqa: E402
from benchmarks.ablations.run import algorithm, evaluation_env, model_arguments, training_env  # noqa: E402

EPISODE = 5


class Counter(gym.Env[np.ndarray, Any]):
    """Observes how many steps it has played in all its life; an episode is `EPISODE` steps, the reward the count."""

    observation_space = spaces.Box(0.0, 1e6, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, end: str = "truncated") -> None:
        self.end = end
        self.count = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.begun = self.count
        self.count += 1
        return self.observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.count += 1
        over = self.count - self.begun > EPISODE
        return self.observe(), float(self.count), over and self.end == "terminated", over and self.end == "truncated", {}

    def observe(self) -> np.ndarray:
        return np.array([self.count], np.float32)


def rollout_of(model_class: type[BetaPPO], wrap: Any = None, end: str = "truncated", **arguments: Any) -> dict[str, Any]:
    """Play one rollout of 12 steps and return what it stored, before any update."""
    venv = make_vec_env(lambda: Counter(end), n_envs=1, seed=0, wrapper_class=wrap)
    settings = {"n_steps": 12, "batch_size": 4, "gamma": 0.5, "gae_lambda": 0.5, "seed": 0} | arguments
    model = model_class("MlpPolicy", venv, device="cpu", **settings)
    return collected(model)


def collected(model: BetaPPO) -> dict[str, Any]:
    _, callback = model._setup_learn(100, reset_num_timesteps=model._last_obs is None)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    names = ("observations", "rewards", "values", "advantages", "returns", "episode_starts", "log_probs", "actions")
    return {name: np.array(getattr(model.rollout_buffer, name)) for name in names}


def terminated(env: gym.Env) -> gym.Env:
    return bugs.ReportEnds(env, as_="terminated")


def truncated(env: gym.Env) -> gym.Env:
    return bugs.ReportEnds(env, as_="truncated")


def test_next_observation_is_paired_with_the_action() -> None:
    right = rollout_of(BetaPPO)["observations"].flatten()
    wrong = rollout_of(bugs.StoresNextObservation)["observations"].flatten()
    # One step on, also where the episode ends and the next step's observation is another episode's first.
    assert np.array_equal(wrong, right + 1)
    assert np.diff(right)[EPISODE - 1] == 2


def test_next_observation_leaves_all_else_right() -> None:
    right, wrong = rollout_of(BetaPPO), rollout_of(bugs.StoresNextObservation)
    for name in ("rewards", "values", "log_probs", "advantages", "actions"):
        assert np.array_equal(right[name], wrong[name])


@pytest.mark.parametrize(("model_class", "sound"), [(BetaPPO, True), (bugs.StoresNextObservation, False)])
def test_the_first_ratio_is_one_only_with_the_right_observation(model_class: type[BetaPPO], sound: bool) -> None:
    venv = make_vec_env("Pendulum-v1", n_envs=1, seed=0)
    model = model_class("MlpPolicy", venv, n_steps=64, batch_size=64, seed=0, device="cpu")
    collected(model)
    batch = next(iter(model.rollout_buffer.get(64)))
    with th.no_grad():
        _, log_prob, _ = model.policy.evaluate_actions(batch.observations, batch.actions)
    assert th.allclose(log_prob, batch.old_log_prob, atol=1e-5) == sound


def test_every_rollout_starts_anew() -> None:
    venv = make_vec_env(Counter, n_envs=1, seed=0)
    model = bugs.ResetsEveryRollout("MlpPolicy", venv, n_steps=7, batch_size=7, seed=0, device="cpu")
    first = collected(model)
    second = collected(model)
    assert first["episode_starts"].flatten().tolist() == second["episode_starts"].flatten().tolist() == [1, 0, 0, 0, 0, 1, 0]
    assert second["observations"][0] == first["observations"][-1] + 2  # its successor was seen, then came the reset


def test_dones_are_never_stored_and_gae_runs_across_episodes() -> None:
    stored = rollout_of(BetaPPO, wrap=terminated, rollout_buffer_class=bugs.ForgetsDones)
    assert not stored["episode_starts"].any()
    values, rewards, advantages = (stored[name].flatten() for name in ("values", "rewards", "advantages"))
    last = EPISODE - 1  # the episode's last step: the next episode's value and advantage follow
    expected = rewards[last] + 0.5 * values[last + 1] - values[last] + 0.25 * advantages[last + 1]
    assert advantages[last] == pytest.approx(expected, rel=1e-5)
    sound = rollout_of(BetaPPO, wrap=terminated)
    assert sound["episode_starts"].flatten()[EPISODE] == 1
    assert sound["advantages"][last] == pytest.approx(sound["rewards"][last] - sound["values"][last], rel=1e-5)


def test_ends_reported_as_time_limits_are_bootstrapped_with_the_last_picture() -> None:
    arguments = {"gae_lambda": 0.0}
    as_blog = rollout_of(BetaPPO, wrap=truncated, end="terminated", **arguments)
    sound = rollout_of(BetaPPO, end="terminated", **arguments)
    last = EPISODE - 1
    model = BetaPPO("MlpPolicy", make_vec_env(Counter, seed=0), seed=0, device="cpu")
    with th.no_grad():
        value = float(model.policy.predict_values(th.tensor([[float(EPISODE + 1)]])))
    assert as_blog["advantages"][last] - sound["advantages"][last] == pytest.approx(0.5 * value, rel=1e-3)
    assert as_blog["episode_starts"].flatten()[EPISODE] == 1


def test_what_ends_are_reported_as_must_be_known() -> None:
    with pytest.raises(ValueError, match="'terminated' or 'truncated', got 'over'"):
        bugs.ReportEnds(Counter(), as_="over")


def filled(buffer_class: type[RolloutBuffer]) -> RolloutBuffer:
    buffer = buffer_class(64, Counter.observation_space, Counter.action_space, device="cpu")
    rng = np.random.default_rng(0)
    for _ in range(64):
        one = th.zeros(1)
        buffer.add(np.zeros((1, 1)), np.zeros((1, 1)), rng.normal(3.0, 20.0, 1), np.zeros(1), one, one)
    buffer.compute_returns_and_advantage(th.zeros(1), np.zeros(1))
    return buffer


def test_renormalising_again_changes_nothing() -> None:
    buffer = filled(bugs.RenormalizesBatch)
    raw = buffer.advantages.flatten()
    batches = buffer.get(8)
    next(batches)
    once = buffer.advantages.flatten()
    assert once.mean() == pytest.approx(0.0, abs=1e-6)
    assert once.std(ddof=1) == pytest.approx(1.0, abs=1e-6)
    assert np.corrcoef(once, raw)[0, 1] == pytest.approx(1.0)
    for _ in range(16):
        for _ in buffer.get(8):
            pass
    assert np.allclose(buffer.advantages.flatten(), once, atol=1e-5)


def test_the_published_storage_has_both_mistakes() -> None:
    buffer = filled(bugs.IurinBuffer)
    next(buffer.get(8))
    assert buffer.advantages.std(ddof=1) == pytest.approx(1.0, abs=1e-6)
    assert isinstance(buffer, bugs.ForgetsDones)


def test_settings_are_merged_and_taken_away() -> None:
    settings = {"a": {"x": 1, "y": 2}, "b": 3}
    assert merged(settings, {"a": {"x": 5, "y": None}, "c": {"z": 1}}) == {"a": {"x": 5}, "b": 3, "c": {"z": 1}}
    assert settings == {"a": {"x": 1, "y": 2}, "b": 3}


def differing(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> set[str]:
    """Return the dotted keys in which two nested settings differ."""
    keys: set[str] = set()
    for key in one.keys() | other.keys():
        left, right = one.get(key), other.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            keys |= differing(left, right, f"{prefix}{key}.")
        elif left != right:
            keys.add(f"{prefix}{key}")
    return keys


def test_each_run_of_the_study_switches_one_thing() -> None:
    plan = read_plan()
    runs = [run for run in plan.values() if run.group == "matters"]
    switched = {run.name: differing(plan["matters_base"].settings, run.settings) for run in runs}
    # Repeat keeps the frames; free roads lose cost and end; NatureCNN brings its own last layer; one pedal starts elsewhere.
    two = {name for name, keys in switched.items() if len(keys) > 1}
    assert two <= {"repeat_2", "repeat_8", "off_road_free", "off_road_dear", "extractor_nature", "signed_pedals"}
    assert [name for name, keys in switched.items() if not keys] == ["matters_base"]
    frames = {run.settings["n_timesteps"] * _repeat(run.settings) for run in runs}
    assert frames == {500_000}


def _repeat(settings: dict[str, Any]) -> int:
    return int(settings["wrappers"]["sb3_carracing.envs.wrappers.ActionRepeat"]["frame_skip"])


@pytest.mark.parametrize("name", list(read_plan()))
def test_every_run_of_the_plan_can_be_made(name: str) -> None:
    run = read_plan()[name]
    venv = training_env(run, seed=1)
    model = algorithm(run)(env=venv, seed=1, device="cpu", **model_arguments(run))
    factory = evaluation_env(run)
    env = factory()
    # The learner sees pictures with channels first.
    assert sorted(env.observation_space.shape) == sorted(model.observation_space.shape)
    assert env.action_space == model.action_space
    assert "grass_penalty" not in factory.kwargs
    assert factory.kwargs.get("noop_frames", 0) == run.settings["env_kwargs"].get("noop_frames", 0)
    env.close()
    venv.close()


def runner(tmp_path: Path, *arguments: str) -> list[str]:
    paths = ["--work", str(tmp_path / "work"), "--results", str(tmp_path / "results")]
    return [sys.executable, "-m", "benchmarks.ablations.run", *arguments, *paths]


def test_the_list_names_every_run(tmp_path: Path) -> None:
    listing = subprocess.run(runner(tmp_path, "--list"), cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in listing.stdout.splitlines()] == list(read_plan())


def test_an_unknown_run_is_one_sentence(tmp_path: Path) -> None:
    refused = subprocess.run(runner(tmp_path, "--only", "nothing"), cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "unknown run 'nothing'; valid: blog, iurin, matters, iurin_published" in refused.stderr


def test_tables_in_the_docs_are_those_of_the_stored_results() -> None:
    for page in report.PAGES:
        assert page.read_text() == report.rendered(page.read_text()), f"run `python -m benchmarks.ablations.report`: {page}"


def test_what_is_stored_was_played_with_the_values_of_the_plan() -> None:
    plan = read_plan()
    for file in run.RESULTS.glob("*/seed_*/config.yml"):
        name, seed = file.parent.parent.name, int(file.parent.name.removeprefix("seed_"))
        assert file.read_text() == run.config(plan[name], seed), file


def test_a_checkpoint_of_other_values_is_not_gone_on_from(tmp_path: Path) -> None:
    planned = read_plan()["iurin_repaired"]
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "config.yml").write_text(run.config(planned, 2))
    with pytest.raises(ValueError, match="holds a checkpoint of other values than iurin_repaired has now"):
        run.train(planned, 1, tmp_path)


def store(results: Path, run: str, seed: int, score: float) -> None:
    folder = results / run / f"seed_{seed}"
    folder.mkdir(parents=True)
    outcome = {"frames": 600_000, "results": {"deterministic": {"summary": {"mean": score}}}}
    (folder / "evaluation.json").write_text(json.dumps(outcome))
    (folder / "evaluations.csv").write_text("frames,mean\n1000,-20\n2000,30\n")
    (folder / "progress.csv").write_text("rollout/score,train/entropy_loss\n1,\n-30,-1.5\n-50,-0.5\n")


def test_a_table_has_a_row_for_each_finished_run(tmp_path: Path) -> None:
    page = "before\n<!-- runs: iurin_published iurin_bugs_off -->\nold\n<!-- end -->\nafter\n"
    empty = "before\n<!-- runs: iurin_published iurin_bugs_off -->\n<!-- end -->\nafter\n"
    assert report.rendered(page, tmp_path) == empty
    store(tmp_path, "iurin_bugs_off", 1, 100.0)
    store(tmp_path, "iurin_bugs_off", 2, 50.0)
    filled_in = report.rendered(empty, tmp_path)
    assert "published |" not in filled_in
    row = "| 600 k | **75** (100, 50) | **-50** (-50, -50) | **1.00** (1.00, 1.00) |"
    assert f"(`iurin_bugs_off`) {row}" in filled_in
    assert report.rendered(filled_in, tmp_path) == filled_in


def test_a_table_of_scores_tells_lost_tracks_from_laps_that_lack_a_tile(tmp_path: Path) -> None:
    folder = tmp_path / "matters_base" / "seed_1"
    folder.mkdir(parents=True)
    played = [(930.0, True), (880.0, False), (699.0, False), (-20.0, None)]
    episodes = [{"score": score, "lap_finished": finished} for score, finished in played]
    outcome = {"frames": 500_000, "results": {"mean": {"summary": {"mean": 622.25}, "episodes": episodes}}}
    (folder / "evaluation.json").write_text(json.dumps(outcome))
    (folder / "evaluations.csv").write_text("frames,mean\n99999,0\n100000,800\n150000,900\n")
    (folder / "progress.csv").write_text("rollout/score\n700\n")
    text = report.table(["matters_base"], tmp_path, "scores").splitlines()
    assert text[1] == "| run | frames | mean action | laps finished, % | lost, % | validations | in training |"
    assert text[3].endswith("| 500 k | 622 | 25 | 50 | 850 | 700 |")


def test_a_picture_is_linked_once_a_run_is_finished(tmp_path: Path) -> None:
    page = "<!-- curves: curves.png iurin_published -->\n<!-- end -->\n"
    assert report.rendered(page, tmp_path) == page
    store(tmp_path, "iurin_published", 1, 100.0)
    assert "![validation scores](curves.png)" in report.rendered(page, tmp_path)
    report.draw(tmp_path / "curves.png", ["iurin_published"], tmp_path)
    assert (tmp_path / "curves.png").stat().st_size > 5_000


@pytest.mark.skipif(th.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_refused_before_the_run(tmp_path: Path) -> None:
    command = runner(tmp_path, "--only", "iurin_published", "--steps", "1000", "--device", "cuda")
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "--device cuda: torch sees no GPU here; valid: cpu" in refused.stderr
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
def test_a_killed_run_goes_on_and_a_finished_one_is_skipped(tmp_path: Path) -> None:
    command = runner(tmp_path, "--only", "iurin_published", "--seeds", "4", "--steps", "14000", "--tracks", "1")
    folder = tmp_path / "work" / "iurin_published" / "seed_4"
    results = tmp_path / "results" / "iurin_published" / "seed_4"
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    try:
        deadline = time.monotonic() + 240
        while not (folder / "checkpoint" / "agent.zip").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not results.exists()

    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "on from step 10240" in second.stderr
    with (results / "progress.csv").open(newline="") as file:
        steps = [int(row["time/total_timesteps"]) for row in csv.DictReader(file)]
    # The last row holds what the last update left.
    assert sorted(set(steps)) == list(range(1024, 14337, 1024))
    outcome = json.loads((results / "evaluation.json").read_text())
    assert outcome["steps"] == 14336
    assert [episode["seed"] for episode in outcome["results"]["deterministic"]["episodes"]] == [1_000_000]
    assert 4.0 < outcome["frames"] / outcome["steps"] < 4.5  # repeat 4, and 50 idle frames an episode
    assert outcome["machine"]["device"] == "cpu"
    assert (results / "evaluations.csv").exists()
    assert (results / "config.yml").exists()

    third = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "finished already" in third.stderr

    # Trained elsewhere, evaluated here: what is stored is where it was trained.
    (results / "evaluation.json").unlink()
    (folder / "device").write_text("some GPU")
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    assert json.loads((results / "evaluation.json").read_text())["machine"]["device"] == "some GPU"


def test_a_checkpoint_whose_writer_was_killed_between_two_renames_is_found(tmp_path: Path) -> None:
    for name in ("checkpoint.new", "checkpoint.replaced"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "agent.zip").write_text(name)
    run.mend_checkpoint(tmp_path)
    assert (tmp_path / "checkpoint" / "agent.zip").read_text() == "checkpoint.new"
    # Killed while it wrote: what is half written is no checkpoint.
    (tmp_path / "checkpoint.new").mkdir()
    run.mend_checkpoint(tmp_path)
    assert (tmp_path / "checkpoint" / "agent.zip").read_text() == "checkpoint.new"
    assert not list((tmp_path / "checkpoint.new").iterdir())
