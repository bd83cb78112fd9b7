"""rl-zoo3's hyperparameter search on many machines, with raw scores, seeded trials and reasons for what it prunes."""

import argparse
import copy
import functools
import os
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch as th
from optuna.trial import TrialState
from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER
from rl_zoo3.utils import ALGOS, get_callback_list
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, ProgressBarCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from sb3_carracing.errors import UserError
from sb3_carracing.evaluation import VALIDATION_SEED, EpisodeResult, evaluate
from sb3_carracing.pipelines import Pipeline, pipeline_env, wrap_alike, wrapper_calls
from sb3_carracing.zoo import study as studies
from sb3_carracing.zoo.hyperparameters import evaluated
from sb3_carracing.zoo.manager import CarRacingExperimentManager
from sb3_carracing.zoo.register import BETA_ALGORITHMS
from sb3_carracing.zoo.reporter import Reporter, divergence, prune
from sb3_carracing.zoo.search_space import UPDATES_PER_REPORT, fitting_extractors, n_steps_powers, smallest_rollout
from sb3_carracing.zoo.storage import HEARTBEAT_INTERVAL, open_storage, quiet, shown
from sb3_carracing.zoo.worker import Worker

N_EVALUATIONS = 5


class TuningManager(CarRacingExperimentManager):
    """rl-zoo3's ExperimentManager for a search; arguments are rl-zoo3's, and `args` may hold `heartbeat_interval`.

    It differs in these points:

    - A trial's value is the mean raw score on the validation tracks, without the training's reward shaping and early ends.
    - Trial and sampler are seeded with the study's seed plus the trial's number.
    - Besides the pruner, only NaN and rollouts that are too long prune a trial. Its user attribute `pruned` holds the
      reason. Other errors end the worker.
    - A killed worker's trial is repeated.
    - No run folder is made.

    Raises:
        UserError: sampler or pruner is unknown, a folder or storage cannot be opened, the hyperparameters make no valid model,
            there are too few steps between two reports, or a number is below 1. Raised before a study is joined.
    """

    refuses_what_has_no_effect = True
    study_name: str | None
    seed: int
    normalize_kwargs: dict[str, Any]
    n_timesteps: int
    n_evaluations: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("n_trials", "n_eval_episodes", "n_eval_envs", "max_total_trials", "n_evaluations"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        if self.algo not in HYPERPARAMS_SAMPLER:
            raise UserError(f"there is no search space for {self.algo!r}; valid: {', '.join(sorted(HYPERPARAMS_SAMPLER))}")
        self.heartbeat_interval = getattr(self.args, "heartbeat_interval", HEARTBEAT_INTERVAL)
        self.study_name = self.study_name or f"{self.algo}_{self.env_name}"
        self._entry: dict[str, Any] = {}

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read the YAML as rl-zoo3 does, and keep it as it is."""
        hyperparams, saved = super().read_hyperparameters()
        self._entry = copy.deepcopy(dict(saved))
        if self.env_kwargs:
            self._entry["env_kwargs"] = self.env_kwargs
        return hyperparams, saved

    def create_log_folder(self) -> None:
        """Make no folder, because `enjoy` would take a search's empty numbered folder for the latest run."""

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = True) -> VecEnv:
        """Create the environments as rl-zoo3 does, without monitor.csv."""
        return super().create_envs(n_envs, eval_env=eval_env, no_log=True)

    def _preprocess_action_noise(
        self, hyperparams: dict[str, Any], saved_hyperparams: dict[str, Any], env: VecEnv
    ) -> dict[str, Any]:
        # Where rl-zoo3 looks at the environment as well.
        self._observation_space = env.observation_space
        self._make_evaluation_env().close()
        if self.algo in BETA_ALGORITHMS:
            n_steps_powers(self.n_envs, self._max_rollout)
        processed: dict[str, Any] = super()._preprocess_action_noise(hyperparams, saved_hyperparams, env)
        self._check_searched(processed)
        self._build_model(env, copy.deepcopy(processed))
        return processed

    def _check_searched(self, hyperparams: dict[str, Any]) -> None:
        """Refuse -params that the search replaces; `train -optimize` only warns."""
        given = set(self.custom_hyperparams or ())
        with quiet(), _quiet_log():
            trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
            searched = set(self._sample(trial, hyperparams))
        if self.algo in BETA_ALGORITHMS:
            # What is not searched of ours stays.
            searched.discard("policy_kwargs")
            given |= set(evaluated("policy_kwargs", (self.custom_hyperparams or {}).get("policy_kwargs")) or ())
            searched |= set(trial.params)
        replaced = sorted(given & searched)
        if replaced:
            message = f"-params {', '.join(replaced)}: the search chooses this, so the given value would have no effect"
            if self.refuses_what_has_no_effect:
                raise UserError(message)
            warnings.warn(message, stacklevel=2)

    def _build_model(self, env: VecEnv, hyperparams: dict[str, Any]) -> None:
        """Build a throw-away model so that invalid hyperparameters fail before the study is created."""
        algorithm = ALGOS[self.algo]
        # These apply to all environments, of which `env` is one, or cost memory.
        for name in ("n_steps", "batch_size", "buffer_size", "optimize_memory_usage"):
            hyperparams.pop(name, None)
        memory = {"buffer_size": 1} if issubclass(algorithm, OffPolicyAlgorithm) else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            algorithm(env=env, device=self.device, **hyperparams, **memory)

    @property
    def _interval(self) -> int:
        """Steps between two reports."""
        return max(1, self.n_timesteps // self.n_evaluations)

    @property
    def _max_rollout(self) -> int:
        fitting = min(8192, self._interval // UPDATES_PER_REPORT)
        return fitting if self.refuses_what_has_no_effect else max(fitting, smallest_rollout(self.n_envs))

    @functools.cached_property
    def _make_evaluation_env(self) -> Callable[[], Any]:
        kwargs = self._eval_env_kwargs_args or self.env_kwargs
        pipeline = Pipeline(self.env_name.gym_id, kwargs, wrapper_calls(self._entry.get("env_wrapper")))
        return pipeline_env(pipeline, renderer=None)

    def _create_sampler(self, sampler_method: str) -> optuna.samplers.BaseSampler:
        if sampler_method == "auto":
            try:
                return super()._create_sampler(sampler_method)
            except ImportError as error:
                raise UserError("the sampler 'auto' needs optunahub, which is not installed: pip install optunahub") from error
        make = functools.partial(studies.make_sampler, sampler_method, self.n_startup_trials)
        make(0)
        return studies.TrialSeededSampler(make, self.seed)

    def _create_pruner(self, pruner_method: str) -> optuna.pruners.BasePruner:
        if pruner_method == "halving":
            return super()._create_pruner(pruner_method)
        return studies.make_pruner(pruner_method, self.n_startup_trials, self.n_evaluations)

    def hyperparameters_optimization(self) -> None:
        """Run trials until nothing is left to run, then show the best one as YAML."""
        with quiet():
            self._create_sampler(self.sampler)
            pruner = self._create_pruner(self.pruner)
            settings = self._settings()
            for folder in (self.log_path, self.optimization_log_path):
                if folder is not None:
                    check_writable(Path(folder))
            # Not before everything is checked: what is refused leaves no file behind.
            self.trial_storage = open_storage(self.storage, self.heartbeat_interval)
            study = self._join_study(pruner, settings)
            n_jobs = (os.cpu_count() or 1) if self.n_jobs == -1 else self.n_jobs
            worker = Worker(study, self.trial_storage, self.objective, self.n_trials, self.max_total_trials)
            self.work_begins()
            try:
                worker.run(n_jobs)
            except KeyboardInterrupt:
                print("Interrupted")
        self._report(study)

    def _settings(self) -> dict[str, Any]:
        """Return the settings that all workers of a study must share."""
        return {
            "algo": self.algo,
            "env": self.env_name.gym_id,
            "n_timesteps": self.n_timesteps,
            "n_evaluations": self.n_evaluations,
            "n_eval_episodes": self.n_eval_episodes,
            "heartbeat_interval": self.heartbeat_interval,
            "eval_env_kwargs": self._eval_env_kwargs_args,
            "entry": studies.as_yaml(self._entry),
        }

    def _join_study(self, pruner: optuna.pruners.BasePruner, settings: dict[str, Any]) -> optuna.Study:
        """Create or join the study and print what kind of storage it is in."""
        study = optuna.create_study(
            storage=self.trial_storage,
            pruner=pruner,
            study_name=self.study_name,
            load_if_exists=True,
            direction="maximize",
        )
        self.seed = studies.agree_on_settings(study, settings, getattr(self.args, "study_seed", None), self.seed)
        study.sampler = self._create_sampler(self.sampler)
        if self.storage is None:
            kept = "in memory, lost at the end: --storage keeps it"
        elif isinstance(self.trial_storage, optuna.storages.JournalStorage):
            kept = (
                f"in {self.storage}, which has no heartbeats: a killed worker's trial stays 'running' for good, takes its "
                "place of --max-total-trials and is not repeated; a database does that"
            )
        else:
            kept = f"in {shown(self.storage)}, a heartbeat every {self.heartbeat_interval} s"
        print(f"Study {study.study_name!r}, seed {self.seed}, {len(study.trials)} trials so far, {kept}")
        print(f"Sampler: {self.sampler} - Pruner: {self.pruner}; {self.n_evaluations} reports, every {self._interval} steps")
        return study

    def objective(self, trial: optuna.Trial) -> float:
        """Train with sampled hyperparameters; return the mean raw score of the last report."""
        # A manager for this trial, since several threads may share `self`.
        manager = copy.copy(self)
        manager.seed = studies.trial_seed(self.seed, trial.study.get_trials(deepcopy=False)[trial.number])
        manager.verbose = self.verbose if self.verbose >= 2 else 0
        trial.set_user_attr("seed", manager.seed)
        trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
        set_random_seed(manager.seed)
        return manager._train(trial)

    def _train(self, trial: optuna.Trial) -> float:
        hyperparams = {**self._hyperparams, **self._sample(trial, self._hyperparams)}
        if self.normalize and "gamma" in hyperparams:
            # As training the trial from its YAML would.
            self.normalize_kwargs = self.normalize_kwargs | {"gamma": hyperparams["gamma"]}
        env = self.create_envs(1 if self.algo == "ars" else self.n_envs)
        model: BaseAlgorithm | None = None
        try:
            model = ALGOS[self.algo](
                env=env, tensorboard_log=None, seed=self.seed, verbose=self.verbose, device=self.device, **hyperparams
            )
            reporter = Reporter(trial, self._interval, self.n_evaluations, self._evaluate, self._trial_folder(trial))
            self._check_rollout(model)
            model.learn(self.n_timesteps, callback=[*self._trial_callbacks(), reporter])
        except (ValueError, RuntimeError, AssertionError) as error:
            reason = divergence(model, error)
            if reason is None:
                raise
            raise prune(trial, reason) from error
        except optuna.TrialPruned as pruned:
            raise prune(trial, str(pruned)) from pruned
        finally:
            env.close()
        trial.set_user_attr("steps", model.num_timesteps)
        return reporter.last_mean

    def _sample(self, trial: optuna.Trial, hyperparams: dict[str, Any]) -> dict[str, Any]:
        """Return what rl-zoo3's or our sampler chooses in place of the YAML's arguments of the algorithm."""
        further = {
            "using_her_replay_buffer": hyperparams.get("replay_buffer_class") == HerReplayBuffer,
            "her_kwargs": hyperparams.get("replay_buffer_kwargs", {}),
            "policy": hyperparams["policy"],
            "policy_kwargs": hyperparams.get("policy_kwargs"),
            "max_rollout": self._max_rollout,
            "extractors": fitting_extractors(self._observation_space),
        }
        sampled: dict[str, Any] = HYPERPARAMS_SAMPLER[self.algo](trial, self.n_actions, self.n_envs, further)
        return sampled

    def _check_rollout(self, model: BaseAlgorithm) -> None:
        """Prune trials without an update between two reports; rl-zoo3's own samplers go up to 4096 steps."""
        if isinstance(model, OnPolicyAlgorithm):
            rollout = model.n_steps * model.n_envs
            if rollout > max(self._interval, self._max_rollout):
                raise optuna.TrialPruned(f"a rollout of {rollout} steps does not fit between two reports, {self._interval}")

    def _trial_callbacks(self) -> list[BaseCallback]:
        """Return the YAML's callbacks but those that write a run's files, which a trial does not have."""
        callbacks = get_callback_list({"callback": self.specified_callbacks})
        kept = [callback for callback in callbacks if not hasattr(callback, "run_dir")]
        return [*kept, ProgressBarCallback()] if self.show_progress else kept

    def _trial_folder(self, trial: optuna.Trial) -> Path | None:
        return Path(self.optimization_log_path) / f"trial_{trial.number}" if self.optimization_log_path else None

    def _evaluate(self, model: BaseAlgorithm) -> list[EpisodeResult]:
        """Play the validation tracks: the same for all trials, whole episodes, raw score."""
        training_env = model.get_env()
        assert training_env is not None
        vec_wrappers = wrapper_calls(self._entry.get("vec_env_wrapper"))
        return evaluate(
            model,
            self._make_evaluation_env,
            range(VALIDATION_SEED, VALIDATION_SEED + self.n_eval_episodes),
            actions="deterministic" if self.deterministic_eval else "sample",
            n_envs=self.n_eval_envs,
            wrap_vec_env=lambda venv: wrap_alike(training_env, venv, vec_wrappers),
        )

    def _report(self, study: optuna.Study) -> None:
        """Print how many trials there are and the best one, and write them as a table."""
        states = [trial.state for trial in study.get_trials(deepcopy=False)]
        counts = ", ".join(f"{states.count(state)} {state.name.lower()}" for state in TrialState if state in states)
        print(f"Trials: {counts or 'none'}")
        if TrialState.COMPLETE in states:
            best = study.best_trial
            print(f"Best trial: {best.number}, value {best.value:.6g}, as YAML:\n{studies.entry_of(study, best)}", flush=True)
        file = Path(self.log_path) / f"report_{study.study_name.replace('/', '_')}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        study.trials_dataframe().to_csv(file)
        print(f"Table of the trials: {file}")


class OptimizingManager(TuningManager):
    """`train -optimize`: like `tune`, but with too few steps between two reports it warns and uses the smallest rollouts."""

    refuses_what_has_no_effect = False

    def _preprocess_action_noise(
        self, hyperparams: dict[str, Any], saved_hyperparams: dict[str, Any], env: VecEnv
    ) -> dict[str, Any]:
        if self.algo in BETA_ALGORITHMS and self._max_rollout * UPDATES_PER_REPORT > self._interval:
            warnings.warn(
                f"{self._interval} steps between two reports leave no {UPDATES_PER_REPORT} updates of the smallest rollout, "
                f"{self._max_rollout} steps: the values will say little. Raise -n, or lower --n-evaluations or n_envs",
                stacklevel=2,
            )
        processed: dict[str, Any] = super()._preprocess_action_noise(hyperparams, saved_hyperparams, env)
        return processed


@contextmanager
def _quiet_log() -> Iterator[None]:
    """Keep Optuna from logging a study that is only read."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def check_writable(folder: Path) -> None:
    """Make a folder, and raise ValueError unless a file can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be written to: {error.strerror}") from error


def search(args: argparse.Namespace, work_begins: Callable[[], None]) -> None:
    """Run the search that the arguments of `tune` describe.

    Args:
        args: of `tune`.
        work_begins: called when everything is checked, before the first trial.
    """
    args.study_seed = args.seed if args.seed >= 0 else None
    seed = args.seed if args.seed >= 0 else int(np.random.default_rng().integers(2**31))
    if args.num_threads > 0:
        th.set_num_threads(args.num_threads)
    options = ["storage", "study_name", "n_trials", "max_total_trials", "n_jobs", "sampler", "pruner", "n_startup_trials"]
    options += ["optimization_log_path", "n_evaluations", "n_timesteps", "hyperparams", "env_kwargs", "eval_env_kwargs"]
    options += ["verbose", "n_eval_envs", "device"]
    manager = TuningManager(
        args,
        args.algo,
        args.env,
        args.log_folder,
        **{name: getattr(args, name) for name in options},
        n_eval_episodes=args.eval_episodes,
        optimize_hyperparameters=True,
        seed=seed,
        vec_env_type=args.vec_env,
        config=args.conf_file,
        show_progress=args.progress,
    )
    manager.work_begins = work_begins
    optuna.logging.set_verbosity(optuna.logging.INFO if args.verbose else optuna.logging.WARNING)
    manager.setup_experiment()
    manager.hyperparameters_optimization()
