"""rl-zoo3's ExperimentManager with what its train script lacks: packaged hyperparameters, a resume that goes on."""

import inspect
import shutil
import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import rl_zoo3
import yaml
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_carracing.callbacks import ValidationCallback
from sb3_carracing.envs.registration import CAR_RACING
from sb3_carracing.files import hyperparams_file
from sb3_carracing.runs import seed_to_go_on, statistics_of
from sb3_carracing.vec_env import process_vec_env_class
from sb3_carracing.zoo.best import as_yaml, trial_entry
from sb3_carracing.zoo.study import find_trial, load_study


class CarRacingExperimentManager(ExperimentManager):  # type: ignore[misc]
    """What `python -m sb3_carracing train` uses in rl-zoo3's place; arguments are rl-zoo3's.

    It differs in some points: without `-conf` the packaged hyperparameters are read, but where rl-zoo3 alone has an entry;
    `--trial-id` may be 0 and trains what the trial did, whatever it sampled or not; `-i` goes on where the agent was
    (steps and schedules, where rl-zoo3 starts both anew, and the running means of that agent, not the last one's); a run
    that fails before its first step leaves no folder; callbacks that have a `run_dir` learn the run's folder;
    best_model.zip and evaluations.npz are `ValidationCallback`'s where there is one; monitor.csv also holds the raw score
    of this package's CarRacing, since its rewards are shaped by `env_kwargs`; `--vec-env subproc` means several
    environments a worker process instead of one; and a name or keyword that does not fit is a ValueError, whichever class
    found it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Positional as in rl-zoo3's own call, whose signature may grow; bound by name to change one of them.
        bound = inspect.signature(ExperimentManager.__init__).bind(self, *args, **kwargs).arguments
        bound.pop("self")
        if bound.get("config") is None:
            bound["config"] = str(_default_config(bound["algo"], bound["env_id"]))
        self._trial_entry: dict[str, Any] | None = None
        if bound.get("trial_id") is not None:
            # rl-zoo3 passes over trial 0, and over a study that is not named.
            sampled, self._trial_entry = _hyperparams_of_trial(bound)
            bound["hyperparams"] = sampled | (bound.get("hyperparams") or {})
            bound["trial_id"] = None
        super().__init__(**bound)
        self.interrupted = False
        self._made_folder = False
        if bound.get("vec_env_type") == "subproc":
            self.vec_env_class = process_vec_env_class()

    def create_envs(self, *args: Any, **kwargs: Any) -> VecEnv:
        """Create the environments as rl-zoo3 does; those of ours put their raw score into monitor.csv as well."""
        if gym.spec(self.env_name.gym_id).entry_point == CAR_RACING:
            self.monitor_kwargs.setdefault("info_keywords", ("score", "frames"))
        env: VecEnv = super().create_envs(*args, **kwargs)
        return env

    def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        """Make environments and model as rl-zoo3 does; what cannot be made is one sentence, before any training.

        :raises ValueError: for a wrapper, callback or keyword that does not exist, or parts that do not fit together
        """
        try:
            return self._set_up()
        except Exception:
            self._remove_folder_without_agent()
            raise

    def _set_up(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        try:
            experiment: tuple[BaseAlgorithm, dict[str, Any]] | None = super().setup_experiment()
        except (TypeError, AttributeError, ImportError, RuntimeError, NameError, SyntaxError, gym.error.Error) as error:
            # The last line is the error itself where a worker process sends its traceback along.
            *_, cause = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(f"the training cannot be set up: {cause}") from error
        return experiment

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read the YAML as rl-zoo3 does, of a trial of `tune` that which its study began with.

        :raises ValueError: it is not what rl-zoo3 reads
        """
        if self._trial_entry is None:
            return self._read_config()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "trial.yml")
            file.write_text(as_yaml({self.env_name.gym_id: self._trial_entry}))
            self.config = str(file)
            return self._read_config()

    def _read_config(self) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            hyperparams, saved = super().read_hyperparameters()
        except yaml.YAMLError as error:
            raise ValueError(f"{self.config} is not YAML: {' '.join(str(error).split())}") from error
        except ImportError as error:
            raise ValueError(
                f"{self.config!r} is neither a file *.yml, *.yaml or *.py nor a module of hyperparameters: {error}"
            ) from error
        except KeyError as error:  # of an Atari game
            raise ValueError(f"{self.config} has no entry {error} for {self.env_name.gym_id}") from error
        except (AttributeError, TypeError) as error:
            raise ValueError(
                f"{self.config} has to map environment ids, or 'default', to mappings of hyperparameters: {error}"
            ) from error
        if "n_timesteps" not in hyperparams:
            raise ValueError(f"the hyperparameters of {self.env_name.gym_id} in {self.config} lack n_timesteps")
        return hyperparams, saved

    def create_log_folder(self) -> None:
        """Make the run's folder, and note whether it is new."""
        self._made_folder = not Path(self.save_path).exists()
        super().create_log_folder()

    def _remove_folder_without_agent(self) -> None:
        # `enjoy` takes the latest folder: one without an agent would hide the run before it.
        if self._made_folder and not list(Path(self.save_path).rglob("*.zip")):
            shutil.rmtree(self.save_path, ignore_errors=True)

    def _maybe_normalize(self, env: VecEnv, eval_env: bool) -> VecEnv:
        statistics = statistics_of(Path(self.trained_agent)) if self.trained_agent else None
        if statistics is None:
            normalized: VecEnv = super()._maybe_normalize(env, eval_env)
            return normalized
        # rl-zoo3 reads the last agent's, whichever goes on.
        env = VecNormalize.load(str(statistics), env)
        if eval_env:
            env.training = env.norm_reward = False
        return env

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        model: BaseAlgorithm = super()._load_pretrained_agent(hyperparams, env)
        if model.num_timesteps >= self.n_timesteps:
            raise ValueError(
                f"The agent has already played {model.num_timesteps} steps, so nothing remains of {self.n_timesteps}: pass a "
                "larger -n."
            )
        model.set_random_seed(seed_to_go_on(self.seed, model.num_timesteps))
        return model

    def create_callbacks(self) -> None:
        """Create rl-zoo3's callbacks, and tell those of ours where the run's folder is."""
        super().create_callbacks()
        validates = any(isinstance(callback, ValidationCallback) for callback in self.callbacks)
        for callback in self.callbacks:
            if hasattr(callback, "run_dir"):
                callback.run_dir = Path(self.save_path)
            if isinstance(callback, CheckpointCallback):
                callback.save_vecnormalize = True
            if validates and isinstance(callback, EvalCallback):
                # Two measures would write one best_model.zip and one evaluations.npz; this one's reward is shaped.
                callback.best_model_save_path = None
                callback.log_path = None

    def learn(self, model: BaseAlgorithm) -> None:
        """Train up to `n_timesteps` steps in all, those that a resumed agent has behind it included."""
        learner = _Learner(model, self.continue_training)
        steps = model.num_timesteps
        try:
            super().learn(learner)
        except Exception:
            if model.num_timesteps == steps:
                self._remove_folder_without_agent()
            raise
        self.interrupted = learner.interrupted


def _default_config(algo: str, env_id: str) -> Path:
    """Return the packaged YAML, but rl-zoo3's where only that one has an entry of the environment, or none is packaged."""
    packaged, zoos = hyperparams_file(algo), Path(rl_zoo3.__file__).with_name("hyperparams") / f"{algo}.yml"
    entry = "atari" if ExperimentManager.is_atari(env_id) else env_id
    if not packaged.is_file() or (zoos.is_file() and entry in _entries(zoos) - _entries(packaged)):
        return zoos
    return packaged


def _entries(file: Path) -> set[str]:
    return set(yaml.safe_load(file.read_text()))


def _hyperparams_of_trial(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return what the trial sampled, and of a study of `tune` its whole YAML entry, since the study began with one.

    :raises ValueError: there is no such trial, or its study is another algorithm's
    """
    study = load_study(arguments.get("storage"), arguments.get("study_name"))
    trial = find_trial(study, arguments["trial_id"])
    settings = study.user_attrs.get("settings")
    if settings is None:
        return HYPERPARAMS_CONVERTER[arguments["algo"]](trial.params), None
    if settings["algo"] != arguments["algo"]:
        raise ValueError(f"the study {study.study_name!r} is of {settings['algo']}, not of {arguments['algo']}: pass --algo")
    return {}, trial_entry(study, trial)


class _Learner:
    """A model's `learn` as rl-zoo3 calls it; a resumed one trains on instead of starting its counter anew.

    SB3's `learn(reset_num_timesteps=False)` adds its argument to the steps done, and schedules are a share of the sum:
    with what remains as argument, learning rate and clip range go on from where they were.
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
