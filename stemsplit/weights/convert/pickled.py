"""What a pickle of weights may build: plain values that stand for arrays, tensors and names.

A pickle is a program that asks for functions by name and calls them with arguments. Here no name is
ever looked up in Python: it is looked up in `BUILDERS`, whose functions check their arguments and
return one of this module's values. A name that is not there (nor in the caller's list of inert
ones) is refused by the unpickler before anything is done with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeGuard

import numpy as np

from stemsplit.weights.convert.checkpoint import Array

Arguments = tuple[object, ...]
Builder = Callable[[Arguments], object]

MAX_DIMENSIONS = 32
_NUMBER_CODES = re.compile(r"b1|[iu][1248]|f[248]|c8|c16")


@dataclass(frozen=True)
class Name:
    """A global that the pickle asked for and may mention; nothing was imported."""

    dotted: str


@dataclass(eq=False)
class Inert:
    """An object of a class on the caller's list: its parts are kept, its class is not touched.

    Attributes:
        name: The class or function, dotted.
        arguments: What it would have been called with.
        items: What the pickle would have put into it: by key, or by index for a sequence.
        state: What would have become its attributes.
    """

    name: str
    arguments: Arguments = ()
    items: dict[object, object] = field(default_factory=dict)
    state: object = None


@dataclass(frozen=True)
class Storage:
    """A run of numbers that lies outside the pickle.

    Attributes:
        key: Its name in the container.
        dtype: A NumPy code without byte order, or "bfloat16".
        count: How many numbers it has.
    """

    key: str
    dtype: str
    count: int


@dataclass(frozen=True)
class TensorView:
    """A tensor: which numbers of a storage it shows.

    Attributes:
        storage: Where the numbers are.
        offset: Index of the first one.
        shape: Sizes.
        strides: Steps, in numbers; never negative.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(eq=False)
class DtypeShell:
    """A NumPy dtype in the making: the code comes first, the byte order with the state."""

    code: str
    order: str = "="

    def build(self, state: object) -> None:
        """Take the byte order from NumPy's (version, order, subarray, names, fields, ...).

        Raises:
            ValueError: It is another tuple, or one of a structured dtype.
        """
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "=", "|"):
            raise ValueError("a dtype with an unknown state")
        if any(part is not None for part in state[2:5]):
            raise ValueError("a dtype with fields or sub-arrays")
        self.order = str(state[1])

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The dtype itself."""
        return np.dtype(self.order + self.code)


@dataclass(eq=False)
class ArrayShell:
    """A NumPy array in the making: NumPy makes it empty first and fills it from its state."""

    array: Array | None = None

    def build(self, state: object) -> None:
        """Take the array from NumPy's (version, shape, dtype, is Fortran order, data).

        Raises:
            ValueError: The parts have the wrong types or do not fit each other.
        """
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("an array with an unknown state")
        _, shape, dtype, is_fortran, data = state
        self.array = _shape_numbers(data, dtype, shape, "F" if is_fortran else "C")


def is_sizes(value: object) -> TypeGuard[tuple[int, ...]]:
    """Whether this is a tuple of whole numbers from 0 up, few enough to be a shape."""
    return (
        isinstance(value, tuple)
        and len(value) <= MAX_DIMENSIONS
        and all(is_count(size) for size in value)
    )


def is_count(value: object) -> TypeGuard[int]:
    """Whether this is a whole number from 0 up that a 64-bit file could mean, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def build_storage(identity: object) -> Storage:
    """Return the storage that torch's persistent id ("storage", type, key, place, count) names.

    Raises:
        ValueError: It is another tuple.
    """
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise ValueError("a persistent id that is no storage")
    kind, key, count = identity[1], identity[2], identity[4]
    if not isinstance(kind, Name) or kind.dotted not in STORAGES:
        raise ValueError("a storage of an unknown type")
    if not isinstance(key, str) or not is_count(count):
        raise ValueError("a storage without a key or a size")
    if len(identity) == 6 and identity[5] is not None:
        raise ValueError("a storage that is a view of another")
    return Storage(key, STORAGES[kind.dotted], count)


def _shape_numbers(data: object, dtype: object, shape: object, order: object) -> Array:
    raw = data.encode("latin-1") if isinstance(data, str) else data
    if not isinstance(dtype, DtypeShell) or not is_sizes(shape) or order not in ("C", "F"):
        raise ValueError("an array without a dtype or a shape")
    if not isinstance(raw, (bytes, bytearray)):
        raise ValueError("an array whose data are no bytes")
    wanted = math.prod(shape) * dtype.dtype.itemsize
    if len(raw) != wanted:
        raise ValueError(f"an array of shape {shape} with {len(raw)} bytes in place of {wanted}")
    return np.frombuffer(raw, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")


def _build_empty_array(arguments: Arguments) -> object:
    if len(arguments) != 3 or arguments[0] != Name("numpy.ndarray"):
        raise ValueError("arguments for no plain array")
    return ArrayShell()


def _build_array(arguments: Arguments) -> object:
    if len(arguments) != 4:
        raise ValueError(f"{len(arguments)} arguments")
    return ArrayShell(_shape_numbers(*arguments))


def _build_dtype(arguments: Arguments) -> object:
    code = arguments[0] if arguments else None
    if not isinstance(code, str) or _NUMBER_CODES.fullmatch(code) is None:
        raise ValueError("a dtype that is no number")
    return DtypeShell(code)


def _build_scalar(arguments: Arguments) -> object:
    if len(arguments) != 2:
        raise ValueError(f"{len(arguments)} arguments")
    return _shape_numbers(arguments[1], arguments[0], (), "C").item()


def _build_bytes(arguments: Arguments) -> object:
    """How protocol 2 writes bytes: a text and the name of the encoding that gives them back."""
    if len(arguments) != 2 or not isinstance(arguments[0], str) or arguments[1] != "latin1":
        raise ValueError("no text to be encoded as latin1")
    return arguments[0].encode("latin-1")


def _build_no_bytes(arguments: Arguments) -> object:
    if arguments:
        raise ValueError(f"{len(arguments)} arguments in place of none")
    return b""


def _build_dict(arguments: Arguments) -> object:
    pairs = arguments[0] if arguments else []
    if len(arguments) > 1 or not isinstance(pairs, list):
        raise ValueError("no list of pairs")
    result: dict[object, object] = {}
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not is_key(pair[0]):
            raise ValueError("no list of pairs")
        result[pair[0]] = pair[1]
    return result


def _build_size(arguments: Arguments) -> object:
    if len(arguments) != 1 or not is_sizes(arguments[0]):
        raise ValueError("no tuple of sizes")
    return arguments[0]


def _build_tensor(arguments: Arguments) -> object:
    """How torch writes a tensor: (storage, offset, sizes, strides, ...)."""
    if len(arguments) < 4:
        raise ValueError(f"{len(arguments)} arguments")
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    if not is_count(offset) or not is_sizes(shape) or not is_sizes(strides):
        raise ValueError("a tensor whose offset, sizes or strides are no counts")
    if len(shape) != len(strides):
        raise ValueError(f"a tensor of {len(shape)} sizes and {len(strides)} strides")
    count = math.prod(shape)
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    if count and last >= storage.count:
        raise ValueError(
            f"a tensor that reaches number {last} of storage {storage.key!r}, "
            f"which has {storage.count}"
        )
    if count > storage.count:
        raise ValueError(f"a tensor of {count} numbers made of {storage.count}")
    return TensorView(storage, offset, shape, strides)


def _build_parameter(arguments: Arguments) -> object:
    if not arguments or not isinstance(arguments[0], TensorView):
        raise ValueError("a parameter without a tensor")
    return arguments[0]


def is_key(value: object) -> bool:
    """Whether a dict may have this key: one value or a row of such, so that hashing stays shallow.

    Hydra's settings, which Lightning keeps beside the weights, remember what they looked up by
    tuples of its arguments.
    """
    if isinstance(value, tuple):
        return all(_is_plain(item) for item in value)
    return _is_plain(value) or isinstance(value, (Name, Inert))


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (str, bytes, int, float))


STORAGES: Mapping[str, str] = MappingProxyType(
    {
        "torch.FloatStorage": "f4",
        "torch.DoubleStorage": "f8",
        "torch.HalfStorage": "f2",
        "torch.BFloat16Storage": "bfloat16",
        "torch.LongStorage": "i8",
        "torch.IntStorage": "i4",
        "torch.ShortStorage": "i2",
        "torch.CharStorage": "i1",
        "torch.ByteStorage": "u1",
        "torch.BoolStorage": "b1",
        "torch.ComplexFloatStorage": "c8",
        "torch.ComplexDoubleStorage": "c16",
    }
)
"""Torch's typed storages and the NumPy codes of their numbers."""

BUILDERS: Mapping[str, Builder] = MappingProxyType(
    {
        "collections.OrderedDict": _build_dict,
        "_codecs.encode": _build_bytes,
        "builtins.bytes": _build_no_bytes,
        "__builtin__.bytes": _build_no_bytes,
        "numpy.dtype": _build_dtype,
        "numpy.core.multiarray._reconstruct": _build_empty_array,
        "numpy._core.multiarray._reconstruct": _build_empty_array,
        "numpy.core.multiarray.scalar": _build_scalar,
        "numpy._core.multiarray.scalar": _build_scalar,
        "numpy.core.numeric._frombuffer": _build_array,
        "numpy._core.numeric._frombuffer": _build_array,
        "torch.Size": _build_size,
        "torch._utils._rebuild_tensor": _build_tensor,
        "torch._utils._rebuild_tensor_v2": _build_tensor,
        "torch._utils._rebuild_parameter": _build_parameter,
        "torch._utils._rebuild_parameter_with_state": _build_parameter,
    }
)
"""The only globals that a pickle may call, and what is done in their place."""

_DTYPES = "float16 bfloat16 float32 float64 int8 int16 int32 int64 uint8 bool complex64 complex128"

NAMES: frozenset[str] = frozenset(
    {"numpy.ndarray", *STORAGES, *(f"torch.{dtype}" for dtype in _DTYPES.split())}
)
"""Globals that a pickle may mention and not call."""
