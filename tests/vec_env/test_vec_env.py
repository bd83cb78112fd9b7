"""SharedMemoryVecEnv against SB3's DummyVecEnv and SubprocVecEnv, and what it does when something breaks."""

import gc
import multiprocessing as mp
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

import sb3_carracing.vec_env.shared_memory as vec_env_module
from sb3_carracing.vec_env import SharedMemoryVecEnv, WorkerError

SPACES: dict[str, spaces.Space[Any]] = {
    "picture": spaces.Box(0, 255, (2, 6, 5), np.uint8),
    "float64": spaces.Box(-1.0, 1.0, (3,), np.float64),
    "scalar": spaces.Box(-1.0, 1.0, (), np.float32),
    "discrete": spaces.Discrete(7),
    "multi_discrete": spaces.MultiDiscrete([3, 4]),
    "multi_binary": spaces.MultiBinary(4),
    "dict": spaces.Dict({"z": spaces.Box(0, 255, (4, 4, 1), np.uint8), "a": spaces.Discrete(3)}),
    "tuple": spaces.Tuple((spaces.Discrete(3), spaces.Box(-1.0, 1.0, (2,), np.float32))),
}


class Toy(gym.Env[Any, Any]):
    """Random observations, from the seed and the actions; ends by either way; does on demand what goes wrong."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012

    def __init__(self, space: str = "picture", number: int = 0, render_mode: str | None = None, slow: float = 0.0) -> None:
        self.observation_space = SPACES[space]
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.number = number
        self.render_mode = render_mode
        self.slow = slow
        self.unpicklable = lambda: None
        self.n_calls = 0

    def observe(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if options and options.get("raise"):
            raise OSError("no more tracks")
        self.n_steps = 0
        return self.observe(), {"options": options, "start": float(self.np_random.random())}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(self.slow)
        if self.number >= 100:
            self.fail()
        self.n_steps += 1
        chance = self.np_random.random()
        terminated, truncated = bool(chance < 0.1), bool(chance < 0.05 or chance > 0.9)
        return self.observe(), float(np.sum(action) + chance), terminated, truncated, {"action": action, "n": self.n_steps}

    def fail(self) -> None:
        if self.number == 100:
            raise ZeroDivisionError(f"environment with number {self.number}")
        if self.number == 101:
            raise Unpicklable(threading.Lock())
        if self.number == 102:
            os._exit(3)

    def render(self) -> Any:
        return np.full((4, 4, 3), self.number, np.uint8)

    def count(self, by: int = 1) -> tuple[int, int]:
        self.n_calls += by
        return self.number, self.n_calls

    def draw_globally(self) -> float:
        return float(np.random.rand())  # noqa: NPY002

    def complain(self) -> None:
        raise KeyError("complaint")


class Unpicklable(Exception):
    pass


class SameArray(Toy):
    """Writes every observation into one array."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self.array = np.zeros((2, 6, 5), np.uint8)
        return self.array, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.array += 1
        return self.array, 0.0, False, bool(self.array[0, 0, 0] == 3), {}


class Rescaling(gym.Wrapper[Any, Any, Any, Any]):
    scale = 2.0


def toys(n_envs: int, space: str = "picture", render_mode: str | None = None) -> list[Callable[[], gym.Env[Any, Any]]]:
    return [lambda i=i: Toy(space, i, render_mode) for i in range(n_envs)]


@contextmanager
def opened(env_fns: list[Callable[[], gym.Env[Any, Any]]], **kwargs: Any) -> Iterator[SharedMemoryVecEnv]:
    env = SharedMemoryVecEnv(env_fns, **kwargs)
    try:
        yield env
    finally:
        env.close()
        assert_gone([process.pid for process in env.processes])


def alive(pid: int | None) -> bool:
    """Whether the process exists and is no zombie that merely nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def assert_gone(pids: list[int | None], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while remaining := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < deadline, f"processes {remaining} are still there"
        time.sleep(0.02)


def assert_same(first: Any, second: Any) -> None:
    """Equal in type, dtype, shape and value, all the way down."""
    assert type(first) is type(second) or (isinstance(first, dict) and isinstance(second, dict))  # SB3 has both kinds
    if isinstance(first, np.ndarray):
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first.keys() - {"t"}:  # Monitor's wall clock
            assert_same(first[key], second[key])
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert_same(a, b)
    else:
        assert first == second


def assert_same_trajectories(first: VecEnv, second: VecEnv, n_steps: int) -> int:
    """Play the same in both and return how many episodes have ended."""
    first.action_space.seed(5)
    for env in (first, second):
        env.seed(11)
    assert_same(first.reset(), second.reset())
    assert_same(list(first.reset_infos), list(second.reset_infos))
    n_ended = 0
    for _ in range(n_steps):
        actions = np.stack([first.action_space.sample() for _ in range(first.num_envs)])
        results = [env.step(actions) for env in (first, second)]
        assert_same(*results)
        assert_same(list(first.reset_infos), list(second.reset_infos))
        n_ended += int(results[0][2].sum())
    return n_ended


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
        lambda: Toy("float64"),  # type: ignore[arg-type, return-value]
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
        kept = [env.reset()]
        copies = [kept[0].copy()]
        for _ in range(5):
            observations, rewards, dones, _ = env.step(np.zeros((3, 2)))
            kept += [observations, rewards, dones]
            copies += [observations.copy(), rewards.copy(), dones.copy()]
        rewards += 1.0  # SB3 adds the value of a truncated episode's last state
    for array, copy in zip(kept[:-2], copies[:-2], strict=True):
        np.testing.assert_array_equal(array, copy)


def test_terminal_observation_outlives_a_reset_that_reuses_its_array() -> None:
    with opened([SameArray]) as env:
        env.reset()
        for _ in range(3):
            observations, _, dones, infos = env.step(np.zeros((1, 2)))
        assert dones.all()
        assert infos[0]["TimeLimit.truncated"] is True
        assert (infos[0]["terminal_observation"] == 3).all()
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
    env_fns = [lambda i=i: Rescaling(Toy("picture", i, "rgb_array")) for i in range(5)]
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
    for name in ("render_mode", "metadata", "num_envs", "observation_space", "action_space"):
        assert getattr(shared, name) == getattr(subproc, name)
    for name in ("number", "unpicklable", "nothing"):
        assert shared.has_attr(name) is subproc.has_attr(name)
    with pytest.raises(IndexError):
        shared.get_attr("number", 5)


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


@pytest.mark.parametrize(
    ("number", "said", "cause"),
    [
        (100, "ZeroDivisionError: environment with number 100", ZeroDivisionError),
        (101, "Unpicklable", type(None)),
        (102, "exit status 3", EOFError),
    ],
)
def test_a_failing_step_names_worker_and_environment(number: int, said: str, cause: type) -> None:
    env_fns = [*toys(4), lambda: Toy(number=number)]
    with opened(env_fns, n_workers=2) as env:
        env.reset()
        with pytest.raises(WorkerError, match=r"worker 1 of 2 \(pid \d+, environments 2 to 4\)") as raised:
            env.step(np.zeros((5, 2)))
        assert said in str(raised.value)
        assert isinstance(raised.value.__cause__, cause)
        if number != 102:
            assert "Environment 4 failed" in str(raised.value)
            assert "in fail" in str(raised.value)
        assert env.closed
        assert_gone([process.pid for process in env.processes])
        with pytest.raises(RuntimeError, match="closed"):
            env.step(np.zeros((5, 2)))


def test_a_failing_reset_and_a_failing_constructor_are_told() -> None:
    with opened(toys(3), n_workers=3) as env:
        env.set_options([{}, {"raise": True}, {}])
        with pytest.raises(WorkerError, match=r"(?s)Environment 1 .*worker 1 of 3 .*OSError: no more tracks"):
            env.reset()
    with pytest.raises(WorkerError, match=r"(?s)Environment 1 .*KeyError: 'unheard of'") as raised:
        SharedMemoryVecEnv([Toy, lambda: Toy("unheard of")])
    assert isinstance(raised.value.__cause__, KeyError)


@pytest.mark.parametrize("moment", ["before", "during"])
def test_a_killed_worker_is_named_and_leaves_nobody(moment: str) -> None:
    with opened([lambda: Toy(slow=0.5)] * 4, n_workers=2) as env:
        env.reset()
        victim = env.processes[0].pid
        assert victim is not None
        if moment == "before":
            os.kill(victim, signal.SIGKILL)
            env.processes[0].join()
        else:
            threading.Timer(0.2, os.kill, (victim, signal.SIGKILL)).start()
        with pytest.raises(WorkerError, match=rf"worker 0 of 2 \(pid {victim}, environments 0 to 1\) died: killed by SIGKILL"):
            env.step(np.zeros((4, 2)))
        assert_gone([process.pid for process in env.processes])


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="env_fns must hold at least one"):
        SharedMemoryVecEnv([])
    for wrong in (0, 4, -1, 1.5, True):
        with pytest.raises(ValueError, match=rf"n_workers must be .* from 1 to .* 3, got {wrong}"):
            SharedMemoryVecEnv(toys(3), n_workers=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"start_method must be one of .*'fork'.*, got 'thread'"):
        SharedMemoryVecEnv(toys(1), start_method="thread")
    with opened(toys(3)) as env:
        with pytest.raises(ValueError, match="one an environment, 3, got 2"):
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


class Misshapen(Toy):
    def observe(self) -> Any:
        return np.zeros((1, 6, 5), np.uint8)  # would broadcast


def test_observations_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"environment 2 has Discrete\(7\), environment 0 has Box"):
        SharedMemoryVecEnv([Toy, Toy, lambda: Toy("discrete")], n_workers=2)
    with pytest.raises(ValueError, match=r"Observations must be of a Box.* got Text"):
        SharedMemoryVecEnv([Texts])
    one = Toy()
    with pytest.raises(WorkerError, match="the same one twice"):
        SharedMemoryVecEnv([lambda: one] * 2, n_workers=1)
    with pytest.raises(WorkerError, match="must return gymnasium environments, got 5"):
        SharedMemoryVecEnv([lambda: 5])  # type: ignore[arg-type, return-value]
    with opened([Misshapen]) as env, pytest.raises(WorkerError, match=r"shape \(1, 6, 5\) where its space has \(2, 6, 5\)"):
        env.reset()


def test_closing_twice_and_leaving_nothing_behind() -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd")), set(os.listdir("/dev/shm"))
    for pending in (False, True):
        env = SharedMemoryVecEnv(toys(4), n_workers=2)
        pids = [process.pid for process in env.processes]
        env.reset()
        if pending:
            env.step_async(np.zeros((4, 2)))
        env.close()
        env.close()
        assert env.closed
        assert_gone(pids)
        with pytest.raises(RuntimeError, match="closed"):
            env.reset()
        del env
    gc.collect()
    assert (len(os.listdir("/proc/self/fd")), set(os.listdir("/dev/shm"))) == before


def test_closing_reads_what_a_worker_is_still_writing() -> None:
    with opened([lambda: gym.make("CarRacing-v3", max_episode_steps=1)] * 3, n_workers=1) as env:
        env.reset()
        env.step_async(np.zeros((3, 3), np.float32))  # three terminal observations are more than a pipe holds
        start = time.monotonic()
        env.close()
        assert time.monotonic() - start < vec_env_module._CLOSE_SECONDS


def test_a_worker_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vec_env_module, "_CLOSE_SECONDS", 0.3)
    with opened([lambda: Toy(slow=1000.0)] * 2, n_workers=2) as env:
        env.reset()
        env.step_async(np.zeros((2, 2)))
        time.sleep(0.1)


def test_forgetting_to_close_closes() -> None:
    env = SharedMemoryVecEnv(toys(2))
    pids = [process.pid for process in env.processes]
    del env
    gc.collect()
    assert_gone(pids)


def test_ctrl_c_reaches_the_parent_alone_and_leaves_it_in_order() -> None:
    shared, dummy = SharedMemoryVecEnv([lambda: Toy(slow=0.3)] * 4, n_workers=2), DummyVecEnv([Toy] * 4)
    try:
        shared.reset()
        for process in shared.processes:  # a terminal sends it to all of them
            assert process.pid is not None
            os.kill(process.pid, signal.SIGINT)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            shared.step(np.zeros((4, 2)))
        # Whoever goes on asking gets the answers to the new questions.
        assert shared.get_attr("slow") == [0.3] * 4
        shared.set_attr("slow", 0.0)
        assert_same_trajectories(dummy, shared, 10)
    finally:
        shared.close()


def test_closing_after_ctrl_c_in_a_step() -> None:
    with opened([lambda: Toy(slow=0.3)] * 4, n_workers=2) as env:
        env.reset()
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            env.step(np.zeros((4, 2)))


def be_a_parent(report: Any) -> None:
    """Open two of them, as training and evaluation do, and wait to be killed."""
    envs = [SharedMemoryVecEnv(toys(4), n_workers=2) for _ in range(2)]
    for env in envs:
        env.reset()
    envs[0].step_async(np.zeros((4, 2)))
    report.send([process.pid for env in envs for process in env.processes])
    time.sleep(1000.0)


def test_workers_end_with_a_parent_that_is_killed() -> None:
    context = mp.get_context("fork")
    ours, theirs = context.Pipe()
    parent = context.Process(target=be_a_parent, args=(theirs,))
    parent.start()
    pids = ours.recv()
    assert len(pids) == 4
    assert all(alive(pid) for pid in pids)
    parent.kill()
    parent.join()
    assert_gone(pids)


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
