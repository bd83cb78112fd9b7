"""Trainings and evaluations that answer one question each; their tables are in `benchmarks/results`."""
