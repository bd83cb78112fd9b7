"""Run folders: what rl-zoo3 writes is read back; what is missing is named."""

import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from sb3_carracing import BetaPPO
from sb3_carracing.files import next_free
from sb3_carracing.runs import (
    ALGORITHMS,
    Pipeline,
    WrapperCall,
    import_by_path,
    load_agent,
    read_run,
    seed_to_go_on,
    wrapper_calls,
)

ENV_ID = "Pendulum-v1"


def write_run(logs: Path, config: dict[str, Any], algo: str = "beta_ppo", env: str = ENV_ID, **args: Any) -> Path:
    """Write the files that rl-zoo3's ExperimentManager._save_config writes, in its own way."""
    run = logs / algo / f"{env}_1"
    parameters = run / env
    parameters.mkdir(parents=True)
    args = {"algo": algo, "env": env, "env_kwargs": None, "seed": 1} | args
    (parameters / "config.yml").write_text(yaml.dump(OrderedDict(sorted(config.items()))))
    (parameters / "args.yml").write_text(yaml.dump(OrderedDict(sorted(args.items()))))
    return run


def test_read_run_gives_the_pipeline_of_the_yaml(tmp_path: Path) -> None:
    config = {
        "env_wrapper": ["a.b.Plain", {"a.b.With": {"x": 1}}],
        "vec_env_wrapper": "c.d.Vec",
        "env_kwargs": {"frame_skip": 4},
        "frame_stack": 4,
        "normalize": "{'norm_obs': True}",
        "policy_kwargs": {"net_arch": (64, 64), "activation_fn": OrderedDict},
    }
    run = read_run(write_run(tmp_path, config))
    assert run.algo == "beta_ppo"
    assert run.pipeline == Pipeline(
        env_id=ENV_ID,
        env_kwargs={"frame_skip": 4},
        wrappers=(WrapperCall("a.b.Plain"), WrapperCall("a.b.With", {"x": 1})),
        vec_wrappers=(WrapperCall("c.d.Vec"),),
        normalize=tmp_path / "beta_ppo" / f"{ENV_ID}_1" / ENV_ID / "vecnormalize.pkl",
        frame_stack=4,
    )


def test_env_kwargs_of_the_command_line_win(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, {"env_kwargs": {"g": 9.0}}, env_kwargs={"g": 10.0}))
    assert run.pipeline.env_kwargs == {"g": 10.0}


def test_a_run_without_args_is_read_by_its_folders_names(tmp_path: Path) -> None:
    folder = write_run(tmp_path, {}, algo="ppo")
    (folder / ENV_ID / "args.yml").unlink()
    run = read_run(folder)
    assert (run.algo, run.pipeline.env_id) == ("ppo", ENV_ID)


def test_what_is_no_run_folder_is_named_with_what_is_there(tmp_path: Path) -> None:
    run = write_run(tmp_path, {})
    with pytest.raises(ValueError, match=rf"no run folder .*typo; .* holds {run.name}"):
        read_run(run.parent / "typo")
    with pytest.raises(ValueError, match=r"not a run folder.*it holds beta_ppo"):
        read_run(tmp_path)
    with pytest.raises(ValueError, match=r"unknown algorithm 'sarsa'; valid: .*beta_ppo.*ppo_lstm"):
        read_run(write_run(tmp_path, {}, algo="sarsa"))


@pytest.mark.parametrize(
    ("entry", "calls"),
    [
        (None, ()),
        ("m.W", (WrapperCall("m.W"),)),
        ({"m.W": {"k": 1}}, (WrapperCall("m.W", {"k": 1}),)),
        (["m.W", {"m.V": None}], (WrapperCall("m.W"), WrapperCall("m.V"))),
    ],
)
def test_wrapper_forms(entry: Any, calls: tuple[WrapperCall, ...]) -> None:
    assert wrapper_calls(entry) == calls


@pytest.mark.parametrize("entry", [3, [3], {"m.W": {}, "m.V": {}}])
def test_other_wrapper_forms_are_refused(entry: Any) -> None:
    with pytest.raises(ValueError, match="must be a dotted path"):
        wrapper_calls(entry)


def test_agent_files(tmp_path: Path) -> None:
    folder = write_run(tmp_path, {})
    run = read_run(folder)
    with pytest.raises(ValueError, match=f"no {ENV_ID}.zip in .*; it holds no agent"):
        run.agent_file()
    for steps in (900, 1000):
        (folder / f"rl_model_{steps}_steps.zip").touch()
    assert run.agent_file(last=True).name == "rl_model_1000_steps.zip"  # killed before its last agent was saved
    (folder / f"{ENV_ID}.zip").touch()
    assert run.agent_file().name == f"{ENV_ID}.zip"
    (folder / "best_model.zip").touch()
    assert run.agent_file().name == run.agent_file(best=True).name == "best_model.zip"
    assert run.agent_file(last=True).name == f"{ENV_ID}.zip"
    assert run.agent_file(checkpoint=900).name == "rl_model_900_steps.zip"
    with pytest.raises(ValueError, match=r"no rl_model_7_steps.zip in .*best_model.zip.*rl_model_900_steps.zip"):
        run.agent_file(checkpoint=7)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_is_there(name: str) -> None:
    assert callable(import_by_path(ALGORITHMS[name]).load)


def test_names_that_cannot_be_imported() -> None:
    for path in ("NoDots", "no.such.module.Name", "gymnasium.wrappers.NoSuchWrapper"):
        with pytest.raises(ValueError, match=f"cannot import '{path}'"):
            import_by_path(path)


@pytest.mark.parametrize(("algo", "cls"), [("ppo", PPO), ("beta_ppo", BetaPPO)])
def test_agents_come_back(tmp_path: Path, algo: str, cls: type[PPO]) -> None:
    saved = cls("MlpPolicy", ENV_ID, n_steps=8, batch_size=8, clip_range_vf=0.2, device="cpu")
    saved.save(tmp_path / "agent.zip")
    loaded = load_agent(tmp_path / "agent.zip", algo)
    observation = np.array([[1.0, 0.0, 0.5]], np.float32)
    assert type(loaded) is cls
    np.testing.assert_array_equal(
        loaded.predict(observation, deterministic=True)[0], saved.predict(observation, deterministic=True)[0]
    )


def test_an_agent_with_replay_memory_comes_back_without_it(tmp_path: Path) -> None:
    DQN("MlpPolicy", "CartPole-v1", buffer_size=50_000, device="cpu").save(tmp_path / "agent.zip")
    loaded = load_agent(tmp_path / "agent.zip", "dqn")
    assert loaded.predict(np.zeros((1, 4), np.float32))[0].shape == (1,)


def test_what_is_no_agent_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no zip archive")
    with pytest.raises(ValueError, match=r"text\.zip is no agent that 'ppo' can load"):
        load_agent(tmp_path / "text.zip", "ppo")
    with pytest.raises(ValueError, match=r"no agent .*missing\.zip; .* holds text\.zip"):
        load_agent(tmp_path / "missing.zip", "ppo")
    with pytest.raises(ValueError, match="unknown algorithm 'pp0'; valid"):
        load_agent(tmp_path / "text.zip", "pp0")


@pytest.mark.slow
def test_loading_does_not_import_rl_zoo3(tmp_path: Path) -> None:
    """A schedule of rl-zoo3 in the file would; importing rl-zoo3 patches gymnasium for the whole process."""
    pytest.importorskip("sb3_contrib")
    file = str(tmp_path / "agent.zip")
    save = (
        "from rl_zoo3.utils import SimpleLinearSchedule; from stable_baselines3 import PPO\n"
        "falling = SimpleLinearSchedule(1e-3)\n"
        f"PPO('MlpPolicy', {ENV_ID!r}, falling, clip_range=falling, clip_range_vf=falling, device='cpu').save({file!r})"
    )
    load = (
        "import sys; from sb3_carracing.runs import load_agent\n"
        f"load_agent({file!r}, 'ppo')\n"
        "assert 'rl_zoo3' not in sys.modules"
    )
    for program in (save, load):
        subprocess.run([sys.executable, "-c", program], check=True)


def test_vec_env_is_wrapped_in_rl_zoo3s_order(tmp_path: Path) -> None:
    def make() -> DummyVecEnv:
        return DummyVecEnv([lambda: gym.make(ENV_ID)])

    normalized = VecNormalize(make())
    normalized.obs_rms.mean[:] = [1.0, 2.0, 3.0]  # type: ignore[union-attr]
    file = tmp_path / "vecnormalize.pkl"
    pipeline = Pipeline(ENV_ID, normalize=file, frame_stack=2)
    with pytest.raises(ValueError, match=r"statistics .*vecnormalize\.pkl are missing"):
        pipeline.wrap_vec_env(make())
    normalized.save(str(file))
    venv = pipeline.wrap_vec_env(make())
    assert isinstance(venv, VecFrameStack)
    assert isinstance(venv.venv, VecNormalize)
    assert not venv.venv.training
    assert not venv.venv.norm_reward
    np.testing.assert_array_equal(venv.venv.obs_rms.mean, [1.0, 2.0, 3.0])  # type: ignore[union-attr]


def test_next_free_never_names_a_file_that_exists(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        file = next_free(tmp_path / "evaluation.json")
        file.touch()
        names.append(file.name)
    assert names == ["evaluation.json", "evaluation_2.json", "evaluation_3.json"]


def test_a_training_that_goes_on_meets_tracks_of_its_own() -> None:
    seeds = [seed_to_go_on(seed, steps) for seed in (0, 1, 2**32 - 1) for steps in (1, 50_000, 1_000_000)]
    assert seeds == [seed_to_go_on(seed, steps) for seed in (0, 1, 2**32 - 1) for steps in (1, 50_000, 1_000_000)]
    assert len(set(seeds)) == len(seeds)
    # Environment k gets seed + k: nowhere near the test tracks, and nothing that numpy or torch would refuse.
    assert all(10**9 < seed < 2**31 for seed in seeds)
