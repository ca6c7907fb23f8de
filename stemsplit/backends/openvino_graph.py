"""From a torch network to OpenVINO's graph: traced, translated, and compared with what it was.

The graph takes one item of a batch. Axes whose length depends on the chunk's are left open, all
others are fixed, so that everything that follows from them is computed now and not in every run.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stemsplit.backends.one_item import TOLERANCE, Tensors, compare
from stemsplit.backends.openvino_core import OpenVINOCore, find_runtime
from stemsplit.errors import DeviceError

if TYPE_CHECKING:
    import openvino


@torch.no_grad()
def make_graph(core: nn.Module, examples: Sequence[Tensors]) -> openvino.Model:
    """Translate a network, and make sure that the two compute the same.

    Args:
        core: In evaluation mode, on the CPU; left as it is.
        examples: Inputs of one item each, of every length that there is to see: axes that differ
            among them are open.

    Raises:
        DeviceError: The package is not there, or the network cannot be translated.
    """
    find_runtime()
    try:
        witness = _Witness(core).eval()
        with warnings.catch_warnings():
            # Tracing is called deprecated, and warns of branches: those are what is compared below.
            warnings.simplefilter("ignore")
            graph = _translate(witness, examples)
        expected = [witness.seen, *(witness(*example) for example in examples[1:])]
        difference = measure_difference(graph, examples, expected)
    except Exception as error:
        # OpenVINO and tracing have many kinds; whatever it is, there is no graph.
        lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
        telling = [line for line in lines if "No conversion rule" in line]
        said = (telling or lines or [type(error).__name__])[0]
        raise DeviceError(
            f"OpenVINO cannot take this network: {said}", help="use --backend torch."
        ) from error
    if not difference < TOLERANCE:
        raise DeviceError(
            f"OpenVINO's graph of this network is {difference:.1e} away from what torch computes",
            help="use --backend torch.",
        )
    return graph


class _Witness(nn.Module):
    """A network that keeps what it gave the last time, so that tracing it is not one run more."""

    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core = core
        self.seen: Tensors = ()

    def forward(self, *inputs: Tensor) -> Tensors:
        """Run the network; its outputs as a tuple, however many there are."""
        outputs = self.core(*inputs)
        self.seen = outputs if isinstance(outputs, tuple) else (outputs,)
        return self.seen


def _translate(core: nn.Module, examples: Sequence[Tensors]) -> openvino.Model:
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
    from openvino.passes import ConstantFolding, Manager

    shapes = find_shapes(examples)
    traced = torch.jit.trace(core, examples[0], check_trace=False)
    # Frozen, it is a list of operations and their weights, without the modules' tree: the
    # translation takes a fraction of the time.
    decoder = TorchScriptPythonDecoder(torch.jit.freeze(traced), example_input=examples[0])
    frontend = FrontEndManager().load_by_framework("pytorch")
    source = frontend.load(decoder)
    for place, shape in zip(source.get_inputs(), shapes, strict=True):
        source.set_element_type(place, openvino.Type.f32)
        source.set_partial_shape(place, openvino.PartialShape(list(shape)))
    graph = frontend.convert(source)
    # What depends on lengths alone is known already, where they are.
    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(graph)
    for prefix, ports in (("input", graph.inputs), ("output", graph.outputs)):
        for number, port in enumerate(ports):
            port.get_tensor().set_names({f"{prefix}_{number}"})
    return graph


def find_shapes(examples: Sequence[Tensors]) -> list[tuple[int, ...]]:
    """Return the inputs' shapes, with -1 for axes that differ among the examples."""
    return [
        tuple(
            lengths[0] if len(set(lengths)) == 1 else -1
            for lengths in zip(*(tensor.shape for tensor in versions), strict=True)
        )
        for versions in zip(*examples, strict=True)
    ]


def measure_difference(
    graph: openvino.Model | Path, examples: Sequence[Tensors], expected: Sequence[Tensors]
) -> float:
    """Return how far a graph's outputs are from torch's: the largest relative norm."""
    runner = OpenVINOCore(graph, "fp32", torch.get_num_threads(), streams=1)
    return compare(expected, [runner(example) for example in examples])


def save_graph(graph: openvino.Model, path: Path) -> None:
    """Write a graph as `path`, which ends in .xml, and its weights beside it as .bin.

    Raises:
        OSError: The place cannot be written to.
    """
    import openvino

    try:
        openvino.save_model(graph, str(path), compress_to_fp16=False)
    except RuntimeError as error:
        # A full disk is a stream's error to OpenVINO, which says no more of it.
        raise OSError(f"OpenVINO could not write {path.name} and its .bin") from error
