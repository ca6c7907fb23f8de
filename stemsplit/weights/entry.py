"""What the registry knows of a model, as frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FORMATS = ("torch-pickle", "tensorflow", "hdf5", "safetensors", "numpy", "companion")
"""How a file is read. A "companion" is not read by itself: it has to lie beside another file."""

METRICS = ("cSDR", "uSDR", "SDR", "SI-SDR")
"""cSDR: museval's, median of frames, then of tracks. uSDR: of the whole track, mean of tracks."""

CHECKSUM_DIGITS = {"sha256-prefix": (8, 63), "sha1": (40, 40), "git-blob": (40, 40)}
"""Kinds of a published hash that is not a full sha256: the least and the most hex digits."""


@dataclass(frozen=True)
class Score:
    """A published score, as published.

    Attributes:
        dataset: What was separated, such as "MUSDB18 test".
        metric: One of `METRICS`.
        values: dB per stem; "average" is allowed.
        source: Who says so.
    """

    dataset: str
    metric: str
    values: Mapping[str, float]
    source: str


@dataclass(frozen=True)
class WeightFile:
    """One file of a model's weights, as its publisher offers it.

    Attributes:
        source: Where it is, see `stemsplit.weights.sources`; the first is preferred, the rest are
            mirrors of the same bytes.
        format: One of `FORMATS`.
        name: What it is called in the cache.
        sha256: Of what `source` names (of the whole archive where `member` is given); 64 digits.
        checksum: A weaker published hash, "kind:digits", see `CHECKSUM_DIGITS`.
        size: Bytes of what `source` names.
        member: The file's path in the archive that `source` names.
        stem: The one stem that this file is for.
        keymap: How its tensors' names become the architecture's; None: they already are.
    """

    source: tuple[str, ...]
    format: str
    name: str
    sha256: str | None = None
    checksum: str | None = None
    size: int | None = None
    member: str | None = None
    stem: str | None = None
    keymap: str | None = None

    @property
    def pin(self) -> str | None:
        """What kind of hash was published: "sha256", a key of `CHECKSUM_DIGITS`, or None."""
        if self.sha256 is not None:
            return "sha256"
        return None if self.checksum is None else self.checksum.partition(":")[0]


@dataclass(frozen=True)
class FetchedFile:
    """A file of weights that is on this machine and is the right one.

    Attributes:
        file: What the registry says of it.
        path: Where it is.
        sha256: Of the file at `path`.
    """

    file: WeightFile
    path: Path
    sha256: str


@dataclass(frozen=True)
class Member:
    """A model's part in an ensemble.

    Attributes:
        model: Its name in the registry.
        weights: How much it counts, per stem; a stem that is left out does not count.
    """

    model: str
    weights: Mapping[str, float]


@dataclass(frozen=True)
class ModelEntry:
    """A model: an architecture with weights, or an ensemble of such.

    Attributes:
        name: Its name in the registry.
        description: One line.
        architecture: A key of `stemsplit.models.catalogue.ARCHITECTURES`; None for an ensemble.
        config: The architecture's own settings, checked when the network is built.
        stems: In the order of the network's outputs.
        residual: What the mixture without all of `stems` is called, where that is a stem too.
        sample_rate: Hz.
        channels: Audio channels that the network sees.
        chunk: What of the architecture's `ChunkPlan` this model has otherwise.
        files: The weights; empty for an ensemble.
        members: An ensemble's models; else empty.
        licence: Of the weights; "not stated" where it is not.
        source_page: Where the publisher describes them.
        paper: The citation.
        verified: How it was shown that the weights do here what they do for their authors.
        scores: What was published.
    """

    name: str
    description: str
    architecture: str | None
    config: Mapping[str, object]
    stems: tuple[str, ...]
    residual: str | None
    sample_rate: int
    channels: int
    chunk: Mapping[str, object]
    files: tuple[WeightFile, ...]
    members: tuple[Member, ...]
    licence: str
    source_page: str
    paper: str | None
    verified: str | None
    scores: tuple[Score, ...]

    @property
    def all_stems(self) -> tuple[str, ...]:
        """What the model gives: `stems`, and what they leave."""
        return self.stems if self.residual is None else (*self.stems, self.residual)

    @property
    def is_ensemble(self) -> bool:
        """Whether it is made of other models and has no weights of its own."""
        return bool(self.members)

    @property
    def size(self) -> int | None:
        """Bytes to download; None where the size of some file was not published."""
        # Several members of one archive are one download.
        sizes = list({file.source: file.size for file in self.files}.values())
        return None if None in sizes else sum(size for size in sizes if size is not None)
