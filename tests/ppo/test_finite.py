"""NaN and infinity end a training before anything is learned from them."""

import warnings
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tasks import AnySpaces

from sb3_carracing import BetaPPO
from sb3_carracing.errors import UserError
from sb3_carracing.ppo import beta_ppo
from sb3_carracing.ppo.finite import NonFiniteError, NonFiniteLossError

VECTOR = spaces.Box(-1.0, 1.0, (3,))
DICT = spaces.Dict({"speed": spaces.Box(-1.0, 1.0, (2,)), "picture": spaces.Box(0, 255, (3, 36, 36), np.uint8)})
BOX, DISCRETE = spaces.Box(-1.0, 1.0, (2,)), spaces.Discrete(3)


pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, about the poison

Change = Callable[[Any, float], Any]


class Poisoned(gym.Wrapper[Any, Any, Any, Any]):
    """Changes what the steps with the numbers `at` return; 0 is the first reset."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.at: Container[int] = ()
        self.change: Change = lambda *result: result
        self.n_steps = 0

    def reset(self, **kwargs: Any) -> Any:
        """Reset, changed if it is the first one of all."""
        observation, info = self.env.reset(**kwargs)
        return (self.change(observation, 0.0)[0], info) if self.n_steps == 0 and 0 in self.at else (observation, info)

    def step(self, action: Any) -> Any:
        """Step, changed if it is the one."""
        observation, reward, *rest = self.env.step(action)
        self.n_steps += 1
        if self.n_steps in self.at:
            observation, reward = self.change(observation, float(reward))
        return observation, reward, *rest


def poison(where: str, value: float) -> Change:
    def change(observation: Any, reward: float) -> Any:
        if where == "reward":
            return observation, value
        bad = observation[where] if isinstance(observation, dict) else observation
        bad[1] = value
        return observation, reward

    return change


def model_with(
    action_space: spaces.Space[Any] = BOX,
    observation_space: spaces.Space[Any] = VECTOR,
    normalize: bool = False,
    length: int = 7,
    at: Container[int] = (),
    change: Change = lambda *result: result,
    **options: Any,
) -> BetaPPO:
    """Return a model of three environments, of which the one with index 1 is poisoned."""
    envs = [Poisoned(AnySpaces(observation_space, action_space, length)) for _ in range(3)]
    envs[1].at, envs[1].change = at, change
    venv: Any = DummyVecEnv([lambda env=env: env for env in envs])  # type: ignore[misc]
    if normalize:
        venv = VecNormalize(venv, norm_obs_keys=["speed"] if isinstance(observation_space, spaces.Dict) else None)
    policy = "MultiInputPolicy" if isinstance(observation_space, spaces.Dict) else "MlpPolicy"
    settings: dict[str, Any] = {"n_steps": 8, "batch_size": 12, "n_epochs": 2, "device": "cpu", "seed": 0} | options
    return BetaPPO(policy, venv, **settings)


def state(model: BetaPPO) -> list[Any]:
    """Return weights and optimizer's tensors."""
    optimizer = model.policy.optimizer.state_dict()["state"].values()
    tensors = [*model.policy.state_dict().values(), *(value for part in optimizer for value in part.values())]
    return [tensor.clone() for tensor in tensors]


def same(before: list[Any], after: list[Any]) -> bool:
    return len(before) == len(after) and all(map(th.equal, before, after))


class Remember(BaseCallback):
    """Keeps the model's state at the start of the last rollout, and the running means after each good step."""

    def _on_rollout_start(self) -> None:
        self.state = state(self.model)  # type: ignore[arg-type]

    def _on_step(self) -> bool:
        normalize = self.model.get_vec_normalize_env()
        if normalize is not None:
            self.means = means(normalize)
        return True


def means(normalize: VecNormalize) -> list[Any]:
    observations = normalize.obs_rms.values() if isinstance(normalize.obs_rms, dict) else [normalize.obs_rms]
    return [np.copy(part) for rms in (normalize.ret_rms, *observations) for part in (rms.mean, rms.var, rms.count)]


class TestObservationsAndRewards:
    @pytest.mark.parametrize("action_space", [BOX, DISCRETE], ids=["box", "discrete"])
    @pytest.mark.parametrize(
        ("normalize", "space", "where", "named", "at", "value"),
        [
            (False, VECTOR, "", "observation", 9, np.nan),
            (False, VECTOR, "", "observation", 16, np.inf),  # the last step of the rollout
            (True, VECTOR, "", "observation", 9, np.inf),
            (True, VECTOR, "", "observation", 16, np.nan),
            (False, DICT, "speed", "observation 'speed'", 10, -np.inf),
            (True, DICT, "speed", "observation 'speed'", 10, np.nan),
            (False, VECTOR, "", "last observation", 14, np.inf),  # an episode's: the values at a time limit need it
            (True, DICT, "speed", "last observation 'speed'", 14, np.nan),
        ],
    )
    def test_an_observation_is_refused(
        self, action_space: Any, normalize: bool, space: Any, where: str, named: str, at: int, value: float
    ) -> None:
        """In the second rollout, so that there is an update to keep."""
        remember = Remember()
        model = model_with(action_space, space, normalize, at=[at], change=poison(where, value))
        with pytest.raises(
            NonFiniteError, match=rf"The {named} of environment 1 is {value} after the action .*step {3 * at},"
        ):
            model.learn(10_000, callback=remember)
        assert same(remember.state, state(model))
        if normalize:
            np.testing.assert_equal(means(model.get_vec_normalize_env()), remember.means)  # type: ignore[arg-type]

    @pytest.mark.parametrize("action_space", [BOX, DISCRETE], ids=["box", "discrete"])
    @pytest.mark.parametrize("normalize", [False, True], ids=["plain", "normalized"])
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_a_reward_is_refused(self, action_space: Any, normalize: bool, value: float) -> None:
        remember = Remember()
        model = model_with(action_space, normalize=normalize, at=[12], change=poison("reward", value))
        with pytest.raises(NonFiniteError, match=f"The reward of environment 1 is {value} after the action .* update 2"):
            model.learn(10_000, callback=remember)
        assert same(remember.state, state(model))
        if normalize:
            np.testing.assert_equal(means(model.get_vec_normalize_env()), remember.means)  # type: ignore[arg-type]

    @pytest.mark.parametrize("normalize", [False, True], ids=["plain", "normalized"])
    def test_the_first_reset_is_refused(self, normalize: bool) -> None:
        model = model_with(normalize=normalize, at=[0], change=poison("", np.nan))
        untouched = model_with(normalize=True).get_vec_normalize_env()
        with pytest.raises(NonFiniteError, match="The observation of environment 1 is nan"):
            model.learn(100)
        if normalize:
            assert untouched is not None
            np.testing.assert_equal(means(model.get_vec_normalize_env()), means(untouched))  # type: ignore[arg-type]

    def test_running_means_do_not_overflow(self) -> None:
        model = model_with(normalize=True, at=[4], change=poison("", 1e30))
        with pytest.raises(NonFiniteError, match="running means of VecNormalize overflow"):
            model.learn(100)
        assert np.isfinite(means(model.get_vec_normalize_env())[4]).all()  # type: ignore[arg-type]

    def test_returns_that_overflow_are_refused(self) -> None:
        model = model_with(at=range(9), change=poison("reward", 3e38), gamma=1.0, gae_lambda=1.0, length=50)
        with pytest.raises(NonFiniteError, match="The return of environment 1 is inf"):
            model.learn(100)

    def test_no_callback_sees_it_and_no_file_holds_it(self, tmp_path: Path) -> None:
        """Checkpoints at every step: all are from before."""
        checkpoints = CheckpointCallback(1, str(tmp_path), save_vecnormalize=True)
        model = model_with(normalize=True, at=[12], change=poison("", np.inf))
        with pytest.raises(NonFiniteError):
            model.learn(1000, callback=checkpoints)
        files = sorted(tmp_path.glob("*.zip"))
        assert len(files) == 11
        for file in files:
            BetaPPO.load(file)  # refuses what is not finite

    def test_what_the_note_says_works(self) -> None:
        model = model_with(normalize=True, at=[12], change=poison("", np.nan))
        with pytest.raises(NonFiniteError) as caught:
            model.learn(48)
        assert "`learn(..., reset_num_timesteps=False)` goes on" in caught.value.__notes__[0]
        before = state(model)
        model.learn(48, reset_num_timesteps=False)
        assert model.num_timesteps == 36 + 48
        assert not same(before, state(model))

    def test_other_callbacks_are_called_as_before(self) -> None:
        seen = []

        def see(local: dict[str, Any], _: Any) -> bool:
            seen.append(local["new_obs"])
            return len(seen) < 11

        assert model_with().learn(48, callback=see).num_timesteps == 33
        assert model_with().learn(24, callback=[Remember()]).num_timesteps == 24


class TestLosses:
    @pytest.fixture(params=["cpu", "as_on_a_gpu"])
    def found(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a GPU, nothing looks at a minibatch's gradient before the end of the update."""
        if request.param == "as_on_a_gpu":
            monkeypatch.setattr(beta_ppo, "check_before_step", lambda *_: None)

    @pytest.mark.parametrize("action_space", [BOX, DISCRETE], ids=["box", "discrete"])
    @pytest.mark.usefixtures("found")
    def test_rewards_too_large_for_float32_leave_the_weights(self, action_space: Any) -> None:
        remember = Remember()
        model = model_with(action_space, at=[12], change=poison("reward", 1e25))
        with pytest.raises(NonFiniteLossError, match=r"became inf|A weight became NaN") as caught:
            model.learn(10_000, callback=remember)
        assert "The largest return of the rollout is 1e+25" in str(caught.value)
        assert same(remember.state, state(model))
        assert model._n_updates == 2

    def test_the_first_bad_loss_is_named(self) -> None:
        model = model_with(at=[12], change=poison("reward", 1e25), batch_size=24)
        with pytest.raises(NonFiniteLossError, match="The value loss became inf in minibatch 1 of update 2"):
            model.learn(10_000)

    def test_the_optimizer_takes_no_step_with_a_bad_gradient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = model_with(at=[12], change=poison("reward", 1e25))
        step, steps = model.policy.optimizer.step, []

        def spied() -> Any:
            steps.append(
                all(th.isfinite(weight.grad).all() for weight in model.policy.parameters() if weight.grad is not None)
            )
            return step()

        monkeypatch.setattr(model.policy.optimizer, "step", spied)
        with pytest.raises(NonFiniteLossError):
            model.learn(10_000)
        assert len(steps) >= 4
        assert all(steps)

    def test_a_gradient_that_is_infinite_only_in_its_norm_is_refused(self) -> None:
        """Clipping would turn it to zero, update after update."""
        model = model_with()
        model.vf_coef = 1e30
        with pytest.raises(NonFiniteLossError, match="gradient's norm became inf"):
            model.learn(24)

    def test_weights_that_overflow_in_the_last_step_are_refused(self) -> None:
        model = model_with(batch_size=24, n_epochs=1)
        before = state(model)
        step = model.policy.optimizer.step

        def overflow() -> None:
            step()
            next(model.policy.parameters()).data[:] = np.inf

        model.policy.optimizer.step = overflow  # type: ignore[method-assign, assignment]
        with pytest.raises(NonFiniteLossError, match="weights' norm became inf at the end of update 1"):
            model.learn(24)
        assert same(before, state(model))

    def test_following_the_advice_works(self) -> None:
        model = model_with(at=[12], change=poison("reward", 1e25))
        with pytest.raises(NonFiniteLossError, match="scale the reward or use VecNormalize, else lower learning_rate"):
            model.learn(10_000)
        poisoned = model.env.envs[1]  # type: ignore[union-attr]
        poisoned.change = lambda observation, reward: (observation, 1e-25 * reward)
        before = state(model)
        model.learning_rate = 1e-4
        model.learn(48, reset_num_timesteps=False)
        assert not same(before, state(model))
        assert model.policy.optimizer.param_groups[0]["lr"] == 1e-4

    def test_an_interrupted_update_is_taken_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = model_with()
        model.learn(24)
        before = state(model)

        def interrupt() -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(model.policy.optimizer, "step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            model.learn(24)
        assert same(before, state(model))

    def test_lost_weights_are_not_saved(self, tmp_path: Path) -> None:
        model = model_with()
        model.save(tmp_path / "agent.zip")
        good = (tmp_path / "agent.zip").read_bytes()
        next(model.policy.parameters()).data[0] = np.nan
        with pytest.raises(UserError, match=r"agent.zip is not written: .* NaN or infinity"):
            model.save(tmp_path / "agent.zip")
        assert (tmp_path / "agent.zip").read_bytes() == good

    def test_a_good_training_is_the_same_with_and_without(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            guarded = model_with().learn(72)
        monkeypatch.setattr(beta_ppo, "check_before_step", lambda *_: None)
        monkeypatch.setattr(beta_ppo, "check_update", lambda *_: None)
        monkeypatch.setattr(beta_ppo, "with_finite_values", lambda _, callback: callback)
        monkeypatch.setattr(BetaPPO, "train", BetaPPO.train.__wrapped__)  # type: ignore[attr-defined]
        assert same(state(guarded), state(model_with().learn(72)))
