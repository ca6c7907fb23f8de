"""Run a core by OpenVINO, on a processor: a graph of its own making, compiled for this machine."""

from __future__ import annotations

import functools
import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stemsplit.backends.one_item import Tensors, run_items
from stemsplit.errors import DeviceError

if TYPE_CHECKING:
    import openvino

EXTRA = 'pip install "stemsplit[openvino]"'
_HINTS = {"fp32": "f32", "bf16": "bf16"}
_CAPABILITIES = {"fp32": "FP32", "bf16": "BF16"}


def is_installed() -> bool:
    """Say whether the package is there, without importing it."""
    return importlib.util.find_spec("openvino") is not None


@functools.cache
def find_runtime() -> openvino.Core:
    """Return OpenVINO's runtime, of which a process has one.

    Raises:
        DeviceError: The package is not there.
    """
    try:
        import openvino
    except ImportError as error:
        raise DeviceError(
            f"the backend openvino needs the package openvino: {error}",
            help=f"install it: {EXTRA}; or use --backend torch.",
        ) from error
    return openvino.Core()


def computes_in(precision: str) -> bool:
    """Say whether OpenVINO has fast code for these numbers on this processor."""
    if precision == "fp32":
        return True
    found: Sequence[str] = find_runtime().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return _CAPABILITIES.get(precision) in found


def check_precision(precision: str) -> None:
    """Refuse numbers that OpenVINO would silently replace by others on this processor.

    Raises:
        DeviceError: It would, or the package is not there.
    """
    find_runtime()
    if not computes_in(precision):
        raise DeviceError(
            f"OpenVINO does not compute in {precision} on this processor, which lacks the "
            "instructions for it",
            help="use --precision fp32; --backend torch imitates it, and gains nothing by that.",
        )


class OpenVINOCore:
    """A core as a compiled graph. Float32 goes in and comes out.

    Every graph takes one item of a batch: items run one after the other, and threads side by side.
    """

    def __init__(
        self, graph: Path | openvino.Model, precision: str, threads: int, streams: int
    ) -> None:
        """Prepare; the graph is compiled when it first runs.

        Args:
            graph: From `stemsplit.backends.openvino_graph`, or its file.
            precision: "fp32" or "bf16".
            threads: How many of the processor's threads all runs together may use.
            streams: How many runs share them at the same time; others wait.
        """
        self._graph: Path | openvino.Model | None = graph
        self._settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": min(streams, threads),
            # Pinned threads of two programs would meet on the same cores, and leave others idle.
            "ENABLE_CPU_PINNING": False,
        }
        self._compiling = threading.Lock()
        self._compiled: openvino.CompiledModel | None = None
        self._requests = threading.local()

    def __call__(self, inputs: Tensors) -> Tensors:
        """Run every item of the batch. See `stemsplit.backends.choice.Core`.

        Raises:
            MemoryError: There is not enough memory.
        """
        request = self._find_request()
        return run_items(lambda item: self._infer(request, item), inputs)

    def _infer(self, request: openvino.InferRequest, item: Tensors) -> Tensors:
        import openvino

        # The request looks at these arrays, and does not keep them.
        arrays = [np.ascontiguousarray(tensor.float().numpy()) for tensor in item]
        for place, array in enumerate(arrays):
            request.set_input_tensor(place, openvino.Tensor(array, shared_memory=True))
        try:
            request.infer()
        except RuntimeError as error:
            if "bad_alloc" in str(error) or "allocate" in str(error):
                raise MemoryError(str(error).splitlines()[0]) from error
            raise
        # The request's own arrays are filled anew by its next run.
        return tuple(torch.from_numpy(output.data.copy()) for output in request.output_tensors)

    def _find_request(self) -> openvino.InferRequest:
        """Return the calling thread's own request: what a run reads and writes."""
        request: openvino.InferRequest | None = getattr(self._requests, "own", None)
        if request is None:
            request = self._requests.own = self._compile().create_infer_request()
        return request

    def _compile(self) -> openvino.CompiledModel:
        with self._compiling:
            if self._compiled is None:
                graph = self._graph
                assert graph is not None, "it is let go of only once it is compiled"
                source = str(graph) if isinstance(graph, Path) else graph
                self._compiled = find_runtime().compile_model(source, "CPU", self._settings)
                self._graph = None
            return self._compiled
