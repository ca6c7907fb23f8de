"""Lightning's trainer, told what a recipe says; and who is told how a run goes."""

from __future__ import annotations

import hashlib
import importlib.util
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from stemsplit.errors import UsageError
from stemsplit.training.preparation import Processes
from stemsplit.training.processes import is_slurm_task
from stemsplit.training.recipe import RecipeConfig
from stemsplit.training.run_folder import RunFolder

TENSORBOARD = "tensorboard"
ACCELERATORS = {"cuda": "gpu", "mps": "mps", "cpu": "cpu"}


def make_trainer(
    recipe: RecipeConfig,
    run: RunFolder,
    callbacks: list[pl.Callback],
    processes: Processes,
    step: int,
    *,
    offline: bool,
) -> pl.Trainer:
    """Return a trainer for the batches that are left: epochs, files and an end are the loop's.

    Args:
        recipe: How to train.
        run: Where to.
        callbacks: What happens around steps.
        processes: Where it runs.
        step: How far the run has come.
        offline: Whether Weights & Biases keeps its logs to itself.

    Raises:
        UsageError: A logger's package is missing, or the precision is not this device's.
    """
    settings = recipe.training
    kind = processes.device.type
    devices: Any = processes.devices
    if kind == "cuda" and processes.device.index is not None:
        devices = [processes.device.index]
    # A run is resumed by its own command, not by Lightning.
    plugins: Any = [SLURMEnvironment(auto_requeue=False)] if is_slurm_task() else []
    return pl.Trainer(
        accelerator=ACCELERATORS[kind],
        devices=devices,
        num_nodes=processes.nodes,
        strategy="ddp" if processes.count > 1 else "auto",
        plugins=plugins,
        precision=processes.find_precision(settings.precision),
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.clip or None,
        # Only GPUs can share statistics.
        sync_batchnorm=settings.sync_norm and processes.count > 1 and kind == "cuda",
        max_epochs=1,
        callbacks=callbacks,
        logger=_make_loggers(recipe, run, step, offline=offline),
        default_root_dir=run.path,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def _make_loggers(
    recipe: RecipeConfig, run: RunFolder, step: int, *, offline: bool
) -> list[Logger]:
    loggers: list[Logger] = []
    if recipe.training.tensorboard:
        if importlib.util.find_spec("tensorboard") is None:
            raise UsageError(
                "logging for TensorBoard needs tensorboard, which is not installed",
                help='install it: pip install "stemsplit[train]"; or set '
                "training.tensorboard=false.",
            )
        # What was logged beyond the checkpoint is learned again: it is not shown twice.
        again: dict[str, Any] = {"purge_step": step + 1} if step else {}
        loggers.append(TensorBoardLogger(run.path, name="", version=TENSORBOARD, **again))
    if recipe.training.wandb:
        if importlib.util.find_spec("wandb") is None:
            raise UsageError(
                "logging for Weights & Biases needs wandb, which is not installed",
                help="install it: pip install wandb; or set training.wandb=false.",
            )
        # The same folder is the same run, also after a resume.
        number = hashlib.sha256(str(run.path).encode()).hexdigest()[:12]
        loggers.append(
            WandbLogger(
                name=run.path.name,
                save_dir=run.path,
                id=number,
                project="stemsplit",
                offline=offline,
                resume="allow",
            )
        )
    return loggers
