"""From a recipe and a data set to a run folder: everything is checked, then Lightning trains."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemsplit.errors import OutputError, UsageError, nearest
from stemsplit.training.events import Began, Noted, OnEvent, ignore
from stemsplit.training.recipe import RecipeConfig
from stemsplit.training.run_folder import RunFolder

if TYPE_CHECKING:
    from stemsplit.datasets import Dataset, Index, Validation
    from stemsplit.models.base import StemModel
    from stemsplit.training.loader import ExcerptLoader
    from stemsplit.training.losses import Loss
    from stemsplit.training.preparation import Processes

NEEDED = {"pytorch_lightning": "pytorch-lightning", "matplotlib": "matplotlib"}
EXTRA = 'pip install "stemsplit[train]"'


@dataclass(frozen=True)
class Machines:
    """Where a training runs.

    Attributes:
        device: "auto", "cpu", "cuda", "cuda:n" or "mps".
        devices: How many of that kind on each machine; 0 for what torchrun or SLURM say, else one.
        nodes: How many machines.
    """

    device: str = "auto"
    devices: int = 0
    nodes: int = 0


@dataclass(frozen=True)
class Request:
    """What is to be trained.

    Attributes:
        run: The folder.
        recipe: How.
        root: The data set; None for what the run was begun with, or else the sample.
        valid: Which tracks judge a new run; None for those that the data set names.
        resumes: Whether the run was begun before.
        begins_from: A model whose weights are the first: a name or a path.
        machines: Where.
        offline: Download nothing.
        stem_tables: Stems for which the recipe has values of their own.
    """

    run: Path
    recipe: RecipeConfig
    root: Path | None = None
    valid: Validation | None = None
    resumes: bool = False
    begins_from: str | None = None
    machines: Machines = field(default_factory=Machines)
    offline: bool = False
    stem_tables: tuple[str, ...] = ()


def require_extra() -> None:
    """Refuse to begin without the packages of the extra.

    Raises:
        UsageError: One is missing.
    """
    for module, package in NEEDED.items():
        if importlib.util.find_spec(module) is None:
            raise UsageError(
                f"training needs {package}, which is not installed", help=f"install it: {EXTRA}"
            )


def shorten(recipe: RecipeConfig) -> RecipeConfig:
    """Return a recipe that goes through everything in a minute: the fast development mode."""
    training = replace(
        recipe.training,
        batch=min(2, recipe.training.batch),
        accumulate=1,
        max_epochs=1,
        max_steps=0,
        batches_per_epoch=4,
        log_steps=1,
        checkpoint_steps=2,
    )
    validation = replace(
        recipe.validation,
        every=1,
        scores_every=1,
        excerpts=1,
        tracks=min(1, abs(recipe.validation.tracks)),
    )
    return replace(recipe, training=training, validation=validation)


def train(request: Request, on_event: OnEvent = ignore) -> None:
    """Train until the recipe ends, patience does, or a signal comes.

    Args:
        request: What, how and where.
        on_event: Told what happens; in the first of several processes only.

    Raises:
        UsageError: Something does not fit; nothing has been written.
        DatasetError: The data cannot be read.
        TrainingError: The loss is not finite, or another process of the training is gone.
        CancelledError: SIGINT or SIGTERM came; the run can be resumed.
    """
    require_extra()
    from stemsplit.training.processes import end_with_launcher, find_rank

    end_with_launcher()
    rank = find_rank()
    run = RunFolder(request.run)
    if rank == 0 and not request.resumes:
        run.check_new()
    with run.lock() if rank == 0 else contextlib.nullcontext(), _quiet():
        _train(request, run, on_event if rank == 0 else ignore, is_first=rank == 0)


def _train(request: Request, run: RunFolder, on_event: OnEvent, *, is_first: bool) -> None:
    from stemsplit.training.loop import Loop
    from stemsplit.training.module import StemTraining
    from stemsplit.training.preparation import describe_origin
    from stemsplit.training.processes import as_launcher, explain_lost_process
    from stemsplit.training.stopping import Stopping
    from stemsplit.training.stream import BatchStream, Position
    from stemsplit.training.trainer import make_trainer
    from stemsplit.training.validation import Validator

    ready = _prepare(request, run, on_event)
    recipe, dataset, loader, state = ready.recipe, ready.dataset, ready.loader, ready.state
    position = Position(**state["position"]) if state is not None else Position()
    stream = BatchStream(loader, recipe.training, position)
    valid = dataset.select("valid")
    validator = Validator(recipe, valid, ready.index, dataset.stems, ready.excerpt)
    names = [track.name for track in loader.tracks]
    module = StemTraining(ready.model, recipe, ready.loss, dataset.stems, names)
    origin = describe_origin(dataset, ready.begins_from)
    loop = Loop(run, recipe, stream, validator, on_event, state, origin)
    stopping = Stopping(module)
    trainer = make_trainer(
        recipe, run, [stopping, loop], ready.processes, position.step, offline=request.offline
    )
    if is_first and state is None:
        with _about(run):
            run.create(recipe, origin)
    if stream.is_over or not loop.is_patient:
        on_event(Noted(f"the run is complete: {position.epoch} epochs, {position.step} steps"))
        return
    on_event(
        Began(
            run=run.path,
            architecture=recipe.model.architecture,
            stems=recipe.model.stems,
            parameters=sum(parameter.numel() for parameter in ready.model.parameters()),
            train_tracks=len(names),
            valid_tracks=len(valid),
            batches=stream.per_epoch,
            max_epochs=recipe.training.max_epochs,
            epoch=position.epoch,
            device=str(ready.processes.device),
            processes=ready.processes.count,
        )
    )
    try:
        with stopping, _about(run), as_launcher(), explain_lost_process():
            trainer.fit(module, stream)
    finally:
        loader.close()


@dataclass(frozen=True)
class _Ready:
    """All that a training begins with."""

    recipe: RecipeConfig
    dataset: Dataset
    index: Index
    model: StemModel
    loss: Loss
    loader: ExcerptLoader
    excerpt: int
    processes: Processes
    state: dict[str, Any] | None
    begins_from: str | None


def _prepare(request: Request, run: RunFolder, on_event: OnEvent) -> _Ready:
    """Open everything, and make sure that it fits; nothing is written."""
    import torch

    from stemsplit.training.checkpoints import load_checkpoint
    from stemsplit.training.losses import build_loss
    from stemsplit.training.preparation import (
        Processes,
        build_network,
        make_batches,
        open_data,
        resolve_stems,
        restore_weights,
        start_weights,
    )
    from stemsplit.training.restoring import check_changes

    # Without any it begins anew; with others, the last one is only missing.
    has_state = request.resumes and any(run.checkpoints.glob("*.ckpt"))
    state = load_checkpoint(run.last) if has_state else None
    processes = Processes.find(request.machines)
    origin = run.read_origin() if request.resumes else {}
    dataset, index = open_data(
        request.root, request.valid, origin, on_event, offline=request.offline
    )
    recipe = resolve_stems(request.recipe, dataset)
    if state is not None:
        check_changes(recipe, run.read_recipe())
    _note_unknown_stems(request.stem_tables, (*dataset.stems, *recipe.model.stems), on_event)
    torch.manual_seed(recipe.training.seed)
    begins_from: str | None = origin.get("from", request.begins_from)
    # With a checkpoint, what the run began with does not matter any more.
    donor = begins_from if state is None else None
    model, recipe = build_network(recipe, donor, offline=request.offline)
    loss = build_loss(recipe.loss)
    loader, excerpt = make_batches(recipe, dataset, index, model, processes)
    if state is not None:
        restore_weights(model, state["model"], run)
    elif donor is None:
        start_weights(model, recipe, dataset, index, on_event)
    return _Ready(
        recipe, dataset, index, model, loss, loader, excerpt, processes, state, begins_from
    )


USUAL_STEMS = ("vocals", "drums", "bass", "other", "piano", "guitar", "accompaniment")


def _note_unknown_stems(named: Sequence[str], stems: Sequence[str], on_event: OnEvent) -> None:
    """Tell of a recipe's values for stems that are neither usual nor this data set's."""
    known = sorted({*USUAL_STEMS, *stems})
    for stem in named:
        if stem not in known and not stem.startswith("no_"):
            near = nearest(stem, known, 1)
            meant = f"; is it {near[0]}?" if near else ""
            text = f"the recipe has values for a stem {stem!r}, and this data has none such"
            on_event(Noted(text + meant))


@contextlib.contextmanager
def _about(run: RunFolder) -> Iterator[None]:
    """Say what to do where a run's own files cannot be written."""
    try:
        yield
    except OutputError as error:
        help = "make room there, or mend its rights"
        more = f", and go on by --resume {run.path}." if run.last.is_file() else "."
        raise type(error)(error.message, help=help + more) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's advice, advertisements and warnings from people; errors still come."""
    # Being imported, it sets the levels itself.
    import pytorch_lightning  # noqa: F401  # only to have that behind us

    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for module in ("pytorch_lightning", "lightning_fabric"):
                warnings.filterwarnings("ignore", module=module)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
