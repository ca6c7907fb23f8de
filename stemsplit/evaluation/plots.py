"""Box plots of a stem's scores over tracks, as SiSEC draws them. matplotlib is needed here only."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from stemsplit.errors import StemsplitError
from stemsplit.evaluation.results import TrackScores
from stemsplit.evaluation.summary import StemSummary
from stemsplit.evaluation.tables import list_measures

_COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB")
"""Paul Tol's bright scheme, which also those tell apart who see few colours."""


class PlotsMissingError(StemsplitError):
    """matplotlib is not installed, so there are no plots."""


def draw_boxes(scores: Sequence[TrackScores], stems: Sequence[StemSummary], title: str) -> bytes:
    """Draw a panel for each measure with a box for each stem; every track is a dot.

    A box is the middle half of the tracks, its line their median, its diamond their mean; whiskers
    reach to the last track within 1.5 times the box.

    Args:
        scores: A track each.
        stems: From `summarise`.
        title: Of the whole picture.

    Returns:
        A PNG.

    Raises:
        PlotsMissingError: There is no matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotsMissingError(
            "there is no matplotlib, so no box plots are drawn",
            help='pip install "stemsplit[eval]" brings it; everything else is written.',
        ) from error
    measures = list_measures(stems)
    columns = min(3, len(measures))
    rows = math.ceil(len(measures) / columns)
    width = max(2.6, 0.62 * len(stems) + 1.2)
    figure = Figure(figsize=(columns * width, rows * 2.9 + 0.5), dpi=140, layout="constrained")
    figure.suptitle(_plain(title), fontsize=10)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, measure in zip(axes[: len(measures)], measures, strict=True):
        _draw_panel(panel, measure, scores, [stem.stem for stem in stems])
    for panel in axes[len(measures) :]:
        panel.set_visible(False)
    picture = io.BytesIO()
    # No time, no version: equal scores give equal files.
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


def _draw_panel(
    panel: object, measure: str, scores: Sequence[TrackScores], stems: Sequence[str]
) -> None:
    from matplotlib.axes import Axes

    assert isinstance(panel, Axes)
    panel.set_title(measure, fontsize=9)
    panel.set_ylabel("dB", fontsize=8)
    panel.grid(axis="y", color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    for place, stem in enumerate(stems, start=1):
        values = [
            value
            for track in scores
            for found in track.stems
            if found.stem == stem and not math.isnan(value := found.of_track(measure))
        ]
        if not values:
            continue
        colour = _COLOURS[(place - 1) % len(_COLOURS)]
        panel.boxplot(
            [values],
            positions=[place],
            widths=0.6,
            showfliers=False,
            showmeans=True,
            patch_artist=True,
            boxprops={"facecolor": colour, "alpha": 0.35, "edgecolor": colour},
            medianprops={"color": colour, "linewidth": 1.8},
            whiskerprops={"color": colour},
            capprops={"color": colour},
            meanprops={
                "marker": "D",
                "markersize": 3.5,
                "markerfacecolor": "white",
                "markeredgecolor": colour,
            },
        )
        # Side by side, always in the same places: no dice.
        spread = [0.22 * (((7 * index) % 11) / 5 - 1) for index in range(len(values))]
        panel.plot(
            [place + step for step in spread], values, ".", color=colour, markersize=3, alpha=0.7
        )
    panel.set_xlim(0.4, len(stems) + 0.6)
    panel.set_xticks(range(1, len(stems) + 1), [_plain(stem) for stem in stems], fontsize=7)
    panel.tick_params(axis="y", labelsize=7)
    panel.tick_params(axis="x", labelrotation=30)


def _plain(text: str) -> str:
    """Keep matplotlib from reading a name as a formula."""
    return text.replace("$", r"\$")
