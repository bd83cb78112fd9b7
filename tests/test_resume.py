"""Exact resume: however often a training is interrupted, its weights are those of the unbroken one, bit for bit."""

import csv
import hashlib
import io
import json
import random
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import safetensors.numpy
import torch as th
from gymnasium.wrappers import FrameStackObservation
from rank_processes import on_ranks
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecMonitor, VecNormalize

from sb3_carracing import BetaPPO
from sb3_carracing.callbacks import ProgressCallback
from sb3_carracing.cli import main
from sb3_carracing.envs.replayable import Replayable
from sb3_carracing.envs.wrappers import ActionRepeat, Grayscale, ScaleReward, SignedPedals
from sb3_carracing.errors import UserError
from sb3_carracing.resume import restore, snapshot
from sb3_carracing.vec_env import SharedMemoryVecEnv

N_STEPS, N_ENVS = 48, 2
ROLLOUT = N_STEPS * N_ENVS


def weights(model: BetaPPO) -> str:
    """Return a hash of the weights and of Adam's state."""
    tensors = [*model.policy.state_dict().values()]
    for state in model.policy.optimizer.state.values():
        tensors += [state[name] for name in sorted(state)]
    return hashlib.sha256(b"".join(tensor.cpu().contiguous().numpy().tobytes() for tensor in tensors)).hexdigest()


def pendulum(vec_env_cls: Any = DummyVecEnv, wrapper: Any = Replayable) -> VecEnv:
    return make_vec_env("Pendulum-v1", N_ENVS, seed=1, wrapper_class=wrapper, vec_env_cls=vec_env_cls)


def views(env: gym.Env[Any, Any]) -> Replayable:
    """Wrap as hyperparams/beta_ppo_long.yml does."""
    env = FrameStackObservation(Grayscale(ActionRepeat(env, 4)), 4, padding_type="reset")
    return Replayable(SignedPedals(ScaleReward(env, 0.02)))


def car_racing(vec_env_cls: Any) -> VecEnv:
    rules = {"grass_penalty": 0.3, "off_road_frames": 15, "gap_penalty": 30.0, "truncate_lap": True, "standstill_rate": 0.3}
    return make_vec_env("CarRacingFast-v3", N_ENVS, 1, wrapper_class=views, env_kwargs=rules, vec_env_cls=vec_env_cls)


ENVS: dict[str, Callable[[], VecEnv]] = {
    "Pendulum, VecNormalize": lambda: VecNormalize(pendulum(), gamma=0.95),
    "Pendulum, all wrappers": lambda: VecFrameStack(VecNormalize(VecMonitor(pendulum(SharedMemoryVecEnv))), 3),
    "CarRacing": lambda: car_racing(DummyVecEnv),
    "CarRacing in workers": lambda: car_racing(SharedMemoryVecEnv),
}
CNN = {"features_extractor_class": "blog", "activation_fn": "relu", "ortho_init": False}
OPTIONS: dict[str, Any] = {"n_steps": N_STEPS, "batch_size": 32, "n_epochs": 2, "seed": 3, "device": "cpu", "ent_coef": 0.01}


def agent(env: Any, **options: Any) -> BetaPPO:
    is_image = len(env.observation_space.shape) == 3
    more = {"policy": "CnnPolicy", "policy_kwargs": CNN} if is_image else {"policy": "MlpPolicy"}
    return BetaPPO(**{**more, **OPTIONS, "learning_rate": lambda progress: 1e-3 * progress, "env": env, **options})


class StopTraining(Exception):
    """What ends a training in the middle of a rollout."""


class Snapshots(BaseCallback):
    """Keep a snapshot after every update, and stop in the middle of a rollout."""

    def __init__(self, stop: int = -1) -> None:
        super().__init__()
        self.stop, self.latest, self.all = stop, b"", dict[int, bytes]()

    def _on_rollout_start(self) -> None:
        self.latest = self.all[self.num_timesteps] = snapshot(self.model)

    def _on_step(self) -> bool:
        if self.num_timesteps == self.stop:
            raise StopTraining
        return True


def another_process() -> None:
    """Leave the global generators as an unrelated process would."""
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002
    th.manual_seed(99)


def resumed(content: bytes, make: Callable[[], Any]) -> tuple[BetaPPO, str | None]:
    another_process()
    model = BetaPPO.load(io.BytesIO(content), env=make(), device="cpu")
    return model, restore(model, content)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if "workers" in name else []) for name in ENVS])
def test_weights_after_three_interruptions(name: str) -> None:
    make, total = ENVS[name], 4 * ROLLOUT
    whole, snapshots = agent(make()), Snapshots()
    whole.learn(total, snapshots)
    latest = Snapshots(stop=2 * ROLLOUT - 11 * N_ENVS)
    model = agent(make())
    for stop in (ROLLOUT + N_ENVS, 4 * ROLLOUT - N_ENVS, -1):
        with pytest.raises(StopTraining):
            model.learn(total - model.num_timesteps, latest, reset_num_timesteps=model.num_timesteps == 0)
        model.env.close()  # type: ignore[union-attr]
        model, why_not = resumed(latest.latest, make)
        assert why_not is None
        latest = Snapshots(stop)
    model.learn(total - model.num_timesteps, latest, reset_num_timesteps=False)
    assert weights(model) == weights(whole)
    normalize = (model.get_vec_normalize_env(), whole.get_vec_normalize_env())
    if None not in normalize:
        ours, theirs = (vars(one.obs_rms) | {"r": one.ret_rms.var, "returns": one.returns} for one in normalize)  # type: ignore[union-attr]
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    assert list(model.ep_info_buffer or ()) == [
        {**ep_info, "t": pytest.approx(ep_info["t"], abs=1e9)} for ep_info in whole.ep_info_buffer or ()
    ]
    for one in (model, whole):
        one.env.close()  # type: ignore[union-attr]


def test_without_the_state_weights_differ() -> None:
    """The law above says something: a resume as SB3 does it is not exact."""
    whole, snapshots = agent(pendulum()), Snapshots()
    whole.learn(2 * ROLLOUT, snapshots)
    model = BetaPPO.load(io.BytesIO(snapshots.all[ROLLOUT]), env=pendulum(), device="cpu")
    model.learn(ROLLOUT, reset_num_timesteps=False)
    assert weights(model) != weights(whole)


def test_discrete_actions() -> None:
    def make() -> VecEnv:
        return make_vec_env("CartPole-v1", N_ENVS, seed=1, wrapper_class=Replayable)

    whole, snapshots = agent(make()), Snapshots()
    whole.learn(3 * ROLLOUT, snapshots)
    model, why_not = resumed(snapshots.all[ROLLOUT], make)
    assert why_not is None
    model.learn(2 * ROLLOUT, reset_num_timesteps=False)
    assert weights(model) == weights(whole)


def rows(folder: Path) -> list[dict[str, float]]:
    """Return progress.csv without what depends on the clock or counts from the start of a process."""
    varying = {
        "eval/mean_reward",
        "eval/mean_ep_length",
        "time/fps",
        "time/frames_per_second",
        "time/time_elapsed",
        "time/iterations",
    }
    with (folder / "progress.csv").open() as stream:
        table = list(csv.DictReader(stream))
    return [{name: float(row[name]) for name in row.keys() - varying if row[name]} for row in table]


def test_log_and_callbacks_go_on(tmp_path: Path) -> None:
    """Rows, scores of the last episodes and losses that were not logged yet."""

    def callbacks(name: str) -> list[Any]:
        return [ProgressCallback(live_line=False, run_dir=tmp_path / name), Snapshots()]

    whole, ours = agent(pendulum()), callbacks("whole")
    whole.learn(5 * ROLLOUT, ours)
    model, why_not = resumed(ours[1].all[2 * ROLLOUT], pendulum)
    assert why_not is None
    theirs = callbacks("resumed")
    model.learn(3 * ROLLOUT, theirs, reset_num_timesteps=False)
    assert rows(tmp_path / "resumed") == rows(tmp_path / "whole")[2:]
    assert [one.n_calls for one in theirs] == [one.n_calls for one in ours] == [5 * N_STEPS] * 2


def test_the_best_score_of_sb3s_evaluation_is_kept() -> None:
    model, snapshots = agent(pendulum()), Snapshots()
    evaluation = EvalCallback(pendulum(), eval_freq=N_STEPS - 1, n_eval_episodes=1, verbose=0)
    model.learn(ROLLOUT + 1, [evaluation, snapshots])
    content = snapshots.all[ROLLOUT]
    best_then = next(one for one in json_of(content)["callbacks"] if "EvalCallback" in one["class"])["values"][
        "best_mean_reward"
    ]
    model, _ = resumed(content, pendulum)
    other = EvalCallback(pendulum(), eval_freq=10_000, verbose=0)
    model.learn(1, [Snapshots(), other], reset_num_timesteps=False)
    assert other.best_mean_reward == best_then


def on_a_rank(total: int, content: bytes | None) -> tuple[str, dict[int, bytes], str | None]:
    """Train as one of several ranks, and return the weights, snapshots by step, and why a resume is not exact."""
    env, why_not = VecNormalize(pendulum(), gamma=0.95), None
    if content is None:
        model = agent(env)
    else:
        another_process()
        model = BetaPPO.load(io.BytesIO(content), env=env, device="cpu")
        why_not = restore(model, content)
    snapshots = Snapshots()
    model.learn(total - model.num_timesteps, [snapshots, ProgressCallback()], reset_num_timesteps=content is None)
    return weights(model), snapshots.all, why_not


def test_ranks_go_on_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    total = 4 * 2 * ROLLOUT
    whole = on_ranks(2, on_a_rank, total, None)
    snapshots = whole[0][1]
    assert not whole[1][1], "only rank 0 calls this callback"
    for rollout in (1, 3):
        content = snapshots[rollout * 2 * ROLLOUT]
        (weights_0, snapshots, _), (weights_1, *_) = resumed = on_ranks(2, on_a_rank, total, content)
        assert [why_not for *_, why_not in resumed] == [None, None]
        assert weights_0 == weights_1 == whole[0][0]
    assert on_ranks(1, on_a_rank, total, content)[0][2] == "it was trained on 2 rank(s), not on 1"


def test_a_snapshot_is_an_agent_and_repeats_itself(tmp_path: Path) -> None:
    env = VecNormalize(pendulum())
    model, snapshots = agent(env, learning_rate=1e-3), Snapshots()
    model.learn(2 * ROLLOUT, snapshots)
    file = tmp_path / "agent.zip"
    file.write_bytes(snapshots.all[ROLLOUT])
    assert BetaPPO.load(file, device="cpu").num_timesteps == ROLLOUT
    again, why_not = resumed(file.read_bytes(), lambda: VecNormalize(pendulum()))
    assert why_not is None
    first = Snapshots()
    again.learn(ROLLOUT, first, reset_num_timesteps=False)
    # A training that is interrupted before its first step loses nothing either.
    assert generators(snapshots.all[ROLLOUT]) == generators(first.all[ROLLOUT])
    ours, theirs = (entry(content, "policy.safetensors") for content in (file.read_bytes(), first.all[ROLLOUT]))
    assert ours == theirs


def test_a_snapshot_belongs_between_rollouts() -> None:
    class Early(BaseCallback):
        def _on_step(self) -> bool:
            snapshot(self.model)
            return True

    model = agent(pendulum())
    snapshot(model)  # before the training
    with pytest.raises(RuntimeError, match="in the middle of a rollout"):
        # `pos` is 0 at the first step, when the rollout holds nothing yet.
        model.learn(ROLLOUT, Early())


def small_agent(make: Callable[[], Any]) -> bytes:
    model, snapshots = agent(make(), n_steps=16, batch_size=16), Snapshots()
    model.learn(1, snapshots)
    content = snapshot(model)
    model.env.close()  # type: ignore[union-attr]
    return content


def normalized() -> VecEnv:
    return VecNormalize(pendulum())


def inner() -> VecEnv:
    return make_vec_env(lambda: Replayable(gym.make("Pendulum-v1")), N_ENVS, wrapper_class=Monitor)


def unsteady() -> VecEnv:
    """An environment whose start is drawn from a generator that nothing holds."""

    class Unsteady(gym.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            observation, reward, *rest = self.env.step(action)
            return observation, float(reward) + np.random.default_rng().random(), *rest

    return make_vec_env("Pendulum-v1", N_ENVS, seed=1, wrapper_class=lambda env: Replayable(Unsteady(env)))


@pytest.mark.parametrize(
    ("trained_in", "resumed_in", "reason"),
    [
        (
            pendulum,
            lambda: make_vec_env("Pendulum-v1", 3, wrapper_class=Replayable),
            "in 2 environments, and there are 3",
        ),
        (pendulum, lambda: pendulum(wrapper=None), "do not record their episodes"),
        (lambda: pendulum(wrapper=None), pendulum, "do not record their episodes"),
        (normalized, pendulum, "its vectorized wrappers were others than none"),
        (inner, inner, "Replayable must be the outermost wrapper"),
        (unsteady, unsteady, "environment 0 did not return to its state"),
    ],
)
def test_what_is_not_exact_is_said(trained_in: Any, resumed_in: Any, reason: str) -> None:
    content = small_agent(trained_in)
    model, why_not = resumed(content, resumed_in)
    assert why_not is not None
    assert reason in why_not
    steps = model.num_timesteps
    model.learn(8, reset_num_timesteps=False)
    assert model.num_timesteps > steps


def test_other_agents_resume_as_before(tmp_path: Path) -> None:
    ours = agent(pendulum())
    ours.save(tmp_path / "ours.zip")
    stock = PPO("MlpPolicy", pendulum(), n_steps=8, batch_size=8, device="cpu")
    (tmp_path / "stock.zip").write_bytes(snapshot(stock))
    assert "does not hold the state of its training" in str(restore(ours, tmp_path / "ours.zip"))
    assert "does not hold the state of its training" in str(restore(ours, tmp_path / "stock.zip"))
    loaded = PPO.load(tmp_path / "stock.zip", env=pendulum(), device="cpu")
    assert "for BetaPPO only, not for PPO" in str(restore(loaded, tmp_path / "stock.zip"))


def entry(content: bytes, name: str) -> bytes:
    return zipfile.ZipFile(io.BytesIO(content)).read(name)


def generators(content: bytes) -> dict[str, Any]:
    arrays = safetensors.numpy.load(entry(content, "training.safetensors"))
    states = {name: array.tolist() for name, array in arrays.items() if name.startswith("generators")}
    return {**states, "": json_of(content)["generators"]}


def json_of(content: bytes) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(entry(content, "training.json"))
    return document


def changed(content: bytes, entry: str, new: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as archive:
        for name in old.namelist():
            archive.writestr(name, new if name == entry else old.read(name))
    return stream.getvalue()


def go_on(model: BetaPPO, content: bytes) -> None:
    restore(model, content)
    model.learn(8, Snapshots(), reset_num_timesteps=False)


@pytest.fixture(scope="module")
def small() -> bytes:
    return small_agent(normalized)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("version", 2),
        ("version", "1"),
        ("format", "other"),
        ("more", 1),
        ("generators", None),
        ("generators.python", 3),
        ("generators.python.items", [3, [1, 2], None]),
        ("generators.numpy.state.pos", "a"),
        ("generators.numpy.bit_generator", "os.system"),
        ("generators.torch", {"$": "class", "name": "os.system"}),
        ("generators.torch", "text"),
        ("generators.actions", 3),
        ("environments", 7),
        ("environments", [7]),
        ("environments.0.before", [1]),
        ("environments.0.before", {"0 Monitor.step": "text"}),
        ("environments.0.total", None),
        ("environments.0.actions", {"$": "array", "name": "nowhere"}),
        ("environments.0.more", 1),
        ("environments", [{}]),
        ("wrappers", 3),
        ("wrappers.0.class", 3),
        ("wrappers.0.values", []),
        ("wrappers.0.values", [[[]]]),
        ("callbacks", [3]),
        ("callbacks.0.values", {}),
        ("callbacks.0.values.n_calls", "many"),
        ("log.name_to_value", 3),
        ("log.name_to_value", {"train/loss": "text"}),
        ("log.name_to_count", {"train/loss": 1.5}),
        ("log", {}),
    ],
)
def test_damage_is_a_one_line_error(small: bytes, path: str, value: Any) -> None:
    document = json_of(small)
    *places, last = path.split(".")
    holder: Any = document
    for place in places:
        holder = holder[int(place)] if isinstance(holder, list) else holder[place]
    holder[last] = value
    content = changed(small, "training.json", json.dumps(document).encode())
    model = BetaPPO.load(io.BytesIO(content), env=normalized(), device="cpu")
    with pytest.raises(UserError, match=r"^the stream[^\n]+$"):
        go_on(model, content)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1, "format": 2}', b"[" * 100_000])
def test_other_json(small: bytes, content: bytes) -> None:
    broken = changed(small, "training.json", content)
    model = BetaPPO.load(io.BytesIO(broken), env=normalized(), device="cpu")
    with pytest.raises(UserError, match=r"^the stream[^\n]+$"):
        restore(model, broken)


def test_arrays_that_are_damaged(small: bytes) -> None:
    broken = changed(small, "training.safetensors", b"\0" * 100)
    model = BetaPPO.load(io.BytesIO(broken), env=normalized(), device="cpu")
    with pytest.raises(UserError, match=r"training\.safetensors cannot be read"):
        restore(model, broken)


SAVES = '''
import os, signal
from stable_baselines3.common.callbacks import BaseCallback
from sb3_carracing.resume import snapshot

class Saves(BaseCallback):
    """Write a snapshot after every update, and kill the training in the middle of a rollout."""

    def __init__(self, stop=0):
        super().__init__()
        self.run_dir, self.stop = None, stop

    def _on_rollout_start(self):
        (self.run_dir / "snapshot.zip").write_bytes(snapshot(self.model))

    def _on_step(self):
        if self.num_timesteps == self.stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return True
'''
SMALL = {
    "Pendulum-v1": ["n_envs:2", "n_steps:48", "batch_size:48", "n_epochs:2", "normalize:True"],
    "CarRacingFast-v3": ["n_envs:2", "n_steps:48", "batch_size:48", "n_epochs:1"],
}


def train(folder: Path, env_id: str, stop: int, start: int | None, *options: str) -> subprocess.CompletedProcess[str]:
    """Train by the real command; `start` is the number of the run to resume, None for a new training."""
    (folder / "saves.py").write_text(SAVES)
    callbacks: list[Any] = ["sb3_carracing.callbacks.ProgressCallback", {"saves.Saves": {"stop": stop}}]
    if env_id != "Pendulum-v1":
        callbacks.append({"sb3_carracing.callbacks.ValidationCallback": {"every_frames": 800, "n_episodes": 1}})
    resume = ["-i", f"logs/beta_ppo/{env_id}_{start}/snapshot.zip"] if start else []
    command = ["train", "--env", env_id, "-n", str(5 * ROLLOUT), "--eval-freq", "-1", "--seed", "5", *resume, *options]
    command = [sys.executable, "-m", "sb3_carracing", *command, "-params", *SMALL[env_id], f"callback:{callbacks}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)


def validations(run: Path) -> list[tuple[str, ...]]:
    """Return frames, steps and mean of every validation; a run that is killed before the first has no file."""
    if not (run / "evaluations.csv").is_file():
        return []
    with (run / "evaluations.csv").open() as stream:
        return [(row["frames"], row["steps"], row["mean"]) for row in csv.DictReader(stream)]


@pytest.mark.slow
@pytest.mark.parametrize(("env_id", "options"), [("Pendulum-v1", []), ("CarRacingFast-v3", ["--vec-env", "subproc"])])
def test_the_command_killed_three_times(tmp_path: Path, env_id: str, options: list[str]) -> None:
    parts = [(-1, None), (2 * ROLLOUT - 4, None), (3 * ROLLOUT + 4, 2), (4 * ROLLOUT + 10, 3), (-1, 4)]
    for number, (stop, start) in enumerate(parts):
        done = train(tmp_path, env_id, stop, start, *options)
        assert done.returncode == (0 if stop < 0 else -signal.SIGKILL), done.stdout + done.stderr
        assert ("goes on exactly" in done.stdout) == (number > 1)
    runs = [tmp_path / f"logs/beta_ppo/{env_id}_{number}" for number in range(1, 6)]
    whole, last = (BetaPPO.load(run / f"{env_id}.zip", device="cpu") for run in (runs[0], runs[4]))
    assert weights(last) == weights(whole)
    assert [row for run in runs[1:4] for row in rows(run)] == rows(runs[0])[:4]
    assert rows(runs[4]) == rows(runs[0])[4:]
    if env_id != "Pendulum-v1":
        assert (runs[4] / "best_model.zip").is_file()
        assert validations(runs[0]) == [row for run in runs[1:] for row in validations(run)]
        assert any("eval/best_mean_score" in row for row in rows(runs[4]))


def test_the_command_says_what_is_not_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["train", "--env", "Pendulum-v1", "--eval-freq", "-1", "--seed", "1", "-params", "n_steps:16", "n_envs:2"]
    command += ["batch_size:16", "n_epochs:1"]
    content = small_agent(pendulum)
    (tmp_path / "snapshot.zip").write_bytes(content)
    main([*command, "-n", "64", "-i", "snapshot.zip"])
    printed = capsys.readouterr().out
    assert "Resuming at step 32 of 64" in printed
    # The agent above saw unscaled rewards, which the packaged hyperparameters scale.
    assert "The resume is not exact: environment 0 did not return to its state" in printed
    main([*command, "-n", "96", "-i", "logs/beta_ppo/Pendulum-v1_1/Pendulum-v1.zip"])
    assert "The training goes on exactly" in capsys.readouterr().out
    BetaPPO.load("snapshot.zip").save("plain.zip")
    main([*command, "-n", "64", "-i", "plain.zip"])
    assert "plain.zip does not hold the state of its training" in capsys.readouterr().out
