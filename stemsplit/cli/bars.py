"""Progress on a terminal: a bar for the songs, one for each song at work, one for a download."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TaskProgressColumn, TextColumn
from rich.progress import Progress as Live
from rich.text import Text
from typing_extensions import Self

from stemsplit.cli.progress import (
    Plan,
    Reporter,
    Summary,
    describe_outcome,
    describe_summary,
    title_of,
)
from stemsplit.cli.wording import format_bytes, format_clock, format_speed, printable
from stemsplit.separation.events import Notice, Progress, Started

if TYPE_CHECKING:
    from pathlib import Path

    from stemsplit.batch.local import Outcome
    from stemsplit.separation.naming import Job

TITLE_COLUMNS = 40


class _Title(ProgressColumn):
    """A song's name, short enough to leave room for the bar."""

    def render(self, task: Task) -> Text:
        text = Text(task.description, no_wrap=True)
        text.truncate(TITLE_COLUMNS, overflow="ellipsis")
        return text


class Bars(Reporter):
    """Bars while it runs, lines that stay for what is finished."""

    def __init__(self, console: Console | None = None) -> None:
        """Draw on `console`, or on standard error."""
        super().__init__()
        self._console = console or Console(stderr=True)
        self._live = Live(
            _Title(),
            BarColumn(bar_width=None),
            TaskProgressColumn("{task.percentage:>3.0f} %", markup=False),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
            expand=True,
            transient=True,
            refresh_per_second=5,
        )
        self._songs: TaskID | None = None
        self._tasks: dict[Path, TaskID] = {}
        self._download: TaskID | None = None
        self._loading: TaskID | None = None

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Take the bars away."""
        self._live.stop()

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._console.print(Text(line), soft_wrap=True)

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
