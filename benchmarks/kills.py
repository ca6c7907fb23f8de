"""Kill a batch at random moments, run it again, and compare with a batch that nobody disturbed.

    python benchmarks/kills.py                                30 kills of five songs
    python benchmarks/kills.py --kills 5 --model NAME --jobs 2 --format flac

Every round begins with an empty folder. SIGKILL goes to the process alone or, in every other round,
to its ffmpeg processes as well. At that moment every output that is there must be whole already;
after the second run all of them, manifests included, must equal the undisturbed batch's byte for
byte, with nothing else left. Ends with 1 when anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from songs import write_song

PARTIAL = ".part"


@dataclass(frozen=True)
class Round:
    """What a kill left behind, and what the next run made of it.

    Attributes:
        after_s: When the batch was killed.
        is_group: Whether its ffmpeg processes were too.
        whole: Files that were there already, all of them whole.
        is_midway: A song was being written.
        faults: What should not be.
    """

    after_s: float
    is_group: bool
    whole: int
    is_midway: bool
    faults: list[str]


def hash_outputs(folder: Path) -> dict[str, str]:
    """Hash all files below a folder that are in their places."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not any(PARTIAL in part for part in path.parts)
    }


def compare(folder: Path, calm: dict[str, str]) -> list[str]:
    """List everything that differs from the undisturbed batch."""
    found = hash_outputs(folder)
    faults = [f"{name} is missing" for name in calm.keys() - found.keys()]
    faults += [f"{name} should not be there" for name in found.keys() - calm.keys()]
    faults += [
        f"{name} differs" for name in calm.keys() & found.keys() if calm[name] != found[name]
    ]
    faults += [f"{path.name} is left over" for path in folder.rglob("*") if PARTIAL in path.name]
    return faults


def kill_once(
    command: list[str], out: Path, calm: dict[str, str], after_s: float, group: bool
) -> Round:
    """Run a batch, kill it, look, run it again, look."""
    with subprocess.Popen(
        [*command, "-o", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        time.sleep(after_s)
        if process.poll() is None:
            (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
    left = hash_outputs(out) if out.exists() else {}
    is_midway = any(PARTIAL in path.name for path in out.rglob("*"))
    faults = [f"{name} was half written" for name in left if calm.get(name) != left[name]]
    again = subprocess.run([*command, "-o", str(out)], capture_output=True, text=True)
    if again.returncode:
        faults.append(f"the second run ended with {again.returncode}: {again.stderr[-300:]}")
    faults += compare(out, calm)
    return Round(after_s, group, len(left), is_midway, faults)


def make_songs(folder: Path, count: int, seconds: float) -> Path:
    """Write songs of different lengths, the longest as long as said."""
    folder.mkdir()
    for number in range(count):
        write_song(folder / f"song {number}.wav", seconds * (number + 1) / count)
    return folder


def time_calm_run(command: list[str], out: Path) -> tuple[float, float]:
    """Run the batch, and return when it began to write and when it ended, in seconds."""
    began = time.perf_counter()
    with subprocess.Popen([*command, "-o", str(out)]) as process:
        while process.poll() is None and not out.exists():
            time.sleep(0.01)
        start_s = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"the undisturbed run ended with {process.returncode}")
    return start_s, time.perf_counter() - began


def run_rounds(command: list[str], folder: Path, kills: int, seed: int) -> list[Round]:
    """Run the batch undisturbed, then kill it that many times, reporting every fault."""
    subprocess.run([*command, "-o", str(folder / "warm")], check=True)
    start_s, calm_s = time_calm_run(command, folder / "calm")
    calm = hash_outputs(folder / "calm")
    print(f"undisturbed: {len(calm)} files in {calm_s:.1f} s, the first begun at {start_s:.1f} s")
    dice = random.Random(seed)
    rounds = []
    for number in range(kills):
        after_s = dice.uniform(0.9 * start_s, calm_s)
        out = folder / f"killed-{number}"
        rounds.append(kill_once(command, out, calm, after_s, group=bool(number % 2)))
        for fault in rounds[-1].faults:
            print(f"kill {number} after {after_s:.2f} s: {fault}")
        shutil.rmtree(out, ignore_errors=True)
    return rounds


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill a batch at random moments and compare.")
    parser.add_argument("--model", default="spleeter-2stems")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--songs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0, help="of the longest song")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--format", default="wav")
    parser.add_argument("--clip", default="none")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        songs = make_songs(Path(name) / "in", options.songs, options.seconds)
        command = [sys.executable, "-m", "stemsplit", str(songs), "-m", options.model, "--quiet"]
        command += ["--jobs", str(options.jobs), "--format", options.format, "--clip", options.clip]
        rounds = run_rounds(command, Path(name), options.kills, options.seed)
    bad = sum(bool(one.faults) for one in rounds)
    print(
        f"{len(rounds)} kills, {sum(one.is_midway for one in rounds)} of them in the middle of a "
        f"song, with {sum(one.whole for one in rounds)} files whole by then; after the second run "
        f"{len(rounds) - bad} batches identical to the undisturbed one, {bad} not"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
