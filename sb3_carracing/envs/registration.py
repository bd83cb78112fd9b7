"""The environment ids. Entry points are strings, so that registering loads neither pygame nor torch."""

from typing import Any, NamedTuple

import gymnasium as gym
from gymnasium.envs.registration import WrapperSpec

CAR_RACING = "sb3_carracing.envs.car_racing:CarRacing"
_WRAPPERS = "sb3_carracing.envs.wrappers"


class _Id(NamedTuple):
    kwargs: dict[str, Any]
    views: tuple[WrapperSpec, ...]


def _wrapper(name: str, module: str = _WRAPPERS, **kwargs: Any) -> WrapperSpec:
    return WrapperSpec(name, f"{module}:{name}", kwargs)


FRAME_LIMIT = _wrapper("FrameLimit")
_STACK_4 = _wrapper("FrameStackObservation", "gymnasium.wrappers", stack_size=4, padding_type="reset")

# Both source projects detect grass by the colors of every frame as gymnasium draws it, so they need the stock renderer.
_IDS = {
    "CarRacingFast-v3": _Id({}, ()),
    "CarRacingBlog-v3": _Id(
        {"renderer": "stock"},
        (_wrapper("ActionRepeat", frame_skip=8), _wrapper("Grayscale"), _STACK_4),
    ),
    "CarRacingIurin-v3": _Id(
        {"renderer": "stock", "continuous": False},
        (
            _wrapper("ActionRepeat", frame_skip=4),
            _wrapper("Grayscale"),
            _wrapper("Crop", top=0, bottom=84, left=6, right=90),
            _STACK_4,
        ),
    ),
}


def register_envs() -> None:
    """Register this package's ids with gymnasium; leave ids alone that are registered already.

    The time limit and the reward threshold are those of gymnasium's `CarRacing-v3`. `FrameLimit` keeps the limit in frames, as
    in the stock environment, even if a wrapper repeats actions.
    """
    for env_id, (kwargs, views) in _IDS.items():
        if env_id not in gym.registry:
            gym.register(
                env_id,
                entry_point=CAR_RACING,
                kwargs=kwargs,
                max_episode_steps=1000,
                reward_threshold=900,
                additional_wrappers=(FRAME_LIMIT, *views),
            )
