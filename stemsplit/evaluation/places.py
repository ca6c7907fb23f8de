"""Where a run writes, and what it must not write to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stemsplit.datasets.track import Dataset, Track
from stemsplit.errors import AudioError, UsageError
from stemsplit.evaluation.estimates import EstimateSource
from stemsplit.evaluation.results import read_scores
from stemsplit.evaluation.stem_files import name_stem


@dataclass(frozen=True)
class Places:
    """Where a run writes.

    Attributes:
        scores: A folder for the tracks' files, SPLIT/TRACK.json; None to write nothing.
        keep: A folder for estimates, SPLIT/TRACK/STEM.wav; None to keep none.
        overwrite: Whether what is done is done again, and another's scores are replaced.
    """

    scores: Path | None = None
    keep: Path | None = None
    overwrite: bool = False

    def find(self, track: Track) -> Path | None:
        """Return where a track's file belongs."""
        if self.scores is None:
            return None
        return self.scores / track.split / f"{track.name}.json"

    def find_kept(self, track: Track) -> Path | None:
        """Return where a track's estimates are kept."""
        return None if self.keep is None else self.keep / track.split / track.name

    def check(self, dataset: Dataset, tracks: Sequence[Track], source: EstimateSource) -> None:
        """Refuse to write over true stems, or to mix two models' scores in one folder.

        Args:
            dataset: What the true stems are.
            tracks: Those of it that are scored.
            source: Whose estimates.

        Raises:
            UsageError: An estimate would be kept in the data set, or in place of one of its files;
                or scores of other estimates, or of another program, are there.
        """
        if self.keep is not None:
            self._check_kept(self.keep, dataset, tracks, source)
        if self.scores is not None and not self.overwrite:
            self._check_scores(tracks, source)

    def _check_kept(
        self, keep: Path, dataset: Dataset, tracks: Sequence[Track], source: EstimateSource
    ) -> None:
        root = dataset.root.resolve()
        theirs = {_identify(file.path) for track in dataset.tracks for file in track.files}
        for track in tracks:
            folder = keep / track.split / track.name
            real = folder.resolve()
            stems: tuple[str, ...] = ()
            with contextlib.suppress(AudioError):  # a track without estimates keeps none
                stems = source.list_stems(track)
            is_taken = any(_identify(name_stem(folder, stem)) in theirs for stem in stems)
            if root == real or root in real.parents or is_taken:
                raise UsageError(
                    f"estimates kept in {str(folder)!r} would be among the true stems of "
                    f"{str(dataset.root)!r}",
                    help="name a folder outside of the data set for --keep.",
                )

    def _check_scores(self, tracks: Sequence[Track], source: EstimateSource) -> None:
        for track in tracks:
            path = self.find(track)
            if path is None or not path.exists():
                continue
            earlier = read_scores(path)
            whose = "another program" if earlier is None else repr(earlier.estimates)
            if earlier is None or earlier.estimates != source.name:
                raise UsageError(
                    f"{str(path)!r} holds scores of {whose}",
                    help="choose another folder with -o, or replace them with --overwrite.",
                )


def _identify(path: Path) -> tuple[int, int] | Path:
    """Return what two names of one file share, through links of any kind."""
    try:
        status = os.stat(path)
    except OSError:
        return path.resolve()  # nothing is there
    return status.st_dev, status.st_ino
