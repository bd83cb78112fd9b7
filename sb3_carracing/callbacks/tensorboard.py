"""TensorBoardCallback: histograms of actions and densities, and films."""

import tempfile
from pathlib import Path
from typing import Any

import torch as th
from gymnasium import spaces
from PIL import Image
from stable_baselines3.common.logger import TensorBoardOutputFormat
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_carracing.agents import Agent
from sb3_carracing.callbacks.run_callback import RunCallback
from sb3_carracing.checks import whole_number
from sb3_carracing.drives import action_names, decision_of
from sb3_carracing.errors import UserError
from sb3_carracing.evaluation import VALIDATION_SEED
from sb3_carracing.pipelines import env_spec, is_car_racing
from sb3_carracing.recording import record
from sb3_carracing.runs import read_run

_ONLY_TENSORBOARD = ("stdout", "log", "json", "csv")
N_OBSERVATIONS = 64
"""Observations of a rollout whose densities are shown."""
PARAMETERS = {"beta": ("alpha", "beta"), "gaussian": ("mean", "std"), "categorical": ("probability",), "": ()}


class TensorBoardCallback(RunCallback):
    """Log to TensorBoard what scalars do not show; without TensorBoard it does nothing.

    After each rollout of an on-policy algorithm:

    - `actions/<name>`: histogram of the rollout's actions.
    - `density/<name>/<parameter>`: histograms of alpha and beta, of mean and std, or of the choices' probabilities.

    With `film_every_frames` also `films/validation`, a lap on the first validation track.

    Args:
        film_every_frames: frames between two films, such as `every_frames` of `ValidationCallback`; None for no films.
            They need a run folder of rl-zoo3 and a CarRacing.
        run_dir: folder of the run; None for the logger's.

    Raises:
        UserError: a number is out of range. At the start of training: no film can be made.
    """

    def __init__(self, film_every_frames: int | None = None, run_dir: str | Path | None = None) -> None:
        super().__init__(run_dir)
        self._film_every = None if film_every_frames is None else whole_number("film_every_frames", film_every_frames, 1)

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._last_frames = self._frames
        formats = self.logger.output_formats
        self._writer = next((each.writer for each in formats if isinstance(each, TensorBoardOutputFormat)), None)
        self._has_rollouts = isinstance(self.model, OnPolicyAlgorithm)
        if self._film_every is not None:
            # The run is being made by this process.
            self._run = read_run(self._folder, trust=True)
            if not is_car_racing(env_spec(self._run.pipeline.env_id)):
                raise UserError(f"film_every_frames is for CarRacing, and {self._run.pipeline.env_id} is another environment")

    def _on_step(self) -> bool:
        super()._on_step()
        every = self._film_every
        if every is not None and self._frames // every > self._last_frames // every:
            self._last_frames = self._frames
            self._film()
        return True

    def _on_rollout_end(self) -> None:
        if self._writer is None or not self._has_rollouts:
            return
        buffer: Any = self.model.rollout_buffer  # type: ignore[attr-defined]
        space = self.model.action_space
        if isinstance(space, spaces.Box):
            actions = th.as_tensor(buffer.actions).reshape(-1, int(th.tensor(space.shape).prod()))
            for name, column in zip(self._names("", actions.shape[1]), actions.T, strict=True):
                self._log(f"actions/{name}", column)
        else:
            self._log("actions/choice", th.as_tensor(buffer.actions).flatten())
        if isinstance(buffer.observations, dict):
            return
        observations = buffer.observations.reshape(-1, *buffer.observations.shape[-len(buffer.obs_shape) :])
        chosen = observations[:: max(1, len(observations) // N_OBSERVATIONS)]
        decisions = [decision_of(self.model, observation[None]) for observation in chosen]
        parameters = th.stack([th.as_tensor(decision.parameters) for decision in decisions])
        names = self._names(decisions[0].density, parameters.shape[1])
        for row, name in enumerate(names[: parameters.shape[1]]):
            for column, parameter in enumerate(PARAMETERS[decisions[0].density]):
                self._log(f"density/{name}/{parameter}", parameters[:, row, column])

    def _names(self, density: Any, n: int) -> list[str]:
        """Return CarRacing's names of n actions, or numbers where they mean something else."""
        spec = self.training_env.get_attr("spec")[0]
        if spec is not None and is_car_racing(spec):
            return action_names(density, n)
        return [f"action {number}" for number in range(n)]

    def _log(self, name: str, values: th.Tensor) -> None:
        self.logger.record(name, values, exclude=_ONLY_TENSORBOARD)

    def _film(self) -> None:
        if self._writer is None:
            return
        # Imported here, as SB3 does: training works without TensorBoard.
        from tensorboard.compat.proto.summary_pb2 import Summary

        agent = Agent("validation", self.model, self._run.algo, self._run.pipeline, None, self._folder)
        with tempfile.TemporaryDirectory() as folder:
            record(agent, Path(folder), [VALIDATION_SEED])
            (file,) = Path(folder).iterdir()
            with Image.open(file) as film:
                width, height = film.size
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=file.read_bytes())
        value = Summary.Value(tag="films/validation", image=image)
        self._writer._get_file_writer().add_summary(Summary(value=[value]), self.model.num_timesteps)
