"""Trainings with 200,000 frames: what makes them reliable."""
