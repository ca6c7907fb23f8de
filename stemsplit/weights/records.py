"""What the cache remembers of files: stamps that save hashing, a lock file of first downloads."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from stemsplit.errors import WeightsError
from stemsplit.weights.digests import Known
from stemsplit.weights.disk import write_text
from stemsplit.weights.entry import WeightFile


class Stamps:
    """For each file its sha256, and the size and time that it had when that was computed.

    A stamp only saves work: without one, or with one that does not fit, the file is hashed again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, path: Path) -> str | None:
        """Return the sha256 of a file that has not been touched since; None otherwise."""
        try:
            stamp = json.loads(self._place(path).read_text(encoding="utf-8"))
            status = path.stat()
        except (OSError, ValueError):
            return None
        is_same = isinstance(stamp, dict) and (stamp.get("size"), stamp.get("mtime_ns")) == (
            status.st_size,
            status.st_mtime_ns,
        )
        return stamp.get("sha256") if is_same else None

    def write(self, path: Path, sha256: str) -> None:
        """Remember the sha256 of a file as it is now.

        Raises:
            OutputError: The cache cannot be written to.
        """
        status = path.stat()
        stamp = {
            "path": str(path),
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "sha256": sha256,
        }
        write_text(self._place(path), json.dumps(stamp))

    def forget(self, path: Path) -> None:
        """Remove a file's stamp."""
        self._place(path).unlink(missing_ok=True)

    def _place(self, path: Path) -> Path:
        key = hashlib.sha256(str(path.absolute()).encode("utf-8", "surrogateescape")).hexdigest()
        return self.folder / f"{key[:32]}.json"


class LockFile:
    """The sha256 that each file without a published one had at its first download.

    One line per source, for ever: it outlives the removal of a model, so that the same name cannot
    bring other weights another day. Callers hold a lock while they record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, file: WeightFile) -> str | None:
        """Return the sha256 recorded for a file, wherever it came from; None for none.

        Raises:
            WeightsError: The lock file is damaged.
        """
        records = self._read()
        return next((records[key] for key in _keys(file) if key in records), None)

    def know(self, file: WeightFile) -> Known:
        """Return what is recorded of a file, in the form that downloads take."""
        return Known(sha256=self.find(file), record=self.path)

    def record(self, file: WeightFile, sha256: str) -> None:
        """Remember a file's sha256 under every one of its sources.

        Raises:
            OutputError: The cache cannot be written to.
        """
        records = {**self._read(), **dict.fromkeys(_keys(file), sha256)}
        write_text(self.path, json.dumps(records, indent=1, sort_keys=True) + "\n")

    def _read(self) -> dict[str, str]:
        try:
            records: Any = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise self._damaged(error) from error
        if not isinstance(records, dict) or not all(isinstance(v, str) for v in records.values()):
            raise self._damaged("it is no table of hashes")
        return records

    def _damaged(self, reason: object) -> WeightsError:
        return WeightsError(
            f"the lock file {self.path} cannot be read: {reason}",
            help="delete it: the files it is about are then downloaded and recorded anew.",
        )


def _keys(file: WeightFile) -> list[str]:
    """Return what a file is recorded under: each source, what is published of it, the member."""
    published = f" ({file.sha256 or file.checksum})" if file.pin else ""
    member = f" {file.member}" if file.member else ""
    return [f"{source}{published}{member}" for source in file.source]
