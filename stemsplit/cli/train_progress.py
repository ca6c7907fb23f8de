"""What a person sees of a training: a line per epoch, and between them a bar or a line."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

from typing_extensions import Self

from stemsplit.cli.wording import format_clock, format_count, printable
from stemsplit.training.events import Began, Event, Noted, Stepped, Validated

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_EVERY_S = 30.0
BAR_EVERY_S = 0.2


class TrainReporter:
    """Says nothing; the base of those that say more. Use it as a context manager."""

    def __init__(self, out: TextIO | None = None) -> None:
        """Write to `out`, or to standard error."""
        self._out = out or sys.stderr
        self._began: Began | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing to end."""

    def on_event(self, event: Event) -> None:
        """Show what happened."""

    def say(self, line: str) -> None:
        """Say nothing."""


class TrainLines(TrainReporter):
    """Plain lines: one per epoch, one at most every half minute in between."""

    def __init__(self, out: TextIO | None = None) -> None:
        super().__init__(out)
        self._said_s = time.monotonic()

    def say(self, line: str) -> None:
        """Write a line at once. Where nobody can read it any more, the training goes on."""
        with contextlib.suppress(OSError):
            print(line, file=self._out, flush=True)

    def on_event(self, event: Event) -> None:
        """Write a line, where one is due."""
        if isinstance(event, Began):
            self._began = event
            for line in describe_beginning(event):
                self.say(line)
        elif isinstance(event, Noted):
            self.say(f"note: {printable(event.text)}")
        elif isinstance(event, Validated):
            self._said_s = time.monotonic()
            self.say(describe_epoch(event))
        elif isinstance(event, Stepped):
            self.on_step(event)

    def on_step(self, event: Stepped) -> None:
        """Say where it is, unless that was said a moment ago."""
        if time.monotonic() - self._said_s >= LINE_EVERY_S:
            self._said_s = time.monotonic()
            self.say(describe_step(event))


class TrainBars(TrainLines):
    """A bar for the epoch under way; lines that stay for those that are over."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        super().__init__()
        self._console = Console(stderr=True)
        self._live: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
            expand=True,
            transient=True,
            refresh_per_second=5,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Take the bar away."""
        self._live.stop()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        from rich.text import Text

        self._console.print(Text(line), soft_wrap=True)

    def on_step(self, event: Stepped) -> None:
        """Move the bar; not for every one of a hundred steps a second."""
        now_s = time.monotonic()
        if self._task is None:
            self._task = self._live.add_task("", total=event.batches, note="")
        elif now_s - self._said_s < BAR_EVERY_S and event.batch < event.batches:
            return
        self._said_s = now_s
        note = f"{event.batch}/{event.batches}, loss {event.loss:.5g}"
        if event.batch == event.batches:
            note += ", validating"
        self._live.update(
            self._task,
            description=f"epoch {event.epoch}",
            completed=event.batch,
            total=event.batches,
            note=note,
        )


def choose_train_reporter(*, quiet: bool) -> TrainReporter:
    """Return nothing, a bar on a terminal, or plain lines."""
    if quiet:
        return TrainReporter()
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return TrainBars()
    return TrainLines()


def describe_beginning(event: Began) -> list[str]:
    """Return what is trained on what."""
    together = f", {event.processes} processes" if event.processes > 1 else ""
    goes_on = f"; goes on with epoch {event.epoch}" if event.epoch else ""
    return [
        f"{event.architecture}: {event.parameters:,} parameters, learns {', '.join(event.stems)}",
        f"{format_count(event.train_tracks, 'track')} to learn from, {event.valid_tracks} to judge "
        f"by; {event.batches} batches an epoch, {format_count(event.max_epochs, 'epoch')} "
        f"({event.device}{together}){goes_on}",
        f"everything goes to {printable(event.run)}{os.sep}",
    ]


def describe_step(event: Stepped) -> str:
    """Return where in an epoch it is."""
    return f"epoch {event.epoch}: {event.batch}/{event.batches}, loss {event.loss:.5g}"


def describe_epoch(event: Validated) -> str:
    """Return an epoch's figures, each by its name."""
    metrics = event.metrics
    parts = [f"loss {metrics['train_loss']:.5g}"]
    if "validation_loss" in metrics:
        parts.append(f"validation {metrics['validation_loss']:.5g}")
    if "usdr" in metrics:
        parts.append(f"uSDR {metrics['usdr']:.2f} dB{_list_stems(metrics)}")
    best = ", the best so far" if event.is_best else ""
    return f"epoch {event.epoch}: {', '.join(parts)} ({format_clock(metrics['seconds'])}){best}"


def _list_stems(metrics: Mapping[str, float]) -> str:
    stems = {
        key.removeprefix("usdr_"): value
        for key, value in metrics.items()
        if key.startswith("usdr_")
    }
    if len(stems) < 2:
        return ""
    return " (" + ", ".join(f"{stem} {value:.2f}" for stem, value in stems.items()) + ")"
