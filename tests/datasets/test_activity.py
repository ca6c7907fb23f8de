from __future__ import annotations

import numpy as np
import pytest

from stemsplit.datasets.activity import ActivityMeter

RATE = 1000  # a window has 6000 samples, a chunk 600


def find(signal: np.ndarray, block: int = 777) -> list[tuple[int, int]]:
    meter = ActivityMeter(RATE, signal.shape[0])
    for start in range(0, signal.shape[1], block):
        meter.feed(signal[:, start : start + block].astype(np.float32))
    return meter.find_windows()


def find_slowly(signal: np.ndarray) -> list[tuple[int, int]]:
    """The published procedure, window by window and channel by channel."""
    kept = []
    for start in range(0, signal.shape[1] - 6000 + 1, 3000):
        is_active = []
        for channel in signal.astype(np.float32).astype(np.float64):
            chunks = channel[start : start + 6000].reshape(10, 600)
            rms = [np.sqrt(np.mean(chunk**2)) for chunk in chunks]
            rms = [1e-5 if value == 0 else value for value in rms]
            ranked = sorted(rms)
            quantile = ranked[1] + 0.35 * (ranked[2] - ranked[1])  # 0.15 of 9 steps is 1.35
            threshold = max(quantile, 1e-3)
            is_active.append(sum(value > threshold for value in rms) > 5)
        if all(is_active):
            kept.append((start, start + 6000))
    return kept


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("seed", range(12))
def test_windows_are_those_of_the_published_procedure(seed: int, channels: int) -> None:
    random = np.random.default_rng(seed)
    levels = random.choice([0.0, 1e-5, 9e-4, 1.1e-3, 1e-2, 0.5], 47)
    signal = random.standard_normal((channels, 47 * 600 + 123)) * np.repeat(
        np.append(levels, 0.3), [600] * 47 + [123]
    )
    found = find(signal)
    assert found == find_slowly(signal)


def test_the_cases_that_the_procedure_is_compared_on_differ() -> None:
    counts = set()
    for seed in range(12):
        random = np.random.default_rng(seed)
        levels = random.choice([0.0, 1e-5, 9e-4, 1.1e-3, 1e-2, 0.5], 47)
        counts.add(len(find(random.standard_normal((1, 47 * 600)) * np.repeat(levels, 600))))
    assert len(counts) > 2


@pytest.mark.parametrize("block", [1, 599, 600, 6000, 100_000])
def test_blocks_do_not_matter(block: int) -> None:
    random = np.random.default_rng(3)
    signal = random.standard_normal((2, 9_000)) * np.repeat([0.1, 0.0, 0.3], 3000)
    assert find(signal[:, :9000], block) == find_slowly(signal)


def test_exactly_one_window_and_less() -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 6000))
    assert find(noise) == [(0, 6000)]
    assert find(noise[:, :-1]) == []
    assert find(noise[:, :0]) == []


def test_silence_has_no_activity_and_one_silent_channel_ends_it() -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 12000))
    assert find(np.zeros((2, 12000))) == []
    noise[1] = 0
    assert find(noise) == []
    assert find(noise[:1]) == [(0, 6000), (3000, 9000), (6000, 12000)]
