"""Machine-dependent settings: usable cores, display, memory allocator."""

import ctypes
import math
import os
import sys
from pathlib import Path

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
    """Return how many CPU cores this process may use: those of its affinity, limited by the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(cores, cpu_quota())))


def cpu_quota(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Return the processor time [cores] that Linux's control groups grant this process, infinity if there is no limit.

    Args:
        cgroups: where the control groups are.
        own: the file that names this process's group, one line per version 1 controller, `0::<group>` for version 2.
    """
    quotas = [math.inf]
    for line in own.read_text().splitlines() if own.is_file() else []:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / controllers
        leaf = root / group.lstrip("/")
        # The limit of an outer group holds as well. In a container, the group's path may not exist: then it is the root.
        for folder in (leaf, *leaf.parents):
            if folder.is_relative_to(root):
                quotas.append(_quota_of(folder))
    return min(quotas)


def _quota_of(folder: Path) -> float:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    except (OSError, ValueError):
        return math.inf
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)


def no_window() -> None:
    """Let pygame draw without a display on a Linux machine that has none. Call it before pygame is imported."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def has_window() -> bool:
    """Return whether pygame can open a window here. Call it after `no_window`."""
    return os.environ.get("SDL_VIDEODRIVER") not in ("dummy", "offscreen")
