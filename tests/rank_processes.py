"""Run a function on several ranks: forked processes with a gloo group, without a launcher's start-up time."""

import multiprocessing as mp
import os
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch as th
import torch.distributed as dist


def on_ranks(size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Call `function(*args)` on every rank and return what each returned, in their order.

    Raises:
        AssertionError: a rank raised. The message holds its traceback.
    """
    with tempfile.TemporaryDirectory() as folder:
        connections = []
        for rank in range(size):
            ours, theirs = mp.Pipe(duplex=False)
            process = mp.get_context("fork").Process(
                target=_work, args=(Path(folder, "store"), rank, size, theirs, function, args)
            )
            process.start()
            theirs.close()
            connections.append((process, ours))
        answers = []
        for _, connection in connections:
            try:
                answers.append(connection.recv() if connection.poll(120) else (False, "it did not answer"))
            except EOFError:
                answers.append((False, "it died"))
        for process, _ in connections:
            process.join(20)
            process.kill()
    for rank, (succeeded, answer) in enumerate(answers):
        assert succeeded, f"rank {rank}: {answer}"
    return [answer for _, answer in answers]


def _work(store: Path, rank: int, size: int, connection: Connection, function: Callable[..., Any], args: Any) -> None:
    th.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
        connection.send((True, function(*args)))
        dist.barrier()  # the others may still need this rank
    except BaseException:
        connection.send((False, traceback.format_exc()))
    finally:
        connection.close()
        os._exit(0)  # not pytest's exit handlers
