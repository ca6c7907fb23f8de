"""Which tracks are for training, for validation and for the test."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from stemsplit.datasets.track import Dataset, Split
from stemsplit.errors import DatasetError, UnknownNameError, UsageError

SPLITS: Final[tuple[Split, ...]] = ("train", "valid", "test")

# The 14 tracks of MUSDB18's training folder that papers validate on, as the musdb package lists
# them.
MUSDB18_VALIDATION: Final = (
    "ANiMAL - Rockshow",
    "Actions - One Minute Smile",
    "Alexander Ross - Goodbye Bolero",
    "Clara Berry And Wooldog - Waltz For My Victims",
    "Fergessen - Nos Palpitants",
    "James May - On The Line",
    "Johnny Lokke - Promises & Lies",
    "Leaf - Summerghost",
    "Meaxic - Take A Step",
    "Patrick Talbot - A Reason To Leave",
    "Skelpolu - Human Mistakes",
    "Traffic Experiment - Sirens",
    "Triviul - Angelsaint",
    "Young Griffo - Pennies",
)


@dataclass(frozen=True)
class Validation:
    """Which tracks are for validation; by default those that the data set itself names.

    That is its folder `valid`, else the list in its dataset.toml, else MUSDB18's fourteen where it
    has any of them.

    Attributes:
        names: These, instead.
        share: This share of all that are not for the test, instead: above 0 and below 1. A track's
            name decides, so that a track that is added moves few others.
        standard: Whether MUSDB18's fourteen count.
    """

    names: tuple[str, ...] | None = None
    share: float | None = None
    standard: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UsageError: Names and a share, or a share that is none.
        """
        if self.share is None:
            return
        if self.names is not None:
            raise UsageError(
                f"validation on {len(self.names)} tracks by name and on a share of {self.share}",
                help="give names or a share.",
            )
        if not (math.isfinite(self.share) and 0 < self.share < 1):
            raise UsageError(
                f"a share of {self.share} for validation is not possible",
                help="give a number above 0 and below 1, such as 0.1.",
            )


AS_DESCRIBED: Final = Validation()


def parse_validation(text: str) -> Validation:
    """Return what a person means by "0.1" (a share) or by "Song A, Song B" (names).

    Raises:
        UsageError: A share that is none, or no name.
    """
    try:
        return Validation(share=float(text))
    except ValueError:
        names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise UsageError(
            f"{text!r} names no track for validation", help="give names, or a share such as 0.1."
        )
    return Validation(names=names)


def assign_splits(
    places: Mapping[str, Split], valid: Validation, described: Sequence[str] | None
) -> dict[str, Split]:
    """Decide what each track is for.

    Args:
        places: Track -> the folder it is in.
        valid: Who is to validate.
        described: What the data set's own description says of that.

    Raises:
        UnknownNameError: A name that no track outside the test has.
    """
    is_asked = valid.names is not None or valid.share is not None
    if not is_asked and "valid" in places.values():
        return dict(places)
    pool = sorted(name for name, place in places.items() if place != "test")
    chosen = _choose(pool, valid, described)
    # What was asked for takes the place of the folder `valid`.
    changed: dict[str, Split] = {name: "valid" if name in chosen else "train" for name in pool}
    return {**places, **changed}


def _choose(
    pool: Sequence[str], valid: Validation, described: Sequence[str] | None
) -> Collection[str]:
    """Return the tracks of the pool that validate."""
    if valid.names is not None:
        for name in valid.names:
            if name not in pool:
                raise UnknownNameError("track for validation", name, pool)
        return valid.names
    if valid.share is not None:
        count = min(max(1, round(valid.share * len(pool))), len(pool) - 1)
        return sorted(pool, key=_rank)[: max(0, count)]
    if described is not None:
        return [name for name in described if name in pool]
    return [name for name in MUSDB18_VALIDATION if valid.standard and name in pool]


def _rank(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()


def keep_roles(dataset: Dataset, roles: Mapping[Split, Sequence[str]]) -> Dataset:
    """Return a data set of named tracks alone, in the roles they are given.

    Names that it lacks are left out.

    Args:
        dataset: What there is.
        roles: By split, the tracks that are for it, in order.
    """
    there = {track.name: track for track in dataset.tracks}
    tracks = [
        replace(there[name], split=split)
        for split, names in roles.items()
        for name in names
        if name in there
    ]
    return replace(dataset, tracks=tuple(tracks))


def require(dataset: Dataset, *splits: Split) -> None:
    """Refuse to begin what a data set has no tracks for.

    Raises:
        DatasetError: One of the splits is empty.
    """
    helps: Mapping[Split, str] = {
        "train": "put tracks into its folder 'train', or give fewer of them to validation.",
        "valid": "name tracks for it, or a share such as 0.1, or make a folder 'valid' beside "
        "'train'.",
        "test": "put tracks into its folder 'test', or choose another split.",
    }
    purposes: Mapping[Split, str] = {"train": "training", "valid": "validation", "test": "the test"}
    for split in splits:
        if not dataset.select(split):
            counts = _count(track.split for track in dataset.tracks)
            raise DatasetError(
                f"{str(dataset.root)!r} has no track for {purposes[split]}; it has {counts}",
                help=helps[split],
            )


def _count(splits: Iterable[Split]) -> str:
    listed = list(splits)
    return ", ".join(f"{listed.count(split)} {split}" for split in SPLITS)
