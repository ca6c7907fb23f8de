"""Weights that say what they are: each layout's own description, beside the tensors or among them.

A description comes to a candidate; whether the tensors are those of that network is then looked at
as with any model (`stemsplit.weights.recognise`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from stemsplit.errors import CheckpointError
from stemsplit.weights.described import bsrnn, lightning, open_unmix
from stemsplit.weights.described.brought import Brought, Shelf
from stemsplit.weights.described.candidate import Candidate
from stemsplit.weights.entry import ModelEntry

__all__ = ["Brought", "Candidate", "Shelf", "find_candidates"]

_LAYOUTS: Mapping[str, Callable[[Path, ModelEntry, Shelf], Candidate | None]] = {
    "open-unmix": open_unmix.find_candidate,
    "bsrnn": bsrnn.find_candidate,
    "intermediate-block-unet": lightning.find_unet,
    "lasaft": lightning.find_lasaft,
}
"""By keymap."""

_INSIDE = ("intermediate-block-unet", "lasaft")
"""Those whose published files describe themselves too, and may be known in spite of it."""


def find_candidates(
    path: Path, registry: Mapping[str, ModelEntry], shelf: Shelf
) -> Iterator[Candidate | CheckpointError]:
    """Yield the models that a person's own files describe, one for each layout at the most.

    In place of a model comes what is wrong with a description that the weights cannot be without.

    Args:
        path: A file of weights, or a folder with some.
        registry: Models by name; a layout that none of them has is not looked for.
        shelf: Where files are read.

    Raises:
        CheckpointError: A file beside the weights is damaged, or says what no network of its layout
            can be.
    """
    for keymap, find in _LAYOUTS.items():
        for entry in registry.values():
            if entry.files and entry.files[0].keymap == keymap:
                try:
                    candidate: Candidate | CheckpointError | None = find(path, entry, shelf)
                except CheckpointError as error:
                    if keymap not in _INSIDE:
                        raise
                    candidate = error
                if candidate is not None:
                    yield candidate
                break
