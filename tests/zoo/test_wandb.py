"""rl-zoo3's `--track` in W&B's offline mode."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = """\
Pendulum-v1:
  policy: MlpPolicy
  n_timesteps: 256
  n_envs: 1
  n_steps: 128
  batch_size: 64
  callback:
  - sb3_carracing.callbacks.ProgressCallback
  - sb3_carracing.callbacks.TensorBoardCallback
"""


@pytest.mark.slow
def test_scalars_and_histograms_reach_wandb(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    (tmp_path / "config.yml").write_text(CONFIG)
    train = "train --env Pendulum-v1 -conf config.yml --eval-freq -1 --seed 1 --track --wandb-project-name test"
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)}
    subprocess.run(
        [sys.executable, "-m", "sb3_carracing", *train.split()], cwd=tmp_path, env=environment, check=True, timeout=300
    )
    (stored,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    content = stored.read_bytes()
    for name in (b"train/approx_kl", b"train/concentration_mean", b"rollout/score", b"density/action 0/alpha"):
        assert name in content
