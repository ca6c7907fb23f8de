"""What a person named -> the songs to separate, each once, in a stable order."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from stemsplit.errors import UsageError, nearest
from stemsplit.separation.manifest import (
    MANIFEST_NAME,
    PARTIAL_SUFFIX,
    STAGED_MANIFEST,
    list_outputs,
    name_place,
)

_SUFFIXES = (
    "3g2 3gp aac ac3 aif aifc aiff alac amr ape asf au avi caf dff dsf dts eac3 f4v flac flv m2ts "
    "m4a m4b m4v mka mkv mov mp2 mp3 mp4 mpc mpeg mpg mts mxf oga ogg ogm ogv opus ra rm spx tak "
    "ts tta vob voc w64 wav wave weba webm wma wmv wv"
)
KNOWN_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())


@dataclass(frozen=True)
class Source:
    """A song to separate.

    Attributes:
        path: The file.
        name: What the outputs are called after: the file's name, or "stdin".
        folder: Where in a folder that was named it lies; kept below the output folder.
        is_temporary: The path is of this run only (spooled): it names nothing.
        url: Where a spooled file came from; None for standard input.
        version: What object storage calls the bytes of `url`.
    """

    path: Path
    name: str
    folder: PurePosixPath = field(default_factory=PurePosixPath)
    is_temporary: bool = False
    url: str | None = None
    version: str | None = None

    @property
    def track(self) -> str:
        """The name without its suffix."""
        return self.name if self.is_temporary else Path(self.name).stem

    @property
    def place(self) -> str | None:
        """What names the song beyond this run, as `SourceRecord.path` does."""
        return self.url if self.is_temporary else name_place(self.path)

    @property
    def title(self) -> str:
        """What a person is told of a spooled song."""
        return self.url or self.name


def find_sources(inputs: Iterable[str | os.PathLike[str] | Source]) -> list[Source]:
    """List the songs that files, folders and globs stand for.

    A file that is named is taken whatever its suffix. Of a folder, all files at any depth with the
    suffix of a known audio or video format are, in the order of their names, except hidden ones and
    those that a manifest in it lists as outputs. A pattern is expanded where no file has its name.

    Args:
        inputs: As typed; a `Source` is taken as it is.

    Returns:
        Each file once, in the order of the inputs.

    Raises:
        UsageError: An input that is not there or is no file, a folder without songs or one that
            cannot be read, a pattern that fits nothing.
    """
    found: dict[str, Source] = {}
    for item in inputs:
        for source in [item] if isinstance(item, Source) else _expand(item):
            found.setdefault(os.path.realpath(source.path), source)
    if not found:
        raise UsageError("nothing to separate", help="name at least one file, folder or pattern.")
    return list(found.values())


def _expand(item: str | os.PathLike[str]) -> Iterator[Source]:
    text = os.fspath(item)
    if not os.path.lexists(text) and glob.has_magic(text):
        matches = sorted(glob.glob(text, recursive=True), key=_sort_key)
        if not matches:
            raise UsageError(f"no file fits {text!r}", help="check the pattern and the folder.")
        for match in matches:
            yield from _take(Path(match))
    else:
        yield from _take(Path(text))


def _take(path: Path) -> Iterator[Source]:
    mode = _mode_of(path)
    if stat.S_ISDIR(mode):
        yield from _walk(path)
    elif stat.S_ISREG(mode):
        yield Source(path, path.name)
    else:
        raise UsageError(
            f"{str(path)!r} is neither a file nor a folder",
            help="name a file, or send its bytes to `stemsplit -`.",
        )


def _mode_of(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise UsageError(
                f"{str(path)!r} is a link to {os.readlink(path)!r}, where there is nothing",
                help="mend the link, or name the file itself.",
            ) from None
        near = nearest(path.name, _names_beside(path))
        help = f"did you mean {', '.join(near)}?" if near else "check the name and the folder."
        raise UsageError(f"there is no file {str(path)!r}", help=help) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{str(path)!r} cannot be opened: {error}", help="check it.") from None


def _names_beside(path: Path) -> list[str]:
    try:
        return os.listdir(path.parent)
    except OSError:
        return []


def _walk(root: Path) -> Iterator[Source]:
    outputs: set[Path] = set()
    songs: list[Path] = []
    for folder, subfolders, names in os.walk(root, onerror=_refuse_folder):
        here = Path(folder)
        for name in subfolders:
            if name.endswith(MANIFEST_NAME + PARTIAL_SUFFIX):
                outputs.update(list_outputs(here / name / STAGED_MANIFEST, beside=here))
        subfolders[:] = sorted(filter(_is_wanted, subfolders))
        for name in names:
            if name.endswith(MANIFEST_NAME):
                outputs.update(list_outputs(here / name))
            elif _is_wanted(name) and Path(name).suffix.lower() in KNOWN_SUFFIXES:
                songs.append(here / name)
    songs = [song for song in songs if song not in outputs and not _is_special(song)]
    if not songs:
        raise UsageError(
            f"the folder {str(root)!r} has no audio or video files to separate",
            help="name the files themselves if their suffixes are unusual.",
        )
    for song in sorted(songs, key=lambda song: _sort_key(str(song.relative_to(root)))):
        inside = song.relative_to(root).parent
        yield Source(song, song.name, PurePosixPath(*inside.parts))


def _is_wanted(name: str) -> bool:
    return not name.startswith(".") and not name.endswith(PARTIAL_SUFFIX)


def _is_special(path: Path) -> bool:
    """Say whether it is a pipe, a device ...: reading it might never end. A dead link is not."""
    return path.exists() and not path.is_file()


def _refuse_folder(error: OSError) -> None:
    raise UsageError(
        f"the folder {error.filename!r} cannot be read: {error.strerror}",
        help="give yourself the right to read it, or name the files instead.",
    )


def _sort_key(path: str) -> tuple[Sequence[str], str]:
    return path.casefold().split(os.sep), path


def refuse_overwriting(sources: Iterable[Source], outputs: Iterable[Path]) -> None:
    """Check that no output is written over a song that is to be read.

    Raises:
        UsageError: One would be.
    """
    inputs = {_identity(source.path): source.path for source in sources}
    for output in outputs:
        if _identity(output) in inputs:
            raise UsageError(
                f"the output {str(output)!r} would overwrite its own input",
                help="choose another folder with -o, or another --filename.",
            )


def _identity(path: Path) -> tuple[int, int] | str:
    try:
        found = path.stat()
    except OSError:
        return os.path.realpath(path).casefold()
    return (found.st_dev, found.st_ino)
