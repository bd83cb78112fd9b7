"""Write an agent as one ONNX file, which maps observations to deterministic actions without torch or SB3."""

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import onnx
import onnxruntime
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import sb3_carracing
from sb3_carracing.envs.registration import FRAME_LIMIT
from sb3_carracing.envs.training_rules import evaluation_kwargs
from sb3_carracing.errors import UserError
from sb3_carracing.files import replacing
from sb3_carracing.pipelines import Pipeline, env_spec, is_car_racing
from sb3_carracing.ppo.saving.vec_normalize import read_statistics

OPSET = 18
N_CHECKED = 1000
TOLERANCE = 1e-5
"""Largest difference between torch and the file, as a share of half the range of an action."""
_BATCH = 250

Observations = dict[str, np.ndarray]
"""Arrays `(n_batch, ...)` by the name of the file's input."""


def export(
    model: BaseAlgorithm,
    file: Path,
    pipeline: Pipeline | None = None,
    statistics: Path | None = None,
    trust: bool = False,
) -> tuple[dict[str, str], float]:
    """Write an agent as ONNX, with the scaling of observations, the running means and the deterministic action inside.

    The inputs are a batch of observations as the agent gets them, but before VecNormalize: "observation", or the keys of a
    Dict. The output "action" is what the environment takes, `(n_batch, *action_shape)`. The file replaces an existing one
    after its actions have been compared with torch's.

    Args:
        model: what `load_agent` returns.
        file: the file to write.
        pipeline: that of the agent's training, for the metadata; None if it is unknown.
        statistics: file with the running means of the observations; None if they are not normalized.
        trust: whether the file of running means may run code.

    Returns:
        The metadata, and the largest difference from torch's actions over 1,000 observations: as a share of half the range
        of an action; for discrete actions, the share of observations with another action.

    Raises:
        UserError: the agent cannot be exported.
        RuntimeError: the file and torch disagree.
    """
    policy = _exportable(model)
    normalize = None
    if statistics is not None:
        if pipeline is not None and pipeline.frame_stack:
            raise UserError(
                "a run that stacks normalized observations (frame_stack) cannot be exported: its stack starts with "
                "zeros that are not normalized; stack with gymnasium.wrappers.FrameStackObservation instead"
            )
        normalize = _running_means(policy, statistics, trust)
    proto = _as_onnx(_Actor(policy, normalize), _samples(policy, normalize, 2))
    metadata = _metadata(model, policy, normalize, pipeline)
    onnx.helper.set_model_props(proto, metadata)
    with replacing(file) as temporary:
        onnx.save(proto, temporary)
        difference = _difference(temporary, policy, normalize)
        if difference > TOLERANCE:
            raise RuntimeError(f"the exported agent's actions differ from torch's by {difference:.2g}, {file} is not written")
    return metadata, difference


class _Actor(th.nn.Module):
    """From raw observations, in the order of the policy's keys, to the actions of `policy.predict(deterministic=True)`."""

    def __init__(self, policy: ActorCriticPolicy, normalize: VecNormalize | None):
        super().__init__()
        self.policy = policy
        self.normalize = normalize
        self.keys = list(policy.observation_space) if isinstance(policy.observation_space, spaces.Dict) else None

    def forward(self, *observations: th.Tensor) -> th.Tensor:
        """Return the actions, `(n_batch, *action_shape)`."""
        obs: Any = observations[0]
        if self.keys is not None:
            obs = dict(zip(self.keys, observations, strict=True))
        if self.normalize is not None and self.normalize.norm_obs:
            obs = self._normalized(obs)
        space = self.policy.action_space
        actions = self.policy._predict(obs, deterministic=True).reshape(-1, *(space.shape or ()))
        if not isinstance(space, spaces.Box):
            return actions
        low, high = (th.as_tensor(bound.astype(np.float32)) for bound in (space.low, space.high))
        if self.policy.squash_output:
            return low + 0.5 * (actions + 1.0) * (high - low)
        return actions.clamp(low, high)

    def _normalized(self, obs: Any) -> Any:
        assert self.normalize is not None
        rms = self.normalize.obs_rms
        if isinstance(rms, dict):
            assert self.normalize.norm_obs_keys is not None
            return obs | {key: self._scaled(obs[key], rms[key]) for key in self.normalize.norm_obs_keys}
        return self._scaled(obs, rms)

    def _scaled(self, obs: th.Tensor, rms: Any) -> th.Tensor:
        assert self.normalize is not None
        limit = self.normalize.clip_obs
        deviation = np.sqrt(rms.var + self.normalize.epsilon)
        return ((obs.double() - th.as_tensor(rms.mean)) / th.as_tensor(deviation)).clamp(-limit, limit).float()


class _Spaces(gym.Env[Any, Any]):
    """An environment that has spaces and does nothing."""

    def __init__(self, policy: BasePolicy) -> None:
        self.observation_space, self.action_space = policy.observation_space, policy.action_space


def _exportable(model: BaseAlgorithm) -> ActorCriticPolicy:
    """Return a copy of the agent's policy that computes in float32 on the CPU."""
    policy = model.policy
    if not isinstance(policy, ActorCriticPolicy) or type(policy)._predict is not ActorCriticPolicy._predict:
        raise UserError(
            f"only agents with SB3's actor-critic policies without memory can be exported (beta_ppo, ppo, a2c, trpo), got "
            f"{type(model).__name__} with {type(policy).__name__}"
        )
    # SB3's distributions keep tensors of their last call, which cannot be copied.
    policy = copy.deepcopy(policy, {id(policy.action_dist): policy.action_dist}).cpu().to(memory_format=th.contiguous_format)  # type: ignore[call-overload]
    policy.set_training_mode(False)
    if hasattr(policy, "autocast"):
        policy.autocast = None
    return policy  # type: ignore[no-any-return]


def _running_means(policy: ActorCriticPolicy, statistics: Path, trust: bool) -> VecNormalize:
    if not statistics.is_file():
        raise UserError(f"the run normalizes, but its statistics {statistics} are missing")
    normalize = read_statistics(statistics, DummyVecEnv([lambda: _Spaces(policy)]), trust)
    normalize.training = False
    return normalize


def _samples(policy: ActorCriticPolicy, normalize: VecNormalize | None, n: int) -> Observations:
    """Return random observations by the names of the file's inputs; normalized ones are spread as in the training."""
    space = copy.deepcopy(policy.observation_space)
    space.seed(0)
    drawn = [space.sample() for _ in range(n)]
    if not isinstance(space, spaces.Dict):
        samples = {"observation": np.stack(drawn)}
    else:
        samples = {key: np.stack([one[key] for one in drawn]) for key in space}
    if normalize is not None and normalize.norm_obs:
        means = normalize.obs_rms if isinstance(normalize.obs_rms, dict) else {"observation": normalize.obs_rms}
        random = np.random.default_rng(0)
        for key, rms in means.items():
            spread = rms.mean + np.sqrt(rms.var) * random.normal(size=samples[key].shape)
            samples[key] = spread.astype(samples[key].dtype)
    return samples


def _as_onnx(actor: _Actor, samples: Observations) -> Any:
    batch = th.export.Dim("batch")
    with _quiet():
        try:
            program = th.onnx.export(
                actor.eval(),
                tuple(map(th.as_tensor, samples.values())),
                input_names=list(samples),
                output_names=["action"],
                dynamic_shapes={"observations": tuple({0: batch} for _ in samples)},
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        except th.onnx.errors.OnnxExporterError as error:
            cause = str(error.__cause__ or error).partition("\n")[0]
            extractor = type(actor.policy.features_extractor).__name__
            raise UserError(f"torch.onnx cannot export this network with {extractor}: {cause}") from error
    assert program is not None
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Turn off the checks of torch's distributions, which cannot be exported, and what the exporter says on its way."""
    logger, checks = logging.getLogger("torch.onnx"), th.distributions.Distribution._validate_args
    level = logger.level
    logger.setLevel(logging.ERROR)
    th.distributions.Distribution.set_default_validate_args(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        th.distributions.Distribution.set_default_validate_args(checks)
        logger.setLevel(level)


def _difference(file: Path, policy: ActorCriticPolicy, normalize: VecNormalize | None) -> float:
    """Return the largest difference between a file's actions and the policy's, see `export`."""
    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    samples, space, largest, n_different = _samples(policy, normalize, N_CHECKED), policy.action_space, 0.0, 0
    for start in range(0, N_CHECKED, _BATCH):
        part = {key: value[start : start + _BATCH] for key, value in samples.items()}
        obs: Any = part if isinstance(policy.observation_space, spaces.Dict) else part["observation"]
        wanted = policy.predict(obs if normalize is None else normalize.normalize_obs(obs), deterministic=True)[0]
        actions = session.run(["action"], part)[0]
        if isinstance(space, spaces.Box):
            half = (space.high.astype(np.float64) - space.low.astype(np.float64)) / 2.0
            largest = max(largest, float(np.max(np.abs(actions - wanted) / np.where(np.isfinite(half), half, 1.0))))
        else:
            n_different += int(np.sum(np.any((actions != wanted).reshape(len(wanted), -1), axis=1)))
    return largest if isinstance(space, spaces.Box) else n_different / N_CHECKED


def _metadata(
    model: BaseAlgorithm, policy: ActorCriticPolicy, normalize: VecNormalize | None, pipeline: Pipeline | None
) -> dict[str, str]:
    """Return what the file says about itself; lists are JSON."""
    inside = ["scaling of observations", f"deterministic action: {getattr(policy, 'deterministic_action', 'mode')}"]
    if normalize is not None and normalize.norm_obs:
        inside.insert(0, "running means of VecNormalize")
    outside = _outside(pipeline) if pipeline is not None else ["unknown: exported from a .zip without its run folder"]
    parts = (
        policy.observation_space.values() if isinstance(policy.observation_space, spaces.Dict) else [policy.observation_space]
    )
    if any(is_image_space(part) for part in parts):
        outside.append("images must have their channels first")
    return {
        "algorithm": type(model).__name__,
        "observation_space": str(policy.observation_space),
        "action_space": str(policy.action_space),
        "inside": json.dumps(inside),
        "outside": json.dumps(outside),
        "versions": json.dumps(
            {library.__name__: str(library.__version__) for library in (sb3_carracing, th, onnx)} | {"opset": OPSET}
        ),
    }


def _outside(pipeline: Pipeline) -> list[str]:
    """Return what stands between environment and file, from the environment outwards."""
    spec = env_spec(pipeline.env_id)
    kwargs = spec.kwargs | pipeline.env_kwargs
    kwargs = evaluation_kwargs(kwargs) if is_car_racing(spec) else kwargs
    views = [(view.entry_point.replace(":", "."), view.kwargs) for view in spec.additional_wrappers if view != FRAME_LIMIT]
    calls = [(call.path, call.kwargs) for call in (*pipeline.wrappers, *pipeline.vec_wrappers)]
    if pipeline.frame_stack:
        calls.append(("stable_baselines3.common.vec_env.VecFrameStack", {"n_stack": pipeline.frame_stack}))
    return [f"{name} {json.dumps(given)}" if given else name for name, given in [(pipeline.env_id, kwargs), *views, *calls]]
