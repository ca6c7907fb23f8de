"""Every format that stems are written in.

One file: each question is asked of all formats, and they share their fixtures.
"""

from __future__ import annotations

import gc
import hashlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sounds import Samples, decode, encode, make_music, run_ffmpeg

from stemsplit.audio import FORMATS, OutputFormat, StemWriter, parse_format, probe
from stemsplit.audio.cover import read_cover
from stemsplit.audio.sinks import quantize
from stemsplit.errors import (
    CancelledError,
    DiskFullError,
    EncodeError,
    FFmpegMissingError,
    OutputError,
    UsageError,
)

LENGTH = 48000 + 13
MUSIC = make_music(LENGTH, sample_rate=48000)
LOSSLESS = [OutputFormat("wav", 16), OutputFormat("wav", 24), OutputFormat("wav", 32),
            OutputFormat("flac", 16), OutputFormat("flac", 24)]  # fmt: skip
posix_only = pytest.mark.skipif(os.name != "posix", reason="the stand-in is a shell script")


def write(
    path: Path,
    samples: Samples,
    format: OutputFormat | str,
    sample_rate: int = 48000,
    block_samples: int = 10_000,
    **options: object,
) -> StemWriter:
    if isinstance(format, str):
        format = parse_format(format)
    writer = StemWriter(
        path,
        sample_rate=sample_rate,
        channels=samples.shape[0],
        format=format,
        **options,  # type: ignore[arg-type]
    )
    with writer:
        for start in range(0, samples.shape[1], block_samples):
            writer.write(samples[:, start : start + block_samples])
    return writer


@pytest.mark.parametrize("format", LOSSLESS, ids=str)
@pytest.mark.parametrize("channels", [1, 2])
def test_lossless_formats_give_back_what_was_written(
    tmp_path: Path, format: OutputFormat, channels: int
) -> None:
    path = tmp_path / f"a{format.suffix}"
    writer = write(path, MUSIC[:channels], format)
    assert writer.samples == LENGTH
    assert writer.peak == np.abs(MUSIC[:channels]).max()
    assert writer.clipped == 0
    bits = format.bits or 0
    step = 0.0 if bits == 32 else 2.0 ** (1 - bits)
    decoded = decode(path)
    assert decoded.shape == (channels, LENGTH)
    assert np.abs(decoded - MUSIC[:channels]).max() <= step / 2
    if format.name == "wav" or bits == 24:  # Once more: nothing changes any more.
        again = tmp_path / f"b{format.suffix}"
        write(again, decoded, format)
        assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("format", LOSSLESS, ids=str)
@pytest.mark.parametrize("samples", [0, 1, 2, 15, 17])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_few_samples_or_none(
    tmp_path: Path, format: OutputFormat, samples: int, channels: int
) -> None:
    if format.name == "flac" and samples == 0:
        pytest.skip("ffmpeg writes no FLAC file without a sample; separation never asks for one")
    path = tmp_path / f"a{format.suffix}"
    write(path, MUSIC[:channels, :samples], format)
    found, rate = soundfile.read(path, dtype="float32", always_2d=True)
    assert rate == 48000
    np.testing.assert_allclose(found.T, MUSIC[:channels, :samples], atol=2**-16)
    assert path.stat().st_size % 2 == 0 or format.name == "flac"


@pytest.mark.parametrize("name", ["mp3", "ogg", "opus", "m4a"])
@pytest.mark.parametrize("channels", [1, 2])
def test_lossy_formats_keep_length_place_and_channels(
    tmp_path: Path, name: str, channels: int
) -> None:
    path = tmp_path / f"a.{name}"
    write(path, MUSIC[:channels], name)
    decoded = decode(path)
    if name == "m4a":  # The file is right; ffmpeg before 6 decodes the last frame's padding, too.
        assert 0 <= decoded.shape[1] - LENGTH < 1024
        decoded = decoded[:, :LENGTH]
    assert decoded.shape == (channels, LENGTH)
    energy = (MUSIC**2).mean()
    assert ((decoded - MUSIC[:channels]) ** 2).mean() < 0.05 * energy


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("sample_rate", [8000, 37800, 96000, 192000])
def test_every_rate_can_be_written(tmp_path: Path, name: str, sample_rate: int) -> None:
    path = tmp_path / f"a.{name}"
    write(path, MUSIC[:, :20000], name, sample_rate)
    [stream] = probe(path).streams
    decoded = decode(path)
    assert decoded.shape[1] / stream.sample_rate == pytest.approx(20000 / sample_rate, abs=0.13)
    if name in ("wav", "flac", "ogg"):
        assert stream.sample_rate == sample_rate


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_samples_give_the_same_bytes(tmp_path: Path, name: str) -> None:
    tags = {"title": "T", "artist": "A"}
    hashes = set()
    for folder, block_samples in (("a", 10_000), ("b", 777)):
        path = tmp_path / folder / f"stem.{name}"
        write(path, MUSIC, name, block_samples=block_samples, tags=tags)
        hashes.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(hashes) == 1


@pytest.mark.parametrize("bits", [16, 24])
def test_integers_are_rounded_to_the_nearest_and_held(bits: int) -> None:
    scale = 2 ** (bits - 1)
    exact = np.array([0, 1, -1, scale - 1, -scale, 100.4, -100.4, 100.6, -100.6, 0.5, 1.5])
    samples = np.array([[*(exact / scale), 1.0, 1.5, -1.5, 1e30, -1e30]], np.float32)
    data = bytes(quantize(samples, bits))
    width = bits // 8
    values = [
        int.from_bytes(data[at : at + width], "little", signed=True)
        for at in range(0, len(data), width)
    ]
    top = scale - 1
    expected = [0, 1, -1, top, -scale, 100, -100, 101, -101, 0, 2, top, top, -scale, top, -scale]
    assert values == expected


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_samples_are_interleaved(bits: int) -> None:
    samples = np.array([[0.25, 0.5], [-0.25, -0.5]], np.float32)
    data = bytes(quantize(samples, bits))
    swapped = bytes(quantize(samples[::-1, ::-1], bits))
    width = bits // 8
    frames = [data[at : at + width] for at in range(0, len(data), width)]
    assert [swapped[at : at + width] for at in range(0, len(data), width)] == frames[::-1]


@pytest.mark.parametrize(
    ("format", "clipped"),
    [("wav", 3), ("flac", 3), ("mp3", 3), (OutputFormat("wav", 32), 0)],
    ids=str,
)
def test_samples_beyond_full_scale_are_counted(
    tmp_path: Path, format: OutputFormat | str, clipped: int
) -> None:
    samples = MUSIC[:, :2000].copy()
    samples[0, 5] = 1.0
    samples[1, 6] = -1.0
    samples[0, 1500:1502] = 1.25
    samples[1, 1600] = 1.0
    samples[1, 1700] = -1.5
    writer = write(tmp_path / "a", samples, format, block_samples=1000)
    assert writer.peak == 1.5
    assert writer.clipped == clipped
    if writer.clipped and format != "mp3":
        expected = samples.clip(-1.0, 1.0)
        np.testing.assert_allclose(decode(tmp_path / "a"), expected, atol=2**-22)


def test_float_wav_holds_any_level(tmp_path: Path) -> None:
    samples = MUSIC * np.float32(1000)
    write(tmp_path / "a.wav", samples, OutputFormat("wav", 32))
    np.testing.assert_array_equal(decode(tmp_path / "a.wav"), samples)


TAGS = {
    "title": "Hyperballad; #1 = \\ (vocals)\nsecond line",
    "artist": "Björk 🎵",
    "album": "Post",
    "date": "1995",
    "track": "3/11",
    "genre": "Pop",
    "encoder": "must go",
    "replaygain_track_gain": "must go",
}


@pytest.fixture(scope="module")
def covered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("covered")
    image = folder / "i.jpg"
    run_ffmpeg("-f", "lavfi", "-i", "testsrc=size=300x300", "-frames:v", "1", str(image))
    options = ("-i", str(image), "-map", "0:a", "-map", "1:v", "-c:v", "copy")
    return encode(folder / "song.mp3", MUSIC, 48000, *options, "-disposition:v", "attached_pic")


@pytest.mark.parametrize("name", FORMATS)
def test_tags_and_cover_are_kept(tmp_path: Path, covered: Path, name: str) -> None:
    path = tmp_path / f"a.{name}"
    write(path, MUSIC, name, tags=TAGS, cover_from=covered)
    info = probe(path)
    found = {key: value for key, value in info.tags.items() if key in TAGS and key != "encoder"}
    expected = {key: value for key, value in TAGS.items() if value != "must go"}
    assert found == expected
    assert "must go" not in info.tags.values()
    assert len(info.streams) == 1
    if name == "wav":
        assert not info.has_cover
    else:
        original, copy = read_cover(covered), read_cover(path)
        assert original is not None
        assert original == copy
        assert original.kind == "jpeg"
    assert abs(decode(path).shape[1] - LENGTH) < 1024


@pytest.mark.parametrize("name", ["mp3", "opus"])
def test_a_cover_may_be_a_png(tmp_path: Path, name: str) -> None:
    image = tmp_path / "i.png"
    run_ffmpeg("-f", "lavfi", "-i", "testsrc=size=99x77", "-frames:v", "1", str(image))
    options = ("-i", str(image), "-map", "0:a", "-map", "1:v", "-c:v", "copy")
    source = encode(
        tmp_path / "source.flac", MUSIC, 48000, *options, "-disposition:v", "attached_pic"
    )
    write(tmp_path / f"a.{name}", MUSIC, name, cover_from=source)
    cover = read_cover(tmp_path / f"a.{name}")
    assert cover is not None
    assert (cover.kind, cover.data) == ("png", image.read_bytes())


@pytest.mark.parametrize("name", FORMATS)
def test_a_source_without_a_cover_gives_none(tmp_path: Path, name: str) -> None:
    source = encode(tmp_path / "source.flac", MUSIC)
    write(tmp_path / f"a.{name}", MUSIC, name, cover_from=source)
    assert not probe(tmp_path / f"a.{name}").has_cover


def test_the_picture_of_a_video_is_no_cover(tmp_path: Path) -> None:
    video = ("-f", "lavfi", "-i", "testsrc=size=32x32:d=1", "-map", "0:a", "-map", "1:v")
    source = encode(tmp_path / "film.mkv", MUSIC, 48000, *video, "-c:v", "mpeg4")
    write(tmp_path / "a.mp3", MUSIC, "mp3", cover_from=source)
    assert not probe(tmp_path / "a.mp3").has_cover


def test_very_long_tags_are_kept(tmp_path: Path) -> None:
    tags = {"title": "T", "lyrics": "la la\n" * 50_000}
    write(tmp_path / "a.flac", MUSIC, "flac", tags=tags)
    assert probe(tmp_path / "a.flac").tags["lyrics"] == tags["lyrics"]


def test_nothing_but_the_part_is_there_until_the_end(tmp_path: Path) -> None:
    for name in ("wav", "flac"):
        path = tmp_path / "new" / "folder" / f"a.{name}"
        writer = StemWriter(path, sample_rate=48000, channels=2, format=parse_format(name))
        writer.write(MUSIC)
        assert [item.name for item in path.parent.iterdir()] == [f"a.{name}.part"]
        writer.close()
        assert [item.name for item in path.parent.iterdir()] == [f"a.{name}"]
        path.unlink()


@pytest.mark.parametrize("name", FORMATS)
def test_an_exception_leaves_nothing(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"a.{name}"
    path.write_bytes(b"the one from before")
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012, SIM117
        with StemWriter(path, sample_rate=48000, channels=2, format=parse_format(name)) as writer:
            writer.write(MUSIC)
            raise KeyboardInterrupt
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"the one from before"


@pytest.mark.parametrize("name", ["wav", "mp3"])
def test_a_closed_writer_says_so(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"a.{name}"
    writer = write(path, MUSIC, name)
    writer.abort()
    assert path.exists()
    for act in (writer.close, lambda: writer.write(MUSIC)):
        with pytest.raises(UsageError, match="is closed"):
            act()


@pytest.mark.parametrize("name", ["wav", "flac"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_is_refused(tmp_path: Path, name: str, value: float) -> None:
    samples = MUSIC.copy()
    samples[1, 24_000] = value
    with pytest.raises(EncodeError, match=r"after 0\.42 s is not a number"):
        write(tmp_path / f"a.{name}", samples, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(1, 5), (3, 5), (5,), (2, 5, 1)])
def test_blocks_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="does not fit"):  # noqa: SIM117
        with StemWriter(
            tmp_path / "a.wav", sample_rate=48000, channels=2, format=parse_format("wav")
        ) as writer:
            writer.write(np.zeros(shape, np.float32))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("facts", [(0, 44100), (3, 44100), (2, 0), (2, 10**7)])
def test_impossible_facts_are_refused(tmp_path: Path, facts: tuple[int, int]) -> None:
    channels, sample_rate = facts
    with pytest.raises(UsageError):
        StemWriter(
            tmp_path / "a.wav",
            sample_rate=sample_rate,
            channels=channels,
            format=parse_format("wav"),
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["wav", "flac", "ogg"])
@pytest.mark.parametrize(
    "stem", ["é" * 125, "🎵" * 62, "a" * 250, "-x", "a%03d", "http:x", "a\nb", "it's [1]"]
)
def test_any_name_can_be_written(tmp_path: Path, name: str, stem: str) -> None:
    path = tmp_path / f"{stem}.{name}"
    write(path, MUSIC[:, :4000], name)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    assert abs(decode(path).shape[1] - 4000) < 1024


@posix_only
def test_a_full_disk_found_by_ffmpeg(tmp_path: Path, fake_ffmpeg: Callable[[str], Path]) -> None:
    fake_ffmpeg('echo "[out#0 @ 0x1] [error] Error writing: No space left on device" >&2; exit 1')
    out = tmp_path / "out"
    with pytest.raises(DiskFullError, match="disk is full"):
        write(out / "a.flac", np.tile(MUSIC, 10), "flac")
    assert list(out.iterdir()) == []


@posix_only
def test_a_full_disk_found_at_the_end_with_a_good_status(
    tmp_path: Path, fake_ffmpeg: Callable[[str], Path]
) -> None:
    fake_ffmpeg('cat >/dev/null; echo "[error] Error trailing: No space left on device" >&2')
    with pytest.raises(DiskFullError):
        write(tmp_path / "out" / "a.flac", MUSIC, "flac")
    assert list((tmp_path / "out").iterdir()) == []


@posix_only
@pytest.mark.parametrize(
    ("words", "kind", "help"),
    [
        ("Unknown encoder 'libmp3lame'", EncodeError, "STEMSPLIT_FFMPEG"),
        ("Something odd", EncodeError, "another format"),
        ("av_interleaved_write_frame(): Input/output error", OutputError, "disk"),
    ],
)
def test_ffmpegs_words_are_quoted(
    tmp_path: Path,
    fake_ffmpeg: Callable[[str], Path],
    words: str,
    kind: type[Exception],
    help: str,
) -> None:
    fake_ffmpeg(f'echo "[error] {words}" >&2; exit 1')
    with pytest.raises(kind) as caught:
        write(tmp_path / "out" / "a.mp3", np.tile(MUSIC, 10), "mp3")
    assert words in str(caught.value)
    assert help in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


@posix_only
def test_an_ffmpeg_that_dies_without_a_word(
    tmp_path: Path, fake_ffmpeg: Callable[[str], Path]
) -> None:
    fake_ffmpeg("kill -9 $$")
    with pytest.raises(EncodeError, match="ends with status -9"):
        write(tmp_path / "out" / "a.mp3", np.tile(MUSIC, 10), "mp3")
    assert list((tmp_path / "out").iterdir()) == []


def test_wav_needs_no_ffmpeg_and_others_say_that_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEMSPLIT_FFMPEG", str(tmp_path / "none"))
    write(tmp_path / "out" / "a.wav", MUSIC, "wav", tags=TAGS)
    with pytest.raises(FFmpegMissingError):
        write(tmp_path / "out" / "a.mp3", MUSIC, "mp3", tags=TAGS)
    assert [item.name for item in (tmp_path / "out").iterdir()] == ["a.wav"]


@posix_only
def test_another_thread_may_abort_a_write_that_waits(
    tmp_path: Path, fake_ffmpeg: Callable[[str], Path]
) -> None:
    fake_ffmpeg("sleep 100")
    path = tmp_path / "out" / "a.flac"
    writer = StemWriter(path, sample_rate=48000, channels=2, format=parse_format("flac"))
    with ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(writer.write, np.tile(MUSIC, 10))
        time.sleep(0.1)
        assert not stuck.done()
        writer.abort()
        with pytest.raises(CancelledError, match="was stopped"):
            stuck.result(timeout=20)
    assert list(path.parent.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts in /proc")
def test_nothing_is_leaked(tmp_path: Path, covered: Path) -> None:
    def work() -> None:
        write(tmp_path / "a.flac", MUSIC, "flac", tags=TAGS, cover_from=covered)
        write(tmp_path / "a.wav", MUSIC, "wav", tags=TAGS)
        writer = StemWriter(
            tmp_path / "b.mp3", sample_rate=48000, channels=2, format=parse_format("mp3"), tags=TAGS
        )
        writer.write(MUSIC)
        writer.abort()

    def count() -> tuple[int, int, int]:
        gc.collect()
        left = list(Path(temporary).glob("stemsplit-*"))
        return len(os.listdir("/proc/self/fd")), threading.active_count(), len(left)

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(temporary))
        work()
        before = count()
        work()
        assert count() == before
    assert before[2] == 0


def test_many_stems_at_once(tmp_path: Path) -> None:
    def work(number: int) -> None:
        gain = np.float32(0.1 * number)
        write(tmp_path / f"{number}.flac", MUSIC * gain, "flac")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(1, 7)))
    for number in range(1, 7):
        expected = MUSIC * np.float32(0.1 * number)
        np.testing.assert_allclose(decode(tmp_path / f"{number}.flac"), expected, atol=2**-23)
