"""`--json`: what happens, as one JSON object per line on standard output.

Every object has "event"; those about a song have "file" (its path; "-" for standard input) too.

    recognised     model, description: what the weights of a path were found to be
    download       model, done_bytes, total_bytes (null: unknown)
    planned        file, track, outputs {stem: path}, manifest       (only with --dry-run)
    started        file, track, sample_rate, channels, stems, duration_s (null: unknown), device,
                   backend, precision
    progress       file, done_s, total_s (null: unknown), speed, remaining_s (null: unknown)
    notice         file, message
    finished       file, samples, sample_rate, elapsed_s
    file_done      file, track, outputs {stem: path}, stem_mp4, manifest, gain_db, audio_s,
                   elapsed_s
    file_skipped   the same: its manifest proves it done
    file_failed    file, track, error (the class), message, help, elapsed_s
    file_cancelled file, track
    summary        done, skipped, failed, cancelled, audio_s, elapsed_s, speed, out_dir, failures
                   [{file, error, message, help}]
    error          error, message, help: the whole run ends with it

A song's last event is one of the four that begin with "file_"; the last line is "summary", or
"error". Keys may be added; those above stay.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stemsplit.cli.progress import Plan, Reporter, Summary
from stemsplit.cli.voice import JsonVoice
from stemsplit.separation.events import Finished, Notice, Progress, Started

if TYPE_CHECKING:
    from stemsplit.batch.local import Outcome
    from stemsplit.errors import StemsplitError
    from stemsplit.separation.naming import Job

PROGRESS_EVERY_S = 0.5


class JsonLines(JsonVoice, Reporter):
    """Writes the events of this module's docstring."""

    def write_plan(self, plan: Plan) -> None:
        """Write what would be done."""
        for job in plan.jobs:
            self.write("planned", file=file_of(job), track=job.track, **list_outputs(job))

    def on_plan(self, plan: Plan) -> None:
        """Write `recognised` for a model of one's own."""
        if plan.description:
            self.write("recognised", model=plan.model, description=plan.description)

    def on_download(self, model: str, done_bytes: int, total_bytes: int | None) -> None:
        """Write `download`, twice a second and at the end."""
        if self.is_due(model, PROGRESS_EVERY_S) or done_bytes == total_bytes:
            self.write("download", model=model, done_bytes=done_bytes, total_bytes=total_bytes)

    def on_graph(self, model: str) -> None:
        """Write `graph`."""
        self.write("graph", model=model)

    def on_started(self, job: Job, event: Started) -> None:
        """Write `started`."""
        total = event.total_samples
        self.write(
            "started",
            file=file_of(job),
            track=job.track,
            sample_rate=event.sample_rate,
            channels=event.channels,
            stems=list(event.stems),
            duration_s=None if total is None else round(total / event.sample_rate, 3),
            device=event.device,
            backend=event.backend,
            precision=event.precision,
        )

    def on_progress(self, job: Job, event: Progress) -> None:
        """Write `progress`, at most twice a second for each song."""
        if not self.is_due(job.manifest, PROGRESS_EVERY_S):
            return
        total, left_s = event.total_samples, event.remaining_s
        self.write(
            "progress",
            file=file_of(job),
            done_s=round(event.done_samples / event.sample_rate, 3),
            total_s=None if total is None else round(total / event.sample_rate, 3),
            speed=round(event.speed, 3),
            remaining_s=None if left_s is None else round(left_s, 3),
        )

    def on_notice(self, job: Job, event: Notice) -> None:
        """Write `notice`."""
        self.write("notice", file=file_of(job), message=event.message)

    def on_finished(self, job: Job, event: Finished) -> None:
        """Write `finished`."""
        self.write(
            "finished",
            file=file_of(job),
            samples=event.samples,
            sample_rate=event.sample_rate,
            elapsed_s=round(event.elapsed_s, 3),
        )

    def on_outcome(self, job: Job, outcome: Outcome) -> None:
        """Write how the song ended."""
        elapsed_s = round(outcome.elapsed_s, 3)
        if outcome.error is not None:
            self.write(
                "file_failed",
                file=file_of(job),
                track=job.track,
                **describe_error(outcome.error),
                elapsed_s=elapsed_s,
            )
        elif outcome.status == "cancelled":
            self.write("file_cancelled", file=file_of(job), track=job.track)
        else:
            gain_db = None if outcome.manifest is None else outcome.manifest.gain_db
            self.write(
                f"file_{outcome.status}",
                file=file_of(job),
                track=job.track,
                **list_outputs(job),
                gain_db=gain_db,
                audio_s=round(outcome.audio_s, 3),
                elapsed_s=elapsed_s,
            )

    def on_summary(self, plan: Plan, summary: Summary) -> None:
        """Write `summary`."""
        failures = [
            {"file": file_of(outcome.job), **describe_error(outcome.error)}
            for outcome in summary.outcomes
            if outcome.error is not None
        ]
        self.write(
            "summary",
            done=len(summary.having("done")),
            skipped=len(summary.having("skipped")),
            failed=len(failures),
            cancelled=len(summary.having("cancelled")),
            audio_s=round(summary.audio_s, 3),
            elapsed_s=round(summary.elapsed_s, 3),
            speed=round(summary.speed, 3),
            out_dir=os.fspath(plan.out_dir),
            failures=failures,
        )

    def on_error(self, error: StemsplitError) -> None:
        """Write `error`."""
        self.write("error", **describe_error(error))


def file_of(job: Job) -> str:
    """Return a song's path as it was found; "-" for standard input."""
    return "-" if job.source.is_temporary else os.fspath(job.source.path)


def list_outputs(job: Job) -> dict[str, object]:
    """Return where everything goes."""
    return {
        "outputs": {stem: os.fspath(path) for stem, path in job.outputs.items()},
        "stem_mp4": None if job.stem_mp4 is None else os.fspath(job.stem_mp4),
        "manifest": os.fspath(job.manifest),
    }


def describe_error(error: StemsplitError) -> dict[str, str]:
    """Return an error's class and its two lines."""
    return {"error": type(error).__name__, "message": error.message, "help": error.help}
