"""What SharedMemoryVecEnv does when something breaks, and what it leaves behind."""

import gc
import multiprocessing as mp
import os
import signal
import threading
import time
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv
from toys import Toy, alive, assert_gone, assert_same_trajectories, opened, toys

from sb3_carracing.vec_env import SharedMemoryVecEnv, WorkerError, worker_handle


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
        assert time.monotonic() - start < worker_handle.CLOSE_TIME


def test_a_worker_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_handle, "CLOSE_TIME", 0.3)
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
