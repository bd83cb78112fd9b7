"""rl-zoo3's ExperimentManager with packaged hyperparameters, a real resume and checked arguments."""

import inspect
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gymnasium as gym
import rl_zoo3
import yaml
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_carracing.agents import load_agent
from sb3_carracing.callbacks import ValidationCallback
from sb3_carracing.envs.registration import CAR_RACING
from sb3_carracing.errors import UserError
from sb3_carracing.files import hyperparams_file
from sb3_carracing.runs import BEST_STATISTICS, seed_to_go_on, statistics_of
from sb3_carracing.vec_env import process_vec_env_class
from sb3_carracing.zoo import hyperparameters
from sb3_carracing.zoo.storage import shown
from sb3_carracing.zoo.study import as_yaml, find_trial, load_study, trial_entry


class CarRacingExperimentManager(ExperimentManager):  # type: ignore[misc]
    """rl-zoo3's ExperimentManager as `python -m sb3_carracing train` uses it; arguments are rl-zoo3's.

    It differs in these points:

    - Without `-conf` it reads the packaged hyperparameters, except where only rl-zoo3 has an entry.
    - `--trial-id` may be 0. It trains the trial's hyperparameters with the YAML entry that its study was created with.
    - `-i` resumes where the agent stopped, with its step count, schedules and running means.
    - A run that fails before its first step leaves no folder.
    - Callbacks with a `run_dir` get the run's folder.
    - If there is a `ValidationCallback`, only it writes best_model.zip and evaluations.npz.
    - monitor.csv also holds the raw score of this package's CarRacing, whose rewards `env_kwargs` may shape.
    - `--vec-env subproc` runs several environments per worker process.
    - Names, keywords and values are checked before anything is made, see `hyperparameters.check`.
    """

    work_begins: Callable[[], None] = staticmethod(lambda: None)
    """Called right before the first environment step."""
    trust: bool = False
    """Whether a resumed agent may run code."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # rl-zoo3 passes them by position, and its signature may grow. Binding them by name lets us change one.
        bound = inspect.signature(ExperimentManager.__init__).bind(self, *args, **kwargs).arguments
        bound.pop("self")
        if bound.get("config") is None:
            bound["config"] = str(_default_config(bound["algo"], bound["env_id"]))
        self._trial_entry: dict[str, Any] | None = None
        if bound.get("trial_id") is not None:
            # rl-zoo3 ignores trial 0 and studies without a name.
            sampled, self._trial_entry = _hyperparams_of_trial(bound)
            bound["hyperparams"] = sampled | (bound.get("hyperparams") or {})
            bound["trial_id"] = None
        super().__init__(**bound)
        self.interrupted = False
        self._has_begun = False
        self._made_folders: list[Path] = []
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
        hyperparameters.check_env_kwargs(self.env_name.gym_id, self.env_kwargs | (hyperparams.get("env_kwargs") or {}))
        hyperparameters.check_env_kwargs(self.env_name.gym_id, self._eval_env_kwargs_args or {})
        return hyperparams, saved

    def create_envs(self, *args: Any, **kwargs: Any) -> VecEnv:
        """Create the environments as rl-zoo3 does; ours also write their raw score to monitor.csv."""
        if gym.spec(self.env_name.gym_id).entry_point == CAR_RACING:
            self.monitor_kwargs.setdefault("info_keywords", ("score", "frames"))
        try:
            if not issubclass(self.vec_env_class, DummyVecEnv):
                self._make_one_here()
            env: VecEnv = super().create_envs(*args, **kwargs)
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
        """Save hyperparameters, arguments and command as rl-zoo3 does, without the password of a storage."""
        words = [shown(word) if self.storage and self.storage in word else word for word in sys.orig_argv]
        shown_storage = shown(self.storage) if self.storage else self.storage
        with patch.object(sys, "orig_argv", words), patch.object(self.args, "storage", shown_storage):
            super()._save_config(saved_hyperparams)

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
        load_agent(self.trained_agent, self.algo, trust=self.trust)
        model: BaseAlgorithm = super()._load_pretrained_agent(hyperparams, env)
        if model.num_timesteps >= self.n_timesteps:
            raise UserError(
                f"The agent has already played {model.num_timesteps} steps, so nothing remains of {self.n_timesteps}: pass a "
                "larger -n."
            )
        model.set_random_seed(seed_to_go_on(self.seed, model.num_timesteps))
        return model

    def create_callbacks(self) -> None:
        """Create rl-zoo3's callbacks and pass the run's folder to ours."""
        super().create_callbacks()
        validates = any(isinstance(callback, ValidationCallback) for callback in self.callbacks)
        for callback in self.callbacks:
            if hasattr(callback, "run_dir"):
                callback.run_dir = Path(self.save_path)
            if isinstance(callback, CheckpointCallback):
                callback.save_vecnormalize = True
            if isinstance(callback, EvalCallback):
                # rl-zoo3 writes to the last agent's file.
                callback.callback_on_new_best = _SaveStatistics(Path(self.save_path) / BEST_STATISTICS)
                callback.callback_on_new_best.parent = callback
            if validates and isinstance(callback, EvalCallback):
                # Otherwise two evaluations would write the same best_model.zip and evaluations.npz. Here rewards are shaped.
                callback.best_model_save_path = callback.callback_on_new_best = None
                callback.log_path = None
        self.callbacks.append(BeginningCallback(self._begin))

    def _begin(self) -> None:
        self._has_begun = True
        self.work_begins()

    def learn(self, model: BaseAlgorithm) -> None:
        """Train up to `n_timesteps` steps in all, including the steps of a resumed agent."""
        learner = _Learner(model, self.continue_training)
        try:
            super().learn(learner)
        except BaseException:
            if not self._has_begun:
                self._remove_made_folders()
            raise
        self.interrupted = learner.interrupted


class _SaveStatistics(BaseCallback):
    """Save the running means whenever it is called."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def _on_step(self) -> bool:
        normalize = self.model.get_vec_normalize_env()
        if normalize is not None:
            normalize.save(str(self._file))
        return True


class BeginningCallback(BaseCallback):
    """Call a function at the start of every rollout, right before the first step of it."""

    every_rank = True

    def __init__(self, begin: Callable[[], None]) -> None:
        super().__init__()
        self._begin = begin

    def _on_rollout_start(self) -> None:
        self._begin()

    def _on_step(self) -> bool:
        return True


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


class _Learner:
    """A model's `learn` as rl-zoo3 calls it; a resumed model continues its step count.

    SB3's `learn(reset_num_timesteps=False)` adds its argument to the steps done, and schedules are functions of the sum. We
    pass the remaining steps, so that learning rate and clip range continue where they were.
    """

    def __init__(self, model: BaseAlgorithm, resumes: bool):
        self._model = model
        self._resumes = resumes
        self.interrupted = False

    def learn(self, total_timesteps: int, **kwargs: Any) -> None:
        """Train up to `total_timesteps` [steps] and note Ctrl-C, which rl-zoo3 swallows to save the agent."""
        try:
            if self._resumes:
                self._learn_on(total_timesteps, **kwargs)
            else:
                self._model.learn(total_timesteps, **kwargs)
        except KeyboardInterrupt:
            self.interrupted = True
            raise

    def _learn_on(self, total_timesteps: int, **kwargs: Any) -> None:
        done = self._model.num_timesteps
        print(f"Resuming at step {done} of {total_timesteps}")
        self._model.learn(total_timesteps - done, reset_num_timesteps=False, **kwargs)

    @property
    def policy(self) -> BasePolicy:
        """The model's policy, which rl-zoo3 gives to ARS's helpers."""
        policy: BasePolicy = self._model.policy
        return policy

    @property
    def env(self) -> VecEnv | None:
        """The model's environment, which rl-zoo3 closes at the end."""
        return self._model.env
