"""One file out of a zip or tar, and nothing else: no other path is written, no bomb goes off."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from stemsplit.errors import ArchiveError
from stemsplit.weights.digests import copy_hashing
from stemsplit.weights.disk import check_free_space
from stemsplit.weights.sources import is_inner_path

# Weights hardly compress; more than this is an attack or a mistake.
GROWTH_LIMIT = 200
GROWTH_FLOOR_BYTES = 16 << 20

_OPENERS: dict[bytes, Callable[[Path], io.BufferedIOBase]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
_DAMAGE = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError,
    NotImplementedError, RuntimeError,
)  # fmt: skip


def extract_member(archive: Path, member: str, target: Path, name: str | None = None) -> str:
    """Write one member of a zip or tar (.gz, .bz2, .xz) to a file, and return its sha256.

    Args:
        archive: The archive; what it is shows in its first bytes.
        member: The wanted file's path inside; a leading "./" does not count. In a zip that does not
            have it at the top, a bare name is that of the one such file in any folder.
        target: The file to write, in an existing folder. Nothing is left there on an error.
        name: What to call the archive in messages; default: its path.

    Raises:
        ArchiveError: It is damaged or no archive, lacks the member, holds a path that leaves its
            folder, has a link or a device for the member, or grows beyond all measure.
        DiskFullError: The member does not fit on the disk.
    """
    name = name or str(archive)
    try:
        if has_magic(archive, b"PK\x03\x04", b"PK\x05\x06"):
            return _extract_zip(archive, member, target, name)
        return _extract_tar(archive, member, target, name)
    except _DAMAGE as error:
        target.unlink(missing_ok=True)
        raise ArchiveError(
            f"{name} cannot be unpacked: {str(error) or type(error).__name__}",
            help="it is damaged, or no zip or tar; remove it and fetch it again.",
        ) from error
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def has_magic(path: Path, *leads: bytes) -> bool:
    """Whether a file begins with one of these."""
    with path.open("rb") as file:
        return file.read(8).startswith(leads)


def _extract_zip(archive: Path, member: str, target: Path, name: str) -> str:
    limit = _limit(archive)
    with zipfile.ZipFile(archive) as file:
        infos = file.infolist()
        wanted = _choose([info.filename for info in infos], member, name)
        info = infos[wanted]
        mode = info.external_attr >> 16
        if info.is_dir() or (stat.S_IFMT(mode) not in (0, stat.S_IFREG)):
            _refuse(name, f"has no plain file for {member!r}")
        if info.file_size > limit:
            _refuse(name, f"says that {member!r} has {info.file_size} bytes: that is a bomb")
        check_free_space(target.parent, info.file_size)
        with file.open(info) as stream:
            return copy_hashing(stream, target)


def _extract_tar(archive: Path, member: str, target: Path, name: str) -> str:
    with _open_tar(archive, name) as file:
        found = None
        for info in file:
            if _clean(info.name) == member and not info.isdir():
                if found is not None:
                    _refuse(name, f"holds {member!r} twice")
                if not info.isreg() or info.sparse is not None:
                    _refuse(name, f"has no plain file for {member!r}")
                check_free_space(target.parent, info.size)
                content = file.extractfile(info)
                assert content is not None  # it is a plain file
                with content:
                    found = copy_hashing(content, target)
            else:
                _check_inside(info.name, name)
    if found is None:
        raise _missing(name, member)
    return found


@contextmanager
def _open_tar(archive: Path, name: str) -> Iterator[tarfile.TarFile]:
    """Open a tar as a stream whose decompressed length is bounded: headers, content and all."""
    opener = next((how for lead, how in _OPENERS.items() if has_magic(archive, lead)), None)
    with opener(archive) if opener else archive.open("rb") as plain:
        bounded = _Bounded(plain, _limit(archive), name)
        with tarfile.open(fileobj=bounded, mode="r|") as tar:
            yield tar


class _Bounded(io.RawIOBase):
    """A stream that ends in an ArchiveError after so many bytes."""

    def __init__(self, stream: io.BufferedIOBase, limit: int, name: str) -> None:
        self.stream = stream
        self.left = limit
        self.name = name

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            _refuse(self.name, "grows beyond all measure when it is unpacked: that is a bomb")
        return data


def _limit(archive: Path) -> int:
    return GROWTH_LIMIT * archive.stat().st_size + GROWTH_FLOOR_BYTES


def _clean(path: str) -> str:
    while path.startswith("./"):
        path = path[2:]
    return path


def _choose(paths: list[str], member: str, name: str) -> int:
    """Return which path is the member's; all of them have to stay inside."""
    for path in paths:
        _check_inside(path, name)
    cleaned = [_clean(path) for path in paths]
    found = [row for row, path in enumerate(cleaned) if path == member]
    if not found and "/" not in member:
        found = [row for row, path in enumerate(cleaned) if path.endswith(f"/{member}")]
    if not found:
        raise _missing(name, member)
    if len(found) > 1:
        _refuse(name, f"holds {member!r} twice")
    return found[0]


def _check_inside(path: str, name: str) -> None:
    cleaned = _clean(path).rstrip("/")
    if cleaned not in ("", ".") and not is_inner_path(cleaned):
        _refuse(name, f"holds {path!r}, which leaves its folder")


def _missing(name: str, member: str) -> ArchiveError:
    return ArchiveError(
        f"{name} has no member {member!r}", help="compare the registry's table with what is in it."
    )


def _refuse(name: str, reason: str) -> NoReturn:
    raise ArchiveError(f"{name} {reason}", help="do not use it; fetch it from its publisher.")
