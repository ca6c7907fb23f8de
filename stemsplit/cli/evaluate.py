"""`stemsplit eval`: a model's estimates, or those in a folder, beside the true stems."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from stemsplit.cli import EXIT_DONE, EXIT_FAILED
from stemsplit.cli.arguments import (
    OUTPUT,
    RUN,
    WHAT,
    AsJson,
    Backend,
    BatchSize,
    Device,
    FramingName,
    ModelName,
    Offline,
    Overlap,
    Precision,
    Quiet,
    Registries,
    Root,
    Seed,
    Segment,
    Shifts,
    Threads,
    WienerIterations,
)
from stemsplit.cli.evaluate_progress import EvalReporter, choose_eval_reporter
from stemsplit.cli.values import given, number, one_of, read_running, split_names
from stemsplit.cli.wording import format_table, printable
from stemsplit.errors import StemsplitError, UnknownNameError, UsageError
from stemsplit.separation.plan import Options, check_numbers

if TYPE_CHECKING:
    from stemsplit.datasets.track import Dataset, Split
    from stemsplit.evaluation.estimates import EstimateSource
    from stemsplit.evaluation.places import Places
    from stemsplit.evaluation.report import Report
    from stemsplit.evaluation.tracks import ScoreOptions
    from stemsplit.weights.entry import ModelEntry, Score
    from stemsplit.weights.registry import Registry

MEASURED = "What is measured"
SPLIT_CHOICES = ("test", "valid", "train", "all")

Estimates = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Score the stems that are there: DIR/TRACK/STEM.wav.",
        rich_help_panel=WHAT,
    ),
]
ScoredStems = Annotated[
    list[str] | None,
    typer.Option(
        "--stems",
        metavar="A,B",
        help="Only these; others are not computed where the model allows it.",
        rich_help_panel=WHAT,
    ),
]
SplitName = Annotated[
    str,
    typer.Option(
        "--split",
        metavar="|".join(SPLIT_CHOICES),
        help="Which tracks of the data set.",
        rich_help_panel=WHAT,
    ),
]
ScoresOut = Annotated[
    str,
    typer.Option("-o", "--out", metavar="DIR", help="Where the scores go.", rich_help_panel=OUTPUT),
]
Keep = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Keep the model's estimates here, as wav in 32-bit floats.",
        rich_help_panel=OUTPUT,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Score again what is done, and replace another's scores.",
        rich_help_panel=OUTPUT,
    ),
]
Window = Annotated[
    str,
    typer.Option(metavar="SECONDS", help="Length of a frame.", rich_help_panel=MEASURED),
]
Hop = Annotated[
    str | None,
    typer.Option(
        metavar="SECONDS",
        help="From one frame to the next.  [default: the window]",
        rich_help_panel=MEASURED,
    ),
]
SiSdr = Annotated[
    bool,
    typer.Option("--si-sdr", help="Measure SI-SDR, too.", rich_help_panel=MEASURED),
]
ScoringJobs = Annotated[
    str | None,
    typer.Option(
        "-j",
        "--jobs",
        metavar="N",
        help="Tracks that are scored at once; each needs 1.5 GB.  [default: as fit]",
        rich_help_panel=RUN,
    ),
]


@dataclass(frozen=True)
class Request:
    """What the command line asked for.

    Attributes:
        root: The data set; None for the sample.
        splits: Which of its tracks.
        model: A name, a path, or None for the default.
        estimates: A folder that is scored instead of a model.
        options: How the model separates.
        scoring: What is measured.
        places: Where scores and estimates go.
        jobs: Tracks at once; None for as many as fit.
        registries: Registry files beside the usual ones.
        offline: True: download nothing; None: as $STEMSPLIT_OFFLINE says.
    """

    root: Path | None
    splits: tuple[Split, ...]
    model: str | None
    estimates: Path | None
    options: Options
    scoring: ScoreOptions
    places: Places
    jobs: int | None
    registries: tuple[Path, ...]
    offline: bool | None


# Longer than other functions: typer reads the options from the signature, one a line.
def evaluate(
    root: Root = None,
    model: ModelName = None,
    estimates: Estimates = None,
    stems: ScoredStems = None,
    split: SplitName = "test",
    out: ScoresOut = "scores",
    keep: Keep = None,
    overwrite: Overwrite = False,
    window: Window = "1",
    hop: Hop = None,
    si_sdr: SiSdr = False,
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
    jobs: ScoringJobs = None,
    registry: Registries = None,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> int:
    """Score a model, or stems that are there, on a data set with true stems.

    SDR, ISR, SIR and SAR as museval defines them, uSDR of whole tracks: as museval's JSON for each
    track, a CSV, a summary, box plots and a page. A rerun scores only what has changed.

    Exit codes: 0 all scored, 1 some tracks or stems were not, 2 the command is wrong, 130 stopped
    by Ctrl-C.
    """
    if estimates is not None and (model is not None or keep is not None):
        other = "--model" if model is not None else "--keep"
        raise UsageError(
            f"--estimates {estimates!r} scores stems that are there, and {other} is about a model",
            help=f"leave out --estimates or {other}.",
        )
    options = read_running(
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
    check_numbers(options)
    window_s = number("--window", float, 0.001, 3600)(window)
    hop_s = given(number("--hop", float, 0.001, 3600), hop)
    one_of("split", SPLIT_CHOICES)(split)
    jobs_given = given(number("--jobs", int, 1), jobs)
    reporter = choose_eval_reporter(quiet=quiet, as_json=as_json)
    try:
        # Torch comes with what follows: all that is above is refused before.
        from stemsplit.evaluation.places import Places
        from stemsplit.evaluation.tracks import ScoreOptions

        request = Request(
            root=None if root is None else Path(root).expanduser(),
            splits=_read_splits(split),
            model=model,
            estimates=None if estimates is None else Path(estimates).expanduser(),
            options=options,
            scoring=ScoreOptions(
                stems=split_names(stems),
                window_s=window_s,
                hop_s=window_s if hop_s is None else hop_s,
                si_sdr=si_sdr,
            ),
            places=Places(Path(out), None if keep is None else Path(keep), overwrite),
            jobs=jobs_given,
            registries=tuple(Path(name) for name in registry or ()),
            offline=True if offline else None,
        )
        with reporter:
            return carry_out(request, reporter)
    except StemsplitError as error:
        reporter.on_error(error)
        raise


def _read_splits(text: str) -> tuple[Split, ...]:
    return ("train", "valid", "test") if text == "all" else (cast("Split", text),)


def carry_out(request: Request, reporter: EvalReporter) -> int:
    """Score everything, write the report, and return the exit code.

    Raises:
        UsageError: A name or a value that cannot be; nothing has been written.
        StemsplitError: The data set or the model cannot be opened.
    """
    from stemsplit.evaluation.report import Report, write_report
    from stemsplit.evaluation.run import count_jobs, score_dataset

    dataset = _open(request, reporter)
    _check_stems(dataset, request)
    source, published = _find_source(request, dataset, reporter)
    reporter.on_begin(source.name, dataset.select(*request.splits))
    outcomes = score_dataset(
        dataset,
        source,
        splits=request.splits,
        options=request.scoring,
        places=request.places,
        jobs=request.jobs or count_jobs(),
        on_event=reporter.on_event,
    )
    report = Report(
        name=source.name,
        estimates=source.describe(),
        root=dataset.root,
        splits=request.splits,
        options=request.scoring,
        outcomes=outcomes,
        problems=dataset.problems,
        published=published,
    )
    folder = request.places.scores
    assert folder is not None
    for note in write_report(report, folder):
        reporter.on_note(note)
    reporter.on_report(report, folder, lay_out_table(report))
    return EXIT_FAILED if report.failures else EXIT_DONE


def _open(request: Request, reporter: EvalReporter) -> Dataset:
    from stemsplit.datasets import fetch_sample, open_dataset

    if request.root is not None:
        return open_dataset(request.root, any_format=True)

    def on_progress(done_bytes: int, total_bytes: int | None) -> None:
        reporter.on_download("MUSDB18's sample", done_bytes, total_bytes)

    return open_dataset(fetch_sample(offline=request.offline, on_progress=on_progress))


def _check_stems(dataset: Dataset, request: Request) -> None:
    from stemsplit.evaluation.tracks import list_targets

    targets = list_targets(dataset.stems)
    for stem in request.scoring.stems or ():
        if stem not in targets:
            more = f"The data set has {', '.join(targets)}."
            raise UnknownNameError("stem", stem, targets, more=more)


def _find_source(
    request: Request, dataset: Dataset, reporter: EvalReporter
) -> tuple[EstimateSource, tuple[Score, ...]]:
    """Return whose estimates are scored, and what has been published of them."""
    from stemsplit.evaluation.estimates import FolderEstimates, ModelEstimates
    from stemsplit.evaluation.tracks import list_targets

    targets = list_targets(dataset.stems)
    if request.estimates is not None:
        return FolderEstimates(request.estimates, targets), ()
    from stemsplit.separation.separator import Separator
    from stemsplit.weights.load import load_entry
    from stemsplit.weights.own_models import find_entry
    from stemsplit.weights.registry import Registry
    from stemsplit.weights.store import Store

    registry: Registry = Registry.load(request.registries)
    entry = find_entry(request.model, registry)
    stems = choose_stems(entry, targets, request.scoring.stems)

    def on_progress(done_bytes: int, total_bytes: int | None) -> None:
        reporter.on_download(entry.name, done_bytes, total_bytes)

    store = Store(offline=request.offline)
    model = load_entry(entry, registry=registry, store=store, on_progress=on_progress)
    return ModelEstimates(Separator(model, request.options, stems=stems)), entry.scores


def choose_stems(
    entry: ModelEntry, targets: tuple[str, ...], wanted: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Return which of a model's stems have to be computed.

    Args:
        entry: The model.
        targets: What can be scored of the data set.
        wanted: What is asked for; None for all.

    Raises:
        UsageError: None of what is asked for.
    """
    from stemsplit.evaluation.pairing import ACCOMPANIMENT, VOCALS

    asked = targets if wanted is None else wanted
    stems = [stem for stem in entry.all_stems if stem in asked]
    has_rest = ACCOMPANIMENT in asked and VOCALS in entry.all_stems
    if has_rest and ACCOMPANIMENT not in stems and VOCALS not in stems:
        stems.append(VOCALS)
    if not stems:
        raise UsageError(
            f"{entry.name!r} gives {', '.join(entry.all_stems)}, and of these nothing is asked for",
            help=f"the data set has {', '.join(targets)}: choose among them, or another model.",
        )
    return tuple(stems)


def lay_out_table(report: Report) -> list[str]:
    """Return the table for the terminal, with what its measures are and what was published."""
    from stemsplit.evaluation.tables import (
        describe_published,
        group_definitions,
        lay_out,
        list_measures,
    )

    lines = [printable(report.describe())]
    stems = report.stems
    if not stems:
        return lines
    width = shutil.get_terminal_size((10_000, 24)).columns
    headers, rows = lay_out(stems, report.published)
    lines += ["", *(printable(line) for line in format_table(headers, rows, width)), ""]
    told = group_definitions(report.definitions, list_measures(stems))
    lines += [f"{measures}: {definition}" for measures, definition in told]
    if report.caveat is not None:
        lines.append(f"note: {printable(report.caveat)}")
    lines += [f"published: {printable(describe_published(score))}" for score in report.published]
    return lines
