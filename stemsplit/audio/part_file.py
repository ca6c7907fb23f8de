"""A file that is there complete or not at all: written as `NAME.part`, then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from pathlib import Path
from typing import Final

from stemsplit.errors import DiskFullError, OutputError

_SUFFIX: Final = ".part"
_NAME_BYTES: Final = 255
_FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT))


class PartFile:
    """The place where a file grows, beside the place where it belongs.

    Attributes:
        path: Where it belongs.
        part: Where it grows, in the same folder.
    """

    def __init__(self, path: Path) -> None:
        """Make the folder and an empty part file; one left over from before is overwritten.

        Args:
            path: Where the finished file belongs.

        Raises:
            OutputError: It is a folder, or the place cannot be written to.
            DiskFullError: The disk is full.
        """
        self.path = path
        self.part = name_part(path)
        try:
            if path.is_dir():
                raise OutputError(
                    f"{str(path)!r} is a folder, so no file of that name can be written",
                    help="choose another name or folder.",
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            with self.part.open("wb"):
                pass
        except (OSError, ValueError) as error:
            raise explain_os_error(error, path) from error

    def commit(self) -> None:
        """Bring what was written safely to the disk and give it its name.

        Raises:
            OutputError: It cannot be renamed.
            DiskFullError: The disk turned out to be full.
        """
        try:
            with self.part.open("rb+") as file:
                os.fsync(file.fileno())
            self.part.replace(self.path)
        except OSError as error:
            self.discard()
            raise explain_os_error(error, self.path) from error

    def discard(self) -> None:
        """Remove the part file, if there is one."""
        with contextlib.suppress(OSError):
            self.part.unlink()


def name_part(path: Path) -> Path:
    """Return `NAME.part`; where that is too long for a file's name, its beginning and a hash."""
    name = os.fsencode(path.name + _SUFFIX)
    if len(name) <= _NAME_BYTES:
        return path.with_name(path.name + _SUFFIX)
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    end = f"~{digest}{_SUFFIX}"
    # Cut by bytes, and not within a character.
    start = path.name.encode("utf-8", "replace")[: _NAME_BYTES - len(end)].decode("utf-8", "ignore")
    return path.with_name(start + end)


def explain_os_error(error: OSError | ValueError, path: Path) -> OutputError:
    """Return the error that tells a person why a place cannot be written to."""
    code = getattr(error, "errno", None)
    name = repr(str(path))
    if code in _FULL:
        return DiskFullError(
            f"the disk is full: {name} could not be written",
            help="free some space, or choose a folder on another disk.",
        )
    reason = getattr(error, "strerror", None) or str(error)
    if code in (errno.ENOTDIR, errno.EEXIST):
        for part in path.parents:
            if part.exists() and not part.is_dir():
                return OutputError(
                    f"{name} cannot be written: {str(part)!r} is a file, and no folder",
                    help="choose another folder, or move that file away.",
                )
    helps = {
        errno.EACCES: "choose a folder that you may write to.",
        errno.EPERM: "choose a folder that you may write to.",
        errno.EROFS: "the disk is read-only: choose a folder on another one.",
        errno.ENAMETOOLONG: "choose a shorter name.",
        errno.EFBIG: "the disk's format holds no file of this size: choose another disk.",
    }
    help = helps.get(code or 0, "check the folder and the disk.")
    return OutputError(f"{name} cannot be written: {reason}", help=help)
