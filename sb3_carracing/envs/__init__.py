"""CarRacing: the environment, its wrappers, its training rules and the registered ids. Loads neither torch nor SB3."""
