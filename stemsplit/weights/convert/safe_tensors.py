"""The safetensors format: what every conversion ends in, and what some weights come in.

    8 bytes: length of the header | header: JSON | the numbers

`safetensors` itself checks the header (no overlaps, no gaps, nothing outside the file).
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from stemsplit.errors import DiskFullError, OutputError
from stemsplit.weights.convert.checkpoint import Array, Checkpoint, damaged, widen_bfloat16
from stemsplit.weights.keymaps.keymap import to_native

_DTYPES = {
    "F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2", "BOOL": "?",
    "I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8",
    "U8": "<u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "C64": "<c8",
}  # fmt: skip


def read_safetensors(path: Path) -> Checkpoint:
    """Return the tensors of a safetensors file; its own metadata become the checkpoint's.

    Args:
        path: The file.

    Raises:
        CheckpointError: It is damaged, or holds a type that NumPy lacks.
        OSError: It cannot be read.
    """
    data = path.read_bytes()
    try:
        tensors: list[tuple[str, dict[str, Any]]] = safetensors.deserialize(data)  # type: ignore[no-untyped-call]  # compiled
    except safetensors.SafetensorError as error:
        raise damaged(path, f"it is no safetensors file ({error})") from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    arrays: dict[str, Array] = {}
    for name, tensor in tensors:
        if tensor["dtype"] not in _DTYPES:
            raise damaged(path, f"the tensor {name!r} is of the unknown type {tensor['dtype']}")
        numbers = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]])
        numbers = widen_bfloat16(numbers) if tensor["dtype"] == "BF16" else numbers
        arrays[name] = numbers.reshape(tensor["shape"])
    return Checkpoint(arrays, header.get("__metadata__", {}))


def write_safetensors(
    arrays: Mapping[str, Array], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, whole or not at all: the old one stays until the new is complete.

    Args:
        arrays: Tensors by name, of any memory order and byte order.
        path: The file; its folder must exist.
        metadata: Texts to be kept with them.

    Raises:
        DiskFullError: There is no room for it.
        OutputError: The place cannot be written to.
    """
    native = {name: to_native(array) for name, array in arrays.items()}
    part: Path | None = None
    try:
        content = safetensors.numpy.save(native, dict(metadata or {}))
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
        ) as file:
            part = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        part = None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"no space is left to write {path}", help="free some space, or write elsewhere."
            ) from error
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}",
            help="check that its folder exists and that you may write there.",
        ) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
