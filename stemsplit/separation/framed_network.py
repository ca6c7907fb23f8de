"""One network on its device, fed in its own framing."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from stemsplit.backends.torch_core import explain_lack_of_memory, is_lack_of_memory
from stemsplit.backends.transfers import Return, send
from stemsplit.backends.workers import choose_batch_size, count_workers
from stemsplit.dsp.memory import hand_over, join, release
from stemsplit.errors import StemsplitError
from stemsplit.models.base import Encoded
from stemsplit.separation.cores import make_core
from stemsplit.separation.plan import Options, plan_framing
from stemsplit.separation.postfilter import find_refine

if TYPE_CHECKING:
    from stemsplit.models.base import Member


class FramedNetwork:
    """A network that is ready for chunks, and how a song is cut for it.

    Attributes:
        framing: Lengths of chunks and of what they share.
        batch_size: How many chunks at most go through together; fewer once memory was too small.
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
        self.batch_size = options.batch_size or choose_batch_size(device, is_large=is_large)
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

    def begin(self, chunks: Sequence[Tensor]) -> Callable[[], Iterator[Tensor]]:
        """Take chunks through the network together, on a graphics card beside the caller.

        Args:
            chunks: At the model's rate; of any number of channels for a model of one. Shape of
                each: (C, n).

        Returns:
            What waits for their stems, one chunk's after the other's, and gives them, on the CPU.
            Shape of each: (S, C, n).

        Raises:
            StemsplitError: The network's output is not finite. From what is returned, too.
            DeviceError: The device has not enough memory. The same.
        """
        with torch.no_grad(), explain_lack_of_memory(self._device):
            begun = self._begin_in_batches(chunks)
        return lambda: begun

    def _begin_in_batches(self, chunks: Sequence[Tensor]) -> Iterator[Tensor]:
        """Take chunks through, fewer at a time from where on there is not enough memory."""
        begun = []
        for batch in self._split(chunks):
            try:
                begun.append(self._begin_batch(batch))
                continue
            except (RuntimeError, MemoryError) as error:
                if len(batch) == 1 or not is_lack_of_memory(error):
                    raise
            # Only here does nothing hold what the batch had.
            release()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            self.batch_size = min(self.batch_size, -(-len(batch) // 2))
            begun.append(self._begin_in_batches(batch))
        return itertools.chain.from_iterable(begun)

    def _split(self, chunks: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """Yield chunks that can go together: of one length, as many as memory has taken."""
        for _, alike in itertools.groupby(chunks, lambda chunk: self._fill_up(chunk.shape[-1])):
            several = list(alike)
            while several:
                size = self.batch_size
                yield several[:size]
                several = several[size:]

    def _begin_batch(self, chunks: list[Tensor]) -> Iterator[Tensor]:
        """Take chunks of one length through, and return what gives their stems."""
        if self.is_ahead:
            returns = [Return(stems).wait for stems in self._compute(chunks)]
            return map(self._finish, returns)
        return iter([self._finish(stems.cpu) for stems in self._compute(chunks)])

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

    def _fill_up(self, samples: int) -> int:
        """Return how many samples the network sees of a chunk, silence behind it."""
        if self._model.chunk.fixed and self.framing.chunk_samples is not None:
            return max(samples, self.framing.chunk_samples)
        return samples

    def _encode(self, chunk: Tensor) -> Encoded:
        """Return what the core takes of a chunk, and what its decoding needs. Shape: (C, n)."""
        short = self._fill_up(chunk.shape[-1]) - chunk.shape[-1]
        chunk = functional.pad(chunk, (0, short)) if short else chunk
        songs = chunk.unsqueeze(1 if self._model.channels == 1 else 0)
        songs = send(songs, self._device) if self.is_ahead else songs.to(self._device)
        inputs, carry = self._model.encode(songs)
        return Encoded(inputs, carry if self._refine else self._model.lighten(carry))

    def _compute(self, chunks: list[Tensor]) -> Iterator[Tensor]:
        """Yield each chunk's stems, on the device. Shape: (C, n) each -> (S, C, n) each.

        Signals are taken apart and put together chunk by chunk: only what the network has is there
        of all of them at once.
        """
        inputs, carries = zip(*map(self._encode, chunks), strict=True)
        together = inputs[0]
        if len(inputs) > 1:
            together = tuple(join(parts, dim=0) for parts in zip(*inputs, strict=True))
        del inputs
        outputs = self._core(together)
        del together
        parts = zip(*(one.chunk(len(chunks)) for one in outputs), strict=True)
        for chunk, part, carry in zip(chunks, parts, carries, strict=True):
            # A filter needs the whole spectrograms of all stems, the largest of all arrays: one
            # chunk at a time.
            with self._filtering if self._refine else contextlib.nullcontext():
                stems = self._model.decode(part, carry, self._refine)[..., : chunk.shape[-1]]
            stems = stems.transpose(0, 1).flatten(1, 2)
            if self._kept != list(range(stems.shape[0])):
                stems = stems[self._kept]
            yield stems
