"""Changes to the stems of a batch before they are mixed, on the device where the batch is.

What happens is a few numbers per stem, drawn by a generator; with one on the processor they are the
same for every device. What is done with the samples is done where they are.

Letters in shapes: B items, S stems, C channels, T samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from stemsplit.errors import UsageError
from stemsplit.training.stretch import shift_pitch, stretch

MAX_SEMITONES = 12.0
MAX_TEMPO = 0.5


@dataclass(frozen=True)
class AugmentConfig:
    """What may happen to the stems of a batch. By default, nothing.

    Attributes:
        peak_normalise: Divide every item by the largest peak among its mixture and its stems, also
            those that judge.
        gain_low: Every stem is multiplied by a number of its own, evenly from here
        gain_high: to here.
        swap_p: Share of the stems whose channels change places.
        polarity_p: Share of the stems that are turned upside down.
        silence_p: Share of the stems that are silenced; one of each item stays.
        item_gain_db: All stems of an item together change by up to so much, up or down,
        item_gain_p: in this share of the batches.
        pitch_semitones: All stems of an item are shifted by the same number, up to so many,
        tempo: and their tempo changes by up to this share, up or down,
        stretch_p: in this share of the items.
    """

    peak_normalise: bool = False
    gain_low: float = 1.0
    gain_high: float = 1.0
    swap_p: float = 0.0
    polarity_p: float = 0.0
    silence_p: float = 0.0
    item_gain_db: float = 0.0
    item_gain_p: float = 0.5
    pitch_semitones: float = 0.0
    tempo: float = 0.0
    stretch_p: float = 0.2

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: A number out of range.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_p") and not 0 <= value <= 1:
                raise UsageError(f"augment.{field.name} is {value}", help="a share is from 0 to 1.")
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"augment.{field.name} is {value}", help="give a number from 0.")
        if self.gain_low > self.gain_high:
            raise UsageError(
                f"augment.gain_low is {self.gain_low}, and gain_high {self.gain_high}",
                help="give the smaller number first.",
            )
        for name, most in (("pitch_semitones", MAX_SEMITONES), ("tempo", MAX_TEMPO)):
            if getattr(self, name) > most:
                raise UsageError(
                    f"augment.{name} is {getattr(self, name)}", help=f"give at most {most:g}."
                )


def seed_step(seed: int, epoch: int, step: int, rank: int = 0) -> torch.Generator:
    """Return a generator for one step of one process: the same again after a resumption."""
    (number,) = np.random.SeedSequence((seed, epoch, step, rank)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(number) >> 1)


def count_read(samples: int, config: AugmentConfig) -> int:
    """Return how many samples have to be read, so that a faster tempo leaves enough of them."""
    return samples if not config.tempo else math.ceil(samples * (1 + config.tempo))


Draw = Callable[..., Tensor]
"""Shape -> numbers from 0 to 1."""


def augment(
    stems: Tensor, config: AugmentConfig, generator: torch.Generator, samples: int | None = None
) -> Tensor:
    """Change the stems of a batch.

    Args:
        stems: Shape (B, S, C, T).
        config: What may happen.
        generator: On any device; see `seed_step`.
        samples: T', what is returned; None for as many as `count_read` gives T for.

    Returns:
        Shape (B, S, C, T'). `stems` itself where nothing happens.
    """
    batch, count = stems.shape[:2]
    if samples is None:
        samples = int(stems.shape[-1] / (1 + config.tempo) + 1e-6)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device).cpu()

    if config.pitch_semitones or config.tempo:
        # For each item: whether, and how far.
        chosen = draw(batch, 3)
        stems = torch.stack(
            [
                _stretch(item, config, numbers, samples)
                for item, numbers in zip(stems, chosen.tolist(), strict=True)
            ]
        )
    stems = stems[..., :samples]
    if config.peak_normalise:
        stems = normalise_peaks(stems)
    if config.swap_p:
        swapped = (draw(batch, count) < config.swap_p).to(stems.device)
        stems = torch.where(swapped[..., None, None], stems.flip(2), stems)
    gains = _draw_gains(config, draw, batch, count)
    return stems if gains is None else stems * gains[..., None, None].to(stems.device)


def _draw_gains(config: AugmentConfig, draw: Draw, batch: int, count: int) -> Tensor | None:
    """Return what every stem is multiplied by, all in one. Shape (B, S); None for nothing."""
    gains = torch.ones(batch, count)
    if config.gain_low != 1 or config.gain_high != 1:
        span = config.gain_high - config.gain_low
        gains = gains * (config.gain_low + span * draw(batch, count))
    if config.polarity_p:
        gains = torch.where(draw(batch, count) < config.polarity_p, -gains, gains)
    if config.silence_p:
        silent = draw(batch, count) < config.silence_p
        # Of an item that would be silence, one stem stays.
        stays = draw(batch, count).argmax(dim=1, keepdim=True)
        kept = torch.zeros(batch, count, dtype=torch.bool).scatter(1, stays, value=True)
        silent &= ~(kept & silent.all(dim=1, keepdim=True))
        gains = gains.masked_fill(silent, 0)
    if config.item_gain_db:
        is_chosen, level = draw(1), draw(batch, 1)
        if float(is_chosen) < config.item_gain_p:
            gains = gains * 10 ** (config.item_gain_db * (2 * level - 1) / 20)
    return None if bool((gains == 1).all()) else gains


def normalise_peaks(stems: Tensor) -> Tensor:
    """Divide every item by the largest peak of its mixture and its stems; silence stays.

    Shape: (B, S, C, T), the same.
    """
    mixture = stems.sum(dim=1, keepdim=True)
    peaks = torch.maximum(stems.abs().amax((1, 2, 3)), mixture.abs().amax((1, 2, 3)))
    peaks = torch.where(peaks > 0, peaks, 1)
    return stems / peaks[:, None, None, None]


def _stretch(item: Tensor, config: AugmentConfig, numbers: list[float], samples: int) -> Tensor:
    """Change pitch and tempo of one item. Shape (S, C, T) -> (S, C, T')."""
    whether, tempo, pitch = numbers
    if whether >= config.stretch_p:
        return item[..., :samples]
    if config.tempo:
        rate = 1 + config.tempo * (2 * tempo - 1)
        item = stretch(item[..., : math.ceil(samples * rate)], rate, samples)
    if config.pitch_semitones:
        item = shift_pitch(item[..., :samples], config.pitch_semitones * (2 * pitch - 1))
    return item[..., :samples]
