"""What a description comes to: a model of a known architecture in a configuration of its own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from stemsplit.errors import CheckpointError
from stemsplit.weights.described.brought import Brought
from stemsplit.weights.entry import ModelEntry, WeightFile

# A stem's name becomes a part of its tensors' names, and of its file's.
_STEM = re.compile(r"[^\\/:*?\"<>|.\x00-\x1f]+")


@dataclass(frozen=True)
class Candidate:
    """A model that the files beside the weights, or inside them, describe.

    Attributes:
        entry: As the registry would have it.
        brought: The entry's files, in its order.
        source: What describes it, as it is called in a message.
    """

    entry: ModelEntry
    brought: tuple[Brought, ...]
    source: str


def build_candidate(
    template: ModelEntry,
    path: Path,
    weights: Sequence[tuple[Brought, str | None]],
    source: str,
    *,
    config: Mapping[str, object],
    stems: tuple[str, ...],
    sample_rate: int = 44100,
    channels: int = 2,
) -> Candidate:
    """Return a model like a known one, with these files and settings.

    Args:
        template: A model of the same architecture and layout.
        path: What the person gave.
        weights: The files, each with the stem that it is for.
        source: What describes it.
        config: The architecture's settings.
        stems: In the order of the network's outputs.
        sample_rate: Hz.
        channels: Audio channels that the network sees.
    """
    keymap = template.files[0].keymap
    path = path.absolute()
    files = tuple(
        WeightFile(
            source=(os.fspath(one.path.absolute()),),
            format=one.format,
            name=one.path.name,
            stem=stem,
            keymap=keymap,
        )
        for one, stem in weights
    )
    entry = replace(
        template,
        name=path.stem.casefold(),
        description=f"{path.name}, recognised as weights of the architecture "
        f"{template.architecture} by its {source}: {', '.join(stems)}",
        config=config,
        stems=stems,
        # Named for the known model's stems: the mixture less others is something else.
        residual=template.residual if stems == template.stems else None,
        sample_rate=sample_rate,
        channels=channels,
        chunk={},
        files=files,
        # What is known of the published weights is not known of these.
        licence="not stated",
        source_page="not stated",
        verified=None,
        scores=(),
    )
    return Candidate(entry, tuple(one for one, _ in weights), source)


def order_stems(stems: Iterable[str], template: ModelEntry) -> tuple[str, ...]:
    """Return stems in the order of a known model; those that it lacks come last, by name."""
    known = {stem: place for place, stem in enumerate(template.stems)}
    return tuple(sorted(stems, key=lambda stem: (known.get(stem, len(known)), stem)))


def check_stem(path: Path, stem: str) -> str:
    """Return the name of a stem.

    Raises:
        CheckpointError: It cannot be one; `path` is the file that says it.
    """
    # Networks lie in a module by their stems, whose own attributes come first.
    if not _STEM.fullmatch(stem) or not stem.strip() or hasattr(nn.ModuleDict(), stem):
        raise CheckpointError(
            f"{path}: {stem!r:.60} cannot be the name of a stem",
            help="take a plain word, such as vocals, and rename the files after it.",
        )
    return stem


def check_alike(folder: Path, described: Mapping[str, Mapping[str, object]]) -> None:
    """Check that several descriptions, by their names, say the same of one model.

    Raises:
        CheckpointError: They differ.
    """
    (first, values), *others = described.items()
    for name, other in others:
        for key, value in values.items():
            if other[key] != value:
                raise CheckpointError(
                    f"{folder}: {key} is {value} in {first} and {other[key]} in {name}",
                    help="stems of one model are alike in this: open these one by one.",
                )
