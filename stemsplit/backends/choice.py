"""Which runtime computes a network, and what every one of them is to the rest: a `Core`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from stemsplit.backends import BACKENDS, openvino_core
from stemsplit.errors import DeviceError, UnknownNameError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

VARIABLE = "STEMSPLIT_BACKEND"


class Core(Protocol):
    """A network that is ready to run. Several threads may call it at once."""

    def __call__(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Run once.

        Args:
            inputs: As the model's `encode` gave them, on the device.

        Returns:
            The network's outputs, float32, on the device.
        """


def find_backend(
    name: str,
    device: torch.device,
    precision: str,
    *,
    is_kept: bool,
    is_convolutional: bool = False,
) -> str:
    """Return what computes a network; "auto" is $STEMSPLIT_BACKEND, else what is faster here.

    That is torch with its convolutions in C, where these were compiled for this processor and beat
    those of other numbers (`stemsplit.backends.native`). Elsewhere it is OpenVINO on a processor,
    where the package is there and computes in these numbers, and where a network's graph can be
    kept: making one takes seconds, and is done once for weights that have been loaded, but every
    time for those that may change. So it is for other numbers than fp32 where torch would compute
    next to nothing in them, as of networks that are all convolutions. "compile" is never chosen by
    itself.

    Args:
        name: One of `BACKENDS`.
        device: Where the network is to run.
        precision: "fp32", "bf16" or "fp16".
        is_kept: Whether the graphs of all networks can be kept.
        is_convolutional: Whether the networks are convolutions alone, without matrices.

    Returns:
        "torch", "compile" or "openvino".

    Raises:
        UnknownNameError: No backend is called that.
        DeviceError: OpenVINO was asked for, and is not there or not for this.
    """
    if name == "auto":
        name = os.environ.get(VARIABLE) or name
    if name not in BACKENDS:
        raise UnknownNameError("backend", name, BACKENDS)
    if name == "openvino":
        if device.type != "cpu":
            raise DeviceError(
                f"the backend openvino is for processors, and {device} is none",
                help="use --device cpu, or --backend torch.",
            )
        openvino_core.check_precision(precision)
        return name
    if name in ("torch", "compile"):
        return name
    if device.type != "cpu" or not is_kept:
        return "torch"
    if has_native_convolutions(precision) and (precision == "fp32" or not is_convolutional):
        return "torch"
    is_there = openvino_core.is_installed() and openvino_core.computes_in(precision)
    return "openvino" if is_there else "torch"


def has_native_convolutions(precision: str = "fp32") -> bool:
    """Tell whether this processor has convolutions in C, and should use them for these numbers."""
    from stemsplit.backends.native.library import are_faster, find_library  # loads torch

    return find_library() is not None and are_faster(precision)
