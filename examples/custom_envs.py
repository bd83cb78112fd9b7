"""Register `beta_ppo` with rl-zoo3's own command line, which imports a module of this name before it parses arguments.

PYTHONPATH=examples python -m rl_zoo3.train --algo beta_ppo --env CarRacingFast-v3 -conf hyperparams/beta_ppo.yml
"""

import sb3_carracing.zoo.register

sb3_carracing.zoo.register.register()
