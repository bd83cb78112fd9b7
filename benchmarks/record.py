"""The file that a benchmark leaves: its figures, and what they were measured with."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from stable_baselines3.common.utils import get_system_info


def write(file: Path, args: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Write the figures beside the script's arguments, the machine and the versions."""
    cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    record = {
        "arguments": {name: value for name, value in vars(args).items() if name != "json"},
        "machine": f"{cpu.split(':')[1].strip()}, {len(os.sched_getaffinity(0))} cores",
        "versions": get_system_info(print_info=False)[0],
        **figures,
    }
    file.write_text(json.dumps(record, indent=1) + "\n")
