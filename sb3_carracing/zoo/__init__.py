"""Everything that imports rl_zoo3 or optuna: registration, commands and tuning."""
