"""Ctrl-C, and what asks a process to end: the step under way is finished, and kept."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytorch_lightning as pl
from typing_extensions import Self

from stemsplit.training.module import StemTraining

EXIT_STOPPED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping(pl.Callback):
    """Lets SIGINT and SIGTERM end a training after the step that is under way.

    A second signal, more than a second later, ends the process at once: what is on disk is whole.
    Use it as a context manager around the training, too.
    """

    def __init__(self, module: StemTraining) -> None:
        """Begin without any signal.

        Args:
            module: Is told.
        """
        self._module = module
        self._asked_s: list[float] = []
        self._before: dict[int, Any] = {}
        # Whoever trains in another thread handles signals.
        self._is_main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Self:
        if self._is_main:
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
            self._install()
        return self

    def __exit__(self, *exception: object) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals once more: Lightning has put handlers of its own in place."""
        if self._is_main:
            self._install()

    def _install(self) -> None:
        for number in SIGNALS:
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        self._asked_s.append(time.monotonic())
        self._module.wants_to_stop = True
        if self._asked_s[-1] - self._asked_s[0] > 1:
            os._exit(EXIT_STOPPED)
