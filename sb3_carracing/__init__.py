"""BetaPPO, PPO with a Beta policy for Stable-Baselines3, and the CarRacing environments it is validated on."""

import importlib
from typing import TYPE_CHECKING, Any

from sb3_carracing.envs.registration import register_envs

if TYPE_CHECKING:
    from sb3_carracing.loading import load_agent
    from sb3_carracing.ppo.beta_ppo import BetaPPO

__version__ = "0.2.0.dev0"
__all__ = ["BetaPPO", "__version__", "load_agent"]

# Loaded on first access (PEP 562), since they import torch.
_LAZY = {"BetaPPO": "sb3_carracing.ppo.beta_ppo", "load_agent": "sb3_carracing.loading"}

register_envs()


def __getattr__(name: str) -> Any:
    """Import a public name on first access."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the names in the module, including those not loaded yet."""
    return sorted({*globals(), *_LAZY})
