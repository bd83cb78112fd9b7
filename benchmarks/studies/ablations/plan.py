"""Read plan.yml: which runs there are, and what each one is made of."""

import functools
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.provenance import ROOT
from benchmarks.runner import Config, Study
from sb3_carracing.errors import UserError
from sb3_carracing.pipelines import PipelineEnv, pipeline_env
from sb3_carracing.runs import Run

PLAN = Path(__file__).with_name("plan.yml")
HYPERPARAMS = ROOT / "hyperparams" / "beta_ppo.yml"
# All plans, those of other studies too, begin with the former preset of CarRacingFast-v3.
FORMER = ROOT / "hyperparams" / "beta_ppo_long.yml"
Settings = dict[str, Any]
_NOT_RL_ZOO3S = ("wrappers", "outer_wrappers", "further_callbacks", "algorithm")


@functools.cache
def study() -> Study:
    """Return the study with all runs of the plan."""
    return Study("ablations", read_plan(), keep_progress=True, evaluation_env=lambda run, _: evaluation_env(run))


def evaluation_env(run: Run) -> PipelineEnv:
    """Return the factory of the environment for validation and test: the run's own id and rendering, none of its rules.

    Idle frames at the start belong to what the agent of the Iurin implementation sees, so they stay.
    """
    own = pipeline_env(run.pipeline, renderer=None)
    idle = run.pipeline.env_kwargs.get("noop_frames", 0)
    return replace(own, kwargs=own.kwargs | {"noop_frames": idle}) if idle else own


def read_plan(plan_file: Path = PLAN) -> dict[str, Config]:
    """Return every run by name, in the file's order.

    Raises:
        UserError: two runs share a name, or a run is like one that is not above it.
    """
    plan = yaml.safe_load(plan_file.read_text())
    presets = yaml.safe_load(HYPERPARAMS.read_text()) | yaml.safe_load(FORMER.read_text())
    settings: dict[str, Settings] = {}
    configs: dict[str, Config] = {}
    for group, content in plan.items():
        for name, entry in content["runs"].items():
            if name in configs:
                raise UserError(f"two runs are called {name!r}")
            env_id = entry.get("preset", content["preset"])
            settings[name] = merged(_start(name, content, entry, presets[env_id], settings), entry["set"])
            every_frames = entry.get("validate_every", content["validate_every"])
            callbacks = content.get("callbacks", "sb3_carracing.callbacks")
            configs[name] = _config(name, settings[name], env_id, every_frames, callbacks)
            configs[name] = replace(configs[name], what=entry["what"], group=group, actions=tuple(content["actions"]))
    return configs


def _start(name: str, content: Settings, entry: Settings, preset: Settings, above: dict[str, Settings]) -> Settings:
    """Return the settings that a run's own changes are merged into."""
    like = entry.get("like")
    if like is not None and like not in above:
        raise UserError(f"{name} is like {like!r}, which is not above it; there are {', '.join(above)}")
    if like is not None:
        return above[like]
    settings = {key: value for key, value in preset.items() if key not in ("env_wrapper", "callback")}
    settings["wrappers"] = {}
    for wrapper in preset.get("env_wrapper", []):
        settings["wrappers"] |= {wrapper: {}} if isinstance(wrapper, str) else wrapper
    return merged(settings, content["common"]) if entry.get("common", True) else settings


def _config(name: str, settings: Settings, env_id: str, every_frames: int, callbacks: str) -> Config:
    """Return settings as the entry of a rl-zoo3 YAML with its algorithm beside it."""
    hyperparams = {key: value for key, value in settings.items() if key not in _NOT_RL_ZOO3S}
    if wrappers := settings["wrappers"] | settings.get("outer_wrappers", {}):
        hyperparams["env_wrapper"] = [{path: keywords} for path, keywords in wrappers.items()]
    hyperparams["callback"] = [
        {f"{callbacks}.ProgressCallback": {"live_line": False}},
        {f"{callbacks}.ValidationCallback": {"every_frames": every_frames}},
        *settings.get("further_callbacks", []),
    ]
    return Config(name, "", env_id, hyperparams, settings.get("algorithm", "beta_ppo"))


def merged(settings: Settings, changes: Settings) -> Settings:
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
