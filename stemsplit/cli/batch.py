"""`stemsplit batch SOURCE`: a catalogue of songs -> stems, on this machine or on many.

Longer than other files: the options of `separate` are listed here as well.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stemsplit.cli import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED
from stemsplit.cli.arguments import (
    AsJson,
    Backend,
    BatchSize,
    BitRate,
    Bits,
    Clip,
    Device,
    Duration,
    Filename,
    Format,
    FramingName,
    ModelName,
    Offline,
    Overlap,
    Overwrite,
    Precision,
    Quiet,
    Registries,
    Residual,
    Seed,
    Segment,
    Shifts,
    Start,
    StemMp4,
    Stems,
    Stream,
    Threads,
    TwoStems,
    WienerIterations,
)
from stemsplit.cli.batch_arguments import (
    ENGINES,
    Address,
    Cpus,
    Dest,
    Engine,
    FailedFile,
    Gpus,
    ReportFile,
    Retries,
    Source,
    Workers,
)
from stemsplit.cli.batch_progress import (
    BatchPlan,
    BatchReporter,
    State,
    choose_batch_reporter,
)
from stemsplit.cli.separate import make_file_options
from stemsplit.cli.stopping import stop_flag
from stemsplit.cli.values import given, number, one_of, read_running, split_names, time_of
from stemsplit.errors import OutputError, StemsplitError, UsageError
from stemsplit.separation.plan import Options, check_numbers, plan_stems

if TYPE_CHECKING:
    from stemsplit.batch.catalogue import Catalogue
    from stemsplit.batch.job import Ending, Task
    from stemsplit.batch.report import BatchReport, FailedList, Tally
    from stemsplit.separation.files import FileOptions


@dataclass(frozen=True)
class Request:
    """What the command line asked for.

    Attributes:
        source: As typed.
        dest: As typed.
        model: A name, a path, or None for the default.
        options: How to separate.
        file_options: What to write.
        engine: One of `ENGINES`.
        workers: Songs at the same time; None for the engine's own number.
        address: Of the cluster; None to start one.
        cpus_per_worker: Cores of each.
        gpus_per_worker: GPUs of each.
        retries: After storage failed, or a worker died.
        report: Where the report goes; None for the usual place.
        failed: Where failed songs are listed; None for the usual place.
        registries: Registry files beside the usual ones.
        offline: True: download nothing; None: as $STEMSPLIT_OFFLINE says.
    """

    source: str
    dest: str
    model: str | None
    options: Options
    file_options: FileOptions
    engine: str
    workers: int | None
    address: str | None
    cpus_per_worker: float
    gpus_per_worker: float
    retries: int
    report: str | None
    failed: str | None
    registries: tuple[Path, ...]
    offline: bool | None


# Longer than other functions: typer reads the options from the signature, one a line.
def batch(
    source: Source = None,
    model: ModelName = None,
    stems: Stems = None,
    two_stems: TwoStems = None,
    residual: Residual = False,
    stem_mp4: StemMp4 = False,
    out: Dest = "stems",
    filename: Filename = "{track}/{stem}.{ext}",
    format: Format = "wav",
    bits: Bits = None,
    bit_rate: BitRate = None,
    clip: Clip = "none",
    overwrite: Overwrite = False,
    report: ReportFile = None,
    failed: FailedFile = None,
    stream: Stream = "0",
    start: Start = None,
    duration: Duration = None,
    device: Device = "auto",
    backend: Backend = "auto",
    threads: Threads = None,
    batch_size: BatchSize = None,
    precision: Precision = "auto",
    segment: Segment = None,
    overlap: Overlap = None,
    shifts: Shifts = "0",
    seed: Seed = "0",
    wiener: WienerIterations = "0",
    framing: FramingName = "default",
    engine: Engine = "local",
    address: Address = None,
    workers: Workers = None,
    cpus_per_worker: Cpus = "1",
    gpus_per_worker: Gpus = "0",
    retries: Retries = "3",
    registry: Registries = None,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> int:
    """Take a whole catalogue apart, on this machine or on a cluster.

    SOURCE is a folder (with all below it), s3:// or gs://, a .txt with a path or URL a line, a
    .csv or .jsonl with path, output, start and duration, or a single song. Songs whose stems are in
    DEST already are skipped: run the same command again to go on.

    Exit codes: 0 all done, 1 some failed, 2 the command is wrong, 130 stopped by Ctrl-C.
    """
    if not source:
        raise UsageError("there is no catalogue", help="name one: stemsplit batch music/ -o stems/")
    running = read_running(
        device=device,
        backend=backend,
        threads=threads,
        batch_size=batch_size,
        precision=precision,
        segment=segment,
        overlap=overlap,
        shifts=shifts,
        seed=seed,
        wiener=wiener,
        framing=framing,
    )
    options = replace(
        running,
        stems=split_names(stems),
        two_stems=two_stems,
        residual=residual,
        stream=number("--stream", int, 0)(stream),
        start_s=given(time_of("--start"), start) or 0.0,
        duration_s=given(time_of("--duration"), duration),
    )
    check_numbers(options)
    request = Request(
        source=source,
        dest=out,
        model=model,
        options=options,
        file_options=make_file_options(
            Path(), filename, format, bits, bit_rate, clip, overwrite, stem_mp4
        ),
        engine=one_of("engine", ENGINES)(engine),
        workers=given(number("--workers", int, 1), workers),
        address=address,
        cpus_per_worker=number("--cpus-per-worker", float, 0, above=True)(cpus_per_worker),
        gpus_per_worker=_read_gpus(gpus_per_worker),
        retries=number("--retries", int, 0)(retries),
        report=report,
        failed=failed,
        registries=tuple(Path(name) for name in registry or ()),
        offline=True if offline else None,
    )
    if request.engine == "local" and address is not None:
        raise UsageError("--address is of a Ray cluster", help="add --engine ray.")
    reporter = choose_batch_reporter(quiet=quiet, as_json=as_json)
    try:
        return carry_out(request, reporter)
    except StemsplitError as error:
        reporter.on_error(error)
        raise


def _read_gpus(value: str) -> float:
    """Read how many GPUs a worker has; Ray knows parts of one, and whole ones.

    Raises:
        UsageError: It is neither.
    """
    gpus = number("--gpus-per-worker", float, 0)(value)
    if gpus > 1 and not gpus.is_integer():
        raise UsageError(
            f"a worker cannot have {value} GPUs",
            help="give --gpus-per-worker a part of one, such as 0.5, or a whole number.",
        )
    return gpus


def carry_out(request: Request, reporter: BatchReporter) -> int:
    """Separate everything and return the exit code.

    Raises:
        UsageError: A name or a value that cannot be, or a source without songs.
        OutputError: Nothing can be written to the destination any more.
        StemsplitError: The model cannot be loaded, or the source cannot be read to its end; what is
            done is done, and is in the report.
    """
    from stemsplit.batch.destination import stop_with_destination
    from stemsplit.batch.report import FailedList, Tally, default_places

    began_s = time.monotonic()
    task = _make_task(request)
    catalogue = _open(request, task)
    plan = BatchPlan(catalogue.source, task.dest, task.entry.name, task.stems, request.engine)
    places = default_places(task.dest, request.report, request.failed)
    tally = Tally()
    failed_list = FailedList(places[1], catalogue.source)
    with stop_flag() as cancelled, reporter, failed_list as failed:
        reporter.on_begin(plan)
        total = _Total(catalogue)
        endings = _run(request, task, catalogue, reporter, cancelled)
        endings = stop_with_destination(endings, task.dest, cancelled)
        is_whole = False
        fault: StemsplitError | None = None
        try:
            with contextlib.closing(endings):
                _listen(endings, tally, failed, total, reporter)
            is_whole = not cancelled.is_set()
        except OutputError as error:
            fault = error
        finally:
            if tally.songs:
                report = _make_report(plan, tally, total.songs, began_s, is_whole)
                report, place, lost = _store(report, failed, places[0])
                reporter.on_report(report, place)
                # A destination that takes no stems may take no report either: that is no news.
                fault = fault or lost
    if fault is not None:
        raise fault
    if not tally.songs and is_whole:
        raise UsageError(
            f"{catalogue.source!r} has no audio or video files to separate",
            help="list files of unusual suffixes in a .txt, a path a line.",
        )
    if cancelled.is_set():
        return EXIT_STOPPED
    return EXIT_FAILED if tally.counts["failed"] else EXIT_DONE


def _make_task(request: Request) -> Task:
    """Check all that can be checked without a network."""
    from stemsplit.audio import find_ffmpeg
    from stemsplit.batch.job import Task, make_template
    from stemsplit.batch.storage import settle_name
    from stemsplit.separation.naming import TAG_FIELDS
    from stemsplit.weights.own_models import find_entry
    from stemsplit.weights.registry import Registry

    registry = Registry.load(request.registries)
    entry = find_entry(request.model, registry)
    stems = plan_stems(entry.stems, request.options, entry.residual).names
    find_ffmpeg()
    task = Task(
        entry=entry,
        registry=registry,
        stems=stems,
        options=request.options,
        file_options=request.file_options,
        dest=settle_name(request.dest),
        retries=request.retries,
        offline=request.offline,
    )
    fields = make_template(task).fields
    if "track" not in fields:
        raise UsageError(
            f"{request.file_options.filename!r} gives all songs of a folder the same files",
            help="put {track} into it, as in '{track}/{stem}.{ext}'.",
        )
    if of_tags := sorted(fields & TAG_FIELDS.keys()):
        raise UsageError(
            f"where the stems of a batch go cannot depend on tags, as {{{of_tags[0]}}} does",
            help="use {track}, {stem}, {ext} and {model}; a .csv names any output you like.",
        )
    return task


def _open(request: Request, task: Task) -> Catalogue:
    """Find the songs, and make sure of the place for the stems."""
    from stemsplit.batch.catalogue import open_catalogue
    from stemsplit.batch.destination import try_destination
    from stemsplit.batch.storage import is_url, open_storage

    catalogue = open_catalogue(request.source, task.dest)
    found = open_storage(task.dest).describe(task.dest)
    if found is not None and not found.is_folder:
        raise UsageError(f"{task.dest!r} is a file", help="name a folder with -o.")
    if is_url(task.dest):
        try_destination(task.dest)  # A key that may not write need not wait for a song.
    return catalogue


def _run(
    request: Request,
    task: Task,
    catalogue: Catalogue,
    reporter: BatchReporter,
    cancelled: threading.Event,
) -> Generator[Ending]:
    """Set an engine to work."""
    from stemsplit.separation.prefetch import prefetch

    # A listing of object storage comes a folder at a time: the next is read while workers work.
    songs = prefetch(catalogue.read(), depth=1000)
    if request.engine == "ray":
        from stemsplit.batch.cluster import run_on_cluster
        from stemsplit.batch.connection import Cluster

        cluster = Cluster(
            request.address, request.workers, request.cpus_per_worker, request.gpus_per_worker
        )
        return run_on_cluster(task, songs, cluster, cancelled=cancelled, on_note=reporter.on_note)
    from stemsplit.backends.process import import_torch, keep_freed_memory
    from stemsplit.batch.job import load_separator

    keep_freed_memory()
    import_torch()
    from stemsplit.batch.local import run_catalogue

    def on_progress(done_bytes: int, total_bytes: int | None) -> None:
        if cancelled.is_set():
            raise KeyboardInterrupt
        reporter.on_download(task.entry.name, done_bytes, total_bytes)

    return run_catalogue(
        task,
        lambda: load_separator(task, on_progress),
        songs,
        workers=request.workers or 1,
        cancelled=cancelled,
    )


def _listen(
    endings: Iterator[Ending],
    tally: Tally,
    failed: FailedList,
    total: _Total,
    reporter: BatchReporter,
) -> None:
    """Count what becomes of the songs, and tell."""
    began_s: float | None = None
    told_s = 0.0
    for ending in endings:
        now_s = time.monotonic()
        if began_s is None:
            began_s = told_s = now_s - ending.elapsed_s
        tally.add(ending, now_s - told_s)
        told_s = now_s
        failed.add(ending)
        reporter.on_ending(ending, State(tally, total.songs, now_s - began_s))


class _Total:
    """The number of songs, once somebody has counted them.

    Attributes:
        songs: None until then.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        """Begin to count, in a thread of its own."""
        self.songs: int | None = None
        self._catalogue = catalogue
        threading.Thread(target=self._count, name="count", daemon=True).start()

    def _count(self) -> None:
        with contextlib.suppress(StemsplitError, OSError):  # Whoever does the songs is told.
            self.songs = self._catalogue.count()


def _make_report(
    plan: BatchPlan, tally: Tally, total: int | None, began_s: float, is_whole: bool
) -> BatchReport:
    from stemsplit.audio import ffmpeg_version
    from stemsplit.batch.report import BatchReport
    from stemsplit.separation.manifest import list_versions

    return BatchReport(
        source=plan.source,
        dest=plan.dest,
        model=plan.model,
        stems=plan.stems,
        engine=plan.engine,
        tally=tally,
        total=tally.songs if is_whole else total,
        elapsed_s=time.monotonic() - began_s,
        is_stopped=not is_whole,
        failed_list=None,
        versions=list_versions(ffmpeg_version()),
    )


def _store(
    report: BatchReport, failed: FailedList, place: str
) -> tuple[BatchReport, str, StemsplitError | None]:
    """Store the list of failed songs and the report, on this machine where they find no place.

    Returns:
        The report, where it is, and why it is not in its place.
    """
    from stemsplit.batch.report import FAILED_NAME, REPORT_NAME

    is_whole = not report.is_stopped
    try:
        report = replace(report, failed_list=failed.store(is_whole=is_whole))
        report.write(place)
    except StemsplitError as error:
        folder = Path(tempfile.mkdtemp(prefix="stemsplit-"))
        listed = failed.store(str(folder / FAILED_NAME), is_whole=is_whole)
        report = replace(report, failed_list=listed)
        report.write(str(folder / REPORT_NAME))
        return report, str(folder / REPORT_NAME), error
    return report, place, None
