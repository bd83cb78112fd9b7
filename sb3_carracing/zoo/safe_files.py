"""Let rl-zoo3's scripts read files through this package's readers.

Its scripts build any object that a YAML file names, evaluate text, and unpickle agents and running means. While a command
runs, we replace the functions that they call for this. Nothing from a run folder, a download or a study then reaches Python's
`eval`, `pickle` or an import that our reader has not allowed.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import rl_zoo3.exp_manager
import rl_zoo3.utils
import yaml
from stable_baselines3.common import base_class, callbacks, off_policy_algorithm, save_util
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_carracing.errors import UserError
from sb3_carracing.files import tolerating_full_disk, write_atomically
from sb3_carracing.ppo.beta_algorithm import BetaAlgorithm
from sb3_carracing.ppo.saving.archives import write_file
from sb3_carracing.ppo.saving.sb3_files import load_from_zip_file
from sb3_carracing.ppo.saving.vec_normalize import read_statistics, write_statistics
from sb3_carracing.run_safety import DataLoader, check_wrappers, evaluate


@contextmanager
def safe_files(trust: bool = False) -> Iterator[None]:
    """Let rl-zoo3 and SB3 read only data until the block ends, and write running means without pickle.

    Args:
        trust: let them read everything as they do by themselves.
    """

    def load_statistics(load_path: str, venv: VecEnv) -> VecNormalize:
        return read_statistics(load_path, venv, trust)

    def save_statistics(self: VecNormalize, save_path: str) -> None:
        write_statistics(save_path, self)

    with ExitStack() as stack:
        replace: Callable[..., Any] = lambda *args, **kwargs: stack.enter_context(patch.object(*args, **kwargs))  # noqa: E731
        replace(VecNormalize, "load", staticmethod(load_statistics))
        replace(VecNormalize, "save", save_statistics)
        if trust:
            replace(BetaAlgorithm, "load", classmethod(_load_with_trust))
        if not trust:
            replace(yaml, "UnsafeLoader", DataLoader)
            replace(base_class, "load_from_zip_file", load_from_zip_file)
            replace(off_policy_algorithm, "load_from_pkl", _refuse_replay_buffer)
            for module in (rl_zoo3.utils, rl_zoo3.exp_manager):
                # A global of this name takes precedence over the builtin.
                replace(module, "eval", _evaluate, create=True)
        yield


@contextmanager
def whole_files() -> Iterator[None]:
    """Let SB3 write agents and evaluations.npz as a whole: a killed training leaves the old file or the new one."""
    save = save_util.save_to_zip_file

    def save_whole(save_path: str | Path | io.BufferedIOBase, *args: Any, **kwargs: Any) -> None:
        content = io.BytesIO()
        save(content, *args, **kwargs)
        write_file(save_path, content.getvalue())

    def save_arrays(file: Any, **arrays: Any) -> None:
        content = io.BytesIO()
        np.savez(content, **arrays)
        with tolerating_full_disk():
            write_atomically(Path(f"{str(file).removesuffix('.npz')}.npz"), content.getvalue())

    with (
        patch.object(base_class, "save_to_zip_file", save_whole),
        patch.object(callbacks, "np", SimpleNamespace(**{**vars(np), "savez": save_arrays})),
    ):
        yield


@contextmanager
def known_wrappers(trust: bool = False) -> Iterator[None]:
    """Let rl-zoo3 import only wrappers on the list, for commands that take them from a run folder."""
    original = rl_zoo3.utils.get_wrapper_class

    def checked(hyperparams: dict[str, Any], key: str = "env_wrapper") -> Any:
        if not trust:
            check_wrappers(hyperparams.get(key), "the run folder")
        return original(hyperparams, key)

    with patch.object(rl_zoo3.utils, "get_wrapper_class", checked):
        yield


_load = BetaAlgorithm.load.__func__  # type: ignore[attr-defined]


def _load_with_trust(cls: type[BetaAlgorithm], *args: Any, **kwargs: Any) -> BetaAlgorithm:
    model: BetaAlgorithm = _load(cls, *args, **{**kwargs, "trust": True})
    return model


def _evaluate(text: str, *_: Any) -> Any:
    return evaluate(text, "a hyperparameter or argument")


def _refuse_replay_buffer(path: str | Path, verbose: int = 0) -> Any:
    raise UserError(f"{path} is a pickled replay buffer, which is read only with --trust, because that may run code")
