"""Which stems are scored together, beside museval's own rules."""

from __future__ import annotations

import pytest

from stemsplit.evaluation.pairing import pair_stems

FOUR = ("drums", "bass", "other", "vocals")
PAIR = ("vocals", "accompaniment")
ALL = (*FOUR, "accompaniment")


@pytest.mark.parametrize(
    ("given", "wanted", "expected"),
    [
        # As museval: all together; vocals with the accompaniment where both have an estimate.
        (FOUR, FOUR, [(FOUR, FOUR)]),
        (ALL, ALL, [(FOUR, FOUR[:3]), (PAIR, PAIR)]),
        (PAIR, ALL, [(PAIR, PAIR)]),
        (("drums", "bass"), ALL, [(("drums", "bass"), ("drums", "bass"))]),
        (("drums", *PAIR), ALL, [(("drums", "vocals"), ("drums",)), (PAIR, PAIR)]),
        (("drums", "accompaniment"), ALL, [(("drums", "accompaniment"),) * 2]),
        # The accompaniment that is what vocals leave changes nobody's numbers.
        (FOUR, ALL, [(FOUR, FOUR), (PAIR, ("accompaniment",))]),
        (("vocals",), ALL, [(PAIR, PAIR)]),
        (("vocals",), ("vocals",), [(PAIR, ("vocals",))]),
        (("vocals",), ("accompaniment",), [(PAIR, ("accompaniment",))]),
        (
            FOUR,
            ("drums", "accompaniment"),
            [(("drums", "no_drums"), ("drums",)), (PAIR, ("accompaniment",))],
        ),
        # One stem alone: museval has no numbers for it.
        (("bass",), ALL, [(("bass", "no_bass"), ("bass",))]),
        ((), ALL, []),
    ],
)
def test_who_is_scored_with_whom(
    given: tuple[str, ...], wanted: tuple[str, ...], expected: list[tuple[tuple[str, ...], ...]]
) -> None:
    assert [tuple(group) for group in pair_stems(given, wanted, has_rest=True)] == expected


def test_a_track_that_is_one_stem() -> None:
    assert pair_stems(["vocals"], ["vocals"], has_rest=False) == [(("vocals",), ("vocals",))]
