"""Which architectures there are, and where each lives: strings only, so that listing is free."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from stemsplit.errors import UnknownNameError

if TYPE_CHECKING:
    from stemsplit.models.base import StemModel

ARCHITECTURES: dict[str, str] = {
    "bsrnn": "stemsplit.models.band_split_rnn:BandSplitRNN",
    "d3net": "stemsplit.models.d3net:D3Net",
    "intermediate-block-unet": "stemsplit.models.unet:IntermediateBlockUNet",
    "lasaft": "stemsplit.models.lasaft:ConditionedUNet",
    "open-unmix": "stemsplit.models.open_unmix:OpenUnmix",
    "spleeter": "stemsplit.models.spleeter:Spleeter",
    "x-umx": "stemsplit.models.x_umx:XUmx",
}


def find_architecture(name: str) -> type[StemModel]:
    """Return the class of an architecture, importing it (and torch) only now.

    Args:
        name: A key of `ARCHITECTURES`.

    Raises:
        UnknownNameError: There is no such architecture.
    """
    if name not in ARCHITECTURES:
        raise UnknownNameError("architecture", name, ARCHITECTURES)
    module, _, attribute = ARCHITECTURES[name].partition(":")
    found: type[StemModel] = getattr(importlib.import_module(module), attribute)
    return found
