"""What was asked for, checked against what a model can do. No torch here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from stemsplit.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from stemsplit.models.base import ChunkPlan

FRAMINGS = ("default", "original")
MAX_OVERLAP = 0.75
MOST_THREADS = 1024
MOST_CHUNKS = 1024
"""More than machines have cores; with 10,000, one runtime dies and another takes minutes."""
RESIDUAL = "residual"


@dataclass(frozen=True)
class Options:
    """How to separate; every field has the default that most people want.

    Attributes:
        stems: Which stems; None for all of the model's.
        two_stems: One stem S and, as "no_S", the mixture minus it. Excludes `stems` and `residual`.
        residual: Add the stem "residual": the mixture minus the sum of all other stems given.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        backend: "auto", "torch", "compile" or "openvino": what computes the network there.
        threads: How many threads a processor's network may use; None for torch's own choice. It
            is torch's number for the whole process from then on.
        batch_size: How many chunks at most go through the network as one batch; None for as many as
            pay where it runs.
        precision: "auto", "fp32", "bf16" or "fp16" for the network; signals stay float32.
        segment_s: Chunk length in seconds instead of the model's own.
        overlap: Share of a chunk that the next one sees again, 0 to 0.75, instead of the model's.
        shifts: Average over this many runs whose chunks begin elsewhere; 0 or 1 for a single run.
        seed: Decides the shifts.
        wiener: Iterations of the multichannel Wiener filter over all stems; 0 for none.
        framing: "default", or "original": the whole song at once, as the authors' own code frames
            it. Memory grows with the song.
        stream: Which of the file's audio streams, from 0.
        start_s: Where to begin, in seconds.
        duration_s: How much to take, in seconds; None for all.
    """

    stems: tuple[str, ...] | None = None
    two_stems: str | None = None
    residual: bool = False
    device: str = "auto"
    backend: str = "auto"
    threads: int | None = None
    batch_size: int | None = None
    precision: str = "auto"
    segment_s: float | None = None
    overlap: float | None = None
    shifts: int = 0
    seed: int = 0
    wiener: int = 0
    framing: Literal["default", "original"] = "default"
    stream: int = 0
    start_s: float = 0.0
    duration_s: float | None = None


@dataclass(frozen=True)
class Framing:
    """How a song is cut, in samples at the model's rate.

    Attributes:
        chunk_samples: None for the whole song at once.
        overlap_samples: What neighbouring chunks share.
        edge_samples: What of that is too near a chunk's border to be heard.
        grid_samples: Chunks begin at multiples of it.
    """

    chunk_samples: int | None
    overlap_samples: int
    edge_samples: int
    grid_samples: int = 1


def plan_framing(chunk: ChunkPlan, sample_rate: int, options: Options) -> Framing:
    """Work out the chunks: the model's own, or what the options say instead.

    Args:
        chunk: The model's limits and defaults.
        sample_rate: The model's, Hz.
        options: `framing`, `segment_s` and `overlap` are read.

    Raises:
        UsageError: A value out of range, or a segment where the network takes one length only.
    """
    if options.framing not in FRAMINGS:
        raise UnknownNameError("framing", options.framing, FRAMINGS)
    if options.framing == "original":
        if options.segment_s is not None or options.overlap is not None:
            raise UsageError(
                "the original framing takes the whole song at once",
                help="leave out --segment and --overlap, or use --framing default.",
            )
        return Framing(None, 0, 0)
    samples = chunk.samples
    if options.segment_s is not None:
        if chunk.fixed:
            raise UsageError(
                f"this model works on chunks of {samples / sample_rate:.2f} s and no other",
                help="leave out --segment.",
            )
        if not options.segment_s > 0 or not math.isfinite(options.segment_s):
            raise UsageError(
                f"a segment of {options.segment_s} s is not possible",
                help="give --segment a positive number of seconds, such as 10.",
            )
        wanted = max(round(options.segment_s * sample_rate), 4 * chunk.edge_samples + 2)
        steps = math.ceil((wanted - chunk.remainder) / chunk.multiple_of)
        samples = steps * chunk.multiple_of + chunk.remainder
    overlap = chunk.overlap if options.overlap is None else options.overlap
    if not 0 <= overlap <= MAX_OVERLAP:
        raise UsageError(
            f"an overlap of {overlap} is not possible",
            help=f"give --overlap a share from 0 to {MAX_OVERLAP}, such as 0.25.",
        )
    # As many whole steps of the grid as leave at least this overlap.
    grid = chunk.multiple_of
    hop = max(grid, math.floor(samples * (1 - overlap) / grid) * grid)
    return Framing(samples, samples - hop, chunk.edge_samples, grid)


class Mix(NamedTuple):
    """What an output is made of.

    Attributes:
        mixture: How often it has the mixture: 0 or 1.
        stems: How often it has each of the networks' stems: 1 or -1.
    """

    mixture: int
    stems: Mapping[str, int]


@dataclass(frozen=True)
class StemPlan:
    """Which stems the networks are asked for, and what comes out.

    Attributes:
        of_model: The stems to compute.
        mixes: What each output is made of, in order; derived ones last.
    """

    of_model: tuple[str, ...]
    mixes: Mapping[str, Mix]

    @property
    def names(self) -> tuple[str, ...]:
        """All that come out, the derived one last."""
        return tuple(self.mixes)


def plan_stems(
    known: Sequence[str], options: Options, residual: str | None = None, *, adds_up: bool = False
) -> StemPlan:
    """Work out which stems come out. Needs no network: the registry's names will do.

    Args:
        known: The stems that the model's networks give.
        options: `stems`, `two_stems` and `residual` are read.
        residual: What the model calls the mixture less all of these, where that is a stem too.
        adds_up: Whether all of these together are the mixture: the last of them is what the others
            leave, then, where all are wanted and nothing changes them afterwards.

    Raises:
        UnknownNameError: A stem that the model does not give.
        UsageError: Options that exclude each other, or no stem at all.
    """
    mixes = {stem: Mix(0, {stem: 1}) for stem in known}
    if residual is not None:
        mixes[residual] = Mix(1, dict.fromkeys(known, -1))
    if options.two_stems is not None:
        if options.stems is not None or options.residual:
            raise UsageError(
                "--two-stems already says which stems are written",
                help="leave out --stems and --residual, or --two-stems.",
            )
        wanted: tuple[str, ...] = (options.two_stems,)
        derived: str | None = f"no_{options.two_stems}"
    else:
        wanted = tuple(mixes) if options.stems is None else tuple(dict.fromkeys(options.stems))
        derived = RESIDUAL if options.residual else None
    if not wanted:
        raise UsageError("no stem was asked for", help=f"choose among {', '.join(mixes)}.")
    for stem in wanted:
        if stem not in mixes:
            raise UnknownNameError(
                "stem", stem, mixes, more=f"This model gives {', '.join(mixes)}."
            )
    if adds_up and not options.wiener and options.framing == "default" and len(wanted) > 1:
        *others, last = known
        if set(wanted) == set(known):
            mixes[last] = Mix(1, dict.fromkeys(others, -1))
    given = {stem: mixes[stem] for stem in wanted}
    if derived is not None:
        given[derived] = _leave(given.values())
    of_model = tuple(stem for stem in known if any(stem in mix.stems for mix in given.values()))
    return StemPlan(of_model, given)


def _leave(given: Iterable[Mix]) -> Mix:
    """Return the mixture less all of these."""
    mixture, stems = 1, Counter[str]()
    for mix in given:
        mixture -= mix.mixture
        stems.subtract(mix.stems)
    return Mix(mixture, {stem: count for stem, count in stems.items() if count})


def check_numbers(options: Options) -> None:
    """Refuse counts and times that cannot be meant.

    Raises:
        UsageError: A negative count or time, or a duration of nothing.
    """
    for name in ("shifts", "wiener", "stream"):
        value = getattr(options, name)
        if value < 0:
            raise UsageError(f"--{name} {value} is negative", help="give 0 or more.")
    if not (options.start_s >= 0 and math.isfinite(options.start_s)):
        raise UsageError(
            f"--start {options.start_s} is not possible", help="give 0 or more seconds."
        )
    if options.threads is not None and not 1 <= options.threads <= MOST_THREADS:
        raise UsageError(
            f"--threads {options.threads} is not possible", help=f"give 1 to {MOST_THREADS}."
        )
    if options.batch_size is not None and not 1 <= options.batch_size <= MOST_CHUNKS:
        raise UsageError(
            f"--batch-size {options.batch_size} is not possible", help=f"give 1 to {MOST_CHUNKS}."
        )
    length_s = options.duration_s
    if length_s is not None and not (length_s > 0 and math.isfinite(length_s)):
        raise UsageError(f"--duration {length_s} is not possible", help="give more than 0 seconds.")
