"""What is made small in training: functions of (model, mixture, stems).

Letters in shapes: B batch, S stems, C channels, T samples, F frequency bins, N frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from stemsplit.dsp.stft import stft
from stemsplit.errors import UnknownNameError, UsageError
from stemsplit.models.base import SpectralModel, StemModel
from stemsplit.training.combinations import combine_magnitude_mse, combine_sdr
from stemsplit.training.spectra import Pass

Loss = Callable[[StemModel, Tensor, Tensor], Tensor]
"""(model, mixture (B, C, T), stems (B, S, C, T) in the order of model.stems) -> a number."""

SI_SDR_EPS = 1e-8


@dataclass(frozen=True)
class LossConfig:
    """A weighted sum of terms.

    Attributes:
        terms: Keys of `TERMS`.
        weights: Of the terms, in the same order; none for 1 each.
        over_stems: Whether a term is the "mean" of its stems' or their "sum".
        centred: Whether the spectrograms' frames are centred, with the model's padding before the
            first sample and after the last, or begin with the first and end with the last sample.
        frames: Compare this many, from the first; 0 for all.
        resolutions: Transform lengths of "multi_resolution", in samples.
        resolution_hop: Distance between its frames, in samples.
        edge_samples: At either end, what "combined_sdr" leaves out.
    """

    terms: tuple[str, ...] = ("magnitude_mse",)
    weights: tuple[float, ...] = ()
    over_stems: Literal["mean", "sum"] = "mean"
    centred: bool = True
    frames: int = 0
    resolutions: tuple[int, ...] = (4096, 2048, 1024, 512, 256)
    resolution_hop: int = 147
    edge_samples: int = 200


Term = Callable[[Pass, LossConfig], Tensor]
"""(a pass, the configuration) -> the mean over everything that is compared."""

Distance = Callable[[Tensor, Tensor], Tensor]


def _compare_magnitudes(distance: Distance) -> Term:
    return lambda run, _: distance(run.magnitudes, run.true_spectra.abs())


def _compare_complex(distance: Distance) -> Term:
    def compare(run: Pass, _: LossConfig) -> Tensor:
        return distance(torch.view_as_real(run.spectra), torch.view_as_real(run.true_spectra))

    return compare


def _compare_waveforms(distance: Distance) -> Term:
    return lambda run, _: distance(run.waveforms, run.stems)


def _compare_network(distance: Distance) -> Term:
    return lambda run, _: distance(run.outputs[0], run.network_targets)


def negative_si_sdr(estimates: Tensor, stems: Tensor) -> Tensor:
    """Return minus the scale-invariant signal-to-distortion ratio, averaged.

    Le Roux, Wisdom, Erdogan, Hershey: SDR, half-baked or well done? ICASSP 2019, equation 5. A stem
    that is silent has none; the small number added to both energies makes its estimate silent.

    Args:
        estimates: Shape (..., T).
        stems: Shape (..., T).

    Returns:
        dB.
    """
    scale = (estimates * stems).sum(-1, keepdim=True)
    scale = scale / (stems.square().sum(-1, keepdim=True) + SI_SDR_EPS)
    part = scale * stems
    kept = part.square().sum(-1) + SI_SDR_EPS
    lost = (estimates - part).square().sum(-1) + SI_SDR_EPS
    return 10 * (lost.log10() - kept.log10()).mean()


def compare_resolutions(
    estimates: Tensor, stems: Tensor, sizes: tuple[int, ...], hop_length: int
) -> Tensor:
    """Compare real and imaginary parts of spectrograms of several window lengths.

    Lu, Wang, Kong, Hung: Music source separation with band-split RoPE transformer. ICASSP 2024,
    section 2.4, as a mean where they sum. The transform is linear: one of the difference will do.

    Args:
        estimates: Shape (..., T).
        stems: Shape (..., T).
        sizes: Window lengths, in samples.
        hop_length: Distance between frames, in samples.

    Returns:
        The mean absolute difference.
    """
    wrong = estimates - stems
    parts = [torch.view_as_real(stft(wrong, size, hop_length)).abs().mean() for size in sizes]
    return torch.stack(parts).mean()


TERMS: Mapping[str, Term] = MappingProxyType(
    {
        "magnitude_l1": _compare_magnitudes(functional.l1_loss),
        "magnitude_mse": _compare_magnitudes(functional.mse_loss),
        "complex_l1": _compare_complex(functional.l1_loss),
        "complex_mse": _compare_complex(functional.mse_loss),
        "network_l1": _compare_network(functional.l1_loss),
        "network_mse": _compare_network(functional.mse_loss),
        "waveform_l1": _compare_waveforms(functional.l1_loss),
        "waveform_mse": _compare_waveforms(functional.mse_loss),
        "si_sdr": lambda run, _: negative_si_sdr(run.waveforms, run.stems),
        "multi_resolution": lambda run, config: compare_resolutions(
            run.waveforms, run.stems, config.resolutions, config.resolution_hop
        ),
        "combined_magnitude_mse": lambda run, _: combine_magnitude_mse(
            run.magnitudes, run.true_spectra.abs()
        ),
        "combined_sdr": lambda run, config: combine_sdr(
            *_cut_to_frames(run, run.mixture, run.waveforms, run.stems, edge=config.edge_samples)
        ),
    }
)
"""By name. "complex": real and imaginary parts, side by side; "network": what the core gives beside
what it would read of the true stems; "combined": sums of some of the stems, of each selection."""

ON_SPECTROGRAMS = ("magnitude", "complex", "network", "combined")
ON_WAVEFORMS = ("waveform", "si_sdr", "multi_resolution", "combined_sdr")


def build_loss(config: LossConfig) -> Loss:
    """Return the function that a configuration describes.

    Raises:
        UnknownNameError: A term that does not exist.
        UsageError: Values that do not go together.
    """
    check_config(config)
    weights = config.weights or (1.0,) * len(config.terms)

    def measure(model: StemModel, mixture: Tensor, stems: Tensor) -> Tensor:
        _check_model(config, model)
        run = Pass(model, mixture, stems, centred=config.centred, frames=config.frames)
        if isinstance(model, SpectralModel):
            _ = run.outputs
        # The core has run in the precision that was asked for; differences are taken in full.
        with torch.autocast(mixture.device.type, enabled=False):
            total = mixture.new_zeros(())
            for term, weight in zip(config.terms, weights, strict=True):
                value = TERMS[term](run, config)
                # What combines stems is no sum over them.
                is_sum = config.over_stems == "sum" and not term.startswith("combined")
                total = total + weight * value * (stems.shape[1] if is_sum else 1)
        return total

    return measure


def check_config(config: LossConfig) -> None:
    """Refuse what cannot be computed.

    Raises:
        UnknownNameError: A term that does not exist.
        UsageError: Values that do not go together.
    """
    for term in config.terms:
        if term not in TERMS:
            raise UnknownNameError("loss", term, TERMS)
    if not config.terms:
        raise UsageError("a loss without terms", help="name one in loss.terms: magnitude_mse.")
    if config.weights and len(config.weights) != len(config.terms):
        raise UsageError(
            f"{len(config.weights)} weights for {len(config.terms)} terms of the loss",
            help="give loss.weights as many numbers as loss.terms has names, or none.",
        )
    if not all(math.isfinite(weight) and weight >= 0 for weight in config.weights):
        raise UsageError(
            f"a loss weighted by {list(config.weights)}", help="give loss.weights numbers from 0."
        )
    if config.over_stems not in ("mean", "sum"):
        raise UnknownNameError("way to join stems", config.over_stems, ("mean", "sum"))
    heard = [term for term in config.terms if term.startswith(ON_WAVEFORMS)]
    if heard and not (config.centred and config.frames == 0):
        raise UsageError(
            f"{heard[0]} compares waveforms, and the frames chosen do not cover them",
            help="set loss.centred = true and loss.frames = 0.",
        )


def _check_model(config: LossConfig, model: StemModel) -> None:
    """Refuse a loss on spectrograms of a network that has none."""
    if isinstance(model, SpectralModel):
        return
    for term in config.terms:
        if term.startswith(ON_SPECTROGRAMS):
            raise UsageError(
                f"{term} compares spectrograms, and {type(model).__name__} makes none",
                help="take waveform_l1, waveform_mse, si_sdr or multi_resolution in loss.terms.",
            )


def _cut_to_frames(run: Pass, *signals: Tensor, edge: int) -> list[Tensor]:
    """Leave out both ends, and the part of a hop after the last frame's centre."""
    hop = run.spectral_model.hop_length
    samples = run.mixture.shape[-1] // hop * hop
    if samples <= 2 * edge:
        raise UsageError(
            f"{edge} samples at either end of an excerpt of {run.mixture.shape[-1]} leave nothing",
            help="choose longer excerpts with data.excerpt_s, or a smaller loss.edge_samples.",
        )
    return [signal[..., edge : samples - edge] for signal in signals]
