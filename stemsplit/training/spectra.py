"""One pass through a network, and what losses compare of it.

Letters in shapes: B batch, S stems, C channels, T samples, F frequency bins, N frames.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from stemsplit.dsp.stft import hann_window, istft, stft
from stemsplit.models.base import SpectralModel, StemModel


def transform(
    signal: Tensor, model: SpectralModel, *, centred: bool = True, frames: int = 0
) -> Tensor:
    """Transform as a network's mixture is transformed.

    Args:
        signal: Shape (..., T).
        model: Whose transform to take.
        centred: Frame n is centred on sample n * hop_length; else it begins there, and frames that
            the signal does not fill are left out.
        frames: Return this many, from the first; 0 for all.

    Returns:
        Complex. Shape (..., F, N).
    """
    n_fft, hop = model.n_fft, model.hop_length
    if centred:
        spectrum = stft(signal, n_fft, hop, pad_mode=model.pad_mode)
    else:
        flat = signal.reshape(-1, signal.shape[-1])
        window = hann_window(n_fft, signal)
        spectrum = torch.stft(flat, n_fft, hop, window=window, center=False, return_complex=True)
        spectrum = spectrum.unflatten(0, signal.shape[:-1])
    return spectrum[..., :frames] if frames else spectrum


class Pass:
    """What a network makes of a batch, beside what is true.

    The core runs once, whatever is asked for, in the precision that surrounds the call; everything
    behind it is computed when it is first asked for, in single precision.
    """

    def __init__(
        self,
        model: StemModel,
        mixture: Tensor,
        stems: Tensor,
        *,
        centred: bool = True,
        frames: int = 0,
    ) -> None:
        """Hold a batch.

        Args:
            model: The network.
            mixture: Shape (B, C, T).
            stems: In the order of `model.stems`. Shape (B, S, C, T).
            centred: See `transform`.
            frames: See `transform`.
        """
        self.model = model
        self.mixture = mixture
        self.stems = stems
        self.centred = centred
        self.frames = frames

    @property
    def spectral_model(self) -> SpectralModel:
        """The network, whose losses are on spectrograms.

        Raises:
            TypeError: It has none; `losses.check_terms` says so before.
        """
        if not isinstance(self.model, SpectralModel):
            raise TypeError(f"{type(self.model).__name__} has no spectrogram")
        return self.model

    def transform(self, signal: Tensor) -> Tensor:
        """Transform as the mixture is transformed. Shape: (..., T) -> (..., F, N)."""
        return transform(signal, self.spectral_model, centred=self.centred, frames=self.frames)

    @cached_property
    def spectrum(self) -> Tensor:
        """The mixture's. Shape (B, C, F, N)."""
        return self.transform(self.mixture)

    @cached_property
    def outputs(self) -> tuple[Tensor, ...]:
        """What the core gives."""
        outputs = self.model.run_core(self.spectral_model.core_inputs(self.spectrum))
        # Half precision ends here: there are no complex numbers of that size.
        return tuple(output.float() for output in outputs)

    @cached_property
    def true_spectra(self) -> Tensor:
        """Shape (B, S, C, F, N)."""
        return self.transform(self.stems)

    @cached_property
    def spectra(self) -> Tensor:
        """Shape (B, S, C, F, N)."""
        return self.spectral_model.estimate(self.outputs, self.spectrum)

    @cached_property
    def magnitudes(self) -> Tensor:
        """Shape (B, S, C, F, N)."""
        return self.spectral_model.estimate_magnitudes(self.outputs, self.spectrum)

    @cached_property
    def waveforms(self) -> Tensor:
        """Shape (B, S, C, T)."""
        if not isinstance(self.model, SpectralModel):
            waveforms: Tensor = self.model(self.mixture)
            return waveforms.float()
        return istft(self.spectra, self.model.hop_length, self.mixture.shape[-1])

    @cached_property
    def network_targets(self) -> Tensor:
        """What the core would read, were each stem the mixture. Shape: that of the core's output.

        Raises:
            ValueError: The core reads or gives several tensors, or gives what it does not read.
        """
        stems = [self.spectral_model.core_inputs(one) for one in self.true_spectra.unbind(1)]
        if len(stems[0]) != 1 or len(self.outputs) != 1:
            raise ValueError("the core reads or gives several tensors")
        targets = torch.stack([inputs[0] for inputs in stems], dim=1)
        if targets.shape != self.outputs[0].shape:
            raise ValueError(
                f"the core gives {tuple(self.outputs[0].shape)} and reads {tuple(targets.shape)}"
            )
        return targets
