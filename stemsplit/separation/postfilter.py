"""Which post-filter a separation uses, from its options and its model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stemsplit.dsp.wiener import Wiener
from stemsplit.errors import UsageError
from stemsplit.models.base import Refine, SpectralModel, StemModel

if TYPE_CHECKING:
    from stemsplit.separation.plan import Options


def find_refine(model: StemModel, options: Options) -> Refine | None:
    """Return the filter to apply between estimate and inverse transform, or None.

    By default its statistics are those of one chunk; in the original framing they, and its
    constants, are those of the model's authors (Open-Unmix takes 300 frames at a time).

    Args:
        model: With all its stems.
        options: `wiener` and `framing` are read.

    Raises:
        UsageError: The model makes no spectrograms, or has one stem only.
    """
    if options.wiener == 0:
        return None
    if not isinstance(model, SpectralModel):
        raise UsageError(
            "--wiener filters spectrograms, and this model makes none",
            help="leave out --wiener, or choose a model that works on spectrograms.",
        )
    if len(model.stems) < 2:
        raise UsageError(
            f"--wiener shares the mixture among stems, and this model has {len(model.stems)}",
            help="leave out --wiener, or choose a model that gives all the stems of the mixture.",
        )
    if options.framing == "original":
        return replace(model.original_wiener, iterations=options.wiener, is_in_place=True)
    return Wiener(iterations=options.wiener, is_in_place=True)
