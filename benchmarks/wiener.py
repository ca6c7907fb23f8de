"""The Wiener filter beside norbert's, on the same arrays: four stereo stems, 2049 bins.

python benchmarks/wiener.py [--seconds 30] [--runs 3]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import types
from collections.abc import Callable

import numpy as np
import torch

from stemsplit.dsp.wiener import Wiener


def find_norbert() -> types.ModuleType:
    """Import norbert's filter. Its `contrib`, unused here, wants an old scipy: a stand-in does."""
    contrib = types.ModuleType("norbert.contrib")
    for name in ("compress_filter", "smooth", "residual_model", "reduce_interferences"):
        setattr(contrib, name, None)
    sys.modules["norbert.contrib"] = contrib
    import norbert

    return norbert


def measure(filter: Callable[[], object], runs: int) -> tuple[float, object]:
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        result = filter()
        times.append(time.perf_counter() - began)
    return statistics.median(times), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    frames = int(options.seconds * 44100 / 1024)
    rng = np.random.default_rng(0)
    shape = (frames, 2049, 2, 4)
    magnitudes = np.abs(rng.standard_normal(shape)) * rng.random((frames, 2049, 1, 4)) * 5
    noise = rng.standard_normal((2, *shape[:3]))
    mixture = magnitudes.sum(axis=-1) * 0.3 * (noise[0] + 1j * noise[1])
    estimates = torch.from_numpy(magnitudes * np.exp(1j * np.angle(mixture))[..., None])
    # Each gets the arrays as its own transforms lay them out: here, one channel's frames in turn.
    estimates = estimates.permute(3, 2, 0, 1).contiguous().transpose(-1, -2).unsqueeze(0)
    spectrum = (
        torch.from_numpy(mixture).permute(2, 0, 1).contiguous().transpose(-1, -2).unsqueeze(0)
    )
    norbert = find_norbert()
    print(f"{options.seconds:g} s, {frames} frames, {torch.get_num_threads()} threads")
    print(f"{'iterations':>10} {'norbert s':>10} {'torch s':>8} {'ratio':>6} {'difference':>11}")
    for iterations in (1, 2):

        def theirs(iterations: int = iterations) -> object:
            return norbert.wiener(magnitudes, mixture.copy(), iterations, use_softmask=False)

        def ours(iterations: int = iterations) -> object:
            return Wiener(iterations, eps=None)(estimates, spectrum)

        their_s, expected = measure(theirs, options.runs)
        our_s, got = measure(ours, options.runs)
        expected = torch.from_numpy(expected).permute(3, 2, 1, 0)
        difference = float((got[0] - expected).norm() / expected.norm())
        ratio = their_s / our_s
        print(f"{iterations:10} {their_s:10.2f} {our_s:8.2f} {ratio:5.1f}x {difference:11.1e}")


if __name__ == "__main__":
    main()
