"""A callback that kills a rank with SIGKILL, once: the launcher's first start of it.

The environment variable KILL names the rank and the place: a number of steps, a file that is half written, or `end`.
"""

import os
import signal
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback

from sb3_carracing.callbacks import checkpoint
from sb3_carracing.files import write_atomically


def die_at(place: object) -> None:
    is_first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if is_first and os.environ["KILL"] == f"{os.environ['RANK']} {place}":
        os.kill(os.getpid(), signal.SIGKILL)


def write_in_two_halves(file: Path, content: bytes) -> None:
    file.with_name(f".{file.name}.0.tmp").write_bytes(content[: len(content) // 2])
    die_at(file.name)
    write_atomically(file, content)


class Kills(BaseCallback):
    """Kills a rank of a training."""

    every_rank = True

    def _on_training_start(self) -> None:
        vars(checkpoint)["write_atomically"] = write_in_two_halves

    def _on_step(self) -> bool:
        die_at(self.num_timesteps)
        return True

    def _on_training_end(self) -> None:
        die_at("end")
