"""Agents as ONNX: the file alone, in a bare runtime, acts as the agent does."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import onnxruntime
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stand_ins import write_run
from tasks import AnySpaces

from sb3_carracing import BetaPPO
from sb3_carracing.agents import read_agent
from sb3_carracing.cli import main
from sb3_carracing.errors import UserError
from sb3_carracing.export import export
from sb3_carracing.ppo.policies import GaussianCnnPolicy

EXAMPLE = Path(__file__).parent.parent / "examples/drive_onnx.py"
VECTOR, IMAGE = spaces.Box(-np.inf, np.inf, (3,)), spaces.Box(0, 255, (1, 36, 36), np.uint8)
DICT = spaces.Dict({"speed": VECTOR, "gear": spaces.Discrete(4), "camera": IMAGE})
BOX = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([3.0, 0.5], np.float32))
SMALL: dict[str, Any] = {"n_steps": 16, "seed": 0, "device": "cpu"}

# Runs a file on stored observations where neither torch nor SB3 can be imported.
BARE = """
import sys
sys.modules.update(torch=None, stable_baselines3=None, sb3_carracing=None)
import numpy, onnxruntime
agent = onnxruntime.InferenceSession("agent.onnx")
numpy.save("actions.npy", agent.run(["action"], dict(numpy.load("observations.npz")))[0])
"""


def trained(algorithm: Any, observations: Any, actions: Any, policy: Any = "MlpPolicy", **options: Any) -> BaseAlgorithm:
    """Return an agent after one update, so that its weights are not symmetric."""
    small = {"batch_size": 16, "n_epochs": 2} if algorithm is not A2C else {}
    model: BaseAlgorithm = algorithm(policy, AnySpaces(observations, actions), **SMALL, **small, **options)
    return model.learn(16)


AGENTS: dict[str, Any] = {
    "beta_mode": lambda: trained(BetaPPO, VECTOR, BOX),
    "beta_mean_of_pixels": lambda: trained(
        BetaPPO, IMAGE, BOX, "CnnPolicy", autocast="bfloat16", policy_kwargs={"deterministic_action": "mean"}
    ),
    "beta_softplus_margin": lambda: trained(
        BetaPPO, VECTOR, BOX, policy_kwargs={"parameterization": "softplus", "margin": 0.1}
    ),
    "beta_by_its_mode": lambda: trained(
        BetaPPO, VECTOR, BOX, policy_kwargs={"parameterization": "mode", "activation_fn": "elu"}
    ),
    "dict": lambda: trained(BetaPPO, DICT, BOX, "MultiInputPolicy"),
    "discrete": lambda: trained(BetaPPO, VECTOR, spaces.Discrete(5)),
    "multi_discrete": lambda: trained(PPO, VECTOR, spaces.MultiDiscrete([3, 4])),
    "multi_binary": lambda: trained(BetaPPO, spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(4)),
    "gaussian_twin": lambda: trained(PPO, IMAGE, BOX, GaussianCnnPolicy),
    "gaussian_of_discrete": lambda: trained(A2C, spaces.Discrete(6), spaces.Box(-5.0, 5.0, (2, 2))),
    "gsde": lambda: trained(PPO, VECTOR, BOX, use_sde=True, policy_kwargs={"squash_output": True}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", AGENTS)
def test_the_file_alone_acts_as_the_agent(name: str, tmp_path: Path) -> None:
    model = AGENTS[name]()
    metadata, difference = export(model, tmp_path / "agent.onnx")
    assert difference <= 1e-5
    space = model.observation_space
    space.seed(1)
    drawn = [space.sample() for _ in range(100)]
    as_dict = isinstance(space, spaces.Dict)
    observations: Any = {key: np.stack([one[key] for one in drawn]) for key in space} if as_dict else np.stack(drawn)
    np.savez(tmp_path / "observations.npz", **(observations if as_dict else {"observation": observations}))
    subprocess.run([sys.executable, "-c", BARE], cwd=tmp_path, check=True)
    actions = np.load(tmp_path / "actions.npy")
    if hasattr(model.policy, "autocast"):
        model.policy.autocast = None
    np.testing.assert_allclose(actions, model.predict(observations, deterministic=True)[0], atol=2e-5)
    assert actions[0].shape == model.action_space.shape
    assert json.loads(metadata["outside"])[0].startswith("unknown")


@pytest.mark.slow
@pytest.mark.parametrize("keys", [None, ["speed"]])
def test_running_means_are_inside(keys: list[str] | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the agent's .zip, which holds them."""
    space: Any = spaces.Dict({"speed": VECTOR, "raw": VECTOR}) if keys else VECTOR
    env = VecNormalize(DummyVecEnv([lambda: AnySpaces(space, BOX)]), norm_obs_keys=keys, clip_obs=1.5)
    model = BetaPPO("MultiInputPolicy" if keys else "MlpPolicy", env, n_epochs=1, batch_size=16, **SMALL).learn(64)
    model.save(tmp_path / "agent.zip")
    main(["export", str(tmp_path / "agent.zip"), "-o", str(tmp_path / "agent.onnx")])
    assert "differs from torch by" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(tmp_path / "agent.onnx")
    observations: Any = [space.sample() for _ in range(50)]
    given = {key: np.stack([obs[key] for obs in observations]) for key in space} if keys else np.stack(observations)
    actions = session.run(None, given if keys else {"observation": given})[0]
    np.testing.assert_allclose(actions, model.predict(env.normalize_obs(given), deterministic=True)[0], atol=2e-5)
    inside = json.loads(session.get_modelmeta().custom_metadata_map["inside"])
    assert inside == ["running means of VecNormalize", "scaling of observations", "deterministic action: mode"]


@pytest.mark.slow
def test_the_shipped_agent_drives_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the example, in a process without torch and SB3, with what the metadata name around it."""
    monkeypatch.chdir(tmp_path)
    main(["export", "rl-trained-agents/beta_ppo/CarRacingFast-v3_1"])
    outside = json.loads(onnxruntime.InferenceSession("CarRacingFast-v3.onnx").get_modelmeta().custom_metadata_map["outside"])
    assert outside[:3] == [
        "CarRacingFast-v3",
        'sb3_carracing.envs.wrappers.ActionRepeat {"frame_skip": 4}',
        "sb3_carracing.envs.wrappers.Grayscale",
    ]
    without = "import sys, runpy; sys.modules.update(torch=None, stable_baselines3=None)"
    code = f"{without}; print(runpy.run_path({str(EXAMPLE)!r})['main'](decisions=40))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    agent = read_agent(Path(__file__).parent.parent / "rl-trained-agents/beta_ppo/CarRacingFast-v3_1/CarRacingFast-v3.zip")

    spec = importlib.util.spec_from_file_location("drive_onnx", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Session:
        def run(self, _: Any, observations: dict[str, np.ndarray]) -> Any:
            return [agent.predict(observations["observation"], deterministic=True)[0]]

    monkeypatch.setattr(module.onnxruntime, "InferenceSession", lambda _: Session())
    assert float(done.stdout) == pytest.approx(module.main(decisions=40), abs=0.5)


def test_what_cannot_be_exported_is_told_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DQN("MlpPolicy", "CartPole-v1", buffer_size=10).save(tmp_path / "dqn.zip")
    with pytest.raises(SystemExit) as ended:
        main(["export", str(tmp_path / "dqn.zip"), "--algo", "dqn", "-o", str(tmp_path / "dqn.onnx")])
    assert ended.value.code == 2
    assert "only agents with SB3's actor-critic policies without memory can be exported" in capsys.readouterr().err
    assert not (tmp_path / "dqn.onnx").exists()


class Undecided(FlattenExtractor):
    """Takes another way for some observations, which no graph can hold."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Return features, `(n_batch, 3)`."""
        return observations if observations.sum() > 0 else -observations


@pytest.mark.slow
def test_a_network_that_cannot_be_traced_is_told_in_a_sentence(tmp_path: Path) -> None:
    model = trained(BetaPPO, VECTOR, BOX, policy_kwargs={"features_extractor_class": Undecided})
    with pytest.raises(UserError, match=r"torch\.onnx cannot export this network with Undecided: "):
        export(model, tmp_path / "agent.onnx")
    assert not any(tmp_path.iterdir())


def test_stacks_of_normalized_observations_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path, {"normalize": True, "frame_stack": 2}, env="Pendulum-v1")
    BetaPPO("MlpPolicy", "Pendulum-v1", **SMALL, batch_size=16).save(run / "Pendulum-v1.zip")
    with pytest.raises(SystemExit):
        main(["export", str(run)])
    assert "a run that stacks normalized observations (frame_stack) cannot be exported" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"the run normalizes, but its statistics .* are missing"):
        export(BetaPPO.load(run / "Pendulum-v1.zip"), tmp_path / "agent.onnx", statistics=run / "vecnormalize.pkl")


@pytest.mark.slow
def test_a_run_names_everything_around_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wrappers = ["sb3_carracing.envs.wrappers.SignedPedals", {"sb3_carracing.envs.wrappers.ScaleReward": {"scale": 0.1}}]
    gym.register("ExportedWalk-v0", "stand_ins:Walk")
    run = write_run(tmp_path, {"frame_stack": 3, "env_wrapper": wrappers}, env="ExportedWalk-v0")
    BetaPPO("MlpPolicy", AnySpaces(spaces.Box(-np.inf, np.inf, (6,)), BOX), **SMALL, batch_size=16).save(
        run / "best_model.zip"
    )
    main(["export", str(run)])
    outside = json.loads(onnxruntime.InferenceSession("best_model.onnx").get_modelmeta().custom_metadata_map["outside"])
    assert outside == [
        "ExportedWalk-v0",
        "sb3_carracing.envs.wrappers.SignedPedals",
        'sb3_carracing.envs.wrappers.ScaleReward {"scale": 0.1}',
        'stable_baselines3.common.vec_env.VecFrameStack {"n_stack": 3}',
    ]
