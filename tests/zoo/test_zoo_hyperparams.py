"""The packaged hyperparameters of the four algorithms, and the stock baselines' policies."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from sb3_carracing.cli import main
from sb3_carracing.ppo.policies import GaussianCnnPolicy
from sb3_carracing.ppo.recurrent import RecurrentGaussianCnnPolicy
from sb3_carracing.zoo.manager import _config_file, _default_config

REPOSITORY = Path(__file__).parents[2]
CAR_RACING = ("CarRacingFast-v3", "CarRacing-v3", "CarRacingBlog-v3", "CarRacingIurin-v3")
NETWORK = {"features_extractor_class": "blog", "activation_fn": "relu", "ortho_init": False, "initial_mean": [0.0, 0.4, 0.05]}


def entries(algo: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((REPOSITORY / f"hyperparams/{algo}.yml").read_text())
    return loaded


@pytest.mark.parametrize("algo", ["ppo", "ppo_lstm"])
@pytest.mark.parametrize("env_id", CAR_RACING)
def test_baselines_have_the_same_preprocessing_and_network(algo: str, env_id: str) -> None:
    ours, theirs = entries("beta_ppo")[env_id], entries(algo)[env_id]
    belong_to_the_distribution = {"policy", "policy_kwargs", "value_loss"}
    assert {key: value for key, value in ours.items() if key not in belong_to_the_distribution} == {
        key: value for key, value in theirs.items() if key not in belong_to_the_distribution
    }
    for part in ("features_extractor_class", "activation_fn", "ortho_init", "net_arch", "optimizer_kwargs"):
        assert ours["policy_kwargs"].get(part) == theirs["policy_kwargs"].get(part)


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "MountainCarContinuous-v0", "LunarLanderContinuous-v3"])
def test_ppo_has_the_zoos_own_values_on_small_tasks(env_id: str) -> None:
    import rl_zoo3

    zoo = yaml.safe_load((Path(rl_zoo3.__file__).parent / "hyperparams/ppo.yml").read_text())[env_id]
    ours = entries("ppo")[env_id]
    if isinstance(zoo.get("policy_kwargs"), str):
        zoo["policy_kwargs"] = eval(zoo["policy_kwargs"])
    assert ours == zoo


@pytest.mark.parametrize("algo", ["ppo", "ppo_lstm"])
def test_every_entry_has_a_baseline(algo: str) -> None:
    for env_id in entries("beta_ppo").keys() - {"default"}:
        assert env_id in yaml.safe_load(_default_config(algo, env_id).read_text())


def test_bipedal_walker_has_the_zoos_values() -> None:
    theirs = yaml.safe_load(_default_config("ppo", "BipedalWalker-v3").read_text())
    assert entries("beta_ppo")["BipedalWalker-v3"] == theirs["BipedalWalker-v3"]


def test_without_a_file_the_tuned_values_are_read() -> None:
    """The packaged files must not hide what rl-zoo3 has tuned on other tasks."""
    import rl_zoo3

    gym.register("SB3CarRacingAtari-v0", "games:AtariEnv")  # by its name rl-zoo3 takes it for an Atari game
    gym.register("SB3CarRacingUnknown-v0", "games:Unknown")
    ours, zoos = REPOSITORY / "hyperparams", Path(rl_zoo3.__file__).parent / "hyperparams"
    for algo, env_id, folder in (
        ("ppo", "CarRacing-v3", ours),  # in both
        ("ppo", "CartPole-v1", zoos),
        ("ppo", "SB3CarRacingAtari-v0", zoos),
        ("ppo", "SB3CarRacingUnknown-v0", ours),  # by its default
        ("beta_ppo", "CartPole-v1", ours),
        ("a2c", "CartPole-v1", zoos),
    ):
        assert _default_config(algo, env_id) == folder / f"{algo}.yml", (algo, env_id)


def test_conf_takes_the_name_of_a_packaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    packaged = REPOSITORY / "hyperparams" / "beta_ppo_long.yml"
    assert _config_file("beta_ppo_long.yml", "beta_ppo", "CarRacingFast-v3") == packaged
    assert _config_file("my.yml", "beta_ppo", "CarRacingFast-v3") == "my.yml"
    Path("beta_ppo_long.yml").write_text("{}")
    assert _config_file("beta_ppo_long.yml", "beta_ppo", "CarRacingFast-v3") == "beta_ppo_long.yml"


def test_the_long_training_starts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sb3_carracing", "train", "-conf", "beta_ppo_long.yml", "-n", "32", "--eval-freq", "-1"]
    shorter = "callback:['sb3_carracing.callbacks.ProgressCallback']"
    small = ["n_envs:2", "n_steps:16", "batch_size:16", "n_epochs:1", shorter]
    subprocess.run([*command, "-params", *small], cwd=tmp_path, check=True, capture_output=True, timeout=500)
    config = (tmp_path / "logs/beta_ppo/CarRacingFast-v3_1/CarRacingFast-v3/config.yml").read_text()
    assert "SignedPedals" in config


def test_a_resume_with_other_wrappers_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    values = {"n_timesteps": 64, "n_envs": 1, "policy": "MlpPolicy", "n_steps": 32, "batch_size": 32, "n_epochs": 1}
    scaled = values | {"env_wrapper": [{"sb3_carracing.envs.wrappers.ScaleReward": {"scale": 0.1}}]}
    for name, entry in (("scaled.yml", scaled), ("plain.yml", values)):
        Path(name).write_text(yaml.safe_dump({"Pendulum-v1": entry}))
    command = ["train", "--env", "Pendulum-v1", "--eval-freq", "-1"]
    main([*command, "-conf", "scaled.yml"])
    agent = "logs/beta_ppo/Pendulum-v1_1/Pendulum-v1.zip"
    for config, is_told in (("scaled.yml", False), ("plain.yml", True)):
        capsys.readouterr()
        main([*command, "-conf", config, "-i", agent, "-n", "96"])
        assert ("trained with other wrappers (ScaleReward)" in capsys.readouterr().out) is is_told


def test_the_long_preset_is_that_of_gymnasiums_environment() -> None:
    """Except for what only CarRacingFast-v3 has: its training rules, in place of which a wrapper penalizes grass."""
    long, stock = entries("beta_ppo_long")["CarRacingFast-v3"], entries("beta_ppo")["CarRacing-v3"]
    assert stock["env_wrapper"][1:] == long["env_wrapper"]
    differ = {"env_wrapper", "env_kwargs"}
    assert {key: value for key, value in long.items() if key not in differ} == {
        key: value for key, value in stock.items() if key not in differ
    }


def test_baselines_start_at_the_initial_mean(tmp_path: Path) -> None:
    env: Any = make_vec_env("CarRacingBlog-v3", n_envs=1, seed=0)
    for algorithm, policy in ((PPO, GaussianCnnPolicy), (RecurrentPPO, RecurrentGaussianCnnPolicy)):
        model = algorithm(policy, env, n_steps=8, batch_size=8, n_epochs=1, policy_kwargs=NETWORK, seed=0)
        actions = np.concatenate([model.predict(env.reset(), deterministic=True)[0] for _ in range(4)])
        assert actions.mean(axis=0) == pytest.approx([0.0, 0.4, 0.05], abs=0.1)
        model.learn(8)
        model.save(tmp_path / "agent.zip")
        loaded = algorithm.load(tmp_path / "agent.zip")
        trained, stored = (m.policy.state_dict() for m in (model, loaded))
        assert all(th.equal(trained[key], stored[key]) for key in trained)
        model.policy.save(str(tmp_path / "policy.pt"))
        alone = policy.load(str(tmp_path / "policy.pt"))
        assert all(th.equal(trained[key], value) for key, value in alone.state_dict().items())


@pytest.mark.parametrize("mean", [[0.0, 0.4], [0.0, 0.4, 1.5], -0.5])
def test_an_initial_mean_that_does_not_fit_is_named(mean: Any) -> None:
    image = spaces.Box(0, 255, (4, 96, 96), np.uint8)
    actions = spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))
    with pytest.raises(ValueError, match="initial_mean must lie within"):
        GaussianCnnPolicy(image, actions, lambda _: 0.0, initial_mean=mean)
    with pytest.raises(ValueError, match="needs a Gaussian on Box actions"):
        GaussianCnnPolicy(image, spaces.Discrete(5), lambda _: 0.0, initial_mean=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["beta_ppo", "beta_ppo_lstm", "ppo", "ppo_lstm"])
def test_every_entry_trains(tmp_path: Path, algo: str) -> None:
    """One rollout and update of each entry through the real command, in one process to import torch once."""
    program = f"""
import sys, yaml
from sb3_carracing.__main__ import main

small = ["n_envs:2", "n_steps:16", "batch_size:16", "n_epochs:1"]
shortened = "callback:['sb3_carracing.callbacks.ProgressCallback',"
shortened += "{{'sb3_carracing.callbacks.ValidationCallback':{{'every_frames':250000,'n_episodes':1}}}}]"
for env_id in yaml.safe_load(open({str(REPOSITORY / "hyperparams" / f"{algo}.yml")!r})):
    # Any other task gets the default; gymnasium's own CarRacing takes 25 s for its five validation laps.
    env_id, callbacks = ("Acrobot-v1" if env_id == "default" else env_id), [shortened] if "CarRacing-" in env_id else []
    main(["train", "--algo", {algo!r}, "--env", env_id, "-n", "32", "--eval-freq", "-1", "-params", *small, *callbacks])
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, timeout=500)
    trained = {path.name for path in (tmp_path / "logs" / algo).glob("*_1/*.zip")} - {"best_model.zip"}
    assert trained == {f"{'Acrobot-v1' if name == 'default' else name}.zip" for name in entries(algo)}
