"""BetaPPO beside stock PPO on CarRacing."""
