"""Machine-dependent settings: usable cores, display, memory allocator."""

import ctypes
import os
import sys

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# Blocks up to this size [bytes] are cut from the heap and stay there when freed; glibc takes a C int, and before its
# version 2.35 refused more than 32 MiB.
_KEEP_UP_TO = (2**30, 2**25)


def keep_freed_memory() -> bool:
    """Make the process keep the memory that it frees, and return whether that took effect (glibc only).

    The activations of a minibatch take tens of MB. By default glibc maps this memory again each time, and the page faults take
    two fifths of an update's time on a CPU. The price is that the process keeps the memory until it ends. The setting applies
    to the whole process.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl does not have it
        return False
    return any(mallopt(_M_MMAP_THRESHOLD, size) for size in _KEEP_UP_TO) and bool(mallopt(_M_TRIM_THRESHOLD, 2**30))


def memory_size() -> int | None:
    """Return the machine's memory [bytes], or None if the system does not report it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):  # no such function, no such name
        return None


def n_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def no_window() -> None:
    """Let pygame draw without a display on a Linux machine that has none. Call it before pygame is imported."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def has_window() -> bool:
    """Return whether pygame can open a window here. Call it after `no_window`."""
    return os.environ.get("SDL_VIDEODRIVER") not in ("dummy", "offscreen")
