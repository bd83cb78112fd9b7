"""Read plan.yml: which runs there are, and what each one is made of."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PLAN = Path(__file__).with_name("plan.yml")
HYPERPARAMS = Path(__file__).parents[2] / "hyperparams" / "beta_ppo.yml"


@dataclass(frozen=True)
class Run:
    """One run of the plan.

    what: in words, what is switched. env_id: of the training. settings: all else, see `read_plan`. actions: how the last
    agent is evaluated. validate_every: frames between two validations.
    """

    name: str
    group: str
    what: str
    env_id: str
    settings: dict[str, Any]
    actions: tuple[str, ...]
    validate_every: int


def read_plan(plan_file: Path = PLAN) -> dict[str, Run]:
    """Return every run by name, in the file's order.

    Settings are a preset's keys, its `env_wrapper` as a mapping `wrappers` and without `callback`, and beside them
    `training_wrappers`, `algorithm` and `rollout_buffer_class` (dotted paths).

    Raises:
        ValueError: two runs share a name, or a run is like one that is not above it.
    """
    plan = yaml.safe_load(plan_file.read_text())
    presets = yaml.safe_load(HYPERPARAMS.read_text())
    runs: dict[str, Run] = {}
    for group, content in plan.items():
        for name, entry in content["runs"].items():
            if name in runs:
                raise ValueError(f"two runs are called {name!r}")
            runs[name] = _read_run(name, group, content, entry, presets, runs)
    return runs


def _read_run(
    name: str, group: str, content: dict[str, Any], entry: dict[str, Any], presets: dict[str, Any], runs: dict[str, Run]
) -> Run:
    like = entry.get("like")
    if like is not None and like not in runs:
        raise ValueError(f"{name} is like {like!r}, which is not above it; there are {', '.join(runs)}")
    env_id = entry.get("preset", content["preset"])
    if like is not None:
        settings = runs[like].settings
    else:
        settings = _preset(presets[env_id])
        if entry.get("common", True):
            settings = merged(settings, content["common"])
    return Run(
        name=name,
        group=group,
        what=entry["what"],
        env_id=env_id,
        settings=merged(settings, entry["set"]),
        actions=tuple(content["actions"]),
        validate_every=entry.get("validate_every", content["validate_every"]),
    )


def _preset(preset: dict[str, Any]) -> dict[str, Any]:
    settings = {key: value for key, value in preset.items() if key not in ("env_wrapper", "callback")}
    settings["wrappers"] = {}
    for wrapper in preset.get("env_wrapper", []):
        settings["wrappers"] |= {wrapper: {}} if isinstance(wrapper, str) else wrapper
    return settings


def merged(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of nested settings with changes merged into it; a change to None takes the key away."""
    result = deepcopy(settings)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = deepcopy(value)
    return result
