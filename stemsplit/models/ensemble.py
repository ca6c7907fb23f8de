"""Several models as one: each stem the weighted average of those members that give it.

Vocals from one model and drums from another is the same thing with weights of 1 and 0. What all
these stems leave of the mixture may be a stem, too: a model of the vocals alone is completed so.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stemsplit.errors import CheckpointError
from stemsplit.models.base import Member, Model, ModelConfig


class Ensemble(Model):
    """Members that separate the same mixture, averaged stem by stem.

    The separator feeds every member in chunks of its own; `forward` gives all the same samples.
    """

    def __init__(
        self, stems: Sequence[str], members: Sequence[Member], residual: str | None = None
    ) -> None:
        """Put members together.

        Args:
            stems: What the members give, in order.
            members: At least one for every stem. Weights need not add up to 1.
            residual: A last stem: the mixture less all of `stems`.

        Raises:
            CheckpointError: Members of different rates or channels, or a stem that nobody gives.
        """
        first = members[0].model
        self._averaged = tuple(stems)
        everything = self._averaged if residual is None else (*self._averaged, residual)
        super().__init__(ModelConfig(everything, first.channels, first.sample_rate))
        self.residual = residual
        for model, _ in members:
            mine = (model.channels, model.sample_rate)
            if mine != (first.channels, first.sample_rate):
                raise CheckpointError(
                    f"an ensemble's members differ: {first.channels} channels at "
                    f"{first.sample_rate} Hz and {mine[0]} at {mine[1]} Hz",
                    help="put only models of one sample rate and channel count together.",
                )
        self._members = tuple(members)
        self._leave_out_unneeded()

    @property
    def members(self) -> tuple[Member, ...]:
        """Those that count in any of `stems`. See `Model.members`."""
        return self._members

    def _leave_out_unneeded(self) -> None:
        if self.residual not in self.stems:
            self._averaged = self.stems
        totals = dict.fromkeys(self._averaged, 0.0)
        for member in self._members:
            for stem in totals:
                totals[stem] += member.weights.get(stem, 0)
        missing = [stem for stem, total in totals.items() if total == 0]
        if missing:
            raise CheckpointError(
                f"no member of the ensemble gives {', '.join(missing)}",
                help="add a member with a weight for it, or take the stem out of the ensemble.",
            )
        kept = []
        for member in self._members:
            shares = {
                stem: member.weights[stem] / total
                for stem, total in totals.items()
                if member.weights.get(stem, 0) > 0
            }
            if shares:
                kept.append(Member(member.model, shares))
        self._members = tuple(kept)
        self.networks = nn.ModuleList(member.model for member in kept)

    def forward(self, mixture: Tensor) -> Tensor:
        """Run every member and average. See `Model.forward`."""
        batch, channels, samples = mixture.shape
        average = mixture.new_zeros(batch, len(self._averaged), channels, samples)
        for model, shares in self._members:
            places = [self._averaged.index(stem) for stem in shares]
            weights = mixture.new_tensor(list(shares.values()))[:, None, None]
            average[:, places] += weights * model.only(list(shares))(mixture)
        if self.residual not in self.stems:
            return average
        rest = mixture - average.sum(dim=1)
        given = [*average.unbind(1), rest]
        names = (*self._averaged, self.residual)
        return torch.stack([given[names.index(stem)] for stem in self.stems], dim=1)
