"""What `BetaPPO` and `BetaRecurrentPPO` have in common: agents without pickle, and schedules that end at 0."""

import io
import pathlib
from collections.abc import Iterable
from typing import Any, Self

import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, TensorDict

from sb3_carracing.ppo.policies import BETA_OPTIONS
from sb3_carracing.ppo.saving import loading, writing
from sb3_carracing.ppo.saving.weights import match_layout


class BetaAlgorithm(OnPolicyAlgorithm):
    """Base class of our algorithms; it comes before other algorithms among the base classes."""

    def set_parameters(
        self, load_path_or_dict: str | TensorDict, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """Set weights and optimizer state as in SB3, and leave the optimizer's step counts on the CPU.

        A new optimizer also keeps them on the CPU. On a GPU, every minibatch would wait for each parameter's count.
        """
        if not isinstance(load_path_or_dict, dict):
            load_path_or_dict = loading.read_parameters(load_path_or_dict, device)
        super().set_parameters(load_path_or_dict, exact_match, device)
        optimizer = self.policy.optimizer
        match_layout(optimizer)
        if not any(group.get("capturable") or group.get("fused") for group in optimizer.param_groups):
            for state in optimizer.state.values():
                if th.is_tensor(state.get("step")):
                    state["step"] = state["step"].cpu()

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Save without pickle, see `saving`. A `deterministic_action` that was changed on the policy is kept."""
        action = getattr(self.policy, "deterministic_action", None)
        built_with = self.policy_kwargs.get("deterministic_action", BETA_OPTIONS["deterministic_action"])
        if action not in (None, built_with):
            self.policy_kwargs = {**self.policy_kwargs, "deterministic_action": action}
        writing.save_agent(self, path, exclude, include)

    @classmethod
    def load(
        cls,
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        trust: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Load an agent, arguments as in SB3; a file that could run code is refused unless `trust` is set."""
        return loading.load_agent(
            cls, path, env, device, custom_objects, print_system_info, force_reset, trust=trust, **kwargs
        )

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        """Keep the remaining progress at 0 or above.

        The last rollout may end beyond `total_timesteps`. Stock PPO's progress is then negative, and so is a learning rate
        that decays to 0. The last update then increases the loss (an approximate KL of 0.1 in one CarRacing run).
        """
        super()._update_current_progress_remaining(num_timesteps, total_timesteps)
        self._current_progress_remaining = max(0.0, self._current_progress_remaining)
