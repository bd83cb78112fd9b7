"""Tiny budgets for examples and code blocks, whatever they ask for."""

import functools
from collections.abc import Sequence
from typing import Any

import pytest


def shrink_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Play rollouts of 8 steps; an example's rollout is 2048."""
    from stable_baselines3 import PPO

    from sb3_carracing import BetaPPO

    for algorithm in (PPO, BetaPPO):
        original = algorithm.__init__

        # `load` reads the signature.
        @functools.wraps(original)
        def short(self: Any, *args: Any, original: Any = original, **kwargs: Any) -> None:
            original(self, *args, **{**kwargs, "n_steps": 8, "batch_size": 8, "n_epochs": 1})

        monkeypatch.setattr(algorithm, "__init__", short)


def shrink_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train for 16 steps, evaluate on one episode, and shrink rollouts."""
    from stable_baselines3.common import evaluation as sb3_evaluation
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

    from sb3_carracing import evaluation

    shrink_rollouts(monkeypatch)
    learn, evaluate_policy, evaluate = OnPolicyAlgorithm.learn, sb3_evaluation.evaluate_policy, evaluation.evaluate

    def learn_briefly(self: Any, total_timesteps: int, *args: Any, **kwargs: Any) -> Any:
        return learn(self, min(total_timesteps, 16), *args, **kwargs)

    def evaluate_once(model: Any, env: Any, n_eval_episodes: int = 10, *args: Any, **kwargs: Any) -> Any:
        return evaluate_policy(model, env, 1, *args, **kwargs)

    def evaluate_one_track(model: Any, make_env: Any, seeds: Sequence[int], **kwargs: Any) -> Any:
        return evaluate(model, make_env, seeds[:1], **kwargs)

    monkeypatch.setattr(OnPolicyAlgorithm, "learn", learn_briefly)
    monkeypatch.setattr(sb3_evaluation, "evaluate_policy", evaluate_once)
    monkeypatch.setattr(evaluation, "evaluate", evaluate_one_track)
