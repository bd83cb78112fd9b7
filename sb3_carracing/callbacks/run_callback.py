"""What the callbacks share: the run's folder, counting frames, and reading episodes."""

import time
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, is_vecenv_wrapped

from sb3_carracing.envs.counts import counts_of
from sb3_carracing.errors import UserError
from sb3_carracing.files import next_free
from sb3_carracing.ppo import distributed


class RunCallback(BaseCallback):
    """Find the run's folder and count frames.

    Our CarRacing and `RawScore` count frames themselves. In other environments a step is one frame, unless a Monitor below a
    wrapper that repeats actions counts more.

    A training that is resumed exactly (`sb3_carracing.resume`) gets back the attributes that `KEPT` names.

    The count is kept as `model.num_frames`, so that it is saved with the model and a resumed run counts on. If several ranks
    train, each counts its own frames during a rollout and all of them at its end; only rank 0 writes.

    Args:
        run_dir: folder to write to; None for the logger's.
    """

    every_rank = True
    KEPT: ClassVar[tuple[str, ...]] = ("_frames", "_frames_of_episode")

    def __init__(self, run_dir: str | Path | None = None) -> None:
        super().__init__()
        self.run_dir = Path(run_dir) if run_dir is not None else None

    @property
    def _folder(self) -> Path:
        return Path(self.run_dir or self.logger.get_dir() or ".")

    @property
    def _resumes(self) -> bool:
        return self.model.num_timesteps > 0

    def _on_training_start(self) -> None:
        self._group = distributed.current()
        self._start_time = time.perf_counter()
        steps = self.model.num_timesteps
        self._frames_before = int(getattr(self.model, "num_frames", steps)) if steps else 0
        self._frames = self._frames_of_all = self._frames_before
        self._has_monitor = _has_monitor(self.training_env)
        # None: the episode began in an earlier `learn`, so we do not know how many of its frames are counted already.
        self._frames_of_episode: list[int | None] = [0 if start else None for start in self._episode_starts()]

    def _episode_starts(self) -> np.ndarray:
        """Return for each environment whether it is at the start of an episode."""
        n_envs = self.training_env.num_envs
        if self.locals.get("reset_num_timesteps", True):  # `learn` has reset the environments
            return np.ones(n_envs, dtype=bool)
        # Off-policy algorithms do not keep track.
        is_known = isinstance(self.model, OnPolicyAlgorithm) and self.model._last_episode_starts is not None
        return np.asarray(self.model._last_episode_starts if is_known else np.zeros(n_envs), dtype=bool)

    def _on_step(self) -> bool:
        if "infos" not in self.locals:
            callback, algorithm = type(self).__name__, type(self.model).__name__
            raise UserError(f"{callback} needs the infos of every step, which {algorithm} does not give to callbacks")
        for env, (info, done) in enumerate(zip(self.locals["infos"], self.locals["dones"], strict=True)):
            now = self._count(env, info, done)
            self._frames_of_episode[env] = 0 if done else now
        self.model.num_frames = self._frames  # type: ignore[attr-defined]
        return True

    def _on_rollout_end(self) -> None:
        self._frames_of_all += sum(self._group.gather(self._frames - self._frames_of_all))
        self._frames = self._frames_of_all
        self.model.num_frames = self._frames  # type: ignore[attr-defined]

    def _count(self, env: int, info: dict[str, Any], done: bool) -> int | None:
        """Count the frames of a step and return the frames of its episode so far, or None if unknown."""
        before, counts = self._frames_of_episode[env], counts_of(info)
        if counts is not None:
            # If we do not know how many are counted already, we take this step's number and leave out its frames.
            self._frames += counts.frames - before if before is not None else 0
            return counts.frames
        if before is None:
            self._frames += 1
            return None
        monitor = self._monitor_of_episode(env, info) if done else None
        now = max(before + 1, int(monitor["l"]) if monitor else 0)
        self._frames += now - before
        return now

    def _score_of_episode(self, env: int, info: dict[str, Any]) -> float | None:
        """Return an episode's raw score from the info of its last step, else Monitor's return, else None."""
        counts = counts_of(info)
        if counts is not None:
            return float(counts.score)
        monitor = self._monitor_of_episode(env, info)
        return float(monitor["r"]) if monitor else None

    def _monitor_of_episode(self, env: int, info: dict[str, Any]) -> dict[str, Any] | None:
        """Return Monitor's record of a finished episode (return `r`, length `l`); ignore any other `episode` entry."""
        episode = info.get("episode") if self._has_monitor[env] else None
        is_monitors = isinstance(episode, dict) and all(isinstance(episode.get(key), Real) for key in ("r", "l"))
        return episode if is_monitors else None


def _has_monitor(venv: VecEnv) -> list[bool]:
    """Return for each environment whether Monitor or VecMonitor writes the `episode` of its infos."""
    if is_vecenv_wrapped(venv, VecMonitor):
        return [True] * venv.num_envs
    try:
        return venv.env_is_wrapped(Monitor)
    except (AttributeError, NotImplementedError):  # a VecEnv that does not support the question
        return [False] * venv.num_envs


def log_file(folder: Path, name: str, resumes: bool) -> Path:
    """Return the file to write to; rename an earlier run's file there unless this training resumes it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    if file.exists() and not resumes:
        file.rename(next_free(file))
    return file
