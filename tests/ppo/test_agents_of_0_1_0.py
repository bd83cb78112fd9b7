"""Agents that release 0.1.0 saved act as they did: what their file leaves out has that release's default."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env

from sb3_carracing import BetaPPO
from sb3_carracing.errors import UserError
from sb3_carracing.ppo.policies import MlpPolicy

DATA = Path(__file__).parents[1] / "data"
AGENT, POLICY = DATA / "beta_ppo_0_1_0.zip", DATA / "beta_policy_0_1_0.pth"
# What 0.1.0 played, deterministic, with its defaults `softplus` and the mode.
OBS = np.array([[1.0, 0.0, 0.5], [-0.6, 0.8, -3.0], [0.0, -1.0, 6.0]], dtype=np.float32)
ACTIONS = np.array([[1.1931380033493042], [1.982533574104309], [-1.9354628324508667]], dtype=np.float32)


def test_an_agent_acts_as_it_did() -> None:
    agent = BetaPPO.load(AGENT, device="cpu")
    np.testing.assert_array_equal(agent.predict(OBS, deterministic=True)[0], ACTIONS)


def test_a_policy_acts_as_it_did() -> None:
    with pytest.raises(UserError, match="trust=True"):  # SB3 pickled a policy that was saved by itself
        MlpPolicy.load(str(POLICY), device="cpu")
    policy = MlpPolicy.load(str(POLICY), device="cpu", trust=True)
    np.testing.assert_array_equal(policy.predict(OBS, deterministic=True)[0], ACTIONS)


def test_it_acts_as_it_did_after_more_training_and_another_save(tmp_path: Path) -> None:
    agent = BetaPPO.load(AGENT, make_vec_env("Pendulum-v1", 2), device="cpu", learning_rate=0.0)
    agent.learn(64)
    agent.save(tmp_path / "again.zip")
    again = BetaPPO.load(tmp_path / "again.zip", device="cpu")
    np.testing.assert_array_equal(again.predict(OBS, deterministic=True)[0], ACTIONS)


def test_the_arguments_it_was_made_with_may_be_repeated() -> None:
    BetaPPO.load(AGENT, device="cpu", policy_kwargs={"net_arch": [4]})
    with pytest.raises(ValueError, match="The specified policy kwargs do not equal"):
        BetaPPO.load(AGENT, device="cpu", policy_kwargs={"net_arch": [5]})


@pytest.mark.parametrize("parameterization", ["softplus", "exp"])
def test_a_new_agent_keeps_its_parameterization(parameterization: str, tmp_path: Path) -> None:
    options = {} if parameterization == "exp" else {"parameterization": parameterization}
    agent = BetaPPO("MlpPolicy", "Pendulum-v1", n_steps=8, batch_size=8, policy_kwargs={"net_arch": [4], **options}, seed=1)
    agent.save(tmp_path / "agent.zip")
    loaded = BetaPPO.load(tmp_path / "agent.zip", device="cpu")
    action_dist: Any = loaded.policy.action_dist
    assert action_dist.parameterization == parameterization
    np.testing.assert_array_equal(loaded.predict(OBS, deterministic=True)[0], agent.predict(OBS, deterministic=True)[0])
