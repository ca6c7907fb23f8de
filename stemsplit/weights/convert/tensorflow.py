"""TensorFlow checkpoints of version 2: an index (a sorted table) and shards of raw numbers.

    PREFIX.index                   "" -> BundleHeader, "variable/name" -> BundleEntry (protobuf)
    PREFIX.data-00000-of-00001     the numbers, at the entries' offsets

    BundleHeader  1 shards   2 endianness (0 little, 1 big)
    BundleEntry   1 dtype   2 shape   3 shard   4 offset   5 size   6 masked CRC-32C   7 slices
    shape         2 dimension (repeated), of which 1 is the size

Field numbers: TensorFlow, core/protobuf/tensor_bundle.proto and core/framework/tensor_shape.proto.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stemsplit.weights.convert.checkpoint import Array, Checkpoint, damaged, widen_bfloat16
from stemsplit.weights.convert.crc32c import compute_crc32c, mask_crc
from stemsplit.weights.convert.pickled import is_sizes
from stemsplit.weights.convert.sstable import read_table, read_varint

_PART = re.compile(r"(?P<prefix>.+)\.(?:index|meta|data-\d{5}-of-\d{5})")
_TEXT = 7
_BFLOAT16 = 14
# DataType of core/framework/types.proto -> NumPy code; bfloat16 is read by its bits.
_DTYPES = {
    1: "f4", 2: "f8", 3: "i4", 4: "u1", 5: "i2", 6: "i1", 8: "c8", 9: "i8", 10: "b1",
    _BFLOAT16: "u2", 17: "u2", 18: "c16", 19: "f2", 22: "u4", 23: "u8",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """Where a variable is.

    Attributes:
        dtype: TensorFlow's number of the type.
        shape: Sizes.
        shard: Which data file.
        offset: First byte in it.
        size: Bytes.
        crc: Masked CRC-32C of them.
    """

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int


def read_tensorflow(path: Path) -> Checkpoint:
    """Return the variables of a checkpoint; texts, such as the object graph, are left out.

    Args:
        path: Any of its files, its folder or its prefix; the others lie beside it.

    Raises:
        CheckpointError: A file is missing or damaged, or a variable is of an unknown kind.
        OSError: A file cannot be read.
    """
    index = _find_index(path)
    try:
        table = dict(read_table(index.read_bytes()))
        shard_count, order = _read_header(table.pop(b"", None))
        entries = {_decode(name): _read_entry(value) for name, value in table.items()}
    except ValueError as error:
        raise damaged(index, f"it holds {error}") from error
    shards: dict[int, tuple[Path, bytes]] = {}
    arrays = {}
    used: dict[int, int] = {}
    for name, entry in entries.items():
        if entry.dtype == _TEXT:
            continue
        if entry.shard not in shards:
            shard = index.with_name(f"{index.stem}.data-{entry.shard:05d}-of-{shard_count:05d}")
            if not shard.is_file():
                raise damaged(index, f"its numbers are missing: there is no {shard}")
            shards[entry.shard] = shard, shard.read_bytes()
        shard, data = shards[entry.shard]
        used[entry.shard] = used.get(entry.shard, 0) + entry.size
        if used[entry.shard] > len(data):
            raise damaged(shard, f"its variables need more than its {len(data)} bytes")
        try:
            arrays[name] = _read_numbers(entry, data, order)
        except ValueError as error:
            raise damaged(shard, f"the variable {name!r} has {error}") from error
    return Checkpoint(arrays)


def find_prefix(path: Path) -> Path:
    """Return what the names of a checkpoint's files have in common.

    Args:
        path: One of its files, or the prefix itself.
    """
    match = _PART.fullmatch(path.name)
    return path.with_name(match["prefix"]) if match else path


def _find_index(path: Path) -> Path:
    prefix = find_prefix(path)
    found = (
        sorted(path.glob("*.index"))
        if path.is_dir()
        else [prefix.with_name(f"{prefix.name}.index")]
    )
    if len(found) != 1 or not found[0].is_file():
        raise damaged(path, "it is no TensorFlow checkpoint with one index")
    return found[0]


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _read_header(data: bytes | None) -> tuple[int, str]:
    """Return the number of shards and NumPy's sign for the byte order."""
    if data is None:
        raise ValueError("no header")
    fields = dict(_read_fields(data))
    endianness = fields.get(2, 0)
    if endianness not in (0, 1):
        raise ValueError(f"an unknown byte order {endianness!r}")
    return _number(fields.get(1, 1)), "<" if endianness == 0 else ">"


def _read_entry(data: bytes) -> Entry:
    numbers = {1: 0, 3: 0, 4: 0, 5: 0, 6: 0}
    shape: tuple[int, ...] = ()
    for field, value in _read_fields(data):
        if field in numbers:
            numbers[field] = _number(value)
        elif field == 2:
            shape = _read_shape(value)
        elif field == 7:
            raise ValueError("a variable in slices, which are not supported")
    return Entry(numbers[1], shape, numbers[3], numbers[4], numbers[5], numbers[6])


def _read_shape(data: int | bytes) -> tuple[int, ...]:
    sizes = tuple(
        _number(dict(_read_fields(dimension)).get(1, 0))
        for field, dimension in _read_fields(data)
        if field == 2
    )
    if not is_sizes(sizes):
        raise ValueError(f"a variable of {len(sizes)} dimensions or of no possible size")
    return sizes


def _read_numbers(entry: Entry, data: bytes, order: str) -> Array:
    if entry.dtype not in _DTYPES:
        raise ValueError(f"the unknown type {entry.dtype}")
    dtype = np.dtype(order + _DTYPES[entry.dtype])
    if entry.size != math.prod(entry.shape) * dtype.itemsize:
        raise ValueError(f"{entry.size} bytes for shape {entry.shape}")
    if entry.offset + entry.size > len(data):
        raise ValueError(f"its end at byte {entry.offset + entry.size}, of {len(data)} in the file")
    raw = memoryview(data)[entry.offset : entry.offset + entry.size]
    if mask_crc(compute_crc32c(raw)) != entry.crc:
        raise ValueError("another checksum than the index says")
    numbers = np.frombuffer(raw, dtype).reshape(entry.shape)
    return widen_bfloat16(numbers) if entry.dtype == _BFLOAT16 else numbers


def _read_fields(message: int | bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield a protobuf message's field numbers and values: numbers, or bytes for what is nested."""
    if not isinstance(message, bytes):
        raise ValueError("a number in place of a message")
    at = 0
    while at < len(message):
        key, at = read_varint(message, at)
        kind = key & 7
        value: int | bytes
        if kind == 0:
            value, at = read_varint(message, at)
        elif kind in (1, 5):
            width = 8 if kind == 1 else 4
            if at + width > len(message):
                raise ValueError("a message that is cut off")
            (value,) = struct.unpack_from("<Q" if kind == 1 else "<I", message, at)
            at += width
        elif kind == 2:
            length, at = read_varint(message, at)
            if at + length > len(message):
                raise ValueError("a message that is cut off")
            value, at = message[at : at + length], at + length
        else:
            raise ValueError(f"a message with a field of kind {kind}")
        yield key >> 3, value


def _number(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("a message in place of a number")
    return value
