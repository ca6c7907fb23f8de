"""NumPy's .npz: a zip of .npy members, one array each; members that are pickles are refused."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from stemsplit.weights.convert.checkpoint import Array, Checkpoint, damaged
from stemsplit.weights.convert.pickled import is_sizes

# Weights hardly compress; a zip that grows more than this is a bomb, not weights.
_LARGEST_GROWTH = 100
_ALWAYS_FINE = 1 << 26


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
    """Read the header first and the numbers only where both agree on the size."""
    with archive.open(member) as file:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"an array of version {version}")
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, is_fortran, dtype = read_header(file)
        if dtype.kind not in "biufc" or not is_sizes(shape):
            raise ValueError(f"an array of {dtype} ({member.filename!r}), which is no number")
        wanted = math.prod(shape) * dtype.itemsize
        if wanted != member.file_size - file.tell():
            raise ValueError(f"an array of shape {shape} in {member.file_size} bytes")
        return np.frombuffer(file.read(), dtype).reshape(shape, order="F" if is_fortran else "C")
