"""From a model's `core` to what computes it: torch, or another runtime's graph of it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stemsplit import __version__
from stemsplit.backends.choice import Core
from stemsplit.backends.compiled_core import CompiledCore
from stemsplit.backends.openvino_core import OpenVINOCore
from stemsplit.backends.openvino_graph import find_shapes, make_graph, save_graph
from stemsplit.backends.torch_core import TorchCore
from stemsplit.errors import DeviceError, OutputError
from stemsplit.weights.graphs import find_graph
from stemsplit.weights.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    import openvino

    from stemsplit.models.base import StemModel


def make_core(
    model: StemModel,
    device: torch.device,
    backend: str,
    precision: str,
    *,
    is_whole: bool = False,
    chunk_samples: int | None = None,
    workers: int = 1,
    on_graph: Callable[[], None] = lambda: None,
) -> Core:
    """Get a network's core ready to run.

    Args:
        model: In evaluation mode, on the device, for just the stems that it is to give.
        device: Where to run.
        backend: "torch", "compile" or "openvino".
        precision: "fp32", "bf16" or "fp16".
        is_whole: Whether songs come whole, of any length, instead of in chunks.
        chunk_samples: How long chunks are; the model's own length when None.
        workers: How many chunks run at once.
        on_graph: Called before a graph or code is made, which may take half a minute.

    Raises:
        DeviceError: The backend cannot take this network.
    """
    if backend == "torch":
        return TorchCore(model.core, device, precision)
    if backend == "compile":
        if is_whole:
            raise DeviceError(
                "torch.compile makes code for one length, and whole songs have any",
                help="leave out --framing original, or use --backend torch.",
            )
        on_graph()
        example = _make_example(model, chunk_samples or model.chunk.samples)
        return CompiledCore(model.core, device, precision, example, workers)
    examples = make_examples(model, any_length=is_whole or not model.chunk.fixed)

    def make() -> openvino.Model:
        on_graph()
        return make_graph(model.core, examples)

    threads = torch.get_num_threads()
    if model.has_loaded_weights:
        try:
            name = _name_graph(model, examples)
            path = find_graph(Store(), model.name, name, lambda path: save_graph(make(), path))
            return OpenVINOCore(path, precision, threads, workers)
        except OutputError:
            pass  # A cache that several share may be one to read only.
    return OpenVINOCore(make(), precision, threads, workers)


def make_examples(model: StemModel, *, any_length: bool) -> list[tuple[Tensor, ...]]:
    """Return one item of the core's inputs for noise; of two lengths where they may differ.

    Args:
        model: The network.
        any_length: Whether chunks are of several lengths.
    """
    samples = model.chunk.samples
    lengths = (samples // 2, samples) if any_length else (samples,)
    return [_make_example(model, length) for length in lengths]


@torch.no_grad()
def _make_example(model: StemModel, samples: int) -> tuple[Tensor, ...]:
    dice = torch.Generator().manual_seed(samples)
    noise = 0.1 * torch.randn(1, model.channels, samples, generator=dice)
    return tuple(tensor[:1] for tensor in model.encode(noise).inputs)


def _name_graph(model: StemModel, examples: list[tuple[Tensor, ...]]) -> str:
    """Return 16 hexadecimal digits of all that decides what the graph is."""
    told = [
        model.weights_sha256,
        model.stems,
        find_shapes(examples),
        __version__,
        torch.__version__,
        importlib.metadata.version("openvino"),
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
