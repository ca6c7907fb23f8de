"""Conversion: a reader per format, and the one call that turns published files into a network's.

    bytes --read_checkpoint--> Checkpoint --keymap--> {target name: array} --write_safetensors-->

Readers never run what they read: a pickle goes through a machine of this package's own.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from stemsplit.errors import CheckpointError, UnknownNameError
from stemsplit.weights.convert.checkpoint import Array, Checkpoint, Scalar, damaged
from stemsplit.weights.convert.hdf5 import SIGNATURE, read_hdf5
from stemsplit.weights.convert.numpy_arrays import read_npz
from stemsplit.weights.convert.onnx import START as ONNX_START
from stemsplit.weights.convert.onnx import read_onnx
from stemsplit.weights.convert.safe_tensors import read_safetensors, write_safetensors
from stemsplit.weights.convert.sstable import MAGIC
from stemsplit.weights.convert.tensorflow import find_prefix, read_tensorflow
from stemsplit.weights.convert.torch_pickle import ZIP_START, read_torch_pickle
from stemsplit.weights.keymaps import build_keymap, fill_targets, rename_arrays

__all__ = [
    "FORMATS",
    "Array",
    "Checkpoint",
    "Scalar",
    "convert",
    "read_checkpoint",
    "read_safetensors",
    "read_weights",
    "sniff_format",
    "write_safetensors",
]

FORMATS = ("torch-pickle", "tensorflow", "hdf5", "safetensors", "numpy", "onnx")
"""What a registry may call a file's format."""

_READERS: Mapping[str, Callable[[Path], Checkpoint]] = {
    "tensorflow": read_tensorflow,
    "hdf5": read_hdf5,
    "safetensors": read_safetensors,
    "numpy": read_npz,
    "onnx": read_onnx,
}

WeightRow = tuple[Path, str, str | None, str | None]
"""One file of a model: where it is, its format, its keymap and, if it has one only, its stem."""


def convert(
    files: Sequence[WeightRow], stems: Sequence[str], target_shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Array]:
    """Return a network's tensors from all the files of one model.

    Args:
        files: (path, format, keymap, stem) of each; no keymap where the names are the network's own
            already. A TensorFlow checkpoint is one row; its other files lie beside it.
        stems: The model's, in the order of the published network.
        target_shapes: Name and shape of every tensor the network has.

    Returns:
        An array for each target, of its shape, in C order and this machine's byte order.

    Raises:
        UnsafeWeightsError: A pickle asks for a global outside the allow-list.
        CheckpointError: A file is missing or damaged, or tensors are missing, left over or of
            another shape; they are listed.
        UnknownNameError: A format or a keymap does not exist.
        RegistryError: A keymap needs a stem and the file names none, or one that is not there.
    """
    renamed: dict[str, Array] = {}
    unused: list[str] = []
    for path, format, keymap_name, stem in files:
        keymap = build_keymap(keymap_name, stem, stems)
        checkpoint = read_checkpoint(path, format, inert=keymap.inert)
        found = rename_arrays(keymap, checkpoint.arrays)
        if twice := sorted(renamed.keys() & found.arrays.keys()):
            raise damaged(path, f"{twice[0]!r} is in another of the model's files already")
        renamed.update(found.arrays)
        unused.extend(found.unused)
    names = ", ".join(path.name for path, *_ in files)
    return fill_targets(renamed, unused, target_shapes, origin=f"the weights in {names}")


def read_checkpoint(path: Path, format: str, *, inert: frozenset[str] = frozenset()) -> Checkpoint:
    """Return the arrays and the metadata of a file.

    Args:
        path: The file; for "tensorflow" any of the checkpoint's, its folder or its prefix.
        format: One of `FORMATS`.
        inert: For "torch-pickle": dotted names of classes to be kept as placeholders.

    Raises:
        UnknownNameError: There is no such format.
        UnsafeWeightsError: A pickle asks for a global outside the allow-list.
        CheckpointError: The file is missing, damaged or of another format.
    """
    if format not in FORMATS:
        raise UnknownNameError("format", format, FORMATS)
    try:
        if format == "torch-pickle":
            return read_torch_pickle(path, inert)
        return _READERS[format](path)
    except OSError as error:
        raise _unreadable(path, error) from error


def read_weights(path: Path, format: str) -> dict[str, Array]:
    """Return the arrays of a file by name; see `read_checkpoint`."""
    return dict(read_checkpoint(path, format).arrays)


def sniff_format(path: Path) -> str | None:
    """Return the format of a person's own file by what is in it, or None where that is unknown.

    Args:
        path: A file, or the folder or prefix of a TensorFlow checkpoint.

    Raises:
        CheckpointError: It cannot be read.
    """
    try:
        if path.is_dir():
            return "tensorflow" if len(list(path.glob("*.index"))) == 1 else None
        prefix = find_prefix(path)
        index = prefix.with_name(f"{prefix.name}.index")
        if index.is_file() and index.read_bytes()[-len(MAGIC) :] == MAGIC:
            return "tensorflow"
        with path.open("rb") as file:
            start = file.read(16)
            if start.startswith(ZIP_START):
                return _sniff_zip(file)
    except OSError as error:
        raise _unreadable(path, error) from error
    if start.startswith(SIGNATURE):
        return "hdf5"
    if start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return "torch-pickle"
    if start.startswith(ONNX_START) and path.suffix.casefold() == ".onnx":
        return "onnx"  # its content has no mark of its own
    if len(start) > 8 and start[8:9] == b"{":
        return "safetensors"
    return None


def _sniff_zip(file: BinaryIO) -> str | None:
    try:
        with zipfile.ZipFile(file) as archive:
            names = [PurePosixPath(name) for name in archive.namelist()]
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, struct.error):
        return None
    if any(name.name == "data.pkl" for name in names):
        return "torch-pickle"
    return "numpy" if names and all(name.suffix == ".npy" for name in names) else None


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be read: {error.strerror or error}",
        help="check that the file exists and that you may read it.",
    )
