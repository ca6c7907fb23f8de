"""`stemsplit prepare`: a data set decoded once, measured, and indexed."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stemsplit.cli import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED
from stemsplit.cli.arguments import OUTPUT, RUN, WHAT, Offline, Quiet, Root
from stemsplit.cli.progress import Reporter, choose_reporter
from stemsplit.cli.stopping import stoppable
from stemsplit.cli.values import given, number, split_names
from stemsplit.cli.wording import format_clock, format_count, printable
from stemsplit.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stemsplit.audio import OutputFormat
    from stemsplit.datasets import Dataset
    from stemsplit.datasets.prepare import PrepareOptions, TrackOutcome

FORMATS = ("wav", "flac")
SAMPLE = "MUSDB18's 7-second sample"
NO_STATISTICS = "none"

PreparedOut = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--out",
        metavar="DIR",
        help="Where the result goes. The same as --root: nothing is decoded, only indexed.",
        rich_help_panel=OUTPUT,
    ),
]
PreparedStems = Annotated[
    list[str] | None,
    typer.Option(
        "--stems",
        metavar="A,B",
        help="Only these; otherwise those that most tracks have.",
        rich_help_panel=WHAT,
    ),
]
PreparedFormat = Annotated[
    str, typer.Option(metavar="|".join(FORMATS), help="Of all files.", rich_help_panel=OUTPUT)
]
PreparedBits = Annotated[
    str,
    typer.Option(
        metavar="16|24|32",
        help="Of a sample; 32 is floating point, wav only. 16 is read fastest.",
        rich_help_panel=OUTPUT,
    ),
]
SampleRate = Annotated[
    str | None,
    typer.Option(
        metavar="HZ",
        help="Bring all to this rate; otherwise each track keeps its own.",
        rich_help_panel=OUTPUT,
    ),
]
Activity = Annotated[
    bool,
    typer.Option(
        "--activity/--no-activity",
        help="Note where each stem sounds, for training on those places.",
        rich_help_panel=OUTPUT,
    ),
]
StatisticsOf = Annotated[
    list[str] | None,
    typer.Option(
        "--statistics",
        metavar="N_FFT:HOP",
        help="Mean and scale of the training mixtures' spectrograms, for Open-Unmix; may be "
        "repeated; none for none.  [default: 4096:1024]",
        rich_help_panel=OUTPUT,
    ),
]
PreparedOverwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Do again what is done, and replace tracks that are in the way.",
        rich_help_panel=OUTPUT,
    ),
]
TrackJobs = Annotated[
    str | None,
    typer.Option(
        "-j",
        "--jobs",
        metavar="N",
        help="Tracks at the same time.  [default: one for each core]",
        rich_help_panel=RUN,
    ),
]


@dataclass(frozen=True)
class Request:
    """What the command line asked for.

    Attributes:
        root: The data set; None for the sample.
        out: Where the result goes.
        stems: Which; None for those that most tracks have.
        options: How.
        offline: True: download nothing; None: as $STEMSPLIT_OFFLINE says.
    """

    root: Path | None
    out: Path
    stems: tuple[str, ...] | None
    options: PrepareOptions
    offline: bool | None


def prepare(
    root: Root = None,
    stems: PreparedStems = None,
    out: PreparedOut = None,
    format: PreparedFormat = "wav",
    bits: PreparedBits = "16",
    sample_rate: SampleRate = None,
    activity: Activity = True,
    statistics: StatisticsOf = None,
    overwrite: PreparedOverwrite = False,
    jobs: TrackJobs = None,
    offline: Offline = False,
    quiet: Quiet = False,
) -> int:
    """Decode a data set once, so that training can read any excerpt of it at once.

    Reads MUSDB18 (.stem.mp4), MUSDB18-HQ, and folders of one's own (TRACK/STEM.wav, flac, mp3 ...);
    writes DIR/SPLIT/TRACK/STEM.wav and DIR/index.json. Tracks appear whole or not at all; a rerun
    goes on where it was stopped, and does again what no longer fits.

    Exit codes: 0 all done, 1 some tracks failed or lack a stem, 2 the command is wrong, 130 stopped
    by Ctrl-C.
    """
    if out is None:
        raise UsageError(
            "nothing says where the result goes",
            help="name a folder: stemsplit prepare --root musdb18/ -o musdb18-wav/",
        )
    from stemsplit.datasets.decoding import Decoding
    from stemsplit.datasets.prepare import PrepareOptions

    rate = given(number("--sample-rate", int, 1000, 768_000), sample_rate)
    options = PrepareOptions(
        decoding=Decoding(read_format(format, bits), rate),
        has_activity=activity,
        statistics=read_statistics(statistics),
        jobs=given(number("--jobs", int, 1), jobs) or os.cpu_count() or 1,
        overwrite=overwrite,
    )
    request = Request(
        root=None if root is None else Path(root),
        out=Path(out),
        stems=split_names(stems),
        options=options,
        offline=True if offline else None,
    )
    return carry_out(request, choose_reporter(quiet=quiet, as_json=False), is_quiet=quiet)


def read_format(name: str, bits: str) -> OutputFormat:
    """Return a format that can be searched.

    Raises:
        UnknownNameError: It cannot.
        UsageError: It does not have these bits.
    """
    from stemsplit.audio import parse_format

    if name not in FORMATS:
        raise UnknownNameError("format for a data set", name, FORMATS)
    return parse_format(name, number("--bits", int, 1)(bits))


def read_statistics(texts: Sequence[str] | None) -> tuple[tuple[int, int], ...]:
    """Return window and hop of "4096:1024", for each.

    Raises:
        UsageError: One means neither that nor none.
    """
    if texts is None:
        return ((4096, 1024),)
    found = []
    for text in texts:
        match = re.fullmatch(r"(\d{1,6}):(\d{1,6})", text.strip())
        n_fft, hop = (int(match[1]), int(match[2])) if match else (0, 0)
        if match and n_fft % 2 == 0 and 0 < hop <= n_fft:
            found.append((n_fft, hop))
        elif text != NO_STATISTICS:
            raise UsageError(
                f"--statistics {text!r} is not possible",
                help="give an even window and a hop that is not longer, such as 4096:1024, or "
                f"{NO_STATISTICS}.",
            )
    return tuple(dict.fromkeys(found))


def carry_out(request: Request, reporter: Reporter, *, is_quiet: bool) -> int:
    """Prepare everything and return the exit code.

    Raises:
        UsageError: A name or a value that cannot be; nothing has been written.
        DatasetError: There is no data set to prepare.
        DownloadError: The sample cannot be fetched.
    """
    began_s = time.monotonic()
    with stoppable(), reporter:
        dataset = open_source(request, reporter)
        teller = Teller(reporter, dataset, is_quiet=is_quiet)
        for problem in dataset.problems:
            teller.note(problem)
        from stemsplit.datasets import prepare as room

        outcomes = room.prepare(
            dataset,
            request.out,
            request.options,
            on_outcome=teller.on_outcome,
            on_note=teller.note,
        )
        return teller.on_end(outcomes, request.out, time.monotonic() - began_s)


def open_source(request: Request, reporter: Reporter) -> Dataset:
    """List the tracks; the sample is downloaded where no data set is named."""
    from stemsplit.datasets import Validation, fetch_sample, open_dataset

    root = request.root
    if root is None:
        root = fetch_sample(
            offline=request.offline,
            on_progress=lambda done, total: reporter.on_download(SAMPLE, done, total),
        )
    is_in_place = root.resolve() == request.out.resolve()
    # MUSDB18's fourteen stay in train, where other programs look for them.
    valid = Validation(standard=False)
    return open_dataset(root, stems=request.stems, valid=valid, any_format=not is_in_place)


class Teller:
    """Says what becomes of the tracks."""

    def __init__(self, reporter: Reporter, dataset: Dataset, *, is_quiet: bool) -> None:
        """Start with no track done.

        Args:
            reporter: Says it.
            dataset: The tracks to come.
            is_quiet: Whether only errors are told.
        """
        self._reporter = reporter
        self._total = len(dataset.tracks)
        self._incomplete = dataset.incomplete
        self._done = 0
        self._is_quiet = is_quiet
        reporter.on_count("tracks", 0, self._total)

    def note(self, message: str) -> None:
        """Pass on what concerns the whole data set."""
        if not self._is_quiet:
            self._reporter.say(f"note: {printable(message)}")

    def on_outcome(self, outcome: TrackOutcome) -> None:
        """Say what became of a track."""
        self._done += 1
        name = f"[{self._done}/{self._total}] {printable(outcome.track.name)}"
        if outcome.error is not None:
            self._reporter.say(f"{name}: error: {printable(outcome.error.message)}")
            self._reporter.say(f"  help: {printable(outcome.error.help)}")
        elif outcome.status == "done" and not self._is_quiet:
            self._reporter.say(f"{name}: done, {format_clock(outcome.audio_s)}")
            for note in outcome.notes:
                self._reporter.say(f"  note: {printable(note)}")
        elif outcome.status == "skipped" and not self._is_quiet:
            self._reporter.say(f"{name}: done already, skipped")
        self._reporter.on_count("tracks", self._done, self._total)

    def on_end(self, outcomes: Sequence[TrackOutcome], out: Path, elapsed_s: float) -> int:
        """Say how it ended, and return the exit code."""
        counts = {
            status: sum(outcome.status == status for outcome in outcomes)
            for status in ("done", "skipped", "failed", "cancelled")
        }
        counts["left out"] = len(self._incomplete)
        if not self._is_quiet:
            told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
            total = len(outcomes) + len(self._incomplete)
            self._reporter.say(
                f"{format_count(total, 'track')}: {told}, in {format_clock(elapsed_s)}"
            )
            for outcome in outcomes:
                if outcome.error is not None and len(outcomes) > 1:
                    name, why = outcome.track.name, outcome.error.message
                    self._reporter.say(f"failed: {printable(name)}: {printable(why)}")
            if counts["done"] or counts["skipped"]:
                self._reporter.say(f"the data set is in {printable(out)}{os.sep}")
        else:
            for problem in self._incomplete:
                self._reporter.say(f"error: {printable(problem)}")
        if counts["cancelled"]:
            if not self._is_quiet:
                self._reporter.say("stopped; run the same command again to go on")
            return EXIT_STOPPED
        return EXIT_FAILED if counts["failed"] or counts["left out"] else EXIT_DONE
