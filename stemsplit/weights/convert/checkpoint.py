"""What every reader returns, and how each says that a file is damaged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stemsplit.errors import CheckpointError

Array = NDArray[Any]
Scalar = str | bytes | int | float | complex | bool | None


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights as flat names, whichever format it came in.

    Attributes:
        arrays: Every tensor by its name; the levels of nested containers are joined by dots. The
            arrays may be read-only views, in any memory order and byte order.
        metadata: Everything that is no tensor, under names of the same kind: epochs, versions,
            hyper-parameters.
    """

    arrays: Mapping[str, Array]
    metadata: Mapping[str, Scalar] = field(default_factory=dict)


def damaged(path: Path, reason: str) -> CheckpointError:
    """Return the error for a file that does not hold what its format demands.

    Args:
        path: The file.
        reason: What is wrong with it, with the value seen.
    """
    return CheckpointError(
        f"{path} cannot be read as weights: {reason}",
        help="it is damaged, incomplete or of another format: fetch it again from its source.",
    )


def widen_bfloat16(words: Array) -> Array:
    """Return bfloat16 numbers as float32, exactly: they are its upper 16 bits.

    Args:
        words: 16-bit unsigned integers that hold the numbers' bits.
    """
    return (words.astype(np.uint32) << 16).view(np.float32)
