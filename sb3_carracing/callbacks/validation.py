"""ValidationCallback: evaluations.csv, evaluations.npz and the best agent."""

import functools
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from stable_baselines3.common.monitor import Monitor
from tqdm import tqdm

from sb3_carracing.callbacks.checkpoint import agent_bytes
from sb3_carracing.callbacks.run_callback import RunCallback, log_file
from sb3_carracing.checks import one_of, whole_number
from sb3_carracing.envs.replayable import Replayable
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
from sb3_carracing.files import next_free, replacing, tolerating_full_disk, write_atomically
from sb3_carracing.logs import CsvLog, Evaluations, read_evaluations, read_table, write_evaluations
from sb3_carracing.pipelines import (
    EnvFactory,
    Pipeline,
    Renderer,
    VecWrapper,
    WrapperCall,
    env_spec,
    not_repeated,
    pipeline_env,
    wrap_alike,
)
from sb3_carracing.ppo.saving.vec_normalize import write_statistics
from sb3_carracing.progress import ProgressLine
from sb3_carracing.runs import BEST_AGENT, BEST_STATISTICS, read_run

_OF_TRAINING = [f"{wrapper.__module__}:{wrapper.__name__}" for wrapper in (Monitor, Replayable)]
"""Wrappers that validation needs not repeat."""


class ValidationCallback(RunCallback):
    """Evaluate the agent on the same validation tracks at regular intervals and save the best one.

    It writes evaluations.csv and best_model.zip. If the training normalizes, it also writes the agent's running means to
    best_model_vecnormalize.pkl. evaluations.npz holds every episode's score and length in the format of SB3's EvalCallback,
    for rl-zoo3's all_plots. It logs `eval/mean_score`, `eval/laps_finished` and `eval/best_mean_score`.

    In a run of rl-zoo3, the environment is the run's own without its training rules. Otherwise `make_env` makes it. Without
    `make_env` it is the training environment's id, with those of its wrappers that gymnasium can repeat (subclasses of
    `RecordConstructorArgs`). A warning names the others.

    If several ranks train, each drives a share of the tracks at the end of a rollout.

    Args:
        every_frames: frames between two validations; one more validation follows at the end of training.
        n_episodes: number of tracks.
        first_seed: random seed of the first track; the test tracks are refused.
        renderer: "stock" or "fast" to drive gymnasium's CarRacing-v3 or CarRacingFast-v3 with the run's view wrappers
            around it; None for the run's own id.
        actions: see `evaluate`.
        n_envs: number of environments, see `evaluate`.
        make_env: factory of the environment, instead of the above.
        run_dir: folder to write to; None for the logger's.

    Raises:
        UserError: a number is out of range. At the start of training: the environment does not fit the agent, or the
            resumed training was validated on another number of tracks.
    """

    KEPT = (*RunCallback.KEPT, "_best_mean", "_last_frames")

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
        self._write_current_statistics()
        check_pipeline(self.model, self._factory, self._wrap_vec_env, min(self._n_envs, len(self._seeds)))
        if self._group.rank == 0:
            self._open_files()
        self._last_frames = self._frames

    def _open_files(self) -> None:
        """Open the files to write to and read what an earlier part of the training wrote."""
        table_file, self._episodes_file, self._best_file, self._best_statistics = (
            log_file(self._folder, name, self._resumes)
            for name in ("evaluations.csv", "evaluations.npz", BEST_AGENT, BEST_STATISTICS)
        )
        self._evaluations = read_evaluations(self._episodes_file)
        self._check_n_episodes()
        self._best_mean = self._best_so_far(table_file)
        for file in (self._best_file, self._best_statistics):
            # Without a score to compare with, a worse agent could replace the best one.
            if self._best_mean == -np.inf and file.exists():
                file.rename(next_free(file))
        self._table = CsvLog(table_file)

    def _check_n_episodes(self) -> None:
        before = self._evaluations.results.shape[1] if self._evaluations is not None else len(self._seeds)
        if before != len(self._seeds):
            raise UserError(
                f"n_episodes is {len(self._seeds)}, and {self._episodes_file} of the resumed training holds evaluations of "
                f"{before}: their scores cannot be compared; give {before}, or another folder"
            )

    def _best_so_far(self, table_file: Path) -> float:
        """Return the best mean score of this training, -inf if there is none yet.

        Two files hold it, in case one is damaged. If the first is missing, the other was not written by this callback.
        """
        if not table_file.exists():
            return -np.inf
        table = read_table(table_file)
        in_table = table.where_finite("mean")[0] if table is not None and "mean" in table else ()
        in_episodes = self._evaluations.results.mean(axis=1) if self._evaluations is not None else ()
        return float(max([*in_table, *in_episodes], default=-np.inf))

    def _on_step(self) -> bool:
        super()._on_step()
        if self._group.size == 1:
            self._validate_if_due()
        return True

    def _on_rollout_end(self) -> None:
        super()._on_rollout_end()
        if self._group.size > 1:
            self._validate_if_due()  # only now do all ranks know the frames of the others

    def _validate_if_due(self) -> None:
        if self._frames // self._every_frames > self._last_frames // self._every_frames:
            self._validate()

    def _on_training_end(self) -> None:
        # Not after Ctrl-C, so that the prompt returns at once.
        completed = self.model.num_timesteps >= self.locals["total_timesteps"]
        if completed and self._frames > self._last_frames:
            self._validate()
            self.logger.dump(self.model.num_timesteps)

    def _environment(self) -> tuple[EnvFactory, VecWrapper | None, Path | None]:
        """Return the environment's factory, its vectorized wrappers, and the file with their running means."""
        in_run_of_rl_zoo3 = self.run_dir is not None and any(self.run_dir.glob("*/config.yml"))
        if self._make_env is None and in_run_of_rl_zoo3:
            assert self.run_dir is not None
            pipeline = read_run(self.run_dir, trust=True).pipeline  # it is being made by this process
            return pipeline_env(pipeline, renderer=self._renderer), pipeline.wrap_vec_env, pipeline.normalize
        factory, skipped = (self._make_env, []) if self._make_env is not None else self._factory_like_training()
        skipped += not_repeated(self.training_env)
        if skipped:
            warnings.warn(
                f"validation plays without {', '.join(skipped)}, which it cannot repeat: pass make_env to ValidationCallback "
                "if that changes what the agent sees or does",
                stacklevel=2,
            )
        return factory, functools.partial(wrap_alike, self.training_env), None

    def _factory_like_training(self) -> tuple[EnvFactory, list[str]]:
        """Return a factory of the training environment's id and wrappers, and the names of the wrappers it leaves out.

        It leaves out wrappers whose arguments gymnasium does not record. Monitor is not named.
        """
        spec = self.training_env.get_attr("spec")[0]
        if spec is None:
            raise UserError("the training environment has no id: pass make_env to ValidationCallback")
        registered = env_spec(spec.id)
        kwargs = {key: value for key, value in spec.kwargs.items() if key != "render_mode"}
        if spec.max_episode_steps != registered.max_episode_steps:
            kwargs["max_episode_steps"] = spec.max_episode_steps or -1  # -1 means no limit in gymnasium
        added = spec.additional_wrappers[len(registered.additional_wrappers) :]
        added = tuple(wrapper for wrapper in added if wrapper.entry_point not in _OF_TRAINING)
        wrappers = [WrapperCall(wrapper.entry_point, wrapper.kwargs) for wrapper in added if wrapper.kwargs is not None]
        left_out = [wrapper.name for wrapper in added if wrapper.kwargs is None]
        return pipeline_env(Pipeline(spec.id, kwargs, tuple(wrappers)), renderer=self._renderer), left_out

    def _validate(self) -> None:
        start = time.perf_counter()
        self._write_current_statistics()
        results = self._results_of_all_ranks()
        self._last_frames = self._frames
        if self._group.rank == 0:
            self._report(results, time.perf_counter() - start)

    def _results_of_all_ranks(self) -> list[EpisodeResult]:
        """Return the results of all tracks, of which each rank drives every `size`-th."""
        seeds = self._seeds[self._group.rank :: self._group.size]
        results: Sequence[EpisodeResult] = []
        if seeds:
            results = evaluate(
                self.model,
                self._factory,
                seeds,
                actions=self._actions,
                n_envs=self._n_envs,
                wrap_vec_env=self._wrap_vec_env,
                progress=ProgressLine("validation", len(seeds), leave=False, disable=self._group.rank > 0),
            )
        of_ranks = [iter(of_rank) for of_rank in self._group.gather(results)]
        return [next(of_ranks[number % self._group.size]) for number in range(len(self._seeds))]

    def _report(self, results: Sequence[EpisodeResult], seconds: float) -> None:
        """Write the results, and save the agent if it is the best so far."""
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
            "validation_seconds": round(seconds, 1),
        }
        best = summary.mean > self._best_mean and self._save_best()
        self._best_mean = summary.mean if best else self._best_mean
        # A resumed training reads its best score from these files, so the score of an agent that is not kept is left out.
        if summary.mean <= self._best_mean:
            self._store_episodes(results)
            self._table.append(row)
        self.logger.record("eval/mean_score", summary.mean)
        self.logger.record("eval/laps_finished", summary.laps_finished)
        self.logger.record("eval/best_mean_score", self._best_mean)
        kept = "the best so far" if best else f"best {self._best_mean:.1f}"
        spread = f" +- {summary.std:.1f}" if summary.ci_low is not None else ""
        tqdm.write(f"validation at {self._frames:,} frames: score {summary.mean:.1f}{spread} ({kept})", sys.stderr)

    def _save_best(self) -> bool:
        """Save the agent and return whether the disk had room."""
        with tolerating_full_disk() as errors:
            if self.model.get_vec_normalize_env() is not None:
                self._save_statistics(self._best_statistics)
            write_atomically(self._best_file, agent_bytes(self.model))
        return not errors

    def _store_episodes(self, results: Sequence[EpisodeResult]) -> None:
        row = Evaluations(
            np.array([self.model.num_timesteps]),
            np.array([[result.score for result in results]]),
            np.array([[result.steps for result in results]]),
        )
        before = [self._evaluations] if self._evaluations is not None else []
        self._evaluations = Evaluations(*map(np.concatenate, zip(*before, row, strict=True)))
        with tolerating_full_disk():
            write_evaluations(self._episodes_file, self._evaluations)

    def _write_current_statistics(self) -> None:
        """Write the running means that the validation environments read; they are the same on all ranks."""
        if self._statistics is not None and self._group.rank == 0:
            with tolerating_full_disk():
                self._save_statistics(self._statistics)
        self._group.same(None)  # the others wait until they are written

    def _save_statistics(self, file: Path) -> None:
        normalize = self.model.get_vec_normalize_env()
        assert normalize is not None
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            write_statistics(temporary, normalize)
