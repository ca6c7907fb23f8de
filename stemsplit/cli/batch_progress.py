"""What a person sees while a catalogue is separated: a line that moves, lines, JSON, or nothing.

`--json` writes one object per line to standard output. Every object has "event".

    begin           source, dest, model, stems, engine
    download        model, done_bytes, total_bytes (null: unknown)
    note            message
    song_done       song (path or URL), output, audio_s, elapsed_s, tries, notices (sentences: that
                    it is damaged, say)
    song_skipped    the same: its manifest proves it done
    song_failed     song, output, error (the class), message, help, elapsed_s, tries
    song_cancelled  song, output
    progress        songs, total (null: unknown), done, skipped, failed, audio_s, elapsed_s, speed,
                    remaining_s (null: unknown); at most twice a second
    summary         what the report says
    error           error, message, help: the whole run ends with it

The last line is "summary", or "error". Keys may be added; those above stay.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from stemsplit.cli.json_lines import describe_error
from stemsplit.cli.voice import JsonVoice, Voice, has_terminal
from stemsplit.cli.wording import (
    format_bytes,
    format_clock,
    format_count,
    format_speed,
    format_table,
    printable,
)

if TYPE_CHECKING:
    from stemsplit.batch.job import Ending
    from stemsplit.batch.report import BatchReport, Tally
    from stemsplit.errors import StemsplitError

LINE_EVERY_S = 10.0
EVENT_EVERY_S = 0.5
PROGRESS = "progress"
TABLE_COLUMNS = 78
_SHOWN = 20


@dataclass(frozen=True)
class BatchPlan:
    """What is about to be done.

    Attributes:
        source: As it was found.
        dest: Where the stems go.
        model: Name of the model.
        stems: What comes out of each song.
        engine: "local" or "ray".
    """

    source: str
    dest: str
    model: str
    stems: tuple[str, ...]
    engine: str


@dataclass(frozen=True)
class State:
    """How far a batch is.

    Attributes:
        tally: What has become of the songs so far.
        total: Songs in the catalogue; None while nobody knows.
        elapsed_s: Since the first song was begun.
    """

    tally: Tally
    total: int | None
    elapsed_s: float

    @property
    def speed(self) -> float:
        """Seconds of audio separated per second, without the time for what was there already."""
        return self.tally.audio_s / max(self.elapsed_s - self.tally.skipping_s, 1e-9)

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest takes; None while nobody knows."""
        return self.tally.estimate_left_s(self.total, self.elapsed_s)

    def describe(self) -> str:
        """Return it as a line."""
        tally = self.tally
        of = f"/{self.total}" if self.total is not None else ""
        parts = [f"{tally.songs}{of} songs" if of else format_count(tally.songs, "song")]
        parts += [f"{tally.counts[name]} {name}" for name in ("skipped", "failed")]
        parts += [f"{tally.audio_s / 3600:.2f} h of audio", format_speed(self.speed)]
        if self.left_s is not None:
            parts.append(f"{format_clock(self.left_s)} left")
        return ", ".join(part for part in parts if not part.startswith("0 "))


class BatchReporter(Voice):
    """Says nothing but what went wrong; the base of those that say more."""

    def on_begin(self, plan: BatchPlan) -> None:
        """The work begins; the model is not loaded yet."""

    def on_download(self, model: str, done_bytes: int, total_bytes: int | None) -> None:
        """Weights are arriving."""

    def on_note(self, message: str) -> None:
        """There is something to know about the run."""

    def on_ending(self, ending: Ending, state: State) -> None:
        """A song is through, one way or another."""
        if ending.error is not None:
            self.say(f"error: {describe_failure(ending.song.name, ending.error.message)}")

    def on_report(self, report: BatchReport, place: str) -> None:
        """All songs are through, or it was stopped."""

    def on_error(self, error: StemsplitError) -> None:
        """The whole run ends with this error, which is printed elsewhere."""


class BatchLines(BatchReporter):
    """A line every ten seconds, one for every failure, and a table at the end."""

    def __init__(
        self, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Write to `out`, or to standard error; `clock` gives seconds."""
        super().__init__(out, clock)
        self.is_due(PROGRESS, LINE_EVERY_S)

    def on_begin(self, plan: BatchPlan) -> None:
        """Say what is done with what."""
        stems = ", ".join(plan.stems)
        self.say(f"{printable(plan.source)} -> {printable(plan.dest)}: {plan.model}, {stems}")

    def on_download(self, model: str, done_bytes: int, total_bytes: int | None) -> None:
        """Say how much is here."""
        if self.is_due(f"download {model}", LINE_EVERY_S) or done_bytes == total_bytes:
            of = "" if total_bytes is None else f" of {format_bytes(total_bytes)}"
            self.say(f"downloading {model}: {format_bytes(done_bytes)}{of}")

    def on_note(self, message: str) -> None:
        """Pass it on."""
        self.say(f"note: {printable(message)}")

    def on_ending(self, ending: Ending, state: State) -> None:
        """Say what failed, and from time to time how far it is."""
        super().on_ending(ending, state)
        self.show(state)

    def show(self, state: State) -> None:
        """Say how far it is."""
        if self.is_due(PROGRESS, LINE_EVERY_S):
            self.say(state.describe())

    def on_report(self, report: BatchReport, place: str) -> None:
        """Print the table, and where everything is."""
        for line in describe_report(report, place):
            self.say(line)


class BatchJson(JsonVoice, BatchReporter):
    """Writes the events of this module's docstring."""

    def on_begin(self, plan: BatchPlan) -> None:
        """Write `begin`."""
        self.write("begin", **{**vars(plan), "stems": list(plan.stems)})

    def on_download(self, model: str, done_bytes: int, total_bytes: int | None) -> None:
        """Write `download`, twice a second and at the end."""
        if self.is_due(model, EVENT_EVERY_S) or done_bytes == total_bytes:
            self.write("download", model=model, done_bytes=done_bytes, total_bytes=total_bytes)

    def on_note(self, message: str) -> None:
        """Write `note`."""
        self.write("note", message=message)

    def on_ending(self, ending: Ending, state: State) -> None:
        """Write how the song ended, and `progress`."""
        values: dict[str, object] = {"song": ending.song.name, "output": ending.song.output}
        work = {"elapsed_s": round(ending.elapsed_s, 3), "tries": ending.tries}
        if ending.error is not None:
            values |= {**describe_error(ending.error), **work}
        elif ending.status != "cancelled":
            values |= {"audio_s": round(ending.audio_s, 3), **work, "notices": ending.notices}
        self.write(f"song_{ending.status}", **values)
        if self.is_due(PROGRESS, EVENT_EVERY_S):
            left_s, counts = state.left_s, state.tally.counts
            self.write(
                "progress",
                songs=state.tally.songs,
                total=state.total,
                **{name: counts[name] for name in ("done", "skipped", "failed")},
                audio_s=round(state.tally.audio_s, 3),
                elapsed_s=round(state.elapsed_s, 3),
                speed=round(state.speed, 3),
                remaining_s=None if left_s is None else round(left_s, 3),
            )

    def on_report(self, report: BatchReport, place: str) -> None:
        """Write `summary`."""
        self.write("summary", **report.to_dict(), report=place)

    def on_error(self, error: StemsplitError) -> None:
        """Write `error`."""
        self.write("error", **describe_error(error))


def choose_batch_reporter(*, quiet: bool, as_json: bool) -> BatchReporter:
    """Return JSON lines, nothing, a line that moves on a terminal, or plain lines."""
    if as_json:
        return BatchJson()
    if quiet:
        return BatchReporter()
    if has_terminal():
        from stemsplit.cli.bars import BatchBars

        return BatchBars()
    return BatchLines()


def describe_failure(name: str, message: str) -> str:
    """Return what is wrong with a song, with its name unless the message has that."""
    return printable(message if name in message else f"{name}: {message}")


def describe_report(report: BatchReport, place: str) -> list[str]:
    """Return the last lines: a table, what failed and why, and where everything is."""
    tally = report.tally
    hours = {"done": tally.audio_s, "skipped": tally.skipped_audio_s}
    names = {"done": "separated", "cancelled": "not done"}
    rows = [
        [
            names.get(status, status),
            str(tally.counts[status]),
            f"{hours[status] / 3600:.2f}" if status in hours else "",
        ]
        for status in ("done", "skipped", "failed", "cancelled")
        if tally.counts[status]
    ]
    rows += [[f"  {kind}", str(count), ""] for kind, count in tally.kinds.most_common()]
    if tally.noticed:
        rows.append(["with notes", str(tally.noticed), ""])
    lines = format_table(["", "songs", "hours of audio"], rows, TABLE_COLUMNS)
    speed = f", {format_speed(report.speed)}" if tally.audio_s else ""
    lines.append(f"{format_count(tally.songs, 'song')} in {format_clock(report.elapsed_s)}{speed}")
    lines += _list_some("failed", tally.first_failures, tally.counts["failed"])
    lines += _list_some("note", tally.first_notices, tally.noticed)
    if report.failed_list:
        again = printable(report.failed_list)
        lines.append(f"for these alone: stemsplit batch {again} ...")
    if report.is_stopped:
        lines.append("stopped; run the same command again to go on")
    lines.append(f"the report is {printable(place)}")
    return lines


def _list_some(what: str, told: list[tuple[str, str]], count: int) -> list[str]:
    """Return a line for each song of which something is told, and how many there are besides."""
    shown = told[:_SHOWN]
    lines = [f"{what}: {describe_failure(name, message)}" for name, message in shown]
    rest = count - len(shown)
    return [*lines, f"and {rest} more"] if rest else lines
