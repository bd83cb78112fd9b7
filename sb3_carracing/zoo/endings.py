"""How a training of the command line ends: what is saved at a signal, an error or a full disk, and how to go on from it."""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_carracing.callbacks.checkpoint import agent_bytes, state_bytes, statistics_bytes
from sb3_carracing.files import next_free, tolerating_full_disk, write_atomically
from sb3_carracing.ppo import distributed
from sb3_carracing.ppo.distributed import LostRankError
from sb3_carracing.resume import is_collecting
from sb3_carracing.runs import BEST_AGENT, BEST_STATISTICS
from sb3_carracing.signals import Stopped, check_signals, has_come, postpone, say, undisturbed
from sb3_carracing.zoo.summary import command, without_options

PAUSE = 20
"""Where updates follow each other quickly, the state is kept after this many times the time that keeping takes."""


@dataclass(frozen=True)
class Kept:
    """The state of a training after an update.

    Attributes:
        agent: the bytes of an agent's zip file.
        statistics: the bytes of a file with its running means; None without VecNormalize.
        steps: of the training.
    """

    agent: bytes
    statistics: bytes | None
    steps: int


class Keeper(BaseCallback):
    """Keep the state after the last finished update in memory, and stop the training at a signal.

    Off-policy algorithms and small rollouts update every few milliseconds, and keeping each state would slow them down. There
    some states are skipped, and a signal waits for the next update. Of several ranks, the first one keeps the state, and the
    others wait when it does: a rank that ended earlier would end the first one in the middle of a rollout.

    Args:
        begin: called at the start of every rollout, right before the first step of it.
    """

    every_rank = True

    def __init__(self, begin: Callable[[], None]) -> None:
        super().__init__()
        self._group = distributed.current()
        self.kept: Kept | None = None
        self._begin = begin
        self._not_before = 0.0
        self._skipped = False

    def _on_rollout_start(self) -> None:
        self._begin()
        start = time.monotonic()
        reports = self._group.gather((start < self._not_before, has_come()))
        skips = reports[0][0]
        if not skips or any(come for _, come in reports):
            self._keep()
            self._not_before = start + PAUSE * (time.monotonic() - start)
        check_signals()
        self._skipped = skips
        postpone(skips)

    def _on_step(self) -> bool:
        if not self._skipped:
            check_signals()
        return True

    def _on_training_end(self) -> None:
        self._keep()
        postpone(False)

    def _keep(self) -> None:
        if self._group.rank > 0:
            return
        # A callback may end the training in the middle of a rollout.
        agent = agent_bytes(self.model) if is_collecting(self.model) else state_bytes(self.model)
        self.kept = Kept(agent, statistics_bytes(self.model), self.model.num_timesteps)


@dataclass(frozen=True)
class RunFiles:
    """Where a run's agent goes.

    Attributes:
        run: the run's folder.
        agent: the file of the last agent.
        statistics: the file of its running means.
        log_folder: the folder that the user has asked for.
        argv: arguments of `train`.
        commands: lines that say what to do with the agent, printed at the end.
    """

    run: Path
    agent: Path
    statistics: Path
    log_folder: Path
    argv: Sequence[str]
    commands: Sequence[str] = ()

    def save(self, kept: Kept) -> Path:
        """Write the run's last agent, or keep it elsewhere if that fails.

        Returns:
            The agent's file.

        Raises:
            OSError: it cannot be written anywhere.
        """
        with tolerating_full_disk():
            if kept.statistics is not None:
                write_atomically(self.statistics, kept.statistics)
        elsewhere = "_".join((self.run.parent.name, self.run.name)) + ".zip"
        failed: OSError | None = None
        for file in (self.agent, *(next_free(Path(folder, elsewhere)) for folder in (self.log_folder, tempfile.gettempdir()))):
            try:
                write_atomically(file, kept.agent)
            except OSError as error:
                failed = failed or error
                continue
            if failed is not None:
                say(f"{failed}: the agent is kept as {file} instead")
            return file
        assert failed is not None
        raise failed

    def end(self, kept: Kept | None, error: BaseException) -> Path | None:
        """Save what is kept of a training that a signal or an error has ended, and say how to go on.

        A signal's sentence is printed. An error gets it as a note, which stands below its traceback.

        Returns:
            The agent's file; None if nothing is kept, since the training has not begun.
        """
        if kept is None:
            return None
        file = self.save(kept)
        source = self.run if file == self.agent else file
        cause = f"Stopped by {error}: the" if isinstance(error, Stopped) else "The"
        sentence = (
            f"{cause} agent after {kept.steps} steps is saved as {file}; resume with: "
            f"{command('train', *without_options(self.argv, '-i', '--trained-agent'), '-i', str(source))}"
        )
        if isinstance(error, Exception):
            error.add_note(sentence)
            error.ended_a_training = True  # type: ignore[attr-defined]
        else:
            say("\n".join([sentence, *(self.commands if file == self.agent else ())]))
        return file


class SaveBest(BaseCallback):
    """Save the best agent of rl-zoo3's evaluation with its running means.

    Args:
        agent: the file to write to.
        statistics: the file of its running means.
    """

    parent: Any

    def __init__(self, agent: Path, statistics: Path) -> None:
        super().__init__()
        self._agent = agent
        self._statistics = statistics
        self._best_saved = -np.inf

    def _on_step(self) -> bool:
        with tolerating_full_disk() as errors:
            statistics = statistics_bytes(self.model)
            if statistics is not None:
                write_atomically(self._statistics, statistics)
            write_atomically(self._agent, agent_bytes(self.model))
        if errors:
            self.parent.best_mean_reward = self._best_saved
        self._best_saved = self.parent.best_mean_reward
        return True


class EvaluationLine(BaseCallback):
    """Print the result of rl-zoo3's evaluation as one line, above the live line."""

    parent: Any

    def _on_step(self) -> bool:
        say(f"evaluation at {self.num_timesteps:,} steps: training return {self.parent.last_mean_reward:.1f}")
        return True


def adapt_evaluation(evaluation: EvalCallback, run: Path, is_quiet: bool) -> None:
    """Let rl-zoo3's evaluation save the best agent with its running means.

    Args:
        evaluation: to be changed. By itself it writes the running means to the last agent's file.
        run: the run's folder.
        is_quiet: print one line per evaluation, instead of several that run into the live line.
    """
    evaluation.best_model_save_path = None
    evaluation.callback_on_new_best = SaveBest(run / BEST_AGENT, run / BEST_STATISTICS)
    evaluation.callback_on_new_best.parent = evaluation
    if is_quiet:
        evaluation.verbose = 0
        evaluation.callback = EvaluationLine()
        evaluation.callback.parent = evaluation


class PatientResultsWriter(ResultsWriter):
    """Monitor's writer of monitor.csv; rows that do not fit on a full disk wait in its buffer."""

    def write_row(self, epinfo: dict[str, float]) -> None:
        """Write a row, or warn if that fails."""
        with tolerating_full_disk(self.file_handler.name):
            super().write_row(epinfo)

    def close(self) -> None:
        """Close the file, whether or not the last rows can be written."""
        with suppress(OSError):
            super().close()


class Learner:
    """A model's `learn` as rl-zoo3 calls it; a resumed model continues its step count.

    SB3's `learn(reset_num_timesteps=False)` adds its argument to the steps done, and schedules are functions of the sum. We
    pass the remaining steps, so that learning rate and clip range continue where they were.
    """

    def __init__(self, model: BaseAlgorithm, go_on: Callable[[BaseAlgorithm], None] | None, keeper: Keeper, files: RunFiles):
        self._model = model
        self._go_on = go_on
        self._keeper = keeper
        self._files = files
        self.interrupted = False
        self.saved_as: Path | None = None

    def learn(self, total_timesteps: int, callback: Sequence[BaseCallback] = (), **kwargs: Any) -> None:
        """Train up to `total_timesteps` [steps], and save the agent before rl-zoo3 closes the environments.

        After a signal or an error, this is the agent after the last update. rl-zoo3 swallows a KeyboardInterrupt.
        """
        learn = self._model.learn if self._go_on is None else self._learn_on
        try:
            try:
                learn(total_timesteps, callback=[self._keeper, *callback], **kwargs)
            except LostRankError:
                check_signals()  # the other rank ends because of the same signal
                raise
            check_signals()
            if self._keeper.kept is not None:
                with undisturbed():
                    print(f"Saving to {self._files.run}")
                    self.saved_as = self._files.save(self._keeper.kept)
        except BaseException as error:
            self.interrupted = isinstance(error, KeyboardInterrupt)
            with undisturbed():
                self.saved_as = self._files.end(self._keeper.kept, error)
            raise

    def _learn_on(self, total_timesteps: int, **kwargs: Any) -> None:
        assert self._go_on is not None
        done = self._model.num_timesteps
        print(f"Resuming at step {done} of {total_timesteps}")
        self._go_on(self._model)
        self._model.learn(total_timesteps - done, reset_num_timesteps=False, **kwargs)

    @property
    def policy(self) -> BasePolicy:
        """The model's policy, which rl-zoo3 gives to ARS's helpers."""
        policy: BasePolicy = self._model.policy
        return policy

    @property
    def env(self) -> VecEnv | None:
        """The model's environment, which rl-zoo3 closes at the end."""
        return self._model.env
