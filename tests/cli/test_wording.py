"""Numbers, names, times and tables as text, and back."""

from __future__ import annotations

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from stemsplit.cli.values import given, number, one_of, read_device, split_names, time_of
from stemsplit.cli.wording import (
    format_bytes,
    format_clock,
    format_count,
    format_speed,
    format_table,
    printable,
)
from stemsplit.errors import UnknownNameError, UsageError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain.mp3", "plain.mp3"),
        ("ünï 🎤 👩‍🎤 日本.mp3", "ünï 🎤 👩‍🎤 日本.mp3"),
        ("a\nb\tc\x1b[2J\x07", "a\\nb\\tc\\x1b[2J\\x07"),
        ("\u202egnp.exe\u2028", "\\u202egnp.exe\\u2028"),
        ("\udcff.wav", "\\udcff.wav"),
        ("a\\b", "a\\b"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


@for_all(st.text())
def test_printable_is_one_line_that_any_utf8_terminal_takes(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert "\x1b" not in shown
    shown.encode("utf-8")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00"), (-1, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (205, "3:25"), (3723, "1:02:03")],
)
def test_format_clock(seconds: float, shown: str) -> None:
    assert format_clock(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (None, "?"),
        (0, "0 B"),
        (999, "999 B"),
        (5244, "5 kB"),
        (999_600, "1.0 MB"),
        (118_083_710, "118.1 MB"),
        (80.2e9, "80.2 GB"),
        (3e12, "3.0 TB"),
    ],
)
def test_format_bytes(count: float | None, shown: str) -> None:
    assert format_bytes(count) == shown


def test_format_speed_and_count() -> None:
    assert format_speed(12.34) == "12.3x real time"
    assert format_speed(123.4) == "123x real time"
    assert [format_count(n, "song") for n in (0, 1, 2)] == ["0 songs", "1 song", "2 songs"]


ROWS = [("umx", "vocals, drums, bass, other", "MIT"), ("spleeter-2stems", "vocals", "CC BY 4.0")]


def test_a_table_has_columns() -> None:
    assert format_table(("NAME", "STEMS", "LICENCE"), ROWS, 200) == [
        "NAME             STEMS                       LICENCE",
        "umx              vocals, drums, bass, other  MIT",
        "spleeter-2stems  vocals                      CC BY 4.0",
    ]


def test_a_table_is_cut_where_it_is_widest_to_fit_the_terminal() -> None:
    lines = format_table(("NAME", "STEMS", "LICENCE"), ROWS, 45)
    assert max(len(line) for line in lines) <= 45
    assert lines[1].startswith("umx              vocals, dru")
    assert "..." in lines[1]
    assert "CC BY 4.0" in lines[2]


@pytest.mark.parametrize("width", [0, 1, 10, 20])
def test_a_table_on_no_terminal_at_all(width: int) -> None:
    lines = format_table(("NAME", "STEMS", "LICENCE"), ROWS, width)
    assert len(lines) == 3
    assert format_table(("NAME", "STEMS"), [], width) == ["NAME  STEMS"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("90", 90.0),
        ("90.5", 90.5),
        (".5", 0.5),
        (" 7 ", 7.0),
        ("1:30", 90.0),
        ("01:30.25", 90.25),
        ("75:00", 4500.0),
        ("1:02:03", 3723.0),
        ("100:00:00.5", 360_000.5),
    ],
)
def test_times(text: str, seconds: float) -> None:
    assert time_of("--start")(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "-1", "1:60", "1:-5", "a", "1:2:3:4", "1e5", "nan", "inf", ":30", "1::2", "1:75:00"],
)
def test_no_times(text: str) -> None:
    with pytest.raises(UsageError, match="--start"):
        time_of("--start")(text)


def test_numbers() -> None:
    assert number("--jobs", int, 1)("3") == 3
    assert number("--segment", float, 0, above=True)("0.1") == 0.1
    assert given(number("--bits", int, 1), None) is None
    for text in ("0", "-3", "1.5", "", "x", "inf", "nan", "9" * 5000):
        with pytest.raises(UsageError, match="--jobs"):
            number("--jobs", int, 1, 100)(text)


def test_names() -> None:
    assert split_names(None) is None
    assert split_names([]) is None
    assert split_names(["vocals, drums", "bass"]) == ("vocals", "drums", "bass")
    assert split_names([","]) == ()
    assert read_device("cuda:12") == "cuda:12"
    with pytest.raises(UnknownNameError, match="framing"):
        one_of("framing", ("default", "original"))("x")
