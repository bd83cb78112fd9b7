"""BetaPPO, PPO with a Beta policy for Stable-Baselines3, and the CarRacing environments it is validated on."""

from typing import TYPE_CHECKING, Any

from sb3_carracing.envs.registration import register_envs

if TYPE_CHECKING:
    from sb3_carracing.ppo.beta_ppo import BetaPPO

__version__ = "0.2.0.dev0"
__all__ = ["BetaPPO", "__version__"]

register_envs()


def __getattr__(name: str) -> Any:
    """Load `BetaPPO` (and torch with it) only when somebody asks for it (PEP 562)."""
    if name == "BetaPPO":
        from sb3_carracing.ppo.beta_ppo import BetaPPO

        return BetaPPO
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
