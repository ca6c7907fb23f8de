"""Several models as one: each stem the weighted average of those members that give it.

Vocals from one model and drums from another is the same thing with weights of 1 and 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stemsplit.errors import CheckpointError
from stemsplit.models.base import ChunkPlan, Encoded, ModelConfig, Refine, StemModel


@dataclass(frozen=True)
class Member:
    """A model and how much it counts.

    Attributes:
        model: Any model at the ensemble's rate and number of channels.
        weights: Positive weight by stem, for stems that the model gives; they need not add up to 1.
    """

    model: StemModel
    weights: Mapping[str, float]


class _Cores(nn.Module):
    """The members' cores side by side, each with its own inputs.

    The last output says how many of those before it are each member's.
    """

    def __init__(self, cores: Sequence[nn.Module], input_counts: Sequence[int]) -> None:
        super().__init__()
        self.cores = nn.ModuleList(cores)
        self.input_counts = tuple(input_counts)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Shape: all inputs in a row -> all outputs in a row, and their counts."""
        outputs: list[Tensor] = []
        counts = []
        for core, mine in zip(self.cores, _split(inputs, self.input_counts), strict=True):
            given = core(*mine)
            given = given if isinstance(given, tuple) else (given,)
            counts.append(len(given))
            outputs.extend(given)
        return (*outputs, torch.tensor(counts, dtype=torch.float32))


class Ensemble(StemModel):
    """Members that separate the same mixture, averaged stem by stem."""

    def __init__(self, stems: Sequence[str], members: Sequence[Member]) -> None:
        """Put members together.

        Args:
            stems: What comes out, in order.
            members: At least one for every stem.

        Raises:
            CheckpointError: Members of different rates or channels, or a stem that nobody gives.
        """
        first = members[0].model
        super().__init__(ModelConfig(tuple(stems), first.channels, first.sample_rate))
        for member in members:
            mine = (member.model.channels, member.model.sample_rate)
            if mine != (first.channels, first.sample_rate):
                raise CheckpointError(
                    f"an ensemble's members differ: {first.channels} channels at "
                    f"{first.sample_rate} Hz and {mine[0]} at {mine[1]} Hz",
                    help="put only models of one sample rate and channel count together.",
                )
        self._members = list(members)
        self._join()

    def _join(self) -> None:
        wanted = set(self.stems)
        kept = []
        for member in self._members:
            heard = {stem for stem, weight in member.weights.items() if weight > 0}
            mine = [stem for stem in member.model.stems if stem in wanted & heard]
            if mine:
                kept.append(Member(member.model.only(mine), member.weights))
        missing = wanted.difference(*(member.model.stems for member in kept))
        if missing:
            raise CheckpointError(
                f"no member of the ensemble gives {', '.join(sorted(missing))}",
                help="add a member with a weight for it, or take the stem out of the ensemble.",
            )
        self._members = kept
        # An architecture has one number of inputs, whatever the song.
        silence = torch.zeros(1, self.channels, 1)
        counts = [len(member.model.encode(silence).inputs) for member in kept]
        self.core = _Cores([member.model.core for member in kept], counts)
        self.chunk = _widest([member.model.chunk for member in kept])

    def _leave_out_unneeded(self) -> None:
        self._join()

    def to(self, *args: Any, **kwargs: Any) -> Ensemble:
        """Move every member, and so its core. See `torch.nn.Module.to`."""
        for member in self._members:
            member.model.to(*args, **kwargs)
        super().to(*args, **kwargs)
        return self

    def encode(self, mixture: Tensor) -> Encoded:
        """Encode for every member. See `StemModel.encode`."""
        encoded = [member.model.encode(mixture) for member in self._members]
        inputs = tuple(tensor for one in encoded for tensor in one.inputs)
        return Encoded(inputs, [one.carry for one in encoded])

    def decode(
        self, outputs: tuple[Tensor, ...], carry: list[Any], refine: Refine | None = None
    ) -> Tensor:
        """Decode every member and average. See `StemModel.decode`."""
        *produced, counts = outputs
        sums: dict[str, Tensor] = {}
        totals: dict[str, float] = dict.fromkeys(self.stems, 0.0)
        given = _split(produced, [round(count) for count in counts.tolist()])
        for member, mine, kept in zip(self._members, given, carry, strict=True):
            stems = member.model.decode(mine, kept, refine)
            for index, stem in enumerate(member.model.stems):
                weight = member.weights[stem]
                piece = weight * stems[:, index]
                sums[stem] = sums[stem] + piece if stem in sums else piece
                totals[stem] += weight
        return torch.stack([sums[stem] / totals[stem] for stem in self.stems], dim=1)


def _widest(plans: Sequence[ChunkPlan]) -> ChunkPlan:
    """Return the plan of the longest chunk: every member takes any length."""
    longest = max(plans, key=lambda plan: plan.samples)
    edge = max(plan.edge_samples for plan in plans)
    return ChunkPlan(longest.samples, max(plan.overlap for plan in plans), edge)


def _split(tensors: Sequence[Tensor], counts: Sequence[int]) -> list[tuple[Tensor, ...]]:
    pieces = []
    position = 0
    for count in counts:
        pieces.append(tuple(tensors[position : position + count]))
        position += count
    return pieces
