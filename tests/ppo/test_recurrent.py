"""Beta policies with an LSTM: their densities, their files, and that they learn what a policy without memory cannot."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from tasks import AnySpaces

pytest.importorskip("sb3_contrib")

from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy

from sb3_carracing.agents import read_agent
from sb3_carracing.errors import UserError
from sb3_carracing.ppo.distributions import BetaDistribution
from sb3_carracing.ppo.recurrent import BetaCnnLstmPolicy, BetaLstmPolicy, BetaMultiInputLstmPolicy, BetaRecurrentPPO

VECTOR = spaces.Box(-1.0, 1.0, (3,))
IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
ACTION = spaces.Box(np.array([-1.0, 5.0], np.float32), np.array([3.0, 6.0], np.float32))
SMALL: dict[str, Any] = {"n_steps": 32, "batch_size": 16, "n_epochs": 1, "device": "cpu", "seed": 0}
SMALL_LSTM = {"lstm_hidden_size": 8}
OPTIONS = {"parameterization": "softplus", "margin": 0.1, "n_lstm_layers": 2, "activation_fn": "relu", "net_arch": [8]}


def small(
    observations: Any = VECTOR, actions: Any = ACTION, policy: Any = "MlpLstmPolicy", **options: Any
) -> BetaRecurrentPPO:
    options["policy_kwargs"] = {**SMALL_LSTM, **options.get("policy_kwargs", {})}
    return BetaRecurrentPPO(policy, AnySpaces(observations, actions), **{**SMALL, **options})


def played(model: Any, observations: np.ndarray) -> np.ndarray:
    """Return the actions of an episode, deterministic ones first, then sampled ones with the same memory."""
    actions, state = [], None
    th.manual_seed(0)
    for deterministic in (True, False):
        for step, observation in enumerate(observations):
            start = np.array([step == 0 and deterministic])
            action, state = model.predict(observation, state=state, episode_start=start, deterministic=deterministic)
            actions.append(action)
    return np.array(actions)


@pytest.mark.parametrize(
    ("name", "observations", "policy_class"),
    [
        ("MlpLstmPolicy", VECTOR, BetaLstmPolicy),
        ("CnnLstmPolicy", IMAGE, BetaCnnLstmPolicy),
        ("MultiInputLstmPolicy", spaces.Dict({"vector": VECTOR, "image": IMAGE}), BetaMultiInputLstmPolicy),
    ],
)
def test_policies_learn_by_their_names(name: str, observations: Any, policy_class: Any) -> None:
    model = small(observations, policy=name).learn(64)  # AnySpaces refuses actions beyond the bounds
    assert type(model.policy) is policy_class
    assert isinstance(model.policy.action_dist, BetaDistribution)


@pytest.mark.parametrize("actions", [spaces.Discrete(3), spaces.MultiDiscrete([2, 3])], ids=str)
def test_other_actions_have_sb3s_distributions(actions: Any) -> None:
    model = small(actions=actions).learn(64)
    assert not isinstance(model.policy.action_dist, BetaDistribution)
    with pytest.raises(UserError, match="parameterization='mode' has no meaning"):
        small(actions=actions, policy_kwargs={"parameterization": "mode"})


@pytest.mark.parametrize("options", [{}, {"margin": 0.2}, {"enable_critic_lstm": False, "shared_lstm": True}], ids=str)
def test_the_update_sees_the_densities_of_the_rollout(options: dict[str, Any]) -> None:
    """Padded sequences with reset memories give the log-probabilities that were stored step by step, so the ratio is 1."""
    model = small(policy_kwargs=options, learning_rate=0.0, n_steps=64).learn(64)
    n_steps = 0
    policy: Any = model.policy
    minibatches: Any = model.rollout_buffer.get(16)
    for minibatch in minibatches:
        mask = minibatch.mask > 0.5
        arguments = (minibatch.observations, minibatch.actions, minibatch.lstm_states, minibatch.episode_starts)
        values, log_prob, entropy = policy.evaluate_actions(*arguments)
        th.testing.assert_close(log_prob[mask], minibatch.old_log_prob[mask], atol=1e-4, rtol=0)
        th.testing.assert_close(values.flatten()[mask], minibatch.old_values[mask], atol=1e-4, rtol=0)
        assert th.isfinite(log_prob).all(), "padding must not give NaN gradients"
        assert entropy is not None
        n_steps += int(mask.sum())
    assert n_steps == 64


def test_whole_sequences_give_what_sb3_contrib_computes_step_by_step() -> None:
    th.manual_seed(0)
    lstm, features = th.nn.LSTM(3, 5, 2), th.randn(4 * 6, 3)
    states = (th.randn(2, 4, 5), th.randn(2, 4, 5))
    for starts_at in ([(0, 0), (2, 0)], [(0, 0), (1, 3)], []):
        episode_starts = th.zeros(4, 6)
        for sequence, step in starts_at:
            episode_starts[sequence, step] = 1.0
        arguments = (features, states, episode_starts.flatten(), lstm)
        ours, theirs = (policy._process_sequence(*arguments) for policy in (BetaLstmPolicy, RecurrentActorCriticPolicy))
        th.testing.assert_close(ours, theirs)


def test_gaussian_options_are_refused() -> None:
    with pytest.raises(UserError, match="use_sde=True has no meaning with a Beta policy"):
        small(use_sde=True)
    with pytest.raises(UserError, match="log_std_init"):
        small(policy_kwargs={"log_std_init": -1.0})


def test_initial_mean() -> None:
    model = small(policy_kwargs={"initial_mean": [0.5, 5.2], "deterministic_action": "mean"})
    assert played(model, np.zeros((1, 3), np.float32))[0] == pytest.approx([0.5, 5.2], abs=0.02)


def test_a_learning_rate_that_falls_ends_at_zero() -> None:
    """The last rollout ends beyond the total; RecurrentPPO's rate is negative there."""
    model = small(learning_rate=lambda progress: 1e-3 * progress).learn(40)
    assert model.num_timesteps == 64
    assert model.policy.optimizer.param_groups[0]["lr"] == 0.0


def test_the_policies_run_in_sb3_contribs_own_algorithm() -> None:
    model = RecurrentPPO(BetaLstmPolicy, AnySpaces(VECTOR, ACTION), policy_kwargs=SMALL_LSTM, **SMALL).learn(64)
    assert isinstance(model.policy.action_dist, BetaDistribution)


class TestFiles:
    def test_a_loaded_agent_plays_as_the_saved_one(self, tmp_path: Path) -> None:
        model = small(policy_kwargs=OPTIONS).learn(64)
        policy: Any = model.policy
        policy.deterministic_action = "mean"
        model.save(tmp_path / "agent")
        assert not any(name.endswith((".pth", ".pkl")) for name in zipfile.ZipFile(tmp_path / "agent.zip").namelist())
        loaded = BetaRecurrentPPO.load(tmp_path / "agent", device="cpu")
        observations = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
        np.testing.assert_array_equal(played(loaded, observations), played(model, observations))
        assert loaded.policy.deterministic_action == "mean"
        acting = read_agent(tmp_path / "agent.zip", "beta_ppo_lstm")
        np.testing.assert_array_equal(played(acting, observations), played(model, observations))

    @pytest.mark.parametrize("actions", [ACTION, spaces.Discrete(3)], ids=str)
    def test_a_training_goes_on(self, tmp_path: Path, actions: Any) -> None:
        model = small(actions=actions).learn(64)
        model.save(tmp_path / "agent")
        loaded = BetaRecurrentPPO.load(tmp_path / "agent", env=model.get_env(), device="cpu")
        for key, value in model.policy.optimizer.state_dict()["state"].items():
            th.testing.assert_close(loaded.policy.optimizer.state_dict()["state"][key], value, rtol=0, atol=0)
        loaded.learn(64, reset_num_timesteps=False)
        assert loaded.num_timesteps == 128

    def test_weights_can_be_read_into_another_agent(self, tmp_path: Path) -> None:
        model = small().learn(64)
        model.save(tmp_path / "agent.zip")
        other = small(seed=1)
        other.set_parameters(str(tmp_path / "agent.zip"), device="cpu")
        observations = np.zeros((4, 3), np.float32)
        np.testing.assert_array_equal(played(other, observations), played(model, observations))

    def test_a_policy_by_itself(self, tmp_path: Path) -> None:
        policy = small(policy_kwargs=OPTIONS).learn(64).policy
        policy.save(str(tmp_path / "policy.zip"))
        loaded = BetaLstmPolicy.load(str(tmp_path / "policy.zip"), device="cpu")
        observations = np.zeros((4, 3), np.float32)
        np.testing.assert_array_equal(played(loaded, observations), played(policy, observations))

    def test_code_is_refused(self) -> None:
        stream = io.BytesIO()
        small().save(stream)
        content, changed = zipfile.ZipFile(stream), io.BytesIO()
        with zipfile.ZipFile(changed, "w") as archive:
            for name in content.namelist():
                archive.writestr(name, content.read(name).replace(b"sb3_carracing.ppo.recurrent.BetaLstmPolicy", b"os.system"))
        with pytest.raises(UserError, match=r"names the class os\.system"):
            BetaRecurrentPPO.load(changed)
