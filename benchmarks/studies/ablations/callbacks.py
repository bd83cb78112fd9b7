"""The package's callbacks for algorithms that reset in mid-episode and environments with idle frames; for a YAML."""

from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.studies.ablations.plan import evaluation_env
from sb3_carracing import callbacks
from sb3_carracing.runs import read_run


class _CountsResets(BaseCallback):
    """Starts to count the frames of an episode anew where a rollout starts a new one."""

    _frames_of_episode: list[int | None]

    def _on_rollout_start(self) -> None:
        for env, starts in enumerate(self.model._last_episode_starts):  # type: ignore[arg-type]
            if starts:
                self._frames_of_episode[env] = 0


class ProgressCallback(_CountsResets, callbacks.ProgressCallback):
    """Writes progress.csv."""


class ValidationCallback(_CountsResets, callbacks.ValidationCallback):
    """Writes evaluations.csv, of the environment that the study's evaluation has."""

    def _on_training_start(self) -> None:
        assert self.run_dir is not None
        self._make_env = evaluation_env(read_run(self.run_dir, trust=True))
        super()._on_training_start()
