"""BetaPPO and stock PPO with a Gaussian on standard tasks, with equal hyperparameters."""
