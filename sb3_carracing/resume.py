"""The state of a training, from which it can go on."""

import io

from stable_baselines3.common.base_class import BaseAlgorithm


def snapshot(model: BaseAlgorithm) -> bytes:
    """Return the bytes of an agent's zip file."""
    content = io.BytesIO()
    model.save(content)
    return content.getvalue()
