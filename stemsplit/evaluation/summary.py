"""All tracks together: the median and the mean of a stem's scores, and what each is by definition.

The median over frames, then over tracks is what SiSEC 2018 and most papers since give; cSDR is the
SDR of that kind. The mean of tracks is what the Music Demixing Challenge gives of uSDR.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import NamedTuple

from stemsplit.evaluation.results import MEASURES, TrackScores


class Spread(NamedTuple):
    """A measure over all tracks, dB.

    Attributes:
        median: Of the tracks that have one; NaN where none has.
        mean: The same.
        tracks: How many have one.
    """

    median: float
    mean: float
    tracks: int


@dataclass(frozen=True)
class StemSummary:
    """A stem over all tracks.

    Attributes:
        stem: Its name.
        spreads: By measure, those that were measured.
    """

    stem: str
    spreads: Mapping[str, Spread]


def summarise(scores: Sequence[TrackScores]) -> tuple[StemSummary, ...]:
    """Return each stem's medians and means, in the order in which stems first appear."""
    values: dict[str, dict[str, list[float]]] = {}
    for track in scores:
        for stem in track.stems:
            kinds = values.setdefault(stem.stem, {})
            for measure in MEASURES:
                if measure in stem.frames or measure in stem.whole:
                    kinds.setdefault(measure, []).append(stem.of_track(measure))
    return tuple(
        StemSummary(
            stem, {measure: _spread(kinds[measure]) for measure in MEASURES if measure in kinds}
        )
        for stem, kinds in values.items()
    )


def _spread(values: Sequence[float]) -> Spread:
    heard = [value for value in values if not math.isnan(value)]
    if not heard:
        return Spread(math.nan, math.nan, 0)
    return Spread(median(heard), fmean(heard), len(heard))


def define_measures(window_s: float, hop_s: float) -> dict[str, str]:
    """Return what each measure is, in a line.

    Args:
        window_s: Length of a frame.
        hop_s: From one frame to the next.
    """
    frames = f"frames of {window_s:g} s"
    if hop_s != window_s:
        frames += f", {hop_s:g} s apart"
    v4 = (
        f"BSS Eval v4 as museval defines it, {frames}; a track's score is the median of its "
        "frames, and cSDR the median of that over tracks"
    )
    return {
        "SDR": v4,
        "ISR": v4,
        "SIR": v4,
        "SAR": v4,
        "uSDR": "10 log10((|s|^2 + 1e-7) / (|s - e|^2 + 1e-7)) of the whole track, as in the Music "
        "Demixing Challenge; its mean over tracks is what is published",
        "SI-SDR": "scale-invariant SDR (Le Roux et al. 2019) of the whole track, mean of channels",
    }
