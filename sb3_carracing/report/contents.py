"""What a report says about one run, read from its folder, as plain data for JSON."""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sb3_carracing.curves import unit_of
from sb3_carracing.drives import COLUMNS, Drive, Drives, action_names, read_drives
from sb3_carracing.files import hyperparams_file
from sb3_carracing.report.curves import points, read_curves, warning_signs
from sb3_carracing.run_safety import read_yaml
from sb3_carracing.runs import Run

_ARGUMENTS = ("seed", "device", "num_threads", "vec_env", "trained_agent", "hyperparams", "eval_freq", "save_freq")
"""What args.yml adds to the hyperparameters."""

_CONTROLS = [COLUMNS.index(name) for name in ("steering", "gas", "brake")]
_MISSING = 65_535
_HIGHEST = 65_534


@dataclass(frozen=True)
class Evaluation:
    """One kind of action in a file that `evaluate` wrote.

    Attributes:
        file: the JSON file.
        kind: the kind of action.
        content: the whole content of the file.
        drives: None if they are not stored.
    """

    file: Path
    kind: str
    content: dict[str, Any]
    drives: Drives | None

    @property
    def episodes(self) -> list[dict[str, Any]]:
        """The results, one mapping per track."""
        return list(self.content["results"][self.kind]["episodes"])


def read_evaluations_of(run: Run, folders: Iterable[Path]) -> list[Evaluation]:
    """Return the evaluations of a run's agents that some folders hold: most tracks first, and of these the newest.

    An agent is known by its file's SHA-256, so that results of an agent that was replaced since are left out.
    """
    agents = {hashlib.sha256(file.read_bytes()).hexdigest() for file in run.folder.glob("*.zip")}
    found = []
    for file in sorted({path for folder in folders for path in folder.glob("*.json")}):
        content = _evaluation(file)
        if content is not None and content["sha256"] in agents:
            drives = read_drives(file.with_name(content["drives"])) if content.get("drives") else {}
            found += [Evaluation(file, kind, content, drives.get(kind)) for kind in content["results"]]
    return sorted(found, key=lambda it: (len(it.episodes), str(it.content.get("date"))), reverse=True)


def _evaluation(file: Path) -> dict[str, Any] | None:
    """Return the content of a file that `evaluate` wrote, None for any other."""
    try:
        content = json.loads(file.read_text())
        for result in content["results"].values():
            {*result["summary"], *(episode["score"] for episode in result["episodes"])}
        return dict(content) if isinstance(content["sha256"], str) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def contents_of(run: Run, name: str, evaluations: Sequence[Evaluation], every: int = 1) -> dict[str, Any]:
    """Return what a report says about a run.

    Args:
        run: the run.
        name: what to call it.
        evaluations: see `read_evaluations_of`.
        every: keep every n-th decision of its drives.
    """
    parameters = next(run.folder.glob("*/config.yml")).parent
    config, args = read_yaml(parameters / "config.yml"), read_yaml(parameters / "args.yml")
    unit = unit_of([run.folder])
    curves = read_curves(run.folder, unit)
    signs = warning_signs(curves, _number(config.get("max_grad_norm")))
    driven = next((evaluation for evaluation in evaluations if evaluation.drives is not None), None)
    return {
        "name": name,
        "folder": str(run.folder),
        "algorithm": run.algo,
        "environment": run.pipeline.env_id,
        "seed": args.get("seed"),
        "steps": args.get("n_timesteps") if args.get("n_timesteps", -1) > 0 else config.get("n_timesteps"),
        "agents": sorted(file.name for file in run.folder.glob("*.zip")),
        "config": _compared(config, _preset(run))
        + [[key, as_text(args[key]), None, False] for key in _ARGUMENTS if key in args],
        "curves": {key: points(curve, unit) for key, curve in curves.items()},
        "signs": [{"panel": sign.panel, "x": sign.x.tolist()[:200], "text": sign.text} for sign in signs],
        "evaluations": [
            {
                "file": evaluation.file.name,
                "actions": evaluation.kind,
                **{key: evaluation.content.get(key) for key in ("agent", "evaluated_in", "date", "versions", "machine")},
                **evaluation.content["results"][evaluation.kind]["summary"],
                "scores": [[episode["seed"], round(episode["score"], 2)] for episode in evaluation.episodes],
            }
            for evaluation in evaluations
        ],
        "drives": None if driven is None else _drives(driven, every),
    }


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.5


def _preset(run: Run) -> dict[str, Any]:
    """Return the packaged hyperparameters of a run's environment, an empty dict if there are none."""
    file = hyperparams_file(run.algo)
    presets = yaml.safe_load(file.read_text()) if file.is_file() else {}
    return dict(presets.get(run.pipeline.env_id) or presets.get("default") or {})


def _compared(config: Mapping[str, Any], preset: Mapping[str, Any]) -> list[list[Any]]:
    """Return rows of key, value, the preset's value and whether they differ; None is no value."""
    ours, theirs = flat(config), flat(preset)
    keys = dict.fromkeys([*ours, *theirs])
    return [[key, ours.get(key), theirs.get(key), bool(preset) and ours.get(key) != theirs.get(key)] for key in keys]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested values as text, by keys joined with dots."""
    rows: dict[str, str] = {}
    for key, value in values.items():
        rows |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": as_text(value)}
    return rows


def as_text(value: Any) -> str:
    """Return a value of a YAML file as short text: wrappers by their class, whole floats as integers."""
    if isinstance(value, list | tuple):
        is_calls = value and all(isinstance(item, Mapping) or str(item).count(".") > 1 for item in value)
        return "\n".join(map(as_text, value)) if is_calls else f"[{', '.join(map(as_text, value))}]"
    if isinstance(value, Mapping):
        return ", ".join(
            f"{as_text(key)}({', '.join(f'{name}={as_text(option)}' for name, option in sorted(kwargs.items()))})"
            if isinstance(kwargs, Mapping)
            else f"{key}={as_text(kwargs)}"
            for key, kwargs in value.items()
        )
    if isinstance(value, str) and value.count(".") > 1:
        return value.rpartition(".")[2]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _drives(evaluation: Evaluation, every: int) -> dict[str, Any]:
    """Return an evaluation's drives with their numbers as 16 bits, in base64, in the columns `columns`."""
    drives = evaluation.drives
    assert drives is not None
    results = {episode["seed"]: episode for episode in evaluation.episodes}
    tables = [_table(drive, drives)[_kept(len(drive.states), every)] for drive in drives.drives]
    stacked = np.concatenate(tables)
    low, high = np.nanmin(stacked, axis=0, initial=np.inf), np.nanmax(stacked, axis=0, initial=-np.inf)
    low, high = np.where(np.isfinite(low), low, 0.0), np.where(np.isfinite(high), high, 1.0)
    roads = [drive.road for drive in drives.drives]
    near, far = np.concatenate(roads).min(), np.concatenate(roads).max()
    n_rows, n_columns = drives.drives[0].parameters.shape[1:]
    return {
        "file": evaluation.file.name,
        "actions": evaluation.kind,
        "density": drives.density,
        "names": action_names(drives.density, len(drives.low)),
        "bounds": np.stack([drives.low, drives.high], axis=1).tolist(),
        "parameters": [n_rows, n_columns],
        "columns": [*COLUMNS, "value", *(f"a{i}" for i in range(drives.drives[0].actions.shape[1]))],
        "low": low.tolist(),
        "high": high.tolist(),
        "road_range": [float(near), float(far)],
        "tracks": [
            {
                "seed": drive.seed,
                "score": round(results[drive.seed]["score"], 1),
                "frames": results[drive.seed]["frames"],
                "lap": results[drive.seed]["lap_finished"],
                "road": _in_16_bits(drive.road, np.full(2, near), np.full(2, far)),
                "rows": _in_16_bits(table, low, high),
            }
            for drive, table in zip(drives.drives, tables, strict=True)
        ],
    }


def _kept(n: int, every: int) -> np.ndarray:
    """Return the rows to keep: every n-th and the last."""
    return np.unique([*range(0, n, every), n - 1])


def _table(drive: Drive, drives: Drives) -> np.ndarray:
    """Return a row per decision and one for the end: state, the controls that follow, value, action, parameters."""
    states = drive.states.astype(np.float64)
    states[:-1, _CONTROLS] = states[1:, _CONTROLS]
    parameters = drive.parameters.astype(np.float64)
    # Shape parameters and deviations reach over several powers of ten.
    if drives.density == "beta":
        parameters = np.log(parameters)
    elif drives.density == "gaussian":
        parameters[:, :, 1] = np.log(parameters[:, :, 1])
    decisions = np.column_stack([drive.values, drive.actions, parameters.reshape(len(parameters), -1)])
    return np.column_stack([states, np.vstack([decisions, np.full(decisions.shape[1], np.nan)])])


def _in_16_bits(table: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    """Return numbers between `low` and `high` as little-endian 16-bit integers in base64; NaN is the largest."""
    unit = (table - low) / np.where(high > low, high - low, 1.0)
    whole = np.where(np.isfinite(unit), np.rint(unit * _HIGHEST), _MISSING).astype("<u2")
    return base64.b64encode(whole.tobytes()).decode()
