"""What the callbacks share: the run's folder, and counting frames."""

import time
from pathlib import Path

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from sb3_carracing.errors import UserError
from sb3_carracing.files import next_free


class RunCallback(BaseCallback):
    """Know the run's folder and count frames.

    The count is kept as `model.num_frames`, so that it is saved with the model and a resumed run counts on. Where the
    environment does not report `frames`, a step is one frame.

    Args:
        run_dir: folder to write to; None for the logger's.
    """

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
        self._start_time = time.perf_counter()
        steps = self.model.num_timesteps
        self._frames_before = int(getattr(self.model, "num_frames", steps)) if steps else 0
        # A second `learn` may begin in the middle of an episode, whose frames are counted already: their number shows
        # at the first step, which is not counted then.
        starts = getattr(self.model, "_last_episode_starts", None)
        starts = np.ones(self.training_env.num_envs, dtype=bool) if starts is None else starts
        self._frames_of_episode: list[int | None] = [0 if start else None for start in starts]
        self._frames = self._frames_before

    def _on_step(self) -> bool:
        if "infos" not in self.locals:
            callback, algorithm = type(self).__name__, type(self.model).__name__
            raise UserError(f"{callback} needs the infos of every step, which {algorithm} does not give to callbacks")
        for env, (info, done) in enumerate(zip(self.locals["infos"], self.locals["dones"], strict=True)):
            before = self._frames_of_episode[env]
            # Monitor below an ActionRepeat counts frames, but tells only at the end.
            told = info.get("frames")  # another environment may mean something else by the name
            counted = max((before or 0) + 1, info.get("episode", {}).get("l", 0))
            now = int(told) if isinstance(told, int | np.integer) and told > 0 else counted
            self._frames += now - before if before is not None else 0
            self._frames_of_episode[env] = 0 if done else now
        self.model.num_frames = self._frames  # type: ignore[attr-defined]
        return True


def log_file(folder: Path, name: str, resumes: bool) -> Path:
    """Return the file to write to. What an earlier run left there is renamed, unless this training resumes it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    if file.exists() and not resumes:
        file.rename(next_free(file))
    return file
