"""A batch on this machine: one model, one job after the other or a few side by side.

`run_batch` is for files that a person named: it tells all that happens to each. `run_catalogue` is
for more songs than anybody looks at: it tells how each ended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from stemsplit.backends.workers import wait_for
from stemsplit.batch.catalogue import Song
from stemsplit.batch.crash_report import contain
from stemsplit.batch.job import SONGS_IN_HAND, Ending, SongWorker, Status, Task, make_place_finder
from stemsplit.batch.order import Order
from stemsplit.dsp.threads import set_own_threads
from stemsplit.errors import CancelledError, StemsplitError, UsageError
from stemsplit.separation.files import FileOptions, Job, separate_file

if TYPE_CHECKING:
    from stemsplit.separation.events import Event
    from stemsplit.separation.manifest import Manifest
    from stemsplit.separation.separator import Separator

_WAKE_S = 0.2


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        job: The song.
        status: "skipped" when its manifest proved it done, "cancelled" when the batch was stopped
            before it was through.
        error: Why it failed; None for any other status.
        elapsed_s: Time it took.
        audio_s: Length of the song; 0 unless it is done or skipped.
        manifest: The same.
    """

    job: Job
    status: Status
    error: StemsplitError | None = None
    elapsed_s: float = 0.0
    audio_s: float = 0.0
    manifest: Manifest | None = None


OnEvent = Callable[["Job", "Event | Outcome"], None]


def run_batch(
    make_separator: Callable[[], Separator],
    jobs: Sequence[Job],
    file_options: FileOptions,
    *,
    workers: int = 1,
    on_event: OnEvent,
    cancelled: threading.Event | None = None,
) -> list[Outcome]:
    """Separate songs into files; one that fails never stops the others.

    Several workers are threads that share the one model, each with its share of the processor's
    cores: a network in one thread computes while another song waits for its decoder or its files.

    Args:
        make_separator: Called once, unless there is no job.
        jobs: From `plan_jobs`.
        file_options: The same as for `plan_jobs`.
        workers: Songs at the same time.
        on_event: Gets a song's events as they come and its `Outcome` as the last, from one thread
            at a time. What it raises stops the batch and is raised here.
        cancelled: Set it, in any thread, to stop. Ctrl-C does so itself.

    Returns:
        An outcome per job, in the order of the jobs; no exception of a job, nor Ctrl-C, gets out.

    Raises:
        UsageError: `workers` is not at least 1.
        StemsplitError: What `make_separator` raises.
    """
    if workers < 1:
        raise UsageError(f"{workers} songs at the same time", help="give --jobs 1 or more.")
    if not jobs:
        return []
    batch = _Batch(make_separator(), file_options, on_event, cancelled or threading.Event())
    try:
        if min(workers, len(jobs)) == 1:
            return [batch.run(job) for job in jobs]
        return _run_side_by_side(batch, jobs, min(workers, len(jobs)))
    except _ListenerError as failure:
        raise failure.error from None


def _run_side_by_side(batch: _Batch, jobs: Sequence[Job], workers: int) -> list[Outcome]:
    threads = torch.get_num_threads()
    share = max(1, threads // workers)
    try:
        with ThreadPoolExecutor(workers, initializer=set_own_threads, initargs=(share,)) as pool:
            futures: list[Future[Outcome]] = []
            while True:
                try:
                    futures.extend(pool.submit(batch.run, job) for job in jobs[len(futures) :])
                    return [wait_for(future) for future in futures]
                except KeyboardInterrupt:  # also while songs are still being handed out
                    batch.cancelled.set()
    finally:
        # Some of torch's back ends hold the number for all threads.
        torch.set_num_threads(threads)


def run_catalogue(
    task: Task,
    make_separator: Callable[[], Separator],
    songs: Iterator[Song],
    *,
    workers: int = 1,
    cancelled: threading.Event,
) -> Generator[Ending]:
    """Do the songs of a catalogue, as they come; one that fails never stops the others.

    Several workers are threads that share the one model, each with its share of the processor's
    cores. As many more threads fetch songs and bring stems away.

    Args:
        task: What is done with each.
        make_separator: Called once.
        songs: Taken one by one, a few ahead of what is done.
        workers: Songs in the network at the same time.
        cancelled: Set it, in any thread, to stop: what is under way is cleaned up, nothing begins.

    Yields:
        An ending per song that was begun, in the order in which they end.

    Raises:
        StemsplitError: What `make_separator` raises, or what reading the catalogue raises.
    """
    threads = torch.get_num_threads()
    worker = SongWorker(task, make_separator(), cancelled, slots=workers)
    order = Order(songs, make_place_finder(task))
    pending: dict[Future[Ending], Song] = {}
    # The options may have named another number.
    share = max(1, torch.get_num_threads() // workers)
    pool = ThreadPoolExecutor(
        SONGS_IN_HAND * workers, initializer=set_own_threads, initargs=(share,)
    )
    try:
        while True:
            while len(pending) < SONGS_IN_HAND * workers and not cancelled.is_set():
                song = order.take()
                if song is None:
                    break
                pending[pool.submit(worker.work, song)] = song
            if not pending:
                return
            done, _ = wait(pending, timeout=_WAKE_S, return_when=FIRST_COMPLETED)
            for future in done:
                order.finish(pending.pop(future))
                yield future.result()
    except BaseException:
        cancelled.set()
        raise
    finally:
        pool.shutdown()
        # Some of torch's back ends hold the number for all threads.
        torch.set_num_threads(threads)


class _ListenerError(BaseException):
    """What a listener raised, on its way past everything that contains a job's own failures."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class _Batch:
    """What all jobs of a batch share."""

    def __init__(
        self,
        separator: Separator,
        options: FileOptions,
        on_event: OnEvent,
        cancelled: threading.Event,
    ) -> None:
        self.cancelled = cancelled
        self._separator = separator
        self._options = options
        self._on_event = on_event
        self._speaking = threading.Lock()

    def run(self, job: Job) -> Outcome:
        """Separate a song, and tell the listener how it ended."""
        outcome = self._separate(job)
        self._say(job, outcome)
        return outcome

    def _separate(self, job: Job) -> Outcome:
        began = time.perf_counter()
        try:
            result = separate_file(
                self._separator, job, self._options, lambda e: self._say(job, e), self.cancelled
            )
        except (CancelledError, KeyboardInterrupt):
            self.cancelled.set()
            return Outcome(job, "cancelled", elapsed_s=time.perf_counter() - began)
        except StemsplitError as error:
            failure = error
        except Exception as error:
            # Whatever it is, it concerns this song; the report keeps the traceback.
            failure = contain(error, f"separating {job.source.name!r}")
        else:
            return Outcome(
                job,
                result.status,
                elapsed_s=time.perf_counter() - began,
                audio_s=result.manifest.duration_s,
                manifest=result.manifest,
            )
        return Outcome(job, "failed", failure, elapsed_s=time.perf_counter() - began)

    def _say(self, job: Job, event: Event | Outcome) -> None:
        with self._speaking:
            try:
                self._on_event(job, event)
            except Exception as error:
                self.cancelled.set()
                raise _ListenerError(error) from error
