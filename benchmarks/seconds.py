"""Where the seconds of a song go: every stage's share, model by model, as a Markdown table.

    python benchmarks/seconds.py [MODEL ...] [--arch NAME ...] [--minutes 5] [--backend NAME]

Models of the registry, with their weights, and architectures at their published sizes with random
ones (then "load" is what it takes to make these up): those named, or else all models whose weights
are in the cache and all architectures that none of these has. Of an architecture, one stem's
network, or all where it cannot do with one. Each is a process of its own that separates stempeg's
excerpt, again and again, into 16-bit WAV files. A stage's seconds are summed over the threads that
work at it, so that those of stages side by side can be more than the whole; "idle" is (cores times
the whole) less what this process and its ffmpeg computed: on a machine of one's own, what no core
did. Import and load come before the song's own seconds.
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from songs import run_apart, write_song

STAGES = (
    "import",
    "load",
    "read",
    "resample",
    "STFT",
    "network",
    "mask, iSTFT",
    "join",
    "write",
    "hash",
)
ALL_STEMS = ("vocals", "drums", "bass", "other")


class Clock:
    """Seconds by stage, whichever threads work at them."""

    def __init__(self) -> None:
        self.spent_s: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    def add(self, stage: str, began: float) -> None:
        """Count from a time until now."""
        with self._lock:
            self.spent_s[stage] += time.perf_counter() - began

    def wrap(self, owner: Any, name: str, stage: str) -> None:
        """Have a function or a method timed from now on."""
        work: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(work)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                self.add(stage, began)

        setattr(owner, name, timed)

    def pulled(self, items: Iterable[Any], stage: str) -> Iterator[Any]:
        """Yield the same, timing how long each takes to come."""
        iterator = iter(items)
        while True:
            began = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.add(stage, began)
            yield item


def build(name: str, *, is_architecture: bool) -> Any:
    """Load a model, or make one of random weights: one stem, or as many as it needs."""
    if not is_architecture:
        import stemsplit

        return stemsplit.load_model(name)
    import torch

    from stemsplit.models.catalogue import find_architecture

    kind = find_architecture(name)
    for stems in (ALL_STEMS[:1], ALL_STEMS):
        torch.manual_seed(0)
        model = kind(kind.Config(stems)).eval()
        if len(stems) >= model.fewest_stems:
            break
    model.name = name
    return model


def measure(name: str, is_architecture: bool, song: str, folder: str, backend: str | None) -> None:
    """Separate once, timed, and print a row."""
    clock = Clock()
    began = time.perf_counter()
    from stemsplit.backends.process import keep_freed_memory, let_idle_threads_sleep

    let_idle_threads_sleep()
    from stemsplit.audio import StemWriter, parse_format
    from stemsplit.dsp.overlap_add import Joiner
    from stemsplit.dsp.resample import Resampler
    from stemsplit.separation import files, manifest, separator
    from stemsplit.separation.naming import plan_jobs

    clock.add("import", began)
    keep_freed_memory()
    began = time.perf_counter()
    more = {} if backend is None else {"backend": backend}
    ready = separator.Separator(build(name, is_architecture=is_architecture), **more)
    clock.add("load", began)
    for network in ready._networks:
        clock.wrap(type(network._core), "__call__", "network")
        clock.wrap(network._model, "encode", "STFT")
        clock.wrap(network._model, "decode", "mask, iSTFT")
    for method in ("feed", "flush"):
        clock.wrap(Resampler, method, "resample")
    clock.wrap(Joiner, "add", "join")
    clock.wrap(StemWriter, "write", "write")
    clock.wrap(StemWriter, "close", "write")
    for module in (files, manifest):
        clock.wrap(module, "hash_file", "hash")
    ahead = separator.prefetch
    separator.prefetch = lambda blocks, depth: ahead(clock.pulled(blocks, "read"), depth)
    options = files.FileOptions(Path(folder), parse_format("wav", 16), overwrite=True)
    (job,) = plan_jobs([song], stems=ready.stems, model=name, options=options)
    busy_s, began = count_cpu_s(), time.perf_counter()
    result = files.separate_file(ready, job, options, lambda _: None)
    whole_s = time.perf_counter() - began
    busy_s = count_cpu_s() - busy_s
    idle_s = (os.cpu_count() or 1) * whole_s - busy_s
    figures = [clock.spent_s[stage] for stage in STAGES] + [whole_s, idle_s]
    speed = result.manifest.duration_s / whole_s
    cells = " | ".join(f"{one:.2f}" for one in figures)
    print(f"| {name} | {len(ready.stems)} | {cells} | {speed:.2f} |", flush=True)


def count_cpu_s() -> float:
    """Return the processor time of this process and of all that it has waited for."""
    times = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in times)


def find_all() -> tuple[list[str], list[str]]:
    """Return the models whose weights are here, and the architectures that none of them has."""
    from stemsplit.models.catalogue import ARCHITECTURES
    from stemsplit.weights.registry import Registry
    from stemsplit.weights.store import Store

    registry, store = Registry.load(), Store(offline=True)
    entries = [registry.get(name) for name in registry.names()]
    here = [entry for entry in entries if entry.files and store.is_cached(entry)]
    there = {entry.architecture for entry in here}
    return [entry.name for entry in here], [name for name in ARCHITECTURES if name not in there]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--arch", nargs="*", default=[])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--backend")
    options = parser.parse_args()
    named = options.models, options.arch
    models, architectures = named if any(named) else find_all()
    print(" | ".join(("| model", "stems", *STAGES, "whole", "idle", "times real time |")))
    print("|---" * (len(STAGES) + 5) + "|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        song = str(write_song(Path(folder) / "song.wav", 60 * options.minutes))
        for place, name in enumerate((*models, *architectures)):
            is_architecture = place >= len(models)
            run_apart(measure, name, is_architecture, song, f"{folder}/{name}", options.backend)


if __name__ == "__main__":
    main()
