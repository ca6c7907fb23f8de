"""Scores as text: a table for the terminal, and one for other programs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence

from stemsplit.evaluation.results import FRAME_MEASURES, MEASURES, TrackScores
from stemsplit.evaluation.summary import StemSummary
from stemsplit.weights.entry import Score

CSV_COLUMNS = ("split", "track", "stem", "measure", "definition", "value_db")

_OF_FRAMES = "BSS Eval v4 (museval), median of frames of {window:g} s"
_OF_TRACK = {
    "uSDR": "whole track, 1e-7 added to both energies (MDX)",
    "SI-SDR": "whole track, scale-invariant, mean of channels",
}


def format_db(value: float) -> str:
    """Return a number with two decimals; "-" where there is none."""
    return "-" if math.isnan(value) else f"{value:.2f}"


def list_measures(stems: Sequence[StemSummary]) -> tuple[str, ...]:
    """Return the measures that any stem has, in their usual order."""
    return tuple(measure for measure in MEASURES if any(measure in stem.spreads for stem in stems))


def lay_out(
    stems: Sequence[StemSummary], published: Sequence[Score]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return headers and rows: two rows a stem, its median and its mean over tracks.

    A published figure stands in the row that it compares with, named by its measure: cSDR beside
    medians, everything else beside means.

    Args:
        stems: From `summarise`.
        published: What the registry knows of the model; none for other estimates.
    """
    measures = list_measures(stems)
    headers = ("STEM", "TRACKS", "OVER TRACKS", *measures)
    if published:
        headers = (*headers, "PUBLISHED")
    rows = []
    for stem in stems:
        counts = [spread.tracks for spread in stem.spreads.values()]
        count = "-".join(dict.fromkeys((str(min(counts)), str(max(counts)))))
        for place, over in enumerate(("median", "mean")):
            values = [
                format_db(stem.spreads[measure][place]) if measure in stem.spreads else "-"
                for measure in measures
            ]
            row = ("", "", over, *values) if place else (stem.stem, count, over, *values)
            if published:
                row = (*row, _name_published(stem.stem, published, is_median=not place))
            rows.append(row)
    return headers, rows


def _name_published(stem: str, published: Sequence[Score], *, is_median: bool) -> str:
    return "; ".join(
        f"{score.metric} {score.values[stem]:.2f}"
        for score in published
        if stem in score.values and (score.metric == "cSDR") == is_median
    )


def group_definitions(
    definitions: Mapping[str, str], measures: Sequence[str]
) -> list[tuple[str, str]]:
    """Return measures with what they are; those that are the same share a line."""
    lines: dict[str, list[str]] = {}
    for measure in measures:
        lines.setdefault(definitions[measure], []).append(measure)
    return [(", ".join(names), definition) for definition, names in lines.items()]


def describe_published(score: Score) -> str:
    """Return a published score in a line: measure, data set, who says so, values."""
    values = ", ".join(f"{stem} {value:.2f}" for stem, value in score.values.items())
    return f"{score.metric}, {score.dataset}, {score.source}: {values}"


def write_csv(scores: Sequence[TrackScores]) -> str:
    """Return a row for each track, stem and measure; a score that there is not is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for track in scores:
        for stem in track.stems:
            for measure in MEASURES:
                if measure in FRAME_MEASURES:
                    definition = _OF_FRAMES.format(window=track.window_s)
                elif measure in stem.whole:
                    definition = _OF_TRACK[measure]
                else:
                    continue
                value = stem.of_track(measure)
                told = "" if math.isnan(value) else f"{value:.5f}"
                row = (track.split, track.track, stem.stem, measure, definition, told)
                writer.writerow(row)
    return text.getvalue()
