"""What int8 would cost: OpenVINO's graph of a network in 8 bits beside the one in fp32.

    pip install nncf "stemsplit[openvino]"
    python benchmarks/int8.py [MODEL ...] [--seconds 24] [--runs 3]

NNCF quantizes weights and activations after training, calibrated on the very song that is scored,
which is the kindest case: stempeg's excerpt again and again, with its true stems. "SDR": of
stemsplit's stems by either graph. "s": a chunk's network, two at once, as separation runs it. int8
is for offering where it loses less than 0.05 dB in every stem, and takes less time.
"""

from __future__ import annotations

import argparse
import math

import nncf
import torch
from seams import ratio_db, read_song
from share import run_at_once, time_s

import stemsplit
from stemsplit.backends.openvino_core import OpenVINOCore
from stemsplit.backends.openvino_graph import make_graph
from stemsplit.backends.workers import count_workers
from stemsplit.dsp.overlap_add import Chunker
from stemsplit.models.base import StemModel
from stemsplit.separation.cores import make_examples

MOST_LOST_DB = 0.05
CPU = torch.device("cpu")


@torch.no_grad()
def list_inputs(model: StemModel, mixture: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """Return the core's inputs for every whole chunk of a song."""
    samples = model.chunk.samples
    overlap = round(model.chunk.overlap * samples)
    chunks = Chunker(samples, overlap).feed(mixture)
    return [model.encode(chunk.samples.unsqueeze(0)).inputs for chunk in chunks]


@torch.no_grad()
def measure(name: str, song: dict[str, torch.Tensor], runs: int) -> None:
    """Print a model's rows."""
    separator = stemsplit.Separator(stemsplit.load_model(name), backend="openvino")
    (network,) = separator._networks
    model = network._model
    inputs = list_inputs(model, song["mixture"])
    if not inputs:
        raise SystemExit(f"--seconds: {name} takes {model.chunk.samples / model.sample_rate:.1f}")
    graph = make_graph(model.core, make_examples(model, any_length=not model.chunk.fixed))
    calibration = nncf.Dataset(inputs, lambda one: [tensor.numpy() for tensor in one])
    eighth = nncf.quantize(graph, calibration, subset_size=len(inputs))
    streams = count_workers(CPU)
    cores, scores, times = {}, {}, {"fp32": math.inf, "int8": math.inf}
    for precision, one in (("fp32", graph), ("int8", eighth)):
        cores[precision] = OpenVINOCore(one, "fp32", torch.get_num_threads(), streams)
        network._core = cores[precision]
        stems = separator.separate(song["mixture"])
        scores[precision] = {
            stem: ratio_db(song[stem], heard - song[stem]) for stem, heard in stems.items()
        }
    for _ in range(runs):
        for precision, core in cores.items():
            spent = time_s(lambda core=core: run_at_once(core, inputs[0], streams)) / streams
            times[precision] = min(times[precision], spent)
    for stem, before in scores["fp32"].items():
        after = scores["int8"][stem]
        verdict = "yes" if before - after < MOST_LOST_DB else "no"
        print(
            f"| {name} | {stem} | {before:.3f} | {after:.3f} | {before - after:.3f} | {verdict} "
            f"| {times['fp32']:.3f} | {times['int8']:.3f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["spleeter-2stems"])
    parser.add_argument("--seconds", type=float, default=24)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    song = read_song(options.seconds)
    print("| model | stem | fp32 SDR | int8 SDR | lost dB | under 0.05 | fp32 s | int8 s |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.models:
        measure(name, song, options.runs)


if __name__ == "__main__":
    main()
