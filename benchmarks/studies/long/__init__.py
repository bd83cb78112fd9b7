"""Trainings with up to 5 M frames: how far an agent gets in one run."""
