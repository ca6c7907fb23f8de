"""What is known of a data set's recordings without reading them: lengths, peaks, activity.

`stemsplit prepare` stores it as index.json beside the tracks; `open_index` believes what still fits
the files and measures the rest again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stemsplit.datasets.activity import ActivityMeter, ActivityParameters
from stemsplit.datasets.excerpts import read_excerpt, read_info
from stemsplit.datasets.track import AudioFile, Dataset, Track
from stemsplit.errors import DatasetError
from stemsplit.weights.disk import write_text

INDEX_NAME: Final = "index.json"
VERSION: Final = 1
_BLOCK_SAMPLES: Final = 1 << 18
_WORKERS: Final = 4
_DIGEST_BYTES: Final = 1 << 20

Window = tuple[int, int]


@dataclass(frozen=True)
class FileRecord:
    """One recording, measured.

    Attributes:
        size: Of the file, in bytes.
        mtime_ns: When it was changed last.
        digest: Of all of its bytes: a file that was copied has another time, and the same digest;
            None where only the header was read.
        samples: Of each channel.
        sample_rate: Hz.
        channels: How many.
        peak: Highest absolute sample; None where only the header was read.
        activity: Windows with sound, start and stop in samples; None where nobody looked.
    """

    size: int
    mtime_ns: int
    digest: str | None
    samples: int
    sample_rate: int
    channels: int
    peak: float | None = None
    activity: tuple[Window, ...] | None = None


@dataclass(frozen=True)
class TrackIndex:
    """What is known of a track.

    Attributes:
        samples: Length of the mixture, or of the longest stem where there is no mixture. Stems that
            are shorter go on with zeros.
        sample_rate: Hz.
        channels: The most that one of its stems has.
        peaks: Stem -> highest absolute sample; empty where the data set is not prepared.
        activity: Stem -> windows with sound, start and stop in samples, in order; a stem that is
            missing here was not searched, one that is silent has none.
    """

    samples: int
    sample_rate: int
    channels: int
    peaks: Mapping[str, float]
    activity: Mapping[str, tuple[Window, ...]]


# Compared by identity: arrays have no single answer.
@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and deviation of the training mixtures' magnitudes, by frequency.

    Attributes:
        n_fft: Window length in samples.
        hop_length: Distance of frames in samples.
        mean: Of all frames. Shape: (F,), F = n_fft // 2 + 1.
        scale: Standard deviation, at least 1e-4 of its highest. Shape: (F,).
        fingerprint: Of the recordings that they were computed from.
    """

    n_fft: int
    hop_length: int
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    fingerprint: str


@dataclass(frozen=True)
class Index:
    """What is known of a data set.

    Attributes:
        tracks: By name; all of the data set's.
        statistics: Those that are stored and fit.
        notes: What did not fit, one line each.
    """

    tracks: Mapping[str, TrackIndex]
    statistics: tuple[Statistics, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class StoredIndex:
    """The file index.json.

    Attributes:
        activity: Parameters that activity was searched with; None where it was not.
        files: Path below the root, with forward slashes -> what was measured.
        sources: Track -> what it was prepared from, as `stemsplit prepare` describes it.
        statistics: As `Statistics`, as plain numbers.
    """

    activity: dict[str, float] | None = None
    files: dict[str, FileRecord] = field(default_factory=dict)
    sources: dict[str, Any] = field(default_factory=dict)
    statistics: list[Statistics] = field(default_factory=list)

    def write(self, root: Path) -> None:
        """Store it, whole or not at all.

        Raises:
            OutputError: The place cannot be written to.
        """
        table = {
            "version": VERSION,
            "activity": self.activity,
            "files": {path: _as_table(record) for path, record in sorted(self.files.items())},
            "sources": dict(sorted(self.sources.items())),
            "statistics": [
                {
                    "n_fft": one.n_fft,
                    "hop_length": one.hop_length,
                    "fingerprint": one.fingerprint,
                    "mean": one.mean.tolist(),
                    "scale": one.scale.tolist(),
                }
                for one in self.statistics
            ],
        }
        write_text(root / INDEX_NAME, json.dumps(table, separators=(",", ":")) + "\n")


def _as_table(record: FileRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if value is not None}


def read_stored(root: Path, notes: list[str]) -> StoredIndex:
    """Read index.json; an empty one where there is none, or none that can be used.

    Args:
        root: The data set's folder.
        notes: Is told why it cannot be used.
    """
    path = root / INDEX_NAME
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if table["version"] != VERSION:
            notes.append(f"{path} is of version {table['version']}, not {VERSION}: not used")
            return StoredIndex()
        return StoredIndex(
            activity=table["activity"],
            files={path: _read_record(record) for path, record in table["files"].items()},
            sources=dict(table["sources"]),
            statistics=[_read_statistics(one) for one in table["statistics"]],
        )
    except FileNotFoundError:
        return StoredIndex()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        notes.append(f"{path} cannot be read, and is not used: {error!r}")
        return StoredIndex()


def _read_record(table: dict[str, Any]) -> FileRecord:
    record = FileRecord(**table)
    if record.activity is None:
        return record
    return replace(record, activity=tuple((start, stop) for start, stop in record.activity))


def _read_statistics(table: dict[str, Any]) -> Statistics:
    return Statistics(
        table["n_fft"],
        table["hop_length"],
        np.array(table["mean"], np.float64),
        np.array(table["scale"], np.float64),
        table["fingerprint"],
    )


def measure_file(file: AudioFile, parameters: ActivityParameters | None) -> FileRecord:
    """Read a whole recording, block by block.

    Args:
        file: A wav or flac file.
        parameters: What counts as sound; None: do not look for it.

    Raises:
        DatasetError: It cannot be read.
    """
    record = _read_header(file)
    meter = None
    if parameters is not None:
        meter = ActivityMeter(record.sample_rate, record.channels, parameters)
    peak = 0.0
    for start in range(0, record.samples, _BLOCK_SAMPLES):
        count = min(_BLOCK_SAMPLES, record.samples - start)
        block = read_excerpt(file, start, count)
        peak = max(peak, float(block.max()), -float(block.min()))
        if meter is not None:
            meter.feed(block)
    windows = None if meter is None else tuple(meter.find_windows())
    return replace(record, digest=digest_file(file.path), peak=peak, activity=windows)


def _read_header(file: AudioFile) -> FileRecord:
    info = read_info(file)
    status = file.path.stat()
    return FileRecord(
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        digest=None,
        samples=info.samples,
        sample_rate=info.sample_rate,
        channels=info.channels,
    )


def digest_file(path: Path) -> str:
    """Return a hash of a file."""
    hasher = hashlib.blake2b(digest_size=12)
    with path.open("rb") as file:
        while block := file.read(_DIGEST_BYTES):
            hasher.update(block)
    return hasher.hexdigest()


def match_file(record: FileRecord, path: Path) -> FileRecord | None:
    """Return the record of a file with the time that it has now; None if it is another file.

    Its size has to be the same, and the time of its last change or else all that it holds.
    """
    try:
        status = path.stat()
        if status.st_size != record.size:
            return None
        if status.st_mtime_ns == record.mtime_ns:
            return record
        is_same = digest_file(path) == record.digest
    except OSError:
        return None
    return replace(record, mtime_ns=status.st_mtime_ns) if is_same else None


def fingerprint(tracks: Sequence[Track], digest: Callable[[Path], str]) -> str:
    """Return a hash of the recordings that some tracks' mixtures are made of, in any order."""
    lines = [
        f"{track.name}\0{digest(file.path)}\n"
        for track in tracks
        for file in parts_of_mixture(track)
    ]
    data = "".join(sorted(lines)).encode("utf-8", "surrogateescape")
    return hashlib.blake2b(data, digest_size=12).hexdigest()


def parts_of_mixture(track: Track) -> list[AudioFile]:
    """Return the mixture; where there is none, the stems that it is the sum of."""
    return [*track.stems.values()] if track.mixture is None else [track.mixture]


def path_in(root: Path, file: AudioFile) -> str:
    """Return a file's path below the root, as the index has it."""
    return Path(os.path.relpath(file.path, root)).as_posix()


def open_index(dataset: Dataset) -> Index:
    """Say what is known of a data set's recordings.

    Where `stemsplit prepare` has stored an index, what still fits is taken from it, and what does
    not is measured again as it was. Where there is none, only headers are read: there are no peaks
    and no activity then. Nothing is written.

    Raises:
        DatasetError: A file cannot be read, or has to be prepared first, or the files of a track
            have different sample rates.
        UsageError: There is flac, and soundfile is not installed.
    """
    notes: list[str] = []
    stored = read_stored(dataset.root, notes)
    parameters = None if stored.activity is None else ActivityParameters()
    is_changed = parameters is not None and stored.activity != parameters.as_table()
    if is_changed:
        notes.append("activity was searched with other parameters: it is searched again")
    stale: list[str] = []
    moved: list[str] = []

    def look(file: AudioFile) -> FileRecord:
        path = path_in(dataset.root, file)
        stored_record = stored.files.get(path)
        record = None if stored_record is None else match_file(stored_record, file.path)
        if record is not None and not (is_changed and record.activity is not None):
            if record is not stored_record:
                moved.append(path)
            return record
        if not stored.files:
            return _read_header(file)
        if record is None:
            stale.append(path)
        return measure_file(file, parameters)

    files = [file for track in dataset.tracks for file in track.files]
    with ThreadPoolExecutor(_WORKERS) as pool:
        records = dict(zip(files, pool.map(look, files), strict=True))
    tracks = {track.name: _summarise(track, records) for track in dataset.tracks}
    if stale:
        notes.append(
            f"{len(stale)} of {len(files)} files are not those that were prepared, as "
            f"{min(stale)}: measured again; `stemsplit prepare` would store it"
        )
    if moved:
        notes.append(
            f"{len(moved)} of {len(files)} files have another time than the index says, and were "
            "read to see that they are the same; `stemsplit prepare` would store it"
        )
    digests = {file.path: record.digest or "" for file, record in records.items()}
    of = fingerprint(dataset.select("train"), digests.__getitem__)
    statistics = tuple(one for one in stored.statistics if one.fingerprint == of)
    if len(statistics) < len(stored.statistics):
        notes.append("spectrogram statistics are of other training tracks: not used")
    return Index(tracks, statistics, tuple(notes))


def _summarise(track: Track, records: Mapping[AudioFile, FileRecord]) -> TrackIndex:
    """Put together what is known of a track's files.

    Raises:
        DatasetError: They have different sample rates.
    """
    by_stem = {stem: records[file] for stem, file in track.stems.items()}
    every = [records[file] for file in track.files]
    rates = sorted({record.sample_rate for record in every})
    if len(rates) > 1:
        raise DatasetError(
            f"the files of the track {track.name!r} have {' and '.join(map(str, rates))} Hz",
            help="bring all to one rate: stemsplit prepare with --sample-rate, or mend the track.",
        )
    if track.mixture is None:
        samples = max(record.samples for record in every)
    else:
        samples = records[track.mixture].samples
    return TrackIndex(
        samples=samples,
        sample_rate=rates[0],
        channels=max(record.channels for record in by_stem.values()),
        peaks={s: record.peak for s, record in by_stem.items() if record.peak is not None},
        activity={s: r.activity for s, r in by_stem.items() if r.activity is not None},
    )
