"""Weights and optimizer state as safetensors, and the checks that those of a stranger pass before a model takes them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import safetensors.torch
import torch as th

from sb3_carracing.errors import UserError
from sb3_carracing.ppo.saving.archives import Archive
from sb3_carracing.ppo.saving.plain_data import Decoder

Tensors = dict[str, th.Tensor]
_UNREADABLE = (safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OverflowError)


def tensors_as_bytes(tensors: Mapping[str, th.Tensor]) -> tuple[bytes, dict[str, str]]:
    """Return tensors as safetensors, and which names stand for another name's tensor: a shared layer is written once."""
    written: Tensors = {}
    first_name: dict[tuple[Any, ...], str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and place in first_name:
            aliases[name] = first_name[place]
        else:
            first_name[place] = name
            written[name] = tensor.detach().cpu().contiguous().clone()
    return safetensors.torch.save(written), aliases


def read_tensors(archive: Archive, entry: str, aliases: Any = None) -> Tensors:
    """Return the tensors of an archive's entry; `UserError` if it is damaged or an alias leads nowhere."""
    with _damage_named(archive, entry):
        tensors = safetensors.torch.load(archive.read(entry))
        for name, original in dict(aliases or {}).items():
            if name in tensors:
                raise ValueError(f"{name} is there twice")
            tensors[name] = tensors[original]
    return tensors


def read_arrays(archive: Archive, entry: str) -> dict[str, np.ndarray]:
    """Return the arrays of an archive's entry, none if it has no such entry; `UserError` if it is damaged."""
    arrays: dict[str, np.ndarray] = {}
    if entry in archive:
        with _damage_named(archive, entry):
            arrays = safetensors.numpy.load(archive.read(entry))
    return arrays


@contextmanager
def _damage_named(archive: Archive, entry: str) -> Iterator[None]:
    """Raise `UserError` in place of what reading a damaged entry raises."""
    try:
        yield
    except UserError:
        raise
    except _UNREADABLE as error:
        raise UserError(f"{archive.name}: {entry} cannot be read: {' '.join(str(error).split())}") from error


def optimizer_as_data(state_dict: dict[str, Any], encode: Callable[[str, Any], Any]) -> tuple[Tensors, dict[str, Any]]:
    """Return an optimizer's state as tensors, and what are no tensors as JSON data."""
    tensors: Tensors = {}
    values: dict[str, Any] = {}
    for index, state in state_dict["state"].items():
        for key, value in state.items():
            if th.is_tensor(value):
                tensors[f"{index}.{key}"] = value
            else:
                values[f"{index}.{key}"] = encode(f"optimizer.{index}.{key}", value)
    return tensors, {"param_groups": encode("optimizer.param_groups", state_dict["param_groups"]), "values": values}


def optimizer_from_data(tensors: Tensors, data: dict[str, Any], decode: Decoder) -> dict[str, Any]:
    """Return the `state_dict` of an optimizer; what it must hold is checked by `check_weights`."""
    if set(data) != {"param_groups", "values"} or not isinstance(data["values"], dict):
        raise UserError(f"{decode.find_class.file}: optimizer in agent.json must have param_groups and values")
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **{name: decode("optimizer", value) for name, value in data["values"].items()}}.items():
        index, _, key = name.partition(".")
        if not index.isdecimal() or not key:
            raise UserError(f"{decode.find_class.file}: the optimizer's state has an unknown entry {name!r:.80}")
        state.setdefault(int(index), {})[key] = value
    return {"state": dict(sorted(state.items())), "param_groups": decode("optimizer", data["param_groups"])}


def check_weights(file: str, policy: th.nn.Module, weights: Any) -> None:
    """Raise `UserError` unless the weights are exactly those that the policy has, in shape and dtype, and finite."""
    expected = policy.state_dict()
    if not isinstance(weights, dict) or set(weights) != set(expected):
        differing = sorted(set(map(str, weights)) ^ set(expected))
        raise UserError(f"{file}: its weights are not those of its policy: {_some(differing)} only on one side")
    for name, wanted in expected.items():
        tensor = weights[name]
        if not th.is_tensor(tensor) or tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            got = f"{tuple(tensor.shape)} {tensor.dtype}" if th.is_tensor(tensor) else type(tensor).__name__
            raise UserError(f"{file}: {name} must be {tuple(wanted.shape)} {wanted.dtype}, got {got}")
        check_finite(file, name, tensor)


def check_optimizer(file: str, optimizer: th.optim.Optimizer, state_dict: Any) -> None:
    """Raise `UserError` unless the state fits the optimizer's parameters and is finite."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    try:
        groups = [dict(group) for group in state_dict["param_groups"]]
        indices = [index for group in groups for index in group["params"]]
        states = {index: dict(state) for index, state in state_dict["state"].items()}
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: its optimizer's state is damaged") from error
    wanted = [len(group["params"]) for group in optimizer.param_groups]
    if indices != list(range(len(parameters))) or [len(group["params"]) for group in groups] != wanted:
        raise UserError(f"{file}: its optimizer has {len(indices)} parameters, and its policy has {len(parameters)}")
    for index, state in states.items():
        if index not in indices:
            raise UserError(f"{file}: its optimizer's state has an unknown parameter {index!r:.80}")
        for key, value in state.items():
            if not th.is_tensor(value):
                continue
            if value.shape not in ((), (1,), parameters[index].shape):
                shape = tuple(value.shape)
                raise UserError(f"{file}: {key} of the optimizer's parameter {index} has a wrong shape {shape!r:.80}")
            check_finite(file, f"{key} of the optimizer's parameter {index}", value)


def match_layout(optimizer: th.optim.Optimizer) -> None:
    """Lay the optimizer's state out in memory as the parameters are (channels last), which is what makes it fast."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if th.is_tensor(value) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = th.empty_like(parameter, dtype=value.dtype).copy_(value)


def check_finite(file: str, name: str, tensor: th.Tensor) -> None:
    """Raise `UserError` if the tensor holds NaN or infinity, or more elements than its memory does."""
    if tensor.layout != th.strided or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UserError(f"{file}: {name} is not a plain tensor")
    if not th.isfinite(tensor).all():
        raise UserError(f"{file}: {name} holds NaN or infinity, so the agent is lost; an earlier checkpoint may be whole")


def check_all_finite(file: str, name: str, value: Any) -> None:
    """Raise `UserError` if a tensor anywhere within dicts and lists holds NaN or infinity."""
    if th.is_tensor(value):
        check_finite(file, name, value)
    elif isinstance(value, dict):
        for key, item in value.items():
            check_all_finite(file, f"{name}: {key}", item)
    elif isinstance(value, list | tuple):
        for item in value:
            check_all_finite(file, name, item)


def _some(names: list[str]) -> str:
    return ", ".join(name[:60] for name in names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
