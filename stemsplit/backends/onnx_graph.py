"""From a torch network to an ONNX file, for other programs, and the comparison of the two."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from stemsplit.backends.one_item import Tensors, compare
from stemsplit.backends.openvino_graph import find_shapes
from stemsplit.errors import DeviceError

EXTRA = 'pip install "stemsplit[onnx]"'
OPSET = 17
"""The oldest that has all that the networks need; runtimes of 2022 and later know it."""


@torch.no_grad()
def save_onnx(
    core: nn.Module, examples: Sequence[Tensors], expected: Sequence[Tensors], path: Path
) -> float:
    """Write a network as ONNX.

    Args:
        core: In evaluation mode, on the CPU.
        examples: Inputs of one item each: axes that differ among them are open.
        expected: What torch makes of them.
        path: The file.

    Returns:
        How far its outputs are from torch's: the largest relative norm.

    Raises:
        DeviceError: A package is not there, or the network cannot be written so.
        OSError: The place cannot be written to.
    """
    try:
        import onnx  # noqa: F401  # torch's exporter needs it, and says so only in the middle
        import onnxruntime
    except ImportError as error:
        raise DeviceError(
            f"writing ONNX needs the packages onnx and onnxruntime: {error}",
            help=f"install them: {EXTRA}",
        ) from error
    names = [f"input_{number}" for number in range(len(examples[0]))]
    outputs = [f"output_{number}" for number in range(len(expected[0]))]
    open_axes = {}
    for kind, found in ((names, examples), (outputs, expected)):
        for name, shape in zip(kind, find_shapes(found), strict=True):
            if -1 in shape:
                open_axes[name] = {axis: "frames" for axis, size in enumerate(shape) if size < 0}
    try:
        with warnings.catch_warnings():
            # This exporter is called deprecated, and warns of branches: those are compared below.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                core,
                examples[0],
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=names,
                output_names=outputs,
                dynamic_axes=open_axes,
            )
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        got = [
            tuple(
                torch.from_numpy(array) for array in session.run(None, _as_arrays(names, example))
            )
            for example in examples
        ]
    except OSError:
        raise  # A full disk is not the network's fault.
    except Exception as error:
        # Exporter and runtime have many kinds; whatever it is, there is no file.
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DeviceError(
            f"this network cannot be written as ONNX: {said}", help="use --to openvino."
        ) from error
    return compare(expected, got)


def _as_arrays(names: Sequence[str], example: Tensors) -> dict[str, np.ndarray[Any, Any]]:
    arrays = (np.ascontiguousarray(tensor.numpy()) for tensor in example)
    return dict(zip(names, arrays, strict=True))
