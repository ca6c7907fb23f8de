"""The ONNX format, as far as it holds weights: a graph's initialisers by name. No graph is run.

A file is one protocol buffer (onnx.proto). ModelProto has graph = 7 and opset_import = 8,
GraphProto has initializer = 5, and TensorProto dims = 1, data_type = 2, float_data = 4, name = 8,
raw_data = 9, double_data = 10, data_location = 14. NNabla's exporter (1.39) calls an initialiser by
its parameter's name and leaves norms as they are: D3Net's keymap serves its files too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stemsplit.weights.convert.checkpoint import Array, Checkpoint, damaged

START = b"\x08"
"""Every file begins with its version, field 1."""

_TYPES = {1: "<f4", 10: "<f2", 11: "<f8"}
_UNPACKED = {4: "<f4", 10: "<f8"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10
_EXTERNAL = 1


def read_onnx(path: Path) -> Checkpoint:
    """Return the real-valued initialisers of an ONNX file; integers are the graph's own matter.

    Args:
        path: The file.

    Raises:
        CheckpointError: It is damaged, or keeps its weights in other files.
        OSError: It cannot be read.
    """
    content = memoryview(path.read_bytes())
    arrays: dict[str, Array] = {}
    is_whole = False
    try:
        for number, graph in _read_fields(content):
            is_whole = is_whole or number == 8
            if number != 7:
                continue
            for inner, tensor in _read_fields(_as_bytes(graph)):
                if inner != 5:
                    continue
                name, array = _read_tensor(_as_bytes(tensor))
                if name in arrays:
                    raise ValueError(f"two tensors are called {name!r}")
                if array is not None:
                    arrays[name] = array
    except ValueError as error:
        raise damaged(path, f"it is no ONNX file ({error})") from error
    if not is_whole:
        raise damaged(path, "it ends before it names its operator set")
    if not arrays:
        raise damaged(path, "it is no ONNX file with weights in it")
    return Checkpoint(arrays)


def _read_tensor(content: memoryview) -> tuple[str, Array | None]:
    """Return a tensor's name and numbers; None for numbers that are not real."""
    name, kind, shape = "", 0, []
    numbers: Array | None = None
    for number, value in _read_fields(content):
        if number == 1:
            shape += [value] if isinstance(value, int) else list(_read_varints(value))
        elif number == 2:
            kind = _as_int(value)
        elif number == 8:
            name = bytes(_as_bytes(value)).decode("utf-8")
        elif number == 9 and kind in _TYPES:
            numbers = _as_numbers(value, _TYPES[kind])
        elif number in _UNPACKED and kind in _TYPES:
            numbers = _as_numbers(value, _UNPACKED[number])
        elif number == 14 and _as_int(value) == _EXTERNAL:
            raise ValueError(f"the numbers of {name!r} are in another file")
    if kind not in _TYPES:
        return name, None
    if (
        numbers is None
        or any(size < 1 for size in shape)
        or numbers.size != np.prod(shape, dtype=object)
    ):
        raise ValueError(f"{name!r} has not as many numbers as its shape {shape} says")
    return name, numbers.reshape(shape)


def _as_numbers(value: int | memoryview, dtype: str) -> Array:
    content = _as_bytes(value)
    if len(content) % np.dtype(dtype).itemsize:
        raise ValueError(f"{len(content)} bytes are no whole numbers")
    return np.frombuffer(content, dtype)


def _read_fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield every field of a message: its number and what it holds.

    Raises:
        ValueError: It does not end where its fields do, or has a kind that there is not.
    """
    place = 0
    while place < len(content):
        tag, place = _read_varint(content, place)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, place = _read_varint(content, place)
            yield number, value
            continue
        if kind == _BYTES:
            length, place = _read_varint(content, place)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"a field of kind {kind}")
        if place + length > len(content):
            raise ValueError("it ends in the middle of a field")
        yield number, content[place : place + length]
        place += length


def _read_varints(content: memoryview) -> Iterator[int]:
    place = 0
    while place < len(content):
        value, place = _read_varint(content, place)
        yield value


def _read_varint(content: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(content[place : place + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, place + index + 1
    raise ValueError("it ends in the middle of a number")


def _as_bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where bytes should be")
    return value


def _as_int(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ValueError("bytes where a number should be")
    return value
