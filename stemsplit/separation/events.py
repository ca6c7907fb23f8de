"""What a separation says while it runs, in the order in which it says it.

    Started, then any number of StemBlock, Progress and Notice, then Finished.

All counts of samples are at the source's own sample rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@dataclass(frozen=True)
class Started:
    """The source is open and the plan is made.

    Attributes:
        source: The path, or a name for what came as an array.
        sample_rate: Hz, of the source and of every stem.
        channels: Of every stem: 1 for a mono source, else 2.
        stems: Names of the stems that will come, derived ones (residual, no_vocals) last.
        total_samples: Announced length; None where the container does not say.
        device: Where the network runs.
        backend: What computes it there: "torch", "compile" or "openvino".
        precision: In what numbers: "fp32", "bf16" or "fp16".
    """

    source: str
    sample_rate: int
    channels: int
    stems: tuple[str, ...]
    total_samples: int | None
    device: str
    backend: str
    precision: str


@dataclass(frozen=True)
class StemBlock:
    """The next samples of every stem; blocks join without gap or overlap.

    Attributes:
        start: Position of the first sample.
        stems: Float32 on the CPU by stem name. Shape (C, n), the same n for all.
    """

    start: int
    stems: Mapping[str, Tensor]


@dataclass(frozen=True)
class Progress:
    """How far it is.

    Attributes:
        done_samples: Samples of every stem that have been handed over.
        total_samples: Of the whole; None while that is unknown.
        sample_rate: Hz.
        elapsed_s: Since `Started`.
    """

    done_samples: int
    total_samples: int | None
    sample_rate: int
    elapsed_s: float

    @property
    def speed(self) -> float:
        """Seconds of audio per second of work."""
        return self.done_samples / self.sample_rate / max(self.elapsed_s, 1e-9)

    @property
    def remaining_s(self) -> float | None:
        """Seconds of work left at this speed; None while the length or the speed is unknown."""
        if self.total_samples is None or self.done_samples == 0:
            return None
        left_s = max(0, self.total_samples - self.done_samples) / self.sample_rate
        return left_s / self.speed


@dataclass(frozen=True)
class Notice:
    """Something the person should know; the work goes on.

    Attributes:
        message: One sentence.
    """

    message: str


@dataclass(frozen=True)
class Finished:
    """All blocks have been handed over.

    Attributes:
        samples: Length of every stem.
        sample_rate: Hz.
        elapsed_s: Since `Started`.
    """

    samples: int
    sample_rate: int
    elapsed_s: float


Event = Started | StemBlock | Progress | Notice | Finished
