"""The policy of the recurrent baseline: sb3-contrib's, with parts that a YAML file can name."""

from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy

from sb3_carracing.ppo.policies import NamedPartsPolicy


class RecurrentGaussianCnnPolicy(NamedPartsPolicy, RecurrentActorCriticPolicy):  # type: ignore[misc]
    """`GaussianCnnPolicy` with an LSTM between features and heads, for sb3-contrib's `RecurrentPPO`.

    The arguments are those of sb3-contrib's `RecurrentActorCriticPolicy` (such as `lstm_hidden_size` and
    `enable_critic_lstm`), and the `initial_mean` of `NamedPartsPolicy`.
    """

    default_extractor = "nature"
