"""CheckpointCallback: agents to go on from, taken after an update and written as whole files."""

import io
import time
from collections import deque
from pathlib import Path

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sb3_carracing.checks import finite_number, whole_number
from sb3_carracing.files import tolerating_full_disk, write_atomically
from sb3_carracing.ppo.saving.vec_normalize import with_statistics, write_statistics
from sb3_carracing.resume import snapshot

RETRY_AFTER = 10.0
"""Time from a failed write to the next attempt [s]."""


def agent_bytes(model: BaseAlgorithm) -> bytes:
    """Return an agent's zip file, which also holds the running means of its VecNormalize."""
    content = io.BytesIO()
    model.save(content)
    return _with_statistics(model, content.getvalue())


def state_bytes(model: BaseAlgorithm) -> bytes:
    """Return the same between an update and the next rollout, with all that the training needs to go on."""
    return _with_statistics(model, snapshot(model))


def _with_statistics(model: BaseAlgorithm, agent: bytes) -> bytes:
    normalize = model.get_vec_normalize_env()
    return agent if normalize is None else with_statistics(agent, normalize)


def statistics_bytes(model: BaseAlgorithm) -> bytes | None:
    """Return the running means as a file of their own, as rl-zoo3 looks for them; None without VecNormalize."""
    normalize = model.get_vec_normalize_env()
    if normalize is None:
        return None
    content = io.BytesIO()
    write_statistics(content, normalize)
    return content.getvalue()


class CheckpointCallback(BaseCallback):
    """Write the agent to rl_model_<steps>_steps.zip at regular intervals.

    A checkpoint is due after a time or a number of steps, and is taken when the next update is finished. SB3's callback saves
    before the update, so that a resumed training lacks it. Files are written beside their place and renamed, and the agent's
    file holds its running means. A full disk is warned of, and the checkpoint is tried again.

    Args:
        every_seconds: time between two checkpoints [s]; None for no limit.
        every_steps: steps of the training between two checkpoints; None for no limit.
        keep: how many to keep. Older ones that this callback has written are removed; None keeps all.
        run_dir: folder to write to; None for the logger's.

    Raises:
        UserError: a number is out of range.
    """

    def __init__(
        self,
        every_seconds: float | None = 300.0,
        every_steps: int | None = None,
        keep: int | None = 3,
        run_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        self._every_seconds = None if every_seconds is None else finite_number("every_seconds", every_seconds, 0.0)
        self._every_steps = None if every_steps is None else whole_number("every_steps", every_steps, 1)
        self._keep = None if keep is None else whole_number("keep", keep, 1)
        self.run_dir = Path(run_dir) if run_dir is not None else None
        self._written: deque[Path] = deque()

    @property
    def interval(self) -> str:
        """Return how often a checkpoint is due, in words."""
        minutes = f"{self._every_seconds / 60:g} minutes" if self._every_seconds is not None else None
        steps = f"{self._every_steps:,} steps" if self._every_steps is not None else None
        return " or ".join(filter(None, (minutes, steps)))

    def _on_training_start(self) -> None:
        self._last_time, self._last_steps = time.monotonic(), self.model.num_timesteps
        self._not_before = 0.0

    def _on_rollout_start(self) -> None:
        if self._is_due() and time.monotonic() >= self._not_before:
            self._write()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        # rl-zoo3 also calls this after an interruption, in the middle of a rollout.
        if self.model.num_timesteps >= self.locals["total_timesteps"] and self._is_due():
            self._write()

    def _is_due(self) -> bool:
        steps = self.model.num_timesteps
        if steps == self._last_steps:
            return False
        by_time = self._every_seconds is not None and time.monotonic() - self._last_time >= self._every_seconds
        every = self._every_steps
        return by_time or (every is not None and steps // every > self._last_steps // every)

    def _write(self) -> None:
        folder, steps = Path(self.run_dir or self.logger.get_dir() or "."), self.model.num_timesteps
        file = folder / f"rl_model_{steps}_steps.zip"
        with tolerating_full_disk() as errors:
            statistics = statistics_bytes(self.model)
            if statistics is not None:
                write_atomically(_statistics_beside(file), statistics)
            write_atomically(file, state_bytes(self.model))
        if errors:
            self._not_before = time.monotonic() + RETRY_AFTER
            return
        self._last_time, self._last_steps = time.monotonic(), steps
        self._written.append(file)
        while self._keep is not None and len(self._written) > self._keep:
            oldest = self._written.popleft()
            for path in (oldest, _statistics_beside(oldest)):
                path.unlink(missing_ok=True)


def _statistics_beside(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.name.replace("rl_model_", "rl_model_vecnormalize_").replace(".zip", ".pkl"))
