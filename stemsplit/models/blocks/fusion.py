"""What a module computes around one convolution, told to whoever can do it in one go.

A module with one convolution may say so by a method `fusion`, and is then called as what replaces
it is called:

    module(*parts)             (B, C_part, H, W), read as if their channels stood side by side
    module(x, plus)            where `takes_plus`: what is added to the convolution, and may be
                               written over: it shares no channels with x

One with a matrix over frequency may say so by a method `matrix`. What replaces it is called as it
is, and its `sum_latents` too:

    module(x)                  (B, C, N, F_in) -> (B, C, N, F_out)

One whose layers each read its inputs and what all layers before them gave, the newest first, and
that gives what the last one gives, may say which these are, by a method `dense_layers`. It is
called with its parts in a sequence, of which the first may be `Pending`:

    module(parts)

One whose own children follow one another from a convolution on may say so, by a method `chains`
that gives their names. What replaces the first of them may do the work of all; the others are
identities then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn


class Fusion(NamedTuple):
    """A convolution with what stands before and behind it.

    Attributes:
        conv: The convolution.
        before: What its input goes through.
        behind: What its output goes through.
        zeros: Put above, below, left and right of the input, beside the convolution's own padding.
        gives_bare: Whether (what stands before `behind`, what stands behind it) comes out.
        takes_plus: Whether a second input is added to the convolution.
    """

    conv: nn.Conv2d | nn.ConvTranspose2d
    before: tuple[nn.Module, ...] = ()
    behind: tuple[nn.Module, ...] = ()
    zeros: tuple[int, int, int, int] = (0, 0, 0, 0)
    gives_bare: bool = False
    takes_plus: bool = False


class Mixing(NamedTuple):
    """A matrix over frequency with what stands behind it."""

    linear: nn.Linear
    norm: nn.Module
    activation: nn.Module


class Pending(NamedTuple):
    """What a layer makes of an image, for whoever can do with a part of it at a time.

    Attributes:
        layer: Reads no row of the image for two rows of what it gives.
        image: What it reads. Shape (B, C, N, F).
    """

    layer: Callable[[Tensor], Tensor]
    image: Tensor

    def compute(self) -> Tensor:
        """Return all of it."""
        return self.layer(self.image)


Part = Tensor | Pending


def settle(part: Part) -> Tensor:
    """Return an image, computed now if it has not been."""
    return part.compute() if isinstance(part, Pending) else part
