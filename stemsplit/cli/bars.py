"""Progress on a terminal: bars below the lines that stay.

Songs have a bar each, with one for all of them; a scoring and a training have one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TaskProgressColumn, TextColumn
from rich.progress import Progress as Live
from rich.text import Text
from typing_extensions import Self

from stemsplit.cli.batch_progress import BatchLines, State
from stemsplit.cli.evaluate_progress import EvalLines
from stemsplit.cli.progress import (
    Plan,
    Reporter,
    Summary,
    describe_graph,
    describe_outcome,
    describe_summary,
    title_of,
)
from stemsplit.cli.train_progress import STEP, TrainLines
from stemsplit.cli.voice import Voice
from stemsplit.cli.wording import format_bytes, format_clock, format_speed, printable
from stemsplit.separation.events import Notice, Progress, Started

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stemsplit.batch.local import Outcome
    from stemsplit.batch.report import BatchReport
    from stemsplit.datasets.track import Track
    from stemsplit.evaluation.report import Report
    from stemsplit.evaluation.run import TrackOutcome, TrackProgress
    from stemsplit.separation.naming import Job
    from stemsplit.training.events import Stepped

TITLE_COLUMNS = 40
BAR_EVERY_S = 0.2


class _Title(ProgressColumn):
    """A song's name, short enough to leave room for the bar."""

    def render(self, task: Task) -> Text:
        text = Text(task.description, no_wrap=True)
        text.truncate(TITLE_COLUMNS, overflow="ellipsis")
        return text


class LiveVoice(Voice):
    """Says its lines above what moves."""

    def __init__(self, *columns: ProgressColumn, console: Console | None = None) -> None:
        """Draw bars of these columns on `console`, or on standard error."""
        super().__init__()
        self._console = console or Console(stderr=True)
        self._live = Live(
            *columns, console=self._console, expand=True, transient=True, refresh_per_second=5
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Take the bars away."""
        self._live.stop()

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._console.print(Text(line), soft_wrap=True)


class Bars(LiveVoice, Reporter):
    """Bars while it runs, lines that stay for what is finished."""

    def __init__(self, console: Console | None = None) -> None:
        """Draw on `console`, or on standard error."""
        super().__init__(
            _Title(),
            BarColumn(bar_width=None),
            TaskProgressColumn("{task.percentage:>3.0f} %", markup=False),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
        )
        self._songs: TaskID | None = None
        self._tasks: dict[Path, TaskID] = {}
        self._download: TaskID | None = None
        self._loading: TaskID | None = None

    def on_plan(self, plan: Plan) -> None:
        """Show that the model is being loaded, and the songs to come."""
        if plan.description:
            self.say(printable(plan.description))
        self._loading = self._live.add_task(f"loading {plan.model}", total=None, note="")
        if len(plan.jobs) > 1:
            count = len(plan.jobs)
            self._songs = self._live.add_task("songs", total=count, note=f"0/{count}")

    def on_download(self, model: str, done_bytes: int, total_bytes: int | None) -> None:
        """Move the download's bar."""
        if self._download is None:
            self._download = self._live.add_task(f"downloading {model}", total=None, note="")
        of = "" if total_bytes is None else f"/{format_bytes(total_bytes)}"
        self._live.update(
            self._download,
            description=f"downloading {model}",
            completed=done_bytes,
            total=total_bytes,
            note=f"{format_bytes(done_bytes)}{of}",
        )

    def on_graph(self, model: str) -> None:
        """Say what the bar of loading waits for."""
        if self._loading is not None:
            self._live.update(self._loading, description=describe_graph(model))

    def on_count(self, noun: str, done: int, total: int) -> None:
        """Move the one bar of a command that counts."""
        self._drop_preparations()
        if self._songs is None:
            self._songs = self._live.add_task(noun, total=total, note="")
        self._live.update(self._songs, completed=done, total=total, note=f"{done}/{total}")

    def on_started(self, job: Job, event: Started) -> None:
        """Add the song's bar."""
        self._drop_preparations()
        total_s = None
        if event.total_samples is not None:
            total_s = event.total_samples / event.sample_rate
        self._tasks[job.manifest] = self._live.add_task(title_of(job), total=total_s, note="")

    def on_progress(self, job: Job, event: Progress) -> None:
        """Move the song's bar."""
        left = "" if event.remaining_s is None else f", {format_clock(event.remaining_s)} left"
        self._live.update(
            self._tasks[job.manifest],
            completed=event.done_samples / event.sample_rate,
            note=f"{format_speed(event.speed)}{left}",
        )

    def on_notice(self, job: Job, event: Notice) -> None:
        """Print it above the bars."""
        self.say(f"{title_of(job)}: note: {printable(event.message)}")

    def on_outcome(self, job: Job, outcome: Outcome) -> None:
        """Replace the song's bar by a line."""
        self._drop_preparations()
        task = self._tasks.pop(job.manifest, None)
        if task is not None:
            self._live.remove_task(task)
        for line in describe_outcome(title_of(job), job, outcome):
            self.say(line)
        if self._songs is not None:
            self._live.advance(self._songs)
            shown = self._live.tasks[self._live.task_ids.index(self._songs)]
            self._live.update(self._songs, note=f"{shown.completed:.0f}/{shown.total:.0f}")

    def _drop_preparations(self) -> None:
        for task in (self._loading, self._download):
            if task is not None:
                self._live.remove_task(task)
        self._loading = self._download = None

    def on_summary(self, plan: Plan, summary: Summary) -> None:
        """Print the last lines."""
        for line in describe_summary(plan, summary):
            self.say(line)


class EvalBars(LiveVoice, EvalLines):
    """A bar for all tracks below the lines."""

    def __init__(self, console: Console | None = None) -> None:
        """Draw on `console`, or on standard error."""
        super().__init__(*_one_bar(), console=console)
        self._task = self._live.add_task("loading", total=None, note="")

    def on_begin(self, estimates: str, tracks: Sequence[Track]) -> None:
        """Show how many there are."""
        super().on_begin(estimates, tracks)
        self._live.update(self._task, description="tracks", total=len(tracks), completed=0)

    def on_download(self, model: str, done_bytes: int, total_bytes: int | None) -> None:
        """Move the bar."""
        note = format_bytes(done_bytes)
        self._live.update(
            self._task,
            description=f"downloading {model}",
            completed=done_bytes,
            total=total_bytes,
            note=note,
        )

    def on_progress(self, progress: TrackProgress) -> None:
        """Say what is done with which track."""
        share = f" {min(1.0, progress.share):.0%}" if progress.stage == "separate" else ""
        note = f"{progress.stage}{share}: {printable(progress.track.name)[:40]}"
        self._live.update(self._task, note=note)

    def on_outcome(self, outcome: TrackOutcome) -> None:
        """Move the bar."""
        super().on_outcome(outcome)
        self._live.advance(self._task)

    def on_report(self, report: Report, folder: Path, table: Sequence[str]) -> None:
        """Take the bar away first: the table goes to standard output."""
        self._live.stop()
        super().on_report(report, folder, table)


class BatchBars(LiveVoice, BatchLines):
    """One bar for the whole catalogue below the lines."""

    def __init__(self, console: Console | None = None) -> None:
        """Draw on `console`, or on standard error."""
        super().__init__(*_one_bar(), console=console)
        self._task = self._live.add_task("loading", total=None, note="")

    def show(self, state: State) -> None:
        """Move the bar."""
        self._live.update(
            self._task,
            description="songs",
            completed=state.tally.songs,
            total=state.total,
            note=state.describe(),
        )

    def on_report(self, report: BatchReport, place: str) -> None:
        """Take the bar away first."""
        self._live.stop()
        super().on_report(report, place)


class TrainBars(LiveVoice, TrainLines):
    """A bar for the epoch under way; lines that stay for those that are over."""

    def __init__(self, console: Console | None = None) -> None:
        """Draw on `console`, or on standard error."""
        super().__init__(*_one_bar(), console=console)
        self._epoch: TaskID | None = None

    def on_step(self, event: Stepped) -> None:
        """Move the bar; not for every one of a hundred steps a second."""
        if self._epoch is None:
            self._epoch = self._live.add_task("", total=event.batches, note="")
        if not self.is_due(STEP, BAR_EVERY_S) and event.batch < event.batches:
            return
        note = f"{event.batch}/{event.batches}, loss {event.loss:.5g}"
        if event.batch == event.batches:
            note += ", validating"
        self._live.update(
            self._epoch,
            description=f"epoch {event.epoch}",
            completed=event.batch,
            total=event.batches,
            note=note,
        )


def _one_bar() -> tuple[ProgressColumn, ...]:
    """Return the columns of what has a single bar."""
    return (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[note]}", markup=False),
    )
