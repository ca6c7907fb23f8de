"""Which excerpts make an epoch: decided by numbers alone, before any file is opened.

Item i of epoch e of a run is drawn from (seed, e, i) and nothing else. It is therefore the same after
a resumed run, and whatever the number of readers, of processes and of items in a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from stemsplit.errors import UsageError

RandomMix = Literal["none", "positions", "tracks"]
RANDOM_MIXES: tuple[RandomMix, ...] = ("none", "positions", "tracks")
Ranges = Sequence[tuple[int, int]]
"""(first, behind the last) in samples."""


@dataclass(frozen=True)
class DataConfig:
    """What an epoch is made of.

    Every item has a leading stem, one of those that are learned, in turn; it is found at a place
    that the epoch's order decides. The other stems are found at the same place, or elsewhere.

    Attributes:
        excerpt_s: Length of an excerpt; 0 for what the network takes at once.
        samples_per_track: Excerpts of every track in an epoch; 0 for as many as fit into it (with
            `use_activity`: as it has active ranges).
        random_mix: Where the stems that do not lead come from: "none", from the same place;
            "positions", from the same track, each from a place of its own; "tracks", each from a
            track and a place of its own.
        random_mix_p: In what share of the items; the rest is as "none" says.
        fewest_others: How many stems sound beside the leading one in a random mix, at least; each
            number up to all of them is as likely. 0 for always all.
        lead_silent_p: In what share of the items the leading stem is silent.
        use_activity: Draw excerpts among the ranges in which their stem sounds.
        workers: How many threads read; 0 for none beside the one that trains.
    """

    excerpt_s: float = 6.0
    samples_per_track: int = 64
    random_mix: RandomMix = "tracks"
    random_mix_p: float = 1.0
    fewest_others: int = 0
    lead_silent_p: float = 0.0
    use_activity: bool = False
    workers: int = 4
