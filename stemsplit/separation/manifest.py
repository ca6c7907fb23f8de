"""The record beside a song's stems that proves them done: what they were made of, and how.

A manifest holds nothing that differs between two equal runs (no time, no duration of work), so it
is as reproducible as the stems. It is written last; where there is none, nothing is proven.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from stemsplit.errors import DecodeError

SCHEMA = 1
MANIFEST_NAME = "stemsplit.json"
STAGED_MANIFEST = "manifest.json"
PARTIAL_SUFFIX = ".part"
_HASH_BLOCK_BYTES = 1 << 20

Recipe = Mapping[str, Any]
"""All that decides the samples besides the source: model, weights, options, format. Plain JSON."""


@dataclass(frozen=True)
class SourceRecord:
    """The file that was separated.

    Attributes:
        path: Where it was, absolute, or its URL; None for standard input.
        name: Of the file, or "stdin".
        bytes: Its size.
        sha256: Of all its bytes; empty where they have not been read.
        version: What object storage calls these very bytes: another name, other bytes.
    """

    path: str | None
    name: str
    bytes: int
    sha256: str
    version: str | None = None

    def is_same_song(self, other: SourceRecord) -> bool:
        """Say whether the bytes are the same: whatever the place, or by their version at one."""
        if self.bytes != other.bytes:
            return False
        if self.sha256 and other.sha256:
            return self.sha256 == other.sha256
        return self.version is not None and (self.path, self.version) == (other.path, other.version)


@dataclass(frozen=True)
class FileRecord:
    """A file that was written, whole.

    Attributes:
        file: Relative to the manifest's folder, with "/" between the parts.
        bytes: Its size.
        sha256: Of all its bytes.
    """

    file: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        _check_relative(self.file)
        if not isinstance(self.bytes, int) or not isinstance(self.sha256, str):
            raise ValueError("a size or a hash of the wrong type")

    def is_intact(self, folder: Path, proven_ns: int) -> bool:
        """Say whether the file is still the one that was written.

        A file of the right size that has not been touched since the manifest was written is; one
        that has been (or was copied) is hashed.

        Args:
            folder: The manifest's.
            proven_ns: When the manifest was written.
        """
        path = folder / self.file
        try:
            found = path.stat()
            if found.st_size != self.bytes:
                return False
            return found.st_mtime_ns < proven_ns or hash_file(path) == self.sha256
        except OSError:
            return False


@dataclass(frozen=True)
class StemRecord(FileRecord):
    """A stem's file and its levels.

    Attributes:
        stem: Name of the stem.
        peak_db: Highest sample before the format's limits, dB relative to full scale; None for
            silence.
        loudness_lufs: Integrated loudness (BS.1770-4); None for silence or under 0.4 s.
        clipped_samples: Samples beyond full scale that were cut off there.
    """

    stem: str
    peak_db: float | None
    loudness_lufs: float | None
    clipped_samples: int


@dataclass(frozen=True)
class Manifest:
    """Everything about one song's stems.

    Attributes:
        track: What the song is called in the outputs.
        source: What was read.
        recipe: What decides the samples; a run with another recipe is another run.
        sample_rate: Hz, of the source and the stems.
        channels: Of every stem.
        samples: Length of every stem.
        duration_s: The same in seconds.
        gain: The one gain that all stems were multiplied by.
        gain_db: The same in dB.
        stems: The outputs.
        stem_mp4: The file that holds them all, where one was asked for.
        notices: What the person was told.
        versions: Of the programs; for the reader, not part of the proof.
        device: Where the network ran; not part of the proof.
        earlier: Outputs of earlier runs with other options that are still there.
        schema: Of this record.
    """

    track: str
    source: SourceRecord
    recipe: Recipe
    sample_rate: int
    channels: int
    samples: int
    duration_s: float
    gain: float
    gain_db: float
    stems: tuple[StemRecord, ...]
    stem_mp4: FileRecord | None
    notices: tuple[str, ...]
    versions: Mapping[str, str]
    device: str
    earlier: tuple[str, ...] = ()
    schema: int = field(default=SCHEMA)

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """Every output of this run."""
        return self.stems if self.stem_mp4 is None else (*self.stems, self.stem_mp4)

    @property
    def owned(self) -> set[str]:
        """Names of all files, of this run and earlier ones, that are ours to write over."""
        return {record.file for record in self.files} | set(self.earlier)

    def to_json(self) -> str:
        """Write it as JSON: the same text for the same content."""
        fields = {"schema": self.schema, **asdict(self)}
        return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"


def read_manifest(path: Path) -> Manifest | None:
    """Read a manifest.

    Returns:
        None where there is none, and for one that is damaged or of another schema: either way it
        proves nothing.
    """
    try:
        return parse_manifest(path.read_bytes())
    except (OSError, ValueError):
        return None


def parse_manifest(data: bytes) -> Manifest | None:
    """Read the bytes of a manifest; see `read_manifest`."""
    try:
        return _build_manifest(json.loads(data.decode("utf-8")))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _build_manifest(data: Any) -> Manifest:
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ValueError("another schema")
    stem_mp4 = data["stem_mp4"]
    parts = {
        "source": _build(SourceRecord, data["source"]),
        "stems": tuple(_build(StemRecord, stem) for stem in data["stems"]),
        "stem_mp4": None if stem_mp4 is None else _build(FileRecord, stem_mp4),
        "notices": tuple(data["notices"]),
        "earlier": tuple(data["earlier"]),
    }
    manifest = _build(Manifest, {**data, **parts})
    for name in manifest.earlier:
        _check_relative(name)
    return manifest


RecordT = TypeVar("RecordT", SourceRecord, FileRecord, StemRecord, Manifest)


def _build(kind: type[RecordT], data: dict[str, Any]) -> RecordT:
    known = {field.name: field.default is MISSING for field in fields(kind)}
    if not {name for name, is_needed in known.items() if is_needed} <= set(data) <= set(known):
        raise ValueError(f"not the fields of {kind.__name__}")
    return kind(**data)


def _check_relative(name: object) -> None:
    """Refuse a name that could leave the manifest's folder: a manifest may come from anywhere."""
    if not isinstance(name, str) or not name or "\\" in name:
        raise ValueError(f"{name!r} is no file's name")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} leaves the folder")


def list_outputs(path: Path, beside: Path | None = None) -> set[Path]:
    """List the files that a manifest says are stemsplit's work.

    Args:
        path: The manifest; nothing is listed when it is damaged or not there.
        beside: The folder that its names are relative to, when it is not its own.
    """
    manifest = read_manifest(path)
    folder = beside or path.parent
    return {folder / name for name in manifest.owned} if manifest else set()


def is_done(
    path: Path,
    source: SourceRecord,
    recipe: Recipe,
    files: Mapping[str, str],
    stem_mp4: str | None = None,
) -> bool:
    """Say whether a manifest proves that these very outputs are there, whole and up to date.

    Args:
        path: The manifest.
        source: What would be read now.
        recipe: How it would be separated now.
        files: Stem -> file (relative, "/"), as they would be written now.
        stem_mp4: The same for the file that holds all stems.
    """
    manifest = read_manifest(path)
    if manifest is None or not is_about(manifest, source, recipe, files, stem_mp4):
        return False
    proven_ns = path.stat().st_mtime_ns
    return all(record.is_intact(path.parent, proven_ns) for record in manifest.files)


def is_about(
    manifest: Manifest,
    source: SourceRecord,
    recipe: Recipe,
    files: Mapping[str, str],
    stem_mp4: str | None = None,
) -> bool:
    """Say whether a manifest is of these outputs, without a look at them; see `is_done`."""
    written = {record.stem: record.file for record in manifest.stems}
    mp4 = manifest.stem_mp4.file if manifest.stem_mp4 else None
    return (
        manifest.source.is_same_song(source)
        and manifest.recipe == recipe
        and written == dict(files)
        and mp4 == stem_mp4
    )


def record_source(
    path: Path, name: str, *, place: str | None = None, version: str | None = None
) -> SourceRecord:
    """Read a source once, to know it again.

    Args:
        path: The file.
        name: What it is called.
        place: What names it beyond this run; None where nothing does.
        version: What object storage calls these bytes.

    Raises:
        DecodeError: It cannot be read.
    """
    try:
        return SourceRecord(
            path=place,
            name=_as_text(name),
            bytes=path.stat().st_size,
            sha256=hash_file(path),
            version=version,
        )
    except OSError as error:
        raise DecodeError(
            f"{str(path)!r} cannot be read: {error.strerror or error}",
            help="check that the file is there and that you may read it.",
        ) from error


def name_place(path: Path) -> str:
    """Name the place of a source as `SourceRecord.path` does."""
    return _as_text(os.path.abspath(path))


def _as_text(name: str) -> str:
    """Make a name that is not UTF-8 fit to be written as such."""
    return os.fsencode(name).decode("utf-8", "replace")


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex, reading it in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_HASH_BLOCK_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def as_plain(value: Any) -> Any:
    """Return what JSON makes of a value, so that it can be compared with what was read."""
    return json.loads(json.dumps(value))


def list_versions(ffmpeg: str) -> dict[str, str]:
    """Name the versions that made the stems."""
    from stemsplit import __version__

    return {
        "stemsplit": __version__,
        "torch": importlib.metadata.version("torch"),
        "ffmpeg": ffmpeg,
    }


def relative_name(path: Path, folder: Path) -> str:
    """Name an output as a manifest in `folder` does."""
    return path.relative_to(folder).as_posix()
