"""Every example runs, on a tiny budget."""

import importlib.util
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from budgets import shrink_rollouts

from sb3_carracing import BetaPPO
from sb3_carracing.envs.wrappers import ScaleReward

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
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*BUDGETS, "custom_envs", "drive_onnx"}


SLOW = {"blog_training", "iurin_training"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in BUDGETS])
def test_example(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    shrink_rollouts(monkeypatch)
    load(name)(**BUDGETS[name])
    assert PRINTED.get(name, "") in capsys.readouterr().out


@pytest.mark.parametrize(("name", "env_id"), [("blog_training", "CarRacingBlog-v3"), ("iurin_training", "CarRacingIurin-v3")])
def test_a_seeds_example_has_its_presets_settings(name: str, env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of a seed stand in its example and in its YAML entry."""
    preset = yaml.safe_load((EXAMPLES.parent / "hyperparams/beta_ppo.yml").read_text())[env_id]
    defaults = inspect.signature(BetaPPO.__init__).parameters
    made: dict[str, Any] = {}

    class Recorded:
        def __init__(self, policy: str, env: Any, **arguments: Any) -> None:
            made.update(arguments, policy=policy, env=env)

        def learn(self, *args: Any, **kwargs: Any) -> None:
            pass

    monkeypatch.setattr("sb3_carracing.BetaPPO", Recorded)
    main = load(name)
    main()
    assert main.__globals__["ENV_KWARGS"] == preset["env_kwargs"]
    wrapper = made.pop("env").envs[0]
    if isinstance(wrapper, ScaleReward):
        assert preset.pop("env_wrapper") == [{"sb3_carracing.envs.wrappers.ScaleReward": {"scale": wrapper.scale}}]
    for key in {*preset} - {"env_kwargs", "callback", "n_timesteps", "n_envs"}:
        given = made[key] if key in made else defaults[key].default
        expected = preset[key]
        if key == "policy_kwargs" and "optimizer_kwargs" not in given:
            # SB3's own default, which the first seed's entry spells out.
            assert expected.pop("optimizer_kwargs") == {"eps": 1e-5}
        assert given == expected, key


@pytest.mark.slow
def test_hook_makes_the_unmodified_train_script_know_beta_ppo(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rl_zoo3.train", "--algo", "beta_ppo", "--env", "Pendulum-v1", "-n", "64"]
    command += ["-conf", str(EXAMPLES.parent / "hyperparams/beta_ppo.yml"), "--eval-freq", "-1", "-f", str(tmp_path)]
    command += ["-params", "n_steps:16", "n_envs:1", "batch_size:16"]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "beta_ppo/Pendulum-v1_1/Pendulum-v1.zip").is_file()
