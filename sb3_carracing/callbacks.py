"""Callbacks that write what rl-zoo3 does not: progress.csv, the live line, evaluations.csv and the best agent.

Any SB3 model but ARS takes them, and a rl-zoo3 YAML by dotted path with keywords. They write to `run_dir`, or where that is
None, to the logger's folder. A run that goes on (`num_timesteps` above 0 at its start) appends to its files; a run that
begins anew beside older files renames those.
"""

import copy
import csv
import functools
import os
import sys
import time
import warnings
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import CSVOutputFormat
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
)
from tqdm import tqdm

from sb3_carracing.checks import one_of
from sb3_carracing.evaluation import (
    N_TEST_TRACKS,
    TEST_SEED,
    VALIDATION_SEED,
    EnvFactory,
    EpisodeResult,
    Renderer,
    VecWrapper,
    check_actions,
    check_pipeline,
    env_spec,
    evaluate,
    pipeline_env,
    summarize,
)
from sb3_carracing.files import next_free
from sb3_carracing.runs import BEST_AGENT, BEST_STATISTICS, Pipeline, WrapperCall, read_run


class _RunCallback(BaseCallback):
    """Knows the run's folder and counts physics frames.

    The count is kept as `model.num_frames`, so that it is saved with the model and a resumed run counts on. Where the
    environment does not report `frames`, a step is one.
    """

    def __init__(self, run_dir: str | Path | None = None) -> None:
        super().__init__()
        self.run_dir = Path(run_dir) if run_dir is not None else None

    @property
    def _folder(self) -> Path:
        return Path(self.run_dir or self.logger.get_dir() or ".")

    @property
    def _resumes(self) -> bool:
        return self.model.num_timesteps > 0

    def _on_training_start(self) -> None:
        self._start_time = time.perf_counter()
        steps = self.model.num_timesteps
        self._frames_before = int(getattr(self.model, "num_frames", steps)) if steps else 0
        # A second `learn` may begin in the middle of an episode, whose frames are counted already: their number shows
        # at the first step, which is not counted then.
        starts = getattr(self.model, "_last_episode_starts", None)
        starts = np.ones(self.training_env.num_envs, dtype=bool) if starts is None else starts
        self._frames_of_episode: list[int | None] = [0 if start else None for start in starts]
        self._frames = self._frames_before

    def _on_step(self) -> bool:
        if "infos" not in self.locals:
            callback, algorithm = type(self).__name__, type(self.model).__name__
            raise ValueError(f"{callback} needs the infos of every step, which {algorithm} does not give to callbacks")
        for env, (info, done) in enumerate(zip(self.locals["infos"], self.locals["dones"], strict=True)):
            before = self._frames_of_episode[env]
            # Monitor below an ActionRepeat counts frames, but tells only at the end.
            told = info.get("frames")  # another environment may mean something else by the name
            counted = max((before or 0) + 1, info.get("episode", {}).get("l", 0))
            now = int(told) if isinstance(told, int | np.integer) and told > 0 else counted
            self._frames += now - before if before is not None else 0
            self._frames_of_episode[env] = 0 if done else now
        self.model.num_frames = self._frames  # type: ignore[attr-defined]
        return True


class ProgressCallback(_RunCallback):
    """Write progress.csv and show a live line: score, frames per second, time left.

    Logged at the end of every rollout: `rollout/score` (mean raw score of the last 100 episodes; with an environment
    that reports none, of Monitor's returns), `rollout/running_score` (the blog's 0.99 old + 0.01 new, from 0),
    `rollout/episodes`, `time/frames`, `time/frames_per_second`.

    Args:
        write_csv: write progress.csv.
        live_line: show the line; where the output is no terminal, every half minute.
        run_dir: folder to write to; None for the logger's.
    """

    def __init__(self, write_csv: bool = True, live_line: bool = True, run_dir: str | Path | None = None) -> None:
        super().__init__(run_dir)
        self._write_csv = write_csv
        self._live_line = live_line
        self._csv: _AppendingCsv | None = None
        self._line: Any = None

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._scores: deque[float] = deque(maxlen=100)
        # On the model, as `num_frames`, so that they are saved with it.
        self._running_score = getattr(self.model, "running_score", 0.0) if self._resumes else 0.0
        self._n_episodes = getattr(self.model, "num_episodes", 0) if self._resumes else 0
        if self._write_csv:
            self._close_csv()  # of a `learn` that Ctrl-C ended
            self._csv = _AppendingCsv(_log_file(self._folder, "progress.csv", self._resumes))
            self.logger.output_formats.append(self._csv)
        self._line = tqdm(
            total=self.locals["total_timesteps"],
            initial=self.model.num_timesteps,
            mininterval=0.5 if sys.stderr.isatty() else 30.0,
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt} steps{postfix} | {remaining} left",
            disable=not self._live_line,
        )

    def _on_step(self) -> bool:
        super()._on_step()
        for info, done in zip(self.locals["infos"], self.locals["dones"], strict=True):
            score = info.get("score", info.get("episode", {}).get("r"))
            if done and score is not None:
                self._scores.append(float(score))
                self._running_score = 0.99 * self._running_score + 0.01 * float(score)
                self._n_episodes += 1
        self._line.set_postfix_str(self._status(), refresh=False)
        # The last rollout is played to its end; tqdm would not know what to say of 102 %.
        self._line.total = max(self._line.total, self.model.num_timesteps)
        self._line.update(self.training_env.num_envs)
        return True

    def _on_rollout_end(self) -> None:
        self.model.running_score, self.model.num_episodes = self._running_score, self._n_episodes  # type: ignore[attr-defined]
        if self._scores:
            self.logger.record("rollout/score", float(np.mean(self._scores)))
            self.logger.record("rollout/running_score", self._running_score)
        self.logger.record("rollout/episodes", self._n_episodes, exclude="tensorboard")
        self.logger.record("time/frames", self._frames)
        self.logger.record("time/frames_per_second", round(self._frames_per_second()))

    def _on_training_end(self) -> None:
        if self._csv is not None:
            # SB3 logs before an update, so the last update's losses are still waiting; rl-zoo3 calls this twice.
            if self.logger.name_to_value:
                self.logger.record("time/total_timesteps", self.model.num_timesteps, exclude="tensorboard")
                self.logger.record("time/frames", self._frames)
                self.logger.dump(self.model.num_timesteps)
            self._close_csv()
        if self._line is not None:
            self._line.close()

    def _close_csv(self) -> None:
        """Take every writer of progress.csv out of the logger: an earlier callback's too."""
        for writer in [writer for writer in self.logger.output_formats if isinstance(writer, _AppendingCsv)]:
            self.logger.output_formats.remove(writer)
            writer.close()
        self._csv = None

    def _frames_per_second(self) -> float:
        return (self._frames - self._frames_before) / max(time.perf_counter() - self._start_time, 1e-9)

    def _status(self) -> str:
        score = f"score {self._scores[-1]:.0f}, last 100 {np.mean(self._scores):.1f}" if self._scores else "score -"
        return f"episode {self._n_episodes} | {score} | {self._frames_per_second():,.0f} frames/s"


class ValidationCallback(_RunCallback):
    """Play the same validation tracks every so many frames, write evaluations.csv and .npz and keep best_model.zip.

    Where the training normalises, best_model_vecnormalize.pkl holds the statistics of the best agent.
    evaluations.npz holds every episode's score and length as SB3's EvalCallback stores them, for rl-zoo3's all_plots.

    Logs `eval/mean_score`, `eval/laps_finished` and `eval/best_mean_score`. Within a run of rl-zoo3 the environment is
    the run's own, without what is for training only; elsewhere `make_env`, or the training environment's id with the
    wrappers around it that gymnasium can repeat (those that are `RecordConstructorArgs`); a warning names the others.

    Args:
        every_frames: physics frames between two validations; one more is played at the end of the training.
        n_episodes: tracks.
        first_seed: of the tracks; the test tracks are refused.
        renderer: "stock" or "fast": drive gymnasium's CarRacing-v3 or CarRacingFast-v3 with the run's views around it;
            None: the run's own id.
        actions: see `evaluate`.
        n_envs: processes, see `evaluate`.
        make_env: factory of the environment, instead of the above.
        run_dir: folder to write to; None for the logger's.

    Raises:
        ValueError: a number is out of range; at the start of the training, if the environment does not fit the agent or
            the training that goes on was validated on another number of tracks.
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
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self._seeds = range(first_seed, first_seed + n_episodes)
        if set(self._seeds) & set(range(TEST_SEED, TEST_SEED + N_TEST_TRACKS)):
            raise ValueError(f"first_seed {first_seed} takes test tracks, which are for the final evaluation only")
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
        self._best_file = _log_file(self._folder, BEST_AGENT, self._resumes)
        self._best_statistics = _log_file(self._folder, BEST_STATISTICS, self._resumes)
        self._file = _log_file(self._folder, "evaluations.csv", self._resumes)
        self._best_mean = _best_in(self._file)
        self._episodes = _Episodes(_log_file(self._folder, "evaluations.npz", self._resumes), len(self._seeds))
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
        """Return the environment's factory, what wraps it when vectorised, and where that reads VecNormalize's file."""
        in_run_of_rl_zoo3 = self.run_dir is not None and any(self.run_dir.glob("*/config.yml"))
        if self._make_env is None and in_run_of_rl_zoo3:
            assert self.run_dir is not None
            pipeline = read_run(self.run_dir).pipeline
            return pipeline_env(pipeline, renderer=self._renderer), pipeline.wrap_vec_env, pipeline.normalize
        factory, skipped = (self._make_env, []) if self._make_env is not None else self._factory_like_training()
        skipped += [name for name, repeated in _vec_wrappers(self.training_env) if not repeated]
        if skipped:
            warnings.warn(
                f"validation plays without {', '.join(skipped)}, which it cannot repeat: pass make_env to ValidationCallback "
                "if that changes what the agent sees or does",
                stacklevel=2,
            )
        return factory, functools.partial(wrap_alike, self.training_env), None

    def _factory_like_training(self) -> tuple[EnvFactory, list[str]]:
        """Return a factory of the training environment's id and wrappers, and the names of those that it leaves out.

        Those are the ones that gymnasium does not know the keywords of; Monitor is not missed.
        """
        spec = self.training_env.get_attr("spec")[0]
        if spec is None:
            raise ValueError("the training environment has no id: pass make_env to ValidationCallback")
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
        # Last, since a training that goes on takes its best score from here.
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
    """The file evaluations.npz: `timesteps` (n), `results` and `ep_lengths` (n, n_episodes) of n evaluations."""

    def __init__(self, file: Path, n_episodes: int) -> None:
        self._file = file
        self._rows: dict[str, list[Any]] = {"timesteps": [], "results": [], "ep_lengths": []}
        if file.exists():
            with np.load(file) as stored:
                self._rows = {name: list(stored[name]) for name in self._rows}
            before = len(self._rows["results"][0])
            if before != n_episodes:
                raise ValueError(
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


class _AppendingCsv(CSVOutputFormat):
    """SB3's CSV writer, which would empty a file that exists."""

    def __init__(self, file: Path) -> None:
        self.separator, self.quotechar = ",", '"'
        self.file = file.open("r+" if file.exists() else "w+")
        header = self.file.readline()
        self.keys = header.rstrip("\n").split(",") if header else []
        self.file.seek(0, os.SEEK_END)


def _log_file(folder: Path, name: str, resumes: bool) -> Path:
    """Return where to write; what an earlier training left there under this name is renamed unless this resumes it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    if file.exists() and not resumes:
        file.rename(next_free(file))
    return file


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


def _vec_wrappers(venv: VecEnv) -> Iterator[tuple[str, bool]]:
    """Yield the name of each wrapper, and whether `wrap_alike` repeats it or need not."""
    while isinstance(venv, VecEnvWrapper):
        needless = (VecTransposeImage, VecMonitor, VecCheckNan, VecVideoRecorder)
        yield type(venv).__name__, isinstance(venv, (VecNormalize, VecFrameStack, *needless))
        venv = venv.venv


def wrap_alike(training: VecEnv, venv: VecEnv) -> VecEnv:
    """Wrap `venv` like the training's: a frozen copy of VecNormalize, frame stacking; SB3 turns pictures by itself."""
    if not isinstance(training, VecEnvWrapper):
        return venv
    venv = wrap_alike(training.venv, venv)
    if isinstance(training, VecNormalize):
        twin = copy.deepcopy(training)
        twin.set_venv(venv)
        twin.training = False
        twin.norm_reward = False
        return twin
    if isinstance(training, VecFrameStack):
        return VecFrameStack(venv, training.stacked_obs.n_stack)
    return venv
