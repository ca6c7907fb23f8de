"""Many tracks: each scored once, several at a time, and what is proven done is left alone."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from stemsplit.datasets.splits import SPLITS
from stemsplit.datasets.track import Dataset, Split, Track
from stemsplit.errors import (
    CancelledError,
    DatasetError,
    OutputError,
    StemsplitError,
    UnknownNameError,
)
from stemsplit.evaluation.estimates import EstimateSource, expect_stems, stamp
from stemsplit.evaluation.places import Places
from stemsplit.evaluation.references import References, read_references
from stemsplit.evaluation.results import TrackScores, read_scores, write_scores
from stemsplit.evaluation.stem_files import has_stem, write_stems
from stemsplit.evaluation.tracks import ScoreOptions, list_targets, score_track

SCORING = 1
"""Part of every fingerprint: raise it when the same files would have other scores."""

TRACK_BYTES = 1_500_000_000
"""Memory of a track that is being scored: four stems of four minutes and their estimates."""

NOT_COMPARABLE = "SIR and SAR depend on it, and do not compare with other tracks'"

Status = Literal["scored", "kept", "failed"]


@dataclass(frozen=True)
class TrackOutcome:
    """How a track ended.

    Attributes:
        track: Which.
        status: "scored" now; "kept": proven done before; "failed".
        scores: None where it failed.
        error: What was wrong with it.
        path: Its file; None where nothing is written.
        missing: Stems that it should have an estimate of, and has not: see `expect_stems`.
    """

    track: Track
    status: Status
    scores: TrackScores | None = None
    error: StemsplitError | None = None
    path: Path | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrackProgress:
    """How far a track is.

    Attributes:
        track: Which.
        stage: What is done with it.
        share: 0 to 1, of the separation.
    """

    track: Track
    stage: Literal["read", "separate", "score"]
    share: float = 0.0


OnEvent = Callable[["TrackOutcome | TrackProgress"], None]


def count_jobs() -> int:
    """Return how many tracks are best scored at once: one a core, in half of the memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        memory = 4 * TRACK_BYTES  # a system that does not say
    return max(1, min(cores or 1, memory // (2 * TRACK_BYTES)))


def score_dataset(
    dataset: Dataset,
    source: EstimateSource,
    *,
    splits: Sequence[Split] = ("test",),
    options: ScoreOptions | None = None,
    places: Places | None = None,
    jobs: int = 1,
    on_event: OnEvent = lambda event: None,
) -> list[TrackOutcome]:
    """Score the tracks of a data set.

    A model separates one track after the other, on all cores, in the caller's thread; scoring is
    done beside it in threads of one core each. At most `jobs` tracks wait for their scores.

    Args:
        dataset: What the true stems are.
        source: Whose estimates are scored.
        splits: Which tracks.
        options: What is measured; the defaults when None.
        places: What is written; nothing when None.
        jobs: Tracks that are scored at once.
        on_event: Called with every outcome and progress, from several threads, one at a time.

    Returns:
        One for each track, in the data set's order.

    Raises:
        DatasetError: No track in these splits.
        UsageError: Unknown stems, a folder that holds another's scores, or one for estimates in the
            data set itself. Nothing is written then.
        OutputError: A result cannot be written; the other tracks are not begun.
    """
    options, places = options or ScoreOptions(), places or Places()
    tracks = dataset.select(*splits)
    if not tracks:
        there = [track.split for track in dataset.tracks]
        counts = ", ".join(f"{there.count(split)} {split}" for split in SPLITS)
        raise DatasetError(
            f"{str(dataset.root)!r} has no track in {' or '.join(splits)}; it has {counts}",
            help="choose another split (--split), or another data set.",
        )
    targets = list_targets(dataset.stems)
    for stem in options.stems or ():
        if stem not in targets:
            raise UnknownNameError("stem", stem, targets, more=f"There are {', '.join(targets)}.")
    places.check(dataset, tracks, source)
    expected = expect_stems(source, tracks, options.stems)
    run = _Run(source, options, places, on_event, expected)
    return run.carry_out(tracks, max(1, jobs))


@dataclass
class _Run:
    """One call of `score_dataset`."""

    source: EstimateSource
    options: ScoreOptions
    places: Places
    on_event: OnEvent
    expected: Sequence[str]
    stopped: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def carry_out(self, tracks: Sequence[Track], jobs: int) -> list[TrackOutcome]:
        """Score all, and return how each ended."""
        outcomes: dict[str, TrackOutcome] = {}
        pending: dict[Future[TrackOutcome], str] = {}

        def collect(most: int) -> None:
            while len(pending) > most:
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    outcomes[pending.pop(future)] = future.result()

        with _threads(jobs) as pool:
            try:
                for track in tracks:
                    if self.source.is_serial:
                        done = self.prepare(track)
                        if isinstance(done, TrackOutcome):
                            outcomes[_key(track)] = done
                            continue
                        pending[pool.submit(self.finish, done)] = _key(track)
                    else:
                        pending[pool.submit(self.score_alone, track)] = _key(track)
                    collect(jobs)
                collect(0)
            except BaseException:
                self.stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [outcomes[_key(track)] for track in tracks]

    def score_alone(self, track: Track) -> TrackOutcome:
        """Do all of a track."""
        done = self.prepare(track)
        return done if isinstance(done, TrackOutcome) else self.finish(done)

    def prepare(self, track: Track) -> _Prepared | TrackOutcome:
        """Read a track and get its estimates; or say that it is done, or failed."""
        self.check()
        try:
            missing, strays = self.compare_stems(track)
            fingerprint = self.take_fingerprint(track, missing, strays)
            path = self.places.find(track)
            earlier = self.find_proof(track, fingerprint)
            if earlier is not None:
                return self.tell(TrackOutcome(track, "kept", earlier, None, path, missing))
            self.tell_progress(TrackProgress(track, "read"))
            references = read_references(track)
            notes = list(references.notes)
            if missing:
                notes.append(f"no estimate of {', '.join(missing)}: {NOT_COMPARABLE}")
            if strays:
                notes.append(f"most tracks have no {', '.join(strays)}: {NOT_COMPARABLE}")

            def on_share(share: float) -> None:
                self.check()
                self.tell_progress(TrackProgress(track, "separate", share))

            estimates = self.source.estimate(track, references, notes, on_share)
            folder = self.places.find_kept(track)
            if folder is not None:
                write_stems(folder, estimates, references.sample_rate)
        except (OutputError, CancelledError):
            raise
        except StemsplitError as error:
            return self.fail(track, error)
        return _Prepared(track, fingerprint, references, estimates, notes, missing)

    def find_proof(self, track: Track, fingerprint: str) -> TrackScores | None:
        """Return the scores of an earlier run, if they are what this one would come to."""
        path, folder = self.places.find(track), self.places.find_kept(track)
        if path is None or self.places.overwrite:
            return None
        earlier = read_scores(path)
        if earlier is None or earlier.fingerprint != fingerprint:
            return None
        if folder is not None:
            stems = self.source.list_stems(track)
            if earlier.kept != str(folder) or not all(has_stem(folder, stem) for stem in stems):
                return None
        return earlier

    def finish(self, prepared: _Prepared) -> TrackOutcome:
        """Score what was prepared, and write it."""
        self.check()
        track, references = prepared.track, prepared.references
        self.tell_progress(TrackProgress(track, "score"))
        try:
            stems = score_track(
                references,
                prepared.estimates,
                self.options,
                check=self.check,
                notes=prepared.notes,
            )
        except CancelledError:
            raise
        except StemsplitError as error:
            return self.fail(track, error)
        known = list_targets(tuple(references.stems))
        strange = [stem for stem in prepared.estimates if stem not in known]
        if strange:
            prepared.notes.append(f"not scored, as the data set has none: {', '.join(strange)}")
        scores = TrackScores(
            track=track.name,
            split=track.split,
            window_s=self.options.window_s,
            hop_s=self.options.hop_s,
            stems=stems,
            notes=tuple(prepared.notes),
            estimates=self.source.name,
            kept=str(self.places.find_kept(track) or ""),
            fingerprint=prepared.fingerprint,
        )
        path = self.places.find(track)
        if path is not None:
            write_scores(path, scores)
        return self.tell(TrackOutcome(track, "scored", scores, None, path, prepared.missing))

    def fail(self, track: Track, error: StemsplitError) -> TrackOutcome:
        """Leave no scores of an earlier run where this one has none."""
        path = self.places.find(track)
        if path is not None:
            path.unlink(missing_ok=True)
        return self.tell(TrackOutcome(track, "failed", error=error))

    def compare_stems(self, track: Track) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the stems that a track lacks, and those that are scored of it alone.

        Raises:
            AudioError: It has none.
        """
        given = self.source.list_stems(track)
        missing = tuple(stem for stem in self.expected if stem not in given)
        if self.options.stems is not None:
            return missing, ()
        return missing, tuple(stem for stem in given if stem not in self.expected)

    def take_fingerprint(self, track: Track, missing: Sequence[str], strays: Sequence[str]) -> str:
        """Return what identifies all that decides a track's scores, and their notes.

        Raises:
            AudioError: A file is not there.
        """
        told = {
            "scoring": SCORING,
            "options": asdict(self.options),
            "stems": {stem: stamp(file) for stem, file in track.stems.items()},
            "mixture": None if track.mixture is None else stamp(track.mixture),
            "estimates": self.source.identify(track),
            **({"uneven": [missing, strays]} if missing or strays else {}),
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def check(self) -> None:
        """Stop where the run has been stopped.

        Raises:
            CancelledError: It has.
        """
        if self.stopped.is_set():
            raise CancelledError("scoring was stopped", help="run it again to go on.")

    def tell(self, outcome: TrackOutcome) -> TrackOutcome:
        """Hand an outcome on, and return it."""
        with self.lock:
            self.on_event(outcome)
        return outcome

    def tell_progress(self, progress: TrackProgress) -> None:
        """Hand progress on."""
        with self.lock:
            self.on_event(progress)


@dataclass(frozen=True)
class _Prepared:
    """A track that waits for its scores."""

    track: Track
    fingerprint: str
    references: References
    estimates: Mapping[str, Tensor]
    notes: list[str]
    missing: tuple[str, ...]


def _key(track: Track) -> str:
    return f"{track.split}/{track.name}"


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Give threads that compute on one core each, and set torch back afterwards."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "score", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        # After Ctrl-C nobody waits for scores that nobody gets; otherwise all have ended.
        pool.shutdown(wait=False)
        torch.set_num_threads(before)
