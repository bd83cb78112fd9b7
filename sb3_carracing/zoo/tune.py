"""`tune`: rl-zoo3's hyperparameter search on many machines, with raw scores, seeded trials and reasons for what it prunes."""

import argparse
import copy
import csv
import functools
import importlib
import inspect
import os
import socket
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch as th
from optuna.trial import TrialState
from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER
from rl_zoo3.utils import ALGOS, StoreDict, get_callback_list
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, ProgressBarCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from sb3_carracing.evaluation import VALIDATION_SEED, EpisodeResult, evaluate
from sb3_carracing.pipelines import Pipeline, env_spec, pipeline_env, wrap_alike, wrapper_calls
from sb3_carracing.ppo.beta_ppo import NonFiniteLossError
from sb3_carracing.ppo.torch_layers import IMAGE_EXTRACTORS
from sb3_carracing.runs import BEST_AGENT
from sb3_carracing.zoo import study as studies
from sb3_carracing.zoo.best import as_yaml, entry_of, show_and_train
from sb3_carracing.zoo.manager import CarRacingExperimentManager
from sb3_carracing.zoo.register import ALGO_NAME, register
from sb3_carracing.zoo.search_space import UPDATES_PER_REPORT, n_steps_powers, smallest_rollout

N_EVALUATIONS = 5


class TuningManager(CarRacingExperimentManager):
    """rl-zoo3's ExperimentManager for a search; arguments are rl-zoo3's, of which `args` may hold `heartbeat_interval`.

    Where it differs: a trial's value is the mean raw score on the validation tracks, whatever shapes, scales or cuts the
    training; trial and sampler are seeded with the study's seed plus the trial's number; only NaN and too long rollouts
    prune a trial beside the pruner, with the reason in its user attribute `pruned`; other errors end the worker; a killed
    worker's trial is repeated; no run folder is made.

    :raises ValueError: unknown sampler or pruner, a folder or storage that cannot be opened, hyperparameters that make no
        model, too few steps between two reports, numbers below 1; all before a study is joined
    """

    refuses_short_intervals = True
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
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.algo not in HYPERPARAMS_SAMPLER:
            raise ValueError(f"there is no search space for {self.algo!r}; valid: {', '.join(sorted(HYPERPARAMS_SAMPLER))}")
        self.heartbeat_interval = getattr(self.args, "heartbeat_interval", studies.HEARTBEAT_INTERVAL)
        self.study_name = self.study_name or f"{self.algo}_{self.env_name}"
        # Hidden from upstream, which would only warn.
        self.tensorboard_log = None
        self._entry: dict[str, Any] = {}

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read the YAML as rl-zoo3 does, and keep it as it is."""
        hyperparams, saved = super().read_hyperparameters()
        self._entry = copy.deepcopy(dict(saved))
        if self.env_kwargs:
            self._entry["env_kwargs"] = self.env_kwargs
        return hyperparams, saved

    def create_log_folder(self) -> None:
        """Make none: a search's empty numbered folder would be the latest run, which `enjoy` plays."""

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = True) -> VecEnv:
        """Create the environments as rl-zoo3 does, without monitor.csv."""
        return super().create_envs(n_envs, eval_env=eval_env, no_log=True)

    def _preprocess_action_noise(
        self, hyperparams: dict[str, Any], saved_hyperparams: dict[str, Any], env: VecEnv
    ) -> dict[str, Any]:
        # Where rl-zoo3 looks at the environment as well.
        self._observation_space = env.observation_space
        self._make_evaluation_env().close()
        if self.algo == ALGO_NAME:
            n_steps_powers(self.n_envs, self._max_rollout)
        processed: dict[str, Any] = super()._preprocess_action_noise(hyperparams, saved_hyperparams, env)
        self._build_model(env, copy.deepcopy(processed))
        return processed

    def _build_model(self, env: VecEnv, hyperparams: dict[str, Any]) -> None:
        """Build a model for nothing: a keyword that does not exist would else end the first trial, in a study begun."""
        algorithm = ALGOS[self.algo]
        inspect.signature(algorithm).bind(env=env, **hyperparams)
        # These are for all environments, of which `env` is one, or cost memory.
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
        return fitting if self.refuses_short_intervals else max(fitting, smallest_rollout(self.n_envs))

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
                raise ValueError(
                    "the sampler 'auto' needs optunahub, which is not installed: pip install optunahub"
                ) from error
        make = functools.partial(studies.make_sampler, sampler_method, self.n_startup_trials)
        make(0)
        return studies.TrialSeededSampler(make, self.seed)

    def _create_pruner(self, pruner_method: str) -> optuna.pruners.BasePruner:
        if pruner_method == "halving":
            return super()._create_pruner(pruner_method)
        return studies.make_pruner(pruner_method, self.n_startup_trials, self.n_evaluations)

    def hyperparameters_optimization(self) -> None:
        """Run trials until nothing is left to run, then show the best one as YAML."""
        with studies.quiet():
            self._create_sampler(self.sampler)
            pruner = self._create_pruner(self.pruner)
            settings = self._settings()
            for folder in (self.log_path, self.optimization_log_path):
                if folder is not None:
                    check_writable(Path(folder))
            # Not before everything is checked: what is refused leaves no file behind.
            self.trial_storage = studies.open_storage(self.storage, self.heartbeat_interval)
            study = self._join_study(pruner, settings)
            n_jobs = (os.cpu_count() or 1) if self.n_jobs == -1 else self.n_jobs
            worker = studies.Worker(study, self.trial_storage, self.objective, self.n_trials, self.max_total_trials)
            try:
                worker.run(n_jobs)
            except KeyboardInterrupt:
                print("Interrupted")
        self._report(study)

    def _settings(self) -> dict[str, Any]:
        """Return what all workers of a study have to do alike."""
        return {
            "algo": self.algo,
            "env": self.env_name.gym_id,
            "n_timesteps": self.n_timesteps,
            "n_evaluations": self.n_evaluations,
            "n_eval_episodes": self.n_eval_episodes,
            "heartbeat_interval": self.heartbeat_interval,
            "eval_env_kwargs": self._eval_env_kwargs_args,
            "entry": as_yaml(self._entry),
        }

    def _join_study(self, pruner: optuna.pruners.BasePruner, settings: dict[str, Any]) -> optuna.Study:
        """Create the study, or join it; says what kind of storage it is in."""
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
            kept = f"in {studies.shown(self.storage)}, a heartbeat every {self.heartbeat_interval} s"
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
        hyperparams = self._sample(trial)
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
            raise _prune(trial, reason) from error
        except optuna.TrialPruned as pruned:
            raise _prune(trial, str(pruned)) from pruned
        finally:
            env.close()
        trial.set_user_attr("steps", model.num_timesteps)
        return reporter.last_mean

    def _sample(self, trial: optuna.Trial) -> dict[str, Any]:
        """Return all arguments of the algorithm: the YAML's, replaced by what rl-zoo3's or our sampler chooses."""
        further = {
            "using_her_replay_buffer": self._hyperparams.get("replay_buffer_class") == HerReplayBuffer,
            "her_kwargs": self._hyperparams.get("replay_buffer_kwargs", {}),
            "policy": self._hyperparams["policy"],
            "policy_kwargs": self._hyperparams.get("policy_kwargs"),
            "max_rollout": self._max_rollout,
            "extractors": fitting_extractors(self._observation_space),
        }
        sampled: dict[str, Any] = HYPERPARAMS_SAMPLER[self.algo](trial, self.n_actions, self.n_envs, further)
        return {**self._hyperparams, **sampled}

    def _check_rollout(self, model: BaseAlgorithm) -> None:
        """Prune what would report twice without an update between; rl-zoo3's own samplers go up to 4096 steps."""
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
            print(f"Best trial: {best.number}, value {best.value:.6g}, as YAML:\n{entry_of(study, best)}", flush=True)
        file = Path(self.log_path) / f"report_{study.study_name.replace('/', '_')}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        study.trials_dataframe().to_csv(file)
        print(f"Table of the trials: {file}")


class OptimizingManager(TuningManager):
    """`train -optimize`: `tune`, but where too few steps lie between two reports it warns and plays the smallest rollouts."""

    refuses_short_intervals = False

    def _preprocess_action_noise(
        self, hyperparams: dict[str, Any], saved_hyperparams: dict[str, Any], env: VecEnv
    ) -> dict[str, Any]:
        if self.algo == ALGO_NAME and self._max_rollout * UPDATES_PER_REPORT > self._interval:
            warnings.warn(
                f"{self._interval} steps between two reports leave no {UPDATES_PER_REPORT} updates of the smallest rollout, "
                f"{self._max_rollout} steps: the values will say little. Raise -n, or lower --n-evaluations or n_envs",
                stacklevel=2,
            )
        processed: dict[str, Any] = super()._preprocess_action_noise(hyperparams, saved_hyperparams, env)
        return processed


class Reporter(BaseCallback):
    """Report a trial's mean raw score to its study: after the first update past each interval, and at the end.

    :param trial: it reports to; ended by `TrialPruned` where its pruner says so or the score or weights are not finite
    :param interval: steps between two reports
    :param n_reports: how many in all
    :param evaluate: plays the episodes
    :param folder: for evaluations.csv and best_model.zip; None: they are not written
    """

    def __init__(
        self,
        trial: optuna.Trial,
        interval: int,
        n_reports: int,
        evaluate: Callable[[BaseAlgorithm], list[EpisodeResult]],
        folder: Path | None = None,
    ) -> None:
        super().__init__()
        self.last_mean = -np.inf
        self._trial = trial
        self._interval = interval
        self._n_reports = n_reports
        self._evaluate = evaluate
        self._folder = folder
        self._reported: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        # The update of the rollout before lies behind, unlike at the rollout's end.
        done = len(self._reported)
        if done < self._n_reports - 1 and self.num_timesteps >= (done + 1) * self._interval:
            self._report()
            if self._trial.should_prune():
                raise optuna.TrialPruned(f"by the pruner at report {done + 1}, mean score {self.last_mean:.6g}")

    def _on_training_end(self) -> None:
        self._report()

    def _report(self) -> None:
        if has_lost_weights(self.model):
            raise optuna.TrialPruned("NaN: the weights are not finite")
        results = self._evaluate(self.model)
        mean = float(np.mean([result.score for result in results]))
        if not np.isfinite(mean):
            raise optuna.TrialPruned(f"NaN: the mean score is {mean}")
        self._trial.report(mean, len(self._reported) + 1)
        if self._folder is not None:
            self._write(self._folder, results, mean)
        self._reported.append(mean)
        self.last_mean = mean

    def _write(self, folder: Path, results: list[EpisodeResult], mean: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # A repeated trial has another number, but a study may be begun anew in the same folder.
        with (folder / "evaluations.csv").open("a" if self._reported else "w", newline="") as file:
            table = csv.writer(file)
            if not self._reported:
                table.writerow(["steps", "mean", *(f"score_{result.seed}" for result in results)])
            table.writerow([self.num_timesteps, mean, *(result.score for result in results)])
        if mean > max(self._reported, default=-np.inf):
            self.model.save(folder / BEST_AGENT)


def check_writable(folder: Path) -> None:
    """Make a folder, and raise ValueError unless a file can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"the folder {folder} cannot be written to: {error.strerror}") from error


def divergence(model: BaseAlgorithm | None, error: Exception) -> str | None:
    """Return why an error means that a training has become NaN; None if it means something else."""
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    if isinstance(error, NonFiniteLossError):
        return f"NaN: {first_line}"
    if model is not None and has_lost_weights(model):
        return f"NaN: the weights are not finite: {first_line}"
    # torch's distributions refuse NaN, which may also come from the environment.
    if isinstance(error, ValueError) and first_line.startswith("Expected parameter") and "nan" in str(error):
        return f"NaN: {first_line}"
    return None


def has_lost_weights(model: BaseAlgorithm) -> bool:
    """Return whether a weight of the policy is NaN or infinite."""
    policy = model.policy
    return policy is not None and not all(bool(th.isfinite(weight).all()) for weight in policy.parameters())


def _prune(trial: optuna.Trial, reason: str) -> optuna.TrialPruned:
    """Write the reason to the trial and return what ends it."""
    trial.set_user_attr("pruned", reason)
    return optuna.TrialPruned(reason)


def fitting_extractors(space: Any) -> list[str]:
    """Return the names of the extractors that take an environment's images, channels first; none where it has none."""
    if not is_image_space(space):
        return []
    fitting = []
    for name, extractor in IMAGE_EXTRACTORS.items():
        try:
            extractor(space)
        except (ValueError, RuntimeError):
            continue
        fitting.append(name)
    return fitting


def main(argv: list[str]) -> None:
    """Search hyperparameters, or show and train the best found.

    :raises ValueError: for what cannot be searched, opened or found, before any training
    """
    register()
    args = _parser().parse_args(argv)
    for module in args.gym_packages:
        importlib.import_module(module)
    env_spec(args.env)
    for name in ("heartbeat_interval", "n_startup_trials"):
        if getattr(args, name) < (name == "heartbeat_interval"):
            raise ValueError(f"{name} must not be {getattr(args, name)}")
    if args.n_timesteps < 1 and args.n_timesteps != -1:
        raise ValueError(f"-n must be at least 1, or -1 for the YAML's n_timesteps, got {args.n_timesteps}")
    if args.n_jobs < 1 and args.n_jobs != -1:
        raise ValueError(f"n_jobs must be at least 1, or -1 for one a core, got {args.n_jobs}")
    if args.best:
        args.study_name = args.study_name or f"{args.algo}_{args.env}"
        show_and_train(args)
        return
    if args.train_arguments or args.print_only:
        raise ValueError("--print-only and arguments of train after -- go with --best")
    args.study_seed = args.seed if args.seed >= 0 else None
    seed = args.seed if args.seed >= 0 else int(np.random.default_rng().integers(2**31))
    if args.num_threads > 0:
        th.set_num_threads(args.num_threads)
    manager = TuningManager(
        args,
        args.algo,
        args.env,
        args.log_folder,
        n_timesteps=args.n_timesteps,
        n_eval_episodes=args.eval_episodes,
        hyperparams=args.hyperparams,
        env_kwargs=args.env_kwargs,
        eval_env_kwargs=args.eval_env_kwargs,
        optimize_hyperparameters=True,
        storage=args.storage,
        study_name=args.study_name,
        n_trials=args.n_trials,
        max_total_trials=args.max_total_trials,
        n_jobs=args.n_jobs,
        sampler=args.sampler,
        pruner=args.pruner,
        optimization_log_path=args.optimization_log_path,
        n_startup_trials=args.n_startup_trials,
        n_evaluations=args.n_evaluations,
        seed=seed,
        verbose=args.verbose,
        vec_env_type=args.vec_env,
        n_eval_envs=args.n_eval_envs,
        device=args.device,
        config=args.conf_file,
        show_progress=args.progress,
    )
    optuna.logging.set_verbosity(optuna.logging.INFO if args.verbose else optuna.logging.WARNING)
    manager.setup_experiment()
    manager.hyperparameters_optimization()


def _parser() -> argparse.ArgumentParser:
    """Return rl-zoo3's options of a search, with what is ours behind."""
    parser = argparse.ArgumentParser(prog="python -m sb3_carracing tune", description=str(main.__doc__).splitlines()[0])
    add = parser.add_argument
    add("--algo", default=ALGO_NAME, choices=sorted(HYPERPARAMS_SAMPLER), help="default: %(default)s")
    add("--env", default="CarRacingFast-v3", help="environment id (default: %(default)s)")
    add("-n", "--n-timesteps", type=int, default=-1, help="steps of a trial (default: the YAML's n_timesteps)")
    add("--n-trials", type=int, default=500, help="trials that this worker begins (default: %(default)s)")
    add("--max-total-trials", type=int, help="complete and pruned trials of all workers; --n-trials does not count then")
    add("--n-jobs", type=int, default=1, help="trials at a time in threads; several workers are faster (default: %(default)s)")
    add("--sampler", default="tpe", choices=studies.SAMPLERS, help="default: %(default)s")
    add("--pruner", default="median", choices=studies.PRUNERS, help="default: %(default)s")
    add("--n-startup-trials", type=int, default=10, help="random trials before the sampler (default: %(default)s)")
    add("--n-evaluations", type=int, default=N_EVALUATIONS, help="reports a trial (default: %(default)s)")
    add("--eval-episodes", type=int, default=5, help="episodes a report (default: %(default)s)")
    add("--n-eval-envs", type=int, default=1, help="processes that evaluate (default: %(default)s)")
    add("--storage", help="database URL (postgresql://user@host/name, sqlite:///file.db) or journal file (*.log)")
    add("--study-name", help="default: <algo>_<env>; workers with one storage and study name share its trials")
    add("--optimization-log-path", help="folder for evaluations.csv and best_model.zip of each trial")
    add("--seed", type=int, default=-1, help="seed of the study (default: the study's, else a random one)")
    add("-conf", "--conf-file", help="hyperparameters, YAML or Python (default: the package's)")
    add("-params", "--hyperparams", nargs="+", action=StoreDict, help="overwrite hyperparameters that are not searched")
    add("--env-kwargs", nargs="+", action=StoreDict, help="of the environment, key:value")
    add("--eval-env-kwargs", nargs="+", action=StoreDict, help="of the evaluation's environment (default: --env-kwargs)")
    add("--vec-env", default="dummy", choices=["dummy", "subproc"], help="default: %(default)s")
    add("--device", default="auto", help="default: %(default)s")
    add("--num-threads", type=int, default=-1, help="threads of PyTorch")
    add("-f", "--log-folder", default="logs", help="default: %(default)s")
    add("--verbose", type=int, default=1, help="0: only warnings, 2: each trial's log")
    add("--gym-packages", nargs="+", default=[], help="modules to import that register environments")
    add("-P", "--progress", action="store_true", help="a bar for each trial")
    add("-optimize", "--optimize-hyperparameters", action="store_true", help="implied; rl-zoo3's command may be pasted")
    add("--no-optim-plots", action="store_true", help="implied: no plots are shown")
    ours = parser.add_argument_group("not in rl-zoo3")
    ours.add_argument(
        "--heartbeat-interval",
        type=int,
        default=studies.HEARTBEAT_INTERVAL,
        help="seconds between two signs of life of a trial in a database (default: %(default)s)",
    )
    ours.add_argument("--best", action="store_true", help="print the study's best trial as YAML and train it")
    ours.add_argument("--print-only", action="store_true", help="with --best: only print")
    ours.add_argument("train_arguments", nargs="*", help="with --best, after --: further arguments of train")
    return parser
