"""The part of CarRacing's physics that gymnasium computes in Python, faster and equal to the last bit.

`FastCar` takes the place of gymnasium's `Car`, `Ground` that of one body per tile, and `TileContacts` that of its contact
listener. The formulas and their order are gymnasium's (MIT license, see LICENSE.gymnasium in this folder).

Box2D's Python properties are slow: `wheel.linearVelocity[0]` creates a vector object and calls two methods. The vectors and
rotations of a body stay views of the body. So they are fetched once, at reset, and read through the getters of their classes.
"""

from collections.abc import Callable, Iterable, Sequence
from math import copysign, sqrt
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias

import Box2D
import numpy as np
from Box2D import _Box2D
from gymnasium.envs.box2d import car_dynamics
from gymnasium.envs.box2d import car_racing as stock
from numpy.typing import NDArray

SIZE = car_dynamics.SIZE
ENGINE_POWER = car_dynamics.ENGINE_POWER
WHEEL_INERTIA = car_dynamics.WHEEL_MOMENT_OF_INERTIA
FRICTION_LIMIT = car_dynamics.FRICTION_LIMIT
GRASS_LIMIT = FRICTION_LIMIT * 0.6
SLIP_FORCE = 205000 * SIZE * SIZE
BRAKE_FORCE = 15
LONGEST_TRACE = 30
WHEEL_CATEGORY = 0x0020  # gymnasium's: Box2D's filter for a wheel

Quad: TypeAlias = Sequence[tuple[float, float]]
"""The four corners of a tile."""

_x, _y = Box2D.b2Vec2.x.fget, Box2D.b2Vec2.y.fget
_sin, _cos = Box2D.b2Rot.s.fget, Box2D.b2Rot.c.fget
# The functions behind the methods and properties. Wrappers such as `angle.fget` would double the time.
_joint_angle, _set_motor_speed = _Box2D.b2RevoluteJoint___GetJointAngle, _Box2D.b2RevoluteJoint___SetMotorSpeed
_apply_force = _Box2D.b2Body_ApplyForceToCenter
_fixture_a, _fixture_b = _Box2D.b2Contact___GetFixtureA, _Box2D.b2Contact___GetFixtureB
_address, _contact_address = Box2D.b2Fixture.__hash__, Box2D.b2Contact.__hash__
_set_vertex = Box2D.b2PolygonShape.set_vertex
_set_vertex_count = Box2D.b2PolygonShape.vertexCount.fset
_vertices_are_set = Box2D.b2PolygonShape._b2PolygonShape__set_vertices_internal
_create_fixture = Box2D.b2Body._b2Body__CreateFixture
_STATIC = Box2D.b2BodyDef()


class Hull(Box2D.b2Body):  # type: ignore[misc]
    """A car's hull that fetches its position once: gymnasium reads it in every frame."""

    position = property(attrgetter("_position"), Box2D.b2Body.position.fset)


class FastCar(car_dynamics.Car):
    """A gymnasium `Car` with a faster `step`.

    Args:
        car: The car that gymnasium's `reset` has built. The new one takes over its bodies.
    """

    def __init__(self, car: car_dynamics.Car) -> None:
        vars(self).update(vars(car))
        # Per wheel: itself, its own attributes (omega, phase, gas, ...), its radius, the tiles that it touches, and handles to
        # its Box2D objects, which are valid until it is destroyed: body, joint, rotation, velocity.
        self._parts = [
            (wheel, vars(wheel), wheel.wheel_rad, wheel.tiles, wheel.this, wheel.joint.this, rotation.this, velocity.this)
            for wheel in self.wheels
            for rotation, velocity in [(wheel.transform.q, wheel.linearVelocity)]
        ]
        self._states = [vars(wheel) for wheel in self.wheels]
        self.hull._position = self.hull.position
        self.hull.__class__ = Hull

    def destroy(self) -> None:
        """Remove the bodies from the world, as gymnasium does."""
        self._parts, self._states = [], []
        super().destroy()  # type: ignore[no-untyped-call]

    def gas(self, gas: float) -> None:
        """Press the gas, clipped to [0, 1]. It rises by at most 0.1 per frame and drops at once."""
        # Plain floats are the same numbers as numpy's and several times as fast from here on.
        gas = 0.0 if gas < 0 else 1.0 if gas > 1 else float(gas)
        _, _, left, right = self._states
        more = gas - left["gas"]
        left["gas"] += 0.1 if more > 0.1 else more
        more = gas - right["gas"]
        right["gas"] += 0.1 if more > 0.1 else more

    def brake(self, b: float) -> None:
        """Press the brake, in [0, 1]."""
        one, two, three, four = self._states
        one["brake"] = two["brake"] = three["brake"] = four["brake"] = float(b)

    def steer(self, s: float) -> None:
        """Turn the front wheels towards `s`, from -1 (right) to 1 (left)."""
        left, right, _, _ = self._states
        left["steer"] = right["steer"] = float(s)

    def step(self, dt: float) -> None:
        """Steer, turn and slow the wheels and push the car with their friction, for `dt` [s]."""
        engine = dt * ENGINE_POWER
        for wheel, state, radius, tiles, body, joint, rotation, velocity in self._parts:
            steering = 50.0 * (state["steer"] - _joint_angle(joint))
            _set_motor_speed(joint, 3.0 if steering > 3.0 else -3.0 if steering < -3.0 else steering)

            grass = True
            limit = GRASS_LIMIT
            for tile in tiles:
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
            brake = state["brake"]
            if brake > 0:
                slower = BRAKE_FORCE * brake  # from 0.9 on the wheel locks
                omega = 0.0 if brake >= 0.9 or slower >= abs(omega) else omega - copysign(slower, omega)
            state["phase"] += omega * dt

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
        """Begin or lengthen the trace that a skidding wheel leaves on the ground."""
        particle = wheel.skid_particle
        if particle and particle.grass == grass and len(particle.poly) < LONGEST_TRACE:
            position = wheel.position.this
            particle.poly.append((_x(position), _y(position)))
        elif wheel.skid_start is None:
            wheel.skid_start = wheel.position
        else:
            wheel.skid_particle = self._create_particle(wheel.skid_start, wheel.position, grass)  # type: ignore[no-untyped-call]
            wheel.skid_start = None


class Tile:
    """A tile of the road, with everything that gymnasium puts on a Box2D body per tile."""

    __slots__ = ("__weakref__", "_fixture", "color", "idx", "road_friction", "road_visited", "touched")

    def __init__(self, idx: int, color: NDArray[np.float64], fixture: Any) -> None:
        self.idx = idx
        self.color = color
        self.touched = self.road_visited = False
        self.road_friction = 1.0
        self._fixture = fixture

    @property
    def __dict__(self) -> dict[str, float]:  # type: ignore[override]
        """What gymnasium's listener recognizes a tile by."""
        return {"road_friction": self.road_friction}

    @property
    def fixtures(self) -> list[Any]:
        """The tile's only fixture, as a list like that of gymnasium's tiles."""
        return [self._fixture]

    @property
    def userData(self) -> "Tile":
        """Itself, as in gymnasium. Stored, it would be for the garbage collector to find."""
        return self

    @property
    def body(self) -> "Tile":
        """Itself, where a `Touch` takes it for a fixture."""
        return self


class World(Box2D.b2World):  # type: ignore[misc]
    """A `b2World` that frees the shapes from which gymnasium's `Car` is made.

    `b2FixtureDef(shape=...)` takes a shape from Python, and nothing deletes it: 304 bytes for each of a car's eight fixtures,
    2.4 KB per episode. Box2D copies a shape into the fixture, so the shape may go as soon as the body exists.
    """

    building_car = False
    """Whether the incoming definitions belong to a car and are not used again."""

    def CreateDynamicBody(self, **kwargs: Any) -> Any:
        """Create a body as `b2World` does."""
        body = super().CreateDynamicBody(**kwargs)
        if self.building_car:
            fixtures = kwargs["fixtures"]
            for definition in fixtures if isinstance(fixtures, list) else [fixtures]:
                shape, definition.shape = definition.shape, None
                shape.thisown = True
        return body


class Ground:
    """One static body under all tiles of a track.

    Gymnasium has about 300 of them, which Box2D visits six times per frame. Contacts stay the same, since Box2D computes them
    from fixtures.

    Args:
        world: The `b2World` of a gymnasium `CarRacing`.
    """

    def __init__(self, world: Any) -> None:
        self._world = world
        self._body: Any = None
        self._shape = Box2D.b2PolygonShape(box=(1, 1))
        self.tiles: dict[int, Tile] = {}  # by the address of the fixture

    def lay(self, polygons: Sequence[Quad], colors: Iterable[NDArray[np.float64]], *, for_hull: bool) -> list[Tile]:
        """Make the tiles of a track.

        Args:
            polygons: The tiles' corners.
            colors: The tiles' colors.
            for_hull: Also report contacts of the hull. They only even out the color of a tile. Tiles are sensors, so motion,
                visits and rewards are the same without these contacts. The wheels reach nearly as far as the hull. Without
                the hull, a tile's shade changes (by 2 or 5 levels) half a unit later, or not at all if only the hull slides
                over it.
        """
        touched_by = 0xFFFF if for_hull else WHEEL_CATEGORY
        definition = Box2D.b2FixtureDef(shape=self._shape, isSensor=True, maskBits=touched_by)
        self._body = self._world.CreateBody(_STATIC)
        body, shape = self._body.this, self._shape.this
        for idx, (polygon, color) in enumerate(zip(polygons, colors, strict=True)):
            for i, (x, y) in enumerate(polygon):
                _set_vertex(shape, i, x, y)
            _set_vertex_count(shape, 4)
            _vertices_are_set(shape)
            fixture = _create_fixture(body, definition.this)
            self.tiles[_address(fixture)] = Tile(idx, color, fixture)
        return list(self.tiles.values())

    def clear(self) -> None:
        """Remove all tiles from the world."""
        if self._body is not None:
            self._world.DestroyBody(self._body)
        self._body = None
        self.tiles = {}


class Side(NamedTuple):
    """Stands in for the fixture of a wheel and for its body."""

    userData: Any

    @property
    def body(self) -> "Side":
        """Itself: one object is enough."""
        return self


class Touch(NamedTuple):
    """Stands in for a Box2D contact."""

    fixtureA: Tile  # stands in for its fixture, too
    fixtureB: Side


class TileContacts(stock.FrictionDetector):
    """Gymnasium's contact listener, called only for contacts that may change the score.

    Args:
        env: The gymnasium `CarRacing` that it counts tiles for.
        tiles: The tiles of its new track, by the addresses of their fixtures.
        on_touch: Called with the number of a tile whose color changes, because the car touches it for the first time.
    """

    def __init__(self, env: Any, tiles: dict[int, Tile], on_touch: Callable[[int], None] | None) -> None:
        super().__init__(env, env.lap_complete_percent)  # type: ignore[no-untyped-call]
        self._tiles = tiles
        self._wheels: dict[int, Side | None] = {}
        self._on_tile: dict[int, tuple[Tile, set[Tile]]] = {}  # tile and the wheel's tiles, by the address of the contact
        self._on_touch = on_touch

    def BeginContact(self, contact: Any) -> None:
        """Note that two fixtures touch. Box2D calls it."""
        tiles, wheels = self._tiles, self._wheels
        fixture, other = _fixture_a(contact), _fixture_b(contact)
        tile = tiles.get(_address(fixture))
        if tile is None:
            fixture, other = other, fixture
            tile = tiles.get(_address(fixture))
            if tile is None:
                return
        address = _address(other)
        if address not in wheels:
            owner = other.body.userData
            wheels[address] = Side(owner) if "tiles" in getattr(owner, "__dict__", {}) else None
        side = wheels[address]  # None for the hull; nothing but tiles has a wheel here
        if side is not None:
            touched = side.userData.tiles
            touched.add(tile)
            self._on_tile[_contact_address(contact)] = tile, touched
            # Only a first visit counts. The tile where a lap begins is left to gymnasium, whose versions treat it differently.
            if not tile.road_visited or tile.idx == 0:
                super().BeginContact(Touch(tile, side))  # type: ignore[no-untyped-call]
        if not tile.touched:
            tile.touched = True
            tile.color[:] = self.env.road_color
            if self._on_touch is not None:
                self._on_touch(tile.idx)

    def EndContact(self, contact: Any) -> None:
        """Note that two fixtures part. Box2D calls it."""
        pair = self._on_tile.pop(_contact_address(contact), None)
        if pair is not None:
            tile, touched = pair
            touched.remove(tile)
