"""ProgressCallback: progress.csv and the live line."""

import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.logger import (
    Figure,
    FormatUnsupportedError,
    HParam,
    Image,
    KVWriter,
    Video,
    filter_excluded_keys,
)

from sb3_carracing.callbacks.run_callback import RunCallback, log_file
from sb3_carracing.envs.counts import counts_of
from sb3_carracing.logs import CsvLog
from sb3_carracing.progress import ProgressLine


class ProgressCallback(RunCallback):
    """Write progress.csv and show a live line: score, frames per second, time left.

    The line has what fits the terminal: first the raw score, or Monitor's returns if the environment reports no score, and at
    last the training return. The time left counts updates and validations so far, so it is known from the second rollout on.

    These are logged at the end of every rollout:

    - `rollout/score`: mean raw score of the last 100 episodes, or Monitor's returns if the environment reports no score.
    - `rollout/running_score`: the blog implementation's running score, 0.99 old + 0.01 new, from 0.
    - `rollout/episodes`, `time/frames`, `time/frames_per_second`.

    Args:
        write_csv: write progress.csv.
        live_line: show the live line; every half minute if the output is not a terminal.
        run_dir: folder to write to; None for the logger's.

    Attributes:
        then: what follows the training, shown after the time left.
    """

    then: str = ""
    KEPT = (*RunCallback.KEPT, "_scores", "_running_score", "_n_episodes")

    def __init__(self, write_csv: bool = True, live_line: bool = True, run_dir: str | Path | None = None) -> None:
        super().__init__(run_dir)
        self._write_csv = write_csv
        self._live_line = live_line
        self._csv: _CsvOutput | None = None
        self._line: ProgressLine | None = None

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._scores: deque[float] = deque(maxlen=100)
        self._scores_of_rollout: list[float] = []
        # On the model, as `num_frames`, so that they are saved with it.
        self._running_score = getattr(self.model, "running_score", 0.0) if self._resumes else 0.0
        self._n_episodes = getattr(self.model, "num_episodes", 0) if self._resumes else 0
        if self._write_csv and self._group.rank == 0:
            self._close_csv()  # of a `learn` that Ctrl-C ended
            self._csv = _CsvOutput(log_file(self._folder, "progress.csv", self._resumes))
            self.logger.output_formats.append(self._csv)
        self._last_return: float | None = None
        self._score_text = "score -"
        self._first_steps = self.model.num_timesteps
        if self._line is not None:
            self._line.close()  # of a `learn` that Ctrl-C ended
        total = self.locals["total_timesteps"]
        hidden = not self._live_line or self._group.rank > 0
        self._line = ProgressLine("", total, initial=self._first_steps, steady=False, disable=hidden, then=self.then)

    def _on_rollout_start(self) -> None:
        done = self.model.num_timesteps - self._first_steps
        if done and self._line is not None:
            elapsed = time.perf_counter() - self._start_time
            self._line.expect((self._line.total - self.model.num_timesteps) * elapsed / done)

    def _on_step(self) -> bool:
        super()._on_step()
        for env in map(int, np.flatnonzero(self.locals["dones"])):
            self._finish_episode(env, self.locals["infos"][env])
        if self._line is not None:
            # The last rollout may exceed the budget.
            self._line.total = max(self._line.total, self.model.num_timesteps)
            self._line.reach(self.model.num_timesteps, *self._parts())
        return True

    def _finish_episode(self, env: int, info: dict[str, Any]) -> None:
        score, monitor = self._score_of_episode(env, info), self._monitor_of_episode(env, info)
        if score is None:
            return
        self._scores_of_rollout.append(score)
        self._add_score(score)
        is_raw = counts_of(info) is not None
        name = "score" if is_raw else "return"
        self._score_text = f"{name} {score:.0f}, mean of {len(self._scores)}: {np.mean(self._scores):.1f}"
        self._last_return = float(monitor["r"]) if is_raw and monitor else None

    def _add_score(self, score: float) -> None:
        self._scores.append(score)
        self._running_score = 0.99 * self._running_score + 0.01 * score
        self._n_episodes += 1

    def _on_rollout_end(self) -> None:
        super()._on_rollout_end()
        for rank, scores in enumerate(self._group.gather(self._scores_of_rollout)):
            for score in scores if rank != self._group.rank else ():
                self._add_score(score)
        self._scores_of_rollout = []
        self.model.running_score, self.model.num_episodes = self._running_score, self._n_episodes  # type: ignore[attr-defined]
        if self._scores:
            self.logger.record("rollout/score", float(np.mean(self._scores)))
            self.logger.record("rollout/running_score", self._running_score)
        self.logger.record("rollout/episodes", self._n_episodes, exclude="tensorboard")
        self.logger.record("time/frames", self._frames)
        self.logger.record("time/frames_per_second", round(self._frames_per_second()))

    def _on_training_end(self) -> None:
        if self._csv is not None:
            # SB3 logs before an update, so the last update's losses are still unlogged. rl-zoo3 calls this twice.
            if self.logger.name_to_value:
                self.logger.record("time/total_timesteps", self.model.num_timesteps, exclude="tensorboard")
                self.logger.record("time/frames", self._frames)
                self.logger.dump(self.model.num_timesteps)
            self._close_csv()
        if self._line is not None:
            self._line.close()

    def _close_csv(self) -> None:
        """Remove every writer of progress.csv from the logger, including an earlier callback's."""
        others = [writer for writer in self.logger.output_formats if not isinstance(writer, _CsvOutput)]
        self.logger.output_formats[:] = others
        self._csv = None

    def _frames_per_second(self) -> float:
        return (self._frames - self._frames_before) / max(time.perf_counter() - self._start_time, 1e-9)

    def _parts(self) -> list[str]:
        """Return what the live line says, most important first."""
        assert self._line is not None
        training_return = [f"training return {self._last_return:.1f}"] if self._last_return is not None else []
        return [
            self._score_text,
            f"{self._frames_per_second():,.0f} frames/s",
            f"{self.model.num_timesteps:,}/{self._line.total:,} steps",
            f"episode {self._n_episodes}",
            *training_return,
        ]


class _CsvOutput(KVWriter):
    """SB3's CSV output, for a file that may exist already."""

    def __init__(self, file: Path) -> None:
        self._log = CsvLog(file)

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        values = filter_excluded_keys(key_values, key_excluded, "csv")
        for value in values.values():
            if isinstance(value, (Video, Figure, Image, HParam)):
                raise FormatUnsupportedError(["csv"], type(value).__name__.lower())
        self._log.append(values)

    def close(self) -> None:
        """Do nothing: the file is open only while a row is written."""
