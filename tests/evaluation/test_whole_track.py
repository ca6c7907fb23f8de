"""uSDR and SI-SDR beside their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stemsplit.errors import UsageError
from stemsplit.evaluation import si_sdr, usdr


def make_pair(samples: int = 5000, amplitude: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    dice = torch.Generator().manual_seed(0)
    true = amplitude * torch.randn(2, samples, generator=dice)
    return true, 0.8 * true + 0.2 * amplitude * torch.randn(2, samples, generator=dice)


@pytest.mark.parametrize("amplitude", [1e-3, 1, 1e3])
@pytest.mark.parametrize("samples", [1, 5000, 2_200_000])
def test_usdr_is_its_formula(amplitude: float, samples: int) -> None:
    true, heard = make_pair(samples, amplitude)
    s, e = true.double().numpy(), heard.double().numpy()
    expected = 10 * np.log10((np.sum(s**2) + 1e-7) / (np.sum((s - e) ** 2) + 1e-7))
    assert usdr(true, heard) == pytest.approx(expected, abs=1e-9)


def test_usdr_of_silence() -> None:
    silence, noise = torch.zeros(2, 100), torch.ones(2, 100)
    assert usdr(silence, silence) == 0
    assert usdr(silence, noise) == pytest.approx(-10 * math.log10(200 / 1e-7))
    assert usdr(noise, silence) == pytest.approx(0, abs=1e-6)
    assert usdr(noise, noise) == pytest.approx(10 * math.log10(200 / 1e-7))


def test_si_sdr_is_its_formula() -> None:
    true, heard = make_pair()
    expected = []
    for s, e in zip(true.double().numpy(), heard.double().numpy(), strict=True):
        s, e = s - s.mean(), e - e.mean()
        target = s * (e @ s) / (s @ s)
        expected.append(10 * np.log10((target @ target) / ((target - e) @ (target - e))))
    assert si_sdr(true, heard) == pytest.approx(np.mean(expected), abs=1e-9)


@pytest.mark.parametrize("gain", [0.01, 3.0, -1.0])
def test_si_sdr_knows_no_gain_and_no_offset(gain: float) -> None:
    true, heard = make_pair()
    assert si_sdr(true, gain * heard + 0.3) == pytest.approx(si_sdr(true, heard), abs=1e-3)


def test_si_sdr_at_its_ends() -> None:
    true, heard = make_pair()
    assert math.isnan(si_sdr(torch.zeros(2, 50), torch.ones(2, 50)))
    assert si_sdr(true, torch.zeros_like(true)) == -math.inf
    assert si_sdr(true, 2 * true) == math.inf
    half = true.clone()
    half[1] = 0
    assert si_sdr(half, heard) == si_sdr(half[:1], heard[:1]), "a silent channel does not count"


@pytest.mark.parametrize("score", [usdr, si_sdr])
def test_what_cannot_be_compared(score) -> None:  # type: ignore[no-untyped-def]  # either function
    true, heard = make_pair()
    for other in (heard[:1], heard[:, :-1], heard[0]):
        with pytest.raises(UsageError, match="cannot be compared"):
            score(true, other)
    with pytest.raises(UsageError, match="cannot be compared"):
        score(true[:, :0], heard[:, :0])
    heard[1, 3] = torch.nan
    with pytest.raises(UsageError, match="not numbers"):
        score(true, heard)
