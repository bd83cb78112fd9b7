"""Hyperparameters: what is not valid is named before the first step, however it arrives."""

import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from tasks import AnySpaces

from sb3_carracing import BetaPPO
from sb3_carracing.errors import UserError
from sb3_carracing.ppo import hyperparameters
from sb3_carracing.ppo.hyperparameters import CHECKS

VECTOR = spaces.Box(-1.0, 1.0, (3,))
ACTION = spaces.Box(-1.0, 1.0, (2,))
SMALL: dict[str, Any] = {"n_steps": 64, "batch_size": 32, "n_epochs": 1, "device": "cpu", "seed": 0}

NUMBERS = (
    "learning_rate",
    "gamma",
    "gae_lambda",
    "clip_range",
    "clip_range_vf",
    "ent_coef",
    "vf_coef",
    "max_grad_norm",
    "target_kl",
)
COUNTS = ("n_steps", "batch_size", "n_epochs", "stats_window_size")
INVALID: list[tuple[str, Any]] = [
    *((name, value) for name in NUMBERS for value in ("3e-4", True, math.nan, [0.1], 1j)),
    *((name, value) for name in COUNTS for value in ("32", True, 32.0, math.nan, None, np.float64(32))),
    *((name, math.inf) for name in ("learning_rate", "gamma", "gae_lambda", "ent_coef", "vf_coef")),
    *(
        (name, -0.1)
        for name in ("learning_rate", "gamma", "gae_lambda", "clip_range", "vf_coef", "max_grad_norm", "target_kl")
    ),
    *((name, 1.1) for name in ("gamma", "gae_lambda")),
    *((name, 0) for name in ("n_epochs", "stats_window_size", "clip_range", "max_grad_norm", "target_kl")),
    ("ent_coef", "lin_0.01"),
    ("ent_coef", lambda _: 0.01),
    ("learning_rate", lambda _: math.nan),
    ("learning_rate", lambda _: "3e-4"),
    ("clip_range", lambda _: -0.2),
    ("normalize_advantage", "false"),
    ("keep_memory", 1.0),
    ("use_sde", "no"),
    ("sde_sample_freq", -2),
    ("seed", -1),
    ("seed", 2**32),
    ("seed", 1.5),
    ("policy_kwargs", "dict(net_arch=[64])"),
    ("rollout_buffer_kwargs", [1]),
    ("tensorboard_log", 3),
]


def small(**options: Any) -> BetaPPO:
    return BetaPPO("MlpPolicy", AnySpaces(VECTOR, ACTION), **{**SMALL, **options})


class Played(AnySpaces):
    """Fails if it is ever reset: an algorithm that refuses its hyperparameters must not play."""

    def reset(self, **_: Any) -> Any:
        raise AssertionError("a hyperparameter was checked too late")


class TestRefused:
    @pytest.mark.parametrize(("name", "value"), INVALID)
    def test_by_the_constructor(self, name: str, value: Any) -> None:
        with pytest.raises(UserError) as caught:
            BetaPPO("MlpPolicy", Played(VECTOR, ACTION), **{**SMALL, name: value})
        assert str(caught.value) == f"{name} must be {CHECKS[name][0]}, got {value!r}"

    @pytest.mark.parametrize("name", [*NUMBERS, *COUNTS])
    def test_by_load(self, tmp_path: Path, name: str) -> None:
        """`load` and rl-zoo3's resume set attributes past the constructor."""
        small().save(tmp_path / "agent")
        attribute = "_stats_window_size" if name == "stats_window_size" else name
        wrong: dict[str, Any] = {attribute: "a"}
        for env in (None, Played(VECTOR, ACTION)):
            with pytest.raises(UserError, match=rf"^{name} must be .*, got 'a'"):
                BetaPPO.load(tmp_path / "agent", env=env, **wrong)
        with pytest.raises(UserError, match="n_epochs must be a whole number of at least 1, got 0"):
            BetaPPO.load(tmp_path / "agent", n_epochs=0)

    @pytest.mark.parametrize("options", [{"n_steps": 0}, {"n_steps": -5}, {"batch_size": 0}])
    def test_sizes_without_normalization(self, options: dict[str, int]) -> None:
        """With it stock PPO has an assertion."""
        with pytest.raises(UserError, match=f"{next(iter(options))} must be a whole number of at least 1"):
            small(normalize_advantage=False, **options)
        with pytest.raises(AssertionError, match="must be greater than 1"):
            small(**options)

    @pytest.mark.parametrize("value", ["a", "100", math.nan, math.inf, -1, True, None])
    def test_total_timesteps(self, value: Any) -> None:
        with pytest.raises(UserError, match="total_timesteps must be a finite number of at least 0, got"):
            BetaPPO("MlpPolicy", Played(VECTOR, ACTION), **SMALL).learn(value)

    @pytest.mark.parametrize("value", [0, -1, 1.0, "1"])
    def test_log_interval(self, value: Any) -> None:
        with pytest.raises(UserError, match="log_interval must be a whole number of at least 1, or None, got"):
            BetaPPO("MlpPolicy", Played(VECTOR, ACTION), **SMALL).learn(64, log_interval=value)

    @pytest.mark.parametrize(
        "space", [VECTOR, spaces.Dict({"a": VECTOR, "b": spaces.Box(0, 255, (4, 96, 96), np.uint8), "c": spaces.Discrete(3)})]
    )
    def test_a_rollout_larger_than_the_memory(self, space: spaces.Space[Any]) -> None:
        policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
        with pytest.raises(UserError, match=r"n_steps must give a rollout that fits .*got 1000000000000, which takes .* GiB"):
            BetaPPO(policy, Played(space, ACTION), **{**SMALL, "n_steps": 10**12})

    def test_the_size_of_a_rollout(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """3 + 2 numbers of actions and observations and six others per step, four bytes each."""
        for available, fits in ((64 * 11 * 4, True), (64 * 11 * 4 - 1, False)):
            monkeypatch.setattr(hyperparameters, "memory_size", lambda available=available: available)
            if fits:
                small()
            else:
                with pytest.raises(UserError, match="n_steps must give a rollout"):
                    small()
        monkeypatch.setattr(hyperparameters, "memory_size", lambda: None)  # a system that does not tell
        small()

    def test_an_agent_is_played_where_its_rollout_does_not_fit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        small().save(tmp_path / "agent")
        monkeypatch.setattr(hyperparameters, "memory_size", lambda: 100)
        BetaPPO.load(tmp_path / "agent").predict(np.zeros(3, dtype=np.float32))


class TestAccepted:
    @pytest.mark.parametrize(
        "options",
        [
            {"max_grad_norm": math.inf, "clip_range": math.inf, "clip_range_vf": math.inf, "target_kl": math.inf},
            {"learning_rate": 0.0, "gamma": 0, "gae_lambda": 1, "ent_coef": -0.1, "vf_coef": 0},
            {"n_steps": np.int64(64), "batch_size": np.int32(32), "gamma": np.float32(0.9), "learning_rate": np.float32(1e-3)},
            {"clip_range": lambda progress: 0.2 * progress, "learning_rate": lambda progress: np.float64(progress)},
            {"clip_range": lambda _: 0.0},  # rl-zoo3 puts this in the place of a schedule that it cannot read
            {"seed": None, "target_kl": None, "clip_range_vf": None, "tensorboard_log": None, "policy_kwargs": None},
            {"seed": 2**32 - 1, "normalize_advantage": np.bool_(True)},
        ],
    )
    def test_trains(self, options: dict[str, Any]) -> None:
        small(**options).learn(64)

    def test_defaults(self) -> None:
        for name, parameter in inspect.signature(BetaPPO).parameters.items():
            if name in CHECKS and name not in ("policy_kwargs", "rollout_buffer_kwargs"):  # None becomes a dict
                hyperparameters.check_value(name, parameter.default)

    def test_every_argument_of_stock_ppo_is_checked_or_checked_elsewhere(self) -> None:
        elsewhere = {"policy", "env", "rollout_buffer_class", "verbose", "device", "_init_setup_model"}
        assert set(inspect.signature(PPO).parameters) - elsewhere == set(CHECKS) - {
            "keep_memory",
            "total_timesteps",
            "log_interval",
        }

    @pytest.mark.parametrize("total_timesteps", [0, 64, 64.0, np.int64(64), np.float32(64)])
    def test_total_timesteps(self, total_timesteps: Any) -> None:
        small().learn(total_timesteps, log_interval=None)  # type: ignore[arg-type]


class Sets(BaseCallback):
    """Sets attributes of the model in its first step."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self.attributes = attributes

    def _on_step(self) -> bool:
        for name, value in self.attributes.items():
            setattr(self.model, name, value)
        return True


class TestSetByACallback:
    """A number is as good as the schedule that the constructor makes of it, and counts from the next update on."""

    @pytest.mark.parametrize("value", [0.1, 1, np.float32(0.1), lambda _: 0.1])
    @pytest.mark.parametrize("name", ["clip_range", "clip_range_vf", "learning_rate"])
    def test_number_or_schedule(self, name: str, value: Any) -> None:
        model = small(clip_range_vf=0.5)
        model.set_logger(Logger(folder=None, output_formats=[]))
        model.learn(64, callback=Sets(**{name: value}))
        expected = value(1.0) if callable(value) else value
        assert model.logger.name_to_value[f"train/{name}"] == pytest.approx(float(expected))
        assert name != "learning_rate" or model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(float(expected))

    def test_no_clipping_of_the_value(self) -> None:
        model = small(clip_range_vf=0.5)
        model.set_logger(Logger(folder=None, output_formats=[]))
        model.learn(64, callback=Sets(clip_range_vf=None))
        assert "train/clip_range_vf" not in model.logger.name_to_value

    def test_a_learning_rate_schedule_that_a_script_sets_is_kept(self) -> None:
        """As with stock PPO, which reads nothing else."""
        model = small()
        model.lr_schedule = lambda _: 0.25
        model.learn(64)
        assert model.policy.optimizer.param_groups[0]["lr"] == 0.25

    def test_is_saved(self, tmp_path: Path) -> None:
        model = small().learn(64, callback=Sets(learning_rate=0.125, clip_range=0.0625))
        model.save(tmp_path / "agent")
        loaded = BetaPPO.load(tmp_path / "agent", env=AnySpaces(VECTOR, ACTION)).learn(64)
        assert loaded.policy.optimizer.param_groups[0]["lr"] == 0.125
        assert loaded.clip_range(0.5) == 0.0625  # type: ignore[operator]

    @pytest.mark.parametrize("name", ["clip_range", "clip_range_vf", "learning_rate"])
    def test_what_is_not_valid_is_named(self, name: str) -> None:
        with pytest.raises(UserError, match=f"{name} must be .*, got 'a'"):
            small().learn(64, callback=Sets(**{name: "a"}))


def test_learning_without_an_environment_is_explained(tmp_path: Path) -> None:
    small().save(tmp_path / "agent")
    loaded = BetaPPO.load(tmp_path / "agent")
    with pytest.raises(AssertionError, match=r"no environment to learn in: pass `env` to `load`, or call `set_env`"):
        loaded.learn(64)
    loaded.set_env(AnySpaces(VECTOR, ACTION))
    loaded.learn(64)
    assert all(th.isfinite(value).all() for value in loaded.policy.state_dict().values())
