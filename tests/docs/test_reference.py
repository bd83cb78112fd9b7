"""The reference pages list what there is."""

from pathlib import Path

import sb3_carracing
from sb3_carracing import BetaPPO
from sb3_carracing.ppo.policies import BETA_OPTIONS

DOCS = Path(__file__).parents[2] / "docs"


def test_log_keys(tmp_path: Path) -> None:
    from stable_baselines3.common.logger import configure

    model = BetaPPO("MlpPolicy", "Pendulum-v1", n_steps=8, batch_size=8, n_epochs=1, clip_range_vf=0.2, device="cpu")
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(16)
    model.logger.close()
    logged = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    page = (DOCS / "log_keys.md").read_text()
    assert "train/grad_norm" in logged
    assert [key for key in logged if f"{key.partition('/')[2]}`" not in page] == []


def test_options_of_policies() -> None:
    page = (DOCS / "policies.md").read_text()
    assert [name for name in BETA_OPTIONS if f"| `{name}` |" not in page] == []


def test_training_rules_and_yaml_keys() -> None:
    from sb3_carracing.envs.training_rules import TrainingRules
    from sb3_carracing.zoo.hyperparameters import _OF_RL_ZOO3

    for page, names in (("training_rules.md", [*TrainingRules({}, continuous=True).options]), ("yaml_keys.md", _OF_RL_ZOO3)):
        text = (DOCS / page).read_text()
        assert [name for name in names if f"`{name}`" not in text] == []


def test_public_names() -> None:
    page = (DOCS / "api.md").read_text()
    assert [name for name in sb3_carracing.__all__ if name != "__version__" and f"sb3_carracing.{name}\n" not in page] == []
