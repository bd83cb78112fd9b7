"""A learning rate that falls late."""

from dataclasses import dataclass

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import Schedule

from sb3_carracing.checks import finite_number


class LateDecayCallback(BaseCallback):
    """Keep the algorithm's learning rate for a while, then decay it linearly until the end of the training.

    rl-zoo3's `lin_x` decays from the first update on. Here, updates before `start` use the full learning rate. In
    hyperparameters, add it to a constant `learning_rate`::

        callback:
          - sb3_carracing.callbacks.LateDecayCallback: {start: 0.6}

    The agent is saved with its own `learning_rate`, without this decay.

    Args:
        start: Share of the training's steps after which the decay begins, from 0 to 0.99.
        final: Rate of the last update, as a share of the full rate.

    Raises:
        UserError: An argument is out of range.
    """

    def __init__(self, start: float = 0.6, final: float = 0.02) -> None:
        super().__init__()
        self.start = finite_number("start", start, 0.0, 0.99)
        self.final = finite_number("final", final, 0.0, 1.0)

    def _on_training_start(self) -> None:
        self.model._setup_lr_schedule()  # without the decay of a `learn` that failed
        self.model.lr_schedule = _LateDecay(self.model.lr_schedule, self.start, self.final)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.model._setup_lr_schedule()


@dataclass(frozen=True)
class _LateDecay:
    """A schedule that decays another one late. SB3 pickles it with the model, so it holds no callback."""

    full_rate: Schedule
    start: float
    final: float

    def __call__(self, progress_remaining: float) -> float:
        share = min(1.0, progress_remaining / (1.0 - self.start))
        return self.full_rate(progress_remaining) * (self.final + (1.0 - self.final) * share)
