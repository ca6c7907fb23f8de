"""The files that a person brought: each is sniffed once and read once, whoever asks."""

from __future__ import annotations

from pathlib import Path

from stemsplit.errors import CheckpointError, StemsplitError, UnsafeWeightsError
from stemsplit.weights.convert import Checkpoint, read_checkpoint, sniff_format


class Brought:
    """A file as it was brought: its format by its bytes, its tensors under their own names."""

    def __init__(self, path: Path, format: str) -> None:
        self.path = path
        self.format = format
        self._read: dict[frozenset[str], Checkpoint | StemsplitError] = {}

    def read(self, inert: frozenset[str]) -> Checkpoint:
        """Return what is in it; `inert` as a keymap has it.

        Raises:
            CheckpointError: It is damaged.
            UnsafeWeightsError: It is a pickle that asks for what no weights need.
        """
        if inert not in self._read:
            try:
                self._read[inert] = read_checkpoint(self.path, self.format, inert=inert)
            except (CheckpointError, UnsafeWeightsError) as error:
                self._read[inert] = error
        found = self._read[inert]
        if isinstance(found, StemsplitError):
            # Without what held on to the file's contents when it was first raised.
            raise found.with_traceback(None)
        return found

    def has(self, name: str, inert: frozenset[str]) -> bool:
        """Whether it can be read and has a tensor of this name."""
        try:
            return name in self.read(inert).arrays
        except (CheckpointError, UnsafeWeightsError):
            return False


class Shelf:
    """All the files that were looked at, so that none is read twice."""

    def __init__(self) -> None:
        self._files: dict[Path, Brought | None] = {}

    def take(self, path: Path) -> Brought | None:
        """Return a file, or None where it is in no format of weights."""
        if path not in self._files:
            format = sniff_format(path)
            self._files[path] = None if format is None else Brought(path, format)
        return self._files[path]
