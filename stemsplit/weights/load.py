"""From a model's name, or a path, to a network with its weights: fetch, convert once, fill."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor

from stemsplit.errors import CheckpointError, DiskFullError, OutputError
from stemsplit.models.base import Member, Model, StemModel
from stemsplit.models.ensemble import Ensemble
from stemsplit.weights.build import build_model, list_shapes
from stemsplit.weights.convert import convert, write_safetensors
from stemsplit.weights.disk import make_folder
from stemsplit.weights.own_models import describe, find_entry

if TYPE_CHECKING:
    from stemsplit.weights.entry import FetchedFile, ModelEntry
    from stemsplit.weights.registry import Registry
    from stemsplit.weights.store import Store

# Part of every converted file's name: raise it when conversion changes what it gives.
CONVERSION = 1


def load_model(
    name: str | os.PathLike[str] | None,
    *,
    registry: Registry,
    store: Store,
    on_progress: Callable[..., None] | None = None,
) -> Model:
    """Return a model in evaluation mode, on the CPU, with `name` and `weights_sha256` set.

    Args:
        name: A registry name, a path of a model of one's own, or None for the default.
        registry: Where names are looked up.
        store: Where files are kept.
        on_progress: Handed to `Store.fetch`.

    Raises:
        UnknownNameError: Neither a name nor a path.
        WeightsError: The weights cannot be fetched, are not the published ones, or do not fit.
    """
    entry = find_entry(name, registry)
    return load_entry(entry, registry=registry, store=store, on_progress=on_progress)


def load_entry(
    entry: ModelEntry,
    *,
    registry: Registry,
    store: Store,
    on_progress: Callable[..., None] | None = None,
) -> Model:
    """Return the model of an entry; see `load_model`."""
    model: Model
    if entry.members:
        model, digest = _join(entry, registry, store, on_progress)
    else:
        model = _build(entry, registry, store, on_progress)
        digest = model.weights_sha256
        if entry.residual is not None:
            alone = Member(model, dict.fromkeys(entry.stems, 1.0))
            model = Ensemble(entry.stems, [alone], entry.residual)
    model.identify(entry.name, digest)
    return model.eval()


def _join(
    entry: ModelEntry, registry: Registry, store: Store, on_progress: Callable[..., None] | None
) -> tuple[Ensemble, str]:
    members = []
    for member in entry.members:
        part = registry.get(member.model)
        model = _build(part, registry, store, on_progress)
        members.append(Member(model.eval(), member.weights))
    parts = [[one.model.weights_sha256, dict(one.weights)] for one in members]
    told = json.dumps([entry.stems, parts], sort_keys=True)
    return Ensemble(entry.stems, members, entry.residual), hashlib.sha256(told.encode()).hexdigest()


def _build(
    entry: ModelEntry, registry: Registry, store: Store, on_progress: Callable[..., None] | None
) -> StemModel:
    model = build_model(entry)
    fetched = store.fetch(entry, on_progress)
    digest = _digest(entry, fetched)
    _fill(model, _convert(entry, model, fetched, store, digest), entry.name)
    if entry.chunk:
        model.chunk = replace(model.chunk, **entry.chunk)  # type: ignore[arg-type]  # the registry has checked keys and types
    model.identify(entry.name, digest)
    return model


def _digest(entry: ModelEntry, fetched: tuple[FetchedFile, ...]) -> str:
    """Identify weights and how they were read, by the sha256 of every file and the entry."""
    told = {
        "architecture": entry.architecture,
        "config": dict(entry.config),
        "stems": entry.stems,
        "files": [[one.sha256, one.file.format, one.file.keymap, one.file.stem] for one in fetched],
        "conversion": CONVERSION,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _convert(
    entry: ModelEntry,
    model: StemModel,
    fetched: tuple[FetchedFile, ...],
    store: Store,
    digest: str,
) -> Mapping[str, Tensor]:
    """Return these weights, from the file that they were converted to, or converted to it now."""
    path = store.converted_path(f"{entry.name}-{digest[:16]}")
    if store.is_intact(path):
        return load_file(path)
    files = [
        (one.path, one.file.format, one.file.keymap, one.file.stem)
        for one in fetched
        if one.file.format != "companion"
    ]
    arrays = convert(files, entry.stems, list_shapes(model))
    try:
        make_folder(path.parent)
        write_safetensors(arrays, path, {**describe(entry), "digest": digest})
        store.seal(path)
    except DiskFullError:
        raise
    except OutputError:
        # A cache that several share may be one to read only: convert again the next time.
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
    return load_file(path)


def _fill(model: StemModel, weights: Mapping[str, Tensor], name: str) -> None:
    """Give a network on no device its weights, all of them and no others.

    Raises:
        CheckpointError: They are not exactly this network's tensors.
    """
    wanted = model.state_dict()
    # Some files keep some tensors in double or half precision: the network has one type.
    tensors: Mapping[str, Tensor] = {
        key: tensor.to(wanted[key].dtype) if key in wanted else tensor
        for key, tensor in weights.items()
    }
    counters = {
        key: torch.zeros((), dtype=torch.long)
        for key in wanted
        if key.endswith("num_batches_tracked") and key not in tensors
    }
    try:
        model.load_state_dict({**tensors, **counters}, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"the converted weights of {name!r} do not fit: {str(error).splitlines()[-1].strip()}",
            help=f"remove them with `stemsplit models remove {name}` and download them again.",
        ) from error
