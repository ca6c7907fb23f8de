"""BSS Eval beside museval: seconds, memory and the largest difference, on the same stems.

    python benchmarks/bss_eval.py [--seconds 60] [--stems 4]

Whole processes on one thread each, without their imports; museval is the peer of that name
(benchmarks/peers.py).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from peers import python_of
from songs import run_apart, write_stems

OURS = """
import torch
from stemsplit.evaluation import bss_eval
torch.set_num_threads(1)
def score(true, heard):
    turned = [torch.from_numpy(one).transpose(1, 2) for one in (true, heard)]
    return [kind.numpy() for kind in bss_eval(*turned)]
"""
THEIRS = """
import museval
def score(true, heard):
    return museval.evaluate(true, heard, padding=False)
"""
MEASURE = """
import json, resource, sys, time
import numpy as np
stems = np.load(sys.argv[1])
true, heard = stems["true"], stems["heard"]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.perf_counter()
scores = score(true, heard)
spent_s = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
np.save(sys.argv[2], np.array(scores))
print(json.dumps({"s": spent_s, "mib": peak / 1024, "above_mib": (peak - before) / 1024}))
"""


def measure(python: str, program: str, stems: Path, scores: Path) -> dict[str, float]:
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, "-c", program + MEASURE, str(stems), str(scores)],
        env={**os.environ, **one_thread},
        capture_output=True,
        text=True,
        check=True,
    )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--stems", type=int, default=4)
    options = parser.parse_args()
    pythons = {"stemsplit": sys.executable, "museval": python_of("museval")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_apart(write_stems, folder / "stems.npz", options.stems, options.seconds)
        print(f"{'':10} {'s':>8} {'peak MiB':>10} {'above its start':>16}")
        scores = {}
        for who, program in (("stemsplit", OURS), ("museval", THEIRS)):
            made = measure(pythons[who], program, folder / "stems.npz", folder / f"{who}.npy")
            scores[who] = np.load(folder / f"{who}.npy")
            print(f"{who:10} {made['s']:8.2f} {made['mib']:10.0f} {made['above_mib']:16.0f}")
    difference = np.nanmax(np.abs(scores["stemsplit"] - scores["museval"]))
    print(f"largest difference: {difference:.2g} dB, in {scores['museval'].size} scores")


if __name__ == "__main__":
    main()
