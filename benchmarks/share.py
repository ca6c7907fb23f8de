"""How much of the machine a network uses: its time beside that of as many operations in products.

    python benchmarks/share.py [--arch NAME ...] [--precision fp32|bf16|fp16] [--threads N]
        [--runs 3] [--backend torch|compile|openvino] [--device cpu|cuda] [--batch 1]

One stem's network (all stems' where they are one network), published sizes, random weights, run as
the separator runs it: as many chunks at once as it has workers (two on a processor of several
cores; one of large networks on two or three), and as many threads in all. On a graphics card eight
chunks follow one another without a wait between them. With `--batch N` so many chunks go through
as one batch, as the separator has it with --batch-size. "GFLOP": what the plain network's
layers ask for by their definition, twice the products, of one chunk; torch's counter sees
convolutions and matrices, and recurrent layers are counted by formula. "network s": the time of all
these chunks over their number. "rate": a product of two square matrices in the same run, precision
and number of threads, the best of several. "share": the network's time over the operations' at that
rate; 1 would be a machine that does nothing else, and the bar is 2. "ready s": making the backend's
code, or graph, of the network; torch.compile keeps its own where TORCHINDUCTOR_CACHE_DIR says. A
card has two columns more: how many seconds of sound are computed in one, by the network alone, and
the most memory that torch has taken for arrays there; its fp32 is TF32, in products as in
convolutions. Everything is measured in turn, and the least
of each counts.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stemsplit.backends import BACKENDS
from stemsplit.backends.choice import Core
from stemsplit.backends.process import keep_freed_memory
from stemsplit.backends.torch_core import PRECISIONS, find_device
from stemsplit.backends.workers import Workers, count_workers, wait_for
from stemsplit.models.base import StemModel
from stemsplit.models.catalogue import ARCHITECTURES, find_architecture
from stemsplit.separation.cores import make_core

PRODUCT_SIZE = {"cpu": 2048, "cuda": 8192}
DEVICES = tuple(PRODUCT_SIZE)
CHUNKS_ON_A_CARD = 8
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def build(name: str) -> StemModel:
    """Return an architecture at its published size, random weights: one stem, or what it needs."""
    kind = find_architecture(name)
    for stems in (("vocals",), ("vocals", "drums", "bass", "other")):
        torch.manual_seed(0)
        model = kind(kind.Config(stems)).eval()
        if len(stems) >= model.fewest_stems:
            break
    return model


def count_operations(core: nn.Module, inputs: tuple[torch.Tensor, ...]) -> float:
    """Return twice the multiplications of one run, recurrent layers by their formula."""
    recurrent = 0.0

    def add(layer: nn.RNNBase, given: tuple[torch.Tensor, ...], _: object) -> None:
        nonlocal recurrent
        steps = math.prod(given[0].shape[:-1])
        ways = 2 if layer.bidirectional else 1
        for place in range(layer.num_layers):
            wide = layer.input_size if place == 0 else ways * layer.hidden_size
            cells = ways * GATES[layer.mode.partition("_")[0]] * layer.hidden_size
            recurrent += 2 * steps * cells * (wide + layer.hidden_size)

    layers = [one for one in core.modules() if isinstance(one, nn.RNNBase)]
    if layers and not torch.backends.mkldnn.is_available():
        raise SystemExit("without oneDNN, torch counts recurrent layers too, and they count double")
    handles = [one.register_forward_hook(add) for one in layers]
    counter = FlopCounterMode(display=False)
    with counter:
        core(*inputs)
    for handle in handles:
        handle.remove()
    return float(counter.get_total_flops()) + recurrent


def time_s(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call, until a card has done all of it."""
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


@torch.no_grad()
def run(core: Core, inputs: tuple[torch.Tensor, ...]) -> None:
    """Take a chunk through; every thread has gradients of its own to be told to leave."""
    core(inputs)


def run_at_once(core: Core, inputs: tuple[torch.Tensor, ...], chunks: int) -> None:
    """Take as many chunks through, side by side, as the separator does."""
    if inputs[0].device.type != "cpu":
        for _ in range(chunks):
            run(core, inputs)
        return
    workers = Workers(chunks)
    for future in [workers.submit(run, core, inputs) for _ in range(chunks)]:
        wait_for(future)
    workers.close()


@torch.no_grad()
def measure(
    name: str, device: torch.device, backend: str, precision: str, runs: int, batch: int
) -> None:
    """Print an architecture's row."""
    model = build(name).to(device)
    mixture = 0.1 * torch.randn(1, 2, model.chunk.samples)
    inputs, _ = model.encode(mixture.to(device))
    operations = count_operations(model.core, inputs)
    inputs = tuple(one.repeat(batch, *[1] * (one.dim() - 1)) for one in inputs)
    is_card = device.type == "cuda"
    workers = count_workers(device, is_large=model.is_large)
    chunks = CHUNKS_ON_A_CARD if is_card else workers
    began = time.perf_counter()
    core = make_core(model, device, backend, precision, workers=workers)
    ready_s = time.perf_counter() - began
    size = PRODUCT_SIZE[device.type]
    square = torch.randn(size, size, device=device).to(PRECISIONS[precision])
    network_s, product_s = math.inf, math.inf
    for _ in range(runs + 1):
        for _ in range(3):
            product_s = min(product_s, time_s(lambda: square @ square, device))
        took_s = time_s(lambda: run_at_once(core, inputs, chunks), device)
        network_s = min(network_s, took_s / (chunks * batch))
    rate = 2 * size**3 / product_s
    chunk_s = model.chunk.samples / model.sample_rate
    more = ""
    if is_card:
        del square
        torch.cuda.reset_peak_memory_stats(device)
        run_at_once(core, inputs, chunks)
        mib = torch.cuda.max_memory_allocated(device) / 2**20
        more = f" {chunk_s / network_s:.0f} | {mib:.0f} |"
    print(
        f"| {name} | {len(model.stems)} | {chunk_s:.1f} "
        f"| {operations / 1e9:.1f} | {network_s:.{5 if is_card else 3}f} | {rate / 1e9:.0f} "
        f"| {network_s * rate / operations:.2f} | {ready_s:.1f} |{more}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", nargs="*", default=sorted(ARCHITECTURES))
    parser.add_argument("--backend", choices=BACKENDS[1:], default="torch")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="fp32")
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    device = find_device(options.device)
    # As convolutions have it there.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    is_card = device.type == "cuda"
    where = torch.cuda.get_device_name(device) if is_card else f"{options.threads} threads"
    print(f"{options.backend}, {options.precision}, {where}\n")
    heads = ["architecture", "stems", "chunk s", "GFLOP", "network s", "rate, GFLOP/s", "share"]
    heads += ["ready s", *(["times real time", "MiB"] if is_card else [])]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for name in options.arch:
        measure(name, device, options.backend, options.precision, options.runs, options.batch)


if __name__ == "__main__":
    main()
