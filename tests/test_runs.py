"""Run folders: what rl-zoo3 writes is read back; what is missing is named."""

import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
from stand_ins import write_run

from sb3_carracing.pipelines import Pipeline, WrapperCall
from sb3_carracing.runs import read_run, seed_to_go_on

ENV_ID = "Pendulum-v1"


def test_read_run_gives_the_pipeline_of_the_yaml(tmp_path: Path) -> None:
    config = {
        "env_wrapper": ["a.b.Plain", {"a.b.With": {"x": 1}}],
        "vec_env_wrapper": "c.d.Vec",
        "env_kwargs": {"frame_skip": 4},
        "frame_stack": 4,
        "normalize": "{'norm_obs': True}",
        "policy_kwargs": {"net_arch": (64, 64), "activation_fn": OrderedDict},
    }
    folder = write_run(tmp_path, config)
    with pytest.raises(ValueError, match=r"names the wrapper a\.b\.Plain, which is imported only with trust=True"):
        read_run(folder)
    run = read_run(folder, trust=True)
    assert run.algo == "beta_ppo"
    assert run.pipeline == Pipeline(
        env_id=ENV_ID,
        env_kwargs={"frame_skip": 4},
        wrappers=(WrapperCall("a.b.Plain"), WrapperCall("a.b.With", {"x": 1})),
        vec_wrappers=(WrapperCall("c.d.Vec"),),
        normalize=tmp_path / "beta_ppo" / f"{ENV_ID}_1" / ENV_ID / "vecnormalize.pkl",
        frame_stack=4,
        trust=True,
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


def write_zip(file: Path, damaged: bool = False) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("agent.json", b"{}" * 100)
    if damaged:
        file.write_bytes(file.read_bytes()[:100])


def test_a_damaged_agent_gives_way_to_the_newest_readable_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path, {})
    run = read_run(folder)
    write_zip(folder / f"{ENV_ID}.zip", damaged=True)
    write_zip(folder / "best_model.zip", damaged=True)
    assert run.agent_file(best=True).name == "best_model.zip", "its own error is better than none"
    write_zip(folder / "rl_model_900_steps.zip")
    write_zip(folder / "rl_model_1000_steps.zip")
    write_zip(folder / "rl_model_2000_steps.zip", damaged=True)
    capsys.readouterr()
    for choice, file in (({}, "best_model.zip"), ({"last": True}, f"{ENV_ID}.zip"), ({"best": True}, "best_model.zip")):
        assert run.agent_file(**choice).name == "rl_model_1000_steps.zip"
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert f"{folder / file} wasn't a zip-file, or it is truncated" in said
        assert f"taking rl_model_1000_steps.zip, the newest readable agent of {folder}" in said
    assert run.agent_file(checkpoint=2000).name == "rl_model_2000_steps.zip"
    assert run.agent_file(checkpoint=900).name == "rl_model_900_steps.zip"
    assert capsys.readouterr().err == ""


def test_a_training_that_goes_on_meets_tracks_of_its_own() -> None:
    seeds = [seed_to_go_on(seed, steps) for seed in (0, 1, 2**32 - 1) for steps in (1, 50_000, 1_000_000)]
    assert seeds == [seed_to_go_on(seed, steps) for seed in (0, 1, 2**32 - 1) for steps in (1, 50_000, 1_000_000)]
    assert len(set(seeds)) == len(seeds)
    # Environment k gets seed + k: nowhere near the test tracks, and nothing that numpy or torch would refuse.
    assert all(10**9 < seed < 2**31 for seed in seeds)
