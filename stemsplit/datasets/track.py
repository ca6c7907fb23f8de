"""What a data set is: tracks, each a mixture and its true stems, in three splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "valid", "test"]


@dataclass(frozen=True)
class AudioFile:
    """One recording.

    Attributes:
        path: Where it is.
        stream: Which of the file's audio streams, from 0: a .stem.mp4 holds several.
    """

    path: Path
    stream: int = 0


@dataclass(frozen=True)
class Track:
    """A song with its true stems.

    Attributes:
        name: As the data set calls it; unique in it.
        split: What it is for.
        stems: By name, in the data set's order.
        mixture: As it was published; None where the mixture is the sum of the stems.
    """

    name: str
    split: Split
    stems: Mapping[str, AudioFile]
    mixture: AudioFile | None = None

    @property
    def files(self) -> tuple[AudioFile, ...]:
        """All that it is made of: the mixture where there is one, and the stems."""
        return (*(() if self.mixture is None else (self.mixture,)), *self.stems.values())


@dataclass(frozen=True)
class Dataset:
    """Tracks that have the same stems.

    Attributes:
        root: The folder that holds them.
        stems: Names, in the order of every track's `stems`.
        tracks: All of them, in the order of their names within each split.
        problems: What was left out, one line each: a track without one of the stems, a folder
            without sound.
        incomplete: Those of the problems that are tracks without one of the stems.
    """

    root: Path
    stems: tuple[str, ...]
    tracks: tuple[Track, ...]
    problems: tuple[str, ...] = ()
    incomplete: tuple[str, ...] = ()

    def select(self, *splits: Split) -> tuple[Track, ...]:
        """Return the tracks of some splits, in order."""
        return tuple(track for track in self.tracks if track.split in splits)
