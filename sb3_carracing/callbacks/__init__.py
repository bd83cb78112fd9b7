"""Callbacks that write what rl-zoo3 does not: progress.csv, the live line, evaluations.csv and the best agent.

Any SB3 model but ARS takes them, and rl-zoo3's YAML does by dotted path with keywords. They write to `run_dir`, or to the
logger's folder where that is None. A resumed run (`num_timesteps` above 0 at its start) appends to its files. A new run
renames files that an earlier one left in its folder.
"""

from sb3_carracing.callbacks.progress import ProgressCallback
from sb3_carracing.callbacks.validation import ValidationCallback
from sb3_carracing.deprecated import old_names

__all__ = ["ProgressCallback", "ValidationCallback"]

__getattr__ = old_names(__name__)
