"""Deprecated name of `sb3_carracing.ppo.recurrent`, which saved agents and YAML files of 0.1 use; removed in 0.3."""

import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    """Return what `sb3_carracing.ppo.recurrent` has by that name, with a DeprecationWarning."""
    from sb3_carracing.ppo import recurrent

    value = getattr(recurrent, name)
    warnings.warn(
        "sb3_carracing.zoo.recurrent_policy has moved to sb3_carracing.ppo.recurrent", DeprecationWarning, stacklevel=2
    )
    return value
