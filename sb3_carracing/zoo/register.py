"""Register `beta_ppo` and `beta_ppo_lstm` with rl-zoo3.

rl-zoo3 has no plug-in mechanism. Its algorithms and their search spaces are plain dicts that its modules share, so we change
them in place before a script's argparse reads its choices. Importing rl_zoo3 replaces gymnasium's TimeLimit for the whole
process (its own patch), so only `sb3_carracing.zoo` imports it.
"""

from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
from rl_zoo3.utils import ALGOS

from sb3_carracing.ppo.beta_algorithm import BetaAlgorithm
from sb3_carracing.ppo.beta_ppo import BetaPPO
from sb3_carracing.ppo.recurrent import BetaRecurrentPPO
from sb3_carracing.zoo.search_space import convert_beta_ppo_params, sample_beta_ppo_params

ALGO_NAME = "beta_ppo"
BETA_ALGORITHMS: dict[str, type[BetaAlgorithm]] = {ALGO_NAME: BetaPPO, "beta_ppo_lstm": BetaRecurrentPPO}
"""Our algorithms by their names in rl-zoo3. They share one search space."""


def register() -> None:
    """Add our algorithms and their search space to rl-zoo3's tables; calling it twice has no further effect."""
    for name, algorithm in BETA_ALGORITHMS.items():
        ALGOS[name] = algorithm
        HYPERPARAMS_SAMPLER[name] = sample_beta_ppo_params
        HYPERPARAMS_CONVERTER[name] = convert_beta_ppo_params


def tunable_algorithms() -> list[str]:
    """Return the names of the algorithms that have a search space."""
    register()
    return sorted(HYPERPARAMS_SAMPLER)
