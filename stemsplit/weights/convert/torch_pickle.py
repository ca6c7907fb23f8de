"""Files that `torch.save` or `pickle.dump` wrote, of three kinds, told apart by their first bytes.

zip      since torch 1.6: <name>/data.pkl, one <name>/data/<key> per storage, <name>/byteorder
legacy   before: five pickles (magic number, protocol, system, the object, the storages' keys),
         then for each key a 64-bit count and its numbers
plain    one pickle that holds its arrays itself
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from stemsplit.weights.convert.checkpoint import Array, Checkpoint, damaged, widen_bfloat16
from stemsplit.weights.convert.pickled import Storage, TensorView
from stemsplit.weights.convert.tree import flatten
from stemsplit.weights.convert.unpickler import unpickle

ZIP_START = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_ORDERS = {"little": "<", "big": ">"}


def read_torch_pickle(path: Path, inert: frozenset[str] = frozenset()) -> Checkpoint:
    """Return what a file of torch or pickle holds, without running anything in it.

    Args:
        path: The file.
        inert: Dotted names of classes that stand in it and are kept as placeholders.

    Raises:
        UnsafeWeightsError: It asks for any other global.
        CheckpointError: It is damaged or none of the three kinds.
        OSError: It cannot be opened.
    """
    with path.open("rb") as file:
        start = file.read(len(ZIP_START))
        file.seek(0)
        try:
            if start == ZIP_START:
                return _read_zip(path, file, inert)
            return _read_stream(path, io.BytesIO(file.read()), inert)
        except (ValueError, RecursionError) as error:
            raise damaged(path, f"it holds {error}") from error


# The zip container


def _read_zip(path: Path, file: BinaryIO, inert: frozenset[str]) -> Checkpoint:
    try:
        with zipfile.ZipFile(file) as archive:
            members = _check_members(path, archive)
            roots = [name for name in members if PurePosixPath(name).name == "data.pkl"]
            if len(roots) != 1:
                raise damaged(path, f"it is a zip with {len(roots)} members called data.pkl")
            folder = roots[0].removesuffix("data.pkl")
            order = "<"
            if f"{folder}byteorder" in members:
                written = archive.read(f"{folder}byteorder").decode("ascii", "replace").strip()
                if written not in _ORDERS:
                    raise damaged(path, f"its byte order is {written[:20]!r}")
                order = _ORDERS[written]

            def read(storage: Storage) -> bytes:
                name = f"{folder}data/{storage.key}"
                if name not in members:
                    raise damaged(path, f"it lacks its member {name!r}")
                return archive.read(name)

            pickle = io.BytesIO(archive.read(roots[0]))
            tree = unpickle(path, pickle, inert=inert, storages={})
            return flatten(tree, _Views(read, order))
    except (zipfile.BadZipFile, EOFError, RuntimeError, struct.error) as error:
        raise damaged(path, f"it is a broken zip ({error})") from error


def _check_members(path: Path, archive: zipfile.ZipFile) -> Mapping[str, zipfile.ZipInfo]:
    """Return the members; torch stores them bare, so all of them fit side by side in the file."""
    size = path.stat().st_size
    for member in archive.infolist():
        name = member.filename
        if name.startswith("/") or "\\" in name or ".." in PurePosixPath(name).parts:
            raise damaged(path, f"its member {name!r} points out of it")
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise damaged(path, f"its member {name!r} is compressed or encrypted")
        if member.file_size != member.compress_size:
            raise damaged(path, f"its member {name!r} states two sizes")
    if sum(member.file_size for member in archive.infolist()) > size:
        raise damaged(path, "its members are longer than the file")
    members = {member.filename: member for member in archive.infolist()}
    if len(members) < len(archive.infolist()):
        raise damaged(path, "two of its members have one name")
    return members


# The stream: one pickle, or the legacy container


def _read_stream(path: Path, stream: BinaryIO, inert: frozenset[str]) -> Checkpoint:
    first = unpickle(path, stream, inert=inert)
    if first != _LEGACY_MAGIC:
        return flatten(first, _refuse_outside)
    protocol = unpickle(path, stream)
    system = unpickle(path, stream)
    if protocol != _LEGACY_PROTOCOL or not isinstance(system, dict):
        raise ValueError("an unknown version of torch's legacy format")
    order = "<" if system.get("little_endian", True) else ">"
    storages: dict[str, Storage] = {}
    tree = unpickle(path, stream, inert=inert, storages=storages)
    keys = unpickle(path, stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("storages without keys")
    numbers: dict[str, bytes] = {}
    for key in keys:
        if key not in storages:
            raise ValueError(f"a storage {key!r} that the pickle does not name")
        numbers[key] = _read_legacy_storage(stream, storages[key], order)
    if missing := storages.keys() - numbers.keys():
        raise ValueError(f"no numbers for storage {min(missing)!r}")
    return flatten(tree, _Views(lambda storage: numbers[storage.key], order))


def _read_legacy_storage(stream: BinaryIO, storage: Storage, order: str) -> bytes:
    head = stream.read(8)
    if len(head) < 8:
        raise ValueError(f"no more than its beginning: storage {storage.key!r} is missing")
    (count,) = struct.unpack(f"{order}q", head)
    if count != storage.count:
        raise ValueError(f"{count} numbers for storage {storage.key!r} in place of {storage.count}")
    return stream.read(count * _width(storage))


def _refuse_outside(tensor: TensorView) -> Array:
    raise ValueError(f"a tensor outside itself ({tensor.storage.key!r})")


# Tensors


class _Views:
    """Shows tensors as views of their storages; each storage is read once."""

    def __init__(self, read: Callable[[Storage], bytes], order: str) -> None:
        self.read = read
        self.order = order
        self.storages: dict[Storage, Array] = {}

    def __call__(self, tensor: TensorView) -> Array:
        if tensor.storage not in self.storages:
            self.storages[tensor.storage] = self._load(tensor.storage)
        numbers = self.storages[tensor.storage]
        # `_build_tensor` has proven that every index lies inside the storage.
        return np.lib.stride_tricks.as_strided(
            numbers[tensor.offset :],
            tensor.shape,
            tuple(step * numbers.itemsize for step in tensor.strides),
            writeable=False,
        )

    def _load(self, storage: Storage) -> Array:
        raw = self.read(storage)
        wanted = storage.count * _width(storage)
        if len(raw) != wanted:
            raise ValueError(f"{len(raw)} bytes for storage {storage.key!r} in place of {wanted}")
        if storage.dtype == "bfloat16":
            return widen_bfloat16(np.frombuffer(raw, np.dtype(f"{self.order}u2")))
        return np.frombuffer(raw, np.dtype(f"{self.order}{storage.dtype}"))


def _width(storage: Storage) -> int:
    """Return the bytes of one of its numbers."""
    return 2 if storage.dtype == "bfloat16" else np.dtype(storage.dtype).itemsize
