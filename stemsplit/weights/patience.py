"""How long to wait for web servers, as data."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    """How long to bear with a server.

    Attributes:
        timeout_s: For a connection, and the longest silence while bytes arrive.
        attempts: Failures in a row, without headway, that end the download.
        first_wait_s: Before the second attempt; doubled each time.
        longest_wait_s: No wait is longer, whatever the server asks for.
    """

    timeout_s: float = 30.0
    attempts: int = 5
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0

    def compute_wait(self, failures: int, asked_s: float | None) -> float:
        """Return the seconds to wait, with jitter so that a crowd disperses.

        Args:
            failures: In a row, 1 or more.
            asked_s: What the server asked for.
        """
        if asked_s is not None:
            return min(max(asked_s, 0.0), self.longest_wait_s)
        wait_s = min(self.first_wait_s * 2.0 ** (failures - 1), self.longest_wait_s)
        return wait_s * random.uniform(0.5, 1.0)
