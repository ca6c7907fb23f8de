from __future__ import annotations

import pytest

from stemsplit.audio import FORMATS, OutputFormat, parse_format
from stemsplit.audio.codec import build_encoder, choose_rate
from stemsplit.errors import UnknownNameError, UsageError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wav", OutputFormat("wav", bits=24)),
        ("flac", OutputFormat("flac", bits=24)),
        ("mp3", OutputFormat("mp3", bit_rate_kbps=320)),
        ("ogg", OutputFormat("ogg", bit_rate_kbps=256)),
        ("opus", OutputFormat("opus", bit_rate_kbps=192)),
        ("m4a", OutputFormat("m4a", bit_rate_kbps=256)),
    ],
)
def test_defaults(name: str, expected: OutputFormat) -> None:
    assert parse_format(name) == parse_format(f" .{name.upper()} ") == expected
    assert expected.suffix == f".{name}"
    assert expected.is_lossless == (name in ("wav", "flac"))


def test_all_names_are_formats() -> None:
    assert [parse_format(name).name for name in FORMATS] == list(FORMATS)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("wav", 16), OutputFormat("wav", bits=16)),
        (("wav", 32), OutputFormat("wav", bits=32)),
        (("flac", 16), OutputFormat("flac", bits=16)),
        (("mp3", None, 128), OutputFormat("mp3", bit_rate_kbps=128)),
        (("opus", None, 6), OutputFormat("opus", bit_rate_kbps=6)),
    ],
)
def test_wishes(arguments: tuple[str, int], expected: OutputFormat) -> None:
    assert parse_format(*arguments) == expected


@pytest.mark.parametrize("name", ["", "wave", "mp4", "aac", "vorbis", "wav/..", "fläc"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        parse_format(name)
    assert repr(name) in caught.value.message


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        parse_format("flca")
    assert "flac" in caught.value.help


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        (("flac", 32), "32"),
        (("flac", 8), "8"),
        (("wav", 20), "20"),
        (("wav", 0), "0"),
        (("wav", None, 320), "320"),
        (("flac", 24, 0), "0"),
        (("mp3", 16), "16"),
        (("m4a", 0), "0"),
        (("mp3", None, 321), "321"),
        (("mp3", None, 0), "0"),
        (("ogg", None, -1), "-1"),
        (("opus", None, 5), "5"),
        (("opus", None, 10**9), "1000000000"),
    ],
)
def test_nonsense(arguments: tuple[str, int], seen: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_format(*arguments)
    assert seen in caught.value.message
    assert caught.value.help


def test_float_flac_is_pointed_to_wav() -> None:
    with pytest.raises(UsageError) as caught:
        parse_format("flac", 32)
    assert "choose wav" in caught.value.help


@pytest.mark.parametrize(
    ("name", "asked_hz", "given_hz"),
    [
        ("mp3", 44100, 44100),
        ("mp3", 8000, 8000),
        ("mp3", 1000, 8000),
        ("mp3", 37800, 44100),
        ("mp3", 88200, 44100),
        ("mp3", 96000, 48000),
        ("mp3", 192000, 48000),
        ("mp3", 50000, 48000),
        ("m4a", 96000, 96000),
        ("m4a", 176400, 88200),
        ("m4a", 192000, 96000),
        ("m4a", 100001, 96000),
        ("opus", 44100, 48000),
        ("opus", 8000, 48000),
        ("ogg", 192000, 192000),
        ("flac", 12345, 12345),
    ],
)
def test_rates_that_a_format_lacks(name: str, asked_hz: int, given_hz: int) -> None:
    assert choose_rate(parse_format(name), asked_hz) == given_hz


def test_bit_rates_stay_within_what_the_codec_takes() -> None:
    opus = parse_format("opus", bit_rate_kbps=512)
    assert "256k" in build_encoder(opus, 48000, 1)
    assert "512k" in build_encoder(opus, 48000, 2)


@pytest.mark.parametrize(
    ("kbps", "channels", "quality"),
    [(256, 2, "8.000"), (128, 1, "8.000"), (500, 1, "10.000"), (32, 2, "-1.000"), (72, 2, "0.500")],
)
def test_vorbis_works_by_quality(kbps: int, channels: int, quality: str) -> None:
    assert quality in build_encoder(parse_format("ogg", bit_rate_kbps=kbps), 44100, channels)
