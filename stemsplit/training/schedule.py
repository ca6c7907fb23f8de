"""The learning rate: a factor for every step, decided by epoch and step alone, or by the scores."""

from __future__ import annotations

import math
from typing import Any

from stemsplit.training.recipe import ScheduleConfig


class Schedule:
    """What multiplies the learning rate. See `ScheduleConfig` for the kinds.

    Its state is what "plateau" has seen; all others need none.
    """

    def __init__(self, config: ScheduleConfig, max_epochs: int) -> None:
        """Begin at the first epoch.

        Args:
            config: Which schedule.
            max_epochs: Where "cosine" ends.
        """
        self.config = config
        self.max_epochs = max_epochs
        self._best = math.inf
        self._bad_epochs = 0
        self._cooling = 0
        self._plateau = 1.0

    def find_factor(self, epoch: int, share: float, step: int) -> float:
        """Return the factor of the next step.

        Args:
            epoch: From 0.
            share: How much of the epoch is over, 0 to 1; only "cosine" moves inside an epoch.
            step: From 0.
        """
        warmup = self.config.warmup_steps
        return self._follow(epoch, share) * (min(1.0, (step + 1) / warmup) if warmup else 1.0)

    def _follow(self, epoch: int, share: float) -> float:
        config = self.config
        if config.name == "plateau":
            return self._plateau
        if config.name == "step":
            return math.pow(config.factor, sum(epoch >= one for one in config.milestones))
        if config.name == "cosine":
            over = min(1.0, (epoch + share) / self.max_epochs)
            return config.least + (1 - config.least) * (1 + math.cos(math.pi * over)) / 2
        if config.name == "exponential":
            return math.pow(config.factor, epoch)
        if config.name == "warmup-decay":
            if epoch < config.decay_from:
                return math.pow(0.1, config.decay_from - epoch)
            return math.pow(config.factor, epoch - config.decay_from)
        return 1.0

    def observe(self, loss: float) -> None:
        """Take in an epoch's validation loss: "plateau" reads it, as torch's own does."""
        if self.config.name != "plateau":
            return
        if loss < self._best * (1 - self.config.threshold):
            self._best = loss
            self._bad_epochs = 0
        else:
            self._bad_epochs += 1
        if self._cooling:
            self._cooling -= 1
            self._bad_epochs = 0
        if self._bad_epochs > self.config.patience:
            self._plateau *= self.config.factor
            self._cooling = self.config.cooldown
            self._bad_epochs = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint has to hold."""
        return {
            "best": self._best,
            "bad_epochs": self._bad_epochs,
            "cooling": self._cooling,
            "plateau": self._plateau,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._best = state["best"]
        self._bad_epochs = state["bad_epochs"]
        self._cooling = state["cooling"]
        self._plateau = state["plateau"]
