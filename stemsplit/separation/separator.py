"""A model, and the stream that takes songs of any length through it.

    blocks -> (resample) -> chunks -> encode, core, decode -> join -> (resample) -> stems

Nothing here holds a song: what is kept is a chunk or two, whatever the length.
"""

from __future__ import annotations

import copy
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from stemsplit.audio import decode_blocks, probe
from stemsplit.backends.choice import find_backend
from stemsplit.backends.torch_core import find_device, find_precision
from stemsplit.dsp.memory import join, new_empty, release
from stemsplit.dsp.overlap_add import SampleQueue
from stemsplit.dsp.resample import Resampler
from stemsplit.errors import DeviceError, EmptyAudioError, UsageError
from stemsplit.separation.events import Event, Finished, Notice, Progress, Started, StemBlock
from stemsplit.separation.framed_network import FramedNetwork
from stemsplit.separation.lanes import Lane, Lanes
from stemsplit.separation.plan import Options, check_numbers, plan_stems
from stemsplit.separation.prefetch import prefetch

if TYPE_CHECKING:
    from stemsplit.models.base import Member, Model

BLOCK_SAMPLES = 65536
MAX_SHIFT_S = 0.5


@dataclass(frozen=True)
class _Source:
    """What a stream is made from, whether a file or an array."""

    name: str
    sample_rate: int
    channels: int
    total_samples: int | None
    blocks: Iterable[np.ndarray[Any, np.dtype[np.float32]]]


class Separator:
    """A model with its options settled, ready for any number of songs.

    Attributes:
        model: As given, on its device as far as it is needed.
        options: As given.
        stems: Names of what comes out, the derived one last.
        device: Where the network runs.
        backend: What computes it there: "torch", "compile" or "openvino".
        precision: "fp32", "bf16" or "fp16".
    """

    def __init__(
        self,
        model: Model,
        options: Options | None = None,
        *,
        on_graph: Callable[[], None] = lambda: None,
        **overrides: Any,
    ) -> None:
        """Settle stems, chunks, device and numbers.

        Args:
            model: From `load_model`. It goes to the device; what its weights are now is what will
                be used, whatever becomes of them later.
            options: The defaults when None.
            on_graph: Called before a backend makes a graph or code of a network; that may take
                half a minute.
            **overrides: Fields of `Options` to replace: `Separator(model, stems=("vocals",))`.

        Raises:
            UsageError: Options that this model cannot follow.
            UnknownNameError: A stem, device, backend or precision that does not exist.
            DeviceError: A device or a backend that this machine lacks, or that cannot run this.
        """
        self.model = model
        self.options = replace(options or Options(), **overrides)
        check_numbers(self.options)
        known = [stem for stem in model.stems if stem != model.residual]
        self._stem_plan = plan_stems(known, self.options, model.residual, adds_up=model.adds_up)
        self.stems = self._stem_plan.names
        self.device = find_device(self.options.device)
        self.precision = find_precision(self.options.precision, self.device)
        if self.options.threads is not None:
            torch.set_num_threads(self.options.threads)
        wanted = self._stem_plan.of_model
        needed = [one for one in model.members if not one.weights.keys().isdisjoint(wanted)]
        self.backend = find_backend(
            self.options.backend,
            self.device,
            self.precision,
            # A whole song at once is a matter of its length, and of the original's code.
            is_kept=self.options.framing == "default"
            and all(one.model.has_loaded_weights for one in needed),
            is_convolutional=all(_is_convolutional(one.model.core) for one in needed),
        )
        self._notices: tuple[str, ...] = ()
        try:
            self._networks = self._build_networks(needed, on_graph)
        except DeviceError as error:
            if self.options.backend != "auto" or self.backend == "torch":
                raise
            self.backend = "torch"
            self._notices = (f"torch computes this model: {error.message}.",)
            self._networks = self._build_networks(needed, on_graph)

    def _build_networks(
        self, members: Sequence[Member], on_graph: Callable[[], None]
    ) -> list[FramedNetwork]:
        filtering = threading.Lock()
        is_large = any(member.model.is_large for member in members)
        return [
            FramedNetwork(
                member,
                self._stem_plan.of_model,
                self.options,
                self.device,
                self.backend,
                self.precision,
                filtering,
                is_large,
                on_graph,
            )
            for member in members
        ]

    def for_part(self, start_s: float, duration_s: float | None) -> Separator:
        """Return a separator of another part of songs; the networks are the same ones.

        Args:
            start_s: See `Options`.
            duration_s: See `Options`.

        Raises:
            UsageError: Times that cannot be meant.
        """
        part = copy.copy(self)
        part.options = replace(self.options, start_s=start_s, duration_s=duration_s)
        check_numbers(part.options)
        return part

    def stream(self, source: str | os.PathLike[str]) -> Iterator[Event]:
        """Separate a file, handing over stems as they are ready.

        Decoding runs beside the network. Closing the iterator stops everything; a chunk that is
        under way in another thread is finished and dropped.

        Args:
            source: Anything ffmpeg decodes.

        Yields:
            `Started`, then `StemBlock`, `Progress` and `Notice`, then `Finished`.

        Raises:
            DecodeError: The file cannot be read as audio.
            DeviceError: The device has not enough memory.
        """
        path = Path(source)
        notices: list[str] = []
        options = self.options
        info = probe(path)
        decoder = decode_blocks(
            path,
            stream=options.stream,
            start_s=options.start_s,
            duration_s=options.duration_s,
            block_samples=BLOCK_SAMPLES,
            on_warning=notices.append,
        )
        with decoder:
            total_samples = None
            if info.duration_s is not None:
                length_s = max(0.0, info.duration_s - options.start_s)
                length_s = min(length_s, options.duration_s or length_s)
                total_samples = round(length_s * decoder.sample_rate)
            with closing(prefetch(decoder, depth=4)) as blocks:
                audio = _Source(
                    str(path), decoder.sample_rate, decoder.channels, total_samples, blocks
                )
                yield from self._run(audio, notices)

    def separate(
        self,
        mixture: Tensor | str | os.PathLike[str],
        sample_rate: int | None = None,
        *,
        on_event: Callable[[Event], None] | None = None,
    ) -> dict[str, Tensor]:
        """Separate a file or an array, and hold all of its stems in memory.

        Args:
            mixture: A path, or samples of shape (C, T) or (T,), one or two channels.
            sample_rate: Of an array, Hz; the model's own when None.
            on_event: Called with every event as it happens.

        Returns:
            Float32 stems on the CPU by name, as long as the mixture, at its rate. Shape (C, T).

        Raises:
            UsageError: An array of another shape.
            EmptyAudioError: An array without samples.
        """
        if isinstance(mixture, Tensor):
            events = self._run(self._open_array(mixture, sample_rate), [])
        else:
            events = self.stream(mixture)
        pieces: dict[str, list[Tensor]] = {stem: [] for stem in self.stems}
        for event in events:
            if on_event is not None:
                on_event(event)
            if isinstance(event, StemBlock):
                for stem, piece in event.stems.items():
                    pieces[stem].append(piece)
        stems = {stem: torch.cat(pieces.pop(stem), dim=-1) for stem in self.stems}
        release()
        return stems

    def _open_array(self, mixture: Tensor, sample_rate: int | None) -> _Source:
        samples = mixture.detach().to("cpu", torch.float32)
        if samples.dim() == 1:
            samples = samples.unsqueeze(0)
        if samples.dim() != 2 or samples.shape[0] not in (1, 2):
            raise UsageError(
                f"an array of shape {tuple(mixture.shape)} is not one song",
                help="give (channels, samples) with one or two channels.",
            )
        total = samples.shape[1]
        if total == 0:
            raise EmptyAudioError("the array has no samples", help="give at least one sample.")
        blocks = (block.numpy() for block in samples.split(BLOCK_SAMPLES, dim=1))
        rate = sample_rate or self.model.sample_rate
        return _Source("array", rate, samples.shape[0], total, blocks)

    def _run(self, audio: _Source, notices: list[str]) -> Iterator[Event]:
        """Take one song through; `notices` is filled by the decoder as it goes."""
        began = time.perf_counter()
        yield Started(
            source=audio.name,
            sample_rate=audio.sample_rate,
            channels=audio.channels,
            stems=self.stems,
            total_samples=audio.total_samples,
            device=str(self.device),
            backend=self.backend,
            precision=self.precision,
        )
        yield from map(Notice, self._notices)
        done = 0
        with closing(self._separate_blocks(audio)) as pieces:
            for piece in pieces:
                yield StemBlock(done, dict(zip(self.stems, piece.unbind(0), strict=True)))
                done += piece.shape[-1]
                elapsed_s = time.perf_counter() - began
                yield Progress(done, audio.total_samples, audio.sample_rate, elapsed_s)
                while notices:
                    yield Notice(notices.pop(0))
        if self.options.framing == "original":
            release()  # whole songs, and the next is of another length
        while notices:
            yield Notice(notices.pop(0))
        yield Finished(done, audio.sample_rate, time.perf_counter() - began)

    def _separate_blocks(self, audio: _Source) -> Generator[Tensor]:
        """Yield stems at the source's rate and channels. Shape (S, C, n), n from 1 upwards."""
        model_rate = self.model.sample_rate
        # A network of one channel hears each channel by itself.
        channels = audio.channels if self.model.channels == 1 else self.model.channels
        stems = len(self._stem_plan.of_model)
        inward = Resampler(audio.sample_rate, model_rate, audio.channels)
        outward = Resampler(model_rate, audio.sample_rate, stems * channels)
        mixture = SampleQueue()
        ready = SampleQueue()

        def to_source_rate(piece: Tensor | None) -> None:
            flat = outward.flush() if piece is None else outward.feed(piece.flatten(0, 1).numpy())
            ready.push(torch.from_numpy(flat).unflatten(0, (stems, channels)))

        total = audio.total_samples
        if total is not None:
            total = round(total * model_rate / audio.sample_rate)
        with closing(self._make_lanes(total)) as lanes:
            for block in audio.blocks:
                # A copy: what is kept for some chunks is not to lie between what is not.
                mixture.push(join([torch.from_numpy(block)]))
                heard = torch.from_numpy(inward.feed(block))
                for piece in lanes.feed(_with_channels(heard, channels)):
                    to_source_rate(piece)
                while count := min(ready.head, mixture.head):
                    yield self._finish(ready.pop(count), mixture.pop(count))
            heard = torch.from_numpy(inward.flush())
            for piece in (*lanes.feed(_with_channels(heard, channels)), *lanes.flush()):
                to_source_rate(piece)
        to_source_rate(None)
        if missing := max(0, mixture.length - ready.length):
            # Two conversions of the rate may end a sample early; the stems never do.
            ready.push(torch.zeros(stems, channels, missing))
        while count := min(ready.head, mixture.head):
            yield self._finish(ready.pop(count), mixture.pop(count))

    def _finish(self, stems: Tensor, mixture: Tensor) -> Tensor:
        """Return to the source's channels, and make the outputs of the networks' stems.

        Shape: (S, C_model, n), (C, n) -> (outputs, C, n).
        """
        if mixture.shape[0] < stems.shape[1]:
            stems = stems.mean(dim=1, keepdim=True)
        plan = self._stem_plan
        if plan.names == plan.of_model:
            return stems
        places = {stem: place for place, stem in enumerate(plan.of_model)}
        outputs = new_empty(stems, (len(plan.mixes), *stems.shape[1:]))
        for output, (name, mix) in zip(outputs, plan.mixes.items(), strict=True):
            if name in places:
                output.copy_(stems[places[name]])
                continue
            torch.mul(mixture, mix.mixture, out=output)
            for stem, sign in mix.stems.items():
                output.add_(stems[places[stem]], alpha=sign)
        return outputs

    def _make_lanes(self, total_samples: int | None = None) -> Lanes:
        """Return what takes one song through every network, once or at several places of chunks."""
        leads = [0]
        if self.options.shifts > 1 and self.options.framing == "default":
            dice = torch.Generator().manual_seed(self.options.seed)
            longest = round(MAX_SHIFT_S * self.model.sample_rate)
            drawn = torch.randint(1, longest, (self.options.shifts - 1,), generator=dice)
            leads += drawn.tolist()
        weight = 1 / len(leads)
        lanes = []
        for place, lead in enumerate(leads):
            for network in self._networks:
                # Frames, too, lie as far as they can from those of the other shifts.
                grid = network.framing.grid_samples
                spread = lead - lead % grid + round(grid * place / len(leads))
                lanes.append(Lane(network, spread, weight, total_samples))
        return Lanes(lanes, len(self._stem_plan.of_model))


def _is_convolutional(core: nn.Module) -> bool:
    """Tell whether a network has no matrices but its convolutions'."""
    return not any(isinstance(one, (nn.Linear, nn.RNNBase)) for one in core.modules())


def _with_channels(samples: Tensor, channels: int) -> Tensor:
    """Give every channel of the model the one of a mono song. Shape: (C, n) -> (channels, n)."""
    return samples if samples.shape[0] == channels else samples.expand(channels, -1)
