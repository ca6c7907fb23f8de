"""Two songs at once beside one after the other, on all of the machine's cores.

    python benchmarks/together.py [--model spleeter-2stems] [--minutes 5] [--runs 3]

The same two songs: `--jobs 1` and `--jobs 2` of one process, and two processes of `stemsplit`, one
after the other and side by side.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from paired import compare
from songs import write_song


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="spleeter-2stems")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = write_song(folder / "first.wav", 60 * options.minutes)
        second = Path(shutil.copy(first, folder / "second.wav"))

        def command(*more: str) -> list[str]:
            given = ["-m", options.model, "--quiet", "--overwrite", "-o", str(folder / "out")]
            return [sys.executable, "-m", "stemsplit", *given, *more]

        print(f"{options.model}, twice {options.minutes:g} minutes")
        both = [str(first), str(second)]
        compare(
            {"--jobs 1": command(*both), "--jobs 2": command(*both, "--jobs", "2")},
            runs=options.runs,
        )
        one, other = (shlex.join(command(song)) for song in both)
        compare(
            {
                "two processes in turn": ["sh", "-c", f"{one} && {other}"],
                "two at once": ["sh", "-c", f"{one} & {other} && wait $!"],
            },
            runs=options.runs,
        )


if __name__ == "__main__":
    main()
