"""A track's true stems, and all that follows from them: its mixture, and the rest of a stem.

True stems and mixtures are taken in 16 bits, held at full scale, as the musdb package reads every
file. It matters: MUSDB18's files have nothing above 16 kHz, and with less noise there than 16 bits
have, the filters of BSS Eval fit what is chance: SIR and SAR come out up to 10 dB lower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stemsplit.audio import decode_blocks
from stemsplit.datasets.excerpts import SEEKABLE
from stemsplit.datasets.track import AudioFile, Track
from stemsplit.errors import AudioError
from stemsplit.evaluation.pairing import ACCOMPANIMENT, VOCALS

MEND_S = 0.1
"""By how much lengths may differ. Lossy formats pad by up to 0.07 s; other songs differ by more."""

_STEPS = 2**15


@dataclass(frozen=True)
class Recording:
    """Decoded sound.

    Attributes:
        samples: Float32. Shape (C, T).
        sample_rate: Hz.
        warnings: What the decoder had to say.
    """

    samples: Tensor
    sample_rate: int
    warnings: tuple[str, ...]


def read_recording(file: AudioFile) -> Recording:
    """Decode a file from beginning to end.

    Raises:
        DecodeError: It cannot be read as audio.
        UsageError: It has no such stream.
    """
    warnings: list[str] = []
    with decode_blocks(file.path, stream=file.stream, on_warning=warnings.append) as blocks:
        pieces = [torch.from_numpy(block) for block in blocks]
        return Recording(torch.cat(pieces, dim=1), blocks.sample_rate, tuple(warnings))


def read_true(file: AudioFile) -> Recording:
    """Decode a file from beginning to end, and take it in 16 bits as musdb does.

    Raises:
        DecodeError: It cannot be read as audio.
        UsageError: It has no such stream.
    """
    recording = read_recording(file)
    samples = recording.samples.mul_(_STEPS).round_()
    warnings = recording.warnings
    # A lossy file goes beyond by nature; of others it is to be known. Full scale itself, one step
    # more than there is, does not count.
    if file.path.suffix.lower() in SEEKABLE and (beyond := int((samples.abs() > _STEPS).sum())):
        warnings = (*warnings, f"{beyond} samples beyond full scale are held there, as in musdb")
    samples.clamp_(-_STEPS, _STEPS - 1).div_(_STEPS)
    return Recording(samples, recording.sample_rate, warnings)


@dataclass(frozen=True)
class References:
    """A track's true stems, as long as its mixture and at its rate.

    Attributes:
        stems: By name. Shape of each: (C, T).
        mixture: As published, or the sum of the stems. Shape (C, T).
        sample_rate: Hz.
        notes: What was mended, and what the decoder had to say.
    """

    stems: Mapping[str, Tensor]
    mixture: Tensor
    sample_rate: int
    notes: tuple[str, ...] = ()

    @property
    def has_rest(self) -> bool:
        """Whether a single stem leaves anything: other stems, or a mixture that has more."""
        return len(self.stems) > 1 or not torch.equal(self.mixture, *self.stems.values())

    def find(self, stem: str) -> Tensor:
        """Return a true stem; for "accompaniment" and "no_STEM" what the others sum up to.

        Where there are no others, it is the mixture less the stem. Shape (C, T).
        """
        if stem in self.stems:
            return self.stems[stem]
        left_out = VOCALS if stem == ACCOMPANIMENT else stem.removeprefix("no_")
        others = [samples for name, samples in self.stems.items() if name != left_out]
        if left_out == ACCOMPANIMENT and VOCALS in self.stems:
            others = [self.stems[VOCALS]]
        if not others:
            return self.mixture - self.stems[left_out]
        return _add_up(others)


def read_references(track: Track) -> References:
    """Decode a track's stems and its mixture.

    Raises:
        AudioError: One cannot be read, or they differ in rate, channels, or by more than
            `MEND_S` in length.
    """
    found = {stem: read_true(file) for stem, file in track.stems.items()}
    whole = None if track.mixture is None else read_true(track.mixture)
    rate = (whole or next(iter(found.values()))).sample_rate
    longest = max(recording.samples.shape[1] for recording in found.values())
    length = longest if whole is None else whole.samples.shape[1]
    channels = (whole or next(iter(found.values()))).samples.shape[0]
    notes: list[str] = []
    stems = {
        stem: fit(recording, rate, channels, length, f"the true {stem}", notes)
        for stem, recording in found.items()
    }
    if whole is None:
        return References(stems, _add_up([*stems.values()]), rate, tuple(notes))
    notes.extend(f"the mixture: {warning}" for warning in whole.warnings)
    return References(stems, whole.samples, rate, tuple(notes))


def fit(
    recording: Recording, rate: int, channels: int, length: int, what: str, notes: list[str]
) -> Tensor:
    """Return the samples at a length: silence behind them, or their end cut off.

    Args:
        recording: What was decoded.
        rate: What it has to have, Hz.
        channels: What it has to have.
        length: What it is to be, in samples.
        what: For messages.
        notes: Gets a line where something was mended, and the decoder's warnings.

    Returns:
        Shape (channels, length).

    Raises:
        AudioError: Another rate, other channels, or more to mend than `MEND_S`.
    """
    samples = recording.samples
    notes.extend(f"{what}: {warning}" for warning in recording.warnings)
    if recording.sample_rate != rate:
        raise AudioError(
            f"{what} has {recording.sample_rate} Hz and the track {rate} Hz",
            help="bring all of a track to one rate; scores at another are other scores.",
        )
    if samples.shape[0] != channels:
        raise AudioError(
            f"{what} has {_count(samples.shape[0])} and the track {_count(channels)}",
            help="give stems and estimates as many channels as the mixture has.",
        )
    missing = length - samples.shape[1]
    if abs(missing) > MEND_S * rate:
        raise AudioError(
            f"{what} is {abs(missing) / rate:.2f} s {'shorter' if missing > 0 else 'longer'} than "
            f"the track of {length / rate:.2f} s",
            help=f"up to {MEND_S} s is padded or cut; check that it is the same song, whole.",
        )
    if not missing:
        return samples
    notes.append(f"{what}: {'padded' if missing > 0 else 'cut'} by {abs(missing)} samples")
    return torch.nn.functional.pad(samples, (0, missing))


def _add_up(signals: Sequence[Tensor]) -> Tensor:
    """Return the sum, without a copy of all. Shape: (C, T) each -> (C, T)."""
    total = signals[0].clone()
    for signal in signals[1:]:
        total += signal
    return total


def _count(channels: int) -> str:
    return "1 channel" if channels == 1 else f"{channels} channels"
