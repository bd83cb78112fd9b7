"""Comparison of BetaPPO with stock PPO on CarRacing."""
