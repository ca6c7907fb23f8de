"""The contract that every architecture keeps, and what all spectrogram networks share.

Letters in shapes: B batch, S stems, C channels, T samples, F frequency bins, N frames.

    inputs, carry = encode(mixture (B, C, T));   stems (B, S, C, T) = decode(core(*inputs), carry)

`core` holds all the weights and sees real tensors only: it is the seam at which another runtime can
take over. `encode` and `decode` are signal processing. Over a whole song, `forward` is the original
authors' own framing; `chunk` says in which pieces the separator feeds it by default.

Longer than other files: whoever adds an architecture needs all of it.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple, TypeVar

from torch import Tensor, nn
from typing_extensions import Self

from stemsplit.dsp.memory import stack
from stemsplit.dsp.stft import PadMode, Resynthesis, split_frames, stft
from stemsplit.dsp.wiener import Wiener
from stemsplit.errors import CheckpointError, UnknownNameError

Refine = Callable[[Tensor, Tensor], Tensor]
"""A post-filter: (estimates (B, S, C, F, N), mixture (B, C, F, N)), complex -> estimates.

It may write over the estimates that it was given."""


@dataclass(frozen=True)
class ChunkPlan:
    """How a song is cut for a network, as data: what it sees at once and what of that is heard.

    Attributes:
        samples: Length of a chunk.
        overlap: Share of a chunk that the next one sees again; the two are cross-faded there.
        edge_samples: At an inner end of a chunk, samples too near to the border to be heard at all
            (at least half an STFT window for a spectrogram network).
        multiple_of: A chunk of another length is rounded up to k * multiple_of + remainder, and
            chunks begin at multiples of it: the hop of a spectrogram network, so that its frames
            lie where those of the whole song would.
        remainder: See `multiple_of`.
        fixed: The network takes exactly `samples`; another length is an error.
    """

    samples: int
    overlap: float
    edge_samples: int = 0
    multiple_of: int = 1
    remainder: int = 0
    fixed: bool = False


class Encoded(NamedTuple):
    """What `encode` hands on.

    Attributes:
        inputs: The tensors for `core`, all real; B (or a multiple of it) first.
        carry: What `decode` needs besides the core's outputs.
    """

    inputs: tuple[Tensor, ...]
    carry: Any


@dataclass(frozen=True)
class ModelConfig:
    """The base of every architecture's configuration: what is separated, at which rate.

    Attributes:
        stems: Names, in the order of the network's outputs.
        channels: Audio channels that the network sees.
        sample_rate: Hz.
    """

    stems: tuple[str, ...]
    channels: int = 2
    sample_rate: int = 44100

    @classmethod
    def tiny(cls, stems: tuple[str, ...]) -> Self:
        """Return the smallest configuration that has all parts of the architecture, for tests."""
        return cls(stems)


class Model(nn.Module, ABC):
    """What takes a mixture apart: (B, C, T) -> (B, S, C, T). One network, or several together.

    Attributes:
        config: What is separated; of one network, everything that decides its shape.
        stems: What `forward` returns, in order; a subset of `config.stems` after `only`.
        name: What the model is called, once it is loaded.
        residual: The one of `stems` that is the mixture less all the others, if there is one.
        adds_up: Whether its stems together are the mixture, by the way they are made.
        weights_sha256: Identifies the weights and how they were read, once they are loaded.
    """

    _as_loaded: Mapping[str, tuple[int, int]] = {}

    name: str = ""
    residual: str | None = None
    adds_up: bool = False
    weights_sha256: str = ""
    config: ModelConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.stems: tuple[str, ...] = config.stems

    @property
    def channels(self) -> int:
        """Audio channels of the mixture that `forward` takes."""
        return self.config.channels

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.config.sample_rate

    def identify(self, name: str, weights_sha256: str) -> None:
        """Say what has been loaded into this model just now."""
        self.name = name
        self.weights_sha256 = weights_sha256
        self._as_loaded = dict(self._list_states())

    @property
    def has_loaded_weights(self) -> bool:
        """Whether the weights are still, untouched, those that `weights_sha256` identifies."""
        known = self._as_loaded
        return bool(self.weights_sha256) and all(
            known.get(name) == state for name, state in self._list_states()
        )

    def _list_states(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Yield where each tensor lies, and how often it has been written to."""
        for name, tensor in (*self.named_parameters(), *self.named_buffers()):
            yield name, (tensor.data_ptr(), tensor._version)

    @property
    @abstractmethod
    def members(self) -> tuple[Member, ...]:
        """The networks that run. Their stems, times their weights, add up to this model's."""

    @abstractmethod
    def forward(self, mixture: Tensor) -> Tensor:
        """Separate a batch of mixtures.

        Args:
            mixture: Shape (B, C, T), T from 1 upwards.

        Returns:
            Stems in the order of `self.stems`. Shape (B, S, C, T).
        """

    def only(self, stems: Sequence[str]) -> Self:
        """Return a model with the same weights that gives these stems alone.

        Networks that no requested stem needs are left out where the architecture allows it.

        Args:
            stems: Names among `self.stems`, in the order wanted.

        Raises:
            UnknownNameError: The model has no such stem.
        """
        for stem in stems:
            if stem not in self.stems:
                raise UnknownNameError("stem", stem, self.stems)
        part = copy.copy(self)
        # nn.Module keeps its children in a dictionary of the instance: give the copy its own.
        part._modules = dict(self._modules)
        part.stems = tuple(stems)
        part._leave_out_unneeded()
        return part

    def _leave_out_unneeded(self) -> None:
        """Let go of what `self.stems` does not need. Default: nothing."""


class StemModel(Model):
    """One network that takes a mixture apart: an architecture.

    Attributes:
        chunk: How the separator feeds it by default.
        core: All the weights; real tensors in, real tensors (one or a tuple) out.
        fewest_stems: How many have to be learned together.
        is_large: Whether a chunk takes so much memory to compute, and keeps several cores so busy,
            that a few cores are better off with one than with two.
    """

    Config: ClassVar[type[ModelConfig]]
    is_large: bool = False

    core: nn.Module
    chunk: ChunkPlan
    fewest_stems: int = 1

    @property
    def members(self) -> tuple[Member, ...]:
        """This network alone. See `Model.members`."""
        return (Member(self, dict.fromkeys(self.stems, 1.0)),)

    @abstractmethod
    def encode(self, mixture: Tensor) -> Encoded:
        """Turn samples into what the core takes.

        Args:
            mixture: Shape (B, C, T), T from 1 upwards.
        """

    @abstractmethod
    def decode(
        self, outputs: tuple[Tensor, ...], carry: Any, refine: Refine | None = None
    ) -> Tensor:
        """Turn what the core gave into stems.

        Args:
            outputs: The core's outputs.
            carry: What `encode` put aside.
            refine: A post-filter over the estimates of all stems, where the model has such.

        Returns:
            Shape (B, S, C, T).
        """

    def lighten(self, carry: Any) -> Any:
        """Return what `decode` reads of all that `encode` put aside, without a post-filter.

        Args:
            carry: From `encode`; nothing of it is changed.
        """
        return carry

    def run_core(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Run the core and return its outputs as a tuple, however many there are."""
        outputs = self.core(*inputs)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def forward(self, mixture: Tensor) -> Tensor:
        """Encode, run the core, decode. See `Model.forward`."""
        inputs, carry = self.encode(mixture)
        return self.decode(self.run_core(inputs), carry)

    @property
    def stem_indices(self) -> list[int]:
        """Where the wanted stems stand among all those of the configuration."""
        return [self.config.stems.index(stem) for stem in self.stems]


class Member(NamedTuple):
    """A network and how much it counts.

    Attributes:
        model: The network.
        weights: By stem, for those of its stems that count.
    """

    model: StemModel
    weights: Mapping[str, float]


class PerStem(nn.Module):
    """One network per stem, none of which looks at another's output.

    Shape: inputs of one network -> (B, S, ...), the networks' outputs stacked.
    """

    def __init__(self, nets: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleDict(nets)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Run every network on the same inputs. Shape: (B, ...) -> (B, S, ...)."""
        return stack([net(*inputs) for net in self.nets.values()])

    def only(self, stems: Sequence[str]) -> Self:
        """Return the same networks for some stems, in that order; weights are shared."""
        return type(self)({stem: self.nets[stem] for stem in stems})


class Spectrum(NamedTuple):
    """What a spectrogram network carries from `encode` to `decode`.

    Attributes:
        mixture: Complex. Shape (B, C, F, N).
        samples: T.
    """

    mixture: Tensor
    samples: int


class SpectralModel(StemModel):
    """A network on spectrograms: the transform and its inverse are written once, here.

    Attributes:
        n_fft: Transform length, in samples.
        hop_length: Distance between frames, in samples.
        pad_mode: What is put before the first and behind the last sample.
        original_wiener: The constants of the authors' own Wiener filter, for the original framing.
        frame_axis: Where the frames are in the core's outputs.
    """

    n_fft: int
    hop_length: int
    pad_mode: PadMode = "reflect"
    original_wiener: Wiener = Wiener(window_frames=300)
    frame_axis: int = -1

    @abstractmethod
    def core_inputs(self, mixture: Tensor) -> tuple[Tensor, ...]:
        """Turn the mixture's spectrogram into the core's inputs.

        Args:
            mixture: Complex. Shape (B, C, F, N).
        """

    @abstractmethod
    def estimate(self, outputs: tuple[Tensor, ...], mixture: Tensor) -> Tensor:
        """Turn the core's outputs into complex spectrograms of `self.stems`, frame by frame.

        No frame's estimate depends on another's outputs: any run of frames can be asked for.

        Args:
            outputs: As the core gave them.
            mixture: Complex. Shape (B, C, F, N).

        Returns:
            Shape (B, S, C, F, N).
        """

    def estimate_magnitudes(self, outputs: tuple[Tensor, ...], mixture: Tensor) -> Tensor:
        """Turn the core's outputs into magnitudes alone: what many networks are trained on.

        Args:
            outputs: As the core gave them.
            mixture: Complex. Shape (B, C, F, N).

        Returns:
            Shape (B, S, C, F, N).
        """
        return self.estimate(outputs, mixture).abs()

    def encode(self, mixture: Tensor) -> Encoded:
        """Transform, and prepare the core's inputs. See `StemModel.encode`."""
        spectrum = stft(mixture, self.n_fft, self.hop_length, pad_mode=self.pad_mode)
        return Encoded(self.core_inputs(spectrum), Spectrum(spectrum, mixture.shape[-1]))

    def decode(
        self, outputs: tuple[Tensor, ...], carry: Spectrum, refine: Refine | None = None
    ) -> Tensor:
        """Estimate, refine where asked to, and transform back. See `StemModel.decode`."""
        resynthesis = Resynthesis(self.hop_length, carry.mixture.shape[-1])
        for estimates in self.estimate_in_turn(outputs, carry.mixture, refine):
            resynthesis.add(estimates)
        return resynthesis.finish(carry.samples)

    def estimate_in_turn(
        self, outputs: tuple[Tensor, ...], mixture: Tensor, refine: Refine | None
    ) -> Iterator[Tensor]:
        """Yield the stems' spectrograms a few frames at a time: all are the largest of all arrays.

        Args:
            outputs: As the core gave them.
            mixture: Complex. Shape (B, C, F, N).
            refine: A post-filter, which needs them all.

        Yields:
            Shape (B, S, C, F, n), N frames altogether.
        """
        if refine is not None:
            yield refine(self.estimate(outputs, mixture), mixture)
            return
        for some, part in self.split_outputs(outputs, mixture):
            yield self.estimate(some, part)

    def split_outputs(
        self, outputs: tuple[Tensor, ...], mixture: Tensor
    ) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """Yield what `estimate` is to take at a time: the core's outputs, and their mixture.

        Args:
            outputs: As the core gave them.
            mixture: Complex. Shape (B, C, F, N).
        """
        signals = len(self.stems) * mixture.shape[:2].numel()
        for frames in split_frames(mixture.shape[-1], signals, outputs[0]):
            count = frames.stop - frames.start
            some = tuple(one.narrow(self.frame_axis, frames.start, count) for one in outputs)
            yield some, mixture[..., frames]


ConfigT = TypeVar("ConfigT", bound=ModelConfig)


def build_config(kind: type[ConfigT], values: Mapping[str, object]) -> ConfigT:
    """Build an architecture's configuration from a registry table.

    Args:
        kind: The frozen dataclass.
        values: Field values by name; lists become tuples.

    Raises:
        UnknownNameError: A key that the configuration does not have.
        CheckpointError: A field without a value.
    """
    known = {field.name for field in fields(kind)}
    for key in values:
        if key not in known:
            raise UnknownNameError("configuration key", key, known)
    try:
        return kind(**{key: _freeze(value) for key, value in values.items()})  # type: ignore[arg-type]  # the dataclass checks its own values
    except TypeError as error:
        raise CheckpointError(
            f"the configuration of {kind.__qualname__} is incomplete: {error}",
            help="give every field that has no default in the model's registry table.",
        ) from error


def _freeze(value: object) -> object:
    return tuple(_freeze(item) for item in value) if isinstance(value, list) else value
