"""`train` on several ranks: the launcher behind `--ranks`, and rl-zoo3's manager as each rank uses it."""

import argparse
import contextlib
import functools
import io
import json
import logging
import os
import secrets
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import rl_zoo3.exp_manager
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv
from torch.cuda import device_count
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from sb3_carracing.checks import whole_number
from sb3_carracing.errors import UserError
from sb3_carracing.files import write_atomically
from sb3_carracing.ppo import distributed
from sb3_carracing.ppo.beta_ppo import BetaPPO
from sb3_carracing.ppo.distributed import LostRankError
from sb3_carracing.signals import ending_the_command
from sb3_carracing.system import n_cores
from sb3_carracing.zoo import restarts
from sb3_carracing.zoo.manager import CarRacingExperimentManager, NothingRemainsError

MOST_RANKS = 16
"""The most ranks that `auto` starts. Beyond, minibatches of the presets' size leave each rank too little to do."""


def without_ranks(argv: list[str]) -> tuple[list[str], int | None, int]:
    """Return the arguments without our `--ranks` and `--max-restarts`, and their values: 1, or None for `auto`; and 0.

    Raises:
        UserError: the value is neither `auto` nor a whole number of at least 1, it is not torchrun's number of ranks, or
            there is an option that is for one process, or for several.
    """
    parser = argparse.ArgumentParser(prog="python -m sb3_carracing train", add_help=False, allow_abbrev=False)
    parser.add_argument("--ranks", default="1")
    parser.add_argument("--max-restarts", default="0")
    given, rest = parser.parse_known_args(argv)
    started = distributed.n_ranks()
    if given.ranks != "auto" and not given.ranks.isdecimal():
        raise UserError(f"--ranks must be auto or a whole number of at least 1, got {given.ranks!r}")
    asked = None if given.ranks == "auto" else whole_number("--ranks", int(given.ranks), 1)
    if started > 1 and asked not in (None, 1, started):
        raise UserError(f"--ranks is {asked}, and torchrun has started {started} ranks: leave out --ranks")
    if "--track" in rest and (asked != 1 or started > 1):
        raise UserError("--track starts a Weights & Biases run in every process: leave out --ranks, or use --tensorboard-log")
    if not given.max_restarts.isdecimal():
        raise UserError(f"--max-restarts must be a whole number of at least 0, got {given.max_restarts!r}")
    if int(given.max_restarts) and asked == started == 1:
        raise UserError("--max-restarts starts ranks again: it goes with --ranks")
    return rest, asked, int(given.max_restarts)


@contextmanager
def silent_unless_first() -> Iterator[None]:
    """Keep every rank but the first from printing and warning."""
    if distributed.n_ranks() == 1 or int(os.environ.get("RANK", "0")) == 0:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class LaunchingManager(CarRacingExperimentManager):
    """Checks the hyperparameters, then starts `ranks` processes that train, and waits for them.

    With one rank it trains by itself.
    """

    save_path: str
    ranks: int | None = None
    """The number of ranks, None for `auto`."""
    launch: Callable[[int], str | None]
    """Trains on so many ranks and returns the run's folder, see `launch`."""

    def setup_experiment(self) -> tuple[BaseAlgorithm | None, dict[str, Any]] | None:  # type: ignore[override]
        """Make environments and model for one rank, or else train on several and return no model."""
        with contextlib.redirect_stdout(io.StringIO()):  # the ranks print it
            hyperparams, _ = self.read_hyperparameters()
        n_envs, batch_size = int(hyperparams.get("n_envs", 1)), int(hyperparams.get("batch_size", 64))
        if self.ranks is None:
            self.ranks = ranks_for(n_envs, batch_size, self.device) if issubclass(ALGOS[self.algo], BetaPPO) else 1
        check_algo(self.algo, self.ranks)
        if self.ranks == 1:
            return super().setup_experiment()
        distributed.check_shares("n_envs", n_envs, self.ranks)
        distributed.check_shares("batch_size", batch_size, self.ranks)
        distributed.timeout()
        print(f"Training on {self.ranks} ranks", flush=True)
        self.work_begins()
        run = self.launch(self.ranks)
        self.interrupted = run is None
        self.save_path = run or self.save_path
        return None, {}


class RankManager(CarRacingExperimentManager):
    """The manager of one of several ranks: it makes this rank's share of the environments, and only rank 0 writes.

    If the launcher has started the ranks again, they go on from the newest agent of the same job, as with `-i`.
    """

    seed: int
    log_path: str
    save_path: str
    params_path: str
    trained_agent: str
    continue_training: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_algo(self.algo, distributed.n_ranks())
        self._group = distributed.join()
        self.seed = self.args.seed = self._group.same(self.seed)
        if self._group.rank > 0:
            self.verbose, self.show_progress, self.tensorboard_log = 0, False, None
            self.save_freq = self.eval_freq = 0
        self._job = restarts.launchers(self._group)
        self._is_restarted = self._find_agent_of_job()

    def _find_agent_of_job(self) -> bool:
        """Resume the newest agent of this job, if an earlier start of its ranks has left one."""
        folders = Path(self.log_path).glob(f"{self.env_name}_*/{self.env_name}")
        agent = self._group.same(restarts.agent_of_job(folders, self._job) if self._group.rank == 0 else None)
        if agent is not None:
            self.trained_agent = self.args.trained_agent = str(agent)
            self.continue_training = True
            print(f"{restarts.restart() or 'The ranks were started again'}: the training goes on from {agent}", flush=True)
        elif restarts.restart():
            print(f"{restarts.restart()}: there is no checkpoint yet, so the training starts anew", flush=True)
        return agent is not None

    def setup_experiment(self) -> tuple[BaseAlgorithm | None, dict[str, Any]] | None:  # type: ignore[override]
        """Make this rank's environments and model; no model if the job had completed the training before it failed."""
        try:
            return super().setup_experiment()
        except NothingRemainsError:
            if not self._is_restarted:
                raise
            self.save_path = str(Path(self.trained_agent).parent)
            print("The training was complete")
            return None, {}

    def create_log_folder(self) -> None:
        """Let rank 0 make the run's folder, and use it on all ranks."""
        if self._group.rank == 0:
            super().create_log_folder()
            write_atomically(Path(self.params_path, restarts.RECORD), json.dumps({"launchers": self._job}))
        self.save_path, self.params_path = self._group.same((self.save_path, self.params_path))

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """Create this rank's share of the training environments, or all of an evaluation's."""
        if eval_env:
            return super().create_envs(n_envs, eval_env, no_log)
        share = distributed.share(n_envs)
        make_share = functools.partial(make_vec_env, start_index=share.start)  # of the monitor files
        with patch.object(rl_zoo3.exp_manager, "make_vec_env", make_share):
            return super().create_envs(len(share), eval_env, no_log)

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        if self._group.rank == 0:
            super()._save_config(saved_hyperparams)


def check_algo(algo: str, ranks: int) -> None:
    """Raise a UserError unless the algorithm can train on that many ranks."""
    if ranks > 1 and not issubclass(ALGOS[algo], BetaPPO):
        raise UserError(f"{algo} trains in one process: --ranks {ranks} and torchrun are for beta_ppo")


def ranks_for(n_envs: int, batch_size: int, device: str) -> int:
    """Return the number of ranks that `auto` means: one per GPU if there are any, else one per usable core.

    It divides the environments and the minibatch equally, and is at most `MOST_RANKS`.
    """
    n_devices = device_count() if device != "cpu" else 0
    most = min(n_devices or n_cores(), MOST_RANKS)
    return max(size for size in range(1, most + 1) if n_envs % size == 0 and batch_size % size == 0)


def launch(train: Callable[[list[str]], Path | None], argv: Sequence[str], max_restarts: int, ranks: int) -> str | None:
    """Train on several processes of this machine, started by torch's elastic launcher.

    Args:
        train: the command, which each rank calls.
        argv: its arguments.
        max_restarts: how often the processes are started again when one fails.
        ranks: the number of processes.

    Returns:
        The run's folder, None if a signal ended the training of the ranks alone.

    Raises:
        UserError: a rank raised it.
        SystemExit: a rank failed, with status 1; its traceback is on stderr. Or a signal ended the launcher, with status
            128 + its number.
    """
    config = LaunchConfig(
        *(1, 1, ranks),
        run_id=f"sb3_carracing_{secrets.token_hex(8)}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=max_restarts,
    )
    try:
        with _surroundings(ranks):
            answers: dict[int, str | None] = elastic_launch(config, _work)(train, [*argv], sys.orig_argv)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise _failure(rank, failure.exitcode, failure.message) from None
    except SignalException as error:
        raise SystemExit(128 + error.sigval) from None
    return answers[0]


@contextmanager
def _surroundings(ranks: int) -> Iterator[None]:
    """Set what the ranks inherit, and put back what torch's launcher changes in this process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)}
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed.elastic", "torch.multiprocessing")):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # the launcher's own view of a failure
    inherited = {"OMP_NUM_THREADS": str(max(1, n_cores() // ranks))}
    if sys.platform == "linux":
        inherited["GLOO_SOCKET_IFNAME"] = "lo"  # the host's name need not have an address
    with patch.dict(os.environ, inherited | os.environ):
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _work(train: Callable[[list[str]], Path | None], argv: list[str], command: list[str]) -> str | None:
    """Train as one rank, and return the run's folder."""
    os.setpgrp()  # Ctrl-C reaches the launcher, which passes it on once
    sys.orig_argv[:] = command  # what is written into the run's folder
    with ending_the_command():
        try:
            run = train(argv)
        except LostRankError:
            raise
        except Exception:
            if os.environ["TORCHELASTIC_RESTART_COUNT"] != os.environ["TORCHELASTIC_MAX_RESTARTS"]:
                traceback.print_exc()  # the launcher shows the last failure only
            raise
    return str(run) if run is not None else None


def _failure(rank: int, exit_code: int, message: str | dict[str, Any]) -> Exception | SystemExit:
    """Return the exception for a rank that failed, after its traceback is printed."""
    text, trace = message if isinstance(message, str) else message["message"], ""
    if isinstance(message, dict):
        trace = message.get("extraInfo", {}).get("py_callstack", "")
    name, _, sentence = str(text).partition(": ")
    if name == UserError.__name__:
        return UserError(sentence)
    if trace:
        print(trace, file=sys.stderr)
    ending = f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with status {exit_code}"
    print(f"sb3_carracing: rank {rank} {ending}, which ended the training", file=sys.stderr)
    return SystemExit(1)
