"""Make rl-zoo3 know `beta_ppo`.

rl-zoo3 has no plug-in mechanism: its algorithms are a plain dict that its modules share, so it is changed in place, and
before a script's argparse reads its choices. Importing rl_zoo3 replaces gymnasium's TimeLimit process-wide (upstream's
own patch), which is why only `sb3_carracing.zoo` imports it.
"""

from rl_zoo3.utils import ALGOS

from sb3_carracing.ppo.beta_ppo import BetaPPO

ALGO_NAME = "beta_ppo"


def register() -> None:
    """Enter `BetaPPO` into rl-zoo3's table of algorithms; doing it twice changes nothing."""
    ALGOS[ALGO_NAME] = BetaPPO
