"""The public `load_agent`: a trained agent with the environment that it drives in."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_carracing.agents import read_agent
from sb3_carracing.errors import UserError
from sb3_carracing.files import listing
from sb3_carracing.pipelines import Env, Pipeline, pipeline_env
from sb3_carracing.runs import is_run_folder, read_run, shipped_agents


@dataclass(frozen=True)
class AgentEnv:
    """Factory of the environment that an agent drives in: its run's view wrappers, without its training rules. Picklable.

    Attributes:
        pipeline: what stands between environment and agent; None if the agent's file does not say.
        agent: the agent, for messages.
    """

    pipeline: Pipeline | None
    agent: str

    def __call__(self, render_mode: str | None = None) -> Env:
        """Make the environment.

        Args:
            render_mode: None, "human" for a window, or "rgb_array".

        Raises:
            UserError: the agent's file does not say which environment it is for.
        """
        return pipeline_env(self._known(), renderer=None, render_mode=render_mode)()

    def wrap_vec_env(self, venv: VecEnv) -> VecEnv:
        """Stack and normalize a vectorized environment as the agent's run did; `evaluate` does this by itself."""
        return self._known().wrap_vec_env(venv)

    def _known(self) -> Pipeline:
        if self.pipeline is None:
            raise UserError(f"{self.agent} does not say which environment it drives in: pass env_id to load_agent")
        return self.pipeline


class LoadedAgent(NamedTuple):
    """An agent and its environment; unpack it as `model, make_env`."""

    model: BaseAlgorithm
    make_env: AgentEnv


def load_agent(
    source: str | Path,
    algo: str | None = None,
    device: str = "cpu",
    trust: bool = False,
    *,
    env_id: str | None = None,
) -> LoadedAgent:
    """Load a trained agent, and a factory of the environment that it drives in.

    The agent is loaded to act, not to train on: schedules and the replay buffer are left out.

    Args:
        source: the id of a shipped agent ("CarRacingFast-v3"), a run folder (its best agent, or else its last), or a .zip.
        algo: the algorithm of a .zip outside of a run folder, as rl-zoo3 names it; None means "beta_ppo". A run says it
            itself.
        device: torch device that the agent computes on.
        trust: also read what may run code: classes and wrappers from other packages, and pickled objects that SB3 does not
            write.
        env_id: the environment of a .zip outside of a run folder. A run says it itself.

    Returns:
        The model, with SB3's `predict`, and the factory.

    Raises:
        UserError: there is no such agent, it needs trust, an argument contradicts its run, or the algorithm is unknown or not
            installed.

    Example:
        >>> model, make_env = load_agent("CarRacingFast-v3")
        >>> scores = [result.score for result in evaluate(model, make_env, seeds=range(3))]
    """
    file = Path(source)
    folder = file.parent if file.suffix == ".zip" else file
    if file.suffix == ".zip" and not is_run_folder(folder):
        pipeline = Pipeline(env_id, trust=trust) if env_id is not None else None
        return LoadedAgent(read_agent(file, algo or "beta_ppo", device, trust), AgentEnv(pipeline, str(file)))
    if not folder.is_dir() and len(folder.parts) == 1 and str(folder) not in shipped_agents():
        raise UserError(
            f"there is no run folder {folder}, and no shipped agent of that id; shipped: {listing(sorted(shipped_agents()))}"
        )
    run = read_run(folder, trust)
    for name, given, known in (("algo", algo, run.algo), ("env_id", env_id, run.pipeline.env_id)):
        if given not in (None, known):
            raise UserError(f"{name} is {given!r}, and {run.folder} is a run of {known!r}: leave {name} out")
    agent = run.agent(file if file.suffix == ".zip" else run.agent_file(), device=device)
    return LoadedAgent(agent.model, AgentEnv(agent.pipeline, agent.name))
