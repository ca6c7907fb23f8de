"""One network on its device, fed in its own framing."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from stemsplit.backends.torch_core import explain_lack_of_memory
from stemsplit.backends.transfers import Return, send
from stemsplit.backends.workers import count_workers
from stemsplit.dsp.memory import hand_over
from stemsplit.errors import StemsplitError
from stemsplit.separation.cores import make_core
from stemsplit.separation.plan import Options, plan_framing
from stemsplit.separation.postfilter import find_refine

if TYPE_CHECKING:
    from stemsplit.models.base import Member


class FramedNetwork:
    """A network that is ready for chunks, and how a song is cut for it.

    Attributes:
        framing: Lengths of chunks and of what they share.
        places: Where its stems stand among those wanted, ascending. Shape (S,).
        shares: What each of them counts there, beside other networks. Shape (S,).
    """

    def __init__(
        self,
        member: Member,
        wanted: Sequence[str],
        options: Options,
        device: torch.device,
        backend: str,
        precision: str,
        filtering: threading.Lock,
        is_large: bool,
        on_graph: Callable[[], None] = lambda: None,
    ) -> None:
        """Settle framing and post-filter.

        Args:
            member: The network, and how much its stems count.
            wanted: All the stems that are separated, by whatever network.
            options: Those of the separation.
            device: Where to run.
            backend: "torch", "compile" or "openvino".
            precision: "fp32", "bf16" or "fp16".
            filtering: Held while a post-filter runs.
            is_large: Whether a chunk of this network, or of one beside it, is a large one.
            on_graph: Called before a backend makes a graph or code of the network, if it has to.

        Raises:
            UsageError: Options that this network cannot follow.
            DeviceError: The backend cannot take this network.
        """
        model, weights = member
        mine = [stem for stem in wanted if stem in weights]
        self._refine = find_refine(model, options)
        if self._refine is None:
            # A Wiener filter shares the mixture among all stems, so it needs all of them.
            model = model.only(mine)
        self._model = model.to(device).eval()
        self._kept = [model.stems.index(stem) for stem in mine]
        self._device = device
        self._precision = precision
        self._filtering = filtering
        self._is_large = is_large
        self.framing = plan_framing(model.chunk, model.sample_rate, options)
        self._core = make_core(
            self._model,
            device,
            backend,
            precision,
            is_whole=self.framing.chunk_samples is None,
            chunk_samples=self.framing.chunk_samples,
            workers=self.workers,
            on_graph=on_graph,
        )
        self.places = torch.tensor([wanted.index(stem) for stem in mine])
        self.shares = torch.tensor([weights[stem] for stem in mine])

    @property
    def workers(self) -> int:
        """How many chunks are best computed at once, with the threads that the caller has."""
        # A whole song is best computed where Ctrl-C can stop it.
        is_whole = self.framing.chunk_samples is None
        return 1 if is_whole else count_workers(self._device, is_large=self._is_large)

    @property
    def is_ahead(self) -> bool:
        """Whether `begin` returns before the chunk is computed, and the next may begin."""
        return self._device.type == "cuda" and self.framing.chunk_samples is not None

    def begin(self, chunk: Tensor) -> Callable[[], Tensor]:
        """Take one chunk through the network, on a graphics card beside the caller.

        Args:
            chunk: At the model's rate; of any number of channels for a model of one. Shape (C, n).

        Returns:
            What waits for its stems and returns them, on the CPU. Shape (S, C, n).

        Raises:
            StemsplitError: The network's output is not finite. From what is returned, too.
            DeviceError: The device has not enough memory. The same.
        """
        with torch.no_grad(), explain_lack_of_memory(self._device):
            stems = self._compute(chunk)
            if self.is_ahead:
                back = Return(stems)
                return lambda: self._finish(back.wait)
            stems = self._finish(stems.cpu)
        return lambda: stems

    def _finish(self, wait: Callable[[], Tensor]) -> Tensor:
        """Return a chunk's stems when they are there, outside of its worker's memory."""
        with torch.no_grad(), explain_lack_of_memory(self._device):
            stems = wait()
            if not bool(torch.isfinite(stems.sum())):
                raise StemsplitError(
                    f"the network gave values that are not numbers in {self._precision}",
                    help="use --precision fp32; if it is that already, the weights are damaged: "
                    "`stemsplit models verify`.",
                )
            return hand_over(stems)

    def _compute(self, chunk: Tensor) -> Tensor:
        """Return a chunk's stems, on the device. Shape: (C, n) -> (S, C, n)."""
        samples = chunk.shape[-1]
        if self._model.chunk.fixed and self.framing.chunk_samples is not None:
            # Silence behind a song that is shorter than the network looks at.
            short = self.framing.chunk_samples - samples
            chunk = functional.pad(chunk, (0, short)) if short > 0 else chunk
        songs = chunk.unsqueeze(1 if self._model.channels == 1 else 0)
        songs = send(songs, self._device) if self.is_ahead else songs.to(self._device)
        inputs, carry = self._model.encode(songs)
        if self._refine is None:
            carry = self._model.lighten(carry)
        outputs = self._core(inputs)
        # A filter needs the whole spectrograms of all stems, the largest of all arrays: one chunk
        # at a time.
        with self._filtering if self._refine else contextlib.nullcontext():
            stems = self._model.decode(outputs, carry, self._refine)[..., :samples]
        stems = stems.transpose(0, 1).flatten(1, 2)
        if self._kept != list(range(stems.shape[0])):
            stems = stems[self._kept]
        return stems
