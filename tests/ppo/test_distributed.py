"""Several ranks learn what one process learns from the same minibatches, and agree on everything that they share."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from rank_processes import on_ranks
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tasks import AnySpaces

from sb3_carracing import BetaPPO
from sb3_carracing.errors import UserError
from sb3_carracing.ppo import distributed
from sb3_carracing.ppo.distributed import Group

N_ENVS, N_STEPS, BATCH_SIZE, N_UPDATES = 8, 12, 32, 10
BOX = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 3.0], np.float32))
VECTOR = spaces.Box(-1.0, 1.0, (3,))
IMAGE = spaces.Box(0, 255, (2, 36, 36), np.uint8)
DICT = spaces.Dict({"a": VECTOR, "b": spaces.Box(-1.0, 1.0, (2,))})

TASKS: dict[str, tuple[spaces.Space[Any], spaces.Space[Any], dict[str, Any]]] = {
    "box": (VECTOR, BOX, {}),
    "discrete, no normalization, huber": (
        VECTOR,
        spaces.Discrete(3),
        {"normalize_advantage": False, "value_loss": "huber", "clip_range_vf": 0.1},
    ),
    "dict": (DICT, BOX, {"ent_coef": 0.01}),
    "image": (IMAGE, BOX, {"n_epochs": 1, "policy_kwargs": {"features_extractor_kwargs": {"features_dim": 16}}}),
    "target_kl": (VECTOR, BOX, {"target_kl": 3e-4, "learning_rate": 3e-3}),
}


def learner(task: str, n_envs: int, device: str = "cpu") -> BetaPPO:
    observations, actions, options = TASKS[task]
    env = DummyVecEnv([lambda: AnySpaces(observations, actions)] * n_envs)
    policy = {"image": "CnnPolicy", "dict": "MultiInputPolicy"}.get(task, "MlpPolicy")
    options = {"n_epochs": 2, **options}
    model = BetaPPO(policy, env, n_steps=N_STEPS, batch_size=BATCH_SIZE, seed=5, device=device, **options)
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def rollout(task: str, update: int, model: BetaPPO) -> dict[str, Any]:
    """Return a rollout of all environments, by the names of the buffer's arrays, as if the model had played it."""
    observations, actions, _ = TASKS[task]
    rng = np.random.default_rng(update)
    size = (N_STEPS, N_ENVS)

    def samples(space: spaces.Space[Any]) -> Any:
        if isinstance(space, spaces.Dict):
            return {key: samples(part) for key, part in space.spaces.items()}
        if isinstance(space, spaces.Discrete):
            return rng.integers(space.n, size=(*size, 1))
        assert isinstance(space, spaces.Box)
        return (space.low + rng.random((*size, *space.shape)) * (space.high - space.low)).astype(space.dtype)

    played, chosen = samples(observations), samples(actions)
    flat = {key: part.reshape(-1, *part.shape[2:]) for key, part in played.items()} if isinstance(played, dict) else None
    with th.no_grad():
        inputs = model.policy.obs_to_tensor(flat if flat is not None else played.reshape(-1, *played.shape[2:]))[0]
        outputs = th.as_tensor(chosen, device=model.device).flatten(0, 1)
        outputs = outputs.flatten() if isinstance(actions, spaces.Discrete) else outputs
        values, log_probs, _ = model.policy.evaluate_actions(inputs, outputs)
    return {
        "observations": played,
        "actions": chosen,
        "log_probs": log_probs.cpu().numpy().reshape(size),
        "values": values.cpu().numpy().reshape(size),
        **{name: (rng.normal(size=size) + 2.0).astype(np.float32) for name in ("advantages", "returns")},
    }


def fill(buffer: Any, data: dict[str, Any], envs: range) -> None:
    buffer.reset()
    for name, values in data.items():
        if isinstance(values, dict):
            for key in values:
                buffer.observations[key][:] = values[key][:, envs]
        else:
            getattr(buffer, name)[:] = values[:, envs]
    buffer.pos, buffer.full = N_STEPS, True


def updated(task: str, device: str = "cpu") -> tuple[list[np.ndarray], dict[str, Any], int]:
    """Return weights, metrics and the number of updates of a rank."""
    group = distributed.current()
    model = learner(task, N_ENVS // group.size, device)
    for update in range(N_UPDATES):
        fill(model.rollout_buffer, rollout(task, update, model), distributed.share(N_ENVS))
        np.random.seed(100 * update + group.rank)  # noqa: NPY002
        model.train()
    return [p.detach().cpu().numpy() for p in model.policy.parameters()], dict(model.logger.name_to_value), model._n_updates


def updated_alone(task: str, size: int) -> tuple[list[np.ndarray], dict[str, Any], int]:
    """Return those of one process that is handed the unions of the ranks' minibatches."""
    model = learner(task, N_ENVS)
    shares = [learner(task, N_ENVS // size).rollout_buffer for _ in range(size)]

    def unions(batch_size: int) -> Any:
        parts = []
        for rank, share in enumerate(shares):
            np.random.set_state(states[rank])  # noqa: NPY002
            parts.append(list(share.get(batch_size // size)))
            states[rank] = np.random.get_state()  # noqa: NPY002
        return (joined(minibatches) for minibatches in zip(*parts, strict=True))

    model.rollout_buffer.get = unions  # type: ignore[assignment, method-assign]
    for update in range(N_UPDATES):
        data = rollout(task, update, model)
        fill(model.rollout_buffer, data, range(N_ENVS))
        states = []
        for rank, share in enumerate(shares):
            fill(share, data, range(rank * N_ENVS // size, (rank + 1) * N_ENVS // size))
            np.random.seed(100 * update + rank)  # noqa: NPY002
            states.append(np.random.get_state())  # noqa: NPY002
        model.train()
    return [p.detach().cpu().numpy() for p in model.policy.parameters()], dict(model.logger.name_to_value), model._n_updates


def joined(minibatches: tuple[Any, ...]) -> Any:
    fields: list[Any] = []
    for values in zip(*minibatches, strict=True):
        if isinstance(values[0], dict):
            fields.append({key: th.cat([value[key] for value in values]) for key in values[0]})
        else:
            fields.append(th.cat(values))
    return type(minibatches[0])(*fields)


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize(
    ("task", "size"),
    [
        ("box", 2),
        ("box", 4),
        ("discrete, no normalization, huber", 2),
        ("dict", 2),
        ("image", 2),
        ("target_kl", 2),
    ],
)
def test_ranks_learn_what_one_process_learns(task: str, size: int) -> None:
    alone, metrics, n_updates = updated_alone(task, size)
    assert n_updates < 2 * N_UPDATES if task == "target_kl" else n_updates == TASKS[task][2].get("n_epochs", 2) * N_UPDATES
    start = [parameter.detach().numpy() for parameter in learner(task, 1).policy.parameters()]
    assert max(np.abs(a - b).max() for a, b in zip(start, alone, strict=True)) > 1e-3, "nothing was learned"
    for weights, of_rank, updates in on_ranks(size, updated, task):
        for ours, theirs in zip(weights, alone, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
        assert updates == n_updates
        assert of_rank.keys() == metrics.keys()
        for key, value in metrics.items():
            assert of_rank[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key


@pytest.mark.gpu
@pytest.mark.skipif(not th.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("task", ["box", "image"])
def test_ranks_that_share_a_gpu_learn_what_one_process_learns(task: str) -> None:
    alone, _, _ = updated_alone(task, 2)
    for weights, _, _ in on_ranks(2, updated, task, "cuda"):
        for ours, theirs in zip(weights, alone, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


class Counting(gym.Env[Any, Any]):
    """Episodes of five steps whose observations depend on the seed; it remembers seeds and observations."""

    def __init__(self) -> None:
        self.observation_space, self.action_space = spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(-1.0, 1.0, (1,))
        self.seeds: list[int | None] = []
        self.seen: list[np.ndarray] = []

    def _observe(self) -> np.ndarray:
        self.seen.append((3.0 + self.np_random.normal(size=2)).astype(np.float32))
        return self.seen[-1]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._observe(), 1.0, self.steps == 5, False, {"is_success": True}


class Noting(BaseCallback):
    """Notes the steps, changes settings, and stops the training after `last` of them."""

    def __init__(self, last: int, every_rank: bool = False) -> None:
        super().__init__()
        self.last, self.every_rank, self.steps = last, every_rank, [0]

    def _on_step(self) -> bool:
        self.steps.append(self.num_timesteps)
        if not self.every_rank:
            model: Any = self.model
            model.learning_rate, model.clip_range, model.ent_coef = 0.01, 0.3, 0.02
        return self.num_timesteps < self.last


def trained(seed: int | None, last: int, batch_size: int = 16) -> dict[str, Any]:
    group = distributed.current()
    env = DummyVecEnv([lambda: Monitor(Counting())] * 2)
    normalize = VecNormalize(env)
    model = BetaPPO("MlpPolicy", normalize, n_steps=8, batch_size=batch_size, n_epochs=1, seed=seed, device="cpu")
    if seed is None:
        env.seed(7)
    callback, everywhere = Noting(last), Noting(10**6, every_rank=True)
    model.learn(96, [callback, everywhere])
    assert isinstance(normalize.obs_rms, RunningMeanStd)
    envs: list[Any] = [monitor.unwrapped for monitor in env.envs]
    return {
        "rank": group.rank,
        "steps": model.num_timesteps,
        "on this rank": (callback.steps, everywhere.steps),
        "seeds": [env.seeds[0] for env in envs],
        "seen": np.concatenate([env.seen for env in envs]),
        "means": (normalize.obs_rms.mean, normalize.obs_rms.var, normalize.obs_rms.count),
        "actions": model.rollout_buffer.actions.ravel(),
        "weights": [parameter.detach().numpy() for parameter in model.policy.parameters()],
        "settings": (model.policy.optimizer.param_groups[0]["lr"], model.ent_coef),
        "episodes": len(model.ep_info_buffer or ()),
        "successes": len(model.ep_success_buffer or ()),
    }


@pytest.mark.parametrize("seed", [3, None])
def test_what_the_ranks_share(seed: int | None) -> None:
    ranks = on_ranks(2, trained, seed, 10**6)
    assert [rank["seeds"] for rank in ranks] == ([[3, 4], [5, 6]] if seed is not None else [[7, 8], [9, 10]])
    assert [rank["steps"] for rank in ranks] == [96, 96]
    assert ranks[0]["on this rank"] == ([*range(0, 97, 4)],) * 2
    assert ranks[1]["on this rank"] == ([0], [*range(0, 97, 4)]), "rank 1 runs only the callback for every rank"
    for ours, theirs in zip(ranks[0]["weights"], ranks[1]["weights"], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [rank["settings"] for rank in ranks] == [(0.01, 0.02)] * 2, "those that a callback of rank 0 has set"
    assert not np.allclose(ranks[0]["actions"], ranks[1]["actions"])
    assert [rank["episodes"] for rank in ranks] == [16, 16]
    assert [rank["successes"] for rank in ranks] == [16, 16]
    # What an environment shows before SB3 resets it is not counted by VecNormalize.
    assert len({rank["means"][2] for rank in ranks}) == 1
    for rank in ranks:
        mean, var, count = rank["means"]
        assert count == pytest.approx(96 + 4, abs=1e-3)
        np.testing.assert_allclose(mean, ranks[0]["means"][0], rtol=1e-12)
        np.testing.assert_allclose(var, ranks[0]["means"][1], rtol=1e-12)


def merged_after(updates: int) -> tuple[Any, Any, float, np.ndarray]:
    from sb3_carracing.ppo.ranks import _RunningMeans

    group = distributed.current()
    normalize = VecNormalize(DummyVecEnv([Counting] * 2))
    means = _RunningMeans(group, normalize)
    rng = np.random.default_rng(group.rank)
    seen: list[np.ndarray] = []
    assert isinstance(normalize.obs_rms, RunningMeanStd)
    for _ in range(updates):
        for _ in range(3):
            seen.append(1000.0 * group.rank + 0.1 * rng.normal(size=(2, 2)))
            normalize.obs_rms.update(seen[-1])
        means.merge()
    return normalize.obs_rms.mean, normalize.obs_rms.var, normalize.obs_rms.count, np.concatenate(seen)


def test_merged_running_means_are_those_of_all_observations() -> None:
    ranks = on_ranks(3, merged_after, 4)
    expected = RunningMeanStd(shape=(2,))
    expected.update(np.concatenate([seen for *_, seen in ranks]))
    for mean, var, count, _ in ranks:
        np.testing.assert_allclose(mean, expected.mean, rtol=1e-9)
        np.testing.assert_allclose(var, expected.var, rtol=1e-6)
        assert count == pytest.approx(expected.count)


def test_a_callback_of_rank_0_stops_all_ranks() -> None:
    ranks = on_ranks(2, trained, 3, 40)
    assert [rank["steps"] for rank in ranks] == [64, 64], "at the end of the rollout, the second"
    assert ranks[0]["on this rank"][0][-1] == 40


def refused(seed: int, batch_size: int) -> str:
    with pytest.raises(UserError) as raised:
        trained(seed, 10**6, batch_size + (distributed.current().rank if seed == 1 else 0))
    return str(raised.value)


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_what_does_not_fit_is_refused_before_training() -> None:
    for answer in on_ranks(3, refused, 0, 16):
        assert answer == "batch_size must be a multiple of the number of ranks, got 16 for 3 ranks: use 1, 2, 4, 8, 16 ranks"
    for answer in on_ranks(2, refused, 1, 16):
        assert answer == "batch_size must be the same on all ranks, got 16, 17"


def test_shares_of_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert distributed.share(6) == range(6)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "1")
    assert distributed.share(6) == range(2, 4)
    with pytest.raises(UserError, match="n_envs must be a multiple of the number of ranks, got 4 for 3 ranks: use 1, 2, 4"):
        distributed.share(4)


@pytest.mark.parametrize("text", ["0", "-3", "ten", "nan"])
def test_a_timeout_that_is_no_time_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SB3_CARRACING_RANK_TIMEOUT", text)
    with pytest.raises(UserError, match=f"SB3_CARRACING_RANK_TIMEOUT must be a number of seconds above 0, got '{text}'"):
        distributed.timeout()


def test_one_rank_changes_nothing() -> None:
    group, tensor = Group(), th.ones(2)
    assert group.sum_(tensor) is tensor
    assert (group.same("a"), group.gather("a"), group.mean(0.1)) == ("a", ["a"], 0.1)
