"""Random YAML entries and command lines: a command works, or it exits with status 2 and one line."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sb3_carracing.cli import main
from sb3_carracing.cli.table import COMMANDS

# Fixed examples, so that a run of the tests repeats; FUZZ_EXAMPLES=1000 searches among new ones.
N_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
SETTINGS = settings(
    max_examples=N_EXAMPLES or 120,
    derandomize=not N_EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def words(text: str) -> list[str]:
    return text.split()


TINY: dict[str, Any] = {
    "policy": "MlpPolicy",
    "n_timesteps": 16,
    "n_envs": 1,
    "n_steps": 8,
    "batch_size": 8,
    "n_epochs": 1,
    "policy_kwargs": {"net_arch": [4]},
}
# Sizes between these and the absurd ones would be valid and take long.
NUMBERS: st.SearchStrategy[Any] = st.sampled_from(
    [-1, 0, 1, 2, 3, 16, 0.0, 0.5, 1.0, 1.5, -0.1, 1e-8, float("nan"), float("inf"), float("-inf"), 10**15, 1e300, True, False]
)
TEXTS = st.sampled_from(
    [
        *words("""
        auto lin_0.1 lin_ lin_x 1e-3 nan None True dict(net_arch=[4]) dict( exp relu nature MlpPolicy CnnPolicy
        os.system a.b.C .. {} %s -1 normal ornstein-uhlenbeck sb3_carracing.envs.wrappers.ScaleReward
        gymnasium.wrappers.FlattenObservation sb3_carracing.callbacks.ProgressCallback
        stable_baselines3.common.callbacks.EvalCallback collections.OrderedDict
        """),
        "",
        " ",
        "[64, 64]",
        "é\u2028",
        "x" * 500,
    ]
)
SCALARS = st.one_of(st.none(), NUMBERS, TEXTS)
OPTIONS = ["net_arch", "activation_fn", "features_extractor_class", "ortho_init", "initial_mean", "deterministic_action"]
OPTIONS += ["parameterization", "margin", "optimizer_class", "optimizer_kwargs", "log_std_init", "share_features_extractor"]
MAPPINGS = st.dictionaries(st.one_of(st.sampled_from(["scale", "frame_skip", *OPTIONS]), TEXTS), SCALARS, max_size=2)
VALUES = st.one_of(SCALARS, st.lists(st.one_of(SCALARS, MAPPINGS), max_size=3), MAPPINGS)
KEYS = [*TINY, "learning_rate", "gamma", "gae_lambda", "clip_range", "clip_range_vf", "normalize_advantage", "ent_coef"]
KEYS += ["vf_coef", "max_grad_norm", "use_sde", "sde_sample_freq", "target_kl", "stats_window_size", "value_loss", "autocast"]
KEYS += ["keep_memory", "normalize", "frame_stack", "env_wrapper", "vec_env_wrapper", "callback", "env_kwargs", "noise_type"]
KEYS += ["noise_std", "monitor_kwargs", "rollout_buffer_class", "rollout_buffer_kwargs", "seed", "device", "no_such_key"]
ENTRIES = st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=3)

WORDS = st.sampled_from(
    [
        *words("""
        0 1 2 -1 1.5 nan 1e3 x - -- Pendulum-v1 CarRacing-v3 no-such-v0 a:b-v0 ppo beta_ppo cpu cuda:9 dummy subproc
        logs missing.zip missing/folder a.zip a.yml gamma:0.9 gamma:os score é n_envs:0 true [1 {}
        """),
        "",
        "policy:'x'",
        "x" * 300,
        "normalize:'{'",
    ]
)
FLAGS = st.sampled_from(
    [
        *words("""
        --env --algo -n --n-timesteps --seed --device --num-threads -i -f -conf -params --env-kwargs --vec-env
        --eval-freq --eval-episodes --save-freq --log-interval --verbose --trial-id -tb -o --out --tracks --episodes
        --renderer --trust --load-best --load-last-checkpoint --load-checkpoint --exp-id --folder --actions --best
        --last --fps --study --study-name --storage --n-trials --no-such-option --help -P --uuid --stochastic
        --no-render --x --y --labels
        """),
    ]
)
LONG = {"demo", "train_and_report"}
"""Commands that drive whole laps without any argument."""
ARGUMENTS = st.lists(st.one_of(FLAGS, WORDS), max_size=6)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty working folder."""
    before = Path.cwd()
    folder = tmp_path_factory.mktemp("fuzz")
    os.chdir(folder)
    yield folder
    os.chdir(before)


def check_ending(arguments: list[str]) -> None:
    """Run a command in this process and check how it ends."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as end:
            status = end.code
        else:
            status = 0
    said = err.getvalue()
    assert status in (0, None, 2), (status, said)
    assert "Traceback" not in said + out.getvalue()
    if status == 2:
        assert "error: " in said or said.startswith("sb3_carracing: ") or "\nsb3_carracing: " in said, said


@pytest.mark.slow
@SETTINGS
@given(changes=ENTRIES)
@example(changes={"noise_type": None})
@example(changes={"rollout_buffer_kwargs": {"scale": None}})
@example(changes={"env_kwargs": -1})
@example(changes={"callback": [None]})
@example(changes={"policy": "collections.OrderedDict"})
def test_train_with_any_yaml_entry(runs: Path, changes: dict[str, Any]) -> None:
    (runs / "entry.yml").write_text(yaml.safe_dump({"Pendulum-v1": TINY | changes}, allow_unicode=True))
    steps = ["-n", "16"] if "n_timesteps" in changes else []
    check_ending(["train", "--env", "Pendulum-v1", "-conf", "entry.yml", "--eval-freq", "-1", "--device", "cpu", *steps])


@pytest.mark.slow
@SETTINGS
@given(command=st.sampled_from([*sorted(COMMANDS.keys() - LONG), "", "no_such_command"]), arguments=ARGUMENTS)
def test_any_command_line(runs: Path, command: str, arguments: list[str]) -> None:
    (runs / "a.zip").write_bytes(b"no zip")
    (runs / "a.yml").write_text("Pendulum-v1: 3\n")
    # What is valid must end soon, on any of the ways to say so.
    short = ["--env", "Pendulum-v1", "-n", "16", "-params", "n_steps:8", "batch_size:8"] if command == "train" else []
    check_ending([command, *short, *arguments])
