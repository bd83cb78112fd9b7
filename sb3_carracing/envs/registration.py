"""The table of environment ids; entry points are strings, so that registering loads neither pygame nor torch."""

from typing import Any, NamedTuple

import gymnasium as gym
from gymnasium.envs.registration import WrapperSpec

CAR_RACING = "sb3_carracing.envs.car_racing:CarRacing"
_WRAPPERS = "sb3_carracing.envs.wrappers"


class _Id(NamedTuple):
    kwargs: dict[str, Any]
    views: tuple[WrapperSpec, ...]


def _view(name: str, module: str = _WRAPPERS, **kwargs: Any) -> WrapperSpec:
    return WrapperSpec(name, f"{module}:{name}", kwargs)


_STACK_4 = _view("FrameStackObservation", "gymnasium.wrappers", stack_size=4, padding_type="reset")

# Both seeds judge grass by the colour of every frame's picture, as gymnasium draws it: hence the stock renderer.
_IDS = {
    "CarRacingFast-v3": _Id({}, ()),
    "CarRacingBlog-v3": _Id(
        {"renderer": "stock"},
        (_view("ActionRepeat", frame_skip=8), _view("Grayscale"), _STACK_4),
    ),
    "CarRacingIurin-v3": _Id(
        {"renderer": "stock", "continuous": False},
        (
            _view("ActionRepeat", frame_skip=4),
            _view("Grayscale"),
            _view("Crop", top=0, bottom=84, left=6, right=90),
            _STACK_4,
        ),
    ),
}


def register_envs() -> None:
    """Register this package's ids with gymnasium; ids that are registered already stay as they are.

    None of them carries `max_episode_steps`: gymnasium's TimeLimit counts steps, and a step here may be many frames.
    """
    for env_id, (kwargs, views) in _IDS.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=CAR_RACING, kwargs=kwargs, additional_wrappers=views)
