"""Where estimates come from: a model, as they are needed, or a folder of files."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from stemsplit.datasets.splits import SPLITS
from stemsplit.datasets.track import AudioFile, Track
from stemsplit.errors import AudioError, UsageError
from stemsplit.evaluation.pairing import ACCOMPANIMENT, VOCALS, rest_of
from stemsplit.evaluation.references import References, fit, read_recording
from stemsplit.separation.events import Event, Progress

if TYPE_CHECKING:
    from stemsplit.separation.separator import Separator

Share = Callable[[float], None]


class EstimateSource(ABC):
    """Something that has estimates of tracks.

    Attributes:
        name: A model's name, or a folder.
        is_serial: Whether it works for one track at a time, on all cores.
    """

    name: str
    is_serial: bool

    @abstractmethod
    def list_stems(self, track: Track) -> tuple[str, ...]:
        """Return the stems that it has for a track.

        Raises:
            AudioError: None.
        """

    @abstractmethod
    def identify(self, track: Track) -> Mapping[str, Any]:
        """Return what decides its estimates of a track, as plain JSON."""

    @abstractmethod
    def estimate(
        self, track: Track, references: References, notes: list[str], on_share: Share
    ) -> Mapping[str, Tensor]:
        """Return the estimates of a track, of the references' shape.

        Args:
            track: Which.
            references: Its true stems and mixture.
            notes: Gets a line for each thing a person should know.
            on_share: Called with how much is done, 0 to 1.

        Raises:
            AudioError: They cannot be read, or do not fit the track.
        """

    @abstractmethod
    def describe(self) -> Mapping[str, Any]:
        """Return what it is, for the summary, as plain JSON."""


class ModelEstimates(EstimateSource):
    """A model's estimates, made from each track's mixture. Nothing goes to the disk."""

    is_serial = True

    def __init__(self, separator: Separator) -> None:
        """Take a separator with its stems and options settled."""
        self.name = separator.model.name
        self._separator = separator

    def list_stems(self, track: Track) -> tuple[str, ...]:
        """Return the separator's. See `EstimateSource.list_stems`."""
        return self._separator.stems

    def identify(self, track: Track) -> Mapping[str, Any]:
        """Name weights, options and device. See `EstimateSource.identify`."""
        return self.describe()

    def estimate(
        self, track: Track, references: References, notes: list[str], on_share: Share
    ) -> Mapping[str, Tensor]:
        """Separate the mixture. See `EstimateSource.estimate`."""
        samples = references.mixture.shape[1]

        def listen(event: Event) -> None:
            if isinstance(event, Progress):
                on_share(event.done_samples / samples)

        return self._separator.separate(references.mixture, references.sample_rate, on_event=listen)

    def describe(self) -> Mapping[str, Any]:
        """Name weights, options and device. See `EstimateSource.describe`."""
        options = asdict(self._separator.options)
        # These are said as what they came to; the rest is about files, or changes no sample.
        for unused in (
            "device",
            "backend",
            "precision",
            "threads",
            "batch_size",
            "stream",
            "start_s",
            "duration_s",
        ):
            del options[unused]
        return {
            "model": self.name,
            "weights_sha256": self._separator.model.weights_sha256,
            "stems": list(self._separator.stems),
            "chunks": [asdict(member.model.chunk) for member in self._separator.model.members],
            "device": self._separator.device.type,
            "backend": self._separator.backend,
            "precision": self._separator.precision,
            "options": options,
        }


class FolderEstimates(EstimateSource):
    """Estimates that are there already.

    TRACK/STEM.wav below the folder, or below its "test", "valid" or "train"; any format. Names are
    the data set's. "no_vocals" is accompaniment; TRACK.stem is what `stemsplit` calls the folder
    of a TRACK.stem.mp4.
    """

    is_serial = False

    def __init__(self, root: Path, stems: Sequence[str]) -> None:
        """Take a folder.

        Args:
            root: What holds the tracks' folders.
            stems: Names that count; other files are left alone.

        Raises:
            UsageError: There is no such folder.
        """
        if not root.is_dir():
            raise UsageError(
                f"there is no folder {str(root)!r}",
                help="name the folder that holds a folder of stems for each track.",
            )
        self.name = str(root)
        self._root = root
        self._stems = tuple(stems)

    def list_stems(self, track: Track) -> tuple[str, ...]:
        """Return the stems that have a file. See `EstimateSource.list_stems`."""
        return tuple(self._find(track))

    def identify(self, track: Track) -> Mapping[str, Any]:
        """Name the files, their sizes and times. See `EstimateSource.identify`."""
        return {stem: stamp(file) for stem, file in self._find(track).items()}

    def estimate(
        self, track: Track, references: References, notes: list[str], on_share: Share
    ) -> Mapping[str, Tensor]:
        """Decode the files. See `EstimateSource.estimate`."""
        files = self._find(track)
        channels, length = references.mixture.shape
        estimates = {}
        for done, (stem, file) in enumerate(files.items(), start=1):
            estimates[stem] = fit(
                read_recording(file),
                references.sample_rate,
                channels,
                length,
                f"the estimate of {stem}",
                notes,
            )
            on_share(done / len(files))
        return estimates

    def describe(self) -> Mapping[str, Any]:
        """Name the folder. See `EstimateSource.describe`."""
        return {"folder": self.name}

    def _find(self, track: Track) -> dict[str, AudioFile]:
        """Return a track's files by stem, in the data set's order."""
        places = [self._root / track.name, self._root / f"{track.name}.stem"]
        subsets = dict.fromkeys((track.split, "train" if track.split == "valid" else "", *SPLITS))
        places += [self._root / subset / track.name for subset in subsets if subset]
        folder = next((place for place in places if place.is_dir()), None)
        if folder is None:
            raise AudioError(
                f"there are no estimates of {track.name!r} in {self.name!r}",
                help=f"they belong in {str(places[0])!r}, a file for each stem.",
            )
        found: dict[str, list[Path]] = {}
        for path in sorted(folder.iterdir()):
            stem = ACCOMPANIMENT if path.stem == f"no_{VOCALS}" else path.stem
            if stem in self._stems and path.suffix and path.is_file():
                found.setdefault(stem, []).append(path)
        for stem, paths in found.items():
            if len(paths) > 1:
                names = " and ".join(path.name for path in paths)
                raise AudioError(
                    f"{str(folder)!r} has {stem} more than once: {names}",
                    help="leave one of them there.",
                )
        if not found:
            raise AudioError(
                f"{str(folder)!r} has no estimate of {', '.join(self._stems)}",
                help="name each file as its stem: vocals.wav, drums.flac.",
            )
        return {stem: AudioFile(found[stem][0]) for stem in self._stems if stem in found}


def expect_stems(
    source: EstimateSource, tracks: Sequence[Track], wanted: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the stems that every track should have an estimate of.

    Args:
        source: Whose estimates.
        tracks: Those that are scored.
        wanted: Stems that are asked for; None: those that at least half of the tracks have.
    """
    given: list[tuple[str, ...]] = []
    for track in tracks:
        with contextlib.suppress(AudioError):  # one without any fails by itself
            given.append(source.list_stems(track))
    counts = Counter(stem for stems in given for stem in stems)
    usual = tuple(stem for stem, count in counts.items() if 2 * count >= len(given))
    if wanted is None:
        return usual
    # Accompaniment is the mixture less the vocals where no track has more of it.
    is_derived = VOCALS in usual and ACCOMPANIMENT not in usual
    return tuple(stem for stem in wanted if not (is_derived and stem == ACCOMPANIMENT))


def derive_rest(stem: str, references: References, estimates: Mapping[str, Tensor]) -> Tensor:
    """Return the estimate of "accompaniment" or "no_STEM": the mixture less the stem's estimate.

    Args:
        stem: The rest's name.
        references: The track's.
        estimates: By stem.

    Returns:
        Shape (C, T).
    """
    own = next(name for name in estimates if rest_of(name) == stem)
    return references.mixture - estimates[own]


def stamp(file: AudioFile) -> list[Any]:
    """Return what a file is known by without reading it: name, stream, size and time."""
    try:
        found = os.stat(file.path)
    except OSError as error:
        raise AudioError(
            f"{str(file.path)!r} cannot be read: {error.strerror}", help="check the file."
        ) from error
    return [file.path.name, file.stream, found.st_size, found.st_mtime_ns]
