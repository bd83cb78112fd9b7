"""The recurrent stock baseline's policy: sb3-contrib's, with parts given by name."""

import inspect
from typing import Any

from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule

from sb3_carracing.ppo.policies import NamedPartsPolicy, start_at_mean


class RecurrentGaussianCnnPolicy(RecurrentActorCriticPolicy, NamedPartsPolicy):  # type: ignore[misc]
    """`GaussianCnnPolicy` with an LSTM between features and heads, for sb3-contrib's `RecurrentPPO`.

    :param lstm_hidden_size: units of the LSTM
    :param enable_critic_lstm: a second LSTM for the critic; else it sees the features through one linear layer

    The other parameters are those of `NamedPartsPolicy` that sb3-contrib's recurrent policy has and a YAML needs.

    :raises ValueError: for an unknown name, with the valid ones, or an `initial_mean` that does not fit
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: str = "tanh",
        ortho_init: bool = True,
        use_sde: bool = False,
        log_std_init: float = 0.0,
        features_extractor_class: str = "nature",
        features_extractor_kwargs: dict[str, Any] | None = None,
        optimizer_kwargs: dict[str, Any] | None = None,
        lstm_hidden_size: int = 256,
        enable_critic_lstm: bool = True,
        initial_mean: float | list[float] | None = None,
    ):
        # sb3-contrib hands its arguments on to the next class, NamedPartsPolicy, which resolves the names.
        super().__init__(  # type: ignore[call-arg]
            observation_space,
            action_space,
            lr_schedule,
            net_arch=net_arch,
            activation_fn=activation_fn,
            ortho_init=ortho_init,
            use_sde=use_sde,
            log_std_init=log_std_init,
            features_extractor_class=features_extractor_class,
            features_extractor_kwargs=features_extractor_kwargs,
            optimizer_kwargs=optimizer_kwargs,
            lstm_hidden_size=lstm_hidden_size,
            enable_critic_lstm=enable_critic_lstm,
        )
        self._initial_mean = initial_mean
        if initial_mean is not None:
            start_at_mean(self, initial_mean)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(lstm_hidden_size=self.lstm_output_dim, enable_critic_lstm=self.enable_critic_lstm)
        # SB3's list holds arguments that sb3-contrib's recurrent policy and hence this one lack.
        return {name: data[name] for name in inspect.signature(type(self)).parameters if name in data}
