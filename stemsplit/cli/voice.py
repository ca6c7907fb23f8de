"""How every command speaks: lines at once, and not too often; JSON objects, one a line."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

from typing_extensions import Self


class Voice:
    """Says lines to a person. A context manager around the work, so that bars end as well."""

    def __init__(
        self, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Write to `out`, or to standard error; `clock` gives seconds."""
        self._out = out or sys.stderr
        self._clock = clock
        self._said_s: dict[object, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing to end."""

    def say(self, line: str) -> None:
        """Write a line at once. Where nobody can read it any more, the work goes on."""
        with contextlib.suppress(OSError):
            print(line, file=self._out, flush=True)

    def is_due(self, topic: object, every_s: float) -> bool:
        """Say whether it is time for another line about a topic."""
        now_s = self._clock()
        if now_s - self._said_s.get(topic, -every_s) < every_s:
            return False
        self._said_s[topic] = now_s
        return True


class JsonVoice(Voice):
    """Writes events to standard output."""

    def __init__(
        self, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Write to `out`, or to standard output; `clock` gives seconds."""
        super().__init__(out or sys.stdout, clock)

    def write(self, event: str, **values: object) -> None:
        """Write one event, in ASCII. A reader that has gone stops the work."""
        print(json.dumps({"event": event, **values}), file=self._out, flush=True)


def has_terminal() -> bool:
    """Return whether standard error is a terminal that bars can be drawn on."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
