"""Mean and deviation of mixtures' magnitudes by frequency: how Open-Unmix scales its input.

As in "Open-Unmix - A Reference Implementation for Music Source Separation" (Stoter et al., 2019)
and its training code: every whole frame of every training mixture counts once, channels are
averaged after the magnitude, frames are not centred, and the deviation is at least 1e-4 of its
highest value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from stemsplit.datasets.excerpts import read_excerpt, read_info
from stemsplit.datasets.index import Index, Statistics, digest_file, fingerprint, parts_of_mixture
from stemsplit.datasets.track import Dataset, Track
from stemsplit.errors import DatasetError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

_FLOOR: Final = 1e-4
_BLOCK_FRAMES: Final = 256


class Moments:
    """Mean and variance of vectors that come in batches, in float64.

    Batches are merged by Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for
    Computing Sample Variances" (1979), equation 2.1: nothing cancels.

    Attributes:
        count: Vectors so far.
        mean: Of each component. Shape: (F,).
        squares: Sum of squared differences from the mean. Shape: (F,).
    """

    def __init__(self, size: int) -> None:
        """Start with none, of `size` components."""
        self.count = 0
        self.mean: NDArray[np.float64] = np.zeros(size)
        self.squares: NDArray[np.float64] = np.zeros(size)

    def feed(self, batch: NDArray[np.float64]) -> None:
        """Take more vectors. Shape: (n, F), n of 1 or more."""
        count = len(batch)
        mean = batch.mean(axis=0)
        total = self.count + count
        gap = mean - self.mean
        self.squares += ((batch - mean) ** 2).sum(axis=0) + gap**2 * (self.count * count / total)
        self.mean += gap * (count / total)
        self.count = total


def compute_statistics(
    tracks: Sequence[Track],
    n_fft: int,
    hop_length: int,
    *,
    on_track: Callable[[str], None] | None = None,
    digest: Callable[[Path], str] = digest_file,
) -> Statistics:
    """Read all mixtures once, in blocks; where a track has none, its stems are summed.

    Args:
        tracks: Those for training, in wav or flac.
        n_fft: Window length in samples.
        hop_length: Distance of frames in samples.
        on_track: Called with the name of each track before it is read.
        digest: Returns a recording's hash.

    Raises:
        DatasetError: A file cannot be read, or all tracks are shorter than one window.
        UsageError: No such transform is possible.
    """
    if not 0 < hop_length <= n_fft or n_fft < 2 or n_fft % 2:
        raise UsageError(
            f"statistics of windows of {n_fft} samples every {hop_length} are not possible",
            help="give an even window and a hop that is not longer, such as 4096:1024.",
        )
    moments = Moments(n_fft // 2 + 1)
    for track in tracks:
        if on_track is not None:
            on_track(track.name)
        for magnitudes in _transform(track, n_fft, hop_length):
            moments.feed(magnitudes)
    if not moments.count:
        raise DatasetError(
            f"none of {len(tracks)} tracks is as long as one window of {n_fft} samples",
            help="add longer tracks, or ask for a shorter window.",
        )
    deviation = np.sqrt(moments.squares / moments.count)
    scale = np.maximum(deviation, _FLOOR * deviation.max())
    of = fingerprint(tracks, digest)
    return Statistics(n_fft, hop_length, moments.mean, scale, of)


def find_statistics(dataset: Dataset, index: Index, n_fft: int, hop_length: int) -> Statistics:
    """Return the index's statistics of the training tracks; where it has none, compute them.

    Raises:
        DatasetError: As `compute_statistics`.
        UsageError: As `compute_statistics`.
    """
    for stored in index.statistics:
        if (stored.n_fft, stored.hop_length) == (n_fft, hop_length):
            return stored
    return compute_statistics(dataset.select("train"), n_fft, hop_length)


def _transform(track: Track, n_fft: int, hop_length: int) -> Iterator[NDArray[np.float64]]:
    """Yield magnitudes of whole frames. Shape: (frames, F)."""
    import torch

    from stemsplit.dsp.stft import hann_window

    files = parts_of_mixture(track)
    samples = max(read_info(file).samples for file in files)
    frames = (samples - n_fft) // hop_length + 1 if samples >= n_fft else 0
    for first in range(0, frames, _BLOCK_FRAMES):
        count = min(_BLOCK_FRAMES, frames - first)
        length = (count - 1) * hop_length + n_fft
        parts = [read_excerpt(file, first * hop_length, length) for file in files]
        block: Tensor = torch.from_numpy(sum(parts[1:], parts[0]))
        spectrum = torch.stft(
            block,
            n_fft,
            hop_length,
            window=hann_window(n_fft, block),
            center=False,
            return_complex=True,
        )
        yield spectrum.abs().mean(dim=0).T.double().numpy()
