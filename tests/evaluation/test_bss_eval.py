"""BSS Eval beside its definition, written out, and beside museval where that can be imported."""

from __future__ import annotations

import types
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from stemsplit.errors import UsageError
from stemsplit.evaluation import bss_eval
from stemsplit.evaluation.scores import BssEval


def make_stems(
    stems: int, samples: int, *, channels: int = 2, rate: int = 44100, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return true stems, which are harmonic and come and go, and what a filter made of them."""
    dice = np.random.default_rng(seed)
    clock = np.arange(samples) / rate
    true = np.zeros((stems, channels, samples))
    for stem in range(stems):
        for channel in range(channels):
            for number in range(1, 7):
                hertz = (90 + 37 * stem + channel) * number
                true[stem, channel] += np.sin(2 * np.pi * hertz * clock + stem) / number
            true[stem, channel] *= 0.6 + 0.4 * np.sin(2 * np.pi * clock * (1 + stem))
    true += 0.01 * dice.standard_normal(true.shape)
    heard = 0.9 * true + 0.1 * np.roll(true, 1, axis=0)[:, ::-1]
    heard[..., 3:] += 0.2 * true[..., :-3]
    heard += 0.02 * dice.standard_normal(true.shape)
    return torch.from_numpy(0.1 * true), torch.from_numpy(0.1 * heard.copy())


def score_by_definition(
    true: Tensor, heard: Tensor, window: int, hop: int, taps: int
) -> np.ndarray:
    """Least squares over delayed copies, and the energies of what comes of each frame alone."""
    stems, _, samples = true.shape

    def delay(signals: np.ndarray) -> np.ndarray:
        length = signals.shape[-1]
        copies = [np.pad(one, (tap, taps - 1 - tap)) for one in signals for tap in range(taps)]
        return np.stack(copies, axis=1).reshape(length + taps - 1, -1)

    def energy(signal: np.ndarray) -> float:
        return float(np.square(signal).sum())

    references, estimates = true.numpy(), heard.numpy()
    frames = [slice(start, start + window) for start in range(0, samples - window + 1, hop)]
    scores = np.zeros((4, stems, len(frames)))
    for stem in range(stems):
        goal = np.pad(estimates[stem], ((0, 0), (0, taps - 1))).T
        own, everything = references[stem], references.reshape(-1, samples)
        of_own, of_all = (np.linalg.lstsq(delay(one), goal)[0] for one in (own, everything))
        for column, frame in enumerate(frames):
            s = np.pad(own[:, frame], ((0, 0), (0, taps - 1))).T
            e = np.pad(estimates[stem][:, frame], ((0, 0), (0, taps - 1))).T
            p_own, p_all = delay(own[:, frame]) @ of_own, delay(everything[:, frame]) @ of_all
            ratios = (
                energy(s) / energy(e - s),
                energy(s) / energy(p_own - s),
                energy(p_own) / energy(p_all - p_own),
                energy(p_all) / energy(e - p_all),
            )
            scores[:, stem, column] = 10 * np.log10(ratios)
    return scores


def stack(scores: BssEval) -> np.ndarray:
    return torch.stack(tuple(scores)).numpy()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("window", "hop"), [(400, 400), (300, 170), (1500, 1)])
def test_it_is_the_definition(channels: int, window: int, hop: int) -> None:
    true, heard = make_stems(2, 1500, channels=channels, rate=2000)
    got = stack(bss_eval(true, heard, window=window, hop=hop, taps=5))
    expected = score_by_definition(true, heard, window, hop, 5)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def test_one_stem_has_no_interference() -> None:
    true, heard = make_stems(1, 3000, rate=2000)
    scores = bss_eval(true, heard, window=1000, hop=1000, taps=5)
    assert (scores.sir > 200).all()
    assert torch.isfinite(scores.sdr).all()


def test_a_perfect_estimate_is_without_end() -> None:
    true, _ = make_stems(2, 3000, rate=2000)
    scores = bss_eval(true, true, window=1000, hop=1000, taps=5)
    assert torch.isposinf(scores.sdr).all()
    assert all((kind > 150).all() for kind in scores)


def test_frames_with_silence_have_no_score() -> None:
    true, heard = make_stems(3, 5000, rate=2000)
    true[1, :, 1000:2000] = 0
    heard[2, 0, 3000:4000] = -heard[2, 1, 3000:4000]
    scores = bss_eval(true, heard, window=1000, hop=1000, taps=5)
    for kind in scores:
        assert torch.isnan(kind).any(dim=0).tolist() == [False, True, False, True, False]
        assert torch.isnan(kind).all(dim=0).tolist() == [False, True, False, True, False]


def test_a_song_shorter_than_a_frame_is_one() -> None:
    true, heard = make_stems(2, 700, rate=2000)
    scores = bss_eval(true, heard, taps=5)
    assert scores.sdr.shape == (2, 1)
    whole = bss_eval(true, heard, window=700, hop=1, taps=5)
    torch.testing.assert_close(scores.sir, whole.sir)


@pytest.mark.parametrize(
    ("shape", "other"), [((2, 2, 9), (2, 2, 8)), ((2, 9), (2, 9)), ((2, 2, 0), (2, 2, 0))]
)
def test_what_cannot_be_compared(shape: tuple[int, ...], other: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="cannot be compared"):
        bss_eval(torch.zeros(shape), torch.zeros(other))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_numbers(value: float) -> None:
    true, heard = make_stems(2, 100)
    heard[1, 0, 7] = value
    with pytest.raises(UsageError, match="not numbers"):
        bss_eval(true, heard)


@pytest.mark.parametrize("values", [{"window": 0}, {"hop": 0}, {"taps": 0}])
def test_sizes_that_cannot_be(values: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="not possible"):
        bss_eval(torch.ones(1, 1, 9), torch.ones(1, 1, 9), **values)


# museval, the definition's own program


def leave(true: Tensor, heard: Tensor) -> None:
    pass


def silence_a_frame(true: Tensor, heard: Tensor) -> None:
    true[1, :, 44100:88200] = 0


def make_stems_equal(true: Tensor, heard: Tensor) -> None:
    true[1] = true[0]


def make_a_stem_mono(true: Tensor, heard: Tensor) -> None:
    true[0, :] = true[0, 0].clone()
    heard[0, :] = heard[0, 0].clone()


def limit_the_band(true: Tensor, heard: Tensor) -> None:
    # In 16 bits, as a song has it: with less noise than that museval's own scores are chance.
    spectrum = torch.fft.rfft(true)
    spectrum[..., 7 * spectrum.shape[-1] // 10 :] = 0
    true[:] = torch.round(torch.fft.irfft(spectrum, true.shape[-1]) * 2**15) / 2**15


@pytest.mark.parametrize(
    "change", [leave, silence_a_frame, make_stems_equal, make_a_stem_mono, limit_the_band]
)
@pytest.mark.parametrize(
    ("stems", "channels", "samples"), [(2, 2, 100_000), (2, 1, 100_000), (3, 1, 30_000)]
)
def test_it_is_musevals(
    museval: types.ModuleType,
    stems: int,
    channels: int,
    samples: int,
    change: Callable[[Tensor, Tensor], None],
) -> None:
    true, heard = make_stems(stems, samples, channels=channels)
    change(true, heard)
    turned = [one.transpose(1, 2).numpy() for one in (true, heard)]
    expected = np.array(museval.bss_eval(*turned, window=44100, hop=44100)[:4])
    got = stack(bss_eval(true, heard))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    # Where nothing at all interferes, what is left is rounding: 200 dB below or 230.
    np.testing.assert_allclose(got.clip(max=150), expected.clip(max=150), rtol=0, atol=0.005)


@pytest.mark.parametrize(
    ("stems", "samples", "change"),
    [
        (1, 100_000, leave),
        (2, 44_099, leave),
        (2, 1_000, leave),
        (2, 300, leave),
        (2, 700, make_stems_equal),
    ],
)
def test_it_is_musevals_at_the_edges(
    museval: types.ModuleType,
    stems: int,
    samples: int,
    change: Callable[[Tensor, Tensor], None],
) -> None:
    true, heard = make_stems(stems, samples, channels=1)
    change(true, heard)
    turned = [one.transpose(1, 2).numpy() for one in (true, heard)]
    expected = np.array(museval.bss_eval(*turned, window=44100, hop=44100)[:4])
    got = stack(bss_eval(true, heard))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    np.testing.assert_allclose(got.clip(max=60), expected.clip(max=60), rtol=0, atol=0.005)
