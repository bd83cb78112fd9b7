"""Read SB3's pickles without running them.

SB3 writes an agent's settings with cloudpickle, and unpickling them runs code from the file. Here a pickle is read in two
steps. The first step notes which classes and functions the pickle names, and with what arguments it would call them. It
calls none of them and refuses names that are not on the list below. The second step makes the values from these notes, with
functions of this package that check the arguments.
"""

import io
import math
import pickle
import pickletools
import re
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common import noise
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from sb3_carracing.errors import UserError
from sb3_carracing.ppo.saving.named_classes import ClassFinder
from sb3_carracing.ppo.saving.plain_data import (
    BIT_GENERATORS,
    MAX_DEPTH,
    UNREADABLE,
    make_generator,
    make_space,
    plain_dtype,
    problem,
)
from sb3_carracing.ppo.saving.schedules import ProportionalSchedule

_SCALARS = {f"numpy.{name}" for name in ("bool", "bool_", *(f"{sign}int{8 << n}" for sign in ("", "u") for n in range(4)))}
_SCALARS |= {f"numpy.float{bits}" for bits in (16, 32, 64)}


class RefusedError(UserError):
    """A pickle that names something outside the list; `trust=True` reads it."""


class _Note:
    """What a pickle says about one object: the subclass's `path`, arguments, state and items."""

    path: ClassVar[str]
    args: tuple[Any, ...]

    def __new__(cls, *args: Any, **_: Any) -> "_Note":
        note = super().__new__(cls)
        note.args, note.state, note.items = args, None, []
        return note

    def __init__(self, *_: Any, **__: Any) -> None:
        self.state: Any
        self.items: list[Any]

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, item: Any) -> None:
        self.items.append(item)

    def extend(self, items: Any) -> None:
        self.items.extend(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))


class _NotingUnpickler(pickle.Unpickler):
    """Reads a pickle into notes; the classes that it finds are subclasses of `_Note` and nothing else."""

    def __init__(self, content: bytes, what: str, find_class: ClassFinder):
        super().__init__(io.BytesIO(content))
        self._what, self._finder = what, find_class
        self._found: dict[str, type[_Note]] = {}

    def find_class(self, module: str, name: str) -> type[_Note]:
        path = f"{module}.{name}"
        if path not in _MAKERS and path not in _SCALARS and not self._finder.admits(path):
            raise RefusedError(
                f"{self._finder.file}: {self._what} is pickled with {path}, which may run code and is read only with "
                "trust=True (--trust)"
            )
        if path not in self._found:
            self._found[path] = type("Note", (_Note,), {"path": path})
        return self._found[path]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside the pickle")


def read_pickle(content: bytes, what: str, find_class: ClassFinder) -> Any:
    """Return the value of a pickle of SB3's; nothing in it is called.

    Args:
        content: the pickle.
        what: what errors call it.
        find_class: resolves classes; names the file.

    Raises:
        RefusedError: it names a class or function outside the list.
        UserError: it is damaged, or no value that SB3 saves.
    """
    try:
        _check_memo(content)
        notes = _NotingUnpickler(content, what, find_class).load()
        return _Maker(find_class).make(notes)
    except UserError:
        raise
    except (*UNREADABLE, pickle.UnpicklingError, EOFError, ImportError, RuntimeError) as error:
        raise UserError(f"{find_class.file}: {what} cannot be read: {problem(error)}") from error


def _check_memo(content: bytes) -> None:
    """Refuse damaged pickles and memo numbers that grow the unpickler's table beyond all memory."""
    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > number:
            raise ValueError("a memo number is too large")
        if opcode.name.startswith("EXT"):
            raise ValueError("it uses the extension registry")


class _Maker:
    """Makes values from notes, each note once."""

    def __init__(self, find_class: ClassFinder):
        self.find_class = find_class
        # With the note itself, so that its number is not given to another object.
        self._made: dict[int, tuple[Any, Any]] = {}
        self._depth = 0

    def make(self, note: Any) -> Any:
        """Return the value that a note, or a container of notes, stands for."""
        if note is None or type(note) in (bool, int, float, complex, str, bytes, bytearray):
            return note
        if id(note) not in self._made:
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise ValueError("it is nested too deeply, or contains itself")
            self._made[id(note)] = note, self._make(note)
            self._depth -= 1
        return self._made[id(note)][1]

    def _make(self, note: Any) -> Any:
        if isinstance(note, list | tuple | set | frozenset):
            return type(note)(self.make(item) for item in note)
        if isinstance(note, dict):
            return {self.make(key): self.make(item) for key, item in note.items()}
        if isinstance(note, type) and issubclass(note, _Note):
            if note.path in _SCALARS:
                return getattr(np, note.path.removeprefix("numpy."))
            if note.path in _MAKERS:
                raise ValueError(f"{note.path} stands where a value is needed")
            return self.find_class(note.path)
        if isinstance(note, _Note) and note.path in _MAKERS:
            return _MAKERS[note.path](self, note)
        raise ValueError(f"an object of {getattr(note, 'path', type(note).__name__)} is not what SB3 saves")

    def state(self, note: _Note, *required: str) -> dict[str, Any]:
        """Return a note's attributes."""
        state = self.make(note.state)
        if not isinstance(state, dict) or not set(required) <= set(state):
            raise ValueError(f"the state of {note.path} is not what SB3 saves")
        return state


def _path(note: Any) -> str:
    """Return the dotted path of a class or function that is referred to, not called; "" for anything else."""
    return str(note.path) if isinstance(note, type) and issubclass(note, _Note) else ""


def _dtype(make: _Maker, note: _Note) -> np.dtype[Any]:
    name, order = note.args[0], note.state[1] if note.state else "|"
    if not isinstance(name, str) or not re.fullmatch(r"[biuf]\d{1,2}", name) or order not in ("<", ">", "|", "="):
        raise ValueError(f"{name!r:.80} is not a dtype of numbers")
    return plain_dtype(name if order == "|" else f"{order}{name}")


def _array(buffer: Any, dtype: Any, shape: Any, order: str, axis_order: Any = None) -> np.ndarray:
    if not isinstance(dtype, np.dtype) or not isinstance(buffer, bytes | bytearray):
        raise TypeError("an array must have a dtype and bytes")
    if math.prod(shape) * dtype.itemsize != len(buffer):
        raise ValueError(f"an array of the shape {shape} does not have {len(buffer)} bytes")
    array = np.frombuffer(buffer, dtype).reshape(shape, order="C" if axis_order is not None else order)  # type: ignore[call-overload]
    return np.array(array if axis_order is None else array.transpose(axis_order), order="K")


def _array_from_state(make: _Maker, note: _Note) -> np.ndarray:
    if not note.args or _path(note.args[0]) != "numpy.ndarray":
        raise ValueError("an array of another class")
    _, shape, dtype, is_fortran, content = make.make(note.state)
    return _array(content, dtype, shape, "F" if is_fortran else "C")


def _scalar(make: _Maker, note: _Note) -> Any:
    dtype, content = make.make(note.args)
    return _array(content, dtype, (), "C")[()]


def _bit_generator(make: _Maker, note: _Note) -> Any:
    """Return the state of a bit generator, or where the pickle gives it later, None."""
    state = make.make(note.state[0] if isinstance(note.state, tuple) else note.state)
    name = _path(note.args[0]).rpartition(".")[2] if note.args else ""
    if state is not None and name and state["bit_generator"] != name:
        raise ValueError("a bit generator of another class")
    return state


def _generator(make: _Maker, note: _Note) -> np.random.Generator:
    inner = make.make(note.args[0]) if isinstance(note.args[0], _Note) else None
    return make_generator(inner or make.make(note.state))


def _space(kind: str) -> Callable[[_Maker, _Note], Any]:
    def make_it(make: _Maker, note: _Note) -> Any:
        state = make.state(note)
        fields = state
        if kind == "Box":
            fields = {"shape": state.get("_shape"), **state}
        elif kind == "Discrete":
            fields = {"start": 0, "dtype": np.dtype(np.int64), **state}
        elif kind == "MultiDiscrete":
            fields = {"start": np.zeros_like(state["nvec"]), **state}
        elif kind == "Dict":
            fields = {"items": list(state["spaces"].items())}
        elif kind == "Tuple":
            fields = {"items": state["spaces"]}
        return make_space(kind, fields, state.get("_np_random"))

    return make_it


def _attributes(cls: type, *names: str) -> Callable[[_Maker, _Note], Any]:
    """Return a maker of objects that are nothing but their attributes."""

    def make_it(make: _Maker, note: _Note) -> Any:
        state = make.state(note, *names)
        if set(state) != set(names):
            raise ValueError(f"{cls.__name__} has other attributes")
        made: Any = object.__new__(cls)
        vars(made).update(state)
        return made

    return make_it


def _float_schedule(make: _Maker, note: _Note) -> FloatSchedule:
    within = make.state(note, "value_schedule")["value_schedule"]
    if not isinstance(within, (FloatSchedule, ConstantSchedule, LinearSchedule, ProportionalSchedule)):
        raise TypeError("a FloatSchedule of something else")
    return FloatSchedule(within)


def _schedule(cls: type, *names: str) -> Callable[[_Maker, _Note], Any]:
    return lambda make, note: cls(*(float(make.state(note, *names)[name]) for name in names))


def _train_freq(make: _Maker, note: _Note) -> TrainFreq:
    frequency, unit = make.make(note.args)
    if not isinstance(unit, TrainFrequencyUnit):
        raise TypeError("a train_freq without a unit")
    return TrainFreq(int(frequency), unit)


def _storage(make: _Maker, note: _Note) -> Any:
    return th.load(io.BytesIO(make.make(note.args)[0]), map_location="cpu", weights_only=True)


def _tensor(make: _Maker, note: _Note) -> th.Tensor:
    storage, offset, size, stride, *_ = make.make(note.args)
    if not isinstance(storage, th.storage.TypedStorage):
        raise TypeError("a tensor without a storage")
    whole = th.tensor([], dtype=storage.dtype).set_(storage)
    return whole.as_strided(size, stride, offset).clone() if math.prod(size) <= whole.numel() else _refuse_tensor()


def _refuse_tensor() -> th.Tensor:
    raise ValueError("a tensor is larger than its storage")


def _parameter(make: _Maker, note: _Note) -> th.Tensor:
    data, requires_grad, *_ = make.make(note.args)
    return th.nn.Parameter(data, requires_grad=bool(requires_grad))


def _device(make: _Maker, note: _Note) -> th.device:
    return th.device(*make.make(note.args))


def vec_normalize_state(make: _Maker, note: _Note) -> dict[str, Any]:
    """Return the attributes of a pickled VecNormalize; `saving` makes a new one of them."""
    return {"VecNormalize": make.state(note, "norm_obs", "norm_reward", "ret_rms", "gamma")}


_MAKERS: dict[str, Callable[[_Maker, _Note], Any]] = {
    "collections.deque": lambda make, note: deque(make.make(list(note.args[0]) + note.items), *make.make(note.args[1:])),
    "collections.OrderedDict": lambda make, note: OrderedDict(make.make([*(note.args[0] if note.args else ()), *note.items])),
    "numpy.dtype": _dtype,
    "numpy.ndarray": lambda make, note: _refuse_tensor(),
    "torch.device": _device,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.storage._load_from_bytes": _storage,
    "rl_zoo3.utils.SimpleLinearSchedule": _schedule(ProportionalSchedule, "initial_value"),
    "stable_baselines3.common.utils.FloatSchedule": _float_schedule,
    "stable_baselines3.common.utils.ConstantSchedule": _schedule(ConstantSchedule, "val"),
    "stable_baselines3.common.utils.LinearSchedule": _schedule(LinearSchedule, "start", "end", "end_fraction"),
    "stable_baselines3.common.type_aliases.TrainFreq": _train_freq,
    "stable_baselines3.common.type_aliases.TrainFrequencyUnit": lambda make, note: TrainFrequencyUnit(*make.make(note.args)),
    "stable_baselines3.common.noise.NormalActionNoise": _attributes(noise.NormalActionNoise, "_mu", "_sigma", "_dtype"),
    "stable_baselines3.common.noise.OrnsteinUhlenbeckActionNoise": _attributes(
        noise.OrnsteinUhlenbeckActionNoise, "_theta", "_mu", "_sigma", "_dt", "_dtype", "initial_noise", "noise_prev"
    ),
    "stable_baselines3.common.running_mean_std.RunningMeanStd": _attributes(RunningMeanStd, "mean", "var", "count"),
    "stable_baselines3.common.vec_env.vec_normalize.VecNormalize": vec_normalize_state,
    "sb3_carracing.ppo.saving.schedules.ProportionalSchedule": _schedule(ProportionalSchedule, "initial_value"),
    **{f"numpy.{core}.numeric._frombuffer": lambda make, note: _array(*make.make(note.args)) for core in ("_core", "core")},
    **{f"numpy.{core}.multiarray._reconstruct": _array_from_state for core in ("_core", "core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("_core", "core")},
    "numpy.random._pickle.__generator_ctor": _generator,
    "numpy.random._pickle.__bit_generator_ctor": _bit_generator,
    "numpy.random.bit_generator.__pyx_unpickle_SeedSequence": lambda make, note: None,
    "numpy.random.bit_generator.SeedSequence": lambda make, note: None,
    **{f"numpy.random._{name.lower()}.{name}": lambda make, note: None for name in BIT_GENERATORS},
    **{
        f"gymnasium.spaces.{module}.{kind}": _space(kind)
        for module, kind in (
            *(("box", "Box"), ("discrete", "Discrete"), ("multi_discrete", "MultiDiscrete")),
            *(("multi_binary", "MultiBinary"), ("dict", "Dict"), ("tuple", "Tuple")),
        )
    },
}
