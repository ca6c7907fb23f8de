"""What a person sees while tracks are scored: lines, a bar, JSON, or nothing.

`--json` writes one object per line to standard output. Every object has "event"; those about a
track have "track" and "split".

    begin          estimates (a model's name, or a folder), tracks (how many)
    download       model, done_bytes, total_bytes (null: unknown)
    progress       track, split, stage ("read", "separate", "score"), share (0 to 1)
    track_scored   track, split, file, stems {stem: {measure: dB or null}}, notes,
                   missing (stems without an estimate)
    track_kept     the same: it was scored before, and nothing has changed
    track_failed   track, split, error (the class), message, help
    note           message
    summary        scored, kept, failed, problems [line], stems {stem: {measure: {median_db,
                   mean_db, tracks}}}, out_dir
    error          error, message, help: the whole run ends with it

The last line is "summary" or "error". Keys may be added; those above stay.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from stemsplit.cli.json_lines import describe_error
from stemsplit.cli.voice import JsonVoice, Voice, has_terminal
from stemsplit.cli.wording import format_bytes, format_count, printable

if TYPE_CHECKING:
    from stemsplit.datasets.track import Track
    from stemsplit.errors import StemsplitError
    from stemsplit.evaluation.report import Report
    from stemsplit.evaluation.results import TrackScores
    from stemsplit.evaluation.run import TrackOutcome, TrackProgress

LINE_EVERY_S = 10.0
EVENT_EVERY_S = 0.5


class EvalReporter(Voice):
    """Says nothing but what went wrong; the base of those that say more."""

    def on_begin(self, estimates: str, tracks: Sequence[Track]) -> None:
        """The tracks are known."""

    def on_download(self, model: str, done_bytes: int, total_bytes: int | None) -> None:
        """Weights are arriving."""

    def on_event(self, event: TrackOutcome | TrackProgress) -> None:
        """Something happened to a track."""
        from stemsplit.evaluation.run import TrackProgress

        if isinstance(event, TrackProgress):
            self.on_progress(event)
        else:
            self.on_outcome(event)

    def on_progress(self, progress: TrackProgress) -> None:
        """A track is so far."""

    def on_outcome(self, outcome: TrackOutcome) -> None:
        """A track is through, one way or another."""
        if outcome.error is not None:
            self.say(f"error: {printable(outcome.track.name)}: {printable(outcome.error.message)}")
            self.say(f"help: {printable(outcome.error.help)}")

    def on_note(self, message: str) -> None:
        """There is something to know about the run."""

    def on_report(self, report: Report, folder: Path, table: Sequence[str]) -> None:
        """All is written."""
        for problem in (*report.gaps, *report.problems):
            self.say(f"error: {printable(problem)}")

    def on_error(self, error: StemsplitError) -> None:
        """The whole run ends with this error, which is printed elsewhere."""


class EvalLines(EvalReporter):
    """A line when a track ends, one every ten seconds between, and the table at the end."""

    _places: Mapping[tuple[str, str], int] = MappingProxyType({})

    def on_begin(self, estimates: str, tracks: Sequence[Track]) -> None:
        """Say what is about to be done."""
        self._places = {(track.split, track.name): at for at, track in enumerate(tracks, start=1)}
        self.say(f"scoring {printable(estimates)}: {format_count(len(tracks), 'track')}")

    def on_download(self, model: str, done_bytes: int, total_bytes: int | None) -> None:
        """Say how much is here, from time to time and at the end."""
        if self.is_due(f"download {model}", LINE_EVERY_S) or done_bytes == total_bytes:
            of = "" if total_bytes is None else f" of {format_bytes(total_bytes)}"
            self.say(f"downloading {model}: {format_bytes(done_bytes)}{of}")

    def on_progress(self, progress: TrackProgress) -> None:
        """Say how far a separation is, when ten seconds have passed."""
        if self.is_due(progress.track.name, LINE_EVERY_S) and progress.stage == "separate":
            self.say(f"{self._name(progress.track)}: separated {min(1.0, progress.share):.0%}")

    def on_outcome(self, outcome: TrackOutcome) -> None:
        """Say how it ended."""
        name = self._name(outcome.track)
        if outcome.error is not None:
            self.say(f"{name}: error: {printable(outcome.error.message)}")
            self.say(f"  help: {printable(outcome.error.help)}")
        if outcome.scores is not None:
            before = "scored before: " if outcome.status == "kept" else ""
            self.say(f"{name}: {before}{describe_scores(outcome.scores)}")
            for note in outcome.scores.notes if outcome.status == "scored" else ():
                self.say(f"{name}: note: {printable(note)}")

    def on_note(self, message: str) -> None:
        """Pass it on."""
        self.say(f"note: {printable(message)}")

    def on_report(self, report: Report, folder: Path, table: Sequence[str]) -> None:
        """Print the table, which is data, and say where everything is."""
        print("\n".join(table), flush=True)
        for failure in report.failures:
            self.say(f"not scored: {printable(failure)}")
        self.say(f"the scores are in {printable(folder)}{os.sep}, the page is report.html there")

    def _name(self, track: Track) -> str:
        count = len(self._places)
        place = f"[{self._places[track.split, track.name]}/{count}] " if count > 1 else ""
        return place + printable(track.name)


class EvalJson(JsonVoice, EvalReporter):
    """Writes the events of this module's docstring."""

    def on_begin(self, estimates: str, tracks: Sequence[Track]) -> None:
        """Write `begin`."""
        self.write("begin", estimates=estimates, tracks=len(tracks))

    def on_download(self, model: str, done_bytes: int, total_bytes: int | None) -> None:
        """Write `download`, twice a second and at the end."""
        if self.is_due(model, EVENT_EVERY_S) or done_bytes == total_bytes:
            self.write("download", model=model, done_bytes=done_bytes, total_bytes=total_bytes)

    def on_progress(self, progress: TrackProgress) -> None:
        """Write `progress`, when a stage begins and twice a second."""
        topic = (progress.track.split, progress.track.name, progress.stage)
        if self.is_due(topic, EVENT_EVERY_S):
            share = round(min(1.0, progress.share), 4)
            self.write("progress", **_name(progress.track), stage=progress.stage, share=share)

    def on_outcome(self, outcome: TrackOutcome) -> None:
        """Write how it ended."""
        name = _name(outcome.track)
        if outcome.error is not None:
            self.write("track_failed", **name, **describe_error(outcome.error))
        if outcome.scores is not None:
            self.write(
                f"track_{outcome.status}",
                **name,
                file=None if outcome.path is None else os.fspath(outcome.path),
                stems=list_scores(outcome.scores),
                notes=list(outcome.scores.notes),
                missing=list(outcome.missing),
            )

    def on_note(self, message: str) -> None:
        """Write `note`."""
        self.write("note", message=message)

    def on_report(self, report: Report, folder: Path, table: Sequence[str]) -> None:
        """Write `summary`."""
        from stemsplit.evaluation.report import to_json

        counts = {
            status: sum(outcome.status == status for outcome in report.outcomes)
            for status in ("scored", "kept", "failed")
        }
        self.write(
            "summary",
            **counts,
            problems=[*report.gaps, *report.problems],
            stems=to_json(report)["stems"],
            out_dir=os.fspath(folder),
        )

    def on_error(self, error: StemsplitError) -> None:
        """Write `error`."""
        self.write("error", **describe_error(error))


def choose_eval_reporter(*, quiet: bool, as_json: bool) -> EvalReporter:
    """Return JSON lines, nothing, a bar on a terminal, or plain lines."""
    if as_json:
        return EvalJson()
    if quiet:
        return EvalReporter()
    if has_terminal():
        from stemsplit.cli.bars import EvalBars

        return EvalBars()
    return EvalLines()


def describe_scores(scores: TrackScores) -> str:
    """Return the SDR of each stem in a line."""
    told = []
    for stem in scores.stems:
        value = stem.of_track("SDR")
        told.append(f"{stem.stem} {'-' if math.isnan(value) else f'{value:.2f}'}")
    return f"SDR (median of frames) {', '.join(told)} dB"


def list_scores(scores: TrackScores) -> dict[str, dict[str, float | None]]:
    """Return every number of a track: the median of frames, or of the whole."""
    return {
        stem.stem: {
            measure: None if math.isnan(value := stem.of_track(measure)) else value
            for measure in (*stem.frames, *stem.whole)
        }
        for stem in scores.stems
    }


def _name(track: Track) -> dict[str, Any]:
    return {"track": track.name, "split": track.split}
