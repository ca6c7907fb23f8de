from __future__ import annotations

import gc
import os
import struct
import threading
import time
import wave
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sounds import Samples, decode, encode, join, make_music, run_ffmpeg

from stemsplit.audio import decode_blocks
from stemsplit.errors import DecodeError, EmptyAudioError, UsageError

LENGTH = 44100 + 17
MUSIC = make_music(LENGTH)

LOSSY = {
    "mp3": (),
    "ogg": ("-c:a", "libvorbis"),
    "opus": ("-c:a", "libopus", "-b:a", "256k"),
    "m4a": ("-b:a", "256k"),
}


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("decode") / "music.wav"
    return encode(path, MUSIC, 44100, "-c:a", "pcm_f32le")


@pytest.fixture(scope="module")
def long_wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("decode") / "long.wav"
    return encode(path, np.zeros((2, 44100 * 60), np.float32))


@pytest.mark.parametrize(("dtype", "scale"), [("u1", 2**7), ("<i2", 2**15), ("<i4", 2**31)])
def test_integers_are_divided_by_their_full_scale(tmp_path: Path, dtype: str, scale: int) -> None:
    limits = np.iinfo(dtype)
    values = np.array([limits.min, limits.max, limits.max // 2 + 1, limits.max // 3], dtype)
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, values.itemsize, 8000, 0, "NONE", ""))
        file.writeframes(values.tobytes())
    centre = 128 if dtype == "u1" else 0
    expected = (values.astype(np.float64) - centre) / scale
    np.testing.assert_array_equal(decode(path)[0], expected.astype(np.float32))


def test_24_bits_are_exact(tmp_path: Path) -> None:
    values = np.array([-(2**23), 2**23 - 1, 1, -1, 0, 1234567])
    path = tmp_path / "a.flac"
    soundfile.write(path, (values << 8).astype(np.int32), 44100, subtype="PCM_24")
    np.testing.assert_array_equal(decode(path)[0] * 2**23, values)


@pytest.mark.parametrize("gain", [1e-3, 1.0, 1e3])
def test_floats_keep_their_value(tmp_path: Path, gain: float) -> None:
    samples = MUSIC * np.float32(gain)
    path = encode(tmp_path / "a.wav", samples, 44100, "-c:a", "pcm_f32le")
    np.testing.assert_array_equal(decode(path), samples)


@pytest.mark.parametrize("block_samples", [1, 100, 4096, LENGTH - 1, LENGTH, LENGTH + 1, 1 << 20])
def test_blocks_are_as_long_as_asked_for(wav: Path, block_samples: int) -> None:
    start_s = (LENGTH - 300) / 44100 if block_samples == 1 else 0.0
    with decode_blocks(wav, block_samples=block_samples, start_s=start_s) as decoder:
        blocks = list(decoder)
    assert {block.shape[1] for block in blocks[:-1]} <= {block_samples}
    assert 0 < blocks[-1].shape[1] <= block_samples
    expected = MUSIC[:, -300:] if start_s else MUSIC
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), expected)


def test_blocks_are_the_callers_own(wav: Path) -> None:
    with decode_blocks(wav, channels=1, block_samples=1000) as decoder:
        first = next(decoder)
        before = first.copy()
        next(decoder)
    np.testing.assert_array_equal(first, before)


@pytest.mark.parametrize("samples", [1, 2, 63, 441])
@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff"])
def test_a_few_samples(tmp_path: Path, samples: int, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, MUSIC[:, :samples].T, 44100, subtype="PCM_24")
    np.testing.assert_allclose(decode(path), MUSIC[:, :samples], atol=1e-6)


@pytest.mark.parametrize("samples", [1, 100, 1000])
@pytest.mark.parametrize("suffix", ["mp3", "ogg", "opus", "m4a"])
def test_a_few_samples_of_a_lossy_format(tmp_path: Path, samples: int, suffix: str) -> None:
    if suffix == "m4a" and samples == 1:
        pytest.skip("ffmpeg before 6 decodes nothing of it")
    path = encode(tmp_path / f"a.{suffix}", MUSIC[:, :samples], 48000, *LOSSY[suffix])
    assert samples <= decode(path).shape[1] < samples + 1024  # less than a frame of padding


def test_silence(tmp_path: Path) -> None:
    silence = np.zeros((1, 1000), np.float32)
    np.testing.assert_array_equal(decode(encode(tmp_path / "a.mp3", silence)), silence)


@pytest.mark.parametrize("sample_rate", [8000, 22050, 44100, 48000, 96000, 192000])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_rate_stays_as_it_is(tmp_path: Path, sample_rate: int, channels: int) -> None:
    path = encode(tmp_path / "a.flac", MUSIC[:channels], sample_rate)
    with decode_blocks(path) as decoder:
        assert decoder.sample_rate == sample_rate
        assert decoder.channels == decoder.source_channels == channels
        assert join(decoder).shape == (channels, LENGTH)


@pytest.mark.parametrize("suffix", LOSSY)
def test_lossy_formats_are_aligned_to_the_sample(tmp_path: Path, suffix: str) -> None:
    music = make_music(48000 * 2 + 311, sample_rate=48000)
    path = encode(tmp_path / f"a.{suffix}", music, 48000, *LOSSY[suffix])
    decoded = decode(path)
    if suffix == "m4a":  # ffmpeg before 6 leaves the encoder's padding, less than a frame, on.
        assert 0 <= decoded.shape[1] - music.shape[1] < 1024
        decoded = decoded[:, : music.shape[1]]
    assert decoded.shape == music.shape
    error = ((decoded - music) ** 2).mean() / (music**2).mean()
    assert error < 0.03
    shifted = ((decoded[:, 1:] - music[:, :-1]) ** 2).mean() / (music**2).mean()
    assert error < shifted


@pytest.mark.parametrize(
    ("start_s", "duration_s"),
    [(0.0, 0.5), (0.25, None), (1 / 3, 1 / 7), (0.5, 100.0), (1.0, None), (0.0, 1e-9), (0.3, 1e-4)],
)
def test_start_and_duration_are_exact(wav: Path, start_s: float, duration_s: float | None) -> None:
    begin = round(start_s * 44100)
    end = None if duration_s is None else round((start_s + duration_s) * 44100)
    decoded = decode(wav, start_s=start_s, duration_s=duration_s, block_samples=1000)
    np.testing.assert_array_equal(decoded, MUSIC[:, begin:end])


def test_a_start_beyond_the_end_says_how_long_it_is(wav: Path) -> None:
    with decode_blocks(wav, start_s=50.0) as decoder, pytest.raises(EmptyAudioError) as caught:
        next(decoder)
    assert "no samples from 50 s on" in caught.value.message
    assert "1.00 s long" in caught.value.help


@pytest.mark.parametrize("sample_rate", [8000, 22050, 48000, 96000])
def test_conversion_keeps_length_and_place(wav: Path, sample_rate: int) -> None:
    converted = decode(wav, sample_rate=sample_rate)
    assert abs(converted.shape[1] - LENGTH * sample_rate / 44100) <= 1
    part = decode(wav, sample_rate=sample_rate, start_s=0.25, duration_s=0.5)
    first = round(0.25 * sample_rate)
    np.testing.assert_array_equal(part, converted[:, first : first + part.shape[1]])
    back = np.interp(
        np.arange(LENGTH) / 44100, np.arange(converted.shape[1]) / sample_rate, converted[0]
    )
    low = slice(1000, 20000)
    assert np.corrcoef(back[low], MUSIC[0, low])[0, 1] > 0.98


def test_mono_and_stereo_on_request(wav: Path, tmp_path: Path) -> None:
    np.testing.assert_allclose(decode(wav, channels=1)[0], MUSIC.mean(axis=0), atol=1e-7)
    mono = encode(tmp_path / "a.wav", MUSIC[:1], 44100, "-c:a", "pcm_f32le")
    np.testing.assert_array_equal(decode(mono, channels=2), np.repeat(MUSIC[:1], 2, axis=0))


def test_nine_channels_do_not_crash(tmp_path: Path) -> None:
    path = tmp_path / "nine.wav"
    samples = make_music(500, 9)
    soundfile.write(path, samples.T, 44100, subtype="FLOAT")
    with decode_blocks(path) as decoder:
        assert (decoder.source_channels, decoder.channels) == (9, 2)
        mixed = join(decoder)
    np.testing.assert_allclose(mixed, np.tile(samples.mean(axis=0), (2, 1)), atol=1e-6)


def test_a_chosen_stream_of_a_film(tmp_path: Path) -> None:
    path = tmp_path / "film.mkv"
    tones = "aevalsrc=0.25:s=44100:d=0.5[a];aevalsrc=0.5|-0.5:s=48000:d=0.5[b]"
    run_ffmpeg("-f", "lavfi", "-i", "testsrc=size=32x32:rate=5:d=1", "-filter_complex", tones,
               "-map", "0:v", "-map", "[a]", "-map", "[b]", "-c:v", "mpeg4", "-c:a", "flac",
               str(path))  # fmt: skip
    with decode_blocks(path, stream=1) as decoder:
        assert (decoder.sample_rate, decoder.channels) == (48000, 2)
        block = next(decoder)
    np.testing.assert_allclose(block[:, 0], [0.5, -0.5], atol=1e-4)
    np.testing.assert_allclose(decode(path, stream=0), np.full((1, 22050), 0.25), atol=1e-4)
    with pytest.raises(UsageError, match="no audio stream 2") as caught:
        decode_blocks(path, stream=2)
    assert "0 to 1" in caught.value.help


@pytest.mark.parametrize(
    "options",
    [
        {"stream": -1},
        {"stream": 1},
        {"start_s": -0.1},
        {"start_s": float("nan")},
        {"start_s": float("inf")},
        {"duration_s": 0.0},
        {"duration_s": -1.0},
        {"duration_s": float("nan")},
        {"sample_rate": 0},
        {"sample_rate": 10**7},
        {"channels": 0},
        {"channels": 6},
        {"block_samples": 0},
    ],
)
def test_nonsense_is_a_usage_error(wav: Path, options: dict[str, float]) -> None:
    with pytest.raises(UsageError) as caught:
        decode_blocks(wav, **options)  # type: ignore[arg-type]
    assert caught.value.help


@pytest.mark.parametrize("suffix", ["wav", "aiff"])
def test_no_samples_at_all(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.zeros((0, 2)), 44100, subtype="PCM_16")
    with pytest.raises(EmptyAudioError, match="has no samples"):
        decode(path)


def put_floats(path: Path, values: Samples) -> Path:
    soundfile.write(path, values.T, 44100, subtype="FLOAT")
    return path


def test_what_is_not_a_number_is_silenced_and_counted(tmp_path: Path) -> None:
    samples = MUSIC.copy()
    samples[0, 5:8] = np.nan
    samples[1, 40000] = np.inf
    samples[1, 40001] = -np.inf
    path = put_floats(tmp_path / "a.wav", samples)
    warnings: list[str] = []
    decoded = decode(path, on_warning=warnings.append, block_samples=1000)
    np.testing.assert_array_equal(decoded, np.where(np.isfinite(samples), samples, 0))
    [warning] = warnings
    assert warning.startswith("5 samples of")
    assert "silence" in warning
    warnings.clear()
    decode(path, on_warning=warnings.append, start_s=6 / 44100, duration_s=0.5)
    assert warnings[0].startswith("2 samples of")


def test_no_one_needs_to_listen_to_warnings(tmp_path: Path) -> None:
    path = put_floats(tmp_path / "a.wav", np.full((1, 10), np.nan, np.float32))
    assert not decode(path, on_warning=None).any()


@pytest.mark.parametrize("value", [1.1e6, -3e38])
def test_numbers_that_are_no_samples_are_refused(tmp_path: Path, value: float) -> None:
    samples = MUSIC.copy()
    samples[1, 22050] = value
    samples[0, 3] = np.nan
    path = put_floats(tmp_path / "a.wav", samples)
    with decode_blocks(path) as decoder, pytest.raises(DecodeError, match=r"at 0\.50 s"):
        list(decoder)


def test_a_million_is_still_a_sample(tmp_path: Path) -> None:
    samples = np.array([[1e6, -1e6]], np.float32)
    np.testing.assert_array_equal(decode(put_floats(tmp_path / "a.wav", samples)), samples)


def test_64_bit_floats_beyond_32_bits_are_silenced(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.array([0.5, 1e300, 0.25]), 44100, subtype="DOUBLE")
    warnings: list[str] = []
    assert decode(path, on_warning=warnings.append).tolist() == [[0.5, 0.0, 0.25]]
    assert len(warnings) == 1


def count_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


on_linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts in /proc")


@on_linux
def test_closing_ends_ffmpeg_and_leaks_nothing(long_wav: Path) -> None:
    decode(long_wav, duration_s=0.1)
    before = (count_descriptors(), threading.active_count())
    for _ in range(5):
        decoder = decode_blocks(long_wav)
        next(decoder)
        process = decoder._process._process
        assert process.poll() is None
        decoder.close()
        decoder.close()
        assert process.poll() is not None
        assert list(decoder) == []
    assert (count_descriptors(), threading.active_count()) == before


@on_linux
def test_a_forgotten_decoder_leaks_nothing(long_wav: Path) -> None:
    before = (count_descriptors(), threading.active_count())
    decoder = decode_blocks(long_wav)
    next(decoder)
    process = decoder._process._process
    del decoder
    gc.collect()
    assert process.poll() is not None
    assert (count_descriptors(), threading.active_count()) == before


@on_linux
def test_errors_leak_nothing(tmp_path: Path) -> None:
    samples = MUSIC.copy()
    samples[0, 5] = 1e9
    path = put_floats(tmp_path / "a.wav", samples)
    before = (count_descriptors(), threading.active_count())
    for _ in range(3):
        with pytest.raises(DecodeError):
            next(decode_blocks(path))
    gc.collect()
    assert (count_descriptors(), threading.active_count()) == before


def test_a_complete_run_ends_the_process_without_close(wav: Path) -> None:
    decoder = decode_blocks(wav)
    list(decoder)
    assert decoder._process._process.returncode is not None
    assert list(decoder) == []


def test_a_slow_reader_makes_ffmpeg_wait(long_wav: Path) -> None:
    with decode_blocks(long_wav, block_samples=100) as decoder:
        next(decoder)
        time.sleep(0.3)
        assert decoder._process._process.poll() is None
        assert sum(block.shape[1] for block in decoder) == 44100 * 60 - 100


@pytest.mark.skipif(os.name != "posix", reason="the stand-in is a shell script")
def test_another_thread_may_close_while_ffmpeg_is_stuck(
    wav: Path, fake_ffmpeg: Callable[[str], Path]
) -> None:
    real = decode_blocks(wav)  # remembers what the file holds, so only decoding meets the stand-in
    real.close()
    header = b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0" + struct.pack(
        "<HHIIHH", 3, 2, 44100, 352800, 8, 32
    )
    octal = "".join(f"\\{byte:03o}" for byte in header + b"data\xff\xff\xff\xff" + bytes(80))
    fake_ffmpeg(
        'case "$*" in *ffmetadata*) echo "[info] Input #0, wav, from \'file:x\':" >&2;'
        'echo "[info]   Stream #0:0: Audio: pcm_f32le, 44100 Hz, stereo, flt" >&2; exit 0;; esac\n'
        f"printf '{octal}'\nsleep 100"
    )
    decoder = decode_blocks(wav, block_samples=10)
    assert next(decoder).shape == (2, 10)
    with ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(lambda: list(decoder))
        time.sleep(0.1)
        assert not stuck.done()
        decoder.close()
        assert stuck.result(timeout=20) == []


def test_many_threads_at_once(wav: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for decoded in pool.map(lambda _: decode(wav, block_samples=997), range(16)):
            np.testing.assert_array_equal(decoded, MUSIC)


def test_a_decoder_may_be_read_from_another_thread(wav: Path) -> None:
    with decode_blocks(wav) as decoder, ThreadPoolExecutor(1) as pool:
        blocks = pool.submit(lambda: list(decoder)).result()
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), MUSIC)
