"""Deprecated name of `sb3_carracing.vec_env`; removed in 0.3."""

import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    """Return what `sb3_carracing.vec_env` has by that name, with a DeprecationWarning."""
    from sb3_carracing import vec_env

    value = getattr(vec_env, name)
    warnings.warn("sb3_carracing.envs.vec_env has moved to sb3_carracing.vec_env", DeprecationWarning, stacklevel=2)
    return value
