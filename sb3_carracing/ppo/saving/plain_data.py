"""Python values as JSON and arrays, and back.

Numbers, texts, lists and dicts with text as keys are written as they are. Everything else is an object with the key `$`,
whose value says what it is: `{"$": "tuple", "items": [...]}`. Arrays stand beside the JSON, by name.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_carracing.errors import UserError
from sb3_carracing.ppo.saving.named_classes import ClassFinder, dotted_name
from sb3_carracing.ppo.saving.schedules import schedule_as_data, schedule_from_data

TAG = "$"
MAX_DEPTH = 40
MAX_ELEMENTS = 1 << 24
"""Elements of the largest array that a file may ask for without holding it, such as a Box of equal bounds."""

BIT_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")


UNREADABLE = (
    *(TypeError, ValueError, KeyError, AttributeError, IndexError),
    *(OverflowError, MemoryError, RecursionError, AssertionError),
)
"""What Python, numpy and gymnasium raise for values that do not fit."""


def problem(error: Exception) -> str:
    """Return what one of `UNREADABLE` says, on one line."""
    text = " ".join(str(error).split())
    return f"there is no {text}" if isinstance(error, KeyError) else text or type(error).__name__


class NotDataError(TypeError):
    """A value that cannot be written without pickle."""


class Encoder:
    """Turns values into JSON data and collects their arrays in `arrays`."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}

    def __call__(self, name: str, value: Any) -> Any:
        """Return a value as JSON data; `name` is the name of its arrays.

        Raises:
            NotDataError: it holds an object of an unknown kind.
        """
        return self._encode(name, value, 0)

    def _encode(self, name: str, value: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise NotDataError(f"{name[:80]} is nested too deeply")
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {TAG: "float", "value": str(value)}
        if isinstance(value, dict):
            return self._dict(name, value, depth)
        if isinstance(value, list | tuple | deque | set | frozenset) and not hasattr(value, "_fields"):
            return self._sequence(name, value, depth)
        if isinstance(value, np.ndarray | np.generic | np.dtype | np.random.Generator):
            return self._numpy(name, value)
        if isinstance(value, spaces.Space):
            return self._space(name, value, depth)
        if isinstance(value, type):
            return {TAG: "class", "name": dotted_name(value)}
        if isinstance(value, th.Tensor):
            array = value.detach().cpu().numpy()
            return {TAG: "tensor", "value": self._numpy(name, array), "parameter": isinstance(value, th.nn.Parameter)}
        if isinstance(value, th.dtype):
            return {TAG: "torch_dtype", "name": str(value).removeprefix("torch.")}
        if callable(value) and name.endswith(("learning_rate", "clip_range", "clip_range_vf")):
            return {TAG: "schedule", **self._dict(name, schedule_as_data(name, value), depth)}
        raise NotDataError(f"{name[:80]} holds an object of {dotted_name(type(value))}")

    def _dict(self, name: str, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        if type(value) is dict and TAG not in value and all(type(key) is str for key in value):
            return {key: self._encode(f"{name}.{key}", item, depth + 1) for key, item in value.items()}
        items = [
            [self._encode(name, key, depth + 1), self._encode(f"{name}.{index}", item, depth + 1)]
            for index, (key, item) in enumerate(value.items())
        ]
        return {TAG: "OrderedDict" if isinstance(value, OrderedDict) else "dict", "items": items}

    def _sequence(self, name: str, value: Any, depth: int) -> Any:
        items = [self._encode(f"{name}.{index}", item, depth + 1) for index, item in enumerate(value)]
        if isinstance(value, list):
            return items
        if isinstance(value, deque):
            return {TAG: "deque", "items": items, "maxlen": value.maxlen}
        return {TAG: next(kind.__name__ for kind in (tuple, set, frozenset) if isinstance(value, kind)), "items": items}

    def _numpy(self, name: str, value: Any) -> dict[str, Any]:
        if isinstance(value, np.random.Generator):
            state = value.bit_generator.state
            return {TAG: "generator", "state": self._dict(name, dict(state), 0)}
        if isinstance(value, np.dtype):
            return {TAG: "dtype", "name": value.str}
        if isinstance(value, np.generic):
            return {TAG: "scalar", "dtype": value.dtype.str, "value": self._number(name, value)}
        if value.dtype.kind not in "biuf":
            raise NotDataError(f"{name[:80]} is an array of {value.dtype}")
        key = name
        while key in self.arrays:
            key += "_"
        self.arrays[key] = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("=")).reshape(value.shape)
        return {TAG: "array", "name": key}

    def _number(self, name: str, value: np.generic) -> Any:
        if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
            raise NotDataError(f"{name[:80]} is a {value.dtype}")
        return self._encode(name, value.item(), 0)

    def _space(self, name: str, space: spaces.Space[Any], depth: int) -> dict[str, Any]:
        data: dict[str, Any] = {TAG: "space", "kind": type(space).__name__}
        if type(space) is spaces.Box:
            bounds = {key: self._bound(f"{name}.{key}", getattr(space, key)) for key in ("low", "high")}
            data |= {"shape": list(space.shape), "dtype": space.dtype.str, **bounds}
        elif type(space) is spaces.Discrete:
            data |= {"n": int(space.n), "start": int(space.start), "dtype": space.dtype.str}
        elif type(space) is spaces.MultiDiscrete:
            data |= {"nvec": space.nvec.tolist(), "start": space.start.tolist(), "dtype": space.dtype.str}
        elif type(space) is spaces.MultiBinary:
            data |= {"n": [int(n) for n in space.shape] if not isinstance(space.n, int) else space.n}
        elif type(space) is spaces.Dict:
            data |= {"items": [[key, self._space(f"{name}.{key}", item, depth + 1)] for key, item in space.items()]}
        elif type(space) is spaces.Tuple:
            data |= {"items": [self._space(f"{name}.{index}", item, depth + 1) for index, item in enumerate(space)]}
        else:
            raise NotDataError(f"{name[:80]} is a space of {dotted_name(type(space))}")
        if space._np_random is not None:
            data["generator"] = self._numpy(f"{name}.generator", space._np_random)
        return data

    def _bound(self, name: str, bound: np.ndarray) -> Any:
        if bound.size and np.all(bound == bound.flat[0]):
            first = bound.flat[0]
            return self._number(name, np.uint8(first) if bound.dtype == np.bool_ else first)
        return self._numpy(name, bound)


class Decoder:
    """Turns data that `Encoder` wrote into values.

    Args:
        arrays: the arrays by name.
        find_class: turns a dotted name into a class.
    """

    def __init__(self, arrays: dict[str, np.ndarray], find_class: ClassFinder):
        self.arrays, self.find_class = arrays, find_class

    def __call__(self, name: str, data: Any) -> Any:
        """Return the value of JSON data; `name` is what an error calls it.

        Raises:
            UserError: they describe no value.
        """
        try:
            return self._decode(data)
        except UserError:
            raise
        except (*UNREADABLE, RuntimeError) as error:
            raise UserError(f"{self.find_class.file}: {name} cannot be read: {problem(error)}") from error

    def _decode(self, data: Any) -> Any:
        if isinstance(data, list):
            return [self._decode(item) for item in data]
        if not isinstance(data, dict):
            return data
        if TAG not in data:
            return {key: self._decode(item) for key, item in data.items()}
        fields = dict(data)
        kind = fields.pop(TAG)
        readers: dict[str, Callable[..., Any]] = {
            "float": lambda value: float(value),
            "tuple": lambda items: tuple(self._decode(items)),
            "set": lambda items: set(self._decode(items)),
            "frozenset": lambda items: frozenset(self._decode(items)),
            "deque": lambda items, maxlen: deque(self._decode(items), maxlen),
            "dict": lambda items: {self._decode(key): self._decode(item) for key, item in items},
            "OrderedDict": lambda items: OrderedDict((self._decode(key), self._decode(item)) for key, item in items),
            "array": lambda name: self.arrays[name].copy(),
            "scalar": lambda dtype, value: plain_dtype(dtype).type(self._decode(value)),
            "dtype": lambda name: plain_dtype(name),
            "generator": lambda state: make_generator(self._decode(state)),
            "class": lambda name: self.find_class(name),
            "tensor": self._tensor,
            "torch_dtype": _torch_dtype,
            "schedule": lambda **fields: schedule_from_data(self._decode(fields)),
            "space": self._space,
        }
        if kind == "missing":
            raise ValueError(f"it could not be saved without pickle ({fields.get('text')!r:.120}): pass it in custom_objects")
        if kind not in readers:
            raise ValueError(f"unknown kind of value {kind!r:.80}")
        return readers[kind](**fields)

    def _tensor(self, value: Any, parameter: bool) -> th.Tensor:
        tensor = th.as_tensor(self._decode(value))
        return th.nn.Parameter(tensor) if parameter else tensor

    def _space(self, kind: str, generator: Any = None, **fields: Any) -> spaces.Space[Any]:
        if kind == "Dict":
            fields = {"items": [(key, self._space_within(item)) for key, item in fields["items"]]}
        elif kind == "Tuple":
            fields = {"items": [self._space_within(item) for item in fields["items"]]}
        else:
            fields = {key: self._decode(value) for key, value in fields.items()}
        return make_space(kind, fields, self._decode(generator))

    def _space_within(self, data: Any) -> spaces.Space[Any]:
        space = self._decode(data)
        if not isinstance(space, spaces.Space):
            raise TypeError(f"a space within a space is needed, got {space!r:.80}")
        return space


def make_space(kind: str, fields: dict[str, Any], generator: np.random.Generator | None) -> spaces.Space[Any]:
    """Return gymnasium's space of that name, with the state of its generator.

    Raises:
        ValueError, TypeError, KeyError: it cannot be made of these fields.
    """
    space: spaces.Space[Any]
    if kind == "Box":
        shape = tuple(fields["shape"])
        if math.prod(shape) > MAX_ELEMENTS or min(shape, default=0) < 0 or len(shape) > 8:
            raise ValueError(f"a Box of the shape {shape!r:.80} is too large")
        space = spaces.Box(fields["low"], fields["high"], shape=shape, dtype=plain_dtype(fields["dtype"]).type)
    elif kind == "Discrete":
        space = spaces.Discrete(fields["n"], start=fields["start"], dtype=plain_dtype(fields["dtype"]).type)
    elif kind == "MultiDiscrete":
        space = spaces.MultiDiscrete(fields["nvec"], plain_dtype(fields["dtype"]).type, start=fields["start"])
    elif kind == "MultiBinary":
        if np.prod(fields["n"], dtype=np.float64) > MAX_ELEMENTS:
            raise ValueError("a MultiBinary space is too large")
        space = spaces.MultiBinary(fields["n"])
    elif kind == "Dict":
        space = spaces.Dict(list(fields["items"]))
    elif kind == "Tuple":
        space = spaces.Tuple(fields["items"])
    else:
        raise ValueError(f"unknown space {kind!r:.80}")
    if generator is not None:
        if not isinstance(generator, np.random.Generator):
            raise TypeError("a space's generator is not a generator")
        space._np_random = generator
    return space


def make_generator(state: dict[str, Any]) -> np.random.Generator:
    """Return a numpy generator in the state that its bit generator had.

    Raises:
        ValueError, TypeError, KeyError: it is no such state.
    """
    name = state["bit_generator"]
    if name not in BIT_GENERATORS:
        raise ValueError(f"unknown bit generator {name!r:.80}")
    bit_generator = getattr(np.random, name)(0)
    bit_generator.state = state
    return np.random.Generator(bit_generator)


def plain_dtype(name: Any) -> np.dtype[Any]:
    """Return the numpy dtype of that name if it is one of numbers or truth values; ValueError if not."""
    dtype = np.dtype(name) if isinstance(name, str | np.dtype) else None
    if dtype is None or dtype.kind not in "biuf" or dtype.hasobject or dtype.names or dtype.subdtype:
        raise ValueError(f"{name!r:.80} is not a dtype of numbers")
    return dtype


def _torch_dtype(name: str) -> th.dtype:
    dtype = getattr(th, name, None)
    if not isinstance(dtype, th.dtype):
        raise ValueError(f"torch has no dtype {name!r:.80}")
    return dtype
