"""CarRacing's physics in Python, faster and equal to the last bit: what gymnasium computes around Box2D's own step.

`FastCar` takes the place of gymnasium's `Car`, `Ground` that of a body for each tile, `TileContacts` that of its listener.

Box2D's objects answer slowly through their Python properties: `wheel.linearVelocity[0]` makes a vector object and
calls two methods. The vectors and rotations that a body hands out stay views of the body, so that they are asked for
once, at reset, and read through the getters of their classes. All arithmetic is done in gymnasium's order.
"""

from collections.abc import Callable
from math import copysign, sqrt
from typing import Any, NamedTuple

import Box2D
from gymnasium.envs.box2d import car_dynamics
from gymnasium.envs.box2d import car_racing as stock

SIZE = car_dynamics.SIZE
ENGINE_POWER = car_dynamics.ENGINE_POWER
WHEEL_INERTIA = car_dynamics.WHEEL_MOMENT_OF_INERTIA
FRICTION_LIMIT = car_dynamics.FRICTION_LIMIT
GRASS_LIMIT = FRICTION_LIMIT * 0.6
SLIP_FORCE = 205000 * SIZE * SIZE
BRAKE_FORCE = 15
LONGEST_TRACE = 30

_x, _y = Box2D.b2Vec2.x.fget, Box2D.b2Vec2.y.fget
_sin, _cos = Box2D.b2Rot.s.fget, Box2D.b2Rot.c.fget
_joint_angle = Box2D.b2RevoluteJoint.angle.fget
_set_motor_speed = Box2D.b2RevoluteJoint.motorSpeed.fset
_apply_force = Box2D.b2Body.ApplyForceToCenter
_fixture_a, _fixture_b = Box2D.b2Contact.fixtureA.fget, Box2D.b2Contact.fixtureB.fget
_address = Box2D.b2Fixture.__hash__
_STATIC = Box2D.b2BodyDef()


class WheelParts(NamedTuple):
    """A wheel and the handles of Box2D's objects that belong to it; valid until the wheel is destroyed."""

    wheel: Any
    state: dict[str, Any]  # the wheel's own attributes: omega, phase, gas, ...
    body: Any
    joint: Any
    rotation: Any
    velocity: Any


class FastCar(car_dynamics.Car):
    """A gymnasium `Car` with a faster `step`; it takes over the bodies of the car that it is made from.

    Args:
        car: as gymnasium's `reset` has built it; not to be used afterwards.
    """

    def __init__(self, car: car_dynamics.Car) -> None:
        vars(self).update(vars(car))
        self._parts = [
            WheelParts(
                wheel,
                vars(wheel),
                wheel.this,
                wheel.joint.this,
                wheel.transform.q.this,
                wheel.linearVelocity.this,
            )
            for wheel in self.wheels
        ]

    def touch_with_bumper_only(self) -> None:
        """Have Box2D look for tiles under the hull's foremost part and the wheels only, a tenth of all its work.

        Tiles are sensors, so that motion, visits and rewards stay as they are. The hull's touch does no more than
        even out a tile's colour, and its other parts lie behind the bumper or between the wheels: where the car slides
        or rolls backwards a tile may change its shade by 2 or 5 levels a few frames later than in gymnasium.
        """
        bumper = max(self.hull.fixtures, key=lambda fixture: max(y for _, y in fixture.shape.vertices))
        for fixture in self.hull.fixtures:
            if fixture != bumper:
                filtered = fixture.filterData
                filtered.maskBits = 0
                fixture.filterData = filtered

    def destroy(self) -> None:
        """Remove the bodies from the world, as gymnasium does."""
        self._parts = []
        super().destroy()  # type: ignore[no-untyped-call]

    def gas(self, gas: float) -> None:
        """Press the gas (clipped to 0 to 1); it rises by at most 0.1 a frame and drops at once."""
        # Plain floats: the same numbers as numpy's, and several times as fast from here on.
        gas = 0.0 if gas < 0 else 1.0 if gas > 1 else float(gas)
        for wheel in self.wheels[2:4]:
            more = gas - wheel.gas
            wheel.gas += 0.1 if more > 0.1 else more

    def brake(self, b: float) -> None:
        """Press the brake, 0 to 1."""
        b = float(b)
        for wheel in self.wheels:
            wheel.brake = b

    def steer(self, s: float) -> None:
        """Turn the front wheels towards `s`, -1 (right) to 1 (left)."""
        self.wheels[0].steer = self.wheels[1].steer = float(s)

    def step(self, dt: float) -> None:
        """Steer the wheels, turn and slow them, and push the car with their friction, for `dt` seconds."""
        engine = dt * ENGINE_POWER
        for wheel, state, body, joint, rotation, velocity in self._parts:
            steering = 50.0 * (state["steer"] - _joint_angle(joint))
            _set_motor_speed(joint, 3.0 if steering > 3.0 else -3.0 if steering < -3.0 else steering)

            grass = True
            limit = GRASS_LIMIT
            for tile in state["tiles"]:
                grip = FRICTION_LIMIT * tile.road_friction
                if grip > limit:
                    limit = grip
                grass = False

            sin, cos = _sin(rotation), _cos(rotation)
            v_x, v_y = _x(velocity), _y(velocity)

            omega = state["omega"]
            power = engine * state["gas"]
            if power:  # of rear wheels alone
                omega += power / WHEEL_INERTIA / (abs(omega) + 5.0)
                self.fuel_spent += power
            if state["brake"] > 0:
                omega = _braked(omega, state["brake"])
            state["phase"] += omega * dt

            radius = state["wheel_rad"]
            along = (-(-sin * v_x + cos * v_y) + omega * radius) * SLIP_FORCE
            across = -(cos * v_x + sin * v_y) * SLIP_FORCE
            force = sqrt(along * along + across * across)
            if force > 2.0 * limit:
                self._trace(wheel, grass)
            else:
                state["skid_start"] = state["skid_particle"] = None
            if force > limit:
                along = along / force * limit
                across = across / force * limit

            state["omega"] = omega - dt * along * radius / WHEEL_INERTIA
            _apply_force(body, (across * cos + along * -sin, across * sin + along * cos), True)

    def _trace(self, wheel: Any, grass: bool) -> None:
        """Lengthen the trace that a skidding wheel leaves on the ground, or begin one."""
        particle = wheel.skid_particle
        if particle and particle.grass == grass and len(particle.poly) < LONGEST_TRACE:
            particle.poly.append((wheel.position[0], wheel.position[1]))
        elif wheel.skid_start is None:
            wheel.skid_start = wheel.position
        else:
            wheel.skid_particle = self._create_particle(wheel.skid_start, wheel.position, grass)  # type: ignore[no-untyped-call]
            wheel.skid_start = None


def _braked(omega: float, brake: float) -> float:
    """Return a wheel's rotation [rad/s] after one frame of braking; from 0.9 on the wheel locks."""
    if brake >= 0.9:
        return 0.0
    slower = BRAKE_FORCE * brake
    return 0.0 if slower >= abs(omega) else omega - copysign(slower, omega)


class Tile:
    """A tile of the road, on which gymnasium's code puts what it otherwise puts on a Box2D body of its own."""

    def __init__(self, fixture: Any) -> None:
        self.fixtures = [fixture]


class Ground:
    """One static body under all tiles of a track, instead of some 300 that Box2D goes through six times a frame.

    What tiles touch, and when, is the same: Box2D looks at fixtures for that.

    Args:
        world: the `b2World` of a gymnasium `CarRacing`, which creates its tiles by `world.CreateStaticBody`.
    """

    def __init__(self, world: Any) -> None:
        self._world = world
        self._body: Any = None
        self.tiles: dict[int, Tile] = {}  # by the address of the fixture
        world.CreateStaticBody = self._create_tile

    def _create_tile(self, fixtures: Any) -> Tile:
        if self._body is None:
            self._body = self._world.CreateBody(_STATIC)
        fixture = self._body.CreateFixture(fixtures)
        tile = self.tiles[_address(fixture)] = Tile(fixture)
        return tile

    def clear(self) -> None:
        """Destroy all tiles."""
        if self._body is not None:
            self._world.DestroyBody(self._body)
        self._body = None
        self.tiles = {}


class Side(NamedTuple):
    """Stands in for a Box2D fixture in a contact, down to the data of its body."""

    userData: Any

    @property
    def body(self) -> "Side":
        """Itself: one object is enough."""
        return self


class Meeting(NamedTuple):
    """Stands in for a Box2D contact."""

    fixtureA: Side
    fixtureB: Side


class TileContacts(stock.FrictionDetector):
    """Gymnasium's contact listener, told only of contacts that may change the score, and telling of touched tiles.

    Args:
        env: the gymnasium `CarRacing` that it counts tiles for.
        tiles: of its new track, by the addresses of their fixtures.
        on_touch: called with a tile's number when the car touches it for the first time and its colour changes.
    """

    def __init__(self, env: Any, tiles: dict[int, Tile], on_touch: Callable[[int], None] | None) -> None:
        super().__init__(env, env.lap_complete_percent)  # type: ignore[no-untyped-call]
        self._tiles = tiles
        self._wheels: dict[int, Any] = {}
        self._on_touch = on_touch
        self._untouched = set(tiles.values())

    def BeginContact(self, contact: Any) -> None:
        """Be told by Box2D that two fixtures touch."""
        tile, wheel = self._tile_and_wheel(contact)
        if wheel is not None:
            # Only the first visit counts, and whatever a version of gymnasium makes of the tile where a lap begins.
            if tile.road_visited and tile.idx != 0:
                wheel.tiles.add(tile)
            else:
                super().BeginContact(Meeting(Side(tile), Side(wheel)))  # type: ignore[no-untyped-call]
        if tile is not None and tile in self._untouched:
            self._untouched.discard(tile)
            tile.color[:] = self.env.road_color
            if self._on_touch is not None:
                self._on_touch(tile.idx)

    def EndContact(self, contact: Any) -> None:
        """Be told by Box2D that two fixtures part."""
        tile, wheel = self._tile_and_wheel(contact)
        if wheel is not None:
            wheel.tiles.remove(tile)

    def _tile_and_wheel(self, contact: Any) -> tuple[Any, Any]:
        """Return the contact's tile and its wheel, which is None for the hull; nothing but tiles has a wheel here."""
        fixture = _fixture_b(contact)
        tile = self._tiles.get(_address(_fixture_a(contact)))
        if tile is None:
            tile = self._tiles.get(_address(fixture))
            if tile is None:
                return None, None
            fixture = _fixture_a(contact)
        address = _address(fixture)
        if address not in self._wheels:
            owner = fixture.body.userData
            self._wheels[address] = owner if "tiles" in getattr(owner, "__dict__", {}) else None
        return tile, self._wheels[address]
