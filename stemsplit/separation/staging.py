"""Where a song's outputs grow until all of them are whole, and how they then appear at once.

    song/stemsplit.json.part/      the staging folder, beside the manifest
        00/vocals.wav
        01/accompaniment.wav ...   outputs, each under its own name for the sake of messages; then
        manifest.json              the decision: from here on the song counts as done

What dies before the manifest is there leaves a folder that the next run empties. What dies after it
leaves renames that the next run carries out. Either way outputs are whole or not there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import filelock
from typing_extensions import Self

from stemsplit.audio.part_file import explain_os_error
from stemsplit.errors import DiskFullError, InUseError, OutputError
from stemsplit.separation.manifest import (
    PARTIAL_SUFFIX,
    STAGED_MANIFEST,
    Manifest,
    read_manifest,
)
from stemsplit.separation.naming import Job

_LOCK_NAME = "lock"
_LOCK_WAIT_S = 0.5
_TRIES = 20


class Workplace:
    """A folder that one process has at a time, empty at the beginning and gone at the end.

    What a process that was killed has left in it goes when the next one comes.

    Attributes:
        folder: Where to work.
    """

    def __init__(self, folder: Path, purpose: Path) -> None:
        """Name the folder; it is made on entering.

        Args:
            folder: The same for all that must not work at once.
            purpose: What is made there, for messages.
        """
        self.folder = folder
        self._purpose = purpose
        self._made: list[Path] = []
        self._lock = filelock.FileLock(self.folder / _LOCK_NAME, timeout=_LOCK_WAIT_S)

    def __enter__(self) -> Self:
        """Make the folder, and empty it.

        Raises:
            OutputError: The place cannot be written to, or another process is writing there.
        """
        try:
            if self.folder.is_symlink():
                raise OutputError(
                    f"{str(self.folder)!r} is a link, and what is made would go through it",
                    help="remove it, or choose another folder with -o.",
                )
            with refuse_os_errors(self.folder):
                self._settle()
                self._take_up()
                self._clear()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the folder, and those that were made for it and are empty."""
        self._leave()

    def _take_up(self) -> None:
        """Do something about what is there, before it goes."""

    def _must_stay(self) -> bool:
        """Say whether what is there is for the next one to take up."""
        return False

    def _settle(self) -> None:
        """Make the folder and take its lock; whoever leaves it may remove it between the two."""
        for _ in range(_TRIES):
            self._made += _make_folders(self.folder)
            with contextlib.suppress(FileNotFoundError):
                self._claim()
                return
        self._claim()

    def _claim(self) -> None:
        try:
            self._lock.acquire()
        except filelock.Timeout:
            raise InUseError(
                f"another process is writing {str(self._purpose)!r}",
                help="let it finish, or stop it, and run again.",
            ) from None

    def _leave(self) -> None:
        if self._lock.is_locked:
            if not self._must_stay():
                with contextlib.suppress(OSError):
                    self._clear()
            # Unlinked while it is held, so that nobody holds another lock of this name meanwhile;
            # Windows cannot unlink what is open.
            self._unlink_lock()
            self._lock.release()
            if os.name == "nt":
                self._unlink_lock()
        for folder in (self.folder, *self._made[::-1]):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _unlink_lock(self) -> None:
        with contextlib.suppress(OSError):
            (self.folder / _LOCK_NAME).unlink()

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != _LOCK_NAME:
                path.unlink()


class Staging(Workplace):
    """A context in which a song's outputs are made; without `commit`, nothing of them stays.

    On entering, what an interrupted run had decided is carried out, and what it had not is dropped.

    Attributes:
        folder: Where to write; on the outputs' own file system.
    """

    def __init__(self, job: Job) -> None:
        """Name the folder; it is made on entering."""
        super().__init__(staging_folder(job), job.manifest.parent)
        self._job = job

    def name(self, index: int, target: Path) -> Path:
        """Return where the output that will be `target`, number `index`, is to be written.

        It has a folder to itself.

        Raises:
            OutputError: The folder cannot be made.
        """
        path = _staged_path(self.folder, index, target)
        with refuse_os_errors(path.parent):
            path.parent.mkdir(exist_ok=True)
        return path

    def commit(self, manifest: Manifest) -> None:
        """Move every output to its place, the manifest last.

        Args:
            manifest: Of all files; each lies where `name` says.

        Raises:
            OutputError: A place cannot be written to; the next run will try again.
        """
        staged = self.folder / STAGED_MANIFEST
        with refuse_os_errors(self._job.manifest):
            _write_whole(staged, manifest.to_json())
            _move_outputs(self.folder, manifest)

    def _take_up(self) -> None:
        _move_outputs(self.folder, read_manifest(self.folder / STAGED_MANIFEST))

    def _must_stay(self) -> bool:
        return (self.folder / STAGED_MANIFEST).exists()


def staging_folder(job: Job) -> Path:
    """Return where a job's outputs grow: the same place in every run."""
    return job.manifest.with_name(job.manifest.name + PARTIAL_SUFFIX)


def _move_outputs(staging: Path, manifest: Manifest | None) -> None:
    """Give the files of a staged manifest their names; those moved already are left alone."""
    if manifest is None:
        return
    place = staging.parent
    for index, record in enumerate(manifest.files):
        target = place / record.file
        staged = _staged_path(staging, index, target)
        if staged.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged, target)
    target = staging.with_name(staging.name.removesuffix(PARTIAL_SUFFIX))
    os.replace(staging / STAGED_MANIFEST, target)


def _staged_path(staging: Path, index: int, target: Path) -> Path:
    return staging / f"{index:02d}" / target.name


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _make_folders(path: Path) -> list[Path]:
    """Make a folder and its parents; return those that were not there, outermost first.

    A parent may go the moment it is there: a song that came to nothing takes away what it had made.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for _ in range(_TRIES):
        with contextlib.suppress(FileNotFoundError):
            path.mkdir(parents=True, exist_ok=True)
            break
    else:
        path.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


@contextlib.contextmanager
def refuse_os_errors(path: Path) -> Iterator[None]:
    """Turn an operating system's error into one that says what to do.

    Raises:
        DiskFullError: No space is left, or the quota is used up.
        OutputError: Anything else.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            said = error.strerror or str(error)
            raise DiskFullError(
                f"no space is left for {str(path)!r}: {said}",
                help="free some space and run again; songs that are done are skipped.",
            ) from error
        raise explain_os_error(error, Path(error.filename or path)) from error


_FULL: Sequence[int] = (errno.ENOSPC, errno.EDQUOT)
