"""What a run leaves beside the tracks' own files: CSV, summary, picture and page."""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stemsplit.audio.part_file import PartFile
from stemsplit.evaluation.page import write_page
from stemsplit.evaluation.plots import PlotsMissingError, draw_boxes
from stemsplit.evaluation.results import TrackScores, save_text
from stemsplit.evaluation.run import TrackOutcome
from stemsplit.evaluation.summary import StemSummary, define_measures, summarise
from stemsplit.evaluation.tables import describe_published, write_csv
from stemsplit.evaluation.tracks import ScoreOptions
from stemsplit.weights.entry import Score

SCHEMA = 1
CSV_NAME, SUMMARY_NAME, PAGE_NAME, PICTURE_NAME = (
    "scores.csv",
    "summary.json",
    "report.html",
    "boxes.png",
)


@dataclass(frozen=True)
class Report:
    """A run, ended.

    Attributes:
        name: Whose estimates: a model's name, or a folder.
        estimates: What they are, as plain JSON.
        root: The data set.
        splits: Which of its tracks.
        options: What was measured.
        outcomes: How each track ended.
        problems: What the data set left out, a line each.
        published: What the registry knows of the model.
    """

    name: str
    estimates: Mapping[str, Any]
    root: Path
    splits: tuple[str, ...]
    options: ScoreOptions
    outcomes: Sequence[TrackOutcome]
    problems: tuple[str, ...] = ()
    published: tuple[Score, ...] = ()

    @property
    def scores(self) -> tuple[TrackScores, ...]:
        """The tracks that have scores, in order."""
        return tuple(one.scores for one in self.outcomes if one.scores is not None)

    @property
    def stems(self) -> tuple[StemSummary, ...]:
        """All tracks together."""
        return summarise(self.scores)

    @property
    def definitions(self) -> dict[str, str]:
        """What each measure is."""
        return define_measures(self.options.window_s, self.options.hop_s)

    @property
    def gaps(self) -> tuple[str, ...]:
        """The tracks that are scored without some of their stems, a line each."""
        return tuple(
            f"{one.track.name}: has no estimate of {', '.join(one.missing)}"
            for one in self.outcomes
            if one.missing
        )

    @property
    def caveat(self) -> str | None:
        """What to know of the numbers where tracks lack estimates, in a line; None: nothing."""
        stems = dict.fromkeys(stem for one in self.outcomes for stem in one.missing)
        if not stems:
            return None
        return (
            f"{len(self.gaps)} of {len(self.scores)} tracks are scored without {', '.join(stems)}: "
            "SIR and SAR of their other stems do not compare with those of the rest"
        )

    @property
    def failures(self) -> tuple[str, ...]:
        """What has no scores, and why: tracks that failed, stems, what the data set left out."""
        failed = (one for one in self.outcomes if one.error is not None)
        lines = [f"{one.track.name}: {one.error.message}" for one in failed if one.error]
        return (*lines, *self.gaps, *self.problems)

    def describe(self) -> str:
        """Return one line: what was scored."""
        count = len(self.scores)
        tracks = "1 track" if count == 1 else f"{count} tracks"
        where = self.root.resolve().name or str(self.root)
        return f"{self.name} on {where} ({', '.join(self.splits)}): {tracks}"


def write_report(report: Report, folder: Path) -> list[str]:
    """Write all that a run leaves; each file whole or not at all.

    Args:
        report: The run.
        folder: Made where it is missing.

    Returns:
        Lines to tell: what could not be drawn, and what to do about it.

    Raises:
        OutputError: The folder cannot be written to.
    """
    notes = []
    picture = None
    if report.scores:
        try:
            picture = draw_boxes(report.scores, report.stems, report.describe())
        except PlotsMissingError as error:
            notes.append(f"{error.message}: {error.help}")
    if picture is None:
        (folder / PICTURE_NAME).unlink(missing_ok=True)
    else:
        _save_bytes(folder / PICTURE_NAME, picture)
    save_text(folder / CSV_NAME, write_csv(report.scores))
    save_text(folder / PAGE_NAME, _write_page(report, picture))
    # Last: where it is, the rest is there too.
    save_text(folder / SUMMARY_NAME, json.dumps(to_json(report), indent=1) + "\n")
    return notes


def to_json(report: Report) -> dict[str, Any]:
    """Return the summary: versions, options, medians and means, and how each track ended."""
    return {
        "schema": SCHEMA,
        "versions": list_versions(),
        "estimates": dict(report.estimates),
        "dataset": {"root": str(report.root), "splits": list(report.splits)},
        "options": asdict(report.options),
        "definitions": report.definitions,
        "stems": {
            stem.stem: {
                measure: {
                    "median_db": _or_null(spread.median),
                    "mean_db": _or_null(spread.mean),
                    "tracks": spread.tracks,
                }
                for measure, spread in stem.spreads.items()
            }
            for stem in report.stems
        },
        "caveat": report.caveat,
        "published": [asdict(score) for score in report.published],
        "tracks": [_describe_track(outcome) for outcome in report.outcomes],
        "problems": list(report.problems),
    }


def list_versions() -> dict[str, str]:
    """Return the versions of what computes the scores."""
    packages = ("stemsplit", "torch", "numpy")
    return {
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
    }


def _describe_track(outcome: TrackOutcome) -> dict[str, Any]:
    told: dict[str, Any] = {
        "track": outcome.track.name,
        "split": outcome.track.split,
        "status": "failed" if outcome.error is not None else "scored",
    }
    if outcome.error is not None:
        told |= {"error": type(outcome.error).__name__, "message": outcome.error.message}
    if outcome.scores is not None:
        told["notes"] = list(outcome.scores.notes)
        together = {stem.stem: list(stem.scored_with) for stem in outcome.scores.stems}
        told["scored_with"] = together
        told["missing"] = list(outcome.missing)
    return told


def _write_page(report: Report, picture: bytes | None) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in list_versions().items())
    facts = {
        "Data set": str(report.root),
        "Tracks": f"{', '.join(report.splits)}: {len(report.scores)} scored of "
        f"{len(report.outcomes)}",
        "Estimates": report.name,
        "Versions": versions,
    }
    published = [describe_published(score) for score in report.published]
    if published:
        facts["Published"] = "; ".join(published)
    return write_page(
        f"Scores of {report.name}",
        facts,
        report.scores,
        report.stems,
        definitions=report.definitions,
        published=report.published,
        problems=report.failures,
        picture=picture,
    )


def _save_bytes(path: Path, data: bytes) -> None:
    file = PartFile(path)
    try:
        file.part.write_bytes(data)
        file.commit()
    except BaseException:
        file.discard()
        raise


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value
