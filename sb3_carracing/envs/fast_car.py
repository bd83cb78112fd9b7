"""CarRacing's physics in Python, faster and equal to the last bit: what gymnasium computes around Box2D."""

from collections.abc import Callable
from typing import Any

from gymnasium.envs.box2d import car_racing as stock


class TileContacts(stock.FrictionDetector):
    """Gymnasium's contact listener, which also tells of each tile that the car touches for the first time.

    Args:
        env: the gymnasium `CarRacing` that it counts tiles for.
        on_touch: called with a tile's number when its colour changes.
    """

    def __init__(self, env: Any, on_touch: Callable[[int], None] | None) -> None:
        super().__init__(env, env.lap_complete_percent)  # type: ignore[no-untyped-call]
        self._on_touch = on_touch
        self._untouched = set(range(len(env.road)))

    def _contact(self, contact: Any, begin: bool) -> None:
        super()._contact(contact, begin)  # type: ignore[no-untyped-call]
        for fixture in (contact.fixtureA, contact.fixtureB):
            index = getattr(fixture.body.userData, "idx", None)
            if index in self._untouched:
                self._untouched.discard(index)
                if self._on_touch is not None:
                    self._on_touch(index)
