"""Save a policy by itself, without the algorithm and without pickle: `policy.save` and `policy.load`.

The file is a zip with policy.json (the constructor's arguments), arrays.safetensors (arrays that it refers to) and
policy.safetensors (weights).
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import safetensors.numpy
import torch as th
from stable_baselines3.common.policies import BasePolicy

from sb3_carracing.errors import UserError
from sb3_carracing.files import write_atomically
from sb3_carracing.ppo.saving.archives import Archive, write_archive
from sb3_carracing.ppo.saving.named_classes import ClassFinder, dotted_name, passed_classes
from sb3_carracing.ppo.saving.plain_data import UNREADABLE, Decoder, Encoder, NotDataError, problem
from sb3_carracing.ppo.saving.weights import check_weights, read_arrays, read_tensors, tensors_as_bytes

FORMAT = "sb3-carracing policy"
FORMAT_VERSION = 1

Policy = TypeVar("Policy", bound=BasePolicy)


def write_policy(path: str | Path, policy: BasePolicy, arguments: dict[str, Any]) -> None:
    """Write a policy and the arguments of its constructor.

    Raises:
        UserError: an argument cannot be written without pickle.
    """
    encode = Encoder()
    try:
        options = {name: encode(name, value) for name, value in arguments.items()}
    except NotDataError as error:
        raise UserError(f"the policy cannot be saved without pickle: {error}") from error
    weights, aliases = tensors_as_bytes(policy.state_dict())
    document = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "class": dotted_name(type(policy)),
        "options": options,
        "aliases": aliases,
    }
    entries = {
        "policy.json": json.dumps(document, indent=1, allow_nan=False).encode(),
        "arrays.safetensors": safetensors.numpy.save(encode.arrays),
        "policy.safetensors": weights,
    }
    content = io.BytesIO()
    write_archive(content, entries)
    write_atomically(Path(path), content.getvalue())


def read_policy(
    cls: type[Policy],
    path: str | Path,
    device: th.device | str,
    trust: bool,
    read_pickle: Callable[..., Policy],
) -> Policy:
    """Return the policy in a file.

    Args:
        cls: class of the policy; its name in the file is for readers only.
        path: what `write_policy` wrote, or a file of SB3's `policy.save`, which needs `trust`.
        device: where the policy shall be.
        trust: import classes from anywhere, and unpickle a file of SB3's. Both run code from the file.
        read_pickle: SB3's `load`.

    Raises:
        UserError: the file is damaged, of another format, or needs trust.
    """
    archive = Archive(Path(path).read_bytes(), str(path))
    if "policy.json" not in archive:
        if trust:
            return read_pickle(path, device)
        raise UserError(
            f"{archive.name} is not written by this version's policy.save. A file of SB3's is a pickle, which is read only "
            "with trust=True, because that runs code"
        )
    document = archive.read_json("policy.json")
    if document.get("format") != FORMAT or document.get("version") != FORMAT_VERSION:
        raise UserError(f"{archive.name}: policy.json must name the format {FORMAT!r} and version {FORMAT_VERSION}")
    decode = Decoder(read_arrays(archive, "arrays.safetensors"), ClassFinder(archive.name, passed_classes([cls]), trust))
    try:
        arguments = {name: decode(name, value) for name, value in document["options"].items()}
        policy = cls(lr_schedule=lambda _: 0.0, **arguments)
    except UNREADABLE as error:
        raise UserError(f"{archive.name}: its policy cannot be made: {problem(error)}") from error
    weights = read_tensors(archive, "policy.safetensors", document.get("aliases"))
    check_weights(archive.name, policy, weights)
    policy.load_state_dict(weights)
    return policy.to(device)
