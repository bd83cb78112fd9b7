"""ValidationCallback: evaluations.csv, evaluations.npz and the best agent."""

import csv
import functools
import sys
import time
import warnings
from pathlib import Path
from typing import Any, get_args

import numpy as np
from tqdm import tqdm

from sb3_carracing.callbacks.run_callback import RunCallback, log_file
from sb3_carracing.checks import one_of, whole_number
from sb3_carracing.errors import UserError
from sb3_carracing.evaluation import (
    N_TEST_TRACKS,
    TEST_SEED,
    VALIDATION_SEED,
    EpisodeResult,
    check_actions,
    check_pipeline,
    evaluate,
    summarize,
)
from sb3_carracing.pipelines import (
    EnvFactory,
    Pipeline,
    Renderer,
    VecWrapper,
    WrapperCall,
    env_spec,
    pipeline_env,
    vec_wrappers_of,
    wrap_alike,
)
from sb3_carracing.runs import BEST_AGENT, BEST_STATISTICS, read_run


class ValidationCallback(RunCallback):
    """Play the same validation tracks at regular intervals and keep the best agent.

    It writes evaluations.csv, and best_model.zip with, where the training normalises, the agent's running means in
    best_model_vecnormalize.pkl. evaluations.npz holds every episode's score and length as SB3's EvalCallback stores them,
    for rl-zoo3's all_plots. It logs `eval/mean_score`, `eval/laps_finished` and `eval/best_mean_score`.

    Within a run of rl-zoo3 the environment is the run's own, without what is for training only. Elsewhere it is made by
    `make_env`, or it is the training environment's id with the wrappers around it that gymnasium can repeat (those that
    are `RecordConstructorArgs`). A warning names the others.

    Args:
        every_frames: frames between two validations; one more is played at the end of the training.
        n_episodes: number of tracks.
        first_seed: random seed of the first track; the test tracks are refused.
        renderer: "stock" or "fast" to drive gymnasium's CarRacing-v3 or CarRacingFast-v3 with the run's view wrappers
            around it; None for the run's own id.
        actions: see `evaluate`.
        n_envs: number of environments, see `evaluate`.
        make_env: factory of the environment, instead of the above.
        run_dir: folder to write to; None for the logger's.

    Raises:
        UserError: a number is out of range. At the start of the training: the environment does not fit the agent, or the
            training that is resumed was validated on another number of tracks.
    """

    def __init__(
        self,
        every_frames: int,
        n_episodes: int = 5,
        first_seed: int = VALIDATION_SEED,
        renderer: Renderer | None = None,
        actions: str = "deterministic",
        n_envs: int = 1,
        make_env: EnvFactory | None = None,
        run_dir: str | Path | None = None,
    ) -> None:
        super().__init__(run_dir)
        for name, value in (("every_frames", every_frames), ("n_episodes", n_episodes), ("n_envs", n_envs)):
            whole_number(name, value, 1)
        self._seeds = range(first_seed, first_seed + n_episodes)
        if set(self._seeds) & set(range(TEST_SEED, TEST_SEED + N_TEST_TRACKS)):
            raise UserError(f"first_seed {first_seed} takes test tracks, which are for the final evaluation only")
        self._every_frames = every_frames
        if renderer is not None:
            one_of("renderer", renderer, get_args(Renderer))
        self._renderer = renderer
        self._actions = one_of("actions", actions, ("deterministic", "mean", "mode", "sample"))
        self._n_envs = n_envs
        self._make_env = make_env

    def _on_training_start(self) -> None:
        super()._on_training_start()
        check_actions(self.model, self._actions)
        self._factory, self._wrap_vec_env, self._statistics = self._environment()
        if self._statistics is not None:
            self._save_statistics(self._statistics)
        check_pipeline(self.model, self._factory, self._wrap_vec_env)
        self._best_file = log_file(self._folder, BEST_AGENT, self._resumes)
        self._best_statistics = log_file(self._folder, BEST_STATISTICS, self._resumes)
        self._file = log_file(self._folder, "evaluations.csv", self._resumes)
        self._best_mean = _best_in(self._file)
        self._episodes = _Episodes(log_file(self._folder, "evaluations.npz", self._resumes), len(self._seeds))
        self._last_frames = self._frames

    def _on_step(self) -> bool:
        super()._on_step()
        if self._frames // self._every_frames > self._last_frames // self._every_frames:
            self._validate()
        return True

    def _on_training_end(self) -> None:
        # Not after Ctrl-C: whoever presses it wants the prompt back.
        completed = self.model.num_timesteps >= self.locals["total_timesteps"]
        if completed and self._frames > self._last_frames:
            self._validate()
            self.logger.dump(self.model.num_timesteps)

    def _environment(self) -> tuple[EnvFactory, VecWrapper | None, Path | None]:
        """Return the environment's factory, its vectorised wrappers, and the file that these read running means from."""
        in_run_of_rl_zoo3 = self.run_dir is not None and any(self.run_dir.glob("*/config.yml"))
        if self._make_env is None and in_run_of_rl_zoo3:
            assert self.run_dir is not None
            pipeline = read_run(self.run_dir).pipeline
            return pipeline_env(pipeline, renderer=self._renderer), pipeline.wrap_vec_env, pipeline.normalize
        factory, skipped = (self._make_env, []) if self._make_env is not None else self._factory_like_training()
        skipped += [name for name, repeated in vec_wrappers_of(self.training_env) if not repeated]
        if skipped:
            warnings.warn(
                f"validation plays without {', '.join(skipped)}, which it cannot repeat: pass make_env to ValidationCallback "
                "if that changes what the agent sees or does",
                stacklevel=2,
            )
        return factory, functools.partial(wrap_alike, self.training_env), None

    def _factory_like_training(self) -> tuple[EnvFactory, list[str]]:
        """Return a factory of the training environment's id and wrappers, and the names of those that it leaves out.

        It leaves out those whose keywords gymnasium does not record. Monitor is not named.
        """
        spec = self.training_env.get_attr("spec")[0]
        if spec is None:
            raise UserError("the training environment has no id: pass make_env to ValidationCallback")
        registered = env_spec(spec.id)
        kwargs = {key: value for key, value in spec.kwargs.items() if key != "render_mode"}
        if spec.max_episode_steps != registered.max_episode_steps:
            kwargs["max_episode_steps"] = spec.max_episode_steps or -1  # -1: gymnasium's word for no limit
        added = spec.additional_wrappers[len(registered.additional_wrappers) :]
        wrappers = [WrapperCall(wrapper.entry_point, wrapper.kwargs) for wrapper in added if wrapper.kwargs is not None]
        left_out = [wrapper.name for wrapper in added if wrapper.kwargs is None and wrapper.name != "Monitor"]
        return pipeline_env(Pipeline(spec.id, kwargs, tuple(wrappers)), renderer=self._renderer), left_out

    def _validate(self) -> None:
        start = time.perf_counter()
        if self._statistics is not None:
            self._save_statistics(self._statistics)
        results = evaluate(
            self.model,
            self._factory,
            self._seeds,
            actions=self._actions,
            n_envs=self._n_envs,
            wrap_vec_env=self._wrap_vec_env,
        )
        self._last_frames = self._frames
        summary = summarize(results)
        row = {
            "frames": self._frames,
            "steps": self.model.num_timesteps,
            "seconds": round(time.perf_counter() - self._start_time, 1),
            "mean": summary.mean,
            "std": summary.std,
            "median": summary.median,
            "min": summary.min,
            "laps_finished": summary.laps_finished,
            "validation_seconds": round(time.perf_counter() - start, 1),
        }
        best = summary.mean > self._best_mean
        if best:
            self._best_mean = summary.mean
            new = self._best_file.with_suffix(".new.zip")
            self.model.save(new)
            new.replace(self._best_file)
            if self.model.get_vec_normalize_env() is not None:
                self._save_statistics(self._best_statistics)
        self._episodes.append(self.model.num_timesteps, results)
        # Last, since a resumed training takes its best score from here.
        _append_row(self._file, row)
        self.logger.record("eval/mean_score", summary.mean)
        self.logger.record("eval/laps_finished", summary.laps_finished)
        self.logger.record("eval/best_mean_score", self._best_mean)
        kept = f"the best so far, kept as {self._best_file}" if best else f"best {self._best_mean:.1f}"
        tqdm.write(f"validation at {self._frames:,} frames: {summary.mean:.1f} +- {summary.std:.1f} ({kept})", sys.stderr)

    def _save_statistics(self, file: Path) -> None:
        normalize = self.model.get_vec_normalize_env()
        assert normalize is not None
        file.parent.mkdir(parents=True, exist_ok=True)
        normalize.save(str(file))


class _Episodes:
    """The file evaluations.npz: `timesteps` `(n,)`, `results` and `ep_lengths` `(n, n_episodes)` of n evaluations."""

    def __init__(self, file: Path, n_episodes: int) -> None:
        self._file = file
        self._rows: dict[str, list[Any]] = {"timesteps": [], "results": [], "ep_lengths": []}
        if file.exists():
            with np.load(file) as stored:
                self._rows = {name: list(stored[name]) for name in self._rows}
            before = len(self._rows["results"][0])
            if before != n_episodes:
                raise UserError(
                    f"n_episodes is {n_episodes}, and {file} of the training that goes on holds evaluations of {before}: "
                    f"their scores cannot be compared; give {before}, or another folder"
                )

    def append(self, steps: int, results: list[EpisodeResult]) -> None:
        row = {"timesteps": steps, "results": [r.score for r in results], "ep_lengths": [r.steps for r in results]}
        for name, value in row.items():
            self._rows[name].append(value)
        timesteps, scores, lengths = (np.array(values) for values in self._rows.values())
        new = self._file.with_suffix(".new.npz")
        np.savez(new, timesteps=timesteps, results=scores, ep_lengths=lengths)
        new.replace(self._file)


def _append_row(file: Path, row: dict[str, Any]) -> None:
    new = not file.exists()
    with file.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, row)
        if new:
            writer.writeheader()
        writer.writerow(row)


def _best_in(file: Path) -> float:
    if not file.exists():
        return -np.inf
    with file.open(newline="") as stream:
        return max((float(row["mean"]) for row in csv.DictReader(stream)), default=-np.inf)
