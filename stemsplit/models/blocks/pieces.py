"""How the authors cut a whole song for a network of fixed length, and joined what came out.

    |trim|      kept      |trim|        one piece: heard is what is kept
         |      kept      |      kept      |

stemsplit's own framing (`ChunkPlan`) has no use for this: it gives the network neighbouring audio.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Pieces:
    """A song as pieces side by side.

    Attributes:
        window: Samples of a piece.
        trim: Samples at either end of it that are not heard.
        isolated: Whether zeros stand there, instead of the neighbouring audio.
        extra: Whether a piece of zeros follows where the song divides evenly.
    """

    window: int
    trim: int
    isolated: bool
    extra: bool = False

    @property
    def kept(self) -> int:
        """Samples of a piece that are heard."""
        return self.window - 2 * self.trim

    def count(self, samples: int) -> int:
        """Return how many pieces, K, a song of so many samples has."""
        return samples // self.kept + 1 if self.extra else -(-samples // self.kept)

    def cut(self, song: Tensor) -> Tensor:
        """Cut songs into pieces. Shape: (B, C, T) -> (B * K, C, window)."""
        samples = song.shape[-1]
        count = self.count(samples)
        behind = count * self.kept - samples
        if self.isolated:
            pieces = functional.pad(song, (0, behind)).unflatten(-1, (count, self.kept))
            pieces = functional.pad(pieces, (self.trim, self.trim))
        else:
            wide = functional.pad(song, (self.trim, behind + self.trim))
            pieces = wide.unfold(-1, self.window, self.kept)
        flat: Tensor = pieces.transpose(1, 2).flatten(0, 1)
        return flat

    def join(self, pieces: Tensor, samples: int) -> Tensor:
        """Join pieces to songs of `samples`. Shape: (B * K, S, C, window) -> (B, S, C, samples)."""
        heard = pieces[..., self.trim : self.trim + self.kept]
        songs = heard.unflatten(0, (-1, self.count(samples))).permute(0, 2, 3, 1, 4)
        joined: Tensor = songs.flatten(-2)[..., :samples]
        return joined


@dataclass(frozen=True)
class OverlappedPieces(Pieces):
    """Pieces that begin before the last one's kept samples end: there, each counts by half.

    Choi's code for LaSAFT gives a piece its neighbouring audio where there is `trim` of it, and
    zeros where there is less; a piece whose right side is less, although it ends within the song,
    counts in full.

    Attributes:
        step: Samples from one piece's beginning to the next one's; half of `kept` or more.
    """

    step: int = field(kw_only=True)

    def count(self, samples: int) -> int:
        """Return how many pieces, K, a song of so many samples has."""
        return max(1, -(-(samples - self.kept) // self.step) + 1)

    def cut(self, song: Tensor) -> Tensor:
        """Cut songs into pieces. Shape: (B, C, T) -> (B * K, C, window)."""
        pieces = []
        for start, before, behind, _ in self._places(song.shape[-1]):
            heard = song[..., start - before : start + self.kept + behind]
            left = self.trim - before
            pieces.append(functional.pad(heard, (left, self.window - left - heard.shape[-1])))
        return torch.stack(pieces, dim=1).flatten(0, 1)

    def join(self, pieces: Tensor, samples: int) -> Tensor:
        """Add pieces up to songs. Shape: (B * K, S, C, window) -> (B, S, C, samples)."""
        kept = pieces[..., self.trim : self.trim + self.kept]
        kept = kept.unflatten(0, (-1, self.count(samples)))
        songs: Tensor = kept.new_zeros(kept.shape[0], *kept.shape[2:-1], samples)
        for index, (start, _, _, (first, last)) in enumerate(self._places(samples)):
            gains = kept.new_ones(self.kept)
            gains[: self.kept - self.step] *= first
            gains[self.step :] *= last
            place = songs[..., start : start + self.kept]
            place += (kept[:, index] * gains)[..., : place.shape[-1]]
        return songs

    def _places(self, samples: int) -> Iterator[tuple[int, int, int, tuple[float, float]]]:
        """Yield where each piece's kept samples begin, its audio around them, its ends' gains."""
        for index in range(self.count(samples)):
            start = index * self.step
            end = start + self.kept
            before = self.trim if start >= self.trim else 0
            first = 0.5 if start > 0 else 1.0
            if end > samples:
                yield start, before, 0, (first, 1.0)
            elif end + self.trim < samples:
                yield start, before, self.trim, (first, 0.5)
            else:
                yield start, before, 0, (1.0, 1.0)
