"""A network as pytorch-lightning trains it: augment, mix, separate, compare."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from stemsplit.errors import TrainingError
from stemsplit.models.base import StemModel
from stemsplit.training.augment import augment
from stemsplit.training.loader import Excerpts, select_stems
from stemsplit.training.losses import Loss
from stemsplit.training.processes import is_together, sum_over_all
from stemsplit.training.recipe import OptimiserConfig, RecipeConfig
from stemsplit.training.stream import Position

NAMED_PLACES = 12
"""How many excerpts of a bad batch the error names; the run folder has them all."""


def find_seed(*parts: object) -> int:
    """Return a seed that these decide: the same after a resume, another for anything else."""
    told = " ".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(told.encode()).digest()[:8], "little") >> 1


class StemTraining(pl.LightningModule):
    """What one step does. Around steps and epochs: `loop.Loop`.

    All that is random in a step is seeded by (seed, epoch, batch, rank): a resumed run needs no
    generator's state.

    Attributes:
        model: What learns.
        position: How far it has come; the loop moves it.
        last_loss: Of the latest batch, the mean over all processes.
        wants_to_stop: Set by a signal; `stops` is what all processes have agreed on.
        stops: See above.
    """

    def __init__(
        self,
        model: StemModel,
        recipe: RecipeConfig,
        loss: Loss,
        dataset_stems: Sequence[str],
        track_names: Sequence[str],
    ) -> None:
        """Put together what a step needs.

        Args:
            model: What learns.
            recipe: How.
            loss: What is made small.
            dataset_stems: The stems of a batch, in order.
            track_names: By the numbers that a batch's places have.
        """
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.position = Position()
        self.last_loss = math.nan
        self.wants_to_stop = False
        self.stops = False
        self._loss = loss
        self._dataset_stems = tuple(dataset_stems)
        self._track_names = tuple(track_names)

    def training_step(self, batch: Excerpts, batch_idx: int) -> Tensor:
        """Return the loss of a batch.

        Raises:
            TrainingError: It is not finite.
        """
        here = (self.recipe.training.seed, self.position.epoch, self.position.batch)
        torch.manual_seed(find_seed("step", *here, self.global_rank))
        generator = torch.Generator(self.device)
        generator.manual_seed(find_seed("augment", *here, self.global_rank))
        stems = batch.stems.to(self.device, non_blocking=True)
        stems = augment(stems, self.recipe.augment, generator)
        mixture, wanted = select_stems(stems, self._dataset_stems, self.model.stems)
        loss = self._loss(self.model, mixture, wanted)
        self._agree(loss.detach(), batch)
        return loss

    def _agree(self, loss: Tensor, batch: Excerpts) -> None:
        """Take note of the loss, and of whether any process has a bad one, or is to stop."""
        own = float(loss)
        is_bad = not math.isfinite(own)
        told = torch.tensor([is_bad, self.wants_to_stop, 0.0 if is_bad else own])
        bad, stops, total = sum_over_all(told, self.device).tolist()
        # Alone, as it is: not through single precision.
        self.last_loss = total / self.trainer.world_size if is_together() else own
        self.stops = stops > 0
        if bad:
            raise self._refuse(own, batch if is_bad else None)

    def _refuse(self, loss: float, batch: Excerpts | None) -> TrainingError:
        position = self.position
        where = f"epoch {position.epoch}, batch {position.batch}, step {position.step}"
        if batch is None:
            return TrainingError(
                f"the loss of another process is not finite in {where}",
                help="see what that process says.",
            )
        places = self.list_places(batch)
        named = "; ".join(places[:NAMED_PLACES])
        more = f"; and {len(places) - NAMED_PLACES} more" if len(places) > NAMED_PLACES else ""
        return TrainingError(
            f"the loss is {loss} in {where}; the batch is {named}{more}",
            help="look at these recordings, or lower optimiser.lr, or set training.clip; "
            "checkpoints are as they were.",
        )

    def list_places(self, batch: Excerpts) -> list[str]:
        """Return where the excerpts of a batch are from, each once."""
        places: dict[str, None] = {}
        for number, item in enumerate(batch.where):
            for stem, place in zip(self._dataset_stems, item, strict=True):
                if place.track >= 0:
                    name = self._track_names[place.track]
                    places[f"item {number} {stem} of {name!r} from sample {place.start}"] = None
        return list(places)

    def transfer_batch_to_device(
        self, batch: Excerpts, device: torch.device, dataloader_idx: int
    ) -> Excerpts:
        """Leave a batch where it is: `training_step` moves what it needs of it."""
        return batch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser; `loop.Loop` sets its learning rate before every step."""
        return build_optimiser(self.recipe.optimiser, list(self.model.parameters()))


def build_optimiser(
    config: OptimiserConfig, parameters: Sequence[torch.nn.Parameter]
) -> torch.optim.Optimizer:
    """Return the optimiser that a recipe names."""
    decay: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.name == "sgd":
        return torch.optim.SGD(parameters, momentum=config.momentum, **decay)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "radam": torch.optim.RAdam}
    first, second = config.betas
    optimiser: torch.optim.Optimizer = kinds[config.name](
        parameters, betas=(first, second), eps=config.eps, **decay
    )
    return optimiser
