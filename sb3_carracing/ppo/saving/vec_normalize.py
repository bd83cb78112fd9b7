"""The running means of SB3's VecNormalize as data, in an agent's file or one of their own."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import safetensors.numpy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_carracing.errors import UserError
from sb3_carracing.ppo.saving.archives import Archive, read_file, write_archive
from sb3_carracing.ppo.saving.named_classes import ClassFinder
from sb3_carracing.ppo.saving.plain_data import UNREADABLE, Decoder, Encoder, problem
from sb3_carracing.ppo.saving.unpickling import RefusedError, read_pickle
from sb3_carracing.ppo.saving.weights import read_arrays

FORMAT = "sb3-carracing running means"
_OPTIONS = ("training", "norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon", "norm_obs_keys")
_ENTRIES = {"vec_normalize.json", "arrays.safetensors"}


def as_data(venv: VecNormalize, encode: Encoder) -> dict[str, Any]:
    """Return the options and running means of a VecNormalize as JSON data."""
    means, several = _means(getattr(venv, "obs_rms", None))
    content = {
        **{name: getattr(venv, name) for name in _OPTIONS},
        "ret_rms": vars(venv.ret_rms),
        "obs_rms": means,
        "several": several,
    }
    data: dict[str, Any] = encode("vec_normalize", content)
    return data


def write_statistics(path: str | Path | io.BufferedIOBase, venv: VecNormalize) -> None:
    """Write the running means of a VecNormalize into a file of their own, without pickle."""
    write_archive(path, _entries(venv))


def _entries(venv: VecNormalize) -> dict[str, bytes]:
    encode = Encoder()
    document = {"format": FORMAT, "version": 1, "vec_normalize": as_data(venv, encode)}
    entries = {"vec_normalize.json": json.dumps(document, indent=1, allow_nan=False).encode()}
    return entries | {"arrays.safetensors": safetensors.numpy.save(encode.arrays)}


def with_statistics(agent: bytes, venv: VecNormalize) -> bytes:
    """Return an agent's zip file with running means in it, so that both change together; ours has them already.

    SB3 ignores the additional entries when it loads the agent.
    """
    stream = io.BytesIO(agent)
    with zipfile.ZipFile(stream, "a") as archive:
        if "agent.json" not in archive.namelist():
            for name, content in _entries(venv).items():
                archive.writestr(name, content)
    return stream.getvalue()


def has_statistics(path: Path) -> bool:
    """Return whether a file is an agent that was saved with its running means."""
    try:
        archive = Archive(*read_file(path))
        if "vec_normalize.json" in archive:
            return True
        return "agent.json" in archive and "vec_normalize" in archive.read_json("agent.json")
    except UserError:
        return False


def read_statistics(path: str | Path | io.BufferedIOBase, venv: VecEnv, trust: bool = False) -> VecNormalize:
    """Wrap an environment in the VecNormalize that a file describes.

    Args:
        path: what `write_statistics` wrote, an agent saved with its running means, or a pickle of SB3's.
        venv: the environment.
        trust: unpickle what is not on the list, which may run code.

    Raises:
        UserError: the file is damaged, belongs to another observation space, or needs trust.
    """
    content, name = read_file(path)
    state = _state(content, name, trust)
    if isinstance(state, VecNormalize):
        state.set_venv(venv)
        return state
    try:
        return _wrap(venv, state)
    except UNREADABLE as error:
        raise UserError(f"{name}: its running means do not fit: {problem(error)}") from error


def _state(content: bytes, name: str, trust: bool) -> Any:
    find_class = ClassFinder(name, {}, trust)
    if content[:2] != b"PK":
        try:
            state = read_pickle(content, "the running means", find_class)
        except RefusedError:
            if not trust:
                raise
            return cloudpickle.loads(content)
        if not isinstance(state, dict) or set(state) != {"VecNormalize"}:
            raise UserError(f"{name} holds no VecNormalize")
        return _state_of_pickle(state["VecNormalize"])
    archive = Archive(content, name)
    entry = next((entry for entry in ("vec_normalize.json", "agent.json") if entry in archive), None)
    document = archive.read_json(entry) if entry else {}
    if entry == "vec_normalize.json" and (document.get("format") != FORMAT or document.get("version") != 1):
        raise UserError(f"{name}: vec_normalize.json must name the format {FORMAT!r} and version 1")
    if "vec_normalize" not in document:
        raise UserError(f"{name} holds no running means of a VecNormalize")
    decode = Decoder(read_arrays(archive, "arrays.safetensors"), find_class)
    return decode("vec_normalize", document["vec_normalize"])


def _state_of_pickle(attributes: dict[str, Any]) -> dict[str, Any]:
    state = {name: attributes[name] for name in _OPTIONS if name in attributes}
    means, several = _means(attributes.get("obs_rms"))
    return {**state, "obs_rms": means, "ret_rms": vars(attributes["ret_rms"]), "several": several}


def _means(obs_rms: Any) -> tuple[Any, bool]:
    """Return the running means of observations as a dict, and whether they are of several keys."""
    if isinstance(obs_rms, dict):
        return {key: vars(rms) for key, rms in obs_rms.items()}, True
    return obs_rms and vars(obs_rms), False


def _wrap(venv: VecEnv, state: dict[str, Any]) -> VecNormalize:
    options = {name: state[name] for name in _OPTIONS if name in state}
    wrapped = VecNormalize(venv, **options)
    set_means(wrapped, state)
    return wrapped


def set_means(venv: VecNormalize, state: dict[str, Any]) -> None:
    """Set the running means that `as_data` has written.

    Raises:
        ValueError, TypeError, KeyError: They do not fit.
    """
    if venv.norm_obs:
        if bool(state["several"]) != isinstance(venv.obs_rms, dict):
            raise ValueError("they belong to observations of another kind")
        if isinstance(venv.obs_rms, dict):
            if set(state["obs_rms"]) != set(venv.obs_rms):
                raise ValueError(f"they belong to the observations {', '.join(map(str, state['obs_rms']))}")
            for key, rms in venv.obs_rms.items():
                _set(rms, state["obs_rms"][key])
        else:
            _set(venv.obs_rms, state["obs_rms"])
    _set(venv.ret_rms, state["ret_rms"])


def _set(rms: RunningMeanStd, state: dict[str, Any]) -> None:
    mean, var, count = (np.asarray(state[name], dtype=np.float64) for name in ("mean", "var", "count"))
    if mean.shape != rms.mean.shape or var.shape != rms.var.shape or count.shape != ():
        raise ValueError(f"they have the shape {mean.shape}, and the observations {rms.mean.shape}")
    if not (np.isfinite(mean).all() and np.isfinite(var).all() and (var >= 0).all() and np.isfinite(count)):
        raise ValueError("they hold NaN or infinity")
    rms.mean, rms.var, rms.count = mean, var, float(count)
