"""PPO with memory: sb3-contrib's `RecurrentPPO` with Beta policies, and the policy of its Gaussian baseline."""

from typing import ClassVar

import torch as th
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_carracing.ppo.beta_algorithm import BetaAlgorithm
from sb3_carracing.ppo.policies import BetaActorCriticPolicy, NamedPartsPolicy


class BetaLstmPolicy(BetaActorCriticPolicy, RecurrentActorCriticPolicy):  # type: ignore[misc]
    """`BetaActorCriticPolicy` with an LSTM between features and heads, for `BetaRecurrentPPO` and `RecurrentPPO`.

    It takes the arguments of `BetaActorCriticPolicy` and of sb3-contrib's `RecurrentActorCriticPolicy`, such as
    `parameterization` and `lstm_hidden_size`.
    """

    @staticmethod
    def _process_sequence(
        features: th.Tensor, lstm_states: tuple[th.Tensor, th.Tensor], episode_starts: th.Tensor, lstm: nn.LSTM
    ) -> tuple[th.Tensor, tuple[th.Tensor, th.Tensor]]:
        """Run the LSTM over whole sequences, `(n_seq * length, n_features)`; sb3-contrib runs it step by step.

        Its rollout buffer cuts sequences where an episode starts, so only their first steps reset the memory.
        """
        starts = episode_starts.reshape(lstm_states[0].shape[1], -1)
        if not starts[:, 1:].any():
            keep = (1.0 - starts[:, 0])[:, None]
            lstm_states = (keep * lstm_states[0], keep * lstm_states[1])
            episode_starts = th.zeros_like(episode_starts)
        output, lstm_states = RecurrentActorCriticPolicy._process_sequence(features, lstm_states, episode_starts, lstm)
        return output, lstm_states


class BetaCnnLstmPolicy(BetaLstmPolicy):
    """`BetaLstmPolicy` for images. The default extractor is NatureCNN, as in SB3."""

    default_extractor = "nature"


class BetaMultiInputLstmPolicy(BetaLstmPolicy):
    """`BetaLstmPolicy` for Dict observations. The default extractor is SB3's CombinedExtractor."""

    default_extractor = "combined"


class RecurrentGaussianCnnPolicy(NamedPartsPolicy, RecurrentActorCriticPolicy):  # type: ignore[misc]
    """`GaussianCnnPolicy` with an LSTM between features and heads, for sb3-contrib's `RecurrentPPO`.

    The arguments are those of sb3-contrib's `RecurrentActorCriticPolicy` (such as `lstm_hidden_size` and
    `enable_critic_lstm`), and the `initial_mean` of `NamedPartsPolicy`.
    """

    default_extractor = "nature"


class BetaRecurrentPPO(BetaAlgorithm, RecurrentPPO):  # type: ignore[misc]
    """PPO with a Beta policy that remembers: sb3-contrib's `RecurrentPPO` with a Beta on Box actions.

    Arguments, update and log keys are those of `RecurrentPPO`. There are three differences: "MlpLstmPolicy", "CnnLstmPolicy"
    and "MultiInputLstmPolicy" are Beta policies, agents are saved without pickle, and the remaining progress of a schedule
    never falls below 0.

    It has none of `BetaPPO`'s own options and log keys, trains in one process, and a resumed training begins new episodes.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpLstmPolicy": BetaLstmPolicy,
        "CnnLstmPolicy": BetaCnnLstmPolicy,
        "MultiInputLstmPolicy": BetaMultiInputLstmPolicy,
    }
