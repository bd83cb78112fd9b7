"""What a trial of a search reports to its study, and why it is pruned."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sb3_carracing.evaluation import EpisodeResult
from sb3_carracing.ppo.finite import NonFiniteError
from sb3_carracing.runs import BEST_AGENT
from sb3_carracing.signals import check_signals


class Reporter(BaseCallback):
    """Report a trial's mean raw score to its study, after the first update past each interval and at the end.

    `TrialPruned` ends the trial if its pruner says so, or if score or weights are not finite.

    Args:
        trial: what it reports to.
        interval: steps between two reports.
        n_reports: number of reports in all.
        evaluate: plays the episodes.
        folder: for evaluations.csv and best_model.zip; None writes neither.
    """

    def __init__(
        self,
        trial: optuna.Trial,
        interval: int,
        n_reports: int,
        evaluate: Callable[[BaseAlgorithm], list[EpisodeResult]],
        folder: Path | None = None,
    ) -> None:
        super().__init__()
        self.last_mean = -np.inf
        self._trial = trial
        self._interval = interval
        self._n_reports = n_reports
        self._evaluate = evaluate
        self._folder = folder
        self._reported: list[float] = []

    def _on_step(self) -> bool:
        check_signals()  # with several jobs, a signal interrupts only the main thread
        return True

    def _on_rollout_start(self) -> None:
        # By now the previous rollout's update is done, unlike at that rollout's end.
        done = len(self._reported)
        if done < self._n_reports - 1 and self.num_timesteps >= (done + 1) * self._interval:
            self._report()
            if self._trial.should_prune():
                raise optuna.TrialPruned(f"by the pruner at report {done + 1}, mean score {self.last_mean:.6g}")

    def _on_training_end(self) -> None:
        self._report()

    def _report(self) -> None:
        if has_lost_weights(self.model):
            raise optuna.TrialPruned("NaN: the weights are not finite")
        results = self._evaluate(self.model)
        mean = float(np.mean([result.score for result in results]))
        if not np.isfinite(mean):
            raise optuna.TrialPruned(f"NaN: the mean score is {mean}")
        self._trial.report(mean, len(self._reported) + 1)
        if self._folder is not None:
            self._write(self._folder, results, mean)
        self._reported.append(mean)
        self.last_mean = mean

    def _write(self, folder: Path, results: list[EpisodeResult], mean: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # A repeated trial has another number, but another study may use the same folder.
        with (folder / "evaluations.csv").open("a" if self._reported else "w", newline="") as file:
            table = csv.writer(file)
            if not self._reported:
                table.writerow(["steps", "mean", *(f"score_{result.seed}" for result in results)])
            table.writerow([self.num_timesteps, mean, *(result.score for result in results)])
        if mean > max(self._reported, default=-np.inf):
            self.model.save(folder / BEST_AGENT)


def divergence(model: BaseAlgorithm | None, error: Exception) -> str | None:
    """Return the reason if an error means that training has diverged to NaN, else None."""
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    if isinstance(error, NonFiniteError):
        return f"NaN: {first_line}"
    if model is not None and has_lost_weights(model):
        return f"NaN: the weights are not finite: {first_line}"
    # torch's distributions refuse NaN, which may also come from the environment.
    if isinstance(error, ValueError) and first_line.startswith("Expected parameter") and "nan" in str(error):
        return f"NaN: {first_line}"
    return None


def has_lost_weights(model: BaseAlgorithm) -> bool:
    """Return whether a weight of the policy is NaN or infinite."""
    policy = model.policy
    return policy is not None and not all(bool(th.isfinite(weight).all()) for weight in policy.parameters())


def prune(trial: optuna.Trial, reason: str) -> optuna.TrialPruned:
    """Write the reason to the trial and return the exception that ends it."""
    trial.set_user_attr("pruned", reason)
    return optuna.TrialPruned(reason)
