"""Damaged files: all that is left of them is decoded and the rest is told; nothing crashes."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sounds import decode, encode, make_music

from stemsplit.audio import decode_blocks, probe
from stemsplit.errors import DecodeError

SECONDS = 6
MUSIC = make_music(44100 * SECONDS)
FORMATS = {
    "wav": (),
    "flac": (),
    "mp3": ("-b:a", "128k"),
    "m4a": ("-movflags", "+faststart"),
    "ogg": ("-c:a", "libvorbis"),
    "opus": ("-c:a", "libopus"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    rates = {"opus": 48000}
    return {
        suffix: encode(
            folder / f"a.{suffix}", MUSIC, rates.get(suffix, 44100), *options
        ).read_bytes()
        for suffix, options in FORMATS.items()
    }


def read_damaged(path: Path) -> tuple[int, list[str]]:
    warnings: list[str] = []
    return decode(path, on_warning=warnings.append).shape[1], warnings


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "m4a"])
def test_a_cut_file_gives_what_is_left_and_says_what_is_missing(
    tmp_path: Path, whole: dict[str, bytes], suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(whole[suffix][: len(whole[suffix]) // 2 + 6])
    samples, warnings = read_damaged(path)
    assert 0.3 * len(MUSIC[0]) < samples < 0.7 * len(MUSIC[0])
    [warning] = warnings
    assert "is damaged: decoded" in warning
    assert "of 6.0 s announced" in warning
    assert repr(str(path)) in warning


@pytest.mark.parametrize("suffix", ["ogg", "opus"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.99])
def test_a_cut_file_that_announces_no_length_is_told_by_its_missing_end(
    tmp_path: Path, whole: dict[str, bytes], suffix: str, share: float
) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(whole[suffix][: round(share * len(whole[suffix]))])
    samples, warnings = read_damaged(path)
    assert samples > 0.1 * len(MUSIC[0])
    [warning] = warnings
    assert warning.startswith(f"{str(path)!r} ")
    assert "more may have been cut off" in warning or "is damaged" in warning


@pytest.mark.parametrize("suffix", ["flac", "mp3", "m4a", "ogg", "opus"])
def test_a_hole_in_a_file_is_told(tmp_path: Path, whole: dict[str, bytes], suffix: str) -> None:
    data = bytearray(whole[suffix])
    middle = len(data) // 2
    data[middle : middle + len(data) // 8] = bytes(len(data) // 8)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(data)
    samples, warnings = read_damaged(path)
    assert samples > 0.5 * len(MUSIC[0])
    assert len(warnings) == 1


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_sound_file_causes_no_warning(
    tmp_path: Path, whole: dict[str, bytes], suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(whole[suffix])
    rate = 48000 if suffix == "opus" else 44100
    assert abs(decode(path, start_s=5.0).shape[1] - len(MUSIC[0]) + 5 * rate) < 1024


def test_nothing_left_quotes_ffmpeg(tmp_path: Path, whole: dict[str, bytes]) -> None:
    path = tmp_path / "a.m4a"
    path.write_bytes(whole["m4a"][: len(whole["m4a"]) // 50])
    with pytest.raises(DecodeError) as caught:
        decode(path)
    assert repr(str(path)) in caught.value.message


def test_a_start_within_what_is_missing(tmp_path: Path, whole: dict[str, bytes]) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(whole["wav"][: len(whole["wav"]) // 2])
    with pytest.raises(DecodeError, match="nothing came from 5 s on"):
        decode(path, start_s=5.0)


def test_a_part_before_the_damage_is_sound(tmp_path: Path, whole: dict[str, bytes]) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(whole["wav"][: len(whole["wav"]) // 2])
    assert decode(path, duration_s=2.0).shape == (2, 88200)


def flip(data: bytes, source: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(source.choice((1, 20, 500))):
        changed[source.randrange(len(changed))] ^= 1 << source.randrange(8)
    return bytes(changed)


def cut(data: bytes, source: random.Random) -> bytes:
    return data[: int(len(data) * source.random() ** 3)]


def swap(data: bytes, source: random.Random) -> bytes:
    first, second = sorted(source.randrange(len(data)) for _ in range(2))
    return data[second:] + data[first:second] + data[:first]


def head(data: bytes, source: random.Random) -> bytes:
    return source.randbytes(64) + data[64:]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("spoil", [flip, cut, swap, head])
def test_no_damage_gives_anything_but_samples_or_a_clear_error(
    tmp_path: Path,
    whole: dict[str, bytes],
    suffix: str,
    spoil: Callable[[bytes, random.Random], bytes],
) -> None:
    source = random.Random(f"{suffix} {spoil.__name__}")
    for number in range(3):
        path = tmp_path / f"{number}.{suffix}"
        path.write_bytes(spoil(whole[suffix], source))
        warnings: list[str] = []
        refusal = DecodeError("none", help="none")
        try:
            assert probe(path).streams
            with decode_blocks(path, on_warning=warnings.append) as decoder:
                for block in decoder:
                    assert block.shape[0] == decoder.channels <= 2
                    assert np.isfinite(block).all()
        except DecodeError as error:
            refusal = error
        assert refusal.help
        assert all("\n" not in sentence for sentence in (refusal.message, *warnings))
