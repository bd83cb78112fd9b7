"""rl-zoo3's ExperimentManager with packaged hyperparameters, a real resume and checked arguments."""

import inspect
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gymnasium as gym
import rl_zoo3
import yaml
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER
from rl_zoo3.utils import ALGOS
from stable_baselines3.common import monitor
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import CheckpointCallback as CheckpointCallbackOfSB3
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_carracing.agents import read_agent
from sb3_carracing.callbacks import CheckpointCallback, ProgressCallback, ValidationCallback
from sb3_carracing.envs.registration import CAR_RACING
from sb3_carracing.envs.replayable import Replayable
from sb3_carracing.errors import UserError
from sb3_carracing.files import data_dir, hyperparams_file, replacing, tolerating_full_disk, write_atomically
from sb3_carracing.pipelines import Pipeline, frames_per_step, wrapper_calls
from sb3_carracing.ppo import distributed
from sb3_carracing.ppo.beta_ppo import BetaPPO
from sb3_carracing.ppo.finite import NonFiniteError
from sb3_carracing.resume import Training, read_training, restore
from sb3_carracing.runs import BEST_AGENT, BEST_STATISTICS, is_run_folder, read_run, seed_to_go_on, statistics_of
from sb3_carracing.vec_env import process_vec_env_class
from sb3_carracing.zoo import hyperparameters, summary
from sb3_carracing.zoo.endings import Keeper, Learner, PatientResultsWriter, RunFiles, adapt_evaluation
from sb3_carracing.zoo.storage import shown
from sb3_carracing.zoo.study import as_yaml, find_trial, load_study, trial_entry


class NothingRemainsError(UserError):
    """The agent to resume has already played all steps."""


class CarRacingExperimentManager(ExperimentManager):  # type: ignore[misc]
    """rl-zoo3's ExperimentManager as `python -m sb3_carracing train` uses it; arguments are rl-zoo3's.

    It differs in these points:

    - Without `-conf` it reads the packaged hyperparameters, except where only rl-zoo3 has an entry.
    - `--trial-id` may be 0. It trains the trial's hyperparameters with the YAML entry that its study was created with.
    - `-i` resumes where the agent stopped, with its step count, schedules and running means; exactly, if the file is a
      `resume.snapshot`. Environments of BetaPPO therefore record their episodes.
    - A run that fails before its first step leaves no folder.
    - It writes a checkpoint every five minutes and keeps the last three, or one every `--save-freq` steps and keeps all.
    - A signal or an error saves the agent as it was after the last update. All files are written as a whole.
    - Callbacks with a `run_dir` get the run's folder.
    - If there is a `ValidationCallback`, only it writes best_model.zip and evaluations.npz.
    - monitor.csv also holds the raw score of this package's CarRacing, whose rewards `env_kwargs` may shape.
    - `--vec-env subproc` runs several environments per worker process.
    - Names, keywords and values are checked before anything is made, see `hyperparameters.check`.
    """

    verbose: int
    work_begins: Callable[[], None] = staticmethod(lambda: None)
    """Called right before the first environment step."""
    trust: bool = False
    """Whether a resumed agent may run code."""
    argv: Sequence[str] = ()
    """The arguments of `train`, for the command that resumes the run."""
    n_frames: int | None = None
    """Length of the training in frames, instead of steps."""
    evaluates: bool = True
    """Whether rl-zoo3's own evaluation runs beside a ValidationCallback."""
    then: str = ""
    """What follows the training, for the summary."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # rl-zoo3 passes them by position, and its signature may grow. Binding them by name lets us change one.
        bound = inspect.signature(ExperimentManager.__init__).bind(self, *args, **kwargs).arguments
        bound.pop("self")
        bound["config"] = str(_config_file(bound.get("config"), bound["algo"], bound["env_id"]))
        self._trial_entry: dict[str, Any] | None = None
        if bound.get("trial_id") is not None:
            # rl-zoo3 ignores trial 0 and studies without a name.
            sampled, self._trial_entry = _hyperparams_of_trial(bound)
            bound["hyperparams"] = sampled | (bound.get("hyperparams") or {})
            bound["trial_id"] = None
        super().__init__(**bound)
        self.interrupted = False
        self.saved_as: Path | None = None
        self._has_begun = False
        self._made_folders: list[Path] = []
        self._training: Training | None = None
        self._inherited: list[Path] = []
        if bound.get("vec_env_type") == "subproc":
            self.vec_env_class = process_vec_env_class()

    def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        """Make environments and model as rl-zoo3 does; if that fails, leave no folder."""
        hyperparameters.check_device(self.device)
        try:
            experiment: tuple[BaseAlgorithm, dict[str, Any]] | None = super().setup_experiment()
        except BaseException as error:
            self._remove_made_folders()
            if not isinstance(error, MemoryError):
                raise
            given = {name: self._hyperparams.get(name) for name in ("n_steps", "buffer_size") if name in self._hyperparams}
            sizes = ", ".join(f"{name} {value}" for name, value in given.items())
            raise UserError(f"{sizes} with n_envs {self.n_envs} does not fit into memory: {error}") from error
        if experiment is not None:
            print("\n".join(summary.opening(self, experiment[0], self.then)), flush=True)
        return experiment

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read and check the YAML as rl-zoo3 does; for a `tune` trial, use the entry stored with its study.

        Raises:
            UserError: rl-zoo3 cannot read it, or it contains invalid names or values.
        """
        with tempfile.TemporaryDirectory() as folder:
            if self._trial_entry is not None:
                file = Path(folder, "trial.yml")
                file.write_text(as_yaml({self.env_name.gym_id: self._trial_entry}))
                self.config = str(file)
            hyperparameters.check_config(self.config, self.env_name.gym_id, "atari" if self._is_atari else None)
            hyperparams, saved = super().read_hyperparameters()
        if "n_timesteps" not in hyperparams:
            raise UserError(f"the hyperparameters of {self.env_name.gym_id} in {self.config} lack n_timesteps")
        numbers = hyperparameters.check(self.algo, hyperparams)
        hyperparams.update(numbers)
        saved.update(numbers)
        self._saved = saved
        hyperparameters.check_env_kwargs(self.env_name.gym_id, self.env_kwargs | (hyperparams.get("env_kwargs") or {}))
        hyperparameters.check_env_kwargs(self.env_name.gym_id, self._eval_env_kwargs_args or {})
        if self.n_frames is not None:
            self.n_timesteps = self.args.n_timesteps = max(1, self.n_frames // frames_per_step(self.pipeline()))
        return hyperparams, saved

    def pipeline(self) -> Pipeline:
        """Return the environment with its wrappers, once the hyperparameters are read."""
        env_kwargs = {**(self._saved.get("env_kwargs") or {}), **self.env_kwargs}
        return Pipeline(self.env_name.gym_id, env_kwargs, wrapper_calls(self._saved.get("env_wrapper")))

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """Create the environments as rl-zoo3 does; ours also write their raw score to monitor.csv.

        Those of a training by BetaPPO record their episodes.
        """
        if gym.spec(self.env_name.gym_id).entry_point == CAR_RACING:
            self.monitor_kwargs.setdefault("info_keywords", ("score", "frames"))
        try:
            if not issubclass(self.vec_env_class, DummyVecEnv):
                self._make_one_here()
            may_be_resumed = issubclass(ALGOS[self.algo], BetaPPO) and not (eval_env or no_log)
            wrapper = _recorded(self.env_wrapper) if may_be_resumed else self.env_wrapper
            with patch.object(self, "env_wrapper", wrapper), patch.object(monitor, "ResultsWriter", PatientResultsWriter):
                env: VecEnv = super().create_envs(n_envs, eval_env, no_log)
        except gym.error.Error as error:
            raise UserError(f"{self.env_name.gym_id} cannot be made: {error}") from error
        return env

    def _make_one_here(self) -> None:
        """Make and close one environment, so that its exceptions are not wrapped in a worker's error."""
        env = gym.spec(self.env_name.gym_id).make(**self.env_kwargs)
        if self.env_wrapper is not None:
            env = self.env_wrapper(env)
        env.close()

    def create_log_folder(self) -> None:
        """Make the run's folder, and note which folders are new."""
        run = Path(self.save_path)
        self._made_folders = [folder for folder in (run, *run.parents) if not folder.exists()]
        super().create_log_folder()

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        """Save hyperparameters, arguments and command as rl-zoo3 does, whole and without the password of a storage."""
        words = [shown(word) if self.storage and self.storage in word else word for word in sys.orig_argv]
        shown_storage = shown(self.storage) if self.storage else self.storage
        with (
            tempfile.TemporaryDirectory() as folder,
            patch.object(self, "params_path", folder),
            patch.object(sys, "orig_argv", words),
            patch.object(self.args, "storage", shown_storage),
        ):
            super()._save_config(saved_hyperparams)
            written = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
        for name, content in written.items():
            write_atomically(Path(self.params_path, name), content)

    def _remove_made_folders(self) -> None:
        if self._made_folders and self._made_folders[0] == Path(self.save_path):
            run, *parents = self._made_folders
            shutil.rmtree(run, ignore_errors=True)
            for folder in parents:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    def _maybe_normalize(self, env: VecEnv, eval_env: bool) -> VecEnv:
        statistics = statistics_of(Path(self.trained_agent)) if self.trained_agent else None
        if statistics is None:
            normalized: VecEnv = super()._maybe_normalize(env, eval_env)
            return normalized
        # rl-zoo3 reads the last agent's running means, whichever agent is resumed.
        env = VecNormalize.load(str(statistics), env)
        if eval_env:
            env.training = env.norm_reward = False
        return env

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        read_agent(self.trained_agent, self.algo, trust=self.trust)
        self._tell_other_wrappers()
        model: BaseAlgorithm = super()._load_pretrained_agent(hyperparams, env)
        if model.num_timesteps >= self.n_timesteps:
            raise NothingRemainsError(
                f"The agent has already played {model.num_timesteps} steps, so nothing remains of {self.n_timesteps}: pass a "
                "larger -n."
            )
        self._training = read_training(self.trained_agent, model)
        return model

    def _tell_other_wrappers(self) -> None:
        """Say if the resumed agent's run had other wrappers: where the spaces are equal, nothing else shows it."""
        folder = Path(self.trained_agent).parent
        if not is_run_folder(folder):
            return
        theirs = read_run(folder, trust=True).pipeline.wrappers  # only compared
        if theirs != self.pipeline().wrappers:
            names = ", ".join(call.path.rpartition(".")[2] for call in theirs) or "none"
            print(
                f"Warning: this agent was trained with other wrappers ({names}). Its actions and observations may mean "
                "something else here. Pass its hyperparameters with -conf."
            )

    def _go_on(self, model: BaseAlgorithm) -> None:
        """Bring the environments and generators back to where they were, or give them a seed that was not used yet."""
        assert self._training is not None
        self._begin()
        why_not = restore(model, self._training)
        if why_not is None:
            print("The training goes on exactly where it stopped, with its generators and its environments.")
            old_run, names = Path(self.trained_agent).parent, (BEST_AGENT, BEST_STATISTICS)
            is_first = distributed.current().rank == 0
            self._inherited = [file for name in names if is_first and (file := old_run / name).is_file()]
        else:
            print(f"The resume is not exact: {why_not}. The environments begin new episodes.")
            model.set_random_seed(seed_to_go_on(self.seed, model.num_timesteps))

    def create_callbacks(self) -> None:
        """Create rl-zoo3's callbacks and ours in place of its checkpoints, and pass the run's folder to ours."""
        validates = any(isinstance(callback, ValidationCallback) for callback in self.callbacks)
        if validates and not self.evaluates:
            self.eval_freq = -1
        with patch.object(self, "save_freq", -1):
            super().create_callbacks()
        if self.algo == "ars":  # does not give callbacks what a live line needs
            self.verbose = max(self.verbose, 1)
        elif not any(isinstance(callback, ProgressCallback) for callback in self.callbacks):
            self.callbacks.append(ProgressCallback(live_line=not self.show_progress))
        if self.save_freq > 0:
            self.callbacks.append(CheckpointCallback(every_seconds=None, every_steps=self.save_freq, keep=None))
        elif self.save_freq < 0 and not any(isinstance(callback, CheckpointCallback) for callback in self.callbacks):
            self.callbacks.append(CheckpointCallback())
        run = Path(self.save_path)
        for callback in self.callbacks:
            if hasattr(callback, "run_dir"):
                callback.run_dir = run
            if isinstance(callback, ProgressCallback) and self.then:
                callback.then = "report"
            if isinstance(callback, CheckpointCallbackOfSB3):
                callback.save_vecnormalize = True
            if isinstance(callback, EvalCallback):
                adapt_evaluation(callback, run, is_quiet=self.verbose == 0)
            if validates and isinstance(callback, EvalCallback):
                # Otherwise two evaluations would write the same best_model.zip and evaluations.npz. Here rewards are shaped.
                callback.callback_on_new_best = callback.log_path = None

    def _begin(self) -> None:
        self._has_begun = True
        self.work_begins()
        # Not earlier: callbacks that have not got back the best score yet would rename its agent.
        while self._inherited:
            file = self._inherited.pop()
            target = Path(self.save_path) / file.name
            if not target.exists():
                with replacing(target) as temporary:
                    shutil.copyfile(file, temporary)

    def learn(self, model: BaseAlgorithm) -> None:
        """Train up to `n_timesteps` steps in all, including the steps of a resumed agent, and save the agent.

        Raises:
            UserError: Something became NaN or infinite. The agent from before it is saved.
        """
        run, parameters = Path(self.save_path), Path(self.params_path)
        logs = Path(self.log_folder)
        commands = summary.commands_for(run, self.algo, self.env_name.gym_id, logs)
        files = RunFiles(run, run / f"{self.env_name}.zip", parameters / "vecnormalize.pkl", logs, self.argv, commands)
        keeper = Keeper(self._begin)
        learner = Learner(model, self._go_on if self.continue_training else None, keeper, files)
        try:
            super().learn(learner)
        except BaseException as error:
            if not self._has_begun:
                self._remove_made_folders()
            if isinstance(error, NonFiniteError):
                raise UserError(" ".join([str(error), *getattr(error, "__notes__", ())])) from error
            raise
        finally:
            self.interrupted, self.saved_as = learner.interrupted, learner.saved_as
        if self.saved_as == files.agent and not (self.interrupted or self.then):
            print("\n".join([*commands, summary.command_to_train_on(run, self.argv, self.n_timesteps)]))

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        """Save the replay buffer if it is asked for; `learn` has saved the agent, before the environments were closed."""
        if self.save_replay_buffer and isinstance(model, OffPolicyAlgorithm):
            with tolerating_full_disk(), replacing(Path(self.save_path, "replay_buffer.pkl")) as file:
                model.save_replay_buffer(file)


def _recorded(wrapper: Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]] | None) -> Callable[[gym.Env[Any, Any]], Replayable]:
    """Return a wrapper that also records episodes."""

    def wrap(env: gym.Env[Any, Any]) -> Replayable:
        return Replayable(wrapper(env) if wrapper is not None else env)

    return wrap


def _config_file(given: str | None, algo: str, env_id: str) -> str | Path:
    """Return the file or module that `-conf` names, which may be a packaged file's name, or the default."""
    if given is None:
        return _default_config(algo, env_id)
    packaged = data_dir("hyperparams") / given
    return packaged if packaged.is_file() and not Path(given).exists() else given


def _default_config(algo: str, env_id: str) -> Path:
    """Return the packaged YAML, or rl-zoo3's if none is packaged or only rl-zoo3's has an entry for the environment."""
    packaged, zoos = hyperparams_file(algo), Path(rl_zoo3.__file__).with_name("hyperparams") / f"{algo}.yml"
    entry = "atari" if ExperimentManager.is_atari(env_id) else env_id
    if not packaged.is_file() or (zoos.is_file() and entry in _entries(zoos) - _entries(packaged)):
        return zoos
    return packaged


def _entries(file: Path) -> set[str]:
    return set(yaml.safe_load(file.read_text()))


def _hyperparams_of_trial(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return what the trial sampled and, for a study of `tune`, the whole YAML entry stored with the study.

    Raises:
        UserError: there is no such trial, or its study is another algorithm's.
    """
    study = load_study(arguments.get("storage"), arguments.get("study_name"))
    trial = find_trial(study, arguments["trial_id"])
    settings = study.user_attrs.get("settings")
    if settings is None:
        return HYPERPARAMS_CONVERTER[arguments["algo"]](trial.params), None
    if settings["algo"] != arguments["algo"]:
        raise UserError(f"the study {study.study_name!r} is of {settings['algo']}, not of {arguments['algo']}: pass --algo")
    return {}, trial_entry(study, trial)
