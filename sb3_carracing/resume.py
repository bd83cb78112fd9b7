"""The state of a training: what a file needs beyond the agent so that the training goes on as if it had never stopped.

`snapshot` writes an agent, as `BetaPPO.save` does, with two more entries in its zip file:

training.json           generators, environments, vectorized wrappers, callbacks and values not logged yet
training.safetensors    arrays that training.json refers to

If several ranks train, `training.1.json`, `training.1.safetensors` and so on hold those of the further ranks.

`restore` reads them. Other readers of agents ignore them.
"""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_carracing.envs.replayable import OUTERMOST, REPLAY, check_episode_state
from sb3_carracing.errors import UserError
from sb3_carracing.ppo import distributed
from sb3_carracing.ppo.beta_ppo import BetaPPO
from sb3_carracing.ppo.ranks import RankCallbacks
from sb3_carracing.ppo.saving import training_state, vec_normalize
from sb3_carracing.ppo.saving.archives import Archive, read_file
from sb3_carracing.ppo.saving.loading import is_own_format, read_document
from sb3_carracing.ppo.saving.named_classes import ClassFinder
from sb3_carracing.ppo.saving.plain_data import UNREADABLE, Decoder, problem
from sb3_carracing.ppo.saving.training_state import FORMAT, FORMAT_VERSION, LAST, of_kind
from sb3_carracing.ppo.saving.weights import read_arrays

_KEYS = {"generators", "environments", "wrappers", "callbacks", "log"}


@dataclass(frozen=True)
class Training:
    """The state of this rank's training, as a file has it.

    Attributes:
        file: What errors call the file.
        state: The content of training.json; None if there is no such entry.
        last: Observations and episode starts from which the next rollout begins.
        means: The running means of a VecNormalize; None if there is none.
        n_ranks: The number of ranks whose states the file holds.
    """

    file: str
    state: Any
    last: dict[str, Any]
    means: Any
    n_ranks: int = 1


def snapshot(model: BaseAlgorithm) -> bytes:
    """Return the content of an agent's .zip from which a training can go on exactly.

    Call it after an update and before the next rollout's first step, such as in a callback's `on_rollout_start`. Other
    algorithms than `BetaPPO` are saved as they save themselves, without the state of the training.

    If several ranks train, one of them may call it, and the file holds the states of all. They are from the start of the
    rollout or the end of the training; at another time the file holds only the agent.

    Raises:
        RuntimeError: A rollout is being collected. Its steps would be lost.
    """
    stream = io.BytesIO()
    model.save(stream)
    if isinstance(model, BetaPPO):
        if is_collecting(model):
            raise RuntimeError("snapshot() in the middle of a rollout: call it in on_rollout_start")
        callback = model._callback()
        if isinstance(callback, RankCallbacks):
            entries = callback.states.get(model.num_timesteps, {})
        else:
            entries = training_state.entries(model)
        with zipfile.ZipFile(stream, "a") as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
    return stream.getvalue()


def is_collecting(model: BaseAlgorithm) -> bool:
    """Return whether a model is in the middle of a rollout."""
    return isinstance(model, OnPolicyAlgorithm) and 0 < model.rollout_buffer.pos < model.rollout_buffer.buffer_size


def read_training(source: str | Path | bytes, model: BaseAlgorithm) -> Training:
    """Read the state of a training and check it. Of several ranks, each reads its own.

    Args:
        source: What `snapshot` returned, or the path of a file with it. Other agents hold no state.
        model: The agent of the same file, loaded with an environment.

    Raises:
        UserError: The file is damaged, or is written by a later version.
    """
    archive = Archive(*read_file(io.BytesIO(source) if isinstance(source, bytes) else source))
    if not isinstance(model, BetaPPO) or not is_own_format(archive) or "training.json" not in archive:
        return Training(archive.name, None, {}, None)
    group = distributed.join()
    n_ranks = sum(training_state.ENTRY.fullmatch(name) is not None for name in archive.entries) // 2
    entry = training_state.entry(group.rank if n_ranks == group.size else 0)
    state = archive.read_json(f"{entry}.json")
    version = state.pop("version", None)
    if state.pop("format", None) != FORMAT or type(version) is not int or set(state) - {"last"} != _KEYS:
        raise UserError(f"{archive.name}: {entry}.json must name the format {FORMAT!r}, its version and {sorted(_KEYS)}")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{archive.name}: its training is written in version {version} of the format, and this version of sb3-carracing "
            f"reads {FORMAT_VERSION}"
        )
    find_class = ClassFinder(archive.name, {}, trust=False)
    decode = Decoder(read_arrays(archive, f"{entry}.safetensors"), find_class)
    decode_agent = Decoder(read_arrays(archive, "arrays.safetensors"), find_class)
    document = read_document(archive)
    state = decode(f"{entry}.json", state)
    own = state.pop("last", None)  # that of rank 0 is in the agent's own entries
    with _damage(archive.name):
        last = {name: own[name] if own else decode_agent(name, document["state"].get(name)) for name in LAST}
    means = decode_agent("vec_normalize", document.get("vec_normalize"))
    training = Training(archive.name, state, last, means, n_ranks)
    _check(training, model)
    return training


def restore(model: BaseAlgorithm, source: str | Path | bytes | Training) -> str | None:
    """Bring a loaded agent and its environments back to where `snapshot` was called.

    Call it last, right before `learn(remaining_steps, reset_num_timesteps=False)`, which then resets neither environments
    nor generators. The generators are set when `learn` has started all callbacks. If several ranks train, all of them call it.

    Args:
        model: The agent of the same file, loaded with environments that are built as those of the training.
        source: What `snapshot` returned, the path of a file with it, or what `read_training` returned.

    Returns:
        None if the training goes on exactly, else why not. Then `learn` resets the environments, and the generators are as
        `load` has left them.

    Raises:
        UserError: The file is damaged.
    """
    training = source if isinstance(source, Training) else read_training(source, model)
    why_not = _of_any_rank(_why_not(training, model))
    if why_not is None:
        assert isinstance(model, BetaPPO)
        assert model.env is not None
        why_not = _of_any_rank(_replay(model.env, training.state["environments"]))
        with _damage(training.file):
            normalize = model.get_vec_normalize_env()
            if normalize is not None:
                vec_normalize.set_means(normalize, training.means)  # a reset has changed them
            if why_not is None:
                training_state.set_wrappers(model.env, training.state["wrappers"])
                vars(model).update(training.last)
                model._on_resume = _GoOn(training)
    if why_not is not None:
        model._last_obs = None
    return why_not


class _GoOn(BaseCallback):
    """Set the state of callbacks, log and generators when `learn` has started all other callbacks."""

    def __init__(self, training: Training) -> None:
        super().__init__()
        self._training = training

    def _on_training_start(self) -> None:
        state = self._training.state
        assert isinstance(self.model, BetaPPO)
        with _damage(self._training.file):
            training_state.set_callbacks(self.model._callback(), state["callbacks"])
            training_state.set_log(self.logger, state["log"])
            training_state.set_generators(self.model, state["generators"])

    def _on_step(self) -> bool:
        return True


def _of_any_rank(why_not: str | None) -> str | None:
    """Return the first reason of any rank, None if there is none."""
    return next((reason for reason in distributed.current().gather(why_not) if reason is not None), None)


def _replay(venv: VecEnv, states: list[dict[str, Any]]) -> str | None:
    """Play all episodes again and return what is wrong with the result, None if nothing is."""
    venv.set_options([{REPLAY: state} for state in states])
    venv.reset()
    for number, info in enumerate(venv.unwrapped.reset_infos):
        if info.get(REPLAY) is not True:
            return f"environment {number} did not return to its state when its episode was played again"
    return None


def _why_not(training: Training, model: BaseAlgorithm) -> str | None:
    """Return what prevents an exact resume, None if nothing is known to."""
    state, venv = training.state, model.env
    if not isinstance(model, BetaPPO):
        return f"the state of a training is kept for BetaPPO only, not for {type(model).__name__}"
    if state is None:
        return f"{training.file} does not hold the state of its training"
    if venv is None:
        return "the agent has no environment"
    n_ranks = distributed.current().size
    if training.n_ranks != n_ranks:
        return f"it was trained on {training.n_ranks} rank(s), not on {n_ranks}"
    if model.use_sde:
        return "gSDE draws new noise"
    if (state["generators"]["device"] is not None) != (model.device.type == "cuda"):
        return f"it was trained on another kind of device than {model.device.type}"
    if state["environments"] is None or not venv.has_attr("episode_state"):
        return "its environments do not record their episodes, see Replayable"
    if len(state["environments"]) != venv.num_envs:
        return f"it was trained in {len(state['environments'])} environments, and there are {venv.num_envs}"
    venv.set_attr(OUTERMOST, True)
    if not all(venv.env_method("is_outermost")):
        return "Replayable must be the outermost wrapper of each environment; put a Monitor within it"
    return training_state.why_not_these_wrappers(venv, state["wrappers"])


def _check(training: Training, model: BetaPPO) -> None:
    """Raise `UserError` unless the state of a training is well-formed."""
    state, venv = training.state, model.env
    with _damage(training.file):
        training_state.check_generators(state["generators"])
        of_kind("log", state["log"], dict)
        for kept in (*state["wrappers"], *state["callbacks"]):
            of_kind(of_kind("a class", kept["class"], str), kept["values"], list | dict)
        if state["environments"] is None or venv is None:
            return
        for environment in of_kind("environments", state["environments"], list):
            check_episode_state(training.file, environment, venv.action_space)
        n_envs = len(state["environments"])
        _check_batch("_last_obs", training.last["_last_obs"], model.observation_space, n_envs)
        _check_batch("_last_episode_starts", training.last["_last_episode_starts"], spaces.Discrete(2), n_envs)


def _check_batch(name: str, value: Any, space: spaces.Space[Any], n_envs: int) -> None:
    if isinstance(space, spaces.Dict):
        for key, part in space.items():
            _check_batch(f"{name}[{key!r}]", value[key], part, n_envs)
    else:
        shape = (n_envs, *(space.shape or ()))
        if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype.kind not in "biuf":
            raise ValueError(f"{name} must have the shape {shape}")


@contextmanager
def _damage(file: str) -> Iterator[None]:
    """Turn what values that do not fit raise into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except (*UNREADABLE, RuntimeError) as error:
        raise UserError(f"{file}: the state of its training does not fit: {problem(error)}") from error
