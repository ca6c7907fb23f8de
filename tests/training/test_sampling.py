"""Sampling: what an epoch holds, and that numbers alone decide it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from stemsplit.errors import UnknownNameError, UsageError
from stemsplit.training.sampling import SILENT, DataConfig, Place, Sampler, TrackRanges

STEMS = ("vocals", "drums", "bass", "other")
TRACKS = [TrackRanges(f"song {n}", 1000 * (n + 1)) for n in range(5)]
PLAIN = DataConfig(samples_per_track=8, random_mix="none")


def draw_all(sampler: Sampler, epoch: int = 0) -> list[tuple[Place, ...]]:
    return [sampler.draw(epoch, item) for item in range(len(sampler))]


def build(config: DataConfig, **options: object) -> Sampler:
    return Sampler(TRACKS, STEMS, 600, config, **options)  # type: ignore[arg-type]  # options of several types


def test_every_track_is_drawn_as_often_in_an_order_of_the_epoch() -> None:
    sampler = build(PLAIN)
    first, second = ([places[0].track for places in draw_all(sampler, e)] for e in (0, 1))
    assert Counter(first) == Counter(second) == dict.fromkeys(range(5), 8)
    assert first != second
    assert first != sorted(first)


def test_as_many_items_as_fit_into_the_tracks() -> None:
    sampler = build(replace(PLAIN, samples_per_track=0))
    assert Counter(places[0].track for places in draw_all(sampler)) == {
        0: 1,
        1: 3,
        2: 5,
        3: 6,
        4: 8,
    }


def test_an_item_follows_from_seed_epoch_and_number_alone() -> None:
    config = DataConfig(samples_per_track=8)
    forwards = build(config, seed=3)
    expected = {(e, i): forwards.draw(e, i) for e in (0, 1) for i in range(len(forwards))}
    other = build(config, seed=3)
    for epoch, item in reversed(expected):
        assert other.draw(epoch, item) == expected[epoch, item]
    assert draw_all(build(config, seed=4)) != draw_all(forwards)


def test_an_epoch_has_places_of_its_own() -> None:
    sampler = Sampler(TRACKS[4:], STEMS, 600, PLAIN)
    first, second = ({places[0].start for places in draw_all(sampler, e)} for e in (0, 1))
    assert len(first) == len(second) == 8
    assert first.isdisjoint(second)


def test_starts_lie_anywhere_in_a_track() -> None:
    sampler = build(replace(PLAIN, samples_per_track=400))
    starts = [places[0].start for places in draw_all(sampler) if places[0].track == 4]
    assert min(starts) < 100
    assert max(starts) > 4300
    assert max(starts) <= 5000 - 600


def test_a_track_shorter_than_an_excerpt_begins_at_its_beginning() -> None:
    sampler = Sampler(TRACKS, STEMS, 10_000, PLAIN)
    assert {place.start for places in draw_all(sampler) for place in places} == {0}
    assert len(Sampler(TRACKS, STEMS, 10_000, replace(PLAIN, samples_per_track=0))) == 5


# Mixing


def test_no_random_mix_takes_all_stems_from_one_place() -> None:
    assert all(len(set(places)) == 1 for places in draw_all(build(PLAIN)))


def test_positions_mixes_places_of_one_track() -> None:
    items = draw_all(build(replace(PLAIN, random_mix="positions")))
    assert all(len({place.track for place in places}) == 1 for places in items)
    assert all(len({place.start for place in places}) > 1 for places in items)


def test_tracks_mixes_tracks_and_keeps_the_leading_stem_balanced() -> None:
    sampler = build(replace(PLAIN, random_mix="tracks", samples_per_track=200), leads=("drums",))
    items = draw_all(sampler)
    tracks = np.array([[place.track for place in places] for places in items])
    assert Counter(tracks[:, 1].tolist()) == dict.fromkeys(range(5), 200)
    # Five tracks: a stem beside the leading one is from its track in a fifth of the items.
    for column in (0, 2, 3):
        assert (tracks[:, column] == tracks[:, 1]).mean() == pytest.approx(0.2, abs=0.04)


def test_a_share_of_the_items_is_mixed_from_some_of_the_others() -> None:
    config = DataConfig(
        samples_per_track=400, random_mix="tracks", random_mix_p=0.25, fewest_others=1
    )
    items = draw_all(build(config, leads=("vocals",)))
    mixed = [places for places in items if len(set(places)) > 1]
    # Of the mixed ones a few look like the others by chance: with 5 tracks and many places, none.
    assert len(mixed) / len(items) == pytest.approx(0.25, abs=0.03)
    heard = Counter(sum(place.track != SILENT for place in places[1:]) for places in mixed)
    assert set(heard) == {1, 2, 3}
    for count in heard.values():
        assert count / len(mixed) == pytest.approx(1 / 3, abs=0.07)
    assert all(places[0].track != SILENT for places in items)


def test_the_leading_stem_is_silent_in_its_share() -> None:
    config = replace(PLAIN, samples_per_track=400, lead_silent_p=0.1)
    items = draw_all(build(config, leads=("bass",)))
    silent = [places for places in items if places[2].track == SILENT]
    assert len(silent) / len(items) == pytest.approx(0.1, abs=0.02)
    assert all(place.track != SILENT for places in items for place in (places[0], places[3]))


def test_leads_take_turns() -> None:
    config = replace(PLAIN, samples_per_track=40, lead_silent_p=1.0)
    items = draw_all(build(config, leads=("bass", "vocals")))
    led = Counter(
        stem for places in items for stem, place in zip(STEMS, places, strict=True)
        if place.track == SILENT
    )  # fmt: skip
    assert led == {"bass": 100, "vocals": 100}


# Activity

ACTIVE = [
    TrackRanges("a", 5000, {"vocals": [(1000, 2000), (3000, 4000)], "drums": [(0, 5000)]}),
    TrackRanges("b", 5000, {"vocals": [], "drums": [(2000, 2300)]}),
    TrackRanges("c", 900, {"vocals": [(100, 800)], "drums": []}),
]


def test_excerpts_lie_where_their_stem_sounds() -> None:
    config = DataConfig(samples_per_track=200, use_activity=True)
    sampler = Sampler(ACTIVE, ("vocals", "drums"), 600, config, leads=("vocals",))
    items = draw_all(sampler)
    assert len(items) == 400
    vocals = {0: [(1000, 1400), (3000, 3400)], 2: [(100, 200)]}
    # The drums of b sound for less than an excerpt: all of that is in it.
    drums = {0: [(0, 4400)], 1: [(1700, 2000)]}
    seen = set()
    for sung, drummed in items:
        assert any(low <= sung.start <= high for low, high in vocals[sung.track])
        assert any(low <= drummed.start <= high for low, high in drums[drummed.track])
        seen.add((sung.track, drummed.track))
    assert len(seen) == 4


def test_every_active_range_once() -> None:
    config = DataConfig(samples_per_track=0, use_activity=True, random_mix="none")
    sampler = Sampler(ACTIVE, ("vocals", "drums"), 600, config, leads=("vocals",))
    starts = sorted(places[0] for places in draw_all(sampler))
    assert [place.track for place in starts] == [0, 0, 2]
    assert starts[0].start < 1401 <= starts[1].start


def test_activity_that_nobody_looked_for() -> None:
    with pytest.raises(UsageError, match="stemsplit prepare"):
        build(replace(PLAIN, use_activity=True))


def test_a_stem_that_never_sounds() -> None:
    tracks = [TrackRanges("b", 5000, {"vocals": [], "drums": [(0, 9)]})]
    with pytest.raises(UsageError, match="vocals sounds in none of the 1 tracks"):
        Sampler(tracks, ("vocals", "drums"), 600, replace(PLAIN, use_activity=True))


# What is refused


def test_nothing_to_draw_from() -> None:
    with pytest.raises(UsageError, match="no track to train on"):
        Sampler([], STEMS, 600, PLAIN)


def test_a_leading_stem_that_is_not_there() -> None:
    with pytest.raises(UnknownNameError, match="vocals"):
        build(PLAIN, leads=("vocal",))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"random_mix": "track"}, "did you mean tracks"),
        ({"random_mix_p": 1.5}, "data.random_mix_p is 1.5"),
        ({"lead_silent_p": float("nan")}, "data.lead_silent_p is nan"),
        ({"excerpt_s": -1.0}, "data.excerpt_s is -1.0"),
        ({"workers": -1}, "data.workers is -1"),
    ],
)
def test_values_out_of_range(change: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(replace(PLAIN, **change))  # type: ignore[arg-type]  # fields of several types
