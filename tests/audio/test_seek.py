"""Starting late gives what decoding everything and cutting gives, to the sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sounds import decode, encode, make_music, run_ffmpeg

from stemsplit.audio import probe
from stemsplit.audio.decode import _SEEKABLE, _plan_seek

MUSIC = make_music(44100 * 10)

FORMATS = {
    "wav": (),
    "w64": (),
    "aiff": (),
    "flac": (),
    "mp3": ("-b:a", "128k"),
    "vbr.mp3": ("-q:a", "4"),
    "bare.mp3": ("-q:a", "4", "-write_xing", "0", "-id3v2_version", "0"),
    "ogg": ("-c:a", "libvorbis"),
    "opus": ("-c:a", "libopus"),
    "oga": ("-c:a", "flac"),
    "m4a": (),
    "mka": ("-c:a", "libmp3lame"),
    "webm": ("-c:a", "libopus"),
    "wma": (),
    "aac": (),
    "ac3": (),
    "caf": ("-c:a", "alac"),
    "ts": ("-c:a", "mp2"),
}


def is_sought(path: Path) -> bool:
    return _plan_seek(probe(path), 7.5) == 4


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_late_start_is_exact(tmp_path: Path, suffix: str) -> None:
    rate = 48000 if suffix in ("opus", "webm") else 44100
    path = encode(tmp_path / f"a.{suffix}", MUSIC, rate, *FORMATS[suffix])
    whole = decode(path)
    for start_s in (7.5, 6 + 1 / 3, 3.0):
        part = decode(path, start_s=start_s, duration_s=1.5)
        begin = round(start_s * rate)
        expected = whole[:, begin : round((start_s + 1.5) * rate)]
        assert part.shape == expected.shape
        np.testing.assert_allclose(part, expected, atol=1e-4)


@pytest.mark.parametrize("suffix", FORMATS)
def test_only_exact_containers_are_sought_in(tmp_path: Path, suffix: str) -> None:
    path = encode(tmp_path / f"a.{suffix}", MUSIC[:, :44100], 44100, *FORMATS[suffix])
    assert is_sought(path) == (probe(path).container in _SEEKABLE)
    exact = ("wav", "w64", "aiff", "flac", "mp3", "vbr.mp3", "bare.mp3", "ogg", "opus", "oga")
    assert is_sought(path) == (suffix in exact)


def test_an_early_start_is_not_sought(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.wav", MUSIC[:, :44100])
    assert [_plan_seek(probe(path), start_s) for start_s in (0.0, 2.9, 3.99, 4.0)] == [0, 0, 0, 1]


def test_a_song_with_a_large_cover_is_found_in_exactly(tmp_path: Path) -> None:
    image = tmp_path / "i.png"
    run_ffmpeg("-f", "lavfi", "-i", "nullsrc=s=700x700,geq=random(1)*255:128:128", "-frames:v", "1",
               str(image))  # fmt: skip
    options = ("-i", str(image), "-map", "0:a", "-map", "1:v", "-c:v", "copy", "-q:a", "3",
               "-disposition:v", "attached_pic")  # fmt: skip
    path = encode(tmp_path / "a.mp3", MUSIC, 44100, *options)
    assert is_sought(path)
    expected = decode(path)[:, 8 * 44100 : 9 * 44100]
    part = decode(path, start_s=8.0, duration_s=1.0)
    np.testing.assert_allclose(part, expected, atol=1e-4)


def test_a_late_start_in_another_rate(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.flac", MUSIC)
    whole = decode(path, sample_rate=16000)
    part = decode(path, sample_rate=16000, start_s=7.0, duration_s=2.0)
    np.testing.assert_allclose(part, whole[:, 112_000:144_000], atol=1e-5)
