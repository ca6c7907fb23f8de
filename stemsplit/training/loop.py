"""What happens around steps and epochs: rates, averages, validation, checkpoints, an end.

Lightning is handed one long stream of batches, from where the run stands to where it ends; epochs,
and what is to be kept of them, are settled here. A resumed run is then an undisturbed one by the
same code: nothing depends on how often the process has begun.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from stemsplit.errors import CancelledError, TrainingError
from stemsplit.models.base import StemModel
from stemsplit.training.checkpoints import remove_file, save_checkpoint
from stemsplit.training.ema import WeightAverage
from stemsplit.training.events import Noted, OnEvent, Stepped, Validated
from stemsplit.training.export import export_model, name_model
from stemsplit.training.module import StemTraining
from stemsplit.training.plots import plot_run
from stemsplit.training.ranking import Ranking
from stemsplit.training.recipe import RecipeConfig
from stemsplit.training.restoring import restore_optimiser, restore_scaler
from stemsplit.training.run_folder import MetricsFile, RunFolder
from stemsplit.training.schedule import Schedule
from stemsplit.training.stream import BatchStream, Position
from stemsplit.training.validation import Validator

PLOT_EVERY_S = 20.0


class Loop(pl.Callback):
    """Moves a run on; its state is what a checkpoint holds."""

    def __init__(
        self,
        run: RunFolder,
        recipe: RecipeConfig,
        stream: BatchStream,
        validator: Validator,
        on_event: OnEvent,
        state: dict[str, Any] | None,
        origin: Mapping[str, Any],
    ) -> None:
        """Begin, or go on.

        Args:
            run: Where everything is kept.
            recipe: How to train.
            stream: The batches.
            validator: Judges epochs.
            on_event: Told what happens; in the first process only.
            state: What `load_checkpoint` gave; None for a new run.
            origin: What the run folder keeps of the data, once the run goes on.
        """
        self.run = run
        self.recipe = recipe
        self.stream = stream
        self.validator = validator
        self.on_event = on_event
        self.schedule = Schedule(recipe.schedule, recipe.training.max_epochs)
        settings = recipe.training
        self.ranking = Ranking(settings.keep, settings.min_delta, recipe.validation.monitor)
        self.average: WeightAverage | None = None
        self._state = state
        self._origin = origin
        # Of the epoch under way: what its mean loss is made of.
        self._loss_sum = 0.0
        if state is not None:
            self.schedule.load_state_dict(state["schedule"])
            self.ranking.load_state_dict(state["ranking"])
            self._loss_sum = state["loss_sum"]
        self._began_s = self._plotted_s = time.monotonic()
        columns = ["epoch", "step", "lr", "train_loss", "validation_loss", "usdr"]
        columns += [f"usdr_{stem}" for stem in recipe.model.stems]
        self._metrics = MetricsFile(run.metrics_file, [*columns, "seconds"])
        self._steps = MetricsFile(run.steps_file, ["step", "epoch", "batch", "lr", "loss"])

    @property
    def is_patient(self) -> bool:
        """Whether the run goes on, as far as the scores decide that."""
        settings, epochs = self.recipe.training, self.stream.position.epoch
        if not settings.patience or epochs < settings.min_epochs:
            return True
        return self.ranking.count_since_better(epochs - 1) < settings.patience

    # Beginning.

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take up the state, now that there are an optimiser and a device."""
        module = _of(pl_module)
        decay = self.recipe.training.ema_decay
        self.average = WeightAverage(module.model, decay) if decay else None
        position = self.stream.position
        module.position = position
        if (state := self._state) is not None:
            restore_optimiser(trainer.optimizers[0], state["optimiser"])
            restore_scaler(trainer.precision_plugin, state["precision"])
            if self.average is not None and state["average"] is not None:
                self.average.load_state_dict(state["average"])
        if trainer.is_global_zero:
            self._metrics.keep("epoch", position.epoch - 1)
            self._steps.keep("step", position.step)
            if self._state is not None:
                # Not before everything has turned out to fit.
                self.run.create(self.recipe, self._origin)
        self._state = None
        if self.stream.is_pending:
            self._end_epoch(trainer, module)

    # Around a batch.

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the learning rate of the step that comes."""
        position = _of(pl_module).position
        share = position.batch / self.stream.per_epoch
        factor = self.schedule.find_factor(position.epoch, share, position.step)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.recipe.optimiser.lr * factor

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move on, and do what is due."""
        module = _of(pl_module)
        position, settings = module.position, self.recipe.training
        self._loss_sum += module.last_loss
        position.batch += 1
        position.is_judged = False
        is_step = position.batch % settings.accumulate == 0
        if is_step:
            position.step += 1
            if self.average is not None:
                self.average.update(module.model)
        self._tell_step(trainer, module, is_step=is_step)
        if self.stream.is_pending:
            self._end_epoch(trainer, module)
        elif (
            is_step
            and settings.checkpoint_steps
            and not (position.step % settings.checkpoint_steps)
        ):
            self.save(trainer, module)
        if module.stops and is_step:
            # After an epoch's end there is nothing new to save, but doing so costs little.
            raise self._stop(trainer, module)
        if self.stream.is_over or not self.is_patient:
            trainer.should_stop = True

    def _tell_step(self, trainer: pl.Trainer, module: StemTraining, *, is_step: bool) -> None:
        position = module.position
        if not trainer.is_global_zero:
            return
        self.on_event(
            Stepped(
                position.epoch,
                position.batch,
                self.stream.per_epoch,
                position.step,
                module.last_loss,
            )
        )
        if is_step and position.step % self.recipe.training.log_steps == 0:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            told = {"lr": rate, "loss": module.last_loss}
            place = {"step": position.step, "epoch": position.epoch, "batch": position.batch}
            self._steps.append({**place, **told})
            self._log(trainer, {f"step/{key}": value for key, value in told.items()}, position.step)

    # The end of an epoch.

    def _end_epoch(self, trainer: pl.Trainer, module: StemTraining) -> None:
        """Validate, write down, export, keep; then the next epoch is the present one.

        Where the run's steps have ended within an epoch, a run of more steps goes on there: this
        end counts for nothing then.
        """
        position = module.position
        is_within = position.batch < self.stream.per_epoch
        before = copy.deepcopy((self.schedule, self.ranking))
        epoch, batches = position.epoch, position.batch
        metrics: dict[str, float] = {
            "epoch": epoch,
            "step": position.step,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "train_loss": self._loss_sum / max(1, batches),
        }
        snapshot: StemModel | None = None
        if self._is_due(position, self.recipe.validation.every):
            snapshot = self._make_snapshot(module)
            metrics |= self._validate(trainer, module, snapshot)
        metrics["seconds"] = time.monotonic() - self._began_s
        self._began_s = time.monotonic()
        score = self._find_score(metrics)
        is_best = False
        if "validation_loss" in metrics:
            self.schedule.observe(metrics["validation_loss"])
        if score is not None:
            is_best = self.ranking.add(epoch, score)
        if trainer.is_global_zero:
            if is_best and snapshot is not None:
                self._export(snapshot, epoch, metrics)
            self._metrics.append(metrics)
            self._log(trainer, {f"epoch/{key}": v for key, v in metrics.items()}, position.step)
        if is_within:
            position.is_judged = True
            self.schedule, self.ranking = before
        else:
            position.epoch, position.batch, self._loss_sum = epoch + 1, 0, 0.0
        if trainer.is_global_zero:
            self._plot(is_end=self.stream.is_over or not self.is_patient)
        self.save(trainer, module, keep_epoch=epoch)
        if trainer.is_global_zero:
            self.on_event(Validated(epoch, metrics, is_best))

    def _plot(self, *, is_end: bool) -> None:
        """Draw the pictures anew; not for each of many short epochs."""
        now_s = time.monotonic()
        is_due = is_end or now_s - self._plotted_s >= PLOT_EVERY_S
        if is_due and (rows := self._metrics.read()):
            self._plotted_s = now_s
            plot_run(rows, self.run.plots)

    def _is_due(self, position: Position, every: int) -> bool:
        is_last = position.epoch + 1 >= self.recipe.training.max_epochs
        limit = self.recipe.training.max_steps
        return (
            is_last or (position.epoch + 1) % every == 0 or bool(limit and position.step >= limit)
        )

    def _make_snapshot(self, module: StemTraining) -> StemModel:
        """Return the network as it is to be judged: averaged, in evaluation mode, by itself."""
        snapshot = copy.deepcopy(module.model)
        if self.average is not None:
            self.average.copy_to(snapshot)
        return snapshot.eval().requires_grad_(False)

    def _validate(
        self, trainer: pl.Trainer, module: StemTraining, snapshot: StemModel
    ) -> dict[str, float]:
        rank, world = trainer.global_rank, trainer.world_size

        def check() -> None:
            # Alone, a process may stop anywhere; several stop together, after a step.
            if module.wants_to_stop and world == 1:
                raise self._stop(trainer, module)

        loss = self.validator.measure_loss(snapshot, rank, world, check)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the validation loss of epoch {module.position.epoch} is {loss}",
                help="lower optimiser.lr, or set training.clip; checkpoints are as they were.",
            )
        metrics = {"validation_loss": loss}
        if self.recipe.validation.tracks and self._is_due(
            module.position, self.recipe.validation.scores_every
        ):
            # The separator may change the network that it is given.
            scores = self.validator.score(copy.deepcopy(snapshot), rank, world, check)
            metrics |= {f"usdr_{stem}": score for stem, score in scores.items()}
            metrics["usdr"] = sum(scores.values()) / len(scores)
        return metrics

    def _find_score(self, metrics: dict[str, float]) -> float | None:
        """Return what decides which epoch is best, the lower the better."""
        if self.recipe.validation.monitor == "usdr":
            return -metrics["usdr"] if "usdr" in metrics else None
        return metrics.get("validation_loss")

    def _export(self, snapshot: StemModel, epoch: int, metrics: dict[str, float]) -> None:
        recipe = self.recipe
        export_model(
            snapshot,
            self.run.model,
            name=name_model(self.run.path),
            architecture=recipe.model.architecture,
            description=f"trained here, epoch {epoch}: {recipe.description or 'a recipe of mine'}",
            epoch=epoch,
            scores={
                stem: metrics[f"usdr_{stem}"]
                for stem in snapshot.stems
                if f"usdr_{stem}" in metrics
            },
        )

    # Keeping.

    def save(
        self, trainer: pl.Trainer, module: StemTraining, keep_epoch: int | None = None
    ) -> None:
        """Write last.ckpt, and where an epoch is among the best, its own; drop those that are not.

        Raises:
            TrainingError: A weight is not finite.
            OutputError: The place cannot be written to.
        """
        if not trainer.is_global_zero:
            return
        model = module.model.state_dict()
        check_finite(model)
        state = {
            "position": asdict(module.position),
            "model": model,
            "optimiser": trainer.optimizers[0].state_dict(),
            "precision": trainer.precision_plugin.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "schedule": self.schedule.state_dict(),
            "ranking": self.ranking.state_dict(),
            "loss_sum": self._loss_sum,
        }
        folder = self.run.checkpoints
        kept = {epoch: folder / f"epoch={epoch:04d}.ckpt" for epoch in self.ranking.epochs}
        if keep_epoch in kept:
            save_checkpoint(kept[keep_epoch], state)
        save_checkpoint(self.run.last, state)
        for path in folder.glob("epoch=*.ckpt"):
            if path not in kept.values():
                remove_file(path)

    def _stop(self, trainer: pl.Trainer, module: StemTraining) -> CancelledError:
        """Keep everything, and return what ends the run."""
        self.save(trainer, module)
        if trainer.is_global_zero:
            self._plot(is_end=True)
        return CancelledError(
            "the training was stopped",
            help=f"go on with it by: stemsplit train --resume {self.run.path}",
        )

    def _log(self, trainer: pl.Trainer, metrics: dict[str, float], step: int) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Say what is left, where something went wrong."""
        if not isinstance(exception, CancelledError) and self.run.last.is_file():
            self.on_event(Noted(f"the last checkpoint is {self.run.last}"))


def check_finite(tensors: dict[str, Tensor]) -> None:
    """Refuse weights that are no numbers, so that no checkpoint holds such.

    Raises:
        TrainingError: One is not finite.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise TrainingError(
                f"the weights {name} are not finite any more",
                help="lower optimiser.lr, or set training.clip; checkpoints are as they were.",
            )


def _of(module: pl.LightningModule) -> StemTraining:
    assert isinstance(module, StemTraining)
    return module
