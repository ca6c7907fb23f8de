"""How the authors cut a whole song for a network of fixed length, and joined what came out.

    |trim|      kept      |trim|        one piece: heard is what is kept
         |      kept      |      kept      |

stemsplit's own framing (`ChunkPlan`) has no use for this: it gives the network neighbouring audio.
"""

from __future__ import annotations

from dataclasses import dataclass

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
