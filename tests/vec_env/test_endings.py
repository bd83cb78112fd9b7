"""What SharedMemoryVecEnv does when something breaks, and what it leaves behind."""

import gc
import multiprocessing as mp
import os
import re
import signal
import subprocess
import sys
import threading
import time
import weakref
from functools import partial
from multiprocessing import util
from pathlib import Path
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


class Troublesome(Toy):
    """Does what goes wrong in the second step, or when it is closed."""

    def __init__(self, trouble: str, path: Path | None = None) -> None:
        super().__init__()
        self.trouble = trouble
        self.path = path

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.n_steps == 1:
            self.make_trouble()
        return super().step(action)[0], 0.0, False, False, {}

    def make_trouble(self) -> None:
        if self.trouble == "hang":
            time.sleep(1000.0)
        elif self.trouble == "pause":
            time.sleep(0.6)
        elif self.trouble == "busy":
            while True:
                pass
        elif self.trouble == "exit":
            sys.exit("I have had enough")
        elif self.trouble.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, self.trouble))

    def close(self) -> None:
        if self.trouble == "close":
            raise OSError("cannot close")
        if self.path is not None:
            self.path.write_text("closed")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Announce silent workers after 0.2 s."""
    monkeypatch.setattr(worker_handle, "LOOK_INTERVAL", 0.1)
    monkeypatch.setattr(worker_handle, "ANNOUNCED_AFTER", 0.2)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("trouble", ["hang", "busy", "SIGSTOP"])
def test_a_hung_worker_is_announced_and_killed_after_the_time_limit(trouble: str, capfd: pytest.CaptureFixture[str]) -> None:
    env_fns = [*toys(2), lambda: Troublesome(trouble), Toy]
    with opened(env_fns, n_workers=2, step_timeout=1.0) as env:
        env.reset()
        env.step(np.zeros((4, 2)))
        who = r"worker 1 of 2 \(pid \d+, environments 2 to 3\) has not answered `step` for"
        start = time.monotonic()
        with (
            pytest.warns(UserWarning, match=rf"{who} 0.2 s; step_timeout stops it after 1 s"),
            pytest.raises(WorkerError, match=rf"{who} 1 s \(step_timeout\) and was killed"),
        ):
            env.step(np.zeros((4, 2)))
        assert 1.0 <= time.monotonic() - start < 10.0
        assert env.closed
        assert_gone([process.pid for process in env.processes])
    if trouble != "SIGSTOP":
        assert "in make_trouble" in capfd.readouterr().err


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("step_timeout", [30.0, None])
def test_a_slow_worker_is_announced_and_waited_for(step_timeout: float | None) -> None:
    with opened([lambda: Troublesome("pause")], step_timeout=step_timeout) as env:
        env.reset()
        env.step(np.zeros((1, 2)))
        with pytest.warns(UserWarning, match="has not answered `step` for 0.2 s") as warned:
            env.step(np.zeros((1, 2)))
        assert len(warned) == 1
        assert ("step_timeout" in str(warned[0].message)) is (step_timeout is not None)
        env.step(np.zeros((1, 2)))


def test_a_method_that_hangs_is_named() -> None:
    hung = pytest.raises(WorkerError, match=r"\(pid \d+, environment 0\) has not answered `call` for 0.5 s")
    with opened([lambda: Toy(slow=1000.0)], step_timeout=0.5) as env, hung:
        env.env_method("step", np.zeros(2))


@pytest.mark.slow
def test_time_in_which_all_processes_are_suspended_does_not_count() -> None:
    report, theirs = mp.get_context("fork").Pipe()
    parent = mp.get_context("fork").Process(target=be_suspended, args=(theirs,))
    parent.start()
    pids = [parent.pid, *report.recv()]
    time.sleep(0.5)
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in pids:
            os.kill(pid, number)
        time.sleep(6.0)
    assert report.recv() == "stepped"
    parent.join()


def be_suspended(report: Any) -> None:
    env = SharedMemoryVecEnv([lambda: Toy(slow=2.0)], step_timeout=5.0)
    env.reset()
    report.send([process.pid for process in env.processes])
    env.step(np.zeros((1, 2)))
    report.send("stepped")
    env.close()


@pytest.mark.parametrize("trouble", ["SIGSEGV", "SIGTERM", "SIGRTMIN+1"])
def test_a_signal_is_named(trouble: str, capfd: pytest.CaptureFixture[str]) -> None:
    with opened([lambda: Troublesome("none")] if "+" in trouble else [lambda: Troublesome(trouble)]) as env:
        env.reset()
        env.step(np.zeros((1, 2)))
        if "+" in trouble:
            assert env.processes[0].pid is not None
            os.kill(env.processes[0].pid, signal.SIGRTMIN + 1)
        said = f"signal {signal.SIGRTMIN + 1}" if "+" in trouble else trouble
        with pytest.raises(WorkerError, match=rf"worker 0 of 1 \(pid \d+, environment 0\) died: killed by {said}$"):
            env.step(np.zeros((1, 2)))
    if trouble == "SIGSEGV":
        assert "in make_trouble" in capfd.readouterr().err


def test_an_environment_that_exits_is_told_with_its_traceback() -> None:
    with opened([Toy, lambda: Troublesome("exit")], n_workers=1) as env:
        env.reset()
        env.step(np.zeros((2, 2)))
        with pytest.raises(WorkerError, match=r"(?s)Environment 1 .*in make_trouble.*SystemExit: I have had enough"):
            env.step(np.zeros((2, 2)))


class FailingSecondReset(Toy):
    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        if getattr(self, "n_steps", 0):
            raise LookupError("no second track")
        return super().reset(**kwargs)


def step_often(env: SharedMemoryVecEnv) -> None:
    for _ in range(100):
        env.step(np.zeros((2, 2)))


def test_a_reset_that_fails_within_a_step_is_told() -> None:
    with opened([Toy, FailingSecondReset]) as env:
        env.seed(0)
        env.reset()
        with pytest.raises(WorkerError, match=r"(?s)Environment 1 .*LookupError: no second track"):
            step_often(env)


def test_an_environment_that_cannot_close_keeps_no_other_from_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "closed"
    with opened([lambda: Troublesome("close"), lambda: Troublesome("none", path)], n_workers=1) as env:
        env.reset()
        env.close()
        assert path.exists()
        assert env.processes[0].exitcode == 0
    assert "OSError: cannot close" in capfd.readouterr().err


def be_a_child(report: Any) -> None:
    gc.collect()
    report.send("done")


def test_a_forked_child_leaves_the_workers_alone() -> None:
    with opened(toys(2)) as env:
        env.reset()
        ours, theirs = mp.get_context("fork").Pipe()
        child = mp.get_context("fork").Process(target=be_a_child, args=(theirs,))
        child.start()
        assert ours.recv() == "done"
        child.join()
        env.step(np.zeros((2, 2)))


SCRIPT = """
import sys
import numpy as np
sys.path[:0] = {path!r}
from pathlib import Path
from test_endings import Troublesome
from sb3_carracing.vec_env import SharedMemoryVecEnv
env = SharedMemoryVecEnv([lambda i=i: Troublesome("none", Path({folder!r}) / str(i)) for i in range(3)], n_workers=2)
env.reset()
env.step_async(np.zeros((3, 2)))
{last}
"""


@pytest.mark.slow
@pytest.mark.parametrize("last", ["", "raise RuntimeError('from the script')", "sys.exit(5)"], ids=["end", "raise", "exit"])
def test_a_script_that_forgets_to_close_closes_the_environments(last: str, tmp_path: Path) -> None:
    script = SCRIPT.format(path=sys.path, folder=str(tmp_path), last=last)
    run = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, timeout=60)
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1", "2"}
    assert run.returncode == {"": 0, "r": 1, "s": 5}[last[:1]]
    assert ("from the script" in run.stderr) is (last[:1] == "r")
    assert run.stderr.count("Traceback") == (last[:1] == "r")


def be_a_troubled_parent(report: Any, trouble: str, folder: Path) -> None:
    """Wait for a step that does not end, while another child holds copies of all pipes."""
    env = SharedMemoryVecEnv([lambda: Troublesome(trouble, folder / "0"), lambda: Troublesome("none", folder / "1")])
    env.reset()
    env.step(np.zeros((2, 2)))
    bystander = mp.get_context("fork").Process(target=time.sleep, args=(1000.0,))
    bystander.start()
    env.step_async(np.zeros((2, 2)))
    report.send((bystander.pid, [process.pid for process in env.processes]))
    time.sleep(1000.0)


@pytest.mark.parametrize("trouble", ["none", "hang", "busy", "SIGSTOP"])
def test_no_worker_outlives_a_parent_that_is_killed(trouble: str, tmp_path: Path) -> None:
    context = mp.get_context("fork")
    ours, theirs = context.Pipe()
    parent = context.Process(target=be_a_troubled_parent, args=(theirs, trouble, tmp_path))
    parent.start()
    bystander, pids = ours.recv()
    time.sleep(0.3)
    assert all(alive(pid) for pid in pids)
    parent.kill()
    parent.join()
    try:
        assert_gone(pids)
    finally:
        for pid in (bystander, *filter(alive, pids)):
            os.kill(pid, signal.SIGKILL)
    # The environments that answer are closed in an orderly way.
    assert {path.name for path in tmp_path.iterdir()} >= ({"0", "1"} if trouble == "none" else {"1"})


def mapped_blocks() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:observations")


def test_close_frees_the_shared_memory_while_the_object_is_kept() -> None:
    before = mapped_blocks()
    kept = []
    for how in ("close", "error"):
        env = SharedMemoryVecEnv([*toys(2), partial(Toy, number=100 if how == "error" else 0)])
        env.reset()
        assert mapped_blocks() == before + 1
        if how == "error":
            with pytest.raises(WorkerError):
                env.step(np.zeros((3, 2)))
        env.close()
        kept.append(env)
        assert mapped_blocks() == before
        with pytest.raises(RuntimeError, match="closed"):
            env.step(np.zeros((3, 2)))


def test_opening_and_closing_stays_flat_without_garbage_collection() -> None:
    def held() -> tuple[int, int, int, set[str], int]:
        handles, finalizers = len(os.listdir("/proc/self/fd")), len(util._finalizer_registry)  # type: ignore[attr-defined]
        return handles, finalizers, threading.active_count(), set(os.listdir("/dev/shm")), mapped_blocks()

    gc.collect()
    gc.disable()
    try:
        states = []
        for _ in range(4):
            env = SharedMemoryVecEnv(toys(4), n_workers=2)
            env.reset()
            env.step(np.zeros((4, 2)))
            env.close()
            parts = [weakref.ref(part) for part in (env, *env._workers, *env.processes)]
            del env
            assert [part() for part in parts] == [None] * 5
            states.append(held())
        assert states[1:] == states[:-1]
    finally:
        gc.enable()


def anonymous_memory(pid: int | None) -> int:
    """Return what a process holds [kB], but for mapped files."""
    found = re.search(r"^Anonymous:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


@pytest.mark.slow
def test_memory_of_parent_and_workers_stays_flat() -> None:
    with opened(toys(8), n_workers=2) as env:
        env.reset()
        pids = [os.getpid(), *(process.pid for process in env.processes)]
        memory = []
        for _ in range(3):
            for _ in range(1500):
                env.step(np.zeros((8, 2)))
            env.reset()
            memory.append([anonymous_memory(pid) for pid in pids])
        growth = np.subtract(memory[2], memory[1])
        assert (growth < 200).all(), f"grew by {growth} kB in 1500 steps and 2000 episodes"
