"""The learning rate stays, then falls to the end of the training, and the agent does not keep the decay."""

from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback

from sb3_carracing import BetaPPO
from sb3_carracing.callbacks import LateDecayCallback
from sb3_carracing.errors import UserError


class Rates(BaseCallback):
    """Note the optimizer's rate at the start of every rollout but the first: that of the update before it."""

    def _init_callback(self) -> None:
        self.seen: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps:
            self.seen.append(self.model.policy.optimizer.param_groups[0]["lr"])

    def _on_training_end(self) -> None:
        self.seen.append(self.model.policy.optimizer.param_groups[0]["lr"])


def learn(cls: Any, start: float = 0.5, final: float = 0.0) -> tuple[BaseAlgorithm, list[float]]:
    model = cls("MlpPolicy", "Pendulum-v1", n_steps=16, batch_size=16, n_epochs=1, learning_rate=1e-3, device="cpu")
    rates = Rates()
    model.learn(8 * 16, [LateDecayCallback(start, final), rates])
    return model, rates.seen


@pytest.mark.parametrize("cls", [BetaPPO, PPO])
def test_the_rate_stays_and_then_falls_linearly(cls: Any) -> None:
    _, rates = learn(cls)
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 1e-3, 7.5e-4, 5e-4, 2.5e-4, 0.0])


def test_the_last_update_takes_the_final_share() -> None:
    assert learn(BetaPPO, start=0.0, final=0.2)[1] == pytest.approx(
        [1e-3 * (0.2 + 0.8 * left / 8) for left in range(7, -1, -1)]
    )


def test_the_next_learn_and_the_saved_agent_have_the_full_rate(tmp_path: Path) -> None:
    model, _ = learn(BetaPPO)
    assert model.lr_schedule(0.1) == 1e-3
    model.save(tmp_path / "agent.zip")
    assert BetaPPO.load(tmp_path / "agent.zip").lr_schedule(0.1) == 1e-3


@pytest.mark.parametrize("cls", [BetaPPO, PPO])
def test_checkpoints_can_be_saved_and_have_the_full_rate(cls: Any, tmp_path: Path) -> None:
    model = cls("MlpPolicy", "Pendulum-v1", n_steps=16, batch_size=16, n_epochs=1, learning_rate=1e-3, device="cpu")
    decay = LateDecayCallback()
    with (tmp_path / "log").open("w") as decay.log:  # type: ignore[attr-defined]  # an open file cannot be pickled
        model.learn(64, [decay, CheckpointCallback(48, str(tmp_path))])
    loaded = cls.load(tmp_path / "rl_model_48_steps.zip")
    loaded._setup_lr_schedule()
    assert loaded.lr_schedule(0.1) == 1e-3


def test_a_learn_that_failed_does_not_decay_twice() -> None:
    model = BetaPPO("MlpPolicy", "Pendulum-v1", n_steps=16, batch_size=16, n_epochs=1, learning_rate=1e-3, device="cpu")

    class Fails(Rates):
        def _on_rollout_end(self) -> None:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        model.learn(64, [LateDecayCallback(0.0, 0.0), Fails()])
    rates = Rates()
    model.learn(64, [LateDecayCallback(0.0, 0.0), rates])
    assert rates.seen == pytest.approx([7.5e-4, 5e-4, 2.5e-4, 0.0])


@pytest.mark.parametrize(("name", "value"), [("start", 1.0), ("start", -0.1), ("final", 1.5), ("final", "0.1")])
def test_an_argument_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"{name} must be .*, got {value!r}"):
        LateDecayCallback(**{name: value})
