"""`stemsplit FILE...`: songs -> stems."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from stemsplit.cli.arguments import (
    AsJson,
    Backend,
    BatchSize,
    BitRate,
    Bits,
    Clip,
    Device,
    DryRun,
    Duration,
    Filename,
    Files,
    Format,
    FramingName,
    Jobs,
    ModelName,
    Offline,
    Out,
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
from stemsplit.cli.progress import Plan, Reporter, Summary, choose_reporter, title_of
from stemsplit.cli.stopping import stoppable
from stemsplit.cli.values import given, number, read_running, split_names, time_of
from stemsplit.cli.wording import printable
from stemsplit.errors import StemsplitError, UsageError
from stemsplit.separation.plan import Options, check_numbers, plan_stems

if TYPE_CHECKING:
    from stemsplit.separation.files import FileOptions, Job
    from stemsplit.separation.separator import Separator
    from stemsplit.separation.sources import Source
    from stemsplit.weights.entry import ModelEntry
    from stemsplit.weights.registry import Registry

STDIN = "-"


@dataclass(frozen=True)
class Request:
    """What the command line asked for.

    Attributes:
        inputs: Files, folders, patterns, "-".
        model: A name, a path, or None for the default.
        options: How to separate.
        file_options: What to write.
        workers: Songs at the same time.
        registries: Registry files beside the usual ones.
        offline: True: download nothing; None: as $STEMSPLIT_OFFLINE says.
    """

    inputs: Sequence[str]
    model: str | None
    options: Options
    file_options: FileOptions
    workers: int
    registries: Sequence[Path]
    offline: bool | None


# Longer than other functions: typer reads the options from the signature, one a line.
def separate(
    files: Files = None,
    model: ModelName = None,
    stems: Stems = None,
    two_stems: TwoStems = None,
    residual: Residual = False,
    stem_mp4: StemMp4 = False,
    out: Out = "stems",
    filename: Filename = "{track}/{stem}.{ext}",
    format: Format = "wav",
    bits: Bits = None,
    bit_rate: BitRate = None,
    clip: Clip = "none",
    overwrite: Overwrite = False,
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
    jobs: Jobs = "1",
    registry: Registries = None,
    offline: Offline = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> int:
    """Take songs apart; what `stemsplit FILE...` does.

    FILE is anything ffmpeg decodes (a film's sound as well), a folder (with all below it), a
    pattern, or - for standard input.

    Exit codes: 0 all done, 1 some failed, 2 the command is wrong, 130 stopped by Ctrl-C.
    """
    if not files:
        raise UsageError("there is no file to separate", help="name one: stemsplit song.mp3")
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
        inputs=files,
        model=model,
        options=options,
        file_options=make_file_options(
            Path(out), filename, format, bits, bit_rate, clip, overwrite, stem_mp4
        ),
        workers=number("--jobs", int, 1)(jobs),
        registries=[Path(name) for name in registry or ()],
        offline=True if offline else None,
    )
    reporter = choose_reporter(quiet=quiet, as_json=as_json)
    try:
        return show_plan(request, reporter) if dry_run else carry_out(request, reporter)
    except StemsplitError as error:
        reporter.on_error(error)
        raise


def make_file_options(
    out_dir: Path,
    filename: str,
    format: str,
    bits: str | None,
    bit_rate: str | None,
    clip: str,
    overwrite: bool,
    stem_mp4: bool,
) -> FileOptions:
    """Return what is written where, of the values as they were typed.

    Raises:
        UsageError: A value that cannot be.
    """
    from stemsplit.audio import parse_format
    from stemsplit.separation.files import FileOptions
    from stemsplit.separation.levels import ClipMode

    bits_given = given(number("--bits", int, 1), bits)
    kbps_given = given(number("--bitrate", int, 1), bit_rate)
    return FileOptions(
        out_dir=out_dir,
        format=parse_format(format, bits_given, kbps_given),
        filename=filename,
        clip=cast("ClipMode", clip),
        overwrite=overwrite,
        stem_mp4=stem_mp4,
    )


def carry_out(request: Request, reporter: Reporter) -> int:
    """Separate everything and return the exit code.

    What can be known to be wrong is refused before torch is imported.

    Raises:
        UsageError: A name or a value that cannot be; nothing has been written.
        StemsplitError: The model cannot be loaded.
    """
    began_s = time.monotonic()
    with stoppable(), _spooled(request) as inputs:
        plan, entry, registry = _make_plan(request, inputs)
        with reporter:
            reporter.on_plan(plan)
            from stemsplit.backends.process import import_torch, keep_freed_memory

            keep_freed_memory()
            # torch takes its time to load, and ffmpeg can look at the first song meanwhile.
            threading.Thread(target=_look_at_first, args=(plan.jobs,), daemon=True).start()
            import_torch()
            from stemsplit.batch.local import run_batch

            outcomes = run_batch(
                lambda: _load_separator(request, entry, registry, reporter),
                plan.jobs,
                request.file_options,
                workers=request.workers,
                on_event=reporter.on_event,
            )
        summary = Summary(outcomes, time.monotonic() - began_s)
        reporter.on_summary(plan, summary)
    return summary.exit_code


def show_plan(request: Request, reporter: Reporter) -> int:
    """Say what would be written where; nothing is read but names and tags."""
    from stemsplit.cli.json_lines import JsonLines
    from stemsplit.separation.sources import Source

    named = [
        Source(Path(STDIN), "stdin", is_temporary=True) if name == STDIN else name
        for name in request.inputs
    ]
    plan, *_ = _make_plan(request, named)
    if isinstance(reporter, JsonLines):
        reporter.write_plan(plan)
        return 0
    if plan.description:
        print(printable(plan.description))
    print(f"model {printable(plan.model)}, stems {', '.join(plan.stems)}")
    for job in plan.jobs:
        print(f"{title_of(job)}:")
        for path in job.paths:
            print(f"  {printable(path)}")
    return 0


def _make_plan(
    request: Request, inputs: Sequence[str | Source]
) -> tuple[Plan, ModelEntry, Registry]:
    """Check all that can be checked without a network, and name every output."""
    from stemsplit.audio import find_ffmpeg
    from stemsplit.separation.naming import plan_jobs
    from stemsplit.weights.own_models import find_entry
    from stemsplit.weights.registry import Registry

    registry = Registry.load(request.registries)
    entry = find_entry(request.model, registry)
    stems = plan_stems(entry.stems, request.options, entry.residual).names
    find_ffmpeg()
    jobs = plan_jobs(inputs, stems=stems, model=entry.name, options=request.file_options)
    description = None if entry.name in registry.entries else entry.description
    plan = Plan(jobs, entry.name, stems, request.file_options.out_dir, description)
    return plan, entry, registry


def _look_at_first(jobs: Sequence[Job]) -> None:
    """Probe a song; the answer is remembered, and what is wrong is told when its turn comes."""
    from stemsplit.audio import probe

    with contextlib.suppress(StemsplitError):
        for job in jobs[:1]:
            probe(job.source.path)


def _load_separator(
    request: Request, entry: ModelEntry, registry: Registry, reporter: Reporter
) -> Separator:
    from stemsplit.separation.separator import Separator
    from stemsplit.weights.load import load_entry
    from stemsplit.weights.store import Store

    def on_progress(done_bytes: int, total_bytes: int | None) -> None:
        reporter.on_download(entry.name, done_bytes, total_bytes)

    store = Store(offline=request.offline)
    model = load_entry(entry, registry=registry, store=store, on_progress=on_progress)
    return Separator(model, request.options, on_graph=lambda: reporter.on_graph(entry.name))


@contextlib.contextmanager
def _spooled(request: Request) -> Iterator[Sequence[str | Source]]:
    """Give the inputs with "-" replaced by a temporary file of what standard input holds.

    Raises:
        UsageError: Nothing is piped in.
    """
    if STDIN not in request.inputs:
        yield request.inputs
        return
    from stemsplit.audio import spool_stream
    from stemsplit.separation.sources import Source

    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(
            "standard input is not a file's bytes but the keyboard",
            help="pipe something into it: cat song.opus | stemsplit -",
        )
    # All that can be refused is refused before a stream of any length is read.
    named = Source(Path(STDIN), "stdin", is_temporary=True)
    _make_plan(request, [named if name == STDIN else name for name in request.inputs])
    with tempfile.TemporaryDirectory(prefix="stemsplit-") as folder:
        path = spool_stream(sys.stdin.buffer, Path(folder))
        spooled = Source(path, "stdin", is_temporary=True)
        yield [spooled if name == STDIN else name for name in request.inputs]
