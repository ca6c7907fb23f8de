"""Which epochs are the best so far, and how long none has been better."""

from __future__ import annotations

import math
from typing import Any


class Ranking:
    """The best epochs by a score of which less is better."""

    def __init__(self, keep: int, min_delta: float, monitor: str = "loss") -> None:
        """Begin without any.

        Args:
            keep: How many to remember.
            min_delta: What patience counts as better.
            monitor: What the scores are: those of another kind cannot be compared with.
        """
        self._keep = keep
        self._min_delta = min_delta
        self._monitor = monitor
        self._best: list[tuple[float, int]] = []
        # What patience compares with, and since when.
        self._mark = math.inf
        self._marked: int | None = None

    @property
    def epochs(self) -> list[int]:
        """The best epochs, the best first; of equal ones, the earlier."""
        return [epoch for _, epoch in self._best]

    def add(self, epoch: int, score: float) -> bool:
        """Take in an epoch's score, and return whether it is the best of all."""
        self._best = sorted([*self._best, (score, epoch)])[: self._keep]
        if score < self._mark - self._min_delta:
            self._mark, self._marked = score, epoch
        return self._best[0] == (score, epoch)

    def count_since_better(self, epoch: int) -> int:
        """Return for how many epochs, this one included, nothing has been better.

        Before the first score there is nothing to wait for.
        """
        return 0 if self._marked is None else epoch - self._marked

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint has to hold."""
        best = [[score, epoch] for score, epoch in self._best]
        mark = {"mark": self._mark, "marked": self._marked}
        return {"monitor": self._monitor, "best": best, **mark}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint, or begin without any where its scores are of another kind."""
        if state.get("monitor") != self._monitor:
            return
        self._best = [(score, epoch) for score, epoch in state["best"]]
        self._mark, self._marked = state["mark"], state["marked"]
