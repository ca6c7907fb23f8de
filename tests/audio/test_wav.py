from __future__ import annotations

import io
import struct
import wave
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemsplit.audio import decode_blocks, probe
from stemsplit.audio.wav import FLOAT, PCM, build_header, parse_header, read_announced_s
from stemsplit.errors import DecodeError


def build(**changes: object) -> bytes:
    facts: dict[str, object] = {
        "sample_rate": 44100,
        "channels": 2,
        "bits": 24,
        "samples": 100,
        "tags": {},
    }
    return build_header(**{**facts, **changes})  # type: ignore[arg-type]


def test_the_standard_library_reads_what_is_written() -> None:
    header = build(bits=16, tags={"title": "odd"})
    with wave.open(io.BytesIO(header + bytes(400))) as reader:
        assert reader.getparams()[:4] == (2, 2, 44100, 100)
        assert reader.readframes(1000) == bytes(400)


@pytest.mark.parametrize("bits", [16, 24, 32])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_header_comes_back(bits: int, channels: int) -> None:
    header = parse_header(io.BytesIO(build(bits=bits, channels=channels) + bytes(10)).read)
    assert header is not None
    assert (header.sample_rate, header.channels, header.channel_mask) == (44100, channels, 0)
    assert header.block_bytes == channels * bits // 8
    assert header.data_bytes == 100 * channels * bits // 8
    assert header.coding == (FLOAT if bits == 32 else PCM)


def test_the_coding_of_an_extensible_header_is_that_of_its_samples() -> None:
    sub_format = struct.pack("<IH", 3, FLOAT) + bytes(14)
    body = struct.pack("<HHIIHHHH", 0xFFFE, 2, 44100, 352800, 8, 32, 22, 32) + sub_format
    chunks = struct.pack("<4sI", b"fmt ", len(body)) + body + struct.pack("<4sI", b"data", 8)
    header = parse_header(io.BytesIO(b"RIFF\0\0\0\0WAVE" + chunks).read)
    assert header is not None
    assert (header.coding, header.channel_mask) == (FLOAT, 3)


def test_the_size_of_a_header_depends_on_the_tags_alone() -> None:
    tags = {"title": "x" * 33, "artist": "Ä", "lyrics": "not for wav"}
    sizes = {len(build(samples=count, tags=tags)) for count in (0, 1, 7, 10**9, 2**34)}
    assert len(sizes) == 1
    assert b"lyrics" not in build(tags=tags)


@pytest.mark.parametrize("samples", [0, 1, 2, 3])
@pytest.mark.parametrize("title", ["", "a", "ab", "abc"])
def test_chunks_follow_one_another_to_the_end(samples: int, title: str) -> None:
    header = build(channels=1, samples=samples, tags={"title": title} if title else {})
    file = header + bytes(samples * 3 + samples * 3 % 2)
    assert struct.unpack("<I", file[4:8])[0] == len(file) - 8
    names = []
    start = 12
    while start < len(file):
        name, size = struct.unpack("<4sI", file[start : start + 8])
        names.append(name)
        if name == b"LIST":
            inner, inner_size = struct.unpack("<4sI", file[start + 12 : start + 20])
            assert (inner, inner_size) == (b"INAM", len(title) + 1)
            assert size == 12 + inner_size + inner_size % 2
        start += 8 + size + size % 2
    assert start == len(file)
    assert names == [b"JUNK", b"fmt ", *([b"LIST"] if title else []), b"data"]


def test_the_largest_riff_and_the_smallest_rf64() -> None:
    overhead = len(build(bits=16, channels=1, samples=0)) - 8
    most = (0xFFFFFFFE - overhead) // 2
    largest = build(bits=16, channels=1, samples=most)
    assert largest[:4] == b"RIFF"
    assert largest[12:16] == b"JUNK"
    assert struct.unpack("<I", largest[4:8])[0] == overhead + most * 2
    smallest = build(bits=16, channels=1, samples=most + 1)
    assert smallest[:4] == b"RF64"
    assert smallest[4:8] == b"\xff\xff\xff\xff"
    name, size, riff_bytes, data_bytes, samples, table = struct.unpack("<4sIQQQI", smallest[12:48])
    assert (name, size, table) == (b"ds64", 28, 0)
    assert (riff_bytes, data_bytes, samples) == (overhead + data_bytes, (most + 1) * 2, most + 1)


def test_ffmpeg_reads_a_file_beyond_4_gib(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    samples = 1_100_000_000  # 6 h 56 min at 44.1 kHz; a sparse file
    header = build(bits=16, samples=samples)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + samples * 4)
        file.seek(len(header) + 1_090_000_000 * 4)
        file.write(struct.pack("<hh", 16384, -16384))
    assert probe(path).duration_s == pytest.approx(samples / 44100, abs=0.01)
    with decode_blocks(path, start_s=1_090_000_000 / 44100, duration_s=0.001) as decoder:
        block = next(decoder)
    assert block[:, 0].tolist() == [0.5, -0.5]
    assert not block[:, 1:].any()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"RIFF",
        b"RIFX\0\0\0\0WAVE" + bytes(40),
        b"RIFF\0\0\0\0AVI " + bytes(40),
        b"RIFF\0\0\0\0WAVEdata\0\0\0\0",
        b"RIFF\0\0\0\0WAVEfmt \xff\xff\xff\xff" + bytes(40),
        b"RIFF\0\0\0\0WAVEfmt \x04\0\0\0abcddata\0\0\0\0",
        b"RIFF\0\0\0\0WAVE" + b"junk\0\0\0\0" * 5000,
    ],
)
def test_what_is_no_header_is_none(data: bytes) -> None:
    assert parse_header(io.BytesIO(data).read) is None


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    parse_header(io.BytesIO(b"RIFF\0\0\0\0WAVE" + data).read)
    good = build()
    parse_header(io.BytesIO(good[: len(data)] + data).read)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_length_that_the_writer_did_not_know_is_none(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(build(samples=0)[:-4] + struct.pack("<I", size) + bytes(600))
    assert read_announced_s(path) is None


def test_the_announced_length_survives_a_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(build(samples=44100))
    assert read_announced_s(path) == 1.0


def test_a_file_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="there is no file"):
        read_announced_s(tmp_path / "gone.wav")
