"""Augmentation: each change does what it says, as often as it says, and repeats with its seed."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from stemsplit.errors import UsageError
from stemsplit.training.augment import AugmentConfig, augment, count_read, seed_step
from stemsplit.training.stretch import resample, shift_pitch, stretch

RATE = 44100
MANY = 500
EVERYTHING = AugmentConfig(
    peak_normalise=True,
    gain_low=0.25,
    gain_high=1.25,
    swap_p=0.5,
    polarity_p=0.5,
    silence_p=0.3,
    item_gain_db=10.0,
    item_gain_p=1.0,
    pitch_semitones=1.0,
    tempo=0.1,
    stretch_p=0.5,
)


def noise(items: int = MANY, samples: int = 20) -> Tensor:
    return torch.randn(items, 4, 2, samples, generator=torch.Generator().manual_seed(0))


def change(stems: Tensor, seed: int = 0, **values: float) -> Tensor:
    return augment(stems, AugmentConfig(**values), seed_step(seed, 0, 0))  # type: ignore[arg-type]  # one of the fields is a bool


def gains_of(before: Tensor, after: Tensor) -> Tensor:
    """Return what each stem was multiplied by, which has to be one number. Shape (B, S)."""
    gains = (after * before).sum((2, 3)) / before.square().sum((2, 3))
    torch.testing.assert_close(after, before * gains[..., None, None])
    return gains


def test_by_default_nothing_happens() -> None:
    stems = noise()
    assert torch.equal(augment(stems, AugmentConfig(), seed_step(0, 0, 0)), stems)


def test_what_comes_in_stays_as_it_was() -> None:
    stems = noise(4, 6000)
    kept = stems.clone()
    augment(stems, EVERYTHING, seed_step(0, 0, 0), 5000)
    assert torch.equal(stems, kept)


def test_gains_lie_evenly_in_their_range_one_for_every_stem() -> None:
    gains = gains_of(noise(), change(noise(), gain_low=0.25, gain_high=1.25))
    assert 0.25 <= float(gains.min()) < 0.26
    assert 1.24 < float(gains.max()) <= 1.25
    assert float(gains.mean()) == pytest.approx(0.75, abs=0.02)
    assert float(gains.std()) == pytest.approx(1 / math.sqrt(12), abs=0.01)
    assert gains.unique().numel() > 0.99 * gains.numel()


def test_channels_change_places_as_often_as_said() -> None:
    stems = noise()
    changed = change(stems, swap_p=0.3)
    swapped = (changed == stems.flip(2)).all(-1).all(-1)
    same = (changed == stems).all(-1).all(-1)
    assert bool((swapped ^ same).all())
    assert float(swapped.float().mean()) == pytest.approx(0.3, abs=0.03)


def test_stems_are_turned_upside_down_as_often_as_said() -> None:
    gains = gains_of(noise(), change(noise(), polarity_p=0.3))
    assert sorted(gains.round(decimals=4).unique().tolist()) == [-1, 1]
    assert float((gains < 0).float().mean()) == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("share", [0.3, 0.95, 1.0])
def test_stems_fall_silent_but_one_stays(share: float) -> None:
    gains = gains_of(noise(), change(noise(), silence_p=share))
    silent = gains == 0
    assert int((~silent).sum(1).min()) == 1
    # Of items that are all silent, one stem is given back.
    expected = share - share**4 / 4
    assert float(silent.float().mean()) == pytest.approx(expected, abs=0.03)
    # None of the stems is preferred.
    assert float((~silent).float().mean(0).std()) < 0.04


def test_an_item_changes_its_level_as_a_whole() -> None:
    gains = gains_of(noise(), change(noise(), item_gain_db=10.0, item_gain_p=1.0))
    assert float((gains / gains[:, :1] - 1).abs().max()) < 1e-5
    levels = 20 * gains[:, 0].log10()
    assert -10 <= float(levels.min()) < -9.8
    assert 9.8 < float(levels.max()) <= 10
    assert float(levels.mean()) == pytest.approx(0, abs=0.6)


def test_a_share_of_the_batches_changes_level() -> None:
    stems = noise(1)
    changed = [
        not torch.equal(change(stems, seed, item_gain_db=10.0, item_gain_p=0.4), stems)
        for seed in range(300)
    ]
    assert sum(changed) / 300 == pytest.approx(0.4, abs=0.06)


def test_peaks_of_mixture_and_stems_are_at_most_one() -> None:
    stems = noise(3)
    stems[2] = 0
    changed = change(stems, peak_normalise=True)
    peaks = torch.cat((changed, changed.sum(1, keepdim=True)), dim=1).abs().amax((1, 2, 3))
    torch.testing.assert_close(peaks, torch.tensor([1.0, 1.0, 0.0]))
    assert float(changed[0].std() / stems[0].std()) == pytest.approx(
        float(changed[0, 0, 0, 0] / stems[0, 0, 0, 0]), rel=1e-5
    )


def test_the_same_seed_the_same_changes() -> None:
    stems = noise(4, 6000)
    first = augment(stems, EVERYTHING, seed_step(1, 2, 3, 0), 5000)
    assert torch.equal(first, augment(stems, EVERYTHING, seed_step(1, 2, 3, 0), 5000))
    for other in ((9, 2, 3, 0), (1, 9, 3, 0), (1, 2, 9, 0), (1, 2, 3, 9)):
        assert not torch.equal(first, augment(stems, EVERYTHING, seed_step(*other), 5000))


# Tempo and pitch


def tone(hz: float, seconds: float = 2.0) -> Tensor:
    time = torch.arange(round(seconds * RATE)) / RATE
    return torch.sin(2 * math.pi * hz * time).expand(1, 2, -1)


def pitch_of(signal: Tensor) -> float:
    """Return the loudest frequency, in Hz."""
    inner = signal[0, 0, RATE // 4 : -RATE // 4]
    spectrum = torch.fft.rfft(inner * torch.hann_window(len(inner)), 2**19).abs()
    return float(spectrum.argmax()) * RATE / 2**19


@pytest.mark.parametrize("rate", [0.8, 1.0, 1.15])
def test_tempo_changes_and_pitch_does_not(rate: float) -> None:
    clicks = tone(440.0).clone()
    clicks[..., RATE:] *= 3
    count = round(2 * RATE / rate)
    changed = stretch(clicks, rate, count)
    assert changed.shape[-1] == count
    assert pitch_of(changed) == pytest.approx(440, abs=1)
    # The louder half begins in the middle still, and both are as loud as they were.
    middle = count // 2
    for part, level in ((changed[..., :middle], 1.0), (changed[..., middle:], 3.0)):
        inner = part[..., 8000:-8000]
        assert float(inner.square().mean().sqrt()) == pytest.approx(level / math.sqrt(2), rel=0.06)


@pytest.mark.parametrize("semitones", [-3.0, 0.0, 0.7, 5.0])
def test_pitch_changes_and_tempo_does_not(semitones: float) -> None:
    changed = shift_pitch(tone(440.0), semitones)
    assert changed.shape == tone(440.0).shape
    assert pitch_of(changed) == pytest.approx(440 * 2 ** (semitones / 12), rel=0.003)
    inner = changed[..., 8000:-8000]
    assert float(inner.square().mean().sqrt()) == pytest.approx(1 / math.sqrt(2), rel=0.06)


def test_resampling_keeps_a_tone() -> None:
    wave = torch.sin(2 * math.pi * 5 * torch.arange(1000) / 1000)
    expected = torch.sin(2 * math.pi * 5 * torch.arange(1300) / 1300)
    torch.testing.assert_close(resample(wave, 1300), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(resample(expected, 1000), wave, rtol=0, atol=1e-4)


def test_a_share_of_the_items_is_stretched_all_stems_alike() -> None:
    config = AugmentConfig(tempo=0.2, stretch_p=0.5)
    stems = noise(40, 1).expand(-1, -1, -1, count_read(4096, config)).clone()
    stems[:, 1] = stems[:, 0]
    changed = augment(stems, config, seed_step(0, 0, 0), 4096)
    assert changed.shape == (40, 4, 2, 4096)
    assert torch.equal(changed[:, 0], changed[:, 1])
    kept = (changed == stems[..., :4096]).flatten(1).all(1)
    assert 10 <= int(kept.sum()) <= 30


@pytest.mark.parametrize("tempo", [0.0, 0.1, 0.12, 1 / 3])
def test_what_is_read_is_what_is_needed(tempo: float) -> None:
    config = AugmentConfig(tempo=tempo, stretch_p=0.0)
    for samples in (1, 999, 1000, 132_300, 134_144, 264_600):
        stems = torch.zeros(1, 1, 1, 1).expand(1, 1, 1, count_read(samples, config))
        assert augment(stems, config, seed_step(0, 0, 0)).shape[-1] == samples


def test_faster_items_are_still_full() -> None:
    config = AugmentConfig(tempo=0.25, stretch_p=1.0)
    stems = noise(12, count_read(30_000, config))
    changed = augment(stems, config, seed_step(0, 0, 0), 30_000)
    assert float(changed[..., -1000:].square().mean((2, 3)).min()) > 0.2


# What is refused


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"swap_p": 1.5}, "augment.swap_p is 1.5"),
        ({"gain_low": -1.0}, "augment.gain_low is -1.0"),
        ({"gain_low": 2.0}, "gain_high 1.0"),
        ({"tempo": 0.9}, r"augment.tempo is 0.9\n.*at most 0.5"),
        ({"pitch_semitones": 13.0}, "at most 12"),
        ({"item_gain_db": float("inf")}, "augment.item_gain_db is inf"),
    ],
)
def test_values_out_of_range(values: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        AugmentConfig(**values).check()  # type: ignore[arg-type]  # one of the fields is a bool


def test_all_that_is_off_by_default_is_on_in_these_tests() -> None:
    names = [field.name for field in fields(AugmentConfig)]
    default = AugmentConfig()
    assert [n for n in names if getattr(EVERYTHING, n) == getattr(default, n)] == []
    replace(EVERYTHING).check()
