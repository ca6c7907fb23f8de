"""NumPy's .npz: a zip of .npy members, one array each; members that are pickles are refused."""

from __future__ import annotations

import math
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

from stemsplit.weights.convert.checkpoint import Array, Checkpoint, damaged
from stemsplit.weights.convert.pickled import is_sizes

# Weights hardly compress; a zip that grows more than this is a bomb, not weights.
_LARGEST_GROWTH = 100
_ALWAYS_FINE = 1 << 26

# NEP 1, "A simple file format for NumPy arrays": a Python literal, always written in this form.
_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 4096
_HEADER = re.compile(
    rb"\{'descr': '(?P<dtype>[<>|]?(?:b1|[iu][1248]|f[248]|c8|c16))', "
    rb"'fortran_order': (?P<fortran>True|False), 'shape': \((?P<shape>[\d, ]{0,640})\), \}\s*"
)


def read_npz(path: Path) -> Checkpoint:
    """Return the arrays of an .npz file.

    Args:
        path: The file.

    Raises:
        CheckpointError: It is damaged, grows out of proportion, or holds objects.
        OSError: It cannot be read.
    """
    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            whole = sum(member.file_size for member in members)
            if whole > max(_ALWAYS_FINE, _LARGEST_GROWTH * path.stat().st_size):
                raise damaged(path, f"it unpacks to {whole} bytes")
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name == member.filename or name in arrays:
                    raise damaged(path, f"its member {member.filename!r} is no array of its own")
                arrays[name] = _read_array(archive, member)
    except (zipfile.BadZipFile, EOFError, RuntimeError, struct.error, zlib.error) as error:
        raise damaged(path, f"it is a broken zip ({error})") from error
    except ValueError as error:
        raise damaged(path, f"it holds {error}") from error
    return Checkpoint(arrays)


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    """Read the header first, and the numbers only where both agree on the size."""
    with archive.open(member) as file:
        start = file.read(len(_MAGIC) + 2)
        width = {_MAGIC + b"\1\0": 2, _MAGIC + b"\2\0": 4}.get(start)
        if width is None:
            raise ValueError(f"{member.filename!r}, which is no array of version 1 or 2")
        length = int.from_bytes(file.read(width), "little")
        header = _HEADER.fullmatch(file.read(min(length, _LONGEST_HEADER)))
        if header is None:
            raise ValueError(f"{member.filename!r}, which is no array of numbers")
        dtype = np.dtype(header["dtype"].decode())
        shape = tuple(int(size) for size in header["shape"].split(b",") if size.strip())
        wanted = math.prod(shape) * dtype.itemsize
        if not is_sizes(shape) or wanted != member.file_size - file.tell():
            raise ValueError(f"an array of shape {shape} in {member.file_size} bytes")
        order: Literal["C", "F"] = "F" if header["fortran"] == b"True" else "C"
        return np.frombuffer(file.read(), dtype).reshape(shape, order=order)
