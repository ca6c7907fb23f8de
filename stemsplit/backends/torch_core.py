"""Run a core by torch itself, on any of its devices and in the numbers asked for."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from stemsplit.backends.filled import fill_vectors
from stemsplit.backends.folding import fold_norms, map_norms
from stemsplit.backends.native.fusing import use_native_convolutions, use_native_matrices
from stemsplit.backends.native.library import are_faster
from stemsplit.backends.phases import split_phases
from stemsplit.backends.products import use_products
from stemsplit.dsp.memory import new_empty
from stemsplit.errors import DeviceError, UnknownNameError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def find_device(name: str) -> torch.device:
    """Return the device of a name; "auto" takes CUDA, else Apple's MPS, else the CPU.

    Args:
        name: "auto", "cpu", "cuda", "cuda:n" or "mps".

    Raises:
        UnknownNameError: No device is called that.
        DeviceError: This machine, or this build of torch, does not have it.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not number.isdecimal()):
        raise UnknownNameError("device", name, ("auto", "cpu", "cuda", "cuda:0", "mps"))
    there = torch.cuda.device_count() if kind == "cuda" else 1
    if kind == "mps" and not torch.backends.mps.is_available():
        there = 0
    if int(number or 0) >= there:
        raise DeviceError(
            f"device {name!r} was asked for, and torch sees {there} of that kind here",
            help="use --device auto or cpu; `stemsplit doctor` shows what this machine offers.",
        )
    return torch.device(name)


def find_precision(name: str, device: torch.device) -> str:
    """Return "fp32", "bf16" or "fp16"; "auto" is fp32.

    Args:
        name: One of these or "auto".
        device: Where it is to run.

    Raises:
        UnknownNameError: No precision is called that.
        DeviceError: The device does not compute in it.
    """
    if name == "auto":
        return "fp32"
    if name not in PRECISIONS:
        raise UnknownNameError("precision", name, ("auto", *PRECISIONS))
    if name == "fp16" and device.type == "cpu":
        raise DeviceError(
            "fp16 is for GPUs; on a CPU it is slower and less exact than fp32",
            help="use --precision fp32 or bf16, or --device cuda.",
        )
    return name


class TorchCore:
    """A core on its device. Float32 goes in and comes out, whatever is computed in between."""

    def __init__(self, core: nn.Module, device: torch.device, precision: str) -> None:
        """Move the core to its device.

        What runs is a copy that shares most tensors: the caller's stays as it is.

        Args:
            core: All of a model's weights.
            device: Where to run.
            precision: "fp32", "bf16" or "fp16".
        """
        self._core = copy_core(core.to(device).eval())
        fold_norms(self._core)
        self._device = device
        self._dtype = PRECISIONS[precision]
        # Convolutions on a CPU are about a tenth faster when channels are the fastest axis.
        self._channels_last = device.type == "cpu" and any(
            isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) for module in core.modules()
        )
        if self._channels_last:
            if are_faster(precision):
                use_native_convolutions(self._core)
                use_native_matrices(self._core, is_lowered=precision != "fp32")
                use_products(self._core)
            self._core = split_phases(self._core)
            fill_vectors(self._core)
            map_norms(self._core)
            _turn_images(self._core)

    def __call__(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Run once.

        Args:
            inputs: As the model's `encode` gave them, on the device.

        Returns:
            The core's outputs, float32, on the device.
        """
        if self._channels_last:
            inputs = tuple(_to_channels_last(tensor) for tensor in inputs)
        return run_core(self._core, inputs, self._device, self._dtype)


def run_core(
    core: Callable[..., Any], inputs: tuple[Tensor, ...], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Run a network in the numbers asked for; float32 goes in and comes out.

    Args:
        core: The network, or what was made of it.
        inputs: On the device.
        device: Where it runs.
        dtype: One of `PRECISIONS`.

    Returns:
        Its outputs, float32; of one that returns no tuple, the one that there is.
    """
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32):
        outputs = core(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return tuple(output.float() for output in outputs)


@contextlib.contextmanager
def explain_lack_of_memory(device: torch.device) -> Iterator[None]:
    """Say what to do where torch only says that memory was not to be had.

    Raises:
        DeviceError: The device has not enough memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_lack_of_memory(error):
            raise
        words = str(error)
        said = words.splitlines()[0] if words else "no more could be had"
        raise DeviceError(
            f"{device} ran out of memory: {said}",
            help="close other programs, leave out --framing original and --jobs, use a smaller "
            "--segment where the model takes one, or another --device.",
        ) from error


def is_lack_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory was not to be had."""
    words = str(error)
    # On a processor torch raises a plain RuntimeError, told by its allocator's name.
    is_cpu = isinstance(error, MemoryError) or "DefaultCPUAllocator" in words
    # Of memory that a card is to fetch from, CUDA itself says so.
    is_pinned = "CUDA error: out of memory" in words
    return is_cpu or is_pinned or isinstance(error, torch.OutOfMemoryError)


def copy_core(core: nn.Module) -> nn.Module:
    """Copy a network's modules; the tensors are shared."""
    return copy.deepcopy(core, {id(one): one for one in (*core.parameters(), *core.buffers())})


def _turn_images(core: nn.Module) -> None:
    """Replace a network's kernels by copies whose channels are the fastest axis."""
    for module in core.modules():
        for name, kernel in module.named_parameters(recurse=False):
            # Of one channel there is no faster axis, and torch is slower with another order.
            if kernel.dim() == 4 and kernel.shape[1] > 1:
                turned = kernel.detach().clone(memory_format=torch.channels_last)
                setattr(module, name, nn.Parameter(turned, kernel.requires_grad))
        for name, phase in module.named_buffers(recurse=False):
            if phase.dim() == 4:
                setattr(module, name, phase.clone(memory_format=torch.channels_last))


def _to_channels_last(tensor: Tensor) -> Tensor:
    if tensor.dim() != 4 or tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor
    turned = tensor.permute(0, 2, 3, 1)
    return new_empty(tensor, turned.shape).copy_(turned).permute(0, 3, 1, 2)
