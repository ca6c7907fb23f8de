"""What a U-Net's level gives to the next, for whoever computes it in step with what reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor


class Pending(Protocol):
    """What a layer makes of an image. See `stemsplit.models.blocks.fusion`."""

    @property
    def layer(self) -> Callable[[Tensor], Tensor]:
        """The layer."""

    @property
    def image(self) -> Tensor:
        """What it reads."""

    def compute(self) -> Tensor:
        """Return all of it."""
