"""A data set decoded once: files that can be searched, and an index of what they hold.

Each track is there whole or not at all: it grows in a hidden folder and is renamed. The index is
written before that, so that a folder without its entry is never one of ours.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from stemsplit.audio.part_file import explain_os_error
from stemsplit.audio.readable import check_readable
from stemsplit.datasets.activity import ActivityParameters
from stemsplit.datasets.claim import claim, refuse_sources
from stemsplit.datasets.decoding import Decoding, TrackDecoder
from stemsplit.datasets.excerpts import import_soundfile
from stemsplit.datasets.index import (
    FileRecord,
    digest_file,
    fingerprint,
    match_file,
    measure_file,
    path_in,
    read_stored,
)
from stemsplit.datasets.layouts import MIXTURE, open_dataset
from stemsplit.datasets.spectrogram_statistics import compute_statistics
from stemsplit.datasets.track import AudioFile, Dataset, Track
from stemsplit.errors import CancelledError, OutputError, StemsplitError

Status = Literal["done", "skipped", "failed", "cancelled"]


@dataclass(frozen=True)
class PrepareOptions:
    """What is wanted of the result.

    Attributes:
        decoding: How recordings are written.
        has_activity: Whether to look for where stems sound.
        statistics: Window and hop, in samples, of each spectrogram to describe.
        jobs: Tracks at the same time.
        overwrite: Do everything again, and replace what is in the way.
    """

    decoding: Decoding
    has_activity: bool = True
    statistics: tuple[tuple[int, int], ...] = ()
    jobs: int = 1
    overwrite: bool = False


@dataclass(frozen=True)
class TrackOutcome:
    """What became of a track.

    Attributes:
        track: The track.
        status: "skipped" where the index proves it done.
        error: Why it failed.
        notes: What there is to know of it.
        audio_s: Length of the track; 0 where it failed.
        clipped: Samples beyond full scale that were held there now.
    """

    track: Track
    status: Status
    error: StemsplitError | None = None
    notes: tuple[str, ...] = ()
    audio_s: float = 0.0
    clipped: int = 0


def prepare(
    dataset: Dataset,
    out: Path,
    options: PrepareOptions,
    *,
    on_outcome: Callable[[TrackOutcome], None],
    on_note: Callable[[str], None],
) -> list[TrackOutcome]:
    """Decode and index all tracks; where `out` is the data set's own folder, index it only.

    Ctrl-C (KeyboardInterrupt) stops all that is under way: those tracks are "cancelled".

    Args:
        dataset: Of any formats.
        out: Where the result goes: split/track/stem.wav and index.json.
        options: How.
        on_outcome: Told what became of each track, in the order in which they end.
        on_note: Told what concerns the whole data set.

    Returns:
        What became of each track, in the data set's order.

    Raises:
        OutputError: `out` cannot be written to.
        UsageError: flac is wanted, and soundfile is not installed; or another run is writing to
            `out`; or a track would take the place of recordings that it or another is made from.
        StemsplitError: Statistics cannot be computed.
    """
    if options.decoding.format.name == "flac":
        import_soundfile()  # what is written is read again, to be measured
    with claim(out):
        run = _Run(dataset, out, options, on_note)
        if not run.is_in_place:
            refuse_sources(
                dataset, {at for track in dataset.tracks for at in run.find_folders(track)}
            )
        outcomes = run.run_all(on_outcome)
        is_any = any(outcome.status in ("done", "skipped") for outcome in outcomes)
        if is_any and not run.cancelled.is_set():
            run.look_back(outcomes)
            run.describe_spectrograms()
    return outcomes


class _Run:
    """One call of `prepare`: the stored index, shared by the tracks' threads."""

    def __init__(
        self,
        dataset: Dataset,
        out: Path,
        options: PrepareOptions,
        on_note: Callable[[str], None],
    ) -> None:
        self.dataset = dataset
        self.out = out
        self.options = options
        self.on_note = on_note
        self.cancelled = threading.Event()
        self.is_in_place = out.resolve() == dataset.root.resolve()
        self._lock = threading.Lock()
        self.parameters = ActivityParameters() if options.has_activity else None
        notes: list[str] = []
        self.stored = read_stored(out, notes)
        if self.parameters is not None and self.stored.activity != self.parameters.as_table():
            if self.stored.activity is not None:
                notes.append("activity was searched with other parameters: it is searched again")
            self.stored.activity = self.parameters.as_table()
            for path, record in self.stored.files.items():
                self.stored.files[path] = replace(record, activity=None)
        for note in notes:
            on_note(note)

    def find_folders(self, track: Track) -> set[Path]:
        """Return the folder of a track, and those of an earlier run that it takes the place of."""
        old = self.stored.sources.get(track.name, {}).get("files", {}).values()
        return {(self.out / path).parent for path in old} | {self.out / track.split / track.name}

    def run_all(self, on_outcome: Callable[[TrackOutcome], None]) -> list[TrackOutcome]:
        """Do every track, several side by side."""
        outcomes: dict[str, TrackOutcome] = {}

        def finish(future: Future[TrackOutcome]) -> None:
            outcome = future.result()
            outcomes[outcome.track.name] = outcome
            on_outcome(outcome)

        tracks = self.dataset.tracks
        with ThreadPoolExecutor(max(1, self.options.jobs)) as pool:
            waiting = {pool.submit(self._run_one, track): track for track in tracks}
            try:
                for future in as_completed(waiting):
                    finish(future)
            except KeyboardInterrupt:
                self.cancelled.set()
            except BaseException:
                self.cancelled.set()
                raise
            for future, track in waiting.items():
                if track.name not in outcomes:
                    finish(future)
        return [outcomes[track.name] for track in tracks]

    def _run_one(self, track: Track) -> TrackOutcome:
        try:
            self._check_stopped()
            return self._index(track) if self.is_in_place else self._decode(track)
        except CancelledError:
            return TrackOutcome(track, "cancelled")
        except StemsplitError as error:
            return TrackOutcome(track, "failed", error)
        except OSError as error:
            return TrackOutcome(track, "failed", explain_os_error(error, self.out))

    def _check_stopped(self) -> None:
        if self.cancelled.is_set():
            raise CancelledError("stopped", help="run it again to go on.")

    def _index(self, track: Track) -> TrackOutcome:
        """Measure the files of a track where they are."""
        files = {stem: path_in(self.out, file) for stem, file in _files_of(track).items()}
        if self.options.overwrite:
            stale = files
        else:
            stale = {stem: path for stem, path in files.items() if not self._fits(path)}
        is_done = not stale and not self._measure_again(files)
        if stale:
            self._enter({path: self._measure(stem, path) for stem, path in stale.items()})
        return TrackOutcome(track, "skipped" if is_done else "done", audio_s=self._length_s(files))

    def _fits(self, path: str) -> bool:
        """Whether a file is the one that was measured; if so, its time is that of the index."""
        stored = self.stored.files.get(path)
        if stored is None or stored.peak is None:
            return False
        record = match_file(stored, self.out / path)
        if record is not None and record is not stored:
            self._enter({path: record})
        return record is not None

    def _measure_again(self, files: Mapping[str, str]) -> bool:
        """Look for activity where nobody has, and say whether there was any such file."""
        known = self.stored.files
        missing = {
            stem: path
            for stem, path in files.items()
            if stem != MIXTURE and path in known and known[path].activity is None
        }
        if self.parameters is None or not missing:
            return False
        self._enter({path: self._measure(stem, path) for stem, path in missing.items()})
        return True

    def _measure(self, stem: str, path: str) -> FileRecord:
        self._check_stopped()
        file = AudioFile(self.out / path)
        return measure_file(file, None if stem == MIXTURE else self.parameters)

    def _enter(self, records: Mapping[str, FileRecord]) -> None:
        with self._lock:
            self.stored.files.update(records)
            self.stored.write(self.out)

    def _length_s(self, files: Mapping[str, str]) -> float:
        records = [self.stored.files[path] for path in files.values()]
        return max(record.samples / record.sample_rate for record in records)

    def _decode(self, track: Track) -> TrackOutcome:
        """Decode a track into a folder of its own, measure it, and give it its place."""
        source = self._describe(track)
        folder = self.out / track.split / track.name
        old = self.stored.sources.get(track.name)
        if old is not None and not self.options.overwrite:
            files, notes = old["files"], tuple(old["notes"])
            if old["source"] == source and all(self._fits(path) for path in files.values()):
                status: Status = "done" if self._measure_again(files) else "skipped"
                return TrackOutcome(track, status, None, notes, self._length_s(files))
        if old is None and folder.exists() and not self.options.overwrite:
            raise OutputError(
                f"{str(folder)!r} is there, and `stemsplit prepare` did not make it",
                help="choose another folder with -o, or give --overwrite to replace it.",
            )
        part = folder.with_name(f".{_tag(track.name)}.part")
        try:
            _remove(part)
            part.mkdir(parents=True)
            decoder = TrackDecoder(track, part, self.options.decoding, cancelled=self.cancelled)
            decoded = decoder.run()
            files = {
                stem: f"{track.split}/{track.name}/{name}" for stem, name in decoded.files.items()
            }
            records = {
                path: self._measure(stem, path_in(self.out, AudioFile(part / Path(path).name)))
                for stem, path in files.items()
            }
            entry = {"source": source, "files": files, "notes": decoded.notes}
            self._settle(track, entry, records, part, folder)
        finally:
            _remove(part)
        length_s = self._length_s(files)
        return TrackOutcome(track, "done", None, decoded.notes, length_s, decoded.clipped)

    def _describe(self, track: Track) -> dict[str, Any]:
        """Say what a track is made from, and how: where that changes, it is made again."""
        decoding = self.options.decoding
        files = {}
        for name, file in _files_of(track).items():
            status = check_readable(file.path)
            path = path_in(self.dataset.root, file)
            files[name] = [path, file.stream, status.st_size, status.st_mtime_ns]
        return {
            "split": track.split,
            "format": decoding.format.name,
            "bits": decoding.format.bits,
            "sample_rate": decoding.sample_rate,
            "files": files,
        }

    def _settle(
        self,
        track: Track,
        entry: dict[str, Any],
        records: Mapping[str, FileRecord],
        part: Path,
        folder: Path,
    ) -> None:
        """Enter a track in the index, and put its folder where it belongs."""
        with self._lock:
            self._check_stopped()
            stale = self.find_folders(track)
            for path in self.stored.sources.get(track.name, {}).get("files", {}).values():
                self.stored.files.pop(path, None)
            self.stored.files.update(records)
            self.stored.sources[track.name] = entry
            self.stored.write(self.out)
            for place in stale:
                if place.is_dir():
                    away = part.with_name(f"{part.name}.old")
                    place.rename(away)
                    _remove(away)
            part.rename(folder)

    def look_back(self, outcomes: Sequence[TrackOutcome]) -> None:
        """Say what is worth knowing of the tracks together."""
        loud = [outcome for outcome in outcomes if outcome.clipped]
        if loud:
            self.on_note(
                f"{sum(outcome.clipped for outcome in loud)} samples beyond full scale are held "
                f"there, in {len(loud)} of {len(outcomes)} tracks; --bits 32 keeps them"
            )
        rates = sorted({record.sample_rate for record in self.stored.files.values()})
        if len(rates) > 1:
            self.on_note(
                f"tracks have {' and '.join(map(str, rates))} Hz: --sample-rate brings all to one"
            )
        gone = sorted(set(self.stored.sources) - {track.name for track in self.dataset.tracks})
        if gone:
            self.on_note(
                f"{len(gone)} tracks stay in {str(self.out)!r} that are not in the data set any "
                f"more: {', '.join(gone[:3])}{' ...' if gone[3:] else ''}"
            )

    def describe_spectrograms(self) -> None:
        """Compute the statistics that are missing, of the training tracks as they are now.

        Raises:
            StemsplitError: They cannot be computed.
        """
        dataset = open_dataset(self.out, stems=self.dataset.stems)
        tracks = dataset.select("train")
        if not tracks or not self.options.statistics:
            return
        of = fingerprint(tracks, self._digest)
        kept = [one for one in self.stored.statistics if one.fingerprint == of]
        known = {(one.n_fft, one.hop_length) for one in kept}
        for n_fft, hop_length in self.options.statistics:
            if (n_fft, hop_length) not in known:
                self.on_note(
                    f"describing the training tracks' spectrograms (windows of {n_fft} samples "
                    f"every {hop_length}; tracks: {len(tracks)})"
                )
                kept.append(compute_statistics(tracks, n_fft, hop_length, digest=self._digest))
        if kept != self.stored.statistics:
            self.stored.statistics = kept
            self.stored.write(self.out)

    def _digest(self, path: Path) -> str:
        """Return a recording's hash, which the index has of all that is its own."""
        record = self.stored.files.get(path_in(self.out, AudioFile(path)))
        return digest_file(path) if record is None or record.digest is None else record.digest


def _files_of(track: Track) -> dict[str, AudioFile]:
    mixture = {} if track.mixture is None else {MIXTURE: track.mixture}
    return {**mixture, **track.stems}


def _tag(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _remove(part: Path) -> None:
    """Take away an unfinished folder, and what it was about to replace."""
    for folder in (part, part.with_name(f"{part.name}.old")):
        shutil.rmtree(folder, ignore_errors=True)
