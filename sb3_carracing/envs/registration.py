"""The table of environment ids; entry points are strings, so that registering loads neither pygame nor torch."""


def register_envs() -> None:
    """Register this package's ids with gymnasium, once a process."""
