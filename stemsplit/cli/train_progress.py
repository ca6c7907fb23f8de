"""What a person sees of a training: a line per epoch, and between them a bar or a line."""

from __future__ import annotations

import os
from collections.abc import Mapping

from stemsplit.cli.voice import Voice, has_terminal
from stemsplit.cli.wording import format_clock, format_count, printable
from stemsplit.training.events import Began, Event, Noted, Stepped, Validated

LINE_EVERY_S = 30.0
STEP = "step"


class TrainReporter(Voice):
    """Says nothing of itself; the base of those that do."""

    def on_event(self, event: Event) -> None:
        """Show what happened."""


class TrainSilence(TrainReporter):
    """Says nothing at all."""

    def say(self, line: str) -> None:
        """Say nothing."""


class TrainLines(TrainReporter):
    """Plain lines: one per epoch, one at most every half minute in between."""

    def on_event(self, event: Event) -> None:
        """Write a line, where one is due."""
        if isinstance(event, Began):
            self.is_due(STEP, LINE_EVERY_S)
            for line in describe_beginning(event):
                self.say(line)
        elif isinstance(event, Noted):
            self.say(f"note: {printable(event.text)}")
        elif isinstance(event, Validated):
            self.say(describe_epoch(event))
        elif isinstance(event, Stepped):
            self.on_step(event)

    def on_step(self, event: Stepped) -> None:
        """Say where it is, unless that was said a moment ago."""
        if self.is_due(STEP, LINE_EVERY_S):
            self.say(describe_step(event))


def choose_train_reporter(*, quiet: bool) -> TrainReporter:
    """Return nothing, a bar on a terminal, or plain lines."""
    if quiet:
        return TrainSilence()
    if has_terminal():
        from stemsplit.cli.bars import TrainBars

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
