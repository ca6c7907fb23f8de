"""The state of a training in a file: whole or not at all, and read without running code."""

from __future__ import annotations

import contextlib
import os
import pickle
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
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: {str(error).splitlines()[0]}",
            help="put another checkpoint of the same run in its place, or train anew.",
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else None
        raise CheckpointError(
            f"{path} is a checkpoint of format {found!r}, and this version reads {FORMAT}",
            help="resume with the version of stemsplit that wrote it.",
        )
    return state


def remove_file(path: Path) -> None:
    """Remove a file that is not needed any more; where that fails it stays."""
    with contextlib.suppress(OSError):
        path.unlink()
