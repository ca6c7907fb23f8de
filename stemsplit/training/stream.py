"""The batches of a run, from where it stands to where it ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stemsplit.training.loader import ExcerptLoader, Excerpts
from stemsplit.training.recipe import TrainingConfig


@dataclass
class Position:
    """How far a training has come.

    Attributes:
        epoch: From 0.
        batch: How many batches of that epoch are done; all of them while it is validated.
        step: Steps of the optimiser since the run began.
        is_judged: Whether the run's steps have ended within this epoch, and it was validated there.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    is_judged: bool = False


class BatchStream:
    """All batches that are still to come, epoch after epoch, as Lightning takes them.

    Attributes:
        position: Where the run stands; who learns from a batch moves it.
        per_epoch: Batches of an epoch.
    """

    def __init__(self, loader: ExcerptLoader, settings: TrainingConfig, position: Position) -> None:
        """Count what is left.

        Args:
            loader: Gives the batches of one epoch.
            settings: How many epochs and steps there are.
            position: Where to begin.
        """
        self.position = position
        self._loader = loader
        self._settings = settings
        every = min(len(loader), settings.batches_per_epoch or len(loader))
        # A step never mixes epochs.
        self.per_epoch = max(1, every // settings.accumulate) * settings.accumulate
        # As many as when it was made: Lightning asks more than once.
        self._left = self._count_left()

    @property
    def is_pending(self) -> bool:
        """Whether the batches of an epoch are over, and it has not been validated."""
        if self.position.batch >= self.per_epoch:
            return True
        is_within = self.position.batch > 0 and not self.position.is_judged
        # The last step is whole: what is accumulated for another one is not learned from.
        is_step = self.position.batch % self._settings.accumulate == 0
        return self._has_all_steps and is_within and is_step

    @property
    def is_over(self) -> bool:
        """Whether nothing is left, not even an epoch that has not been validated."""
        is_last = self.position.epoch >= self._settings.max_epochs
        return is_last or (self._has_all_steps and not self.is_pending)

    @property
    def _has_all_steps(self) -> bool:
        return bool(self._settings.max_steps) and self.position.step >= self._settings.max_steps

    def _count_left(self) -> int:
        if self.is_over:
            return 0
        done = self.position.epoch * self.per_epoch + self.position.batch
        left = self._settings.max_epochs * self.per_epoch - done
        if self._settings.max_steps:
            steps = self._settings.max_steps - self.position.step
            left = min(left, steps * self._settings.accumulate)
        # Where only a validation is left, Lightning has to begin, too.
        return max(1, left)

    def __len__(self) -> int:
        """Return how many batches were left at the beginning."""
        return self._left

    def __iter__(self) -> Iterator[Excerpts]:
        """Yield them."""
        while not self.is_over:
            epoch, start = self.position.epoch, self.position.batch
            self._loader.set_epoch(epoch, start)
            batches = iter(self._loader)
            for _ in range(start, self.per_epoch):
                yield next(batches)
            if self.position.epoch == epoch:
                return
