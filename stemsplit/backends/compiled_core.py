"""Run a core by what torch.compile makes of it: C++ on a processor, Triton on a graphics card."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from stemsplit.backends.folding import fold_norms
from stemsplit.backends.one_item import TOLERANCE, Tensors, compare, run_items
from stemsplit.backends.torch_core import (
    PRECISIONS,
    copy_core,
    explain_lack_of_memory,
    run_core,
)
from stemsplit.errors import DeviceError

LOWERED_TOLERANCE = 0.1
"""The same for bf16 and fp16, which a compiler rounds at other places."""


class CompiledCore:
    """A core as code of its own, for one item of one length. Float32 goes in and comes out.

    Other lengths (a song's last chunk, where these vary) go through the network as it is: compiling
    takes longer than many a song. So do recurrent layers, which torch.compile leaves to torch.
    """

    def __init__(
        self,
        core: nn.Module,
        device: torch.device,
        precision: str,
        example: Tensors,
        workers: int = 1,
    ) -> None:
        """Compile, and make sure that the two compute the same.

        Args:
            core: In evaluation mode, on the device; left as it is.
            device: Where to run.
            precision: "fp32", "bf16" or "fp16".
            example: Inputs of one item, as long as they will be.
            workers: How many will run it at once, with an equal share of torch's threads each.

        Raises:
            DeviceError: torch.compile cannot take this network, or not on this machine.
        """
        self._core = copy_core(core)
        fold_norms(self._core)
        self._device = device
        self._dtype = PRECISIONS[precision]
        self._example = tuple(tensor.to(device) for tensor in example)
        self._shapes = [tensor.shape for tensor in example]
        with explain_lack_of_memory(device):
            self._expected = self._run(self._core, self._example)
        self._code: Callable[..., Any] | None = None
        self._preparing = threading.Lock()
        self._prepared: set[int] = set()
        threads = torch.get_num_threads()
        torch.set_num_threads(-(-threads // workers))
        try:
            self._prepare()
        finally:
            torch.set_num_threads(threads)

    def __call__(self, inputs: Tensors) -> Tensors:
        """Run every item of the batch. See `stemsplit.backends.choice.Core`."""
        return run_items(self._run_item, inputs)

    def _run_item(self, item: Tensors) -> Tensors:
        if [tensor.shape for tensor in item] != self._shapes:
            return self._run(self._core, item)
        return self._run(self._prepare(), item)

    def _prepare(self) -> Callable[..., Any]:
        """Return the code for as many threads as the caller has: torch makes it anew for others.

        Raises:
            DeviceError: See the constructor.
        """
        threads = torch.get_num_threads()
        with self._preparing:
            if threads not in self._prepared:
                with warnings.catch_warnings():
                    # Of faster and less exact settings, and of the compiler's own parts.
                    warnings.simplefilter("ignore")
                    self._code = self._compile()
                self._prepared.add(threads)
        assert self._code is not None, "it was made for some number of threads"
        return self._code

    def _compile(self) -> Callable[..., Any]:
        try:
            with explain_lack_of_memory(self._device):
                code = self._code or torch.compile(self._core, dynamic=False)
                got = self._run(code, self._example)
        except DeviceError:
            raise
        except Exception as error:
            # Each of its stages has kinds of its own, and so has the compiler behind it.
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            said = (lines or [type(error).__name__])[0]
            raise DeviceError(
                f"torch.compile cannot take this network here: {said}",
                help="it needs a C++ compiler (g++, clang++) on PATH, on a graphics card Triton; "
                "or use --backend torch.",
            ) from error
        difference = compare([self._expected], [got])
        if not difference < (TOLERANCE if self._dtype is torch.float32 else LOWERED_TOLERANCE):
            raise DeviceError(
                f"what torch.compile made of this network is {difference:.1e} away from it",
                help="use --backend torch.",
            )
        return code

    def _run(self, core: Callable[..., Any], inputs: Tensors) -> Tensors:
        # Whether gradients are wanted is one of the things that torch makes code anew for.
        with torch.no_grad():
            return run_core(core, inputs, self._device, self._dtype)
