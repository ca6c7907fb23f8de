"""What a person calls the source of a batch -> its songs, one after the other, never all at once.

    music/, s3://bucket/music      a folder, and all below it
    songs.txt                      a path or URL a line, relative to the list's own folder
    songs.csv, songs.jsonl         a table of path, output, start, duration; all but path may be
                                   left out
    song.mp3                       a single song

Where a song's stems go is decided by its own line or path alone. Nothing is remembered of the
songs before it: a hundred million of them take no more memory than one folder's names, and a
part of a list puts its stems where the whole list would.
"""

from __future__ import annotations

import csv
import json
import math
import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from stemsplit.batch.storage import (
    Listing,
    Storage,
    insist,
    is_file_url,
    is_url,
    join,
    open_storage,
    settle_name,
)
from stemsplit.errors import DecodeError, StemsplitError, UnknownNameError, UsageError
from stemsplit.separation.manifest import (
    MANIFEST_NAME,
    PARTIAL_SUFFIX,
    STAGED_MANIFEST,
    Manifest,
    parse_manifest,
)
from stemsplit.separation.sources import KNOWN_SUFFIXES

LIST_SUFFIX = ".txt"
TABLE_SUFFIXES = (".csv", ".jsonl")
COLUMNS = ("path", "output", "start", "duration")
REASON_COLUMNS = ("error", "message", "help", "source")
"""What a list of failed songs says besides; not read."""


@dataclass(frozen=True)
class Song:
    """A song of a catalogue.

    Attributes:
        name: An absolute path or a URL.
        output: Below which name in the destination its stems go: "artist/song".
        start_s: Where to begin; None for what the command says.
        duration_s: How much to take; None for what the command says.
        fault: Why the line that it stands for is none.
    """

    name: str
    output: str
    start_s: float | None = None
    duration_s: float | None = None
    fault: StemsplitError | None = None

    @property
    def folder(self) -> PurePosixPath:
        """The folders of `output`."""
        return PurePosixPath(self.output).parent

    @property
    def track(self) -> str:
        """The last part of `output`."""
        return PurePosixPath(self.output).name


@dataclass(frozen=True)
class Catalogue:
    """The songs of a source.

    Attributes:
        source: As it was found.
        read: Yields the songs, from the first one at every call.
    """

    source: str
    read: Callable[[], Iterator[Song]]

    def count(self) -> int:
        """Read all songs through."""
        return sum(1 for _ in self.read())


def open_catalogue(source: str, dest: str) -> Catalogue:
    """Find out what a source is.

    Args:
        source: As typed.
        dest: Where the stems go, from `settle_name`: not searched for songs.

    Raises:
        UsageError: There is nothing of that name.
        StorageError: Object storage does not answer.
    """
    name = settle_name(source)
    storage = open_storage(name)
    found = storage.describe(name)
    if found is None:
        raise UsageError(
            f"there is no folder and no file {source!r}", help="check the name of the source."
        )
    if found.is_folder:
        return Catalogue(name, lambda: _walk(storage, name, dest))
    suffix = posixpath.splitext(name)[1].lower()
    if suffix == LIST_SUFFIX:
        return Catalogue(name, lambda: _read_list(name, storage.lines(name)))
    if suffix in TABLE_SUFFIXES:
        read = read_csv if suffix == ".csv" else read_json_lines
        return Catalogue(name, lambda: read(name, storage.lines(name)))
    return Catalogue(name, lambda: iter([Song(name, _split(name)[0])]))


def _walk(storage: Storage, root: str, dest: str) -> Iterator[Song]:
    """Yield the songs of a folder and all below it, without the stems of earlier runs."""
    # Where the source is in the destination, all of it would count as stems.
    avoids_dest = dest != root and _is_below(dest, root)
    stems: dict[str, set[str]] = {}
    for listing in storage.walk(root):
        here = listing.folder.rstrip("/")
        for name, reason in listing.unread:
            if not (avoids_dest and _is_below(name, dest)):
                yield _refuse_folder(name, reason, root)
        if avoids_dest and _is_below(here, dest):
            listing.folders.clear()
            continue
        for folder_name, names in _list_outputs(storage, listing).items():
            stems.setdefault(folder_name, set()).update(names)
        outputs = stems.pop(here, set())
        listing.folders[:] = [name for name in listing.folders if _is_wanted(name)]
        songs = [
            name
            for name in listing.files
            if _is_wanted(name) and _suffix_of(name) in KNOWN_SUFFIXES and name not in outputs
        ]
        counts = Counter(_split(name)[0].casefold() for name in songs)
        inside = os.path.relpath(here, root) if not is_url(root) else here[len(root) :].strip("/")
        folder = PurePosixPath(*PurePosixPath(inside.replace(os.sep, "/")).parts)
        for name in songs:
            track = _split(name)[0]
            # Two songs of one name in a folder keep what tells them apart.
            own = name if counts[track.casefold()] > 1 else track
            yield Song(join(listing.folder, name), str(folder / own))


def _refuse_folder(name: str, reason: str, root: str) -> Song:
    """Return a song that stands for a folder that cannot be read, and fails."""
    fault = DecodeError(
        f"the folder {name!r} cannot be read: {reason}",
        help="see to it that you may read it, and run again.",
    )
    return Song(name, name[len(root) :].strip("/\\").replace(os.sep, "/"), fault=fault)


def _list_outputs(storage: Storage, listing: Listing) -> dict[str, set[str]]:
    """Return the files that a folder's manifests call stems, by the folder that they are in.

    What was interrupted has a claim in storage, or a staging folder here, that says the same.
    """
    found: dict[str, set[str]] = {}
    claim = MANIFEST_NAME + PARTIAL_SUFFIX
    manifests = [name for name in listing.files if name.endswith((MANIFEST_NAME, claim))]
    manifests += [f"{name}/{STAGED_MANIFEST}" for name in listing.folders if name.endswith(claim)]
    for name in manifests:
        manifest = _read_manifest(storage, join(listing.folder, name))
        for output in manifest.owned if manifest else ():
            folder, _, file = output.rpartition("/")
            place = join(listing.folder, folder) if folder else listing.folder
            found.setdefault(place.rstrip("/"), set()).add(file)
    return found


def _read_manifest(storage: Storage, name: str) -> Manifest | None:
    """Read a manifest; one that cannot be read says as little as one that is damaged."""
    try:
        return parse_manifest(insist(partial(storage.read, name)) or b"")
    except DecodeError:
        return None


def _is_below(name: str, folder: str) -> bool:
    return name == folder or name.startswith(join(folder, ""))


def _is_wanted(name: str) -> bool:
    return not name.startswith(".") and not name.endswith(PARTIAL_SUFFIX)


def _read_list(name: str, lines: Iterator[str]) -> Iterator[Song]:
    """Yield the songs of a list; empty lines are none."""
    return _read_table(name, ({"path": line.strip()} for line in lines if line.strip()))


def read_csv(name: str, lines: Iterator[str]) -> Iterator[Song]:
    """Yield the songs of a table of that name; a row that cannot be read is a song that fails.

    Raises:
        UsageError: Its columns are none of a catalogue's.
    """
    return _read_table(name, _split_rows(name, lines))


def read_json_lines(name: str, lines: Iterator[str]) -> Iterator[Song]:
    """Yield a song for each line with something on it; see `read_csv`."""
    return _read_table(name, map(_parse_row, filter(str.strip, lines)))


def _split_rows(name: str, lines: Iterator[str]) -> Iterator[Mapping[str, Any] | None]:
    """Yield the rows of a table by their columns; None for a row that has others.

    A row is a line: a quote that nothing ends takes no other with it. Line breaks are for .jsonl.
    """
    header = _split_row(next(lines, ""))
    if header is None:
        raise UsageError(f"the first line of {name!r} names no columns", help="mend its quotes.")
    columns = [column.strip() for column in header]
    _check_columns(name, columns)
    for line in lines:
        row = _split_row(line)
        if row != []:
            is_whole = row is not None and len(row) == len(columns)
            yield dict(zip(columns, row or (), strict=True)) if is_whole else None


def _split_row(line: str) -> list[str] | None:
    """Return the fields of a line; None where its quotes are wrong."""
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error:
        return None


def _parse_row(line: str) -> Mapping[str, Any] | None:
    """Return the object that a line holds; None where it holds none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _read_table(name: str, rows: Iterator[Mapping[str, Any] | None]) -> Iterator[Song]:
    """Make songs of rows; a row that cannot be read is a song that fails."""
    for number, row in enumerate(rows, start=1):
        try:
            if row is None:
                raise UsageError(
                    "it has not the columns of the table", help="mend the row and run again."
                )
            _check_columns(name, list(row))
            yield _make_song(name, row)
        except UsageError as error:
            told = f"row {number} of {name!r}: {error.message}"
            fault = UsageError(told, help=error.help)
            yield Song(f"{name}#{number}", f"row {number}", fault=fault)


def _check_columns(name: str, columns: list[str]) -> None:
    """Refuse a table that lacks the path, or has a column that means nothing here.

    Raises:
        UsageError: It does.
    """
    for column in columns:
        if column not in (*COLUMNS, *REASON_COLUMNS):
            raise UnknownNameError("column", column, COLUMNS)
    if "path" not in columns:
        raise UsageError(
            f"{name!r} has no column 'path'", help=f"the columns are {', '.join(COLUMNS)}."
        )


def _make_song(listed_in: str, row: Mapping[str, Any]) -> Song:
    path = row["path"]
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise UsageError(f"{path!r} is no path", help="give the path or the URL of a song.")
    output = row.get("output") or ""
    if not isinstance(output, str):
        raise UsageError(f"the output {output!r} is no name", help="write it like artist/song.")
    return Song(
        name=_locate(listed_in, path),
        output=_clean(output) or _place(path),
        start_s=_read_seconds("start", row.get("start"), 0.0),
        duration_s=_read_seconds("duration", row.get("duration"), None),
    )


def _locate(listed_in: str, path: str) -> str:
    """Return where a path of a list leads, beginning in the list's folder."""
    if is_url(path) or is_file_url(path) or path.startswith("~") or os.path.isabs(path):
        return settle_name(path)
    if is_url(listed_in):
        protocol, _, rest = listed_in.partition("://")
        return f"{protocol}://" + posixpath.normpath(posixpath.join(posixpath.dirname(rest), path))
    return os.path.normpath(os.path.join(os.path.dirname(listed_in), path))


def _place(path: str) -> str:
    """Return where the stems of a listed song go: its path as it is written, without a suffix."""
    path = settle_name(path) if is_file_url(path) else path
    inside = re.sub(r"^[A-Za-z][\w+.-]*://", "", path.replace("\\", "/"))
    folder, _, name = inside.rpartition("/")
    return _clean(f"{folder}/{_split(name)[0]}") or "_"


def _clean(path: str) -> str:
    """Keep of a path what leads downwards."""
    parts = path.replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", ".", "..", "~"))


def _read_seconds(column: str, value: object, least: float | None) -> float | None:
    """Return a time of a table; None where it is empty.

    Raises:
        UsageError: It is no number of seconds, or below `least` (not above 0, for None).
    """
    if value is None or value == "":
        return None
    try:
        seconds = float(value)  # type: ignore[arg-type]  # what is no number is refused below
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < (least or 0.0) or (least is None and not seconds):
        raise UsageError(f"{column} {value!r} is not possible", help="give a number of seconds.")
    return seconds


def _split(name: str) -> tuple[str, str]:
    """Return a file's name without folders and suffix, and the suffix."""
    return posixpath.splitext(re.split(r"[/\\]", name)[-1])


def _suffix_of(name: str) -> str:
    return _split(name)[1].lower()
