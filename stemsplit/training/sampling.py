"""Which excerpts make an epoch: decided by numbers alone, before any file is opened.

Item i of epoch e of a run is drawn from (seed, e, i) and nothing else. It is therefore the same in
a resumed run, and whatever the number of readers, of processes and of items in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import numpy as np

from stemsplit.errors import UnknownNameError, UsageError

RandomMix = Literal["none", "positions", "tracks"]
RANDOM_MIXES: tuple[RandomMix, ...] = ("none", "positions", "tracks")

Ranges = Sequence[tuple[int, int]]
"""Parts of a recording: (first sample, sample behind the last)."""

Order = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

SILENT = -1
"""The track of a stem that is silent."""


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

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
            UnknownNameError: A way to mix that does not exist.
            UsageError: A number out of range.
        """
        if self.random_mix not in RANDOM_MIXES:
            raise UnknownNameError("random mix", self.random_mix, RANDOM_MIXES)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_p") and not 0 <= value <= 1:
                raise UsageError(
                    f"data.{field.name} is {value}", help="a share of the items is from 0 to 1."
                )
            if not isinstance(value, str) and not (math.isfinite(value) and value >= 0):
                raise UsageError(f"data.{field.name} is {value}", help="give a number from 0.")


@dataclass(frozen=True)
class TrackRanges:
    """What is known of a track before it is opened.

    Attributes:
        name: For errors.
        samples: Its length.
        active: By stem, where it sounds; none where that was not looked for.
    """

    name: str
    samples: int
    active: Mapping[str, Ranges] | None = None


class Place(NamedTuple):
    """Where a stem's excerpt begins.

    Attributes:
        track: Its number, or `SILENT`.
        start: In samples.
    """

    track: int
    start: int


class Sampler:
    """Draws the items of an epoch.

    Attributes:
        stems: The data set's.
        leads: The stems that lead, in turn.
        excerpt: Length of an item, in samples.
    """

    def __init__(
        self,
        tracks: Sequence[TrackRanges],
        stems: Sequence[str],
        excerpt: int,
        config: DataConfig,
        *,
        leads: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        """Count the items.

        Args:
            tracks: What may be drawn from.
            stems: The data set's, in order.
            excerpt: Length of an item, in samples.
            config: What an epoch is made of.
            leads: Which of the stems lead; none for all.
            seed: Of the run.

        Raises:
            UnknownNameError: A leading stem that the data set does not have.
            UsageError: There is nothing to draw from, or a value out of range.
        """
        config.check()
        self.tracks = tuple(tracks)
        self.stems = tuple(stems)
        self.leads = tuple(leads) or self.stems
        self.excerpt = excerpt
        self.config = config
        self.seed = seed
        for lead in self.leads:
            if lead not in self.stems:
                raise UnknownNameError("stem of the data set", lead, self.stems)
        if not self.tracks:
            raise UsageError(
                "there is no track to train on", help="give a data set with a train split."
            )
        # By stem, the tracks in which something can be found.
        self._found = {stem: self._find_tracks(stem) for stem in self.stems}
        # Track and range (or -1 for anywhere) of every item, by leading stem.
        self._items = [self._list_items(lead) for lead in self.leads]
        self._order: tuple[int, dict[int, Order]] = (-1, {})

    def __len__(self) -> int:
        """Return how many items an epoch has."""
        return sum(len(items) for items in self._items) // len(self._items)

    def draw(self, epoch: int, item: int) -> tuple[Place, ...]:
        """Return where each of the data set's stems begins.

        Args:
            epoch: From 0.
            item: From 0 to `len(self)` - 1.
        """
        dice = np.random.default_rng((self.seed, epoch, item))
        lead = self.leads[item % len(self.leads)]
        items = self._items[item % len(self.leads)]
        # The epoch's length is the mean over the leading stems: one may have fewer items, or more.
        track, part = items[self._shuffle(epoch, len(items))[item % len(items)]]
        base = Place(track, self._find_start(dice, track, lead, part))
        config = self.config
        silent = dice.random() < config.lead_silent_p
        is_mixed = config.random_mix != "none" and dice.random() < config.random_mix_p
        heard = self._choose_others(dice, lead) if is_mixed else set(self.stems)
        places = []
        for stem in self.stems:
            if stem == lead:
                places.append(Place(SILENT, 0) if silent else base)
            elif stem not in heard:
                places.append(Place(SILENT, 0))
            else:
                places.append(self._find_other(dice, stem, base) if is_mixed else base)
        return tuple(places)

    def _shuffle(self, epoch: int, count: int) -> Order:
        """Return an epoch's order of so many items; the latest epoch's are kept."""
        kept = self._order
        if kept[0] != epoch:
            kept = self._order = (epoch, {})
        if count not in kept[1]:
            kept[1][count] = np.random.default_rng((self.seed, epoch)).permutation(count)
        return kept[1][count]

    def _ranges(self, track: int, stem: str) -> Ranges | None:
        """Return where a stem sounds; None where that does not count."""
        active = self.tracks[track].active
        return active.get(stem, ()) if self.config.use_activity and active is not None else None

    def _find_tracks(self, stem: str) -> list[int]:
        """Return the tracks in which a stem sounds.

        Raises:
            UsageError: It sounds in none.
        """
        numbers = range(len(self.tracks))
        if self.config.use_activity:
            for track in self.tracks:
                if track.active is None:
                    raise UsageError(
                        f"nobody has looked where the stems of {track.name} sound",
                        help="run `stemsplit prepare`, or set data.use_activity = false.",
                    )
        ranges = [self._ranges(track, stem) for track in numbers]
        found = [track for track in numbers if ranges[track] is None or len(ranges[track] or ())]
        if not found:
            raise UsageError(
                f"{stem} sounds in none of the {len(self.tracks)} tracks",
                help="look at the files, or set data.use_activity = false.",
            )
        return found

    def _list_items(self, lead: str) -> list[tuple[int, int]]:
        """Return (track, range) of every item that a stem leads, -1 for any range."""
        count = self.config.samples_per_track
        items: list[tuple[int, int]] = []
        for track in self._found[lead]:
            ranges = self._ranges(track, lead)
            if count:
                items += [(track, -1)] * count
            elif ranges is not None:
                items += [(track, part) for part in range(len(ranges))]
            else:
                items += [(track, -1)] * max(1, self.tracks[track].samples // self.excerpt)
        return items

    def _find_start(self, dice: np.random.Generator, track: int, stem: str, part: int = -1) -> int:
        """Draw where an excerpt begins: inside a range, or so that one lies inside it."""
        last = max(0, self.tracks[track].samples - self.excerpt)
        ranges = self._ranges(track, stem)
        if not ranges:
            return int(dice.integers(last + 1))
        first, end = ranges[int(dice.integers(len(ranges))) if part < 0 else part]
        bounds = sorted((first, end - self.excerpt))
        low, high = (min(max(bound, 0), last) for bound in bounds)
        return int(dice.integers(low, high + 1))

    def _choose_others(self, dice: np.random.Generator, lead: str) -> set[str]:
        """Draw which stems sound beside the leading one in a random mix."""
        others = [stem for stem in self.stems if stem != lead]
        fewest = self.config.fewest_others
        if fewest == 0 or fewest >= len(others):
            return set(others)
        count = int(dice.integers(fewest, len(others) + 1))
        return {others[index] for index in dice.permutation(len(others))[:count]}

    def _find_other(self, dice: np.random.Generator, stem: str, base: Place) -> Place:
        """Draw where a stem of a random mix comes from."""
        found = self._found[stem]
        track = base.track
        if self.config.random_mix == "tracks":
            track = found[int(dice.integers(len(found)))]
        return Place(track, self._find_start(dice, track, stem))
