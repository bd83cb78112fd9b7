"""The names that users may give in a YAML file, and what they stand for."""

from collections.abc import Iterable
from typing import Literal, TypeAlias

from torch import nn

Parameterization: TypeAlias = Literal["softplus", "exp", "mode"]
DeterministicAction: TypeAlias = Literal["mean", "mode"]
ValueLoss: TypeAlias = Literal["mse", "huber"]
Autocast: TypeAlias = Literal["bfloat16"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def check_choice(option: str, value: object, choices: Iterable[str]) -> None:
    """Raise a `ValueError` that names the option, the value and the valid choices unless the value is one of them."""
    names = sorted(choices)
    if value not in names:
        raise ValueError(f"{option} must be one of {', '.join(map(repr, names))}, got {value!r}")


def resolve_activation(activation: str | type[nn.Module]) -> type[nn.Module]:
    """Return the activation class for its name; a class is returned as it is."""
    if not isinstance(activation, str):
        return activation
    check_choice("activation_fn", activation, ACTIVATIONS)
    return ACTIVATIONS[activation]
