"""BetaPPO against its peers on CarRacing."""
