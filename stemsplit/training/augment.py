"""Changes to the stems of a batch before they are mixed, on the device where the batch is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AugmentConfig:
    """What may happen to the stems of a batch. By default, nothing.

    Attributes:
        peak_normalise: Divide every item by the largest peak among its mixture and its stems.
        gain_low: Every stem is multiplied by a number of its own, evenly from here
        gain_high: to here.
        swap_p: Share of the stems whose channels change places.
        polarity_p: Share of the stems that are turned upside down.
        silence_p: Share of the stems that are silenced; one of each item stays.
        item_gain_db: All stems of an item together change by up to so much, up or down,
        item_gain_p: in this share of the batches.
        pitch_semitones: Every stem of an item is shifted by the same number, up to so many,
        tempo: and its tempo changes by up to this share,
        stretch_p: in this share of the items.
    """

    peak_normalise: bool = False
    gain_low: float = 1.0
    gain_high: float = 1.0
    swap_p: float = 0.0
    polarity_p: float = 0.0
    silence_p: float = 0.0
    item_gain_db: float = 0.0
    item_gain_p: float = 0.5
    pitch_semitones: float = 0.0
    tempo: float = 0.0
    stretch_p: float = 0.2
