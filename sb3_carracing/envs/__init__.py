"""CarRacing: the environment, its wrappers and the ids that reproduce both seeds' pipelines."""
