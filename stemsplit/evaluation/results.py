"""A track's scores, and the JSON file that keeps them: museval's, with a table of our own beside.

museval reads "targets"; "stemsplit" holds what it does not know: whole-track scores, notes, and the
proof of what was scored. Numbers have five decimals and none is infinite, as in museval's files: so
a track that is read again counts exactly as when it was scored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from stemsplit.errors import OutputError
from stemsplit.weights.disk import write_text

MUSEVAL = "0.4.1"
"""The version of museval whose numbers these are, by definition; its files name it."""

FRAME_MEASURES = ("SDR", "ISR", "SIR", "SAR")
TRACK_MEASURES = ("uSDR", "SI-SDR")
MEASURES = FRAME_MEASURES + TRACK_MEASURES

_DECIMALS = 5


@dataclass(frozen=True)
class StemScores:
    """What was measured of one stem of one track, dB.

    Attributes:
        stem: Its name.
        frames: By measure of `FRAME_MEASURES`, a number for each frame; NaN where there is none.
        whole: By measure of `TRACK_MEASURES`, those that were asked for; NaN where there is none.
        scored_with: All stems that were scored together: SIR and SAR depend on them, and a frame
            in which any of them is silent has no score.
    """

    stem: str
    frames: Mapping[str, tuple[float, ...]]
    whole: Mapping[str, float]
    scored_with: tuple[str, ...]

    def of_track(self, measure: str) -> float:
        """Return one number for the track: the median of its frames, or what the whole track has.

        Args:
            measure: One of `MEASURES`.

        Returns:
            NaN where there is none.
        """
        if measure in self.frames:
            heard = [value for value in self.frames[measure] if not math.isnan(value)]
            return median(heard) if heard else math.nan
        return self.whole.get(measure, math.nan)


@dataclass(frozen=True)
class TrackScores:
    """What was measured of one track.

    Attributes:
        track: Its name.
        split: "train", "valid" or "test".
        window_s: Length of a frame.
        hop_s: From one frame to the next.
        stems: In the order of the data set; accompaniment last.
        notes: What a person should know: stems left out, lengths mended.
        estimates: Whose: a model's name, or a folder.
        kept: The folder that the estimates were written to; empty for none.
        fingerprint: Of all that decides the numbers.
    """

    track: str
    split: str
    window_s: float
    hop_s: float
    stems: tuple[StemScores, ...]
    notes: tuple[str, ...] = ()
    estimates: str = ""
    kept: str = ""
    fingerprint: str = ""


def tidy(value: float) -> float:
    """Return a number as museval keeps it: five decimals; NaN for what has no end."""
    return round(value, _DECIMALS) if math.isfinite(value) else math.nan


def write_scores(path: Path, scores: TrackScores) -> None:
    """Write a track's file, whole or not at all.

    Raises:
        OutputError: The place cannot be written to.
    """
    text = json.dumps(to_json(scores), indent=1, ensure_ascii=False)
    save_text(path, text + "\n")


def save_text(path: Path, text: str) -> None:
    """Write a small file, whole or not at all.

    Raises:
        OutputError: The place cannot be written to; names that are no text are written as such.
    """
    try:
        write_text(path, text.encode("utf-8", "backslashreplace").decode("utf-8"))
    except OutputError as error:
        raise type(error)(error.message, help="choose a folder that can be written to.") from error


def read_scores(path: Path) -> TrackScores | None:
    """Return what a track's file holds; None where there is none, or not one of ours."""
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def to_json(scores: TrackScores) -> dict[str, Any]:
    """Return museval's structure, and ours under "stemsplit"."""
    return {
        "targets": [_to_target(stem, scores) for stem in scores.stems],
        "museval_version": MUSEVAL,
        "stemsplit": {
            "track": scores.track,
            "split": scores.split,
            "window_s": scores.window_s,
            "hop_s": scores.hop_s,
            "stems": [
                {
                    "stem": stem.stem,
                    "scored_with": list(stem.scored_with),
                    "whole_track": {key: _or_null(value) for key, value in stem.whole.items()},
                }
                for stem in scores.stems
            ],
            "notes": list(scores.notes),
            "estimates": scores.estimates,
            "kept": scores.kept,
            "fingerprint": scores.fingerprint,
        },
    }


def _to_target(stem: StemScores, scores: TrackScores) -> dict[str, Any]:
    count = len(stem.frames["SDR"])
    frames = [
        {
            "time": index * scores.hop_s,
            "duration": scores.window_s,
            "metrics": {measure: stem.frames[measure][index] for measure in FRAME_MEASURES},
        }
        for index in range(count)
    ]
    return {"name": stem.stem, "frames": frames}


def from_json(told: Mapping[str, Any]) -> TrackScores:
    """Return what `to_json` was given.

    Raises:
        KeyError: Something is missing, as in a file that museval wrote.
        TypeError: Something is of another type.
        ValueError: Something is no number, or stems do not match.
    """
    ours = told["stemsplit"]
    stems = []
    for target, more in zip(told["targets"], ours["stems"], strict=True):
        frames = {
            measure: tuple(float(frame["metrics"][measure]) for frame in target["frames"])
            for measure in FRAME_MEASURES
        }
        whole = {
            str(key): math.nan if value is None else float(value)
            for key, value in more["whole_track"].items()
        }
        if target["name"] != more["stem"]:
            raise ValueError(f"{target['name']!r} stands where {more['stem']!r} should")
        stems.append(StemScores(str(target["name"]), frames, whole, _texts(more["scored_with"])))
    return TrackScores(
        track=str(ours["track"]),
        split=str(ours["split"]),
        window_s=float(ours["window_s"]),
        hop_s=float(ours["hop_s"]),
        stems=tuple(stems),
        notes=_texts(ours["notes"]),
        estimates=str(ours["estimates"]),
        kept=str(ours["kept"]),
        fingerprint=str(ours["fingerprint"]),
    )


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value


def _texts(values: Sequence[object]) -> tuple[str, ...]:
    return tuple(str(value) for value in values)
