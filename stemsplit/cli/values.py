"""What the values on a command line mean.

To typer every value is text or a flag. The readers here make numbers and times of it, so that a
wrong one is told in stemsplit's own two lines.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Literal, TypeVar, cast

from stemsplit.backends import BACKENDS
from stemsplit.errors import UnknownNameError, UsageError
from stemsplit.separation.plan import FRAMINGS, MAX_OVERLAP, Options

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
DEVICES = ("auto", "cpu", "cuda", "cuda:0", "mps")

ValueT = TypeVar("ValueT")
NumberT = TypeVar("NumberT", int, float)

_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)")


def one_of(kind: str, known: Iterable[str]) -> Callable[[str], str]:
    """Return a reader of names.

    Args:
        kind: What is named.
        known: The names that there are.
    """
    names = tuple(known)

    def read(text: str) -> str:
        if text not in names:
            raise UnknownNameError(kind, text, names)
        return text

    return read


def read_device(text: str) -> str:
    """Check the form of a device's name; whether this machine has it shows later.

    Raises:
        UnknownNameError: No device is called that.
    """
    if text in DEVICES or re.fullmatch(r"cuda:\d+", text):
        return text
    raise UnknownNameError("device", text, DEVICES)


def number(
    option: str, kind: type[NumberT], least: float, most: float = math.inf, *, above: bool = False
) -> Callable[[str], NumberT]:
    """Return a reader of numbers in a range.

    Args:
        option: As it is typed, for the message.
        kind: `int` or `float`.
        least: The lowest value.
        most: The highest.
        above: Whether the value has to be more than `least`.
    """

    def read(text: str) -> NumberT:
        try:
            value = kind(text)
        except ValueError:
            value = None
        is_low = value is not None and (value <= least if above else value < least)
        if value is None or not math.isfinite(value) or is_low or value > most:
            noun = "a whole number" if kind is int else "a number"
            low = f"above {least:g}" if above else f"from {least:g}"
            high = "" if most == math.inf else f" to {most:g}"
            raise UsageError(f"{option} {text!r} is not possible", help=f"give {noun} {low}{high}.")
        return value

    return read


def time_of(option: str) -> Callable[[str], float]:
    """Return a reader of times: "90", "90.5", "1:30", "1:02:03.25" -> seconds."""

    def read(text: str) -> float:
        match = _CLOCK.fullmatch(text.strip())
        parts = [float(part) for part in match.groups() if part] if match else []
        # Only the first part may be more than the clock shows: 90 seconds, 75:00, 100:00:00.
        if not parts or any(part >= 60 for part in parts[1:]):
            raise UsageError(
                f"{option} {text!r} is not a time",
                help="write seconds, m:ss or h:mm:ss, such as 90.5, 1:30 or 1:02:03.",
            )
        seconds = 0.0
        for part in parts:
            seconds = 60 * seconds + part
        return seconds

    return read


def given(read: Callable[[str], ValueT], text: str | None) -> ValueT | None:
    """Return what a reader makes of a text; None where the option was not given."""
    return None if text is None else read(text)


def read_running(
    *,
    device: str,
    backend: str,
    threads: str | None,
    batch_size: str | None,
    precision: str,
    segment: str | None,
    overlap: str | None,
    shifts: str,
    seed: str,
    wiener: str,
    framing: str,
) -> Options:
    """Return options that say how a network runs, of the values of the options above.

    Raises:
        UsageError: A value that cannot be.
    """
    return Options(
        device=read_device(device),
        backend=one_of("backend", BACKENDS)(backend),
        threads=given(number("--threads", int, 1), threads),
        batch_size=given(number("--batch-size", int, 1), batch_size),
        precision=one_of("precision", PRECISIONS)(precision),
        segment_s=given(number("--segment", float, 0, above=True), segment),
        overlap=given(number("--overlap", float, 0, MAX_OVERLAP), overlap),
        shifts=number("--shifts", int, 0)(shifts),
        seed=number("--seed", int, 0, 2**63 - 1)(seed),
        wiener=number("--wiener", int, 0)(wiener),
        framing=cast("Literal['default', 'original']", one_of("framing", FRAMINGS)(framing)),
    )


def split_names(values: list[str] | None) -> tuple[str, ...] | None:
    """Return the names of a repeatable, comma-separated option; None where it was not given."""
    if not values:
        return None
    return tuple(name.strip() for value in values for name in value.split(",") if name.strip())
