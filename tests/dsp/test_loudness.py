from __future__ import annotations

import math
import re
import subprocess
import tracemalloc
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile
from scipy.signal import lfilter

from stemsplit.dsp import loudness
from stemsplit.dsp.loudness import LoudnessMeter

RATES = [8000, 11025, 22050, 44100, 48000, 96000, 192000]


def measure(samples: np.ndarray, rate: int, step: int = 50_000) -> float | None:
    meter = LoudnessMeter(rate, samples.shape[0])
    for start in range(0, samples.shape[1], step):
        meter.feed(samples[:, start : start + step])
    return meter.integrated_lufs()


def sine(rate: int, seconds: float, hz: float = 997.0, peak: float = 1.0) -> np.ndarray:
    time = np.arange(round(rate * seconds)) / rate
    return (peak * np.sin(2 * np.pi * hz * time)).astype(np.float32)[None]


def music(rate: int, channels: int, seconds: float = 6.0) -> np.ndarray:
    """Noise and tones whose level wanders, with a near-silent part for the gates to drop."""
    rng = np.random.default_rng(rate + channels)
    time = np.arange(round(rate * seconds)) / rate
    rows = []
    for channel in range(channels):
        tone = 0.3 * np.sin(2 * np.pi * (90 + 300 * channel) * time)
        wave = (tone + 0.05 * rng.standard_normal(len(time))) * (0.1 + np.abs(np.sin(time)))
        wave[time < 1.0] *= 1e-3
        rows.append(wave)
    return np.array(rows, np.float32)


def test_the_filters_are_the_tables_of_the_standard():
    b, a = loudness._shelf(48000)
    assert b == pytest.approx((1.53512485958697, -2.69169618940638, 1.19839281085285), abs=1e-12)
    assert a == pytest.approx((-1.69065929318241, 0.73248077421585), abs=1e-12)
    b, a = loudness._high_pass(48000)
    assert b == (1.0, -2.0, 1.0)
    assert a == pytest.approx((-1.99004745483398, 0.99007225036621), abs=1e-12)


@pytest.mark.parametrize("rate", [44100, 48000, 96000])
def test_a_full_scale_997_hz_sine_is_the_definition_of_minus_3_01(rate: int):
    tone = sine(rate, 5)
    assert measure(tone, rate) == pytest.approx(-3.01, abs=0.02)
    assert measure(np.concatenate([tone, tone]), rate) == pytest.approx(0.0, abs=0.02)


def test_ebu_tech_3341_case_1_and_2():
    for level in (-23.0, -33.0):
        tone = sine(48000, 20, 1000.0, 10 ** (level / 20))
        assert measure(np.concatenate([tone, tone]), 48000) == pytest.approx(level, abs=0.1)


def test_ebu_tech_3341_case_3_needs_the_relative_gate():
    parts = [(-36, 10), (-23, 60), (-36, 10)]
    tone = np.concatenate([sine(48000, s, 1000.0, 10 ** (db / 20)) for db, s in parts], axis=1)
    assert measure(np.concatenate([tone, tone]), 48000) == pytest.approx(-23.0, abs=0.1)


def test_ebu_tech_3341_case_4_needs_the_absolute_gate():
    parts = [(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)]
    tone = np.concatenate([sine(48000, s, 1000.0, 10 ** (db / 20)) for db, s in parts], axis=1)
    assert measure(np.concatenate([tone, tone]), 48000) == pytest.approx(-23.0, abs=0.1)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", RATES)
def test_agrees_with_ffmpeg(tmp_path: Path, rate: int, channels: int):
    samples = music(rate, channels)
    soundfile.write(tmp_path / "x.wav", samples.T, rate, subtype="FLOAT")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostats", "-i", "x.wav"]
    command += ["-af", "ebur128=framelog=verbose", "-f", "null", "-"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stderr
    theirs = float(re.findall(r"I:\s+(-?[\d.]+) LUFS", said)[-1])
    assert measure(samples, rate) == pytest.approx(theirs, abs=0.1)


def weigh(samples: np.ndarray, rate: int) -> np.ndarray:
    weighted = samples.astype(np.float64)
    for numerator, denominator in (loudness._shelf(rate), loudness._high_pass(rate)):
        weighted = lfilter(numerator, (1.0, *denominator), weighted)
    return weighted


def integrate(weighted: np.ndarray, hop: int) -> float:
    """Both gates as the standard words them, all blocks at once."""
    hops = (weighted**2).sum(axis=0).reshape(-1, hop).sum(axis=1)
    blocks = np.convolve(hops, np.ones(4), "valid") / (4 * hop)
    blocks = blocks[blocks > 10 ** (-6.9309)]
    blocks = blocks[blocks > blocks.mean() / 10]
    return -0.691 + 10 * math.log10(blocks.mean())


def test_agrees_with_scipys_filters_and_all_blocks_at_once():
    samples = music(8000, 2, 3.0)
    expected = integrate(weigh(samples, 8000), 800)
    assert measure(samples, 8000) == pytest.approx(expected, abs=1e-4)


def test_levels_that_lie_close_around_both_gates_are_told_apart():
    # A minute that fades by 80 dB: some forty blocks within a decibel of each gate.
    samples = sine(8000, 60.0)
    samples *= np.logspace(0.0, -4.0, samples.shape[1], dtype=np.float32)
    expected = integrate(weigh(samples, 8000), 800)
    assert measure(samples, 8000) == pytest.approx(expected, abs=2e-3)


def test_what_the_absolute_gate_dropped_stays_out_of_a_quiet_stream():
    parts = [(-65.0, 10), (-74.0, 50)]
    tone = np.concatenate([sine(8000, s, 1000.0, 10 ** (db / 20)) for db, s in parts], axis=1)
    tone = np.concatenate([tone, tone])
    expected = integrate(weigh(tone, 8000), 800)
    assert expected == pytest.approx(-65.0, abs=0.3)
    assert measure(tone, 8000) == pytest.approx(expected, abs=2e-3)


def test_memory_is_that_of_a_short_stream():
    meter, second = LoudnessMeter(8000, 1), sine(8000, 1.0)
    tracemalloc.start()
    try:
        for _ in range(10):
            meter.feed(second)
        after_ten = tracemalloc.get_traced_memory()[0]
        for _ in range(1000):
            meter.feed(second)
        after_all = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    # A number for each of the blocks would be 80000 bytes. Python's own counting moves by some.
    assert after_all < after_ten + 8000


def test_what_overflows_has_no_loudness():
    with np.errstate(over="ignore"):
        assert measure(1e25 * sine(8000, 1.0), 8000) is None


@pytest.mark.parametrize("step", [1, 63, 64, 65, 4409, 65536, 65537, 10**9])
def test_the_cut_into_blocks_does_not_matter(step: int):
    samples = music(44100, 2, 0.5 if step == 1 else 3.5)
    assert measure(samples, 44100, step) == pytest.approx(measure(samples, 44100, 10**9), abs=1e-5)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100])
def test_needs_exactly_four_tenths_of_a_second(rate: int):
    needed = 4 * round(rate / 10)
    tone = sine(rate, 1)[:, :needed]
    assert measure(tone, rate) is not None
    assert measure(tone[:, :-1], rate) is None


def test_silence_and_nothing_have_no_loudness():
    assert LoudnessMeter(44100, 2).integrated_lufs() is None
    assert measure(np.zeros((2, 44100), np.float32), 44100) is None
    assert measure(sine(44100, 1, peak=1e-4), 44100) is None


@pytest.mark.parametrize("amplitude", [1e-2, 1.0, 1e3])
def test_a_gain_moves_it_by_that_gain(amplitude: float):
    samples = music(44100, 2) * np.float32(amplitude)
    moved = measure(samples, 44100)
    base = measure(music(44100, 2), 44100)
    assert moved is not None
    assert base is not None
    if amplitude >= 1:
        assert moved == pytest.approx(base + 20 * math.log10(amplitude), abs=1e-3)
    meter = LoudnessMeter(44100, 2)
    meter.feed(music(44100, 2))
    assert meter.integrated_lufs(amplitude) == pytest.approx(moved, abs=1e-3)


def test_asking_in_between_changes_nothing():
    samples = music(44100, 2)
    asked = LoudnessMeter(44100, 2)
    for start in range(0, samples.shape[1], 10_001):
        asked.feed(samples[:, start : start + 10_001])
        asked.integrated_lufs()
    assert asked.integrated_lufs() == measure(samples, 44100, 10_001)


def test_a_constant_offset_is_not_heard():
    samples = music(44100, 2)
    assert measure(samples + np.float32(0.5), 44100) == pytest.approx(
        measure(samples, 44100), abs=0.1
    )
