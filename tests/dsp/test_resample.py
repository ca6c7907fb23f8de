from __future__ import annotations

import numpy as np
import pytest

from stemsplit.dsp.resample import Resampler


def convert(signal: np.ndarray, source_hz: int, target_hz: int, block: int) -> np.ndarray:
    resampler = Resampler(source_hz, target_hz, signal.shape[0])
    starts = range(0, signal.shape[1], block)
    pieces = [resampler.feed(signal[:, start : start + block]) for start in starts]
    return np.concatenate([*pieces, resampler.flush()], axis=1)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 48000, 96000, 192000])
def test_there_and_back_keeps_time_and_level(rate: int) -> None:
    """A tone below both bands comes back in place, away from the ends."""
    time_s = np.arange(rate) / rate
    tone = np.stack([np.sin(2 * np.pi * hz * time_s) for hz in (440, 1500)]).astype(np.float32)
    there = convert(tone, rate, 44100, 5000)
    assert abs(there.shape[1] - 44100) <= 1
    back = convert(there, 44100, rate, 777)
    assert abs(back.shape[1] - rate) <= 2
    middle = slice(rate // 10, rate - rate // 10)
    np.testing.assert_allclose(back[:, middle], tone[:, middle], rtol=0, atol=2e-4)


@pytest.mark.parametrize("block", [1, 100, 4096])
def test_blocks_do_not_change_the_result(block: int) -> None:
    noise = np.random.default_rng(0).standard_normal((1, 9000)).astype(np.float32)
    whole = convert(noise, 48000, 44100, 9000)
    np.testing.assert_allclose(convert(noise, 48000, 44100, block), whole, rtol=0, atol=1e-6)


def test_equal_rates_hand_through() -> None:
    noise = np.random.default_rng(0).standard_normal((2, 500)).astype(np.float32)
    assert np.array_equal(convert(noise, 44100, 44100, 77), noise)


def test_one_sample() -> None:
    assert convert(np.ones((2, 1), np.float32), 8000, 44100, 1).shape[0] == 2
