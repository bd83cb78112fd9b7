"""The learner: the Beta distribution, the policies, the feature extractors and `BetaPPO`."""
