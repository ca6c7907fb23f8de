"""The state of a training in a file: whole or not at all, and read without running code."""

from __future__ import annotations

import contextlib
import os
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from stemsplit.errors import CheckpointError
from stemsplit.weights.disk import make_folder, translate_errors

FORMAT = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state; until that is done, what stood there stays.

    Args:
        path: Where to.
        state: Tensors, numbers, texts, and lists and dictionaries of these.

    Raises:
        OutputError: The place cannot be written to.
    """
    make_folder(path.parent)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with translate_errors(path):
            with part.open("wb") as file:
                torch.save({"format": FORMAT, **state}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a state, its tensors on the CPU.

    Raises:
        CheckpointError: It is damaged, or of another version.
    """
    if (fault := _find_fault(path)) is not None:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {fault}", help=_advise(path))
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        # A zip of something else, or one whose table of contents is damaged.
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: {str(error).partition(chr(10))[0]}",
            help=_advise(path),
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else None
        raise CheckpointError(
            f"{path} is a checkpoint of format {found!r}, and this version reads {FORMAT}",
            help="resume with the version of stemsplit that wrote it.",
        )
    return state


def _find_fault(path: Path) -> str | None:
    """Return what is wrong with a file, or None where every byte is as it was written.

    torch checks lengths and no sums: zeros in the middle of a tensor are weights to it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except OSError as error:
        return error.strerror or str(error)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError):
        return "it is cut off, or something else"
    return None if bad is None else f"{bad} in it is not as it was written"


def _advise(path: Path) -> str:
    """Return what helps where a checkpoint is damaged: the latest whole one beside it, if any."""
    others = sorted(path.parent.glob("epoch=*.ckpt"), reverse=True)
    whole = next((other for other in others if other != path and _find_fault(other) is None), None)
    if whole is None:
        return "train anew: there is no other checkpoint beside it."
    return f"copy {whole} over it, and resume: the run goes on behind that epoch."


def remove_file(path: Path) -> None:
    """Remove a file that is not needed any more; where that fails it stays."""
    with contextlib.suppress(OSError):
        path.unlink()
