"""Before the first step: the data, the network and the machine, and whether they fit together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stemsplit.audio import parse_format
from stemsplit.backends.torch_core import find_device
from stemsplit.datasets import (
    Dataset,
    Index,
    Split,
    Validation,
    fetch_sample,
    keep_roles,
    open_dataset,
    open_index,
    require,
)
from stemsplit.datasets.decoding import Decoding
from stemsplit.datasets.prepare import PrepareOptions, prepare
from stemsplit.datasets.spectrogram_statistics import find_statistics
from stemsplit.errors import (
    CheckpointError,
    DatasetError,
    DeviceError,
    UnknownNameError,
    UsageError,
)
from stemsplit.models.base import SpectralModel, StemModel, build_config
from stemsplit.models.catalogue import find_architecture
from stemsplit.training.augment import count_read
from stemsplit.training.events import Noted, OnEvent
from stemsplit.training.loader import ExcerptLoader, count_excerpt, make_loader, select_stems
from stemsplit.training.processes import find_launch, find_rank
from stemsplit.training.recipe import Precision, RecipeConfig
from stemsplit.training.run_folder import RunFolder
from stemsplit.training.statistics import set_statistics

if TYPE_CHECKING:
    from stemsplit.training.engine import Machines

NAMED_TRACKS = 5
"""How many tracks a note names."""


@dataclass(frozen=True)
class Processes:
    """Where a training runs.

    Attributes:
        device: The kind; its number where one was named.
        devices: How many on each machine.
        nodes: How many machines.
        rank: This process's number.
    """

    device: torch.device
    devices: int = 1
    nodes: int = 1
    rank: int = 0

    @classmethod
    def find(cls, machines: Machines) -> Processes:
        """Work out what was asked for, and what torchrun or SLURM say.

        Raises:
            DeviceError: This machine does not have it.
            UsageError: Counts that contradict each other.
        """
        device = find_device(machines.device)
        launch = find_launch()
        devices, nodes = launch or (1, 1)
        for option, asked, found in (
            ("--devices", machines.devices, devices),
            ("--nodes", machines.nodes, nodes),
        ):
            if launch is not None and asked not in (0, found):
                raise UsageError(
                    f"{option} {asked}, and this process was launched as one of {found}",
                    help=f"leave {option} out, or launch {asked}.",
                )
        devices, nodes = machines.devices or devices, machines.nodes or nodes
        there = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device.type, devices)
        if devices > there or (devices > 1 and device.index is not None):
            raise DeviceError(
                f"--devices {devices} with --device {device}, and there is {there} of that kind",
                help="ask for as many as there are, with --device cuda.",
            )
        return cls(device, devices, nodes, find_rank(devices=devices))

    @property
    def count(self) -> int:
        """How many processes train together."""
        return self.devices * self.nodes

    def find_precision(self, name: Precision) -> Precision:
        """Return the precision of a recipe, or "32" where this device has no 16 bits like that."""
        return "32" if name == "16-mixed" and self.device.type != "cuda" else name


def open_data(
    root: Path | None,
    valid: Validation | None,
    origin: Mapping[str, Any],
    on_event: OnEvent,
    *,
    offline: bool,
) -> tuple[Dataset, Index]:
    """Open the data set of a run; that of a run begun before has the tracks it had then.

    Args:
        root: Where it is; None for what the run was begun with, or else the sample.
        valid: Which tracks judge a new run; None for those that the data set names.
        origin: What `describe_origin` gave when the run was begun; empty for a new one.
        on_event: Told what is worth knowing.
        offline: Download nothing.

    Raises:
        DatasetError: It cannot be read, or has no tracks to learn from, or none that judge, or has
            lost one that judges the run.
        DownloadError: The sample cannot be fetched.
    """
    if root is None and "root" in origin:
        root = Path(origin["root"])
    if root is None:
        root = prepare_sample(offline=offline)
        on_event(Noted(f"no --root: training on the sample, {root}, which shows that it runs"))
    dataset = open_dataset(root, stems=origin.get("stems"), valid=valid or Validation())
    if "train" in origin:
        dataset = _restore_tracks(dataset, origin, on_event)
    require(dataset, "train", "valid")
    index = open_index(dataset)
    for note in (*dataset.problems, *index.notes):
        on_event(Noted(note))
    return dataset, index


def _restore_tracks(dataset: Dataset, origin: Mapping[str, Any], on_event: OnEvent) -> Dataset:
    """Return the data set that a run was begun with: no track changes sides, and none comes in.

    Raises:
        DatasetError: A track that judges is gone: epochs would not compare.
    """
    roles: dict[Split, list[str]] = {"train": origin["train"], "valid": origin["valid"]}
    restored = keep_roles(dataset, roles)
    there = {track.name for track in restored.tracks}
    for name in origin["valid"]:
        if name not in there:
            raise DatasetError(
                f"the run is judged by {name!r}, which is not in {str(dataset.root)!r}",
                help="put it back, name the folder that has it with --root, or begin another run.",
            )
    if gone := [name for name in origin["train"] if name not in there]:
        on_event(Noted(f"tracks that the run was begun with are gone: {_list_names(gone)}"))
    if added := [one.name for one in dataset.select("train", "valid") if one.name not in there]:
        on_event(Noted(f"tracks new since the run was begun take no part: {_list_names(added)}"))
    return restored


def _list_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED_TRACKS} more" if len(names) > NAMED_TRACKS else ""
    return ", ".join(names[:NAMED_TRACKS]) + more


def prepare_sample(*, offline: bool) -> Path:
    """Return the folder of the sample, decoded: fetched and prepared the first time.

    Raises:
        DownloadError: It cannot be fetched.
        DatasetError: It cannot be decoded.
    """
    from filelock import FileLock

    packed = fetch_sample(offline=offline or None)
    folder = packed.with_name(f"{packed.name}-wav")
    # MUSDB18's own validation tracks stay where they are; `open_data` knows them by name.
    dataset = open_dataset(packed, valid=Validation(standard=False), any_format=True)
    options = PrepareOptions(Decoding(parse_format("wav")), statistics=((4096, 1024),))
    # Others who train together wait; what is done is skipped.
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        outcomes = prepare(
            dataset, folder, options, on_outcome=lambda _: None, on_note=lambda _: None
        )
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    return folder


def describe_origin(dataset: Dataset, begins_from: str | None) -> dict[str, Any]:
    """Return what a run folder keeps of its data, and of what it began with."""
    return {
        "from": begins_from,
        "root": str(dataset.root.absolute()),
        "stems": list(dataset.stems),
        "train": [track.name for track in dataset.select("train")],
        "valid": [track.name for track in dataset.select("valid")],
    }


def resolve_stems(recipe: RecipeConfig, dataset: Dataset) -> RecipeConfig:
    """Return the recipe with what is learned named, and made sure of.

    Raises:
        UnknownNameError: The data set does not have it.
        UsageError: A stem is named twice, or it has no such rest.
    """
    stems = recipe.model.stems or dataset.stems
    if len(set(stems)) < len(stems):
        raise UsageError(f"the stems {', '.join(stems)} name one twice", help="name each once.")
    nothing = torch.zeros(1, len(dataset.stems), 1, 1)
    try:
        select_stems(nothing, dataset.stems, stems)
    except UnknownNameError as error:
        raise UsageError(
            f"{error.message}, whose stems are {', '.join(dataset.stems)}",
            help=f"name what is to be learned: --stem {dataset.stems[0]}.",
        ) from error
    return replace(recipe, model=replace(recipe.model, stems=tuple(stems)))


def build_network(
    recipe: RecipeConfig, begins_from: str | None, *, offline: bool
) -> tuple[StemModel, RecipeConfig]:
    """Return the network with its first weights, and the recipe with the network's own settings.

    Args:
        recipe: Its stems are resolved.
        begins_from: A model whose weights to begin with: a name or a path; None for random ones.
        offline: Download nothing.

    Raises:
        UnknownNameError: An architecture, a setting of it or a model that there is none of.
        UsageError: Settings that do not go together, or fewer stems than can be learned.
        WeightsError: The first weights cannot be read, or do not fit.
    """
    settings = recipe.model
    donor = None
    if begins_from is not None:
        donor = _load_donor(begins_from, settings.architecture, offline=offline)
        shape = {key: value for key, value in vars(donor.config).items() if key not in _OURS}
        settings = replace(settings, config=_thaw(shape))
    kind = find_architecture(settings.architecture)
    above = {
        "stems": settings.stems,
        "channels": settings.channels,
        "sample_rate": settings.sample_rate,
    }
    config = build_config(kind.Config, {**settings.config, **above})
    try:
        model = kind(config)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the settings under model.config do not build a network: {error}",
            help="compare them with the recipe's: `stemsplit train --list`.",
        ) from error
    if len(model.stems) < model.fewest_stems:
        raise UsageError(
            f"{settings.architecture} learns {model.fewest_stems} stems or more at once, not "
            f"{len(model.stems)}: it normalises over them",
            help="name more with --stem; separating, --stems takes one of them.",
        )
    if donor is not None:
        _take_weights(model, donor, str(begins_from))
    return model, replace(recipe, model=settings)


_OURS = ("stems", "channels", "sample_rate")


def _thaw(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration's values as a recipe has them: tables and lists."""
    from stemsplit.training.recipe import plain

    return {key: plain(value) for key, value in values.items()}


def _load_donor(name: str, architecture: str, *, offline: bool) -> StemModel:
    from stemsplit.weights.load import load_model
    from stemsplit.weights.registry import Registry
    from stemsplit.weights.store import Store

    model = load_model(name, registry=Registry.load(()), store=Store(offline=offline or None))
    if not isinstance(model, StemModel):
        raise UsageError(
            f"{name!r} is made of several networks, and one is trained",
            help="name one of its members: `stemsplit models info` shows them.",
        )
    if not isinstance(model, find_architecture(architecture)):
        raise UsageError(
            f"{name!r} is a {type(model).__name__}, and the recipe trains {architecture}",
            help="name a recipe of its architecture with --arch.",
        )
    return model


def _take_weights(model: StemModel, donor: StemModel, name: str) -> None:
    """Copy a donor's weights, where some of its stems are enough those alone.

    Raises:
        CheckpointError: They do not fit.
    """
    missing = [stem for stem in model.stems if stem not in donor.stems]
    if missing:
        raise CheckpointError(
            f"{name!r} has no stem {missing[0]!r}; it gives {', '.join(donor.stems)}",
            help="train its stems, or begin without it.",
        )
    part = donor if model.stems == donor.stems else donor.only(model.stems)
    try:
        model.load_state_dict(part.state_dict())
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights of {name!r} do not fit: {str(error).splitlines()[-1].strip()}",
            help=f"train all of its stems: {', '.join(donor.stems)}.",
        ) from error


def restore_weights(model: StemModel, weights: Mapping[str, Any], run: RunFolder) -> None:
    """Give a network a checkpoint's weights.

    Raises:
        CheckpointError: They are of another network: the recipe was changed.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{run.last} does not fit the recipe: {str(error).splitlines()[-1].strip()}",
            help="resume without changing the model, or begin another run with --from.",
        ) from error


def make_batches(
    recipe: RecipeConfig, dataset: Dataset, index: Index, model: StemModel, processes: Processes
) -> tuple[ExcerptLoader, int]:
    """Return the batches of an epoch, and how many samples an excerpt has.

    Raises:
        UsageError: Excerpts that the network cannot take, or an epoch without a batch.
    """
    recipe.augment.check()
    excerpt = count_excerpt(model, recipe.data, centred=recipe.loss.centred)
    least = model.n_fft if isinstance(model, SpectralModel) else 1
    if model.chunk.fixed:
        least = model.chunk.samples - model.chunk.multiple_of + 1
    if excerpt < least:
        seconds = least / model.sample_rate
        raise UsageError(
            f"an excerpt of {excerpt / model.sample_rate:.3f} s is too short for this network, "
            f"which needs {seconds:.3f} s",
            help="set data.excerpt_s to that or more, or to 0 for the network's own length.",
        )
    loader = make_loader(
        dataset,
        index,
        recipe.data,
        excerpt=count_read(excerpt, recipe.augment),
        leads=recipe.model.stems,
        batch=recipe.training.batch,
        channels=recipe.model.channels,
        sample_rate=recipe.model.sample_rate,
        seed=recipe.training.seed,
        rank=processes.rank,
        world=processes.count,
        pin_memory=processes.device.type == "cuda",
    )
    if len(loader) < recipe.training.accumulate:
        raise UsageError(
            f"an epoch has {len(loader)} batches, fewer than the {recipe.training.accumulate} "
            "that make a step",
            help="set training.accumulate or training.batch lower.",
        )
    return loader, excerpt


def start_weights(
    model: StemModel, recipe: RecipeConfig, dataset: Dataset, index: Index, on_event: OnEvent
) -> None:
    """Give a new network the statistics of the data that it is about to see, where it has use."""
    if not recipe.model.statistics or not isinstance(model, SpectralModel):
        return
    found = find_statistics(dataset, index, model.n_fft, model.hop_length)
    mean = torch.from_numpy(found.mean).float()
    if not set_statistics(model, mean, torch.from_numpy(found.scale).float()):
        on_event(Noted("this architecture has no place for the data's statistics"))
