"""Where songs lie and stems go: folders of this machine, and object storage through fsspec.

A name is an absolute path, or a URL such as "s3://bucket/album/song.mp3"; "/" between its parts.

Longer than other files: both kinds of storage keep to the same verbs, and stand beside each other.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import itertools
import os
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from stemsplit.audio.part_file import PartFile, explain_os_error
from stemsplit.errors import (
    DecodeError,
    OutputError,
    StemsplitError,
    StorageError,
    UnknownNameError,
    UsageError,
)

EXTRA = 'pip install "stemsplit[cloud]"'

_VERSION_KEYS = ("ETag", "etag", "md5Hash", "md5", "generation", "content_md5")
_TIME_KEYS = ("LastModified", "last_modified", "updated", "mtime", "created")

_TEXT: Mapping[str, Any] = {"encoding": "utf-8-sig", "errors": "surrogateescape"}
_WAITS_S = (1.0, 2.0, 4.0)
"""Before a listing, or the rest of a list, is asked for again."""

AnswerT = TypeVar("AnswerT")
Verb = Literal["read", "written"]


@dataclass(frozen=True)
class Described:
    """What storage knows of a name without reading it.

    Attributes:
        is_folder: Whether there are names below it.
        size: Bytes; 0 for a folder.
        version: Another text for other bytes; None where storage has no such thing.
    """

    is_folder: bool
    size: int = 0
    version: str | None = None


@dataclass(frozen=True)
class Listing:
    """One folder of a walk.

    Attributes:
        folder: Its name.
        folders: Names of the folders in it, without the path; what is taken out is not walked.
        files: Names of the files in it, without the path.
        unread: Folders below the one before, whole names, that cannot be read, and why not.
    """

    folder: str
    folders: list[str]
    files: list[str]
    unread: tuple[tuple[str, str], ...] = ()


class Storage(ABC):
    """The verbs that a folder and a bucket have in common."""

    @abstractmethod
    def describe(self, name: str) -> Described | None:
        """Look at a name; None where there is nothing."""

    @abstractmethod
    def walk(self, root: str) -> Iterator[Listing]:
        """List a folder and all below it, one folder at a time, in the order of the names."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Return a small file's bytes; None where there is none."""

    @abstractmethod
    def lines(self, name: str) -> Iterator[str]:
        """Yield the lines of a text file of any length, without their ends."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write a small file, whole or not at all."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is removed already."""


class Folders(Storage):
    """Folders of this machine."""

    def describe(self, name: str) -> Described | None:
        """Look at a path; what is neither a file nor a folder is taken for nothing."""
        try:
            found = os.stat(name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise UsageError(f"{name!r} cannot be opened: {error}", help="check it.") from None
        if stat.S_ISDIR(found.st_mode):
            return Described(is_folder=True)
        if not stat.S_ISREG(found.st_mode):
            return None
        return Described(is_folder=False, size=found.st_size)

    def walk(self, root: str) -> Iterator[Listing]:
        """List a folder; links to folders are not followed, and a folder that has gone is none."""
        unread: list[tuple[str, str]] = []

        def note(error: OSError) -> None:
            if error.filename == root:
                _refuse_folder(error)
            if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
                unread.append((str(error.filename), error.strerror or str(error)))

        for folder, folders, files in os.walk(root, onerror=note):
            folders.sort(key=_sort_key)
            yield Listing(folder, folders, sorted(files, key=_sort_key), tuple(unread))
            unread.clear()
        if unread:
            yield Listing(root, [], [], tuple(unread))

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes."""
        try:
            return Path(name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _refuse(name, "read", error) from error

    def lines(self, name: str) -> Iterator[str]:
        """Yield lines; bytes that are no UTF-8 stay the file name that they are."""
        try:
            with open(name, **_TEXT) as file:
                for line in file:
                    yield line.rstrip("\r\n")
        except OSError as error:
            raise _refuse(name, "read", error) from error

    def write(self, name: str, data: bytes) -> None:
        """Write beside it and rename."""
        file = PartFile(Path(name))
        try:
            file.part.write_bytes(data)
        except OSError as error:
            file.discard()
            raise explain_os_error(error, file.path) from error
        file.commit()

    def remove(self, name: str) -> None:
        """Remove a file."""
        try:
            Path(name).unlink(missing_ok=True)
        except OSError as error:
            raise explain_os_error(error, Path(name)) from error


class ObjectStorage(Storage):
    """A bucket, or whatever else fsspec knows, by URL. One object for any number of threads."""

    def __init__(self, url: str) -> None:
        """Connect.

        Args:
            url: Any name in it.

        Raises:
            StemsplitError: A package for it is not installed, or it cannot be reached.
        """
        self._protocol, _, _ = url.partition("://")
        if importlib.util.find_spec("fsspec") is None:
            raise StemsplitError(f"{url!r} needs the package fsspec", help=f"{EXTRA} installs it.")
        fsspec: Any = importlib.import_module("fsspec")
        try:
            # What a listing said a while ago is no news: others write there too.
            self._files: Any = fsspec.filesystem(self._protocol, use_listings_cache=False)
        except ImportError as error:
            raise StemsplitError(
                f"{self._protocol}:// needs a package that is not installed: {error}",
                help=f"{EXTRA} brings those for s3:// and gs://.",
            ) from error
        except ValueError:
            known = fsspec.available_protocols()
            raise UnknownNameError("kind of storage", self._protocol, known) from None

    def describe(self, name: str) -> Described | None:
        """Look at a URL."""
        with self._asking(name, "read"):
            try:
                info = self._files.info(name)
            except FileNotFoundError:
                return None
        if info["type"] == "directory":
            return Described(is_folder=True)
        return Described(is_folder=False, size=info["size"], version=_version_of(info))

    def walk(self, root: str) -> Iterator[Listing]:
        """List a folder; a request, or one per thousand names, for each folder below it."""
        waiting = [root]
        while waiting:
            here = waiting.pop()
            own = self._files._strip_protocol(here)
            folders: list[str] = []
            files: list[str] = []
            try:
                found = insist(partial(self._list, here))
            except DecodeError:
                if here == root:
                    raise
                yield Listing(here, [], [], ((here, "that is not allowed"),))
                continue
            for info in found:
                path = info["name"].rstrip("/")
                if path != own:  # An empty object that stands for the folder itself.
                    kind = folders if info["type"] == "directory" else files
                    kind.append(path.rpartition("/")[2])
            folders.sort(key=_sort_key)
            yield Listing(here, folders, sorted(files, key=_sort_key))
            waiting += [join(here, name) for name in reversed(folders)]

    def _list(self, folder: str) -> Sequence[Mapping[str, Any]]:
        """Return what is known of all that is right below a folder."""
        with self._asking(folder, "read"):
            try:
                found: Sequence[Mapping[str, Any]] = self._files.ls(folder, detail=True)
            except FileNotFoundError:
                return ()
        return found

    def read(self, name: str) -> bytes | None:
        """Return an object's bytes."""
        with self._asking(name, "read"):
            try:
                data: bytes = self._files.cat_file(name)
            except FileNotFoundError:
                return None
            return data

    def lines(self, name: str) -> Iterator[str]:
        """Yield lines, reading a few megabytes at a time."""
        told = 0
        waits_s = iter(_WAITS_S)
        while True:
            before = told
            try:
                with self._asking(name, "read"), self._files.open(name, "rt", **_TEXT) as file:
                    for line in itertools.islice(file, told, None):
                        told += 1
                        yield line.rstrip("\r\n")
                return
            except StorageError:
                # A list that is read for days may fail now and then, if it goes on in between.
                waits_s = iter(_WAITS_S) if told > before else waits_s
                wait_s = next(waits_s, None)
                if wait_s is None:
                    raise
                time.sleep(wait_s)

    def write(self, name: str, data: bytes) -> None:
        """Write an object; stores show it when it is whole."""
        with self._asking(name, "written"):
            self._files.pipe_file(name, data)

    def remove(self, name: str) -> None:
        """Remove an object."""
        with self._asking(name, "written"), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(name)

    def fetch(self, name: str, path: Path) -> None:
        """Copy an object into a new file.

        Raises:
            DecodeError: It is not there.
        """
        with self._asking(name, "read"):
            self._files.get_file(name, os.fspath(path))

    def upload(self, path: Path, name: str) -> None:
        """Copy a file to an object."""
        with self._asking(name, "written"):
            self._files.put_file(os.fspath(path), name)

    def sizes(self, folder: str) -> Mapping[str, int]:
        """Return the sizes of the objects right below a folder, by name without the path."""
        return {
            info["name"].rpartition("/")[2]: info["size"]
            for info in self._list(folder)
            if info["type"] == "file"
        }

    @contextlib.contextmanager
    def _asking(self, name: str, verb: Verb) -> Iterator[None]:
        """Tell what storage says in two lines.

        Whatever a client library raises concerns the one thing that it was asked.

        Raises:
            DecodeError: There is nothing to read, or it may not be read.
            OutputError: It may not be written.
            StorageError: Anything else: the next time it may work.
        """
        try:
            yield
        except (StemsplitError, GeneratorExit):
            raise
        except (FileNotFoundError, PermissionError) as error:
            raise _refuse(name, verb, error) from error
        except Exception as error:
            said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise StorageError(
                f"{name!r} cannot be {verb}: {said}",
                help="check the address, the keys and the connection, and run again to go on.",
            ) from error


def insist(request: Callable[[], AnswerT]) -> AnswerT:
    """Ask storage for something, and some times more where it does not answer."""
    for wait_s in _WAITS_S:
        with contextlib.suppress(StorageError):
            return request()
        time.sleep(wait_s)
    return request()


def is_url(text: str) -> bool:
    """Say whether a name is a URL of something that is no folder of this machine."""
    return "://" in text and not is_file_url(text)


def is_file_url(text: str) -> bool:
    """Say whether a name is a URL of something on this machine."""
    return text[: len("file://")].casefold() == "file://"


def settle_name(text: str) -> str:
    """Return an absolute path, or a URL as it is; "file://" is a path.

    Raises:
        UsageError: A file URL of another machine, or of nothing.
    """
    if is_url(text):
        return text.rstrip("/") if not text.endswith("://") else text
    if is_file_url(text):
        from urllib.request import url2pathname  # brings http and ssl along

        host, slash, path = text[len("file://") :].partition("/")
        is_here = slash and host.casefold() in ("", "localhost") and "%00" not in path
        with contextlib.suppress(OSError):  # Windows: a colon where none can be.
            if is_here:
                return os.path.abspath(url2pathname(slash + path))
        raise UsageError(
            f"{text!r} leads to nothing on this machine",
            help="a file URL has three slashes: file:///folder/file",
        )
    return os.path.abspath(os.path.expanduser(text))


def open_storage(name: str) -> Storage:
    """Return the storage that a name is in.

    Raises:
        StemsplitError: See `ObjectStorage`.
    """
    return ObjectStorage(name) if is_url(name) else Folders()


def join(folder: str, name: str) -> str:
    """Return the name of something in a folder, or below it: "album/song.mp3"."""
    if folder.endswith("://"):
        return folder + name
    if is_url(folder):
        return f"{folder.rstrip('/')}/{name}"
    return os.path.join(folder, *name.split("/"))


def _version_of(info: Mapping[str, Any]) -> str | None:
    for key in (*_VERSION_KEYS, *_TIME_KEYS):
        if info.get(key) is not None:
            return str(info[key]).strip('"')
    return None


def _refuse(name: str, verb: Verb, error: OSError) -> StemsplitError:
    if isinstance(error, FileNotFoundError):
        said = "it is not there"
    elif isinstance(error, PermissionError):
        said = "that is not allowed"
    else:
        said = error.strerror or str(error)
    kind = DecodeError if verb == "read" else OutputError
    return kind(
        f"{name!r} cannot be {verb}: {said}", help="check the name, and what you may do there."
    )


def _refuse_folder(error: OSError) -> None:
    raise UsageError(
        f"the folder {error.filename!r} cannot be read: {error.strerror}",
        help="give yourself the right to read it, or list the songs in a file.",
    )


def _sort_key(name: str) -> tuple[str, str]:
    return name.casefold(), name
