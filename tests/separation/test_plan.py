from __future__ import annotations

import pytest

from stemsplit.errors import UnknownNameError, UsageError
from stemsplit.models.base import ChunkPlan
from stemsplit.separation.plan import Framing, Mix, Options, check_numbers, plan_framing, plan_stems

CHUNK = ChunkPlan(samples=441_000, overlap=0.25, edge_samples=4096, multiple_of=1024, remainder=0)
STEMS = ("vocals", "drums", "bass", "other")


def test_the_models_own_chunks() -> None:
    assert plan_framing(CHUNK, 44100, Options()) == Framing(
        441_000, 441_000 - 322 * 1024, 4096, 1024
    )


def test_a_segment_is_rounded_up_to_what_the_network_takes() -> None:
    framing = plan_framing(CHUNK, 44100, Options(segment_s=5, overlap=0.5))
    assert framing.chunk_samples == 216 * 1024
    assert framing.overlap_samples == 108 * 1024
    assert framing.grid_samples == 1024
    tiny = plan_framing(CHUNK, 44100, Options(segment_s=0.001))
    assert tiny.chunk_samples is not None
    assert tiny.chunk_samples > 4 * 4096


def test_the_original_framing_is_the_whole_song() -> None:
    assert plan_framing(CHUNK, 44100, Options(framing="original")).chunk_samples is None


@pytest.mark.parametrize(
    "options",
    [
        Options(segment_s=0),
        Options(segment_s=-1),
        Options(segment_s=float("nan")),
        Options(segment_s=float("inf")),
        Options(overlap=-0.1),
        Options(overlap=0.8),
        Options(overlap=float("nan")),
        Options(framing="original", overlap=0.1),
        Options(framing="orignal"),  # type: ignore[arg-type]  # what a person may type
    ],
)
def test_impossible_chunks_are_refused(options: Options) -> None:
    with pytest.raises(UsageError):
        plan_framing(CHUNK, 44100, options)


def test_a_fixed_chunk_takes_no_segment() -> None:
    fixed = ChunkPlan(441_000, 0.25, fixed=True)
    with pytest.raises(UsageError, match=r"10\.00 s and no other"):
        plan_framing(fixed, 44100, Options(segment_s=5))


def test_which_stems_come_out() -> None:
    assert plan_stems(STEMS, Options()).names == STEMS
    assert plan_stems(STEMS, Options(stems=("bass", "bass"))).names == ("bass",)
    assert plan_stems(STEMS, Options(residual=True)).names == (*STEMS, "residual")
    assert plan_stems(STEMS, Options(two_stems="drums")).names == ("drums", "no_drums")


REST = "rest"
EVERYTHING = dict.fromkeys(STEMS, 1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Options(stems=(REST,)), {REST: Mix(1, dict.fromkeys(STEMS, -1))}),
        (
            Options(two_stems=REST),
            {REST: Mix(1, dict.fromkeys(STEMS, -1)), "no_rest": Mix(0, EVERYTHING)},
        ),
        (Options(two_stems="bass"), {"bass": Mix(0, {"bass": 1}), "no_bass": Mix(1, {"bass": -1})}),
        (
            Options(stems=(REST, "bass"), residual=True),
            {
                REST: Mix(1, dict.fromkeys(STEMS, -1)),
                "bass": Mix(0, {"bass": 1}),
                "residual": Mix(0, {stem: 1 for stem in STEMS if stem != "bass"}),
            },
        ),
    ],
)
def test_what_a_models_stems_leave_is_a_stem_too(
    options: Options, expected: dict[str, Mix]
) -> None:
    plan = plan_stems(STEMS, options, REST)
    assert plan.mixes == expected
    assert plan.of_model == (("bass",) if options.two_stems == "bass" else STEMS)
    assert plan_stems(STEMS, Options(), REST).names == (*STEMS, REST)


@pytest.mark.parametrize(
    ("options", "computed"),
    [
        (Options(), STEMS[:-1]),
        (Options(stems=tuple(reversed(STEMS))), STEMS[:-1]),
        (Options(stems=STEMS[1:]), STEMS[1:]),
        (Options(two_stems=STEMS[-1]), STEMS[-1:]),
        (Options(wiener=1), STEMS),
        (Options(framing="original"), STEMS),
    ],
)
def test_the_last_of_stems_that_add_up_is_what_the_others_leave(
    options: Options, computed: tuple[str, ...]
) -> None:
    plan = plan_stems(STEMS, options, adds_up=True)
    assert plan.of_model == computed
    assert plan.names == plan_stems(STEMS, options).names


@pytest.mark.parametrize(
    "options",
    [
        Options(stems=()),
        Options(stems=("bass",), two_stems="bass"),
        Options(two_stems="bass", residual=True),
    ],
)
def test_stems_that_contradict_are_refused(options: Options) -> None:
    with pytest.raises(UsageError):
        plan_stems(STEMS, options)


def test_an_unknown_stem_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="vocals"):
        plan_stems(STEMS, Options(stems=("vocal",)))
    with pytest.raises(UnknownNameError, match="drums"):
        plan_stems(STEMS, Options(two_stems="drum"))


@pytest.mark.parametrize(
    "options",
    [
        Options(shifts=-1),
        Options(wiener=-1),
        Options(stream=-1),
        Options(start_s=-0.1),
        Options(start_s=float("nan")),
        Options(duration_s=0),
        Options(duration_s=float("inf")),
        Options(threads=0),
        Options(threads=10_000),
        Options(batch_size=0),
        Options(batch_size=10_000),
    ],
)
def test_impossible_numbers_are_refused(options: Options) -> None:
    with pytest.raises(UsageError):
        check_numbers(options)


def test_possible_numbers_are_not() -> None:
    check_numbers(Options(shifts=3, wiener=1, stream=2, start_s=1.5, duration_s=0.1))
