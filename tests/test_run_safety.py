"""Run folders as data: nothing in them is imported, evaluated or made without trust."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch as th
import yaml

from sb3_carracing.errors import UserError
from sb3_carracing.files import data_dir
from sb3_carracing.run_safety import DataLoader, check_run_folder, evaluate, read_yaml
from sb3_carracing.runs import read_run

ATTACKS = [
    "!!python/object/apply:os.system ['touch {}']",
    "!!python/object/new:os.system ['touch {}']",
    "!!python/object:os.system {{a: 1}}",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/object/apply:builtins.eval [\"open('{}', 'w')\"]",
    "!!python/object/apply:collections.OrderedDict [!!python/object/apply:os.system ['touch {}']]",
    "!own tag",
]


def run_folder(folder: Path, config: str = "{}", args: str = "{env: Pendulum-v1, algo: beta_ppo}") -> Path:
    parameters = folder / "beta_ppo" / "Pendulum-v1_1" / "Pendulum-v1"
    parameters.mkdir(parents=True)
    (parameters / "config.yml").write_text(config)
    (parameters / "args.yml").write_text(args)
    return parameters.parent


@pytest.mark.parametrize("attack", ATTACKS)
def test_objects_in_yaml(tmp_path: Path, attack: str) -> None:
    """Our own reader makes none; what stands in for rl-zoo3's loader refuses them."""
    target, file = tmp_path / "ran", tmp_path / "config.yml"
    file.write_text(f"a: {attack.format(target)}\n")
    with contextlib.suppress(UserError):
        read_yaml(file)
    with pytest.raises(UserError, match=r"config\.yml holds a Python object .*--trust"), file.open() as stream:
        yaml.load(stream, DataLoader)
    assert not target.exists()


@pytest.mark.parametrize(
    "text", ["[1, 2]", "a: [", "&a [*a]", "{a: &a [*a]}", "a: 1\nb: *c", "\x00", "? {a: 1}\n: 2", "- " * 3000]
)
def test_what_is_no_mapping(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.yml"
    file.write_text(text)
    with contextlib.suppress(UserError):
        assert isinstance(read_yaml(file), dict)


def test_what_rl_zoo3_writes(tmp_path: Path) -> None:
    content = "!!python/object/apply:collections.OrderedDict\n- - - a\n    - !!python/tuple [1, 2]\n  - - b\n    - {c: 3}\n"
    (tmp_path / "config.yml").write_text(content)
    assert read_yaml(tmp_path / "config.yml") == yaml.load(content, DataLoader) == {"a": (1, 2), "b": {"c": 3}}


@pytest.mark.parametrize(
    ("entry", "refused"),
    [
        ("gymnasium.wrappers.FrameStackObservation: {stack_size: 4}", False),
        ("sb3_carracing.envs.wrappers.Grayscale", False),
        ("rl_zoo3.wrappers.TimeFeatureWrapper", False),
        ("evil.Wrapper", True),
        ("os.system", True),
        ("gymnasium.wrappers.RecordVideo: {video_folder: /tmp}", True),
        ("stable_baselines3.common.save_util.load_from_pkl: {path: evil.pkl}", True),
        ("stable_baselines3.common.vec_env.os.System", True),
        ("sb3_carracing.envs.wrappers:evil", True),
    ],
)
@pytest.mark.parametrize("key", ["env_wrapper", "vec_env_wrapper"])
def test_wrappers(tmp_path: Path, key: str, entry: str, refused: bool) -> None:
    folder = run_folder(tmp_path, f"{key}:\n- {entry}\n")
    if refused:
        with pytest.raises(UserError, match=r"config\.yml names the wrapper .*--trust"):
            read_run(folder)
    read_run(folder, trust=True)
    if not refused:
        read_run(folder)


def test_an_environment_that_names_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil_env.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    folder = run_folder(tmp_path, args="{env: 'evil_env:Evil-v0', algo: beta_ppo}")
    with pytest.raises(UserError, match=r"evil_env:Evil-v0.*--trust"):
        read_run(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("True", True),
        ("dict(norm_obs=True, norm_reward=False)", {"norm_obs": True, "norm_reward": False}),
        ("{'norm_obs': True, 'gamma': 0.9}", {"norm_obs": True, "gamma": 0.9}),
        (
            "dict(log_std_init=-2, net_arch=dict(pi=[256, 256], vf=[64] ), activation_fn=nn.ReLU, ortho_init=False)",
            {"log_std_init": -2, "net_arch": {"pi": [256, 256], "vf": [64]}, "activation_fn": th.nn.ReLU, "ortho_init": False},
        ),
        ("dict(optimizer_class=th.optim.AdamW, optimizer_kwargs=dict(betas=(0.9, 0.99), eps=1e-5 * 10))", None),
        ("(1, 2.5, 'a', None)", (1, 2.5, "a", None)),
    ],
)
def test_text_that_is_data(text: str, value: Any) -> None:
    from torch import nn

    expected = eval(text, {"nn": nn, "th": th}) if value is None else value
    assert evaluate(text, "policy_kwargs") == expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "__import__('os').system('true')",
            "open('ran', 'w')",
            "nn.functional.relu",
            "nn.Module.__subclasses__",
            "nn.os.system",
        ),
        *("().__class__.__bases__", "[x for x in range(3)]", "lambda: 1", "dict(**{'a': 1})", "dict([('a', 1)])", "eval('1')"),
        *(
            "9**9**9",
            "'a' * 10**9",
            "f'{1}'",
            "a",
            "1 if True else 2",
            "(",
            "",
            "nn",
            "{**{}}",
            "1 << 999",
            "print(1)",
            "th.load",
        ),
        *("(" * 500, "-" * 5000 + "1", "1," * 20_000, "dict(a=nn.ReLU())", "nn.init.zeros_", "th.optim.lr_scheduler.LambdaLR"),
    ],
)
def test_text_that_is_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="policy_kwargs is the text") as error:
        evaluate(text, "policy_kwargs")
    assert len(str(error.value)) < 700
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["normalize", "policy_kwargs"])
def test_text_in_a_run_folder(tmp_path: Path, key: str) -> None:
    folder = run_folder(tmp_path, f"{key}: \"__import__('os').system('true')\"\n")
    with pytest.raises(UserError, match=rf"config\.yml: {key} is the text"):
        check_run_folder(folder)
    check_run_folder(folder, trust=True)


def test_packaged_runs_are_plain_data() -> None:
    files = list(data_dir("rl-trained-agents").glob("*/*/*/*.yml"))
    assert files
    for file in files:
        assert yaml.safe_load(file.read_text()) == read_yaml(file)
    for folder in data_dir("rl-trained-agents").glob("*/*"):
        check_run_folder(folder)
