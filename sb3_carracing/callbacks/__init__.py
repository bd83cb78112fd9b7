"""Callbacks that write what rl-zoo3 does not: progress.csv, a live line, evaluations.csv, agents, checkpoints and histograms.

They work with every SB3 model except ARS, and in rl-zoo3's YAML by dotted path with keyword arguments. All but
`LateDecayCallback`, which only changes the learning rate, write to `run_dir`, or to the logger's folder if it is None. A
resumed run (`num_timesteps` above 0 at its start) appends to its files. A new run renames files that an earlier run left in
its folder.
"""

from sb3_carracing.callbacks.checkpoint import CheckpointCallback
from sb3_carracing.callbacks.learning_rate import LateDecayCallback
from sb3_carracing.callbacks.progress import ProgressCallback
from sb3_carracing.callbacks.tensorboard import TensorBoardCallback
from sb3_carracing.callbacks.validation import ValidationCallback
from sb3_carracing.deprecated import old_names

__all__ = ["CheckpointCallback", "LateDecayCallback", "ProgressCallback", "TensorBoardCallback", "ValidationCallback"]

__getattr__ = old_names(__name__)
