"""What fewer bits cost and bring: networks in bf16, and in int8, beside fp32.

    python benchmarks/precision.py [MODEL ...] [--arch NAME ...] [--seconds 24] [--runs 3] [--int8]

The song is stempeg's excerpt again and again, with its true stems. "beside fp32": the SNR of stems
in fewer bits, beside those of torch in fp32. "SDR": beside the true stems; "lost": by how much it
is lower. "s": a chunk's network, as many at once as separation runs. Of an architecture at its
published size with random weights (one stem, or what it needs) there is the first alone, and the
time. OpenVINO's rows are there where it is installed, and computes in these numbers.

bf16 is for offering with an SNR of at least 40 dB or a loss under 0.02 dB, int8 with a loss under
0.05 dB, where they take less time. `--int8` needs the package nncf, which quantizes OpenVINO's
graph after training, calibrated on the very song that is scored: the kindest case.
"""

from __future__ import annotations

import argparse
import importlib
import math
from collections.abc import Iterator

import torch
from seams import ratio_db, read_song
from share import build, run_at_once, time_s
from torch import Tensor

import stemsplit
from stemsplit.backends import openvino_core
from stemsplit.backends.choice import Core
from stemsplit.backends.openvino_core import OpenVINOCore
from stemsplit.backends.openvino_graph import make_graph
from stemsplit.backends.process import keep_freed_memory
from stemsplit.backends.workers import count_workers
from stemsplit.dsp.overlap_add import Chunker
from stemsplit.models.base import StemModel
from stemsplit.separation.cores import make_examples

CPU = torch.device("cpu")
Inputs = list[tuple[Tensor, ...]]


@torch.no_grad()
def list_inputs(model: StemModel, mixture: Tensor) -> Inputs:
    """Return the core's inputs for every whole chunk of a song."""
    samples = model.chunk.samples
    overlap = round(model.chunk.overlap * samples)
    chunks = Chunker(samples, overlap).feed(mixture)
    return [model.encode(chunk.samples.unsqueeze(0)).inputs for chunk in chunks]


@torch.no_grad()
def quantize(model: StemModel, inputs: Inputs) -> OpenVINOCore:
    """Return a network in eight bits."""
    nncf = importlib.import_module("nncf")
    graph = make_graph(model.core, make_examples(model, any_length=not model.chunk.fixed))
    calibration = nncf.Dataset(inputs, lambda one: [tensor.numpy() for tensor in one])
    eighth = nncf.quantize(graph, calibration, subset_size=len(inputs))
    workers = count_workers(CPU, is_large=model.is_large)
    return OpenVINOCore(eighth, "fp32", torch.get_num_threads(), workers)


def find_core(separator: stemsplit.Separator) -> Core:
    """Return what computes a model that is one network."""
    (network,) = separator._networks
    return network._core


def prepare(
    model: StemModel, inputs: Inputs, with_int8: bool
) -> Iterator[tuple[str, stemsplit.Separator]]:
    """Yield what separates, by what it computes in; fp32 comes first."""
    for precision in ("fp32", "bf16"):
        yield precision, stemsplit.Separator(model, backend="torch", precision=precision)
    if not openvino_core.is_installed():
        return
    for precision in ("fp32", "bf16"):
        if openvino_core.computes_in(precision):
            separator = stemsplit.Separator(model, backend="openvino", precision=precision)
            yield f"{precision}, OpenVINO", separator
    if with_int8:
        separator = stemsplit.Separator(model, backend="torch")
        (network,) = separator._networks
        network._core = quantize(network._model, inputs)
        yield "int8, OpenVINO", separator


def measure(
    name: str, model: StemModel, song: dict[str, Tensor], options: argparse.Namespace
) -> None:
    """Print the rows of a model that is one network."""
    is_random = name in options.arch
    (network,) = stemsplit.Separator(model, backend="torch")._networks
    inputs = list_inputs(network._model, song["mixture"])
    if not inputs:
        raise SystemExit(f"--seconds: a chunk of {name} is longer")
    separators = dict(prepare(model, inputs, options.int8))
    chunks = network.workers
    times = dict.fromkeys(separators, math.inf)
    for _ in range(options.runs + 1):
        for label, separator in separators.items():
            core = find_core(separator)
            spent_s = time_s(lambda core=core: run_at_once(core, inputs[0], chunks), CPU)
            times[label] = min(times[label], spent_s / chunks)
    stems = {label: one.separate(song["mixture"]) for label, one in separators.items()}
    for label, heard in stems.items():
        for stem, exact in stems["fp32"].items():
            cells = [f"{ratio_db(exact, heard[stem] - exact):.1f}" if label != "fp32" else ""]
            if is_random:
                cells += ["", ""]
            else:
                true = song[stem]
                score, before = (ratio_db(true, one - true) for one in (heard[stem], exact))
                cells += [f"{score:.3f}", f"{before - score:.3f}"]
            print(f"| {name} | {label} | {stem} | {' | '.join(cells)} | {times[label]:.3f} |")
    print(end="", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--arch", nargs="*", default=[])
    parser.add_argument("--seconds", type=float, default=24)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--int8", action="store_true")
    options = parser.parse_args()
    keep_freed_memory()
    song = read_song(options.seconds)
    models = options.models or ([] if options.arch else ["spleeter-2stems"])
    print("| model | numbers | stem | beside fp32, dB | SDR | lost dB | s |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in models:
        measure(name, stemsplit.load_model(name), song, options)
    for name in options.arch:
        measure(name, build(name), song, options)


if __name__ == "__main__":
    main()
