"""What Ray costs for each song, what a second worker brings, and what a catalogue costs by that.

    python benchmarks/cluster.py                        measure on this machine
    python benchmarks/cluster.py --songs 40 --seconds 30 --model d3net --runs 5
    python benchmarks/cluster.py --plan --speed 60 --workers 16 --machines 10 --price 0.8 ...

Measured are, in turns and on the same songs: the local engine with one thread; Ray with one worker
of one thread; Ray with two such workers; and Ray with one worker where everything, Ray and ffmpeg
included, shares one core. Songs are counted once all workers are at work, and no more when the
first of them runs out. The differences:

    overhead per song       Ray with one worker, less the local engine
    two workers beside one  songs per second of the one and of the other; one worker may use the
                            other core, too, for what is not its network
    two cores beside one    songs per second of two workers on all cores, and of one on one core

What comes once, whatever the number of songs, has a column of its own: the time until the first
song is through, in which Ray starts, workers load the model, and the song itself is done.

`--plan` computes with figures of your own: nothing in it is assumed but what a flag says.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from songs import run_apart, write_song

OVERHEAD_BAR_MS = 100.0
GAIN_BAR = 1.8
WORKERS_AT_MOST = 2


class Kind(NamedTuple):
    """What is timed.

    Attributes:
        engine: "local" or "ray".
        workers: Of one thread each.
        is_confined: Whether everything shares one core.
    """

    engine: str
    workers: int
    is_confined: bool = False


KINDS = {
    "local": Kind("local", 1),
    "ray": Kind("ray", 1),
    "ray, two workers": Kind("ray", WORKERS_AT_MOST),
}
ON_ONE_CORE = "ray, on one core"
if hasattr(os, "sched_setaffinity"):
    KINDS[ON_ONE_CORE] = Kind("ray", 1, is_confined=True)

COUNTS = (100_000, 100_000_000)


def time_songs(folder: str, model: str, kind: Kind, done: bool, result: str) -> None:
    """Do all songs of a folder; write down the seconds of a song, and those until the first's end.

    Seconds of a song are counted between the ends of two, while all workers are at work. Two
    workers may end theirs together or in turn: a whole number of songs of each is counted.

    In a process of its own: nothing is warm from the run before.

    Args:
        folder: With `in`, and `out`, which is kept.
        model: Its name.
        kind: What to time.
        done: Whether the stems are there already: that measures skipping.
        result: The file for the numbers.
    """
    from stemsplit.backends.process import keep_freed_memory, let_idle_threads_sleep

    if kind.is_confined:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    engine, workers = kind.engine, kind.workers
    let_idle_threads_sleep()
    from stemsplit.batch.catalogue import open_catalogue
    from stemsplit.batch.cluster import run_on_cluster
    from stemsplit.batch.connection import Cluster
    from stemsplit.batch.job import SONGS_IN_HAND, Task, load_separator
    from stemsplit.batch.local import run_catalogue
    from stemsplit.separation.files import FileOptions
    from stemsplit.separation.plan import Options
    from stemsplit.weights.registry import Registry

    registry = Registry.load()
    entry = registry.get(model)
    options = Options(device="cpu", threads=1)
    dest = str(Path(folder) / ("out" if done else f"out-{engine}-{workers}-{time.time_ns()}"))
    task = Task(entry, registry, entry.stems, options, FileOptions(overwrite=False), dest)
    catalogue = open_catalogue(str(Path(folder) / "in"), dest)
    stop = threading.Event()
    songs = catalogue.read()
    began_s = time.perf_counter()
    if engine == "ray":
        cluster = Cluster(workers=workers)
        endings = run_on_cluster(task, songs, cluster, cancelled=stop, on_note=print)
    else:
        keep_freed_memory()  # as the command does, and every worker of Ray
        endings = run_catalogue(task, lambda: load_separator(task), songs, cancelled=stop)
    ended_s = []
    for ending in endings:
        if ending.error is not None:
            raise SystemExit(f"{ending.song.name}: {ending.error}")
        ended_s.append(time.perf_counter())
    first, last = len(ended_s) // 3, len(ended_s) - 1 - SONGS_IN_HAND * WORKERS_AT_MOST
    last -= (last - first) % WORKERS_AT_MOST
    song_s = (ended_s[last] - ended_s[first]) / (last - first)
    Path(result).write_text(f"{song_s} {ended_s[0] - began_s}")


def measure(options: argparse.Namespace) -> int:
    """Measure, print, and return 1 where a bar is missed."""
    with tempfile.TemporaryDirectory(prefix="cluster-") as name:
        folder = Path(name)
        (folder / "in").mkdir()
        first = write_song(folder / "in" / "0000.wav", options.seconds)
        for number in range(1, options.songs):
            os.link(first, folder / "in" / f"{number:04d}.wav")
        times: dict[str, list[float]] = {kind: [] for kind in KINDS}
        starts: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(options.runs):
            for label, kind in KINDS.items():
                song_s, start_s = run_once(folder, options.model, kind)
                times[label].append(song_s)
                starts[label].append(start_s)
        skipping, _ = run_once(folder, options.model, KINDS["local"], done=True, fill=True)
        skipping_ray, _ = run_once(folder, options.model, KINDS["ray"], done=True)
    print(f"{options.songs} songs of {options.seconds:g} s, {options.model}, {options.runs} runs:")
    for label, found in times.items():
        middle = statistics.median(found)
        print(
            f"  {label:18} {middle:8.3f} s a song ({min(found):.3f} to {max(found):.3f}), "
            f"speed {options.seconds / middle:.1f} times real time; "
            f"the first after {statistics.median(starts[label]):.1f} s"
        )
    pairs = list(zip(times["local"], times["ray"], times["ray, two workers"], strict=True))
    overhead_ms = 1000 * statistics.median(ray - local for local, ray, _ in pairs)
    gain = statistics.median(one / two for _, one, two in pairs)
    print(f"overhead per song       {overhead_ms:8.0f} ms  (bar: under {OVERHEAD_BAR_MS:.0f})")
    print(f"two workers beside one  {gain:8.2f} x   (bar: {GAIN_BAR})")
    if ON_ONE_CORE in times:
        scaled = statistics.median(
            one / two for one, (_, _, two) in zip(times[ON_ONE_CORE], pairs, strict=True)
        )
        print(f"two cores beside one    {scaled:8.2f} x")
    print(f"a song that is done is skipped in {1000 * skipping:.0f} ms; with Ray in ", end="")
    print(f"{1000 * skipping_ray:.0f} ms")
    for what, speed in time_files().items():
        print(f"{what:23} {speed:8.0f} times real time on one core")
    return int(overhead_ms >= OVERHEAD_BAR_MS or gain < GAIN_BAR)


def run_once(
    folder: Path,
    model: str,
    kind: Kind,
    *,
    done: bool = False,
    fill: bool = False,
) -> tuple[float, float]:
    """Time the songs in a process of its own; where `fill`, once before, so that all are done.

    Returns:
        Seconds of a song, and until the end of the first.
    """
    result = folder / "result.txt"
    for _ in range(2 if fill else 1):
        run_apart(time_songs, str(folder), model, kind, done, str(result))
    song_s, start_s = map(float, result.read_text().split())
    return song_s, start_s


def time_files(seconds: float = 240.0, runs: int = 5) -> dict[str, float]:
    """Return how many times faster than real time one core decodes a song, and encodes a stem.

    Processor time counts, ffmpeg's included.
    """
    from stemsplit.audio import StemWriter, decode_blocks, parse_format

    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with decode_blocks(write_song(folder / "song.wav", seconds)) as blocks:
            kind = {"sample_rate": blocks.sample_rate, "channels": blocks.channels}
            song = list(blocks)
        for name in ("m4a", "mp3", "flac", "wav") * runs:
            path = folder / f"stem.{name}"
            began_s = os.times()
            with StemWriter(path, format=parse_format(name), **kind) as writer:
                for block in song:
                    writer.write(block)
            times.setdefault(f"encoding {name}", []).append(_cpu_since(began_s))
            began_s = os.times()
            with decode_blocks(path) as blocks:
                for _ in blocks:
                    pass
            times.setdefault(f"decoding {name}", []).append(_cpu_since(began_s))
    return {what: seconds / statistics.median(taken) for what, taken in times.items()}


def _cpu_since(began_s: os.times_result) -> float:
    """Return the processor time of this process and of those that it has started and waited for."""
    return sum(os.times()[:4]) - sum(began_s[:4])


@dataclass(frozen=True)
class Row:
    """A catalogue of one size.

    Attributes:
        songs: How many.
        machine_hours: Of work.
        days: With the machines that there are.
        compute: Price of the machines.
        requests: Price of what object storage is asked.
        storage: Price of the stems for a month.
        stored_tb: What they take.
        gbps: Network of one machine, in and out.
        requests_per_s: Of all machines together.
        cores: Of one machine, that decode and encode; None where their speeds were not given.
        listing_hours: Reading the names, a thousand at a time.
    """

    songs: int
    machine_hours: float
    days: float
    compute: float
    requests: float
    storage: float
    stored_tb: float
    gbps: float
    requests_per_s: float
    cores: float | None
    listing_hours: float


def plan(options: argparse.Namespace) -> Iterator[Row]:
    """Compute what catalogues cost.

    A song takes minutes * 60 / speed + overhead seconds of a worker. What it asks of object storage
    is counted in `stemsplit.batch.place`: one listing, and as writes the claim, each stem and the
    manifest; its own bytes and what is known of them are two reads.
    """
    coding_s = None
    if options.decode_speed and options.encode_speed:
        parts = 1 / options.decode_speed + options.stems / options.encode_speed
        coding_s = options.minutes * 60 * parts
    for songs in options.counts:
        song_s = options.minutes * 60 / options.speed + options.overhead_ms / 1000
        songs_per_s = options.workers * options.machines / song_s
        writes = options.stems + 2 + 1  # S3 asks as much for a listing as for a write
        cents = writes * options.price_writes + 2 * options.price_reads
        stored_gb = songs * options.out_mb / 1000
        machine_hours = songs * song_s / options.workers / 3600
        yield Row(
            songs=songs,
            machine_hours=machine_hours,
            days=songs / songs_per_s / 86400,
            compute=machine_hours * options.price,
            requests=songs * cents / 1000,
            storage=stored_gb * options.price_storage,
            stored_tb=stored_gb / 1000,
            gbps=options.workers / song_s * (options.in_mb + options.out_mb) * 8 / 1000,
            requests_per_s=songs_per_s * (writes + 2),
            cores=None if coding_s is None else options.workers / song_s * coding_s,
            listing_hours=songs / 1000 * options.listing_ms / 1000 / 3600,
        )


def print_plan(options: argparse.Namespace) -> int:
    """Print the table of `plan`, and where the bottleneck is."""
    missing = [
        f"--{name.replace('_', '-')}"
        for name in ("speed", "workers", "machines", "price", "stems", "in_mb", "out_mb")
        if getattr(options, name) is None
    ]
    if missing:
        print(f"--plan needs {', '.join(missing)}: measure them, and look the prices up")
        return 2
    rows = list(plan(options))
    lines = {
        "songs": lambda row: f"{row.songs:,}",
        "machine hours": lambda row: f"{row.machine_hours:,.0f}",
        f"days on {options.machines} machines": lambda row: f"{row.days:,.2f}",
        "compute": lambda row: f"{row.compute:,.0f}",
        "requests": lambda row: f"{row.requests:,.0f}",
        "stems, TB": lambda row: f"{row.stored_tb:,.1f}",
        "stems, a month": lambda row: f"{row.storage:,.0f}",
        "Gbit/s of a machine": lambda row: f"{row.gbps:.2f}",
        "requests/s of all": lambda row: f"{row.requests_per_s:,.0f}",
        "cores for files": lambda row: "" if row.cores is None else f"{row.cores:.2f}",
        "hours of listing": lambda row: f"{row.listing_hours:,.1f}",
    }
    for title, show in lines.items():
        print(f"{title:24}" + "".join(f"{show(row):>18}" for row in rows))
    if options.cores and rows[0].cores is not None and rows[0].cores > options.cores:
        print(
            f"decoding and encoding are the bottleneck: they need more than {options.cores} cores"
        )
    if options.gbps and rows[0].gbps > options.gbps:
        print(f"the network is the bottleneck: {options.gbps:g} Gbit/s is less than it needs")
    for row in rows:
        if row.listing_hours > 24 * row.days:
            print(f"{row.songs:,} songs: listing takes longer than the work; give a list instead")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure Ray's part, or plan a catalogue.")
    parser.add_argument("--model", default="spleeter-2stems")
    parser.add_argument("--songs", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each song")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--minutes", type=float, default=4.0, help="of a song")
    parser.add_argument("--speed", type=float, help="of one worker, times real time")
    parser.add_argument("--overhead-ms", type=float, default=0.0, help="for each song")
    parser.add_argument("--workers", type=int, help="on each machine")
    parser.add_argument("--machines", type=int)
    parser.add_argument("--price", type=float, help="of a machine, for an hour")
    parser.add_argument("--stems", type=int, help="files for each song")
    parser.add_argument("--in-mb", type=float, help="of a song")
    parser.add_argument("--out-mb", type=float, help="of all its stems")
    parser.add_argument("--gbps", type=float, help="of a machine's network")
    parser.add_argument("--decode-speed", type=float, help="of one core, times real time")
    parser.add_argument("--encode-speed", type=float, help="of one core, of one stem")
    parser.add_argument("--cores", type=int, help="of a machine, beside what its network takes")
    parser.add_argument("--price-storage", type=float, default=0.0, help="of a GB for a month")
    parser.add_argument("--price-writes", type=float, default=0.0, help="of a thousand")
    parser.add_argument("--price-reads", type=float, default=0.0, help="of a thousand")
    parser.add_argument("--listing-ms", type=float, default=0.0, help="for a thousand names")
    options = parser.parse_args()
    return print_plan(options) if options.plan else measure(options)


if __name__ == "__main__":
    sys.exit(main())
