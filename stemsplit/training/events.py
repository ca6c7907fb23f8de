"""What a training tells while it runs; whoever shows it decides how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Began:
    """Everything is ready; the first step comes next.

    Attributes:
        run: The folder.
        architecture: Of the network.
        stems: What is learned.
        parameters: How many weights it has.
        train_tracks: How many tracks are learned from.
        valid_tracks: How many judge it.
        batches: Of an epoch, for each process.
        max_epochs: The end.
        epoch: Where it begins, from 0: after a resume, not the first.
        device: Where it runs.
        processes: How many train together.
    """

    run: Path
    architecture: str
    stems: tuple[str, ...]
    parameters: int
    train_tracks: int
    valid_tracks: int
    batches: int
    max_epochs: int
    epoch: int
    device: str
    processes: int


@dataclass(frozen=True)
class Stepped:
    """A batch has been learned from.

    Attributes:
        epoch: From 0.
        batch: How many of the epoch are done.
        batches: Of an epoch.
        step: Steps since the run began.
        loss: Of this batch, the mean over all processes.
    """

    epoch: int
    batch: int
    batches: int
    step: int
    loss: float


@dataclass(frozen=True)
class Validated:
    """An epoch is over.

    Attributes:
        epoch: From 0.
        metrics: As in metrics.csv.
        is_best: Whether it is the best so far: its model has been exported.
    """

    epoch: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    is_best: bool = False


@dataclass(frozen=True)
class Noted:
    """Something worth knowing.

    Attributes:
        text: One sentence.
    """

    text: str


Event = Began | Stepped | Validated | Noted
OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Take an event, and do nothing with it."""
