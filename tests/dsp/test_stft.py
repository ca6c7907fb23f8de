from __future__ import annotations

import numpy as np
import pytest
import torch

from stemsplit.dsp.stft import Resynthesis, istft, magnitudes, split_frames, stft


@pytest.mark.parametrize("samples", [1, 2, 1023, 1024, 1025, 2048, 2049, 4096, 10_007])
@pytest.mark.parametrize("pad_mode", ["reflect", "constant"])
def test_inverse_gives_back_every_sample(samples: int, pad_mode: str) -> None:
    signal = torch.randn(2, 3, samples, generator=torch.Generator().manual_seed(samples))
    spectrum = stft(signal, 4096, 1024, pad_mode=pad_mode)
    assert spectrum.shape == (2, 3, 2049, samples // 1024 + 1)
    torch.testing.assert_close(istft(spectrum, 1024, samples), signal, rtol=0, atol=2e-6)


@pytest.mark.parametrize("amplitude", [1e-3, 1.0, 1e3])
def test_frames_are_windowed_transforms_centred_on_multiples_of_the_hop(amplitude: float) -> None:
    signal = amplitude * np.random.default_rng(0).standard_normal(9000)
    spectrum = stft(torch.from_numpy(signal), 1024, 256)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    padded = np.pad(signal, 512, mode="reflect")
    for frame in (0, 1, 17, spectrum.shape[-1] - 1):
        expected = np.fft.rfft(window * padded[256 * frame : 256 * frame + 1024])
        np.testing.assert_allclose(
            spectrum[:, frame].numpy(), expected, rtol=0, atol=1e-9 * amplitude
        )


def test_silence_stays_silence() -> None:
    spectrum = stft(torch.zeros(1, 5000), 4096, 1024)
    assert not spectrum.any()
    assert not istft(spectrum, 1024, 5000).any()


@pytest.mark.parametrize("outer", [0, 3])
def test_frames_may_come_a_few_at_a_time(outer: int) -> None:
    spectrum = stft(torch.randn(2, 3, 20_000, generator=torch.Generator().manual_seed(0)), 512, 128)
    frames = spectrum.shape[-1]
    resynthesis = Resynthesis(128, frames, outer)
    start = 0
    for count in (1, 2, frames - 53, 50):
        resynthesis.add(spectrum[..., start : start + count])
        start += count
    wide = torch.nn.functional.pad(spectrum, (outer, outer))
    expected = istft(wide, 128, 20_000 + 2 * outer * 128)
    torch.testing.assert_close(resynthesis.finish(20_000 + 2 * outer * 128), expected)


def test_a_frame_less_is_told() -> None:
    resynthesis = Resynthesis(128, 2)
    resynthesis.add(torch.zeros(257, 1, dtype=torch.complex64))
    with pytest.raises(AssertionError, match="1 frames of 2"):
        resynthesis.finish(100)


def test_blocks_change_no_bit_and_gradients_none() -> None:
    signal = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(1))
    assert len(list(split_frames(98, 2, signal))) > 1
    whole = torch.stft(
        signal, 4096, 1024, window=torch.hann_window(4096), pad_mode="reflect", return_complex=True
    )
    assert torch.equal(stft(signal, 4096, 1024), whole)
    learned = signal.clone().requires_grad_()
    assert len(list(split_frames(98, 2, learned))) == 1
    (gradient,) = torch.autograd.grad(
        istft(stft(learned, 4096, 1024), 1024, 100_000).sum(), learned
    )
    torch.testing.assert_close(gradient, torch.ones_like(signal), rtol=0, atol=1e-5)


@pytest.mark.parametrize("learns", [False, True])
def test_magnitudes_are_absolute_values(learns: bool) -> None:
    spectrum = torch.randn(2, 3, 2049, 90, dtype=torch.complex64, requires_grad=learns)
    given = magnitudes(spectrum)
    # Within a last bit: a processor takes eight at a time or, at the end of a row, one.
    torch.testing.assert_close(given, spectrum.abs(), rtol=1.2e-7, atol=0)
    assert given.requires_grad == learns
