"""Checks of what rl-zoo3 reads from a YAML file or `-params`, before a folder, an environment or a model is made."""

import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import rl_zoo3.exp_manager
import torch as th
import yaml
from gymnasium.envs.registration import load_env_creator
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_carracing.checks import whole_number
from sb3_carracing.errors import UserError
from sb3_carracing.pipelines import import_by_path
from sb3_carracing.ppo.hyperparameters import CHECKS, Check
from sb3_carracing.ppo.policies import BETA_OPTIONS, BetaActorCriticPolicy, NamedPartsPolicy
from sb3_carracing.ppo.torch_layers import resolve_extractor

# Exceptions that evaluating a user's text may raise.
EVALUATION_ERRORS = (ArithmeticError, AttributeError, LookupError, NameError, SyntaxError, TypeError, ValueError)

# Keys that rl-zoo3 removes before it calls the algorithm.
_OF_RL_ZOO3 = {
    *("n_timesteps", "n_envs", "normalize", "frame_stack", "env_wrapper", "vec_env_wrapper", "callback", "env_kwargs"),
    *("monitor_kwargs", "noise_type", "noise_std"),
}
# Arguments of the algorithm that rl-zoo3 passes itself.
_OF_THE_COMMAND_LINE = ("env", "device", "seed", "tensorboard_log", "verbose")


_MAX_ENVS = 65_536
# Algorithms whose policies pass unknown keyword arguments on to their base class.
_KNOWN_POLICIES = ("sb3_carracing.", "stable_baselines3.", "sb3_contrib.")
_SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf", "delta_std")
_AS_BETA_PPO_HAS = (
    *("learning_rate", "n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "clip_range", "clip_range_vf"),
    *("normalize_advantage", "ent_coef", "vf_coef", "max_grad_norm", "use_sde", "sde_sample_freq", "target_kl"),
    *("stats_window_size", "keep_memory"),
)
# BetaPPO's argument with the same valid values.
_LIKE = {
    **dict.fromkeys(("tau", "exploration_fraction", "exploration_initial_eps", "exploration_final_eps"), "gamma"),
    **dict.fromkeys(("noise_std", "target_policy_noise", "target_noise_clip"), "vf_coef"),
    **dict.fromkeys(("rms_prop_eps", "cg_damping", "delta_std"), "max_grad_norm"),
    **dict.fromkeys(("buffer_size", "n_delta", "n_top", "policy_delay", "n_critic_updates", "cg_max_steps"), "n_steps"),
    **dict.fromkeys(("target_update_interval",), "n_steps"),
    **dict.fromkeys(("use_rms_prop", "optimize_memory_usage"), "use_sde"),
}
# What the dotted paths of these entries must name.
_KINDS: dict[str, type] = {"env_wrapper": gym.Env, "vec_env_wrapper": VecEnv, "callback": BaseCallback}
# Arguments of a rollout buffer that the algorithm passes itself.
_OF_THE_ALGORITHM = {"buffer_size", "observation_space", "action_space", "device", "gamma", "gae_lambda", "n_envs"}
_IS_COUNT = CHECKS["n_steps"][1]


def _from(low: int) -> Check:
    return f"a whole number of at least {low}", lambda value: isinstance(value, int) and value >= low


_VALID: dict[str, Check] = {
    **{name: CHECKS[name] for name in _AS_BETA_PPO_HAS},
    **{name: CHECKS[like] for name, like in _LIKE.items()},
    "learning_starts": _from(0),
    "top_quantiles_to_drop_per_net": _from(0),
    "gradient_steps": _from(-1),
    "n_envs": (f"a whole number from 1 to {_MAX_ENVS}", lambda value: _IS_COUNT(value) and value <= _MAX_ENVS),
    "frame_stack": ("a whole number of at least 1, or None", lambda value: value is None or _IS_COUNT(value)),
    # 1e6 in YAML is a float.
    "n_timesteps": (
        "a whole number of at least 1",
        lambda value: _IS_COUNT(int(value) if isinstance(value, float) and value.is_integer() else value),
    ),
}
"""Valid values of rl-zoo3's own entries and of its algorithms' arguments, in words and as a function."""


def _checked(name: str, value: Any) -> Any:
    """Return a hyperparameter, or the number that its text means.

    Raises:
        UserError: it is not valid.
    """
    words, is_valid = _VALID[name]
    is_schedule = name in _SCHEDULES and isinstance(value, str) and value.startswith("lin_")
    number = _number_in(value.removeprefix("lin_") if is_schedule else value)
    if (name == "ent_coef" and isinstance(value, str) and value.startswith("auto")) or is_valid(number):
        return value if is_schedule else number
    raise UserError(f"{name} must be {words}{', or lin_<number>' if name in _SCHEDULES else ''}, got {value!r}")


def check(algo: str, hyperparams: dict[str, Any]) -> dict[str, Any]:
    """Check the entry of an environment and print which text is read as a number.

    Args:
        algo: rl-zoo3's name of the algorithm.
        hyperparams: the entry, with the values that the command line overwrites.

    Returns:
        The values that differ from the entry's: numbers in place of text.

    Raises:
        UserError: a value is not valid. The message names the key, the value and the valid values.
    """
    given = {name: hyperparams[name] for name in _OF_THE_COMMAND_LINE if name in hyperparams}
    if given:
        raise UserError(f"{', '.join(given)} is not a hyperparameter but a command-line option, see --help")
    numbers = {}
    for name in _VALID.keys() & hyperparams.keys():
        value = _checked(name, hyperparams[name])
        if value is not hyperparams[name]:
            print(f"{name}: {hyperparams[name]!r} is text, read as the number {value!r}", file=sys.stderr)
            numbers[name] = value
    algorithm = ALGOS[algo]
    check_keywords(algorithm.__name__, algorithm, set(hyperparams) - _OF_RL_ZOO3)
    _check_policy(algo, hyperparams)
    normalize = evaluated("normalize", hyperparams.get("normalize", False))
    if not isinstance(normalize, bool | dict):
        raise UserError(f"normalize must be true, false or arguments of VecNormalize, got {normalize!r}")
    check_keywords("normalize", VecNormalize, normalize if isinstance(normalize, dict) else ())
    monitor = evaluated("monitor_kwargs", hyperparams.get("monitor_kwargs")) or {}
    if not isinstance(monitor, dict):
        raise UserError(f"monitor_kwargs must be arguments of Monitor, got {monitor!r}")
    check_keywords("monitor_kwargs", Monitor, monitor)
    _check_noise(hyperparams)
    for name, kind in _KINDS.items():
        for path, kwargs in _calls(name, hyperparams.get(name)):
            found = import_by_path(path)
            _check_kind(name, path, found, kind)
            check_keywords(path, found, kwargs, n_positional=int(name != "callback"), complete=True)
    _check_rollout_buffer(hyperparams)
    if not isinstance(hyperparams.get("env_kwargs") or {}, dict):
        raise UserError(f"env_kwargs must be keywords of the environment, got {hyperparams['env_kwargs']!r}")
    return numbers


def _check_kind(name: str, path: str, found: Any, kind: type) -> None:
    """Raise a UserError if a dotted path names a class of another kind, or nothing to call; functions are let through."""
    if not callable(found) or (isinstance(found, type) and not issubclass(found, kind)):
        raise UserError(f"{name} must name a subclass of {kind.__name__}, got {path}")


def _check_rollout_buffer(hyperparams: dict[str, Any]) -> None:
    """Check the class of the rollout buffer, and the keywords for it beyond those that SB3 passes."""
    given = hyperparams.get("rollout_buffer_class") or RolloutBuffer
    buffer = import_by_path(given) if isinstance(given, str) else given
    if not isinstance(buffer, type):
        raise UserError(f"rollout_buffer_class must be a subclass of RolloutBuffer or its dotted path, got {given!r}")
    _check_kind("rollout_buffer_class", str(given), buffer, RolloutBuffer)
    kwargs = evaluated("rollout_buffer_kwargs", hyperparams.get("rollout_buffer_kwargs")) or {}
    if not isinstance(kwargs, dict):
        raise UserError(f"rollout_buffer_kwargs must be keywords of {buffer.__name__}, got {kwargs!r}")
    taken = _OF_THE_ALGORITHM & kwargs.keys()
    if taken:
        raise UserError(f"rollout_buffer_kwargs must leave out {min(taken)}, which the algorithm passes")
    check_keywords("rollout_buffer_kwargs", buffer, kwargs)


def _check_noise(hyperparams: dict[str, Any]) -> None:
    if "noise_type" not in hyperparams:
        if "noise_std" in hyperparams:
            raise UserError(f"noise_std {hyperparams['noise_std']!r} has no effect without noise_type")
        return
    noise, known = hyperparams["noise_type"], ("normal", "ornstein-uhlenbeck")
    if not (isinstance(noise, str) and any(kind in noise for kind in known)):
        raise UserError(f"noise_type must be {' or '.join(known)}, got {noise!r}")
    if "noise_std" not in hyperparams:
        raise UserError(f"noise_type {noise!r} needs noise_std")


def _check_policy(algo: str, hyperparams: dict[str, Any]) -> None:
    policy = hyperparams.get("policy")
    if not isinstance(policy, str | type):
        raise UserError(f"policy must be the name of a policy or a dotted path, got {policy!r}")
    kwargs = evaluated("policy_kwargs", hyperparams.get("policy_kwargs")) or {}
    if not isinstance(kwargs, dict):
        raise UserError(f"policy_kwargs must be keywords of the policy, got {kwargs!r}")
    if isinstance(policy, str):
        aliases = ALGOS[algo].policy_aliases
        if "." not in policy and policy not in aliases:
            raise UserError(f"policy must be one of {', '.join(sorted(aliases))} or a dotted path, got {policy!r}")
        path, policy = policy, import_by_path(policy) if "." in policy else aliases[policy]
        _check_kind("policy", path, policy, BasePolicy)
    is_known = policy.__module__.startswith(_KNOWN_POLICIES)
    options = BETA_OPTIONS if is_known and issubclass(policy, BetaActorCriticPolicy) else ()
    check_keywords("policy_kwargs", policy, kwargs.keys() - set(options), through_bases=is_known)
    _check_network(policy, kwargs)


def _check_network(policy: type, kwargs: dict[str, Any]) -> None:
    """Check the parts of a network that `policy_kwargs` describe; names stand for classes in our policies only."""
    takes_names = issubclass(policy, NamedPartsPolicy)
    kinds = "a class or its name" if takes_names else f"a class ({policy.__name__} takes no names)"
    for name in ("activation_fn", "features_extractor_class"):
        if not isinstance(kwargs.get(name), type | None) and not (takes_names and isinstance(kwargs[name], str)):
            raise UserError(f"{name} must be {kinds}, got {kwargs[name]!r}")
    for name in ("optimizer_kwargs", "features_extractor_kwargs"):
        if not isinstance(kwargs.get(name), dict | None):
            raise UserError(f"{name} must be a mapping of keywords, got {kwargs[name]!r}")
    if not _is_net_arch(kwargs.get("net_arch")):
        raise UserError(f"net_arch must be sizes of layers, [64, 64] or {{pi: [64], vf: [64]}}, got {kwargs['net_arch']!r}")
    check_keywords("optimizer_kwargs", kwargs.get("optimizer_class", th.optim.Adam), kwargs.get("optimizer_kwargs") or ())
    extractor = kwargs.get("features_extractor_class")
    if extractor is not None:
        keywords = kwargs.get("features_extractor_kwargs") or ()
        check_keywords("features_extractor_kwargs", resolve_extractor(extractor), keywords)


def _is_net_arch(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(sizes, list | tuple) and _is_net_arch(sizes) for sizes in value.values())
    # A dict in a list is how SB3 once spelled it.
    return value is None or (
        isinstance(value, list | tuple) and all(isinstance(size, dict) or _IS_COUNT(size) for size in value)
    )


def check_env_kwargs(env_id: str, kwargs: dict[str, Any]) -> None:
    """Raise a UserError for keywords that an environment does not take."""
    if not isinstance(kwargs, dict):
        raise UserError(f"env_kwargs must be keywords of {env_id}, got {kwargs!r}")
    if kwargs.get("max_episode_steps", -1) not in (-1, None):
        whole_number("max_episode_steps", kwargs["max_episode_steps"], 1)
    spec = gym.spec(env_id)
    # These are for `gymnasium.make` itself.
    own = set(kwargs) - {"max_episode_steps", "disable_env_checker", "render_mode"}
    if spec.entry_point is not None:
        creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        check_keywords(env_id, creator, own)
        if _keywords_of(creator, through_bases=False) is None:
            _make(env_id, kwargs)


def _make(env_id: str, kwargs: dict[str, Any]) -> None:
    """Make an environment that passes its keyword arguments on, and raise a UserError if one is unknown."""
    try:
        gym.make(env_id, **kwargs).close()
    except TypeError as error:
        if "keyword argument" not in str(error):
            raise
        raise UserError(str(error)) from error


def check_device(device: Any) -> None:
    """Raise a UserError unless torch can use a device."""
    try:
        th.zeros(0, device=None if device == "auto" else device)
    except (AssertionError, RuntimeError) as error:
        raise UserError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from error


def check_config(config: str, env_id: str, other_entry: str | None) -> None:
    """Raise a UserError unless a file of hyperparameters has an entry that rl-zoo3 can read.

    Args:
        config: YAML file, Python file or module.
        env_id: the entry; `default` takes its place.
        other_entry: what takes its place on an Atari game.
    """
    if config.endswith(".py"):
        if not Path(config).is_file():
            raise UserError(f"there is no file {config}")
        return
    if not config.endswith((".yml", ".yaml")):
        if not _is_module(config):
            raise UserError(f"{config!r} is neither a file *.yml, *.yaml or *.py nor a module of hyperparameters")
        return
    try:
        entries = yaml.safe_load(Path(config).read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{config} is not YAML: {error}") from error
    if not isinstance(entries, dict):
        raise UserError(f"{config} has to map environment ids, or 'default', to hyperparameters, got {entries!r}")
    name = env_id if env_id in entries else other_entry or "default"
    if name not in entries:
        raise UserError(f"{config} has no entry {name!r} for {env_id}")
    if not isinstance(entries[name], dict):
        raise UserError(f"{name} in {config} has to be a mapping of hyperparameters, got {entries[name]!r}")


def check_keywords(
    name: str,
    function: Any,
    keywords: Collection[str],
    *,
    n_positional: int = 0,
    complete: bool = False,
    through_bases: bool = False,
) -> None:
    """Raise a UserError for a keyword that a function or class does not take.

    Args:
        name: in the message.
        function: what is called.
        keywords: names that it is called with.
        n_positional: number of arguments before them.
        complete: whether these are all arguments, so that a missing one is refused as well.
        through_bases: whether a class that takes any keyword argument passes unknown ones on to its base class.
    """
    valid = _keywords_of(function, through_bases)
    unknown = [keyword for keyword in keywords if valid is not None and keyword not in valid]
    if unknown:
        raise UserError(
            f"{name} got an unexpected keyword argument {unknown[0]!r}; valid: {', '.join(sorted(valid or ())) or 'none'}"
        )
    if complete and valid is not None:
        try:
            inspect.signature(function).bind(*[None] * n_positional, **dict.fromkeys(keywords))
        except TypeError as error:
            raise UserError(f"{name}: {error}") from error


def _keywords_of(function: Any, through_bases: bool) -> set[str] | None:
    """Return the keywords that a function or class takes, None if it takes any."""
    names: set[str] = set()
    for init in _initializers(function) if isinstance(function, type) else [function]:
        parameters = inspect.signature(init).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {"self"}
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            return names
        if not through_bases:
            return None
    return names


def _initializers(cls: type) -> Iterator[Callable[..., Any]]:
    for base in cls.__mro__:
        if "__init__" in vars(base) and base is not object:
            yield vars(base)["__init__"]


def _calls(name: str, entry: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield dotted path and keyword arguments of an entry's wrappers or callbacks; objects of Python files are skipped."""
    for item in entry if isinstance(entry, list) else [entry] if entry is not None else []:
        if isinstance(item, str):
            yield item, {}
        elif isinstance(item, dict) and len(item) == 1:
            ((path, kwargs),) = item.items()
            if not isinstance(kwargs, dict):
                raise UserError(f"{name}: {path} must be followed by a mapping of keywords, got {kwargs!r}")
            if isinstance(path, str):
                yield path, kwargs
        elif item is None or isinstance(item, int | float | dict | list | bool):
            raise UserError(f"{name} must be a dotted path, {{path: keywords}} or a list of these, got {item!r}")


def evaluated(name: str, value: Any) -> Any:
    """Return a value, with text evaluated as Python as in rl-zoo3.

    Raises:
        UserError: the text cannot be evaluated.
    """
    if not isinstance(value, str):
        return value
    try:
        # Only data, unless the command was given --trust: see `safe_files`.
        return getattr(rl_zoo3.exp_manager, "eval", eval)(value, dict(vars(rl_zoo3.exp_manager)))
    except EVALUATION_ERRORS as error:
        raise UserError(f"{name} is text that rl-zoo3 evaluates as Python, and {value!r} cannot be: {error}") from error


def _number_in(value: Any) -> Any:
    """Return text as a number, an int if it is whole; return any other value unchanged."""
    if not isinstance(value, str):
        return value
    try:
        number = float(value)
    except ValueError:
        return value
    return int(number) if number.is_integer() and math.isfinite(number) else number


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
