"""How good a network is, on tracks that it has never learned from.

The loss on excerpts, and scores of whole tracks as the separator that people use takes them apart.
Several processes share the excerpts and the tracks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stemsplit.datasets import AudioFile, Index, Track, read_excerpt
from stemsplit.evaluation.whole_track import usdr
from stemsplit.models.base import StemModel
from stemsplit.separation.separator import Separator
from stemsplit.training.augment import normalise_peaks
from stemsplit.training.loader import select_stems
from stemsplit.training.losses import LossConfig, build_loss
from stemsplit.training.processes import gather_from_all, sum_over_all
from stemsplit.training.recipe import RecipeConfig


@dataclass(frozen=True)
class Excerpt:
    """Where an excerpt for validation is.

    Attributes:
        track: Which one.
        start: Its first sample.
        count: How many samples; those behind the track's end are zeros.
    """

    track: Track
    start: int
    count: int


def place_excerpts(
    tracks: Sequence[Track], index: Index, count: int, per_track: int
) -> list[Excerpt]:
    """Return the excerpts that a validation hears, always the same.

    Args:
        tracks: All of them are heard.
        index: Their lengths.
        count: Length of an excerpt, in samples.
        per_track: How many of each, evenly spread; 0 for all that fit side by side, at least one.
    """
    excerpts = []
    for track in tracks:
        room = max(0, index.tracks[track.name].samples - count)
        fitting = room // count + 1
        number = min(per_track, fitting) if per_track else fitting
        step = room / (number - 1) if number > 1 else 0.0
        starts = [round(place * step) for place in range(number)]
        if not per_track or number == fitting:
            starts = [place * count for place in range(number)]
        excerpts += [Excerpt(track, start, count) for start in starts]
    return excerpts


class Validator:
    """Judges snapshots of a network.

    Attributes:
        tracks: For the loss, all; for scores, the first `recipe.validation.tracks` of them.
    """

    def __init__(
        self,
        recipe: RecipeConfig,
        tracks: Sequence[Track],
        index: Index,
        dataset_stems: Sequence[str],
        excerpt_samples: int,
    ) -> None:
        """Choose what is heard.

        Args:
            recipe: Its loss, and how it validates.
            tracks: The validation tracks.
            index: Their lengths.
            dataset_stems: In order.
            excerpt_samples: Length of an excerpt.
        """
        settings = recipe.validation
        terms = settings.terms
        config: LossConfig = recipe.loss
        if terms:
            config = replace(config, terms=terms, weights=(), centred=True, frames=0)
        self.tracks = tuple(tracks)
        self._loss = build_loss(config)
        self._index = index
        self._recipe = recipe
        self._dataset_stems = tuple(dataset_stems)
        self._excerpts = place_excerpts(tracks, index, excerpt_samples, settings.excerpts)
        self._scored = self.tracks if settings.tracks < 0 else self.tracks[: settings.tracks]

    @torch.no_grad()
    def measure_loss(
        self, model: StemModel, rank: int, world: int, check: Callable[[], None]
    ) -> float:
        """Return the mean loss of all excerpts.

        Args:
            model: In evaluation mode, on its device.
            rank: This process's number.
            world: How many processes.
            check: Called before every batch; what it raises ends the work.
        """
        device = next(model.parameters()).device
        totals = torch.zeros(2, dtype=torch.float64)
        for batch in self._read_batches(self._excerpts[rank::world]):
            check()
            batch = batch.to(device)
            if self._recipe.augment.peak_normalise:
                # That is no chance, but the level at which the network learns.
                batch = normalise_peaks(batch)
            mixture, stems = select_stems(batch, self._dataset_stems, model.stems)
            loss = float(self._loss(model, mixture, stems))
            totals += torch.tensor([loss * len(batch), len(batch)], dtype=torch.float64)
        total, count = sum_over_all(totals, device).tolist()
        return float(total / count) if count else math.nan

    def _read_batches(self, excerpts: Sequence[Excerpt]) -> Iterator[Tensor]:
        """Yield batches of stems, the next one read meanwhile. Shape (B, S, C, T)."""
        size = self._recipe.training.batch
        groups = [excerpts[start : start + size] for start in range(0, len(excerpts), size)]
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self._read_group, groups[0]) if groups else None
            for after in [*groups[1:], None][: len(groups)]:
                assert waiting is not None
                batch = waiting.result()
                waiting = None if after is None else pool.submit(self._read_group, after)
                yield batch

    def _read_group(self, excerpts: Sequence[Excerpt]) -> Tensor:
        return torch.stack([self._read(one.track, one.start, one.count) for one in excerpts])

    def _read(self, track: Track, start: int, count: int) -> Tensor:
        """Read all stems of a track. Shape (S, C, count)."""
        return self._read_files([track.stems[stem] for stem in self._dataset_stems], start, count)

    def _read_files(self, files: Sequence[AudioFile], start: int, count: int) -> Tensor:
        """Read the same part of several recordings. Shape (files, C, count)."""
        channels = self._recipe.model.channels
        read = torch.empty(len(files), channels, count)
        for slot, file in zip(read, files, strict=True):
            samples = torch.from_numpy(read_excerpt(file, start, count))
            # As in training: one channel is heard on all, several are one channel's mean.
            slot[:] = samples.mean(dim=0) if channels == 1 else samples
        return read

    @torch.no_grad()
    def score(
        self, model: StemModel, rank: int, world: int, check: Callable[[], None]
    ) -> dict[str, float]:
        """Return each stem's uSDR on whole tracks, the mean over tracks.

        Args:
            model: In evaluation mode, on its device; it may stay changed.
            rank: This process's number.
            world: How many processes.
            check: Called before every track; what it raises ends the work.
        """
        device = str(next(model.parameters()).device)
        separator = Separator(model, device=device, backend="torch")
        scores: dict[str, list[float]] = {stem: [] for stem in model.stems}
        for track in self._scored[rank::world]:
            check()
            samples = self._index.tracks[track.name].samples
            whole = self._read(track, 0, samples).unsqueeze(0)
            mixture, stems = select_stems(whole, self._dataset_stems, model.stems)
            if track.mixture is not None:
                # As it was published: what people separate, also where it is not quite the sum.
                mixture = self._read_files([track.mixture], 0, samples)
            found = separator.separate(mixture[0], model.sample_rate, on_event=lambda _: check())
            for stem, true in zip(model.stems, stems[0], strict=True):
                scores[stem].append(usdr(true, found[stem]))
        every = gather_from_all(scores)
        joined = {stem: [v for part in every for v in part[stem]] for stem in scores}
        return {stem: sum(values) / len(values) for stem, values in joined.items() if values}
