"""A learning rate that follows the size of the updates."""

from dataclasses import dataclass

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import Schedule

from sb3_carracing.checks import finite_number


class AdaptiveRateCallback(BaseCallback):
    """Lower the learning rate after an update that changed the policy too much, and raise it again after a small one.

    The size of an update is SB3's `train/approx_kl`. Above twice the target the next rate is `factor` times lower, below half
    of it `factor` times higher, up to the rate of the schedule. Name it after callbacks that change the schedule.

    Args:
        target: KL divergence of an update in its last epoch.
        factor: above 1.
    """

    def __init__(self, target: float, factor: float = 1.2) -> None:
        super().__init__()
        self.target = finite_number("target", target, 1e-6)
        self.factor = finite_number("factor", factor, 1.0)

    def _on_training_start(self) -> None:
        self._scaled = _Scaled(self.model.lr_schedule)
        self.model.lr_schedule = self._scaled

    def _on_rollout_start(self) -> None:
        kl = self.logger.name_to_value.get("train/approx_kl")
        if kl is None:
            return
        if kl > 2.0 * self.target:
            self._scaled.scale /= self.factor
        elif kl < 0.5 * self.target:
            self._scaled.scale = min(1.0, self._scaled.scale * self.factor)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.model._setup_lr_schedule()


@dataclass
class _Scaled:
    """A schedule times a factor. SB3 pickles it with the model, so it holds no callback."""

    full_rate: Schedule
    scale: float = 1.0

    def __call__(self, progress_remaining: float) -> float:
        return self.full_rate(progress_remaining) * self.scale
