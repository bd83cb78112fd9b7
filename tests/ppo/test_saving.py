"""Agents without pickle: nothing lost on the way through a file, nothing of SB3's files run."""

import base64
import contextlib
import copy
import inspect
import io
import json
import os
import pickle
import warnings
import zipfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import safetensors.torch
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tasks import AnySpaces
from torch import nn

from sb3_carracing import BetaPPO
from sb3_carracing.cli import main
from sb3_carracing.converting import convert
from sb3_carracing.errors import UserError
from sb3_carracing.ppo import policies
from sb3_carracing.ppo.policies import BetaActorCriticPolicy
from sb3_carracing.ppo.saving import writing
from sb3_carracing.ppo.saving.archives import Archive, read_file
from sb3_carracing.ppo.saving.named_classes import ClassFinder
from sb3_carracing.ppo.saving.plain_data import Decoder, Encoder
from sb3_carracing.ppo.saving.sb3_files import load_sb3_agent, read_sb3_zip
from sb3_carracing.ppo.saving.schedules import schedule_as_data, schedule_from_data
from sb3_carracing.ppo.saving.unpickling import read_pickle
from sb3_carracing.ppo.saving.vec_normalize import read_statistics, write_statistics

VECTOR = spaces.Box(-1.0, 1.0, (3,))
IMAGE = spaces.Box(0, 255, (3, 36, 36), dtype=np.uint8)
ACTION = spaces.Box(np.array([-1.0, 0.0], dtype=np.float32), np.array([3.0, 0.5], dtype=np.float32))
SMALL: dict[str, Any] = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "device": "cpu", "seed": 0}


def small(env: Any = None, policy: Any = "MlpPolicy", **options: Any) -> BetaPPO:
    return BetaPPO(policy, env or AnySpaces(VECTOR, ACTION), **{**SMALL, **options})


def save_as_sb3(model: BaseAlgorithm, path: Path) -> Path:
    """Save in SB3's format, as earlier versions of BetaPPO did."""
    BaseAlgorithm.save(model, path)
    return path


def beta_options(model: BetaPPO) -> dict[str, Any]:
    return dict(model.policy._beta_options)  # type: ignore[arg-type]


def load(path: Path, **options: Any) -> BetaPPO:
    return BetaPPO.load(path, device="cpu", **options)


def rewrite(path: Path, changes: dict[str, bytes | None] | None = None, **document: Any) -> Path:
    """Change entries of an archive, or keys of its agent.json."""
    with zipfile.ZipFile(path) as archive:
        entries: dict[str, bytes | None] = {name: archive.read(name) for name in archive.namelist()}
    if document:
        content = json.loads(entries["agent.json"] or b"")
        entries["agent.json"] = json.dumps({**content, **document}).encode()
    entries |= changes or {}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            if data is not None:
                archive.writestr(name, data)
    return path


def document_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(zipfile.ZipFile(path).read("agent.json"))
    return content


def assert_same(ours: Any, theirs: Any) -> None:
    """Compare values of any kind, NaN and types included."""
    assert type(ours) is type(theirs), (ours, theirs)
    if isinstance(ours, np.ndarray | th.Tensor):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
        assert ours.dtype == theirs.dtype
    elif isinstance(ours, dict):
        assert set(ours) == set(theirs)
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, list | tuple | deque):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
        assert getattr(ours, "maxlen", None) == getattr(theirs, "maxlen", None)
    elif isinstance(ours, spaces.Space):
        assert ours == theirs
        assert_same(ours.dtype, theirs.dtype)
        states = [space._np_random and space._np_random.bit_generator.state for space in (ours, theirs)]
        assert states[0] == states[1]
    elif callable(ours) and not isinstance(ours, type):
        assert [ours(p) for p in np.linspace(0, 1, 77)] == [theirs(p) for p in np.linspace(0, 1, 77)]
    else:
        assert ours == theirs or (ours != ours and theirs != theirs)


def assert_same_model(ours: BetaPPO, theirs: BetaPPO) -> None:
    left_out = {"policy", "env", "device", "rollout_buffer", "_vec_normalize_env", "_logger", "_custom_logger", "_watch"}
    left_out |= {"_callback", "_on_resume"}
    attributes, others = ({k: v for k, v in vars(m).items() if k not in left_out} for m in (ours, theirs))
    assert set(attributes) == set(others)
    for model in (attributes, others):
        # NatureCNN draws an observation whenever it is made, SB3's as ours.
        model["observation_space"] = copy.deepcopy(model["observation_space"])
        model["observation_space"]._np_random = None
    for name in attributes:
        assert_same(attributes[name], others[name])
    assert_same(dict(ours.policy.state_dict()), dict(theirs.policy.state_dict()))
    assert_same(ours.policy.optimizer.state_dict(), theirs.policy.optimizer.state_dict())
    assert str(ours.policy) == str(theirs.policy)


# --- nothing is lost ------------------------------------------------------------------------------------------------


class TestRoundTrip:
    @pytest.mark.parametrize(
        ("policy", "observation_space"),
        [
            ("MlpPolicy", VECTOR),
            ("CnnPolicy", IMAGE),
            ("MultiInputPolicy", spaces.Dict({"vector": VECTOR, "image": IMAGE, "kind": spaces.Discrete(3)})),
            ("MlpPolicy", spaces.MultiDiscrete([3, 4])),
        ],
        ids=["mlp", "cnn", "dict", "multidiscrete observations"],
    )
    @pytest.mark.parametrize(
        "action_space",
        [ACTION, spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)],
        ids=["box", "discrete", "multidiscrete", "multibinary"],
    )
    def test_every_attribute_and_weight(self, tmp_path: Path, policy: str, observation_space: Any, action_space: Any) -> None:
        model = small(AnySpaces(observation_space, action_space), policy).learn(32)
        model.save(tmp_path / "agent")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loaded = load(tmp_path / "agent")
        assert_same_model(loaded, model)

    def test_options(self, tmp_path: Path) -> None:
        options = {
            "policy_kwargs": {
                "net_arch": {"pi": [8], "vf": [7, 5]},
                "activation_fn": nn.ReLU,
                "optimizer_class": th.optim.AdamW,
                "optimizer_kwargs": {"weight_decay": 0.1, "betas": (0.8, 0.9)},
                "share_features_extractor": False,
                "initial_mean": [0.5, 0.1],
                "parameterization": "mode",
            },
            "learning_rate": LinearSchedule(1e-3, 1e-5, 0.5),
            "clip_range": 0.1,
            "clip_range_vf": LinearSchedule(0.3, 0.1, 1.0),
            "max_grad_norm": float("inf"),
            "value_loss": "huber",
            "stats_window_size": 5,
        }
        model = small(**options).learn(64)
        model.running_score = float("nan")  # type: ignore[attr-defined]
        model.notes = {"a": (1, np.float32(2.5)), 3: {"b", "c"}}  # type: ignore[attr-defined]
        model.save(tmp_path / "agent")
        assert_same_model(load(tmp_path / "agent"), model)

    def test_rl_zoos_schedule_without_rl_zoo3(self, tmp_path: Path) -> None:
        zoo = type("SimpleLinearSchedule", (), {"__module__": "rl_zoo3.utils", "__call__": lambda self, p: p * 3.1e-4})
        schedule = zoo()
        schedule.initial_value = 3.1e-4
        model = small(learning_rate=schedule)
        model.save(tmp_path / "agent")
        assert_same(load(tmp_path / "agent").lr_schedule, model.lr_schedule)
        assert "rl_zoo3" not in (tmp_path / "agent.zip").read_bytes().decode("latin1")

    def test_every_option_is_named(self, tmp_path: Path) -> None:
        """So that a default that changes later changes no saved agent."""
        small().save(tmp_path / "agent")
        options = document_of(tmp_path / "agent.zip")["policy"]["options"]
        arguments = set(inspect.signature(ActorCriticPolicy).parameters) | set(policies.BETA_OPTIONS)
        assert arguments - {"observation_space", "action_space", "lr_schedule", "use_sde"} <= set(options)

    def test_a_default_that_changes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model = small()
        model.save(tmp_path / "agent")
        save_as_sb3(small(policy_kwargs={"parameterization": "softplus"}), tmp_path / "sb3.zip")
        data = json.loads(zipfile.ZipFile(tmp_path / "sb3.zip").read("data"))
        rewrite(tmp_path / "sb3.zip", {"data": json.dumps({**data, "policy_kwargs": {}}).encode()})
        monkeypatch.setattr(
            policies, "BETA_OPTIONS", {**policies.BETA_OPTIONS, "parameterization": "mode", "initial_mean": 0.3}
        )
        assert beta_options(small()) != beta_options(model)
        assert beta_options(load(tmp_path / "agent")) == beta_options(model)
        expected = {
            "parameterization": "softplus",
            "initial_mean": None,
            "deterministic_action": "mode",
            "max_concentration": 1e4,
            "margin": 0.0,
            "initial_concentration": None,
        }
        assert beta_options(load(tmp_path / "sb3.zip")) == expected
        assert load(tmp_path / "sb3.zip").policy_kwargs == {}

    def test_streams(self) -> None:
        model, stream = small().learn(32), io.BytesIO()
        model.save(stream)
        stream.seek(0)
        assert_same_model(load(stream), model)  # type: ignore[arg-type]

    def test_paths(self, tmp_path: Path) -> None:
        model = small()
        with pytest.warns(UserWarning, match="does not exist. Will create it"):
            model.save(str(tmp_path / "new.d" / "agent"))
        assert load(tmp_path / "new.d" / "agent.zip").num_timesteps == 0
        model.save(tmp_path / "agent.v2")
        assert (tmp_path / "agent.v2").is_file()
        with pytest.warns(UserWarning, match="is a folder. Will save instead"):
            model.save(tmp_path / "new.d")
        assert (tmp_path / "new.d_2").is_file()

    def test_exclude_and_include(self, tmp_path: Path) -> None:
        model = small(gamma=0.5)
        model.save(tmp_path / "agent", exclude=["gamma"])
        assert load(tmp_path / "agent").gamma == 0.99
        with pytest.warns(UserWarning, match="lacks what cannot be saved without pickle"):
            model.save(tmp_path / "agent", include=["rollout_buffer"])

    def test_a_file_is_replaced_at_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "agent.zip").write_bytes(b"old")

        def fails(*_: Any) -> None:
            raise OSError("full")

        monkeypatch.setattr(os, "fsync", fails)
        monkeypatch.setattr(Path, "write_bytes", fails)
        with pytest.raises(OSError, match="full"):
            small().save(tmp_path / "agent")
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]

    def test_training_goes_on_as_with_sb3s_file(self, tmp_path: Path) -> None:
        weights = []
        for save in (lambda model, path: model.save(path), save_as_sb3):
            options = {"parameterization": "exp"}
            model = small(AnySpaces(VECTOR, ACTION), learning_rate=lambda p: 1e-3 * p, policy_kwargs=options).learn(96)
            save(model, tmp_path / "agent.zip")
            if save is save_as_sb3:
                loaded = load(tmp_path / "agent.zip", env=AnySpaces(VECTOR, ACTION), trust=True)
            else:
                loaded = load(tmp_path / "agent.zip", env=AnySpaces(VECTOR, ACTION))
            loaded.set_random_seed(3)
            loaded.get_env().seed(3)  # type: ignore[union-attr]
            weights.append(loaded.learn(64, reset_num_timesteps=False).policy.state_dict())
        assert_same(*map(dict, weights))

    def test_set_parameters_from_a_file(self, tmp_path: Path) -> None:
        model = small().learn(32)
        model.save(tmp_path / "agent")
        save_as_sb3(model, tmp_path / "sb3.zip")
        for name in ("agent.zip", "sb3.zip"):
            other = small(seed=5)
            other.set_parameters(str(tmp_path / name), device="cpu")
            assert_same(dict(other.policy.state_dict()), dict(model.policy.state_dict()))
            assert_same(other.policy.optimizer.state_dict(), model.policy.optimizer.state_dict())

    def test_no_pickle_in_what_is_written(self, tmp_path: Path) -> None:
        small(policy="CnnPolicy", env=AnySpaces(IMAGE, ACTION)).learn(32).save(tmp_path / "agent")
        archive = zipfile.ZipFile(tmp_path / "agent.zip")
        assert set(archive.namelist()) == writing.ENTRIES
        for name in archive.namelist():
            with pytest.raises(
                (pickle.UnpicklingError, ValueError, EOFError, KeyError, IndexError, ImportError, AttributeError)
            ):
                pickle.loads(archive.read(name))

    def test_optimizer_state_is_laid_out_as_the_weights(self, tmp_path: Path) -> None:
        options = {"policy_kwargs": {"features_extractor_class": "blog"}}
        big = spaces.Box(0, 255, (4, 96, 96), dtype=np.uint8)
        small(AnySpaces(big, ACTION), "CnnPolicy", **options).learn(32).save(tmp_path / "agent")
        optimizer = load(tmp_path / "agent").policy.optimizer
        for parameter, state in optimizer.state.items():
            assert state["exp_avg"].stride() == parameter.stride()


class TestSpaces:
    @pytest.mark.parametrize(
        "space",
        [
            spaces.Box(np.array([-1, -np.inf, 3]), np.array([np.inf, 2, 4]), dtype=np.float64),
            spaces.Box(-1.5, 1.5, (), dtype=np.float16),
            spaces.Box(np.zeros((2, 2)), np.array([[1, 2], [3, 4]]), dtype=np.int16),
            spaces.Box(0, 1, (2,), dtype=np.bool_),  # type: ignore[arg-type]
            spaces.Discrete(3, start=-2),
            spaces.Discrete(3, dtype=np.int32),
            spaces.MultiDiscrete([[3, 4], [5, 6]], start=[[1, 1], [0, 2]]),  # type: ignore[list-item]
            spaces.MultiBinary([2, 3]),
            spaces.Dict([("b", spaces.Dict({"c": spaces.Discrete(3)})), ("a", spaces.Tuple([spaces.MultiBinary(2)]))]),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("seed", [None, 3])
    def test_both_formats(self, space: spaces.Space[Any], seed: int | None) -> None:
        space = copy.deepcopy(space)
        if seed is not None:
            space.seed(seed)
        encode, find_class = Encoder(), ClassFinder("file", {}, trust=False)
        data = json.loads(json.dumps(encode("space", space), allow_nan=False))
        for read in (
            Decoder(encode.arrays, find_class)("space", data),
            read_pickle(cloudpickle.dumps(space), "space", find_class),
        ):
            assert_same(read, space)
            if isinstance(space, spaces.Dict):
                assert list(read) == list(space)


class TestSchedules:
    @pytest.mark.parametrize(
        ("function", "kind"),
        [
            (lambda p: 3.3e-4, "constant"),
            (lambda p: p * 3.3e-4, "proportional"),
            (lambda p: 3.3e-4 * p, "proportional"),
            (lambda p: 1e-4 + (1 - p) * (1e-5 - 1e-4) / 1.0, "linear"),
            (lambda p: 1e-3 * p**2 + 1e-5, "sampled"),
        ],
    )
    def test_functions(self, function: Callable[[float], float], kind: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            data = schedule_as_data("learning_rate", function)
        assert data["kind"] == kind
        schedule = schedule_from_data(json.loads(json.dumps(data)))
        for progress in np.random.default_rng(0).uniform(0, 1, 300):
            assert schedule(progress) == pytest.approx(function(progress), rel=0 if kind != "sampled" else 1e-4)

    def test_a_jump_is_warned_of(self) -> None:
        with pytest.warns(UserWarning, match=r"learning_rate is a function.*differ from it.*load\(..., learning_rate="):
            schedule_as_data("learning_rate", lambda p: 1e-3 if p > 0.43217 else 1e-4)

    def test_a_function_that_is_not_defined_at_the_end(self, tmp_path: Path) -> None:
        with pytest.warns(UserWarning, match="is a function"):
            small(learning_rate=lambda p: 1e-4 / p).save(tmp_path / "agent")
        assert load(tmp_path / "agent").lr_schedule(1.0) == 1e-4


# --- classes from elsewhere -----------------------------------------------------------------------------------------


class OwnExtractor(FlattenExtractor):
    pass


class OwnPolicy(BetaActorCriticPolicy):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "ortho_init": False})


class TestClasses:
    def test_an_extractor_needs_trust_or_to_be_passed(self, tmp_path: Path) -> None:
        policy_kwargs = {"features_extractor_class": OwnExtractor}
        model = small(policy_kwargs=policy_kwargs)
        for save in (lambda model, path: model.save(path), save_as_sb3):
            save(model, tmp_path / "agent.zip")
            with pytest.raises(UserError, match=rf"agent.zip.*{__name__}.OwnExtractor.*trust=True"):
                load(tmp_path / "agent.zip")
            assert_same_model(load(tmp_path / "agent.zip", policy_kwargs=policy_kwargs), model)
            assert_same_model(load(tmp_path / "agent.zip", custom_objects={"policy_kwargs": policy_kwargs}), model)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert_same_model(load(tmp_path / "agent.zip", trust=True), model)

    def test_trust_is_warned_of(self, tmp_path: Path) -> None:
        small(policy=OwnPolicy).save(tmp_path / "agent")
        with pytest.warns(UserWarning, match=r"is trusted: .*OwnPolicy is imported"):
            assert type(load(tmp_path / "agent", trust=True).policy) is OwnPolicy

    def test_a_policy(self, tmp_path: Path) -> None:
        model = small(policy=OwnPolicy, policy_kwargs={"net_arch": [5]})
        model.save(tmp_path / "agent")
        with pytest.raises(UserError, match="OwnPolicy"):
            load(tmp_path / "agent")
        assert_same_model(load(tmp_path / "agent", custom_objects={"policy_class": OwnPolicy}), model)

    def test_a_changed_default_of_a_class_from_elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It takes any keyword, and gives its base class some of them itself."""

        class Fixed(BetaActorCriticPolicy):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, initial_mean=[0.0, 0.2], **kwargs)

        model = small(policy=Fixed)
        with pytest.warns(UserWarning, match="within a function"):
            model.save(tmp_path / "agent")
        monkeypatch.setattr(policies, "BETA_OPTIONS", {**policies.BETA_OPTIONS, "parameterization": "mode"})
        loaded = load(tmp_path / "agent", custom_objects={"policy_class": Fixed})
        assert beta_options(loaded) == beta_options(model)

    def test_a_class_within_a_function(self, tmp_path: Path) -> None:
        class Inner(FlattenExtractor):
            pass

        policy_kwargs = {"features_extractor_class": Inner}
        model = small(policy_kwargs=policy_kwargs)
        with pytest.warns(UserWarning, match="within a function"):
            model.save(tmp_path / "agent")
        with pytest.raises(UserError, match="Inner"):
            load(tmp_path / "agent")
        assert_same_model(load(tmp_path / "agent", policy_kwargs=policy_kwargs), model)

    def test_what_is_no_data_is_asked_for(self, tmp_path: Path) -> None:
        class Extractor(FlattenExtractor):
            def __init__(self, observation_space: Any, function: Any) -> None:
                super().__init__(observation_space)

        policy_kwargs = {"features_extractor_class": Extractor, "features_extractor_kwargs": {"function": abs}}
        model = small(policy_kwargs=policy_kwargs)
        model.note = object()  # type: ignore[attr-defined]
        with pytest.warns(UserWarning, match=r"lacks what cannot be saved.*features_extractor_kwargs.*note"):
            model.save(tmp_path / "agent")
        with pytest.raises(UserError, match=r"lacks policy_kwargs.*custom_objects"):
            load(tmp_path / "agent")
        with pytest.warns(UserWarning, match="lacks note"):
            loaded = load(tmp_path / "agent", custom_objects={"policy_kwargs": policy_kwargs})
        assert_same(dict(loaded.policy.state_dict()), dict(model.policy.state_dict()))

    def test_a_space_of_an_own_class(self, tmp_path: Path) -> None:
        class OwnBox(spaces.Box):
            pass

        space = OwnBox(-1.0, 1.0, (3,))
        with pytest.warns(UserWarning, match=r"lacks what cannot be saved.*OwnBox"):
            small(AnySpaces(space, ACTION)).save(tmp_path / "agent")
        with pytest.raises(UserError, match="observation_space cannot be read: it could not be saved"):
            load(tmp_path / "agent")
        assert load(tmp_path / "agent", custom_objects={"observation_space": space}).observation_space is space

    @pytest.mark.parametrize(
        "name",
        [
            *("os.system", "builtins.eval", "subprocess.Popen", "tests.nothing.Here", "torch.hub.load"),
            *(
                "stable_baselines3.common.save_util.load_from_pkl",
                "sb3_carracing.ppo.saving.writing.os",
                "torch.nn.functional.relu",
            ),
            *("sb3_carracing.ppo.saving.writing.Path", "stable_baselines3.nowhere.Policy", "", ".", "torch.nn", "torch.nn."),
        ],
    )
    def test_other_names(self, tmp_path: Path, name: str) -> None:
        small().save(tmp_path / "agent")
        path = tmp_path / "agent.zip"
        policy = {**document_of(path)["policy"], "class": name}
        with pytest.raises(UserError, match=r"agent.zip"):
            load(rewrite(path, policy=policy))

    def test_a_module_is_not_imported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Policy: pass\n")
        monkeypatch.syspath_prepend(tmp_path)
        small().save(tmp_path / "agent")
        path = tmp_path / "agent.zip"
        rewrite(path, policy={**document_of(path)["policy"], "class": "evil.Policy"})
        with pytest.raises(UserError, match=r"evil\.Policy"):
            load(path)
        assert not (tmp_path / "ran").exists()
        with (
            pytest.warns(UserWarning, match="evil.Policy is imported"),
            pytest.raises(UserError, match="not part of an agent"),
        ):
            load(path, trust=True)
        assert (tmp_path / "ran").exists()


# --- hostile pickles ------------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def hostile(target: Path) -> dict[str, bytes]:
    """Return pickles that create `target` when they are unpickled."""
    command = f"open({str(target)!r}, 'w')"
    shell = f"touch {target}"
    functions = {
        "os.system": Call(os.system, shell),
        "eval": Call(eval, command),
        "exec": Call(exec, command),
        "getattr chain": Call(Call(getattr, Call(__import__, "os"), "system"), shell)
        if False
        else Call(getattr, os, "system"),
        "in a list": [1, {"a": (Call(os.system, shell),)}],
        "in an array": np.array([Call(os.system, shell)], dtype=object),
        "lambda": lambda: command,
        "in a deque": deque([Call(os.system, shell)], 3),
        "in a space": spaces.Dict({"a": VECTOR}),
        "class by value": type("Own", (), {"__init__": lambda self: None}),
        "partial": __import__("functools").partial(os.system, shell),
        "module": os,
        "pickle.loads": Call(pickle.loads, pickle.dumps(Call(os.system, shell))),
        "torch.load": Call(th.load, str(target)),
        "sb3 pickle reader": Call(__import__("stable_baselines3.common.save_util", fromlist=["x"]).load_from_pkl, str(target)),
    }
    functions["in a space"]._np_random = Call(os.system, shell)
    pickles = {name: cloudpickle.dumps(value) for name, value in functions.items()}
    # Made, dropped, and replaced by something innocent.
    pickles["dropped"] = b"cos\nsystem\n(S'" + shell.encode() + b"'\ntR0I1\n."
    pickles["inst"] = b"(S'" + shell.encode() + b"'\nios\nsystem\n."
    pickles["obj"] = b"(cos\nsystem\nS'" + shell.encode() + b"'\no."
    module, name = b"stable_baselines3.common.save_util", b"pickle.loads"
    stack_global = b"\x8c" + bytes([len(module)]) + module + b"\x8c" + bytes([len(name)]) + name + b"\x93"
    pickles["dotted name"] = b"\x80\x04" + stack_global + b"B\x03\x00\x00\x00I1\n\x85R."
    pickles["state of a class"] = b"\x80\x04cstable_baselines3.ppo.ppo\nPPO\n(S'x'\nI1\ndb."
    pickles["persistent"] = b"\x80\x04\x8c\x01aQ."
    return pickles


@pytest.fixture(scope="module")
def sb3_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_as_sb3(small().learn(32), tmp_path_factory.mktemp("sb3") / "agent.zip")


def with_pickle(path: Path, key: str, content: bytes) -> Path:
    data = json.loads(zipfile.ZipFile(path).read("data"))
    data[key] = {":type:": "x", ":serialized:": base64.b64encode(content).decode()}
    return rewrite(path, {"data": json.dumps(data).encode()})


class TestPickles:
    @pytest.mark.parametrize("name", sorted(hostile(Path("/nowhere"))))
    @pytest.mark.parametrize("key", ["learning_rate", "observation_space", "ep_info_buffer", "something_new"])
    def test_nothing_is_run(self, tmp_path: Path, sb3_file: Path, name: str, key: str) -> None:
        target, path = tmp_path / "ran", tmp_path / "agent.zip"
        path.write_bytes(sb3_file.read_bytes())
        with_pickle(path, key, hostile(target)[name])
        for read in (load, read_sb3_zip, lambda path: load_sb3_agent(PPO, path, device="cpu")):
            with pytest.raises(UserError, match=r"agent.zip") as error:
                read(path)
            assert "\n" not in str(error.value)
        assert not target.exists()

    def test_the_class_is_named(self, tmp_path: Path, sb3_file: Path) -> None:
        path = tmp_path / "agent.zip"
        path.write_bytes(sb3_file.read_bytes())
        with_pickle(path, "learning_rate", pickle.dumps(Call(os.system, "true")))
        with pytest.raises(UserError, match=r"learning_rate is pickled with (posix|nt).system, .* trust=True \(--trust\)"):
            load(path)

    def test_trust_runs_it_and_warns(self, tmp_path: Path, sb3_file: Path) -> None:
        path, target = tmp_path / "agent.zip", tmp_path / "ran"
        path.write_bytes(sb3_file.read_bytes())
        with_pickle(path, "note", pickle.dumps(Call(os.mkdir, str(target))))
        with pytest.warns(UserWarning, match="mkdir"):
            load(path, trust=True)
        assert target.exists()

    def test_what_the_caller_brings_is_not_read(self, tmp_path: Path) -> None:
        path = save_as_sb3(small(learning_rate=lambda p: p), tmp_path / "agent.zip")
        with pytest.raises(UserError, match="learning_rate is pickled with cloudpickle"):
            load(path)
        assert load(path, custom_objects={"learning_rate": 0.5}).lr_schedule(1.0) == 0.5
        assert load(path, learning_rate=0.25).lr_schedule(1.0) == 0.25

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"garbage",
            b"\x80\x05r\xff\xff\xff\x7fN.",
            b"\x80\x04\x8e\xff\xff\xff\xff\xff\x00\x00\x00.",
            b"]" * 100_000 + b"a" * 99_999 + b".",
            b"\x80\x04]\x94h\x00a.",
            b"\x82\x01.",
            pickle.dumps(np.dtype("O")),
            pickle.dumps(np.array(["a"])),
        ],
    )
    def test_damage_and_bombs(self, tmp_path: Path, sb3_file: Path, content: bytes) -> None:
        path = tmp_path / "agent.zip"
        path.write_bytes(sb3_file.read_bytes())
        with pytest.raises(UserError, match=r"agent.zip"):
            load(with_pickle(path, "observation_space", content))

    def test_an_array_that_claims_more_than_it_has(self, tmp_path: Path, sb3_file: Path) -> None:
        array = pickle.dumps(np.zeros(3), protocol=2).replace(b"K\x03\x85", b"J\xff\xff\xff\x7f\x85")
        path = tmp_path / "agent.zip"
        path.write_bytes(sb3_file.read_bytes())
        with pytest.raises(UserError, match=r"agent.zip"):
            load(with_pickle(path, "_last_obs", array))

    def test_an_environment_by_name(self, tmp_path: Path, sb3_file: Path) -> None:
        path = tmp_path / "agent.zip"
        path.write_bytes(sb3_file.read_bytes())
        data = json.loads(zipfile.ZipFile(path).read("data")) | {"env": "evil_module:Evil-v0"}
        rewrite(path, {"data": json.dumps(data).encode()})
        for read in (load, lambda path: load_sb3_agent(PPO, path)):
            with pytest.raises(UserError, match="brings an environment"):
                read(path)

    @pytest.mark.parametrize("key", ["learn", "predict", "set_parameters", "logger", "policy", "env"])
    def test_no_method_is_hidden(self, tmp_path: Path, sb3_file: Path, key: str) -> None:
        path = tmp_path / "agent.zip"
        path.write_bytes(sb3_file.read_bytes())
        data = json.loads(zipfile.ZipFile(path).read("data")) | {key: 1}
        with pytest.raises(UserError):
            load(rewrite(path, {"data": json.dumps(data).encode()}))

    def test_weights_are_not_unpickled(self, tmp_path: Path, sb3_file: Path) -> None:
        path, target, stream = tmp_path / "agent.zip", tmp_path / "ran", io.BytesIO()
        th.save({"a": Call(os.mkdir, str(target))}, stream)
        for entry in ("policy.pth", "policy.optimizer.pth", "other.pth"):
            path.write_bytes(sb3_file.read_bytes())
            rewrite(path, {entry: stream.getvalue()})
            with pytest.raises(UserError, match=rf"agent.zip: {entry}"):
                load(path)
            with pytest.raises(UserError, match=rf"agent.zip: {entry}"):
                small().set_parameters(str(path))
        assert not target.exists()


class TestStockAgents:
    """The list admits what SB3 and sb3-contrib save."""

    @pytest.mark.parametrize(
        ("algorithm", "env_id", "options"),
        [
            (PPO, "Pendulum-v1", {"n_steps": 64, "policy_kwargs": {"activation_fn": nn.ReLU, "net_arch": [8]}}),
            (PPO, "Pendulum-v1", {"n_steps": 64, "use_sde": True}),
            (A2C, "CartPole-v1", {"learning_rate": LinearSchedule(1e-3, 1e-4, 1.0)}),
            (DQN, "CartPole-v1", {"buffer_size": 100}),
            (SAC, "Pendulum-v1", {"buffer_size": 100}),
            (TD3, "Pendulum-v1", {"buffer_size": 100, "action_noise": NormalActionNoise(np.zeros(1), np.ones(1))}),
            (TD3, "Pendulum-v1", {"buffer_size": 9, "action_noise": OrnsteinUhlenbeckActionNoise(np.zeros(1), np.ones(1))}),
        ],
    )
    def test_load_without_trust(self, tmp_path: Path, algorithm: Any, env_id: str, options: dict[str, Any]) -> None:
        env = make_vec_env(env_id, seed=1)
        model = algorithm("MlpPolicy", env, device="cpu", seed=0, **options).learn(128)
        model.save(tmp_path / "agent.zip")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loaded = load_sb3_agent(algorithm, tmp_path / "agent.zip", device="cpu")
        data, states = read_sb3_zip(tmp_path / "agent.zip")
        assert data["num_timesteps"] == model.num_timesteps
        assert set(model.get_parameters()) <= set(states)
        obs = np.stack([env.observation_space.sample() for _ in range(20)])
        np.testing.assert_array_equal(*(m.predict(obs, deterministic=True)[0] for m in (model, loaded)))
        reference = algorithm.load(tmp_path / "agent.zip", device="cpu")
        for name, value in vars(reference).items():
            if name in data and name not in ("lr_schedule", "action_noise", "train_freq"):
                assert_same(getattr(loaded, name), value)
        assert repr(loaded.action_noise) == repr(model.action_noise)

    def test_sb3_contrib(self, tmp_path: Path) -> None:
        contrib = pytest.importorskip("sb3_contrib")
        for algorithm, policy in (
            (contrib.RecurrentPPO, "MlpLstmPolicy"),
            (contrib.ARS, "MlpPolicy"),
            (contrib.TQC, "MlpPolicy"),
        ):
            model = algorithm(policy, "Pendulum-v1", device="cpu", seed=0)
            model.save(tmp_path / "agent.zip")
            loaded = load_sb3_agent(algorithm, tmp_path / "agent.zip", device="cpu")
            assert_same(dict(loaded.policy.state_dict()), dict(model.policy.state_dict()))
            assert_same(getattr(loaded, "weights", None), getattr(model, "weights", None))

    def test_a_function_that_acting_does_not_need(self, tmp_path: Path) -> None:
        PPO("MlpPolicy", "Pendulum-v1", learning_rate=lambda p: p, device="cpu").save(tmp_path / "agent.zip")
        with pytest.raises(UserError, match="learning_rate is pickled with"):
            load_sb3_agent(PPO, tmp_path / "agent.zip", device="cpu")
        load_sb3_agent(PPO, tmp_path / "agent.zip", device="cpu", custom_objects={"learning_rate": 0.0})


# --- hostile archives -----------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, trained: bytes) -> Path:
    path = tmp_path / "agent.zip"
    path.write_bytes(trained)
    return path


@pytest.fixture(scope="module")
def trained() -> bytes:
    stream = io.BytesIO()
    small().learn(32).save(stream)
    return stream.getvalue()


def refused(path: Path, words: str, **options: Any) -> None:
    """The error is one line that names the file, and nothing is left beside it."""
    before = sorted(path.parent.iterdir())
    with pytest.raises(UserError, match=words) as error:
        load(path, **options)
    assert "agent.zip" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    assert sorted(path.parent.iterdir()) == before
    with pytest.raises(UserError):
        convert(path, path.with_name("new.zip"))
    assert sorted(path.parent.iterdir()) == before


class TestArchives:
    def test_truncated(self, file: Path, trained: bytes) -> None:
        for length in (0, 1, 100, len(trained) // 2, len(trained) - 30):
            file.write_bytes(trained[:length])
            refused(file, "wasn't a zip-file")

    def test_flipped_bytes(self, file: Path, trained: bytes) -> None:
        """A damaged file is an error or an agent, never another exception."""
        generator = np.random.default_rng(0)
        for position in generator.integers(0, len(trained), 150):
            content = bytearray(trained)
            content[position] ^= 1 << int(generator.integers(8))
            file.write_bytes(content)
            with contextlib.suppress(UserError):
                load(file)

    def test_bomb(self, file: Path) -> None:
        with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("extra", bytes(300 << 20))
        refused(file, "zip bomb")

    def test_a_size_that_lies(self, file: Path) -> None:
        with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("extra", bytes(50 << 20))
        content = file.read_bytes().replace((50 << 20).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
        file.write_bytes(content)
        refused(file, "unknown entry|damaged|truncated")

    def test_packed_anew(self, file: Path) -> None:
        content = {name: zipfile.ZipFile(file).read(name) for name in zipfile.ZipFile(file).namelist()}
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in content.items():
                archive.writestr(name, data)
        load(file)

    @pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "C:evil", "..\\evil", "a//b", "a\0b"])
    def test_traversal(self, file: Path, name: str) -> None:
        with zipfile.ZipFile(file, "a") as archive:
            info = zipfile.ZipInfo("x")
            info.filename = name
            archive.writestr(info, b"x")
        refused(file, "points elsewhere|unknown entry")

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_duplicate(self, file: Path) -> None:
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("agent.json", b"{}")
        refused(file, "two entries of one name")

    def test_many_entries(self, file: Path) -> None:
        with zipfile.ZipFile(file, "a") as archive:
            for index in range(3_000):
                archive.writestr(f"entry{index}", b"")
        refused(file, "holds 3005 entries")

    def test_methods(self, file: Path) -> None:
        with zipfile.ZipFile(file, "a", zipfile.ZIP_BZIP2) as archive:
            archive.writestr("extra", b"x" * 1000)
        refused(file, "unusual method")

    def test_both_formats(self, file: Path) -> None:
        rewrite(file, {"data": b"{}"})
        refused(file, "unknown entry 'data'")

    @pytest.mark.parametrize("version", [0, 2, 99, "1", None, 1.0, True])
    def test_version(self, file: Path, version: Any) -> None:
        refused(rewrite(file, version=version), "version")

    def test_other_json(self, file: Path) -> None:
        refused(rewrite(file, {"agent.json": b"[1]"}), "must hold a JSON object")
        refused(rewrite(file, {"agent.json": b"{"}), "not readable JSON")
        refused(rewrite(file, {"agent.json": b'{"a":' * 100_000}), "not readable JSON")
        refused(rewrite(file, {"agent.json": b'{"version": 1, "version": 2}'}), "twice")
        refused(rewrite(file, {"agent.json": b"\xff\xfe"}), "not readable JSON|must hold")
        refused(rewrite(file, {"agent.json": None}), "no entry 'data' and no 'agent.json'")

    def test_unknown_keys(self, file: Path) -> None:
        content = document_of(file)
        refused(rewrite(file, something=1), "something")
        rewrite(file, {"agent.json": json.dumps(content).encode()})
        refused(rewrite(file, state={**content["state"], "something": 1}), "something")
        refused(rewrite(file, state=content["state"], arguments={**content["arguments"], "something": 1}), "something")
        refused(rewrite(file, arguments=content["arguments"], extra={"learn": 1}), "'learn' is not a setting")
        refused(rewrite(file, extra={"seed": 1}), "twice")
        refused(rewrite(file, extra={}, policy={**content["policy"], "options": {"something": 1}}), "cannot be made")
        refused(rewrite(file, policy={"options": {}}), "agent.zip")
        refused(rewrite(file, policy=content["policy"], optimizer={}), "agent.zip")

    def test_missing_keys(self, file: Path) -> None:
        content = document_of(file)
        for key in content:
            reduced = {name: value for name, value in content.items() if name != key}
            refused(rewrite(file, {"agent.json": json.dumps(reduced).encode()}), "agent.json")

    @pytest.mark.parametrize(
        "value",
        [
            {"$": "something"},
            {"$": "array", "name": "nowhere"},
            {"$": "array"},
            {"$": ["a"]},
            {"$": "class", "name": 3},
            {"$": "scalar", "dtype": "O", "value": 1},
            {"$": "scalar", "dtype": "O", "value": {"$": "class", "name": "os.system"}},
            {"$": "deque", "items": 3, "maxlen": -1},
            {"$": "dict", "items": [[[], 1]]},
            {"$": "tensor", "value": 1, "parameter": 1},
            {"$": "generator", "state": {"bit_generator": "PCG64", "state": 3}},
            {"$": "generator", "state": {"bit_generator": "os"}},
            {"$": "schedule", "kind": "sampled", "values": ["a"]},
            {"$": "schedule", "kind": "float", "of": {"kind": "os"}},
            {"$": "space", "kind": "Box", "low": 0, "high": 1, "shape": [10**6, 10**6], "dtype": "<f4"},
            {"$": "space", "kind": "Box", "low": 0, "high": 1, "shape": [-1], "dtype": "<f4"},
            {"$": "space", "kind": "Box", "low": 0, "high": 1, "shape": [3], "dtype": "O"},
            {"$": "space", "kind": "Discrete", "n": -3, "start": 0},
            {"$": "space", "kind": "MultiBinary", "n": 10**12},
            {"$": "space", "kind": "Dict", "items": [["a", 3]]},
            {"$": "space", "kind": "os"},
            3,
            "text",
            None,
        ],
        ids=str,
    )
    def test_values(self, file: Path, value: Any) -> None:
        refused(rewrite(file, observation_space=value), "agent.zip")

    def test_a_network_that_the_file_does_not_bring(self, file: Path) -> None:
        content = document_of(file)["policy"]
        for net_arch in ([10**6, 10**6], {"pi": [64], "vf": [10**7, 10**7]}, [8] * 100_000, ["a"], [-1]):
            options = {**content["options"], "net_arch": net_arch}
            refused(rewrite(file, policy={**content, "options": options}), "agent.zip")

    def test_a_rollout_beyond_all_memory(self, file: Path) -> None:
        for n_steps in (10**15, "many", -1):
            refused(rewrite(file, arguments={**document_of(file)["arguments"], "n_steps": n_steps}), "agent.zip")

    @pytest.mark.parametrize("entry", ["policy.safetensors", "optimizer.safetensors"])
    def test_weights(self, file: Path, trained: bytes, entry: str) -> None:
        tensors = safetensors.torch.load(zipfile.ZipFile(file).read(entry))
        name = sorted(name for name, tensor in tensors.items() if tensor.ndim == 2)[0]

        def changed(tensor: th.Tensor | None, other: str = name) -> Path:
            file.write_bytes(trained)
            new = {**tensors, other: tensor}
            return rewrite(file, {entry: safetensors.torch.save({key: t for key, t in new.items() if t is not None})})

        for value in (float("nan"), float("inf"), -float("inf")):
            poisoned = tensors[name].clone()
            poisoned[0, 0] = value
            refused(changed(poisoned), "holds NaN or infinity")
            with pytest.raises(UserError, match="holds NaN or infinity"):
                small().set_parameters(str(file))
        refused(changed(tensors[name][:, :-1].contiguous()), "must be|wrong shape")
        refused(changed(th.zeros(3), "another"), "another")
        if entry == "policy.safetensors":
            refused(changed(tensors[name].half()), "must be .*float32, got .*float16")
            refused(changed(tensors[name].long()), "must be .*float32, got .*int64")
            refused(changed(None), f"{name} only on one side")
        else:
            refused(changed(th.zeros(3), "999.exp_avg"), "unknown parameter 999")
        refused(rewrite(changed(tensors[name]), {entry: b"x" * 100}), entry)
        refused(rewrite(changed(tensors[name]), {entry: b"\xff" * 7 + b"\x7f" + b"{}"}), entry)
        refused(rewrite(changed(tensors[name]), {entry: None}), entry)

    def test_aliases(self, file: Path) -> None:
        refused(rewrite(file, aliases={"a": "nowhere"}), "agent.zip")
        refused(rewrite(file, aliases={"action_net.weight": "action_net.bias"}), "twice")
        refused(rewrite(file, aliases={"a": "action_net.weight"}), "a only on one side")

    def test_other_spaces(self, file: Path) -> None:
        refused(file, "Observation spaces do not match", env=AnySpaces(spaces.Box(-1.0, 1.0, (4,)), ACTION))
        refused(file, "Action spaces do not match", env=AnySpaces(VECTOR, spaces.Discrete(2)))

    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"nowhere.zip"):
            load(tmp_path / "nowhere")

    def test_an_unpacked_limit(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sb3_carracing.ppo.saving.archives.MAX_FILE", 1000)
        with pytest.raises(UserError, match="larger than 1000 bytes"):
            read_file(file)
        assert "agent.json" in Archive(file.read_bytes(), "agent")


# --- running means, conversion --------------------------------------------------------------------------------------


def normalized(space: spaces.Space[Any] = VECTOR, **options: Any) -> VecNormalize:
    return VecNormalize(DummyVecEnv([lambda: AnySpaces(space, ACTION)]), **options)


class TestRunningMeans:
    @pytest.mark.parametrize("space", [VECTOR, spaces.Dict({"a": VECTOR, "b": IMAGE})], ids=["box", "dict"])
    def test_all_ways(self, tmp_path: Path, space: spaces.Space[Any]) -> None:
        options: dict[str, Any] = {
            "gamma": 0.9,
            "clip_obs": 3.0,
            "norm_obs_keys": ["a"] if isinstance(space, spaces.Dict) else None,
        }
        venv = normalized(space, **options)
        policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
        small(venv, policy).learn(64).save(tmp_path / "agent.zip")
        venv.save(str(tmp_path / "vecnormalize.pkl"))
        write_statistics(tmp_path / "statistics.zip", venv)
        raw: Any = venv.venv.reset()
        for name in ("agent.zip", "vecnormalize.pkl", "statistics.zip"):
            plain = DummyVecEnv([lambda: AnySpaces(space, ACTION)])
            read = read_statistics(tmp_path / name, plain)
            assert_same(read.normalize_obs(raw), venv.normalize_obs(raw))
            assert_same(read.normalize_reward(np.ones(1)), venv.normalize_reward(np.ones(1)))
            assert (read.gamma, read.clip_obs, read.training, read.norm_reward) == (0.9, 3.0, True, True)
            assert read.ret_rms.count == venv.ret_rms.count

    @pytest.mark.parametrize("name", sorted(hostile(Path("/nowhere"))))
    def test_hostile(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / "agent.zip.pkl"
        path.write_bytes(hostile(tmp_path / "ran")[name])
        with pytest.raises(UserError, match=r"agent\.zip\.pkl"):
            read_statistics(path, DummyVecEnv([lambda: AnySpaces(VECTOR, ACTION)]))
        assert not (tmp_path / "ran").exists()

    def test_of_another_space(self, tmp_path: Path) -> None:
        venv = normalized()
        venv.save(str(tmp_path / "a.pkl"))
        write_statistics(tmp_path / "b.zip", venv)
        small().save(tmp_path / "c.zip")
        for name, words in (("a.pkl", "shape"), ("b.zip", "shape"), ("c.zip", "no running means")):
            with pytest.raises(UserError, match=words):
                read_statistics(tmp_path / name, DummyVecEnv([lambda: AnySpaces(spaces.Box(-1.0, 1.0, (9,)), ACTION)]))
        venv.obs_rms.mean[0] = np.nan  # type: ignore[attr-defined]
        venv.save(str(tmp_path / "a.pkl"))
        with pytest.raises(UserError, match="NaN"):
            read_statistics(tmp_path / "a.pkl", DummyVecEnv([lambda: AnySpaces(VECTOR, ACTION)]))


class TestConverter:
    def test_equal_agents(self, tmp_path: Path) -> None:
        model = small(policy_kwargs={"initial_mean": [0.5, 0.1]}).learn(64)
        save_as_sb3(model, tmp_path / "old.zip")
        convert(tmp_path / "old.zip", tmp_path / "new.zip")
        assert_same_model(load(tmp_path / "new.zip"), model)
        with pytest.raises(UserError, match="in the new format already"):
            convert(tmp_path / "new.zip", tmp_path / "newer.zip")

    def test_the_command(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        save_as_sb3(small(), tmp_path / "old.zip")
        main(["convert", str(tmp_path / "old.zip"), str(tmp_path / "new.zip")])
        assert "new.zip" in capsys.readouterr().out
        assert load(tmp_path / "new.zip").num_timesteps == 0
        with pytest.raises(SystemExit) as ended:
            main(["convert", str(tmp_path / "new.zip"), str(tmp_path / "newer.zip")])
        assert ended.value.code == 2
        assert "in the new format already" in capsys.readouterr().err

    def test_in_place(self, tmp_path: Path) -> None:
        model = small()
        save_as_sb3(model, tmp_path / "agent.zip")
        convert(tmp_path / "agent.zip", tmp_path / "agent.zip")
        assert [path.name for path in tmp_path.iterdir()] == ["agent.zip"]
        assert "agent.json" in zipfile.ZipFile(tmp_path / "agent.zip").namelist()
