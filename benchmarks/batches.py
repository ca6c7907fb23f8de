"""Chunks one by one beside several at a time, of one song: whole processes, in turn.

    python benchmarks/batches.py [--model spleeter-2stems] [--sizes 1 2 4] [--seconds 300]
        [--runs 3] [--device auto]

The first size is what the others are divided by.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from paired import compare
from songs import write_song


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="spleeter-2stems")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        song = write_song(folder / "song.wav", options.seconds)
        command = [sys.executable, "-m", "stemsplit", str(song), "-m", options.model, "--quiet"]
        command += ["--device", options.device, "--overwrite", "-o", str(folder / "out")]
        print(f"{options.model}, {options.seconds:g} s")
        compare(
            {
                f"--batch-size {size}": [*command, "--batch-size", str(size)]
                for size in options.sizes
            },
            runs=options.runs,
        )


if __name__ == "__main__":
    main()
