"""CarRacing: the environment, its wrappers and the ids that reproduce both seeds' pipelines."""

import os
import sys


def no_window() -> None:
    """Let pygame draw without a screen where there is none; before pygame is loaded."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
