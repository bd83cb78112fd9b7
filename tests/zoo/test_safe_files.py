"""rl-zoo3's scripts get to nothing hostile in a run folder, whichever file holds it."""

import base64
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_carracing.cli import main
from sb3_carracing.zoo.safe_files import safe_files

ENV = "Pendulum-v1"


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a stock PPO run that normalises."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "logs" / "ppo" / f"{ENV}_1"
    (folder / ENV).mkdir(parents=True)
    (folder / ENV / "config.yml").write_text("normalize: \"{'norm_obs': True, 'norm_reward': False}\"\n")
    (folder / ENV / "args.yml").write_text(yaml.safe_dump({"env": ENV, "algo": "ppo", "env_kwargs": None}))
    venv = VecNormalize(make_vec_env(ENV))
    PPO("MlpPolicy", venv, n_steps=64, device="cpu", learning_rate=lambda progress: 1e-3 * progress).save(
        folder / f"{ENV}.zip"
    )
    venv.save(str(folder / ENV / "vecnormalize.pkl"))
    return folder


def enjoy(*options: str) -> None:
    main(["enjoy", "--algo", "ppo", "--env", ENV, "-f", "logs", "--no-render", "-n", "3", *options])


def poison(run: Path, where: str, target: Path) -> None:
    config, args = run / ENV / "config.yml", run / ENV / "args.yml"
    attack = pickle.dumps(Attack(target))
    call = f"__import__('os').mkdir({str(target)!r})"
    if where == "tag in config.yml":
        config.write_text(f"a: !!python/object/apply:os.mkdir [{target}]\n")
    elif where == "tag in args.yml":
        args.write_text(f"env_kwargs: !!python/object/apply:os.mkdir [{target}]\n")
    elif where == "normalize":
        config.write_text(yaml.safe_dump({"normalize": call}))
    elif where == "wrapper":
        Path("evil.py").write_text(f"import os\nos.mkdir({str(target)!r})\nWrapper = None\n")
        config.write_text(yaml.safe_dump({"env_wrapper": "evil.Wrapper"}))
    elif where == "running means":
        (run / ENV / "vecnormalize.pkl").write_bytes(attack)
    else:
        entry = {":type:": "x", ":serialized:": base64.b64encode(attack).decode()}
        with zipfile.ZipFile(run / f"{ENV}.zip") as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        entries["data"] = json.dumps({**json.loads(entries["data"]), "note": entry}).encode()
        with zipfile.ZipFile(run / f"{ENV}.zip", "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, content)


def test_what_sb3_and_rl_zoo3_write_is_played(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    enjoy()
    assert "Loading running average" in capsys.readouterr().out


@pytest.mark.parametrize("where", ["tag in config.yml", "tag in args.yml", "normalize", "wrapper", "running means", "agent"])
def test_nothing_is_run(run: Path, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    poison(run, where, tmp_path / "ran")
    with pytest.raises(SystemExit) as ended:
        enjoy()
    assert ended.value.code == 2
    assert "--trust" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore:trusted")
def test_trust_lifts_it(run: Path, tmp_path: Path) -> None:
    poison(run, "agent", tmp_path / "ran")
    enjoy("--trust")
    assert (tmp_path / "ran").exists()


def test_everything_is_as_before_afterwards() -> None:
    load, save, loader = VecNormalize.load, VecNormalize.save, yaml.UnsafeLoader
    with safe_files():
        assert yaml.UnsafeLoader is not loader
    assert (VecNormalize.load, VecNormalize.save, yaml.UnsafeLoader) == (load, save, loader)
