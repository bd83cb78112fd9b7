"""SharedMemoryVecEnv against SB3's DummyVecEnv and SubprocVecEnv."""

import copy
import gc
import os
import pickle
import select
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize
from toys import SPACES, Rescaling, SameArray, Toy, assert_same, assert_same_trajectories, opened, toys

import sb3_carracing.envs.vec_env as old_module
from sb3_carracing.errors import UserError
from sb3_carracing.vec_env import SharedMemoryVecEnv, WorkerError, process_vec_env_class


@pytest.mark.parametrize("space", SPACES)
def test_shows_what_dummy_vec_env_shows(space: str) -> None:
    with opened(toys(5, space), n_workers=2) as env:
        assert assert_same_trajectories(DummyVecEnv(toys(5, space)), env, 60) > 20


@pytest.mark.parametrize(("n_envs", "n_workers"), [(1, 1), (4, 4), (7, 3)])
def test_any_division_among_workers(n_envs: int, n_workers: int) -> None:
    with opened(toys(n_envs), n_workers=n_workers) as env:
        assert len(env.processes) == n_workers
        assert env.get_attr("number") == list(range(n_envs))
        assert_same_trajectories(DummyVecEnv(toys(n_envs)), env, 20)


def test_default_is_a_worker_a_core() -> None:
    with opened(toys(64)) as env:
        assert len(env.processes) == min(64, len(os.sched_getaffinity(0)))
    with opened(toys(1)) as env:
        assert len(env.processes) == 1


def test_made_by_make_vec_env_with_monitor_inside() -> None:
    shared, dummy = (
        make_vec_env("Pendulum-v1", 3, seed=1, vec_env_cls=cls)  # type: ignore[arg-type]
        for cls in (SharedMemoryVecEnv, DummyVecEnv)
    )
    try:
        assert_same_trajectories(dummy, shared, 205)
        assert shared.env_is_wrapped(Monitor) == [True] * 3
        assert shared.get_attr("total_steps") == [205] * 3
    finally:
        shared.close()


def test_plays_car_racing() -> None:
    def racing() -> gym.Env[Any, Any]:
        return gym.make("CarRacing-v3", max_episode_steps=4)

    with opened([racing] * 2) as env:
        assert assert_same_trajectories(DummyVecEnv([racing] * 2), env, 6) == 2


def test_trains_an_agent_and_reports_episodes() -> None:
    env = make_vec_env(
        lambda: Toy("float64"),
        4,
        vec_env_cls=SharedMemoryVecEnv,  # type: ignore[arg-type]
        vec_env_kwargs={"start_method": "fork", "n_workers": 2},
    )
    model = PPO("MlpPolicy", VecNormalize(env), n_steps=32, batch_size=32, n_epochs=1, device="cpu").learn(256)
    env.close()
    assert model.ep_info_buffer
    assert {"r", "l", "t"} <= model.ep_info_buffer[0].keys()


def test_arrays_are_the_callers_own() -> None:
    with opened(toys(3)) as env:
        kept: list[Any] = [env.reset()]
        copies = [kept[0].copy()]
        observations: Any
        for _ in range(5):
            observations, rewards, dones, _ = env.step(np.zeros((3, 2)))
            kept += [observations, rewards, dones]
            copies += [observations.copy(), rewards.copy(), dones.copy()]
        rewards += 1.0  # SB3 adds the value of a truncated episode's last state
    for array, duplicate in zip(kept[:-2], copies[:-2], strict=True):
        np.testing.assert_array_equal(array, duplicate)


def test_terminal_observation_outlives_a_reset_that_reuses_its_array() -> None:
    with opened([SameArray]) as env:
        env.reset()
        for _ in range(3):
            observations, _, dones, infos = env.step(np.zeros((1, 2)))
        assert dones.all()
        assert infos[0]["TimeLimit.truncated"] is True
        assert (infos[0]["terminal_observation"] == 3).all()
        assert isinstance(observations, np.ndarray)
        assert (observations == 0).all()


def test_options_and_seeds_are_used_once() -> None:
    shared, dummy = SharedMemoryVecEnv(toys(3), n_workers=2), DummyVecEnv(toys(3))
    try:
        for env in (shared, dummy):
            env.seed(4)
            env.set_options([{"level": 1}, {}, {"level": 2}])
        for _ in range(3):
            assert_same(shared.reset(), dummy.reset())
            assert_same(shared.reset_infos, dummy.reset_infos)
    finally:
        shared.close()


def test_reset_gives_up_a_pending_step() -> None:
    shared, dummy = SharedMemoryVecEnv(toys(3), n_workers=2), DummyVecEnv(toys(3))
    try:
        for env in (shared, dummy):
            env.seed(4)
            env.reset()
            env.step_async(np.zeros((3, 2)))
            env.seed(5)
        assert_same(shared.reset(), dummy.reset())
        assert_same(shared.step(np.ones((3, 2))), dummy.step(np.ones((3, 2))))
    finally:
        shared.close()


def test_environments_draw_different_numbers_from_numpys_global_generator() -> None:
    with opened(toys(4), n_workers=4) as env:
        assert len(set(env.env_method("draw_globally"))) == 4


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[SharedMemoryVecEnv, SubprocVecEnv]]:
    def rescaled(i: int) -> gym.Env[Any, Any]:
        return Rescaling(Toy("picture", i, "rgb_array"))

    env_fns: list[Callable[[], gym.Env[Any, Any]]] = [partial(rescaled, i) for i in range(5)]
    envs = (SharedMemoryVecEnv(env_fns, n_workers=2), SubprocVecEnv(env_fns, start_method="fork"))
    yield envs
    for env in envs:
        env.close()


INDICES = [None, 3, 0, -1, [4, 0, 2], (1,), [2, 2, 4, 2], range(1, 4), np.array([3, 1]), []]


@pytest.mark.parametrize("indices", INDICES, ids=str)
def test_methods_answer_as_subproc_vec_envs(pair: tuple[SharedMemoryVecEnv, SubprocVecEnv], indices: Any) -> None:
    answers = []
    for env in pair:
        found: list[Any] = [env.get_attr("number", indices), env.env_method("count", indices=indices)]
        found += [env.env_method("count", 2, indices=indices), env.env_method("count", by=3, indices=indices)]
        env.set_attr("scale", 7.0, indices)
        found += [env.get_attr("scale"), env.get_attr("n_calls")]
        env.set_attr("scale", 2.0)
        found += [env.env_is_wrapped(Rescaling, indices), env.env_is_wrapped(Monitor, indices)]
        answers.append(found)
    assert_same(*answers)


def test_attributes_spaces_and_pictures_as_subproc_vec_env(pair: tuple[SharedMemoryVecEnv, SubprocVecEnv]) -> None:
    shared, subproc = pair
    assert_same(list(shared.get_images()), list(subproc.get_images()))
    assert_same(shared.render(), subproc.render())
    for name in ("render_mode", "num_envs", "observation_space", "action_space"):
        assert getattr(shared, name) == getattr(subproc, name)
    for name in ("number", "unpicklable", "nothing"):
        assert shared.has_attr(name) is subproc.has_attr(name)
    with pytest.raises(IndexError):
        shared.get_attr("number", 5)


def test_metadata_and_render_mode_are_those_of_environment_0() -> None:
    for render_mode in (None, "rgb_array"):
        dummy = DummyVecEnv(toys(3, render_mode=render_mode))
        with opened(toys(3, render_mode=render_mode)) as env:
            assert env.metadata == dummy.metadata == {"render_modes": ["rgb_array"], "render_fps": 1}
            assert env.render_mode == dummy.render_mode == render_mode
    with opened([lambda: gym.make("CarRacing-v3")]) as env:
        assert env.metadata["render_fps"] == 50  # type: ignore[comparison-overlap]


def test_warns_where_there_are_no_pictures() -> None:
    with opened(toys(2)) as env, pytest.warns(UserWarning, match="rgb_array"):
        assert env.get_images() == [None, None]


def test_an_exception_of_a_method_arrives_as_itself_and_the_workers_go_on() -> None:
    with opened(toys(4), n_workers=2) as env:
        with pytest.raises(AttributeError) as missing:
            env.get_attr("nothing", [3])
        assert "Environment 3 failed in worker 1 of 2" in missing.value.__notes__[0]
        with pytest.raises(KeyError, match="complaint") as raised:
            env.env_method("complain")
        assert "Environment 0" in raised.value.__notes__[0]
        assert "in complain" in raised.value.__notes__[0]
        with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
            env.get_attr("unpicklable")
        with pytest.raises((pickle.PicklingError, AttributeError)):
            env.set_attr("scale", lambda: None)
        env.reset()
        assert env.get_attr("number") == [0, 1, 2, 3]


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="env_fns must hold at least one"):
        SharedMemoryVecEnv([])
    for wrong in (0, 4, -1, 1.5, True):
        with pytest.raises(ValueError, match=rf"n_workers must be .* from 1 to 3, got {wrong}"):
            SharedMemoryVecEnv(toys(3), n_workers=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"start_method must be one of .*'fork'.*, got 'thread'"):
        SharedMemoryVecEnv(toys(1), start_method="thread")
    for timeout in (0.0, -1.0, float("nan"), "600"):
        with pytest.raises(UserError, match=rf"step_timeout must be .* of at least 0.01, got {timeout!r}"):
            SharedMemoryVecEnv(toys(1), step_timeout=timeout)  # type: ignore[arg-type]
    with opened(toys(3)) as env:
        with pytest.raises(ValueError, match="one per environment, 3, got 2"):
            env.step(np.zeros((2, 2)))
        with pytest.raises(RuntimeError, match="without step_async"):
            env.step_wait()
        env.reset()
        env.step_async(np.zeros((3, 2)))
        with pytest.raises(RuntimeError, match="A step is pending"):
            env.get_attr("number")
        env.step_wait()


class Texts(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Text(5)


class OneKey(Toy):
    def __init__(self, key: str) -> None:
        super().__init__()
        self.observation_space = spaces.Dict({key: spaces.Discrete(3)})


class Misshapen(Toy):
    def observe(self) -> Any:
        return np.zeros((1, 6, 5), np.uint8)  # would broadcast


def test_observations_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"environment 2 has Discrete\(7\), environment 0 has Box"):
        SharedMemoryVecEnv([Toy, Toy, lambda: Toy("discrete")], n_workers=2)
    with pytest.raises(ValueError, match=r"Observations must be of a Box.* got Text"):
        SharedMemoryVecEnv([Texts])
    with pytest.raises(UserError, match="environment 1 has Dict"):
        SharedMemoryVecEnv([partial(OneKey, key) for key in ("a", "b")])
    one = Toy()
    with pytest.raises(WorkerError, match="the same one twice"):
        SharedMemoryVecEnv([lambda: one] * 2, n_workers=1)
    with pytest.raises(WorkerError, match="must return gymnasium environments, got 5"):
        SharedMemoryVecEnv([lambda: 5])  # type: ignore[list-item, return-value]
    with opened([Misshapen]) as env, pytest.raises(WorkerError, match=r"shape \(1, 6, 5\) where its space has \(2, 6, 5\)"):
        env.reset()


def test_a_copy_is_refused_and_leaves_the_original_in_order() -> None:
    with opened(toys(3)) as env:
        for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="SharedMemoryVecEnv cannot be copied or pickled"):
                attempt(env)
        gc.collect()
        env.reset()
        env.step(np.zeros((3, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_other_start_methods(start_method: str) -> None:
    with opened(toys(3, "dict"), n_workers=2, start_method=start_method) as env:
        assert_same_trajectories(DummyVecEnv(toys(3, "dict")), env, 30)
        victim = env.processes[1].pid
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"worker 1 of 2 .* died: killed by SIGKILL"):
            env.step(np.zeros((3, 2)))


@pytest.mark.parametrize("missing", [(select, "poll"), (os, "memfd_create")], ids=["poll", "memfd_create"])
def test_other_systems_are_told_in_one_sentence(missing: tuple[Any, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert process_vec_env_class() is SharedMemoryVecEnv
    monkeypatch.delattr(*missing)
    assert process_vec_env_class() is SubprocVecEnv
    with pytest.raises(UserError, match=r"runs on Linux, not on .*: use SB3's SubprocVecEnv") as raised:
        SharedMemoryVecEnv(toys(1))
    assert "\n" not in str(raised.value)


def test_the_old_path_is_an_alias_for_imports_and_pickles() -> None:
    with pytest.warns(DeprecationWarning, match="moved to sb3_carracing.vec_env"):
        from sb3_carracing.envs.vec_env import SharedMemoryVecEnv as OldName
    assert OldName is SharedMemoryVecEnv
    for name in ("SharedMemoryVecEnv", "WorkerError"):
        with pytest.warns(DeprecationWarning, match="moved"):
            assert pickle.loads(f"csb3_carracing.envs.vec_env\n{name}\n.".encode()).__name__ == name
    with pytest.raises(AttributeError, match="SharedVecEnv"):
        _ = old_module.SharedVecEnv
