"""Hashes: what is known of a file before it arrives, and whether what arrived is that file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from stemsplit.errors import HashMismatchError, TruncatedError, WeightsError
from stemsplit.weights.disk import translate_errors

Progress = Callable[[int, "int | None"], None]
"""Called with the bytes that are done and the bytes in all (None: not known)."""

BLOCK_BYTES = 1 << 18


@dataclass(frozen=True)
class Known:
    """What is known of a file before it is fetched.

    Attributes:
        sha256: Of all its bytes.
        checksum: A weaker hash, "kind:digits", as in the registry.
        size: Bytes.
        record: The file in the cache that `sha256` comes from; None: it was published.
    """

    sha256: str | None = None
    checksum: str | None = None
    size: int | None = None
    record: Path | None = None

    @property
    def is_checkable(self) -> bool:
        """Whether a file that was cut short would be noticed."""
        return not (self.sha256 is None and self.checksum is None and self.size is None)


def hash_file(path: Path, algorithm: str = "sha256", lead: bytes = b"") -> str:
    """Return the hexadecimal hash of a file.

    Args:
        path: The file.
        algorithm: A name that hashlib knows.
        lead: Hashed before the file.

    Raises:
        WeightsError: The file cannot be read.
    """
    return feed_file(hashlib.new(algorithm, lead, usedforsecurity=False), path).hexdigest()


def feed_file(hasher: hashlib._Hash, path: Path) -> hashlib._Hash:
    """Feed a whole file to a hash object, and return that.

    Raises:
        WeightsError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                hasher.update(block)
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read: {error.strerror or error}",
            help="check that the file is there and that you may read it.",
        ) from error
    return hasher


def copy_hashing(
    source: IO[bytes], target: Path, on_block: Callable[[int], None] | None = None
) -> str:
    """Write what is left of an open file to another, and return the sha256 of it.

    Args:
        source: Read to its end.
        target: Created or replaced.
        on_block: Called with the bytes written so far, before each block is written; what it
            raises ends the copy.

    Raises:
        DiskFullError: No space is left.
        OutputError: `target` cannot be written.
    """
    hasher = hashlib.sha256()
    done = 0
    with translate_errors(target):
        file = target.open("wb")
    with file:
        while block := source.read(BLOCK_BYTES):
            done += len(block)
            if on_block is not None:
                on_block(done)
            hasher.update(block)
            with translate_errors(target):
                file.write(block)
        with translate_errors(target):
            file.flush()
    return hasher.hexdigest()


def check_file(path: Path, sha256: str, known: Known, source: str) -> None:
    """Refuse a file that is not the one it should be.

    Args:
        path: The file, complete.
        sha256: Its hash.
        known: What it should be.
        source: Where it came from: the message names it.

    Raises:
        TruncatedError: It has another size.
        HashMismatchError: It has another hash.
    """
    if known.sha256 is not None:
        if sha256 != known.sha256:
            raise _mismatch(source, "sha256", sha256, known.sha256, known.record)
    elif known.size is not None and path.stat().st_size != known.size:
        raise TruncatedError(
            f"{source} has {path.stat().st_size} bytes, and should have {known.size}",
            help="try again later; if it stays so, the publisher has changed the file.",
        )
    if known.checksum is not None:
        kind, _, wanted = known.checksum.partition(":")
        found = compute_checksum(path, sha256, kind)[: len(wanted)]
        if found != wanted:
            raise _mismatch(source, kind, found, wanted, None)


def compute_checksum(path: Path, sha256: str, kind: str) -> str:
    """Return a file's checksum of one of the kinds in `stemsplit.weights.entry.CHECKSUM_DIGITS`.

    Args:
        path: The file.
        sha256: Its full sha256.
        kind: "sha256-prefix" (all digits are returned), "sha1" or "git-blob".
    """
    if kind == "sha256-prefix":
        return sha256
    # Git hashes a header with the size in front of the content.
    lead = f"blob {path.stat().st_size}\0".encode() if kind == "git-blob" else b""
    return hash_file(path, "sha1", lead)


def _mismatch(
    source: str, kind: str, found: str, wanted: str, record: Path | None
) -> HashMismatchError:
    if record is None:
        return HashMismatchError(
            f"{source} is not the published file: its {kind} is {found} instead of {wanted}",
            help="try again; if it stays so, the file was changed by its host or on the way: "
            "do not use it.",
        )
    return HashMismatchError(
        f"{source} is not the file that was there at the first download: "
        f"its sha256 is {found}, then it was {wanted}",
        help=f"if you trust the new file, delete the old one's line from {record}.",
    )
