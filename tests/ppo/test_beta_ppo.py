"""BetaPPO against stock PPO, a reference implementation, hand calculation, and SB3's habits."""

import contextlib
import copy
import inspect
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from devices import NoFloat64, Uploads
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tasks import AnySpaces, ConstantTarget, Paid
from torch import nn

from sb3_carracing import BetaPPO
from sb3_carracing.ppo import distributions
from sb3_carracing.ppo.buffers import CompactRolloutBuffer
from sb3_carracing.ppo.distributions import BetaDistribution

Array = NDArray[np.float64]
VECTOR = spaces.Box(-1.0, 1.0, (3,))
ACTION = spaces.Box(np.array([-1.0, 0.0], dtype=np.float32), np.array([3.0, 0.5], dtype=np.float32))
SMALL: dict[str, Any] = {"n_steps": 64, "batch_size": 32, "n_epochs": 2, "device": "cpu", "seed": 0}


def small(env: Any = None, policy: Any = "MlpPolicy", **options: Any) -> BetaPPO:
    return BetaPPO(policy, env or AnySpaces(VECTOR, ACTION), **{**SMALL, **options})


def collect(model: BetaPPO) -> None:
    """Fill the rollout buffer once, as `learn` does."""
    _, callback = model._setup_learn(10**6, None)
    assert model.env is not None
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)


def weights(model: Any) -> dict[str, th.Tensor]:
    return {key: value.clone() for key, value in model.policy.state_dict().items()}


class Records(KVWriter):
    """Keeps every logged row. SB3 writes one before each update, so the first holds no `train/` values."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.rows.append(dict(key_values))

    def close(self) -> None:
        pass


def learned_rows(model: Any, n_steps: int, **options: Any) -> list[dict[str, Any]]:
    records = Records()
    model.set_logger(Logger(folder=None, output_formats=[records]))
    model.learn(n_steps, **options)
    return records.rows


# --- the same as stock PPO ------------------------------------------------------------------------------------


class TestSameAsStock:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"clip_range_vf": 0.1, "ent_coef": 0.01, "normalize_advantage": False, "max_grad_norm": 10.0},
            {"target_kl": 0.002, "learning_rate": 3e-3, "clip_range": lambda progress: 0.1 + 0.2 * max(progress, 0.0)},
            {"batch_size": 31, "n_epochs": 3},
        ],
        ids=["defaults", "clipped values", "target_kl and a schedule", "truncated minibatch"],
    )
    @pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
    def test_cartpole_ends_with_the_same_weights(self, options: dict[str, Any]) -> None:
        models, rows = [], []
        for algorithm in (PPO, BetaPPO):
            env = make_vec_env("CartPole-v1", n_envs=2, seed=3)
            model = algorithm("MlpPolicy", env, **{**SMALL, **options})
            rows.append(learned_rows(model, 700))
            models.append(weights(model))
        for key, value in models[0].items():
            assert th.equal(value, models[1][key]), key
        for stock, ours in zip(*rows, strict=True):
            for key in set(stock) - {"time/fps", "time/time_elapsed"}:
                assert ours[key] == pytest.approx(stock[key], rel=1e-5, abs=1e-7, nan_ok=True), key

    @pytest.mark.parametrize("action_space", [spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(3)], ids=str)
    def test_other_actions_too(self, action_space: spaces.Space[Any]) -> None:
        ours, stock = (
            weights(algorithm("MlpPolicy", AnySpaces(VECTOR, action_space), **SMALL).learn(128))
            for algorithm in (BetaPPO, PPO)
        )
        assert all(th.equal(ours[key], stock[key]) for key in stock)

    @pytest.mark.parametrize(("policy", "keys"), [("CnnPolicy", None), ("MultiInputPolicy", ("image", "vector"))])
    def test_images_and_dicts_too(self, policy: str, keys: tuple[str, str] | None) -> None:
        image = spaces.Box(0, 255, (1, 36, 36), dtype=np.uint8)
        space = image if keys is None else spaces.Dict(dict(zip(keys, (image, VECTOR), strict=True)))
        ours, stock = (
            weights(algorithm(policy, AnySpaces(space, spaces.Discrete(3)), **SMALL).learn(64)) for algorithm in (BetaPPO, PPO)
        )
        assert all(th.equal(ours[key], stock[key]) for key in stock)

    def test_a_gaussian_policy_too(self) -> None:
        """With SB3's own policy class the two algorithms are one."""
        from stable_baselines3.ppo import MlpPolicy

        ours, stock = (
            weights(algorithm(MlpPolicy, AnySpaces(VECTOR, ACTION), **SMALL).learn(128)) for algorithm in (BetaPPO, PPO)
        )
        assert all(th.equal(ours[key], stock[key]) for key in stock)

    def test_constructor_and_learn_take_the_same_arguments(self) -> None:
        for method in ("__init__", "learn"):
            ours, stock = (inspect.signature(getattr(a, method)).parameters for a in (BetaPPO, PPO))
            assert list(ours)[: len(stock)] == list(stock)
            for name, parameter in stock.items():
                if name != "tb_log_name":
                    assert ours[name].default == parameter.default, name
        assert inspect.signature(BetaPPO.learn).parameters["tb_log_name"].default == "BetaPPO"

    def test_log_keys_are_ppos_and_ours(self) -> None:
        env = make_vec_env("Pendulum-v1", n_envs=2, seed=0)
        options = {**SMALL, "clip_range_vf": 0.2}
        stock, ours = (set(learned_rows(algorithm("MlpPolicy", env, **options), 512)[-1]) for algorithm in (PPO, BetaPPO))
        extra = {"grad_norm", "concentration_mean", "concentration_max", "actions_at_bounds"}
        assert ours - stock == {f"train/{key}" for key in extra}
        assert stock - ours == {"train/std"}  # a Beta has no log_std


# --- one update against a reference ---------------------------------------------------------------------------


def reference_advantages(buffer: RolloutBuffer, last_value: float, last_done: bool, gamma: float, lam: float) -> Array:
    """Return sum_l (gamma lambda)^l delta_{t+l}, Schulman et al. 2016 eq. 16, each as its own sum; one environment."""
    rewards, values = (x.astype(np.float64).ravel() for x in (buffer.rewards, buffer.values))
    dones = np.append(buffer.episode_starts.ravel()[1:], last_done)
    next_values = np.append(values[1:], last_value)
    deltas = rewards + gamma * next_values * (1 - dones) - values
    advantages = np.zeros(len(rewards))
    for t in range(len(rewards)):
        for k in range(t, len(rewards)):
            advantages[t] += (gamma * lam) ** (k - t) * deltas[k]
            if dones[k]:
                break
    return advantages


def reference_policy(params: dict[str, th.Tensor], obs: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """Return alpha, beta and value of SB3's default network (two tanh layers of 64 each) and the default head."""

    def layer(name: str, x: th.Tensor) -> th.Tensor:
        return x @ params[f"{name}.weight"].T + params[f"{name}.bias"]

    pi = th.tanh(layer("mlp_extractor.policy_net.2", th.tanh(layer("mlp_extractor.policy_net.0", obs))))
    vf = th.tanh(layer("mlp_extractor.value_net.2", th.tanh(layer("mlp_extractor.value_net.0", obs))))
    raw = layer("action_net", pi)
    excess = th.exp(raw)
    return 1 + excess[:, :2], 1 + excess[:, 2:], layer("value_net", vf).ravel()


def reference_log_prob(alpha: th.Tensor, beta: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """Return log of u^(a-1) (1-u)^(b-1) / B(a, b) / width, summed over the two dimensions."""
    low, width = th.tensor([-1.0, 0.0], dtype=th.float64), th.tensor([4.0, 0.5], dtype=th.float64)
    u = (actions - low) / width
    log_b = th.lgamma(alpha) + th.lgamma(beta) - th.lgamma(alpha + beta)
    return ((alpha - 1) * u.log() + (beta - 1) * (1 - u).log() - log_b - width.log()).sum(1)


def reference_entropy(alpha: th.Tensor, beta: th.Tensor) -> th.Tensor:
    width = th.tensor([4.0, 0.5], dtype=th.float64)
    log_b = th.lgamma(alpha) + th.lgamma(beta) - th.lgamma(alpha + beta)
    psi = th.digamma
    each = log_b - (alpha - 1) * psi(alpha) - (beta - 1) * psi(beta) + (alpha + beta - 2) * psi(alpha + beta)
    return (each + width.log()).sum(1)


def reference_loss(params: dict[str, th.Tensor], data: dict[str, th.Tensor], options: dict[str, Any]) -> th.Tensor:
    """Return Schulman et al. 2017 eq. 9 negated, sample by sample."""
    alpha, beta, values = reference_policy(params, data["obs"])
    ratio = th.exp(reference_log_prob(alpha, beta, data["actions"]) - data["old_log_prob"])
    advantages = data["advantages"]
    if options.get("normalize_advantage", True):
        advantages = (advantages - advantages.mean()) / advantages.std()
    eps, terms = options["clip_range"], []
    for t in range(len(ratio)):
        away = ratio[t].item() - 1
        bounded = ratio[t] if abs(away) <= eps else 1 + math.copysign(eps, away)
        unclipped, clipped = ratio[t] * advantages[t], bounded * advantages[t]
        value = values[t]
        if options.get("clip_range_vf") is not None:
            old, reach = data["old_values"][t], options["clip_range_vf"]
            moved = value.item() - old.item()
            value = value if abs(moved) <= reach else old + math.copysign(reach, moved)
        error = th.as_tensor(value - data["returns"][t])
        value_loss = error**2
        if options.get("value_loss") == "huber":
            value_loss = error**2 / 2 if abs(error.item()) < 1 else error.abs() - 0.5
        terms.append(-(unclipped if unclipped < clipped else clipped) + options["vf_coef"] * value_loss)
    loss = th.stack(terms).mean() - options["ent_coef"] * reference_entropy(alpha, beta).mean()
    assert isinstance(loss, th.Tensor)
    return loss


class TestAgainstReference:
    """Plain gradient descent on the whole rollout: what the weights move by are the gradients."""

    OPTIONS: tuple[dict[str, Any], ...] = (
        {"ent_coef": 0.0, "vf_coef": 0.5, "clip_range": 0.2},
        {"ent_coef": 0.02, "vf_coef": 1.0, "clip_range": 0.05, "value_loss": "huber", "normalize_advantage": False},
        {"ent_coef": 0.01, "vf_coef": 0.5, "clip_range": 0.03, "clip_range_vf": 0.05},
    )

    @staticmethod
    def prepared(options: dict[str, Any], n_epochs: int, lr: float) -> tuple[BetaPPO, dict[str, th.Tensor]]:
        """Return a model with a full rollout, and the rollout in float64 as the reference reads it."""
        model = small(
            n_steps=48,
            batch_size=48,
            n_epochs=n_epochs,
            learning_rate=lr,
            max_grad_norm=float("inf"),
            gamma=0.9,
            gae_lambda=0.8,
            policy_kwargs={"optimizer_class": th.optim.SGD, "ortho_init": False},
            **options,
        )
        collect(model)
        buffer = model.rollout_buffer
        params = {key: value.double() for key, value in weights(model).items()}
        obs, actions = (th.as_tensor(x).double().flatten(0, 1) for x in (buffer.observations, buffer.actions))
        alpha, beta, values = reference_policy(params, obs)
        last_value = reference_policy(params, th.as_tensor(model._last_obs).double())[2]
        done = bool(model._last_episode_starts[0])  # type: ignore[index]
        advantages = th.as_tensor(reference_advantages(buffer, float(last_value), done, 0.9, 0.8))
        data = {
            "obs": obs,
            "actions": actions,
            "old_log_prob": reference_log_prob(alpha, beta, actions),
            "old_values": values,
            "advantages": advantages,
            "returns": advantages + values,
        }
        return model, data

    @pytest.mark.parametrize("options", OPTIONS, ids=["defaults", "huber", "value clipping"])
    def test_rollout(self, options: dict[str, Any]) -> None:
        model, data = self.prepared(options, 1, 0.1)
        buffer = model.rollout_buffer
        for ours, reference in [
            (buffer.log_probs, "old_log_prob"),
            (buffer.values, "old_values"),
            (buffer.advantages, "advantages"),
            (buffer.returns, "returns"),
        ]:
            np.testing.assert_allclose(ours.ravel(), data[reference], rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("options", OPTIONS, ids=["defaults", "huber", "value clipping"])
    def test_loss_and_gradients_of_one_step(self, options: dict[str, Any]) -> None:
        model, data = self.prepared(options, 1, 1.0)
        params = {key: value.double().requires_grad_() for key, value in weights(model).items()}
        loss = reference_loss(params, data, options)
        gradients = dict(zip(params, th.autograd.grad(loss, list(params.values())), strict=True))
        before = weights(model)
        model.train()
        logged = model.logger.name_to_value
        assert logged["train/loss"] == pytest.approx(float(loss.detach()), abs=1e-5)
        norm = th.stack([g.norm() for g in gradients.values()]).norm()
        assert logged["train/grad_norm"] == pytest.approx(float(norm), rel=1e-5)
        for key, after in weights(model).items():
            th.testing.assert_close((before[key] - after).double(), gradients[key], rtol=0, atol=1e-5, msg=key)

    @pytest.mark.parametrize("options", OPTIONS, ids=["defaults", "huber", "value clipping"])
    def test_weights_after_many_steps_with_clipping(self, options: dict[str, Any]) -> None:
        n_epochs, lr = 8, 0.1
        model, data = self.prepared(options, n_epochs, lr)
        params = {key: value.double() for key, value in weights(model).items()}
        start = copy.deepcopy(params)
        for _ in range(n_epochs):
            params = {key: value.detach().requires_grad_() for key, value in params.items()}
            gradients = th.autograd.grad(reference_loss(params, data, options), list(params.values()))
            params = {key: params[key].detach() - lr * g for key, g in zip(params, gradients, strict=True)}
        model.train()
        assert model.logger.name_to_value["train/clip_fraction"] > 0.01, "the test must reach the clipped region"
        for key, after in weights(model).items():
            assert float((after.double() - params[key]).abs().max()) < 1e-5, key
        assert max(float((start[key] - params[key]).abs().max()) for key in params) > 1e-2


IMAGE = spaces.Box(0, 255, (4, 96, 96), np.uint8)
BLOG: dict[str, Any] = {
    "features_extractor_class": "blog",
    "activation_fn": "relu",
    "ortho_init": False,
    "parameterization": "softplus",
}


def with_images(**options: Any) -> BetaPPO:
    """Return a small model with the blog's network."""
    policy_kwargs = {**BLOG, **options.pop("policy_kwargs", {})}
    return small(
        AnySpaces(IMAGE, ACTION), "CnnPolicy", **{"n_steps": 24, "batch_size": 24, **options}, policy_kwargs=policy_kwargs
    )


def reference_image_policy(params: dict[str, th.Tensor], obs: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """Return alpha, beta and value of the blog's network with the softplus head, written with torch's functions alone."""
    x = obs / 128 - 1
    for layer, stride in zip(range(0, 12, 2), (2, 2, 2, 2, 1, 1), strict=True):
        name = f"features_extractor.cnn.{layer}"
        x = th.relu(th.nn.functional.conv2d(x, params[f"{name}.weight"], params[f"{name}.bias"], stride))

    def layer_of(name: str, x: th.Tensor) -> th.Tensor:
        return x @ params[f"{name}.weight"].T + params[f"{name}.bias"]

    pi, vf = (th.relu(layer_of(f"mlp_extractor.{net}_net.0", x.flatten(1))) for net in ("policy", "value"))
    excess = th.log(1 + th.exp(layer_of("action_net", pi)))
    return 1 + excess[:, :2], 1 + excess[:, 2:], layer_of("value_net", vf).ravel()


class TestImagesAgainstReference:
    """As above, through the blog's network, in which bytes, layouts and types are handled for speed."""

    OPTIONS: ClassVar[dict[str, Any]] = {"ent_coef": 0.01, "vf_coef": 0.5, "clip_range": 0.2}

    def gradients(self, monkeypatch: pytest.MonkeyPatch, autocast: Any) -> list[tuple[float, dict[str, th.Tensor]]]:
        """Return loss and gradients of one update, BetaPPO's and the reference's in float64."""
        sgd = {"optimizer_class": th.optim.SGD}
        model = with_images(
            n_epochs=1, learning_rate=1.0, max_grad_norm=float("inf"), policy_kwargs=sgd, autocast=autocast, **self.OPTIONS
        )
        collect(model)
        buffer = model.rollout_buffer
        data = {
            key: th.as_tensor(np.array(value)).double().flatten(0, 1)
            for key, value in {
                "obs": buffer.observations,
                "actions": buffer.actions,
                "old_log_prob": buffer.log_probs,
                "advantages": buffer.advantages,
                "returns": buffer.returns,
            }.items()
        }
        # state_dict names the shared extractor three times.
        params = {key: x.double().requires_grad_() for key, x in weights(model).items() if not key.startswith(("pi_", "vf_"))}
        monkeypatch.setattr(sys.modules[__name__], "reference_policy", reference_image_policy)
        loss = reference_loss(params, data, self.OPTIONS)
        expected = dict(zip(params, th.autograd.grad(loss, list(params.values())), strict=True))
        before = weights(model)
        model.train()
        ours = {key: (before[key] - value).double() for key, value in weights(model).items() if key in params}
        return [(model.logger.name_to_value["train/loss"], ours), (float(loss.detach()), expected)]

    def test_loss_and_gradients(self, monkeypatch: pytest.MonkeyPatch) -> None:
        (loss, ours), (expected_loss, expected) = self.gradients(monkeypatch, None)
        assert loss == pytest.approx(expected_loss, abs=1e-5)
        for key, gradient in expected.items():
            th.testing.assert_close(ours[key], gradient, rtol=0, atol=1e-5, msg=key)

    def test_bfloat16_points_the_same_way(self, monkeypatch: pytest.MonkeyPatch) -> None:
        (loss, ours), (expected_loss, expected) = self.gradients(monkeypatch, "bfloat16")
        assert loss == pytest.approx(expected_loss, rel=0.02)
        for key, gradient in expected.items():
            assert float(th.nn.functional.cosine_similarity(ours[key].flatten(), gradient.flatten(), dim=0)) > 0.99, key


# --- advantages by hand ---------------------------------------------------------------------------------------


class TestAdvantagesByHand:
    """gamma = lambda = 1/2, every reward 1, every value 4, three steps an episode."""

    @staticmethod
    def advantages(terminates: bool, n_steps: int, rewards: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Array:
        env: gym.Env[Any, Any] = Paid(rewards, terminates)
        if not terminates:
            env = TimeLimit(env, len(rewards))
        model = small(env, n_steps=n_steps, batch_size=n_steps, gamma=0.5, gae_lambda=0.5)
        with th.no_grad():
            value_net = model.policy.value_net
            assert isinstance(value_net, nn.Linear)
            value_net.weight.zero_()
            value_net.bias.fill_(4.0)
        collect(model)
        np.testing.assert_allclose(model.rollout_buffer.returns, model.rollout_buffer.advantages + 4.0, rtol=1e-6)
        return model.rollout_buffer.advantages.ravel().astype(np.float64)

    def test_a_terminal_state_is_worth_nothing(self) -> None:
        # delta: -1, -1, then 1 - 4 = -3. Back from the end: -3, -1 - 3/4, -1 - 1.75/4.
        np.testing.assert_allclose(self.advantages(True, 6), [-1.4375, -1.75, -3.0] * 2)

    def test_a_time_limit_is_worth_the_state_it_cut(self) -> None:
        # delta is 1 + 4/2 - 4 = -1 throughout, and nothing flows across the episode's end.
        np.testing.assert_allclose(self.advantages(False, 6), [-1.3125, -1.25, -1.0] * 2)

    def test_a_rollout_that_stops_in_mid_episode_is_worth_its_next_state(self) -> None:
        np.testing.assert_allclose(self.advantages(True, 5), [-1.4375, -1.75, -3.0, -1.25, -1.0])

    def test_rewards_are_not_mixed_up(self) -> None:
        # delta: 0, 6, -5 by hand: r + 2 - 4, the last one r - 4.
        np.testing.assert_allclose(self.advantages(True, 3, (2.0, 8.0, -1.0)), [(6 - 5 / 4) / 4, 6 - 5 / 4, -5.0])


# --- training -------------------------------------------------------------------------------------------------


class TestTraining:
    @pytest.mark.parametrize("policy", ["MlpPolicy", "MultiInputPolicy"])
    def test_one_seed_one_result(self, policy: str) -> None:
        space = VECTOR if policy == "MlpPolicy" else spaces.Dict({"a": VECTOR, "b": spaces.Discrete(3)})
        first, second, other = (weights(small(AnySpaces(space, ACTION), policy, seed=seed).learn(192)) for seed in (5, 5, 6))
        assert all(th.equal(first[key], second[key]) for key in first)
        assert not all(th.equal(first[key], other[key]) for key in first)

    @pytest.mark.parametrize("autocast", [None, "bfloat16"])
    def test_one_seed_one_result_with_images(self, autocast: Any) -> None:
        first, second, other = (weights(with_images(seed=seed, autocast=autocast).learn(48)) for seed in (5, 5, 6))
        assert all(th.equal(first[key], second[key]) for key in first)
        assert not all(th.equal(first[key], other[key]) for key in first)

    @pytest.mark.parametrize(("autocast", "dtype"), [(None, th.float32), ("bfloat16", th.bfloat16)])
    def test_convolutions_compute_in_the_type_asked_for(self, autocast: Any, dtype: th.dtype) -> None:
        model, seen = with_images(autocast=autocast), set()
        for layer in model.policy.features_extractor.cnn:  # type: ignore[union-attr]
            layer.register_forward_hook(lambda *call: seen.add(call[-1].dtype))
        model.learn(24)
        assert seen == {dtype}
        assert model.rollout_buffer.observations.transpose(0, 1, 3, 4, 2).flags.c_contiguous, "channels lie side by side"

    @pytest.mark.parametrize("autocast", [None, "bfloat16"])
    def test_rollout_and_update_see_one_policy(self, autocast: Any) -> None:
        """Before the first step of an update nothing has changed: ratios of 1, up to the rounding of other batch sizes."""
        model = with_images(n_epochs=1, autocast=autocast)
        collect(model)
        model.train()
        assert model.logger.name_to_value["train/approx_kl"] < 1e-6
        assert {value.dtype for value in weights(model).values()} == {th.float32}

    @pytest.mark.parametrize("autocast", [None, "bfloat16"])
    @pytest.mark.parametrize("resumed", [False, True])
    def test_nothing_waits_for_the_device(self, monkeypatch: pytest.MonkeyPatch, resumed: bool, autocast: Any) -> None:
        """On torch's "meta" device whatever asks for a number raises; the metrics' one transfer comes after the last epoch."""
        logged = []
        monkeypatch.setattr(BetaPPO, "_log_update", lambda self, metrics, *ranges: logged.append(metrics))
        monkeypatch.setattr(th, "autocast", lambda *_: contextlib.nullcontext())  # there is none for "meta"
        for target_kl in (None, 0.01):
            model = with_images(device="meta", n_steps=6, batch_size=3, target_kl=target_kl, autocast=autocast)
            # `Module.to("meta")` has made new parameters, which the optimiser does not know.
            model.policy.optimizer = th.optim.Adam(model.policy.parameters(), eps=1e-5)
            if resumed:
                steps = {
                    n: {"step": th.ones(()), "exp_avg": th.zeros_like(p), "exp_avg_sq": th.zeros_like(p)}
                    for n, p in enumerate(model.policy.parameters())
                }
                optimizer = {**model.policy.optimizer.state_dict(), "state": steps}
                parameters: Any = {**model.get_parameters(), "policy.optimizer": optimizer}
                for state in steps.values():
                    state["step"] = state["step"].to("meta")  # as a file is read to the device
                with monkeypatch.context() as patched:
                    patched.setattr(th.Tensor, "cpu", lambda tensor: th.ones(tensor.shape))  # "meta" holds no numbers
                    model.set_parameters(parameters)
            model.set_logger(Logger(folder=None, output_formats=[]))
            for _ in range(6):
                model.rollout_buffer.add(
                    np.zeros((1, 4, 96, 96), np.uint8), np.full((1, 2), 0.3), np.ones(1), np.zeros(1), th.zeros(1), th.zeros(1)
                )
            if target_kl is None:
                model.train()
                with Uploads() as uploads:
                    model.train()
                # The rollout lies there already: one permutation an epoch, and minibatches send nothing.
                assert uploads.sizes == [6 * 8] * model.n_epochs
            else:
                with pytest.raises(RuntimeError, match="meta"):
                    model.train()
        assert len(logged) == 2
        assert {value.device.type for metrics in logged for values in metrics.values() for value in values} == {"meta"}

    @pytest.mark.parametrize("parameterization", ["softplus", "exp", "mode"])
    @pytest.mark.parametrize("device", ["cpu", "meta"])
    @pytest.mark.filterwarnings("ignore:You are trying to run BetaPPO on the GPU")
    def test_a_device_without_float64(self, monkeypatch: pytest.MonkeyPatch, device: str, parameterization: str) -> None:
        """Another device plays Apple's MPS: torch's "meta", and the CPU for what needs numbers on the host."""
        monkeypatch.setattr(distributions, "_exact_dtype", lambda device: th.float32)
        model = small(policy_kwargs={"parameterization": parameterization}, n_steps=6, batch_size=3, device=device)
        if device == "cpu":
            with NoFloat64(device):
                collect(model)
                model.train()
                model.predict(np.zeros(3, dtype=np.float32))
            assert np.isfinite(model.logger.name_to_value["train/concentration_mean"])
            return
        monkeypatch.setattr(BetaPPO, "_log_update", lambda *_: None)
        model.policy.optimizer = th.optim.Adam(model.policy.parameters(), eps=1e-5)
        model.set_logger(Logger(folder=None, output_formats=[]))
        for _ in range(6):
            model.rollout_buffer.add(
                np.zeros((1, 3), np.float32), np.full((1, 2), 0.3), np.ones(1), np.zeros(1), th.zeros(1), th.zeros(1)
            )
        with NoFloat64(device):
            model.train()
            with pytest.raises(TypeError, match="float64 tensor on meta"):
                th.zeros(1, dtype=th.float64).to(device)

    @pytest.mark.parametrize("parameterization", ["softplus", "exp", "mode"])
    def test_finds_a_constant_action(self, parameterization: str) -> None:
        model = BetaPPO(
            "MlpPolicy",
            make_vec_env(ConstantTarget, n_envs=4),
            n_steps=64,
            batch_size=128,
            n_epochs=10,
            learning_rate=0.01,
            gamma=0.0,
            seed=0,
            device="cpu",
            policy_kwargs={"parameterization": parameterization, "net_arch": [16]},
        )
        rows = learned_rows(model, 3000)
        for action in ("mean", "mode"):
            model.policy.deterministic_action = action  # type: ignore[assignment]
            played, _ = model.predict(np.zeros((1, 1), dtype=np.float32), deterministic=True)
            np.testing.assert_allclose(played[0], ConstantTarget.TARGET, atol=0.25)
        assert rows[-1]["train/concentration_mean"] > 1.5 * rows[1]["train/concentration_mean"]

    def test_target_kl_ends_the_update(self, capsys: pytest.CaptureFixture[str]) -> None:
        free, stopped = (
            small(AnySpaces(VECTOR, ACTION), learning_rate=0.01, n_epochs=20, target_kl=kl, verbose=1) for kl in (None, 0.01)
        )
        kls = []
        for model in (free, stopped):
            collect(model)
            old = copy.deepcopy(model.policy.state_dict())
            model.train()
            obs = th.as_tensor(model.rollout_buffer.observations).reshape(-1, 3)
            now = copy.copy(model.policy.get_distribution(obs))
            model.policy.load_state_dict(old)
            before = model.policy.get_distribution(obs)
            assert isinstance(before, BetaDistribution)
            assert isinstance(now, BetaDistribution)
            kls.append(before.kl(now).mean().item())
        assert free._n_updates == 20
        assert stopped._n_updates < 20
        assert kls[1] < 0.05 < kls[0]
        assert "Early stopping at step" in capsys.readouterr().out

    def test_schedules_follow_the_progress(self) -> None:
        model = small(learning_rate=lambda p: 1e-3 * p, clip_range=lambda p: 0.1 + p, clip_range_vf=lambda p: 2 + p)
        rows = learned_rows(model, 256)[1:]
        for row, left in zip(rows, [0.75, 0.5, 0.25], strict=True):
            assert row["train/learning_rate"] == pytest.approx(1e-3 * left)
            assert row["train/clip_range"] == pytest.approx(0.1 + left)
            assert row["train/clip_range_vf"] == pytest.approx(2 + left)

    def test_gradient_norm_is_logged_before_it_is_clipped(self) -> None:
        options = {"optimizer_class": th.optim.SGD}
        model = small(max_grad_norm=1e-3, policy_kwargs=options, n_epochs=1, batch_size=64, learning_rate=1.0)
        collect(model)
        before = weights(model)
        model.train()
        moved = th.stack([(before[key] - value).norm() for key, value in weights(model).items()]).norm()
        assert float(moved) == pytest.approx(1e-3, rel=1e-2)
        assert model.logger.name_to_value["train/grad_norm"] > 0.01

    def test_actions_at_bounds(self) -> None:
        model = small()
        collect(model)
        actions = model.rollout_buffer.actions
        actions[:] = [1.0, 0.25]
        actions[:16, 0, 0] = 2.97  # 0.75 % of the range from the upper bound
        actions[:16, 0, 1] = 0.0
        actions[16:32, 0, 1] = 0.006  # 1.2 % from the lower
        model.train()
        assert model.logger.name_to_value["train/actions_at_bounds"] == pytest.approx(32 / 128)

    def test_concentration_is_logged(self) -> None:
        model = small(n_epochs=1, batch_size=64, policy_kwargs={"max_concentration": 3.0})
        collect(model)
        model.train()
        logged = model.logger.name_to_value
        assert 2.9 < logged["train/concentration_mean"] <= logged["train/concentration_max"] <= 3.0 + 1e-6

    def test_vec_normalize(self, tmp_path: Path) -> None:
        env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=2, seed=0), gamma=0.9)
        model = small(env, gamma=0.9).learn(256)
        assert model.get_vec_normalize_env() is env
        model.save(tmp_path / "agent")
        env.save(str(tmp_path / "normalize.pkl"))
        plain = make_vec_env("Pendulum-v1", n_envs=2, seed=0)
        loaded = BetaPPO.load(tmp_path / "agent", env=VecNormalize.load(str(tmp_path / "normalize.pkl"), plain))
        loaded.learn(128)


# --- what SB3 users expect ------------------------------------------------------------------------------------


class TestErrorsAndWarnings:
    """Types and words are stock PPO's: both classes are asked."""

    @pytest.mark.parametrize("algorithm", [PPO, BetaPPO])
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"n_steps": 1}, r"`n_steps \* n_envs` must be greater than 1. Currently n_steps=1 and n_envs=1"),
            ({"batch_size": 1}, "`batch_size` must be greater than 1"),
            ({"clip_range_vf": 0.0}, "`clip_range_vf` must be positive, pass `None` to deactivate vf clipping"),
            ({"clip_range_vf": -1}, "`clip_range_vf` must be positive"),
        ],
    )
    def test_assertions(self, algorithm: Any, options: dict[str, Any], words: str) -> None:
        with pytest.raises(AssertionError, match=words):
            algorithm("MlpPolicy", AnySpaces(VECTOR, ACTION), **{**SMALL, **options})

    @pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
    def test_single_steps_are_fine_without_normalisation(self) -> None:
        small(n_steps=1, batch_size=1, normalize_advantage=False).learn(2)

    @pytest.mark.parametrize("algorithm", [PPO, BetaPPO])
    def test_truncated_minibatch_warns(self, algorithm: Any) -> None:
        with pytest.warns(UserWarning, match="mini-batch size of 60.*there will be a truncated mini-batch of size 4"):
            algorithm("MlpPolicy", AnySpaces(VECTOR, ACTION), **{**SMALL, "batch_size": 60})

    @pytest.mark.parametrize("algorithm", [PPO, BetaPPO])
    @pytest.mark.parametrize(
        ("policy", "env", "error", "words"),
        [
            ("Mlp", AnySpaces(VECTOR, ACTION), ValueError, "Policy Mlp unknown"),
            ("MlpPolicy", AnySpaces(spaces.Dict({"a": VECTOR}), ACTION), ValueError, "You must use `MultiInputPolicy`"),
            ("CnnPolicy", AnySpaces(VECTOR, ACTION), AssertionError, "You should use NatureCNN only with images"),
            (
                "MlpPolicy",
                AnySpaces(VECTOR, spaces.Dict({"a": ACTION})),
                AssertionError,
                "The algorithm only supports .* as action spaces",
            ),
        ],
    )
    def test_wrong_spaces(self, algorithm: Any, policy: str, env: Any, error: type[Exception], words: str) -> None:
        with pytest.raises(error, match=words):
            algorithm(policy, env, **SMALL)

    def test_gsde_is_refused_with_a_reason(self) -> None:
        with pytest.raises(ValueError, match=r"use_sde=True has no meaning with a Beta policy.*no such noise"):
            small(use_sde=True)

    def test_unknown_value_loss(self) -> None:
        with pytest.raises(ValueError, match="value_loss must be one of 'huber', 'mse', got 'l1'"):
            small(value_loss="l1")

    def test_unknown_autocast(self) -> None:
        with pytest.raises(ValueError, match="autocast must be one of 'bfloat16', got 'float16'"):
            small(autocast="float16")

    @pytest.mark.parametrize("options", [{"autocast": "float16"}, {"value_loss": "l1"}])
    def test_unknown_options_at_loading(self, tmp_path: Path, options: dict[str, Any]) -> None:
        small().save(tmp_path / "agent")
        with pytest.raises(ValueError, match="must be one of"):
            BetaPPO.load(tmp_path / "agent", **options)

    def test_autocast_of_a_foreign_policy(self) -> None:
        from stable_baselines3.ppo import MlpPolicy

        with pytest.raises(ValueError, match=r"autocast='bfloat16' needs a policy of sb3_carracing.*got ActorCriticPolicy"):
            small(policy=MlpPolicy, autocast="bfloat16")

    def test_model_saved_for_other_spaces(self, tmp_path: Path) -> None:
        small().save(tmp_path / "agent")
        with pytest.raises(ValueError, match="Action spaces do not match"):
            BetaPPO.load(tmp_path / "agent", env=AnySpaces(VECTOR, spaces.Box(-1.0, 1.0, (2,))))
        with pytest.raises(FileNotFoundError, match=r"nowhere\.zip"):
            BetaPPO.load(tmp_path / "nowhere")


def after(model: BetaPPO, n_steps: int, seed: int) -> dict[str, th.Tensor]:
    """Return the weights after more learning that starts from a fixed state of the generators and the environment."""
    model.set_random_seed(seed)
    env = model.get_env()
    assert env is not None
    env.seed(seed)
    model._last_obs = None
    model.learn(n_steps, reset_num_timesteps=False)
    return weights(model)


class TestFiles:
    def test_a_way_to_act_that_was_set_later_is_kept(self, tmp_path: Path) -> None:
        model = small(policy_kwargs={"deterministic_action": "mean"})
        obs = np.array([[0.5, -0.3, 0.2]], dtype=np.float32)
        for action in ("mode", "mean"):
            model.policy.deterministic_action = action  # type: ignore[assignment]
            model.save(tmp_path / "agent")
            loaded = BetaPPO.load(tmp_path / "agent", device="cpu")
            assert loaded.policy.deterministic_action == action
            saved, read = (m.predict(obs, deterministic=True)[0] for m in (model, loaded))
            np.testing.assert_array_equal(saved, read)

    def test_predictions_survive(self, tmp_path: Path) -> None:
        options = {"parameterization": "mode", "initial_mean": [0.0, 0.2], "deterministic_action": "mean"}
        model = small(policy_kwargs=options, value_loss="huber", clip_range_vf=0.3).learn(128)
        model.save(tmp_path / "agent")
        loaded = BetaPPO.load(tmp_path / "agent", device="cpu")
        obs = np.random.default_rng(0).uniform(-1, 1, (20, 3)).astype(np.float32)
        np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])
        assert loaded.value_loss == "huber"
        assert loaded.policy.deterministic_action == "mean"
        assert callable(loaded.clip_range_vf)
        assert loaded.num_timesteps == 128
        assert loaded._n_updates == model._n_updates

    def test_autocast_survives(self, tmp_path: Path) -> None:
        model = with_images(autocast="bfloat16")
        model.save(tmp_path / "agent")
        loaded, other = BetaPPO.load(tmp_path / "agent", device="cpu"), BetaPPO.load(tmp_path / "agent", autocast=None)
        obs = np.stack([IMAGE.sample() for _ in range(4)])
        ours, theirs, exact = (m.predict(obs, deterministic=True)[0] for m in (model, loaded, other))
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_allclose(exact, ours, atol=0.02)
        assert not np.array_equal(exact, ours)

    def test_training_goes_on_as_if_uninterrupted(self, tmp_path: Path) -> None:
        """Weights, optimiser, counters and schedules."""

        def build() -> BetaPPO:
            return small(learning_rate=lambda progress: 1e-3 * progress, clip_range=0.1)

        straight = build().learn(256)
        stopped = build().learn(256)
        stopped.save(tmp_path / "agent")
        loaded = BetaPPO.load(tmp_path / "agent", env=AnySpaces(VECTOR, ACTION), device="cpu")
        ours, theirs = after(loaded, 128, 9), after(straight, 128, 9)
        assert all(th.equal(ours[key], theirs[key]) for key in theirs)
        assert loaded.num_timesteps == straight.num_timesteps == 384

    def test_parameters(self) -> None:
        model, other = small(seed=1).learn(64), small(seed=2)
        parameters = model.get_parameters()
        assert set(parameters) == {"policy", "policy.optimizer"}
        other.set_parameters(parameters)  # type: ignore[arg-type]
        assert all(th.equal(value, weights(other)[key]) for key, value in weights(model).items())

    def test_set_env(self) -> None:
        model = small().learn(64)
        model.set_env(DummyVecEnv([lambda: AnySpaces(VECTOR, ACTION)]))
        model.learn(64, reset_num_timesteps=False)
        assert model.num_timesteps == 128
        with pytest.raises(ValueError, match="Observation spaces do not match"):
            model.set_env(AnySpaces(spaces.Box(-1.0, 1.0, (4,)), ACTION))

    def test_checkpoints_and_callbacks(self, tmp_path: Path) -> None:
        class Stop(BaseCallback):
            def _on_step(self) -> bool:
                return self.num_timesteps < 100

        callbacks = [CheckpointCallback(32, str(tmp_path)), Stop()]
        model = small().learn(1000, callback=callbacks, progress_bar=False)
        assert model.num_timesteps == 100
        assert sorted(path.name for path in tmp_path.glob("*.zip")) == [f"rl_model_{n}_steps.zip" for n in (32, 64, 96)]
        BetaPPO.load(tmp_path / "rl_model_64_steps.zip")

    def test_a_discrete_agent_of_stock_ppo_is_read(self, tmp_path: Path) -> None:
        env = AnySpaces(VECTOR, spaces.Discrete(3))
        PPO("MlpPolicy", env, **SMALL).learn(64).save(tmp_path / "agent")
        loaded = BetaPPO.load(tmp_path / "agent", env=env, device="cpu")
        loaded.learn(64)


class TestDropIn:
    def test_env_id_and_aliases(self) -> None:
        model = BetaPPO("MlpPolicy", "Pendulum-v1", **SMALL).learn(64)
        assert model.predict(np.zeros(3, dtype=np.float32))[0].shape == (1,)

    @pytest.mark.parametrize("make", [lambda: DummyVecEnv([lambda: AnySpaces(VECTOR, ACTION)] * 3)])
    def test_vectorised_predictions(self, make: Callable[[], DummyVecEnv]) -> None:
        model = BetaPPO("MlpPolicy", make(), **{**SMALL, "batch_size": 64}).learn(192)
        actions, states = model.predict(np.zeros((3, 3), dtype=np.float32), deterministic=True)
        assert actions.shape == (3, 2)
        assert states is None

    def test_own_storage_unless_another_is_named(self) -> None:
        assert isinstance(small().rollout_buffer, CompactRolloutBuffer)
        dicts = AnySpaces(spaces.Dict({"a": VECTOR}), ACTION)
        assert isinstance(small(dicts, "MultiInputPolicy").rollout_buffer, DictRolloutBuffer)
        assert type(small(rollout_buffer_class=RolloutBuffer).rollout_buffer) is RolloutBuffer

    def test_own_storage_and_sb3s_end_with_the_same_weights(self) -> None:
        ours, stock = (weights(with_images(rollout_buffer_class=kind).learn(48)) for kind in (None, RolloutBuffer))
        for key, value in stock.items():
            th.testing.assert_close(ours[key], value, rtol=0, atol=1e-5)

    def test_own_rollout_buffer_is_honoured(self) -> None:
        class Counting(RolloutBuffer):
            def __init__(self, *args: Any, label: str = "", **kwargs: Any):
                super().__init__(*args, **kwargs)
                self.label = label

        model = small(rollout_buffer_class=Counting, rollout_buffer_kwargs={"label": "mine"}).learn(64)
        assert isinstance(model.rollout_buffer, Counting)
        assert model.rollout_buffer.label == "mine"

    @pytest.mark.filterwarnings("ignore:rich is experimental")
    def test_progress_bar(self) -> None:
        small().learn(64, progress_bar=True)

    @pytest.mark.parametrize(("keep_memory", "device", "calls"), [(True, "cpu", 1), (False, "cpu", 0), (True, "meta", 0)])
    def test_malloc_is_touched_by_learn_alone(
        self, monkeypatch: pytest.MonkeyPatch, keep_memory: bool, device: str, calls: int
    ) -> None:
        called: list[bool] = []
        monkeypatch.setattr("sb3_carracing.ppo.beta_ppo.keep_freed_memory", lambda: called.append(True))
        model = small(keep_memory=keep_memory)
        assert not called
        model.device = th.device(device)
        model.learn(0)
        assert len(called) == calls

    def test_set_up_later(self) -> None:
        model = small(_init_setup_model=False)
        assert not hasattr(model, "policy")
        model._setup_model()
        model.learn(64)

    def test_untrained_actions_cover_the_range(self) -> None:
        """The start is nearly uniform in every dimension's own units."""
        model = small()
        obs = np.zeros((2000, 3), dtype=np.float32)
        actions, _ = model.predict(obs)
        unit = (actions - ACTION.low) / (ACTION.high - ACTION.low)
        assert np.all(np.abs(unit.mean(axis=0) - 0.5) < 0.03)
        assert np.all((unit.std(axis=0) > 0.2) & (unit.std(axis=0) < 0.29))


def test_a_decayed_learning_rate_never_turns_negative() -> None:
    """The last rollout ends beyond total_timesteps: stock PPO's linear schedule goes below zero there."""
    rates: list[float] = []

    def linear(progress_remaining: float) -> float:
        rates.append(1e-3 * progress_remaining)
        return rates[-1]

    model = BetaPPO("MlpPolicy", "Pendulum-v1", learning_rate=linear, n_steps=64, batch_size=64, n_epochs=1, seed=0)
    model.learn(100)
    assert model.num_timesteps == 128
    assert min(rates) == 0.0
    assert model.policy.optimizer.param_groups[0]["lr"] == 0.0
