"""The names that users may give in a YAML file, and what they stand for."""

from typing import Literal, TypeAlias

from torch import nn

from sb3_carracing.checks import one_of

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


def resolve_activation(activation: str | type[nn.Module]) -> type[nn.Module]:
    """Return the activation class for its name; a class is returned as it is."""
    if not isinstance(activation, str):
        return activation
    one_of("activation_fn", activation, sorted(ACTIVATIONS))
    return ACTIVATIONS[activation]
