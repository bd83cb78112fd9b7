"""Every example runs, on a tiny budget."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
BUDGETS: dict[str, dict[str, Any]] = {
    "ten_lines": {"timesteps": 16, "episodes": 1},
    "any_bounded_task": {"timesteps": 64, "episodes": 1},
    "ppo_against_beta_ppo": {"timesteps": 16, "episodes": 1},
    "own_feature_extractor": {"timesteps": 16},
    "random_drive": {"frames": 30},
    "blog_training": {"timesteps": 64, "n_steps": 64},
    "iurin_training": {"timesteps": 64, "n_steps": 64},
}
PRINTED = {"ten_lines": "score", "any_bounded_task": "Pendulum-v1", "ppo_against_beta_ppo": "BetaPPO"}


def load(name: str) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    main: Callable[..., Any] = module.main
    return main


def test_every_example_is_run_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*BUDGETS, "custom_envs"}


@pytest.mark.parametrize("name", BUDGETS)
def test_example(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    shrink_rollouts(monkeypatch)
    load(name)(**BUDGETS[name])
    assert PRINTED.get(name, "") in capsys.readouterr().out


def shrink_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An example's rollout is 2048 decisions: play short ones, whatever the example asks for."""
    from stable_baselines3 import PPO

    from sb3_carracing import BetaPPO

    for algorithm in (PPO, BetaPPO):
        original = algorithm.__init__

        def short(self: Any, *args: Any, original: Any = original, **kwargs: Any) -> None:
            original(self, *args, **{**kwargs, "n_steps": 8, "batch_size": 8, "n_epochs": 1})

        monkeypatch.setattr(algorithm, "__init__", short)


def test_hook_makes_the_unmodified_train_script_know_beta_ppo(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rl_zoo3.train", "--algo", "beta_ppo", "--env", "Pendulum-v1", "-n", "64"]
    command += ["-conf", str(EXAMPLES.parent / "hyperparams/beta_ppo.yml"), "--eval-freq", "-1", "-f", str(tmp_path)]
    command += ["-params", "n_steps:16", "n_envs:1", "batch_size:16"]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "beta_ppo/Pendulum-v1_1/Pendulum-v1.zip").is_file()
