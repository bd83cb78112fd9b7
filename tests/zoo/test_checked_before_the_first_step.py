"""Hyperparameters and options: what is not valid is named before anything is made, and text is read as its number."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import rl_zoo3
import yaml
from refusals import refusal
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.callbacks import BaseCallback

from sb3_carracing.cli import main
from sb3_carracing.errors import UserError
from sb3_carracing.zoo import hyperparameters, manager
from sb3_carracing.zoo.register import register
from sb3_carracing.zoo.storage import shown

REPOSITORY = Path(__file__).parents[2]
TRAIN = ["train", "--env", "Pendulum-v1", "-f", "logs", "--eval-freq", "-1"]
SHORT = {"policy": "MlpPolicy", "n_timesteps": 64, "n_steps": 32, "batch_size": 32, "n_epochs": 1}
VALIDATION = "sb3_carracing.callbacks.ValidationCallback"
WRAPPERS = "sb3_carracing.envs.wrappers"


class Failing(BaseCallback):
    """Raises a library's error at the start of the training, or `when` a step count is reached."""

    def __init__(self, when: int = 0) -> None:
        super().__init__()
        self.when = when

    def _on_training_start(self) -> None:
        if not self.when:
            raise ValueError("a track is closed")

    def _on_step(self) -> bool:
        if self.num_timesteps == self.when:
            raise ValueError("the track is closed")
        return True


class Absorbing(gym.Wrapper[Any, Any, Any, Any]):
    """Takes any keyword and knows none."""

    def __init__(self, env: Any, **kwargs: Any) -> None:
        super().__init__(env)
        if kwargs:
            raise TypeError(f"got an unexpected keyword argument {next(iter(kwargs))!r}")


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    register()


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must exit with status 2 and one line; return the line."""
    capsys.readouterr()
    line: str
    (line,) = refusal(capsys, *arguments).err.splitlines()
    return line


def check(capsys: pytest.CaptureFixture[str], entry: dict[str, Any], *options: str) -> str:
    """Train an entry that is not valid; return the line and check that nothing is left."""
    Path("c.yml").write_text(yaml.safe_dump({"Pendulum-v1": SHORT | entry}))
    line = refused(capsys, *TRAIN, "-conf", "c.yml", *options)
    assert [path.name for path in Path().iterdir()] == ["c.yml"]
    return line


@pytest.mark.parametrize("algo", ["beta_ppo", "ppo"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("learning_rate", value) for value in ("fast", "lin_", "lin_x", "cos_0.1", -1e-3, float("nan"), [1e-3], True)),
        *(("ent_coef", value) for value in ("lin_0.01", "a", float("inf"))),
        *(("gamma", value) for value in ("a", 1.5, -0.1, None)),
        *(("batch_size", value) for value in (32.0, 0, "many", 1e-3)),
        *(("n_epochs", value) for value in (0, 1.5, None)),
        *(("target_kl", value) for value in ("x", 0, -1)),
        *(("n_envs", value) for value in (0, -2, 1.5, 10**9, "two")),
        *(("n_timesteps", value) for value in (0, -5, 0.5, float("inf"), "long")),
        *(("max_grad_norm", value) for value in (-1, 0, "x")),
        *(("clip_range", value) for value in (0, -0.1, "x_0.1")),
        *(("clip_range_vf", value) for value in (0, -1, "x")),
        *(("n_steps", value) for value in (0, -1, 2.5)),
        *(("frame_stack", value) for value in (0, "x", 1.5)),
        *(("normalize_advantage", value) for value in ("yes", 1)),
        *(("normalize", value) for value in ("maybe", 3, [True], {"norm_ops": True})),
        *(("policy", value) for value in (None, 3, "NoPolicy")),
        *(("policy_kwargs", value) for value in ("dict(net", 5, "dict(activation_fn=nn.Nothing)")),
    ],
)
def test_a_value_that_is_not_valid_is_named(capsys: pytest.CaptureFixture[str], algo: str, key: str, value: Any) -> None:
    line = check(capsys, {key: value}, "--algo", algo)
    assert key in line
    assert str(value).removeprefix("{'").split("'")[0] in line


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"n_stepps": 3}, "PPO got an unexpected keyword argument 'n_stepps'"),
        ({"verbose": 2}, "verbose is not a hyperparameter but a command-line option"),
        ({"policy_kwargs": {"net_arc": [3]}}, "policy_kwargs got an unexpected keyword argument 'net_arc'"),
        ({"policy_kwargs": {"optimizer_kwargs": {"epss": 1}}}, "optimizer_kwargs got an unexpected keyword argument 'epss'"),
        (
            {"policy_kwargs": {"features_extractor_kwargs": 3}},
            "features_extractor_kwargs must be a mapping",
        ),
        ({"policy_kwargs": {"net_arch": "big"}}, "net_arch must be sizes of layers"),
        ({"policy_kwargs": {"net_arch": {"pi": [0]}}}, "net_arch must be sizes of layers"),
        ({"policy_kwargs": {"activation_fn": 3}}, "activation_fn must be a class or its name, got 3"),
        ({"monitor_kwargs": {"info": 3}}, "monitor_kwargs got an unexpected keyword argument 'info'"),
        ({"env_kwargs": {"gg": 1}}, "Pendulum-v1 got an unexpected keyword argument 'gg'"),
        ({"callback": f"{VALIDATION}Callback"}, "has no attribute 'ValidationCallbackCallback'"),
        ({"callback": [{VALIDATION: {"every": 3}}]}, "unexpected keyword argument 'every'"),
        ({"callback": [{VALIDATION: {}}]}, "missing a required argument: 'every_frames'"),
        ({"callback": [{VALIDATION: {"every_frames": float("nan")}}]}, "every_frames"),
        ({"callback": [{VALIDATION: None}]}, "must be followed by a mapping of keywords, got None"),
        ({"callback": 3}, "callback must be a dotted path"),
        ({"env_wrapper": f"{WRAPPERS}.ScaleReward"}, "missing a required argument: 'scale'"),
        ({"env_wrapper": "ScaleReward"}, "cannot import 'ScaleReward'"),
        ({"env_wrapper": [{f"{WRAPPERS}.ActionRepeat": {"frame_skip": 0}}]}, "frame_skip"),
        ({"vec_env_wrapper": "no.such.Wrapper"}, "cannot import 'no.such.Wrapper'"),
    ],
)
def test_a_name_that_does_not_exist_is_named(capsys: pytest.CaptureFixture[str], entry: dict[str, Any], message: str) -> None:
    assert message in check(capsys, entry)


def test_names_of_classes_are_for_our_policies(capsys: pytest.CaptureFixture[str]) -> None:
    line = check(capsys, {"policy_kwargs": {"activation_fn": "relu"}}, "--algo", "ppo")
    assert "activation_fn must be a class (ActorCriticPolicy takes no names), got 'relu'" in line


def test_keywords_of_an_environment_that_hands_them_on(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--env", "CarRacingFast-v3", "--env-kwargs"]
    assert "unexpected keyword argument 'off_road'" in refused(capsys, *arguments, "off_road:3")
    assert "off_road_frames" in refused(capsys, *arguments, "off_road_frames:-1")
    assert "max_episode_steps" in refused(capsys, *arguments, "max_episode_steps:'x'")
    assert not list(Path().iterdir())


def test_a_rollout_that_no_memory_holds_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for algo in ("beta_ppo", "ppo"):
        assert "n_steps" in check(capsys, {"n_steps": 10**13}, "--algo", algo)


def test_text_is_read_as_its_number(capsys: pytest.CaptureFixture[str]) -> None:
    """YAML 1.1 reads 3e-4 as text."""
    text = (
        "Pendulum-v1: {policy: MlpPolicy, n_timesteps: 1e2, n_steps: '32', batch_size: 32, n_epochs: 1, learning_rate: 3e-4}"
    )
    Path("c.yml").write_text(text)
    main([*TRAIN, "-conf", "c.yml", "-params", "gamma:'99e-2'"])
    printed = capsys.readouterr().err
    for note in (
        "learning_rate: '3e-4' is text, read as the number 0.0003",
        "gamma: '99e-2' is text, read as the number 0.99",
        "n_steps: '32' is text, read as the number 32",
        "n_timesteps: '1e2' is text, read as the number 100",
    ):
        assert note in printed
    (run,) = Path("logs/beta_ppo").iterdir()
    config = dict(yaml.unsafe_load((run / "Pendulum-v1/config.yml").read_text()))
    assert (config["learning_rate"], config["gamma"], config["n_steps"], config["n_timesteps"]) == (3e-4, 0.99, 32, 100)


@pytest.mark.parametrize("folder", [REPOSITORY / "hyperparams", Path(rl_zoo3.__file__).parent / "hyperparams"])
def test_every_tuned_entry_is_valid(folder: Path) -> None:
    n_checked = 0
    for file in folder.glob("*.yml"):
        for env_id, entry in yaml.safe_load(file.read_text()).items():
            if file.stem not in ALGOS or (file.stem, env_id) == ("ppo_lstm", "default"):
                # rl-zoo3's entry names a policy that RecurrentPPO does not have.
                continue
            # Wrappers and callbacks of libraries that are not installed.
            parts = ("env_wrapper", "callback", "vec_env_wrapper")
            foreign = {name for name in parts if "sb3_carracing" not in str(entry.get(name))}
            numbers = hyperparameters.check(file.stem, {key: value for key, value in entry.items() if key not in foreign})
            assert not numbers, (file, env_id)
            n_checked += 1
    assert n_checked > 5


def test_an_error_of_a_library_is_bad_input_until_the_first_step(capsys: pytest.CaptureFixture[str]) -> None:
    callback = f"{__name__}.Failing"
    assert "a track is closed" in check(capsys, {"callback": callback})
    Path("c.yml").write_text(yaml.safe_dump({"Pendulum-v1": SHORT | {"callback": [{callback: {"when": 40}}]}}))
    with pytest.raises(ValueError, match="the track is closed") as raised:
        main([*TRAIN, "-conf", "c.yml"])
    assert not isinstance(raised.value, UserError)
    # What it has logged stays.
    assert Path("logs/beta_ppo/Pendulum-v1_1").is_dir()


def test_worker_processes_do_not_hide_what_an_environment_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    entry = {"env_wrapper": [{f"{WRAPPERS}.ActionRepeat": {"frame_skip": 0}}]}
    assert "frame_skip" in check(capsys, entry, "--vec-env", "subproc")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-n", "0"], "-n must be at least 1, or -1 for the default, got 0"),
        (["-n", "-5"], "-n must be at least 1, or -1 for the default, got -5"),
        (["--seed", "-5"], "--seed must be at least 0, or -1 for the default, got -5"),
        (["--num-threads", "0"], "--num-threads must be at least 1"),
        (["--eval-episodes", "0"], "--eval-episodes must be a whole number of at least 1, got 0"),
        (["--sampler", "random"], "--sampler is for a search: it goes with -optimize"),
        (["--n-trials", "3"], "--n-trials is for a search"),
        (["--storage", "sqlite:///s.db"], "go with --trial-id or -optimize"),
        (["--trial-id", "0"], "--trial-id needs --storage and --study-name"),
        (["-optimize", "--trial-id", "0"], "do not go with -optimize"),
        (["-optimize", "-n", "0"], "-n must be at least 1"),
        (["-optimize", "-tb", "tb"], "-tb does not go with -optimize"),
        (["-optimize", "--save-freq", "100"], "--save-freq does not go with -optimize"),
        (["--log-interval", "0"], "--log-interval must be at least 1, -1 for the default or -2 for no log, got 0"),
        (["--device", "cuda:77"], "--device cuda:77 cannot be used"),
        (["--device", "abacus"], "--device abacus cannot be used"),
    ],
)
def test_options_without_effect_are_refused_by_name(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert message in refused(capsys, *TRAIN, *arguments)
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-n", "0"], "--n-timesteps must be a whole number of at least 1, got 0"),
        (["--n-envs", "0"], "--n-envs must be a whole number of at least 1, got 0"),
        (["--exp-id", "-3"], "--exp-id must be a whole number of at least -1, got -3"),
        (["--load-best", "--load-checkpoint", "5"], "not allowed with argument"),
        (["--stochastic", "--deterministic"], "not allowed with argument"),
    ],
)
@pytest.mark.parametrize("command", ["enjoy", "record_video"])
def test_options_of_a_player_that_contradict_are_refused(
    capsys: pytest.CaptureFixture[str], command: str, arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([command, "--env", "CarRacingFast-v3", *arguments])
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_what_a_search_chooses_cannot_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    tune = ["tune", "--env", "Pendulum-v1", "-n", "512", "--n-evaluations", "1", "--n-trials", "1", "-params"]
    assert "-params gamma: the search chooses this" in refused(capsys, *tune, "gamma:0.9")
    assert "-params net_arch: the search chooses this" in refused(capsys, *tune, "policy_kwargs:dict(net_arch=[8])")
    Path("ppo.yml").write_text(yaml.safe_dump({"default": {"policy": "MlpPolicy", "n_timesteps": 512}}))
    assert "-params batch_size" in refused(capsys, *tune, "batch_size:64", "--algo", "ppo", "-conf", "ppo.yml")


@pytest.mark.parametrize(
    ("url", "printed"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:se@cr/et@host:5432/db?x=1", "postgresql://me:***@host:5432/db?x=1"),
        ("postgresql://me:s?e#c[r]et@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:secret", "postgresql://me:***"),
        ("me:secret@host/db", "me:***@host/db"),
        ("postgresql://host:5432/db?user=me&password=secret", "postgresql://host:5432/db?user=me&password=***"),
        ("postgresql://host:5432/db", "postgresql://host:5432/db"),
        ("sqlite:///a@b.db", "sqlite:///a@b.db"),
        ("logs/study.log", "logs/study.log"),
    ],
)
def test_no_part_of_a_password_is_printed(capsys: pytest.CaptureFixture[str], url: str, printed: str) -> None:
    assert shown(url) == printed
    if "se" in url:
        tune = ["tune", "--env", "Pendulum-v1", "-n", "512", "--n-evaluations", "1", "--best", "--study-name", "x"]
        line = refused(capsys, *tune, "--storage", url.replace("host", "127.0.0.1").replace("5432", "1"))
        assert not [part for part in ("secret", "se@", "cr/", "et@", "s?e") if part in line]


def test_no_file_of_a_run_holds_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """rl-zoo3 keeps the arguments and the command."""
    monkeypatch.setattr(manager, "_hyperparams_of_trial", lambda _: ({}, None))
    options = ["--storage", "postgresql://me:secret@host/db", "--study-name", "mine", "--trial-id", "0"]
    monkeypatch.setattr("sys.orig_argv", ["python", "-m", "sb3_carracing", *TRAIN, *options])
    Path("c.yml").write_text(yaml.safe_dump({"Pendulum-v1": SHORT}))
    main([*TRAIN, "-conf", "c.yml", *options])
    texts = [path.read_text() for path in Path("logs").rglob("*.*") if path.suffix in (".yml", ".txt")]
    assert sum("postgresql://me:***@host/db" in text for text in texts) == 2
    assert not [text for text in texts if "secret" in text]
