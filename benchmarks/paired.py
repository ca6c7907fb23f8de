"""Time whole processes in turn, A B A B ..., and compare them pair by pair.

A machine's speed drifts; the ratio of two runs made one after the other drifts less. Wall and CPU
time and the peak memory of the largest process are the operating system's own figures.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# A program that may not keep its compiled modules compiles them at every start.
_ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


@dataclass(frozen=True)
class Run:
    """One finished process.

    Attributes:
        wall_s: From start to end.
        cpu_s: User and system time, children included.
        peak_mib: Resident memory of the process at its largest.
    """

    wall_s: float
    cpu_s: float
    peak_mib: float


def run(command: Sequence[str], env: Mapping[str, str] | None = None) -> Run:
    """Run a command to its end and measure it.

    Raises:
        RuntimeError: It failed; its last words are in the message.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**_ENVIRONMENT, **(env or {})},
    )
    assert process.stderr is not None
    words = process.stderr.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {words[-800:]}")
    scale = 1 if sys.platform == "darwin" else 1024
    return Run(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * scale / 2**20)


def compare(
    commands: Mapping[str, Sequence[str]],
    *,
    runs: int,
    env: Mapping[str, Mapping[str, str]] | None = None,
    warm_up: bool = True,
) -> dict[str, list[Run]]:
    """Run every command, once uncounted, `runs` times in turn, and print a table.

    Args:
        commands: By name; the first is what the others are divided by.
        runs: Counted runs of each.
        env: Environment variables to add, by name.
        warm_up: Whether to run everything once uncounted.
    """
    results: dict[str, list[Run]] = {name: [] for name in commands}
    for turn in range(-int(warm_up), runs):
        for name, command in commands.items():
            result = run(command, (env or {}).get(name))
            if turn >= 0:
                results[name].append(result)
    first = next(iter(commands))
    print(
        f"{'':22} {'wall s (min/median/max)':>26} {'CPU s':>8} {'peak MiB':>9} {'wall ratio':>11}"
    )
    for name, made in results.items():
        walls = sorted(one.wall_s for one in made)
        ratio = statistics.median(
            other.wall_s / mine.wall_s for mine, other in zip(results[first], made, strict=True)
        )
        print(
            f"{name:22} {walls[0]:8.2f} {statistics.median(walls):8.2f} {walls[-1]:8.2f}"
            f" {statistics.median(one.cpu_s for one in made):8.2f}"
            f" {statistics.median(one.peak_mib for one in made):9.0f} {ratio:10.2f}x"
        )
    return results
