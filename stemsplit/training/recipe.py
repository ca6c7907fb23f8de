"""What a training is made of, as data: one dataclass per section of a recipe file.

Read, merged and overridden in `recipe_files`. A resolved recipe is written to the run folder and is
itself a recipe file.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from stemsplit.errors import UnknownNameError, UsageError
from stemsplit.training.augment import AugmentConfig
from stemsplit.training.losses import LossConfig
from stemsplit.training.sampling import DataConfig

OptimiserName = Literal["adam", "adamw", "radam", "sgd"]
ScheduleName = Literal["constant", "plateau", "step", "cosine", "exponential", "warmup-decay"]
Precision = Literal["32", "bf16-mixed", "16-mixed"]
Monitor = Literal["loss", "usdr"]

SectionT = TypeVar("SectionT")


@dataclass(frozen=True)
class ModelSettings:
    """The network.

    Attributes:
        architecture: A key of `stemsplit.models.catalogue.ARCHITECTURES`.
        stems: What is learned, in the order of the network's outputs; none for all of the data
            set's. "accompaniment" is the mixture without the vocals, "no_drums" without drums.
        channels: Audio channels.
        sample_rate: Hz; the data's has to be the same.
        config: The architecture's own settings.
        statistics: Give the network, before the first step, the mean and deviation of the training
            tracks' spectrograms, where it has a place for them.
    """

    architecture: str = ""
    stems: tuple[str, ...] = ()
    channels: int = 2
    sample_rate: int = 44100
    config: Mapping[str, Any] = field(default_factory=dict)
    statistics: bool = False


@dataclass(frozen=True)
class OptimiserConfig:
    """How weights follow gradients.

    Attributes:
        name: "adam" (with L2 weight decay, added to the gradient), "adamw" (decoupled), "radam" or
            "sgd".
        lr: The base that the schedule multiplies.
        weight_decay: See `name`.
        betas: Of Adam's kind.
        eps: Of Adam's kind.
        momentum: Of "sgd".
    """

    name: OptimiserName = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    betas: tuple[float, ...] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.9


@dataclass(frozen=True)
class ScheduleConfig:
    """What multiplies the learning rate, by epoch (from 0) or step.

    Attributes:
        name: "constant": 1. "plateau": times `factor` whenever the validation loss has not fallen
            for more than `patience` epochs. "step": times `factor` from each of `milestones` on.
            "cosine": from 1 to `least` over all epochs. "exponential": factor^epoch.
            "warmup-decay": 0.1^(decay_from - epoch), then factor^(epoch - decay_from).
        factor: See `name`.
        patience: Plateau: epochs.
        cooldown: Plateau: epochs after a change in which nothing is counted.
        threshold: Plateau: what counts as fallen, as a share of the best.
        milestones: Step: epochs.
        least: Cosine: the last epoch's factor.
        decay_from: Warmup-decay: the epoch that has the full rate.
        warmup_steps: Before any of these: linear from nearly 0 over so many steps.
    """

    name: ScheduleName = "constant"
    factor: float = 0.1
    patience: int = 10
    cooldown: int = 0
    threshold: float = 1e-4
    milestones: tuple[int, ...] = ()
    least: float = 0.0
    decay_from: int = 10
    warmup_steps: int = 0


@dataclass(frozen=True)
class TrainingConfig:
    """The loop.

    Attributes:
        batch: Items per step and process.
        accumulate: Batches whose gradients are summed before a step.
        min_epochs: Patience ends nothing before.
        max_epochs: The end.
        max_steps: The end as well; 0 for none.
        batches_per_epoch: At most so many; 0 for all.
        patience: Ends the run when the monitored score has not become better for so many epochs; 0
            for never.
        min_delta: What counts as better.
        clip: Largest norm of all gradients together; 0 for none.
        precision: "32", "bf16-mixed" or "16-mixed".
        ema_decay: Weights are averaged with this; the average is validated and exported. 0: none.
        sync_norm: Batch norms count over all processes.
        seed: Decides excerpts, augmentation, first weights and dropout.
        checkpoint_steps: `checkpoints/last.ckpt` is written every so many steps, and after every
            epoch; 0 for only then.
        keep: How many of the best epochs keep their checkpoints.
        log_steps: The training loss is logged every so many steps.
        tensorboard: Log for TensorBoard.
        wandb: Log for Weights & Biases, which has to be installed.
    """

    batch: int = 16
    accumulate: int = 1
    min_epochs: int = 0
    max_epochs: int = 100
    max_steps: int = 0
    batches_per_epoch: int = 0
    patience: int = 0
    min_delta: float = 0.0
    clip: float = 0.0
    precision: Precision = "32"
    ema_decay: float = 0.0
    sync_norm: bool = True
    seed: int = 42
    checkpoint_steps: int = 500
    keep: int = 3
    log_steps: int = 50
    tensorboard: bool = True
    wandb: bool = False


@dataclass(frozen=True)
class ValidationConfig:
    """How an epoch is judged, on tracks that are never learned from.

    Attributes:
        every: Epochs between two validations.
        monitor: What decides which epoch is best: the "loss" on excerpts, or "usdr", the mean over
            stems and whole tracks.
        terms: The loss's, where they differ from those of training.
        excerpts: Of each track, evenly spread; 0 for all that fit side by side.
        tracks: How many are separated whole, by the separator that people use, and scored; 0 for
            none, -1 for all.
        scores_every: Epochs between two of these.
    """

    every: int = 1
    monitor: Monitor = "loss"
    terms: tuple[str, ...] = ()
    excerpts: int = 0
    tracks: int = -1
    scores_every: int = 10


@dataclass(frozen=True)
class RecipeConfig:
    """A whole recipe.

    Attributes:
        description: One line.
        source: Where the settings were published.
        model: The network.
        data: What an epoch is made of.
        augment: What happens to stems before they are mixed.
        loss: What is made small.
        optimiser: How weights follow gradients.
        schedule: What multiplies the learning rate.
        training: The loop.
        validation: How an epoch is judged.
    """

    description: str = ""
    source: str = ""
    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)


def build_recipe(values: Mapping[str, Any]) -> RecipeConfig:
    """Build a recipe from a merged table.

    Args:
        values: Sections by name, with their values.

    Raises:
        UnknownNameError: A section or a key that there is none of.
        UsageError: A value of another kind, or out of its range.
    """
    recipe = _build(RecipeConfig, "", values)
    _check_ranges(recipe)
    return recipe


def list_keys() -> tuple[str, ...]:
    """Return every key of a recipe with its section: "optimiser.lr"."""
    kinds = typing.get_type_hints(RecipeConfig)
    keys: list[str] = []
    for part in dataclasses.fields(RecipeConfig):
        kind = kinds[part.name]
        inner = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
        keys += [f"{part.name}.{one.name}" for one in inner] or [part.name]
    return tuple(keys)


def to_table(config: object) -> dict[str, Any]:
    """Return a dataclass as the table it could have been built from; tuples become lists."""
    return {
        part.name: plain(getattr(config, part.name))
        for part in dataclasses.fields(config)  # type: ignore[arg-type]  # always given a dataclass
    }


def plain(value: Any) -> Any:
    """Return a value as TOML has it: dataclasses as tables, tuples as lists."""
    if dataclasses.is_dataclass(value):
        return to_table(value)
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def _build(kind: type[SectionT], where: str, values: Mapping[str, Any]) -> SectionT:
    kinds = typing.get_type_hints(kind)
    known = [f"{where}{name}" for name in kinds]
    read = {}
    for key, value in values.items():
        name = f"{where}{key}"
        if key not in kinds:
            raise UnknownNameError("recipe key", name, known if where else list_keys())
        if dataclasses.is_dataclass(kinds[key]):
            if not isinstance(value, Mapping):
                raise UsageError(f"{name} is {value!r}", help=f"write a table: [{name}]")
            read[key] = _build(typing.cast("type[Any]", kinds[key]), f"{name}.", value)
        else:
            read[key] = _convert(name, kinds[key], value)
    return kind(**read)


def _convert(name: str, kind: Any, value: Any) -> Any:
    """Return a value as a field's type has it: whole numbers count as numbers, lists as tuples."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        text = str(value) if not isinstance(value, bool) else ""
        if text not in inner:
            raise UnknownNameError(f"{name}", str(value), [str(one) for one in inner])
        return text
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_convert(name, inner[0], item) for item in value)
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return dict(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) if kind is bool else _is_scalar(kind, value):
        return value
    wanted = WANTED.get(kind, "a list of such values" if origin is tuple else "a table")
    raise UsageError(f"{name} is {value!r}", help=f"give {wanted}.")


def _is_scalar(kind: Any, value: Any) -> bool:
    # true and false are whole numbers to Python.
    return kind in WANTED and isinstance(value, kind) and not isinstance(value, bool)


WANTED = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a text",
}  # fmt: skip


_ABOVE_0 = ("optimiser.lr", "training.batch", "training.accumulate", "training.max_epochs")
_FROM_1 = ("validation.every", "validation.scores_every", "training.log_steps", "training.keep")


def _check_ranges(recipe: RecipeConfig) -> None:
    """Refuse numbers that cannot be meant.

    Raises:
        UsageError: There is one.
    """
    for name in (*_ABOVE_0, *_FROM_1):
        section, _, key = name.partition(".")
        value = getattr(getattr(recipe, section), key)
        if value <= 0:
            raise UsageError(f"{name} is {value}", help="give a number above 0.")
    for part in ("optimiser", "schedule", "training"):
        for key, value in vars(getattr(recipe, part)).items():
            if isinstance(value, (int, float)) and value < 0:
                raise UsageError(f"{part}.{key} is {value}", help="give 0 or more.")
    if not recipe.training.ema_decay < 1:
        raise UsageError(
            f"training.ema_decay is {recipe.training.ema_decay}", help="give 0 to below 1."
        )
    if recipe.validation.monitor == "usdr" and not recipe.validation.tracks:
        raise UsageError(
            "validation.tracks is 0, and validation.monitor is usdr: no epoch would be the best",
            help="set validation.tracks to -1 for all, or validation.monitor to loss.",
        )
    if len(recipe.optimiser.betas) != 2:
        raise UsageError(
            f"optimiser.betas has {len(recipe.optimiser.betas)} values", help="give two."
        )
