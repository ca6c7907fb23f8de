"""What a person sees while songs are separated: lines, or nothing.

Bars are in `bars`, JSON in `json_lines`.
All of it goes to standard error; standard output is for data.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from stemsplit.cli import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED
from stemsplit.cli.voice import Voice, has_terminal
from stemsplit.cli.wording import (
    format_bytes,
    format_clock,
    format_count,
    format_speed,
    printable,
)
from stemsplit.separation.events import Event, Finished, Notice, Progress, Started, StemBlock

if TYPE_CHECKING:
    from stemsplit.batch.local import Outcome
    from stemsplit.errors import StemsplitError
    from stemsplit.separation.naming import Job

LINE_EVERY_S = 10.0


@dataclass(frozen=True)
class Plan:
    """What is about to be done.

    Attributes:
        jobs: The songs.
        model: Name of the model.
        stems: What comes out of each.
        out_dir: Where it goes.
        description: What a model of one's own was found to be; None for the registry's.
    """

    jobs: Sequence[Job]
    model: str
    stems: tuple[str, ...]
    out_dir: Path
    description: str | None = None


@dataclass(frozen=True)
class Summary:
    """How a batch ended.

    Attributes:
        outcomes: One per song, in order.
        elapsed_s: From the command's start to its end.
    """

    outcomes: Sequence[Outcome]
    elapsed_s: float

    def having(self, status: str) -> list[Outcome]:
        """Return the outcomes of one status."""
        return [outcome for outcome in self.outcomes if outcome.status == status]

    @property
    def audio_s(self) -> float:
        """Length of all songs that were separated now."""
        return sum(outcome.audio_s for outcome in self.having("done"))

    @property
    def speed(self) -> float:
        """Seconds of audio per second, everything included."""
        return self.audio_s / max(self.elapsed_s, 1e-9)

    @property
    def exit_code(self) -> int:
        """What the command ends with: stopped, some failed, or all done."""
        if self.having("cancelled"):
            return EXIT_STOPPED
        return EXIT_FAILED if self.having("failed") else EXIT_DONE

    def describe(self) -> str:
        """Return one line: what was done with how many songs, and how fast."""
        words = {"done": "separated", "skipped": "skipped", "failed": "failed"}
        counts = {word: len(self.having(status)) for status, word in words.items()}
        counts["not done"] = len(self.having("cancelled"))
        told = [(word, count) for word, count in counts.items() if count]
        parts = [
            f"{format_count(count, 'song') if index == 0 else count} {word}"
            for index, (word, count) in enumerate(told)
        ]
        speed = ""
        if self.audio_s:
            speed = f"; {format_clock(self.audio_s)} of audio in {format_clock(self.elapsed_s)}, "
            speed += format_speed(self.speed)
        return ", ".join(parts) + speed


class Reporter(Voice):
    """Says nothing but what went wrong; the base of those that say more."""

    def on_plan(self, plan: Plan) -> None:
        """The songs and their outputs are known; the model is not loaded yet."""

    def on_download(self, model: str, done_bytes: int, total_bytes: int | None) -> None:
        """Weights are arriving."""

    def on_graph(self, model: str) -> None:
        """A backend makes itself a graph, or code, of the model."""

    def on_count(self, noun: str, done: int, total: int) -> None:
        """So many of a command's tracks, or whatever they are called, are through."""

    def on_event(self, job: Job, event: Event | Outcome) -> None:
        """Something happened to a song."""
        if isinstance(event, Started):
            self.on_started(job, event)
        elif isinstance(event, Progress):
            self.on_progress(job, event)
        elif isinstance(event, Notice):
            self.on_notice(job, event)
        elif isinstance(event, Finished):
            self.on_finished(job, event)
        elif not isinstance(event, StemBlock):
            self.on_outcome(job, event)

    def on_started(self, job: Job, event: Started) -> None:
        """A song is open."""

    def on_progress(self, job: Job, event: Progress) -> None:
        """A song is so far."""

    def on_notice(self, job: Job, event: Notice) -> None:
        """There is something to know about a song."""

    def on_finished(self, job: Job, event: Finished) -> None:
        """A song's files are in their places."""

    def on_outcome(self, job: Job, outcome: Outcome) -> None:
        """A song is through, one way or another."""
        if outcome.error is not None:
            self.say(f"error: {title_of(job)}: {printable(outcome.error.message)}")
            self.say(f"help: {printable(outcome.error.help)}")

    def on_summary(self, plan: Plan, summary: Summary) -> None:
        """All songs are through, or it was stopped."""

    def on_error(self, error: StemsplitError) -> None:
        """The whole run ends with this error, which is printed elsewhere."""


class Lines(Reporter):
    """A line when a song begins and when it ends, and at most one every ten seconds between."""

    def __init__(
        self, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Write to `out`, or to standard error; `clock` gives seconds."""
        super().__init__(out, clock)
        self._download = ""
        self._places: dict[Path, str] = {}

    def on_plan(self, plan: Plan) -> None:
        """Say what a model of one's own is; remember each song's place in the batch."""
        if plan.description:
            self.say(printable(plan.description))
        count = len(plan.jobs)
        if count > 1:
            self._places = {
                job.manifest: f"[{index}/{count}] " for index, job in enumerate(plan.jobs, start=1)
            }

    def on_download(self, model: str, done_bytes: int, total_bytes: int | None) -> None:
        """Say how much is here, when it begins, from time to time, and when all is."""
        is_all = done_bytes == total_bytes
        if self.is_due(f"download {model}", LINE_EVERY_S) or is_all:
            of = "" if total_bytes is None else f" of {format_bytes(total_bytes)}"
            line = f"downloading {model}: {format_bytes(done_bytes)}{of}"
            if line != self._download:
                self.say(line)
            self._download = line

    def on_graph(self, model: str) -> None:
        """Say what takes so long."""
        self.say(f"{describe_graph(model)} ...")

    def on_started(self, job: Job, event: Started) -> None:
        """Say what is separated into what."""
        self.is_due(job.manifest, LINE_EVERY_S)
        self.say(f"{self._name(job)}: {describe_start(event)}")

    def on_progress(self, job: Job, event: Progress) -> None:
        """Say how far it is, when ten seconds have passed."""
        if self.is_due(job.manifest, LINE_EVERY_S):
            self.say(f"{self._name(job)}: {describe_progress(event)}")

    def on_notice(self, job: Job, event: Notice) -> None:
        """Pass it on."""
        self.say(f"{self._name(job)}: note: {printable(event.message)}")

    def on_outcome(self, job: Job, outcome: Outcome) -> None:
        """Say how it ended."""
        for line in describe_outcome(self._name(job), job, outcome):
            self.say(line)

    def on_summary(self, plan: Plan, summary: Summary) -> None:
        """Say where the stems are, how fast it went, and what failed."""
        for line in describe_summary(plan, summary):
            self.say(line)

    def _name(self, job: Job) -> str:
        return self._places.get(job.manifest, "") + title_of(job)


def choose_reporter(*, quiet: bool, as_json: bool) -> Reporter:
    """Return JSON lines, nothing, bars on a terminal, or plain lines."""
    if as_json:
        from stemsplit.cli.json_lines import JsonLines

        return JsonLines()
    if quiet:
        return Reporter()
    if has_terminal():
        from stemsplit.cli.bars import Bars

        return Bars()
    return Lines()


def title_of(job: Job) -> str:
    """Name a song as the person knows it: its file, below the folder that was named."""
    return printable(job.source.folder / job.source.name)


def describe_graph(model: str) -> str:
    """Say what happens before a model is used by a backend that makes something of it."""
    return f"preparing {model} for this backend, which takes a while"


def describe_start(event: Started) -> str:
    """Return what is separated into what, and on what."""
    length = ""
    if event.total_samples is not None:
        length = f"{format_clock(event.total_samples / event.sample_rate)}, "
    channels = "mono" if event.channels == 1 else "stereo"
    stems = ", ".join(event.stems)
    return (
        f"{length}{event.sample_rate} Hz, {channels} -> {stems} ({event.device}, "
        f"{event.backend}, {event.precision})"
    )


def describe_progress(event: Progress) -> str:
    """Return how far a song is, how fast, and how long it will take."""
    if event.total_samples:
        share = min(1.0, event.done_samples / event.total_samples)
        far = f"{share:.0%}"
    else:
        far = format_clock(event.done_samples / event.sample_rate)
    left = "" if event.remaining_s is None else f", {format_clock(event.remaining_s)} left"
    return f"{far}, {format_speed(event.speed)}{left}"


def describe_outcome(name: str, job: Job, outcome: Outcome) -> list[str]:
    """Return the lines that end a song."""
    place = printable(folder_of(job))
    if outcome.error is not None:
        message, help = printable(outcome.error.message), printable(outcome.error.help)
        return [f"{name}: error: {message}", f"  help: {help}"]
    if outcome.status == "skipped":
        return [f"{name}: done already, skipped: {place}"]
    if outcome.status == "cancelled":
        return [f"{name}: stopped"]
    speed = format_speed(outcome.audio_s / max(outcome.elapsed_s, 1e-9))
    return [f"{name}: done in {format_clock(outcome.elapsed_s)}, {speed}: {place}"]


def describe_summary(plan: Plan, summary: Summary) -> list[str]:
    """Return the last lines: what was done, where it is, and what failed and why."""
    lines = [summary.describe()]
    there = [outcome for outcome in summary.outcomes if outcome.status in ("done", "skipped")]
    if there:
        folder = folder_of(there[0].job) if len(there) == 1 else plan.out_dir
        lines.append(f"the stems are in {printable(folder)}{os.sep}")
    failed = summary.having("failed")
    if len(summary.outcomes) > 1:
        for outcome in failed:
            assert outcome.error is not None
            lines.append(f"failed: {title_of(outcome.job)}: {printable(outcome.error.message)}")
    if summary.having("cancelled"):
        lines.append("stopped; run the same command again to go on")
    return lines


def folder_of(job: Job) -> Path:
    """Return the folder that a song's stems are in."""
    folders = [str(path.parent) for path in job.outputs.values()]
    return Path(os.path.commonpath(folders))
