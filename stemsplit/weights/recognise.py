"""A person's own files of a published layout: which of the known models they are weights of.

Nothing here knows a layout. Every model of the registry says how its published files are read and
named, so a file is a model's when its tensors, read and renamed that way, are exactly those of that
model's network: all names, all shapes, nothing left over. Where the files of a layout describe a
network themselves (`stemsplit.weights.described`), they are first compared with that one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from stemsplit.errors import CheckpointError, RegistryError, UnsafeWeightsError
from stemsplit.models.base import PerStem, StemModel
from stemsplit.weights.build import build_model, list_shapes
from stemsplit.weights.convert import sniff_format
from stemsplit.weights.described import Brought, Candidate, Shelf, find_candidates
from stemsplit.weights.entry import ModelEntry, WeightFile
from stemsplit.weights.keymaps import build_keymap, rename_arrays

_LARGEST_FOLDER = 64
_NAMED_AS = {"onnx": "hdf5"}
"""Formats whose writer gives tensors the names that they have in another: NNabla's does."""
_DESCRIBE = "describe the model in a models.toml beside them: docs/adding-weights.md."


def recognise(path: Path, registry: Mapping[str, ModelEntry]) -> ModelEntry:
    """Return the entry of a model whose weights are a person's own files.

    Args:
        path: A file of weights, or a folder with some.
        registry: Models by name; where several fit, one with a file of the same name is taken, or
            else the first.

    Returns:
        The entry of the network that the files describe, or the known model's, with these files in
        place of the published ones, and those stems alone that the files are for where each stem
        has a network of its own.

    Raises:
        CheckpointError: No model has these tensors, they are not what their description says, or
            the files are damaged.
        UnsafeWeightsError: A pickle asks for what no weights need.
    """
    shelf = Shelf()
    unlike = None
    for candidate in find_candidates(path, registry, shelf):
        if isinstance(candidate, CheckpointError):
            unlike = candidate
            continue
        try:
            return _check(candidate, path)
        except CheckpointError as error:
            unlike = error.with_traceback(None)
    try:
        return _search(path, registry, shelf)
    except CheckpointError as error:
        # What the files say of themselves is nearer than any model of the registry.
        raise unlike or error from None


def _check(candidate: Candidate, path: Path) -> ModelEntry:
    """Return a described model's entry, if its files have that network's tensors.

    Raises:
        CheckpointError: They have not, or there is no such network.
    """
    entry, source = candidate.entry, candidate.source
    help = f"keep the {source} that the training wrote with these weights beside them."
    try:
        shapes = list_shapes(build_model(entry))
    except RegistryError as error:
        raise CheckpointError(
            f"{path}: what its {source} says is no network: {error.message}", help=help
        ) from error
    try:
        for file, brought in zip(entry.files, candidate.brought, strict=True):
            label = f"{file.name} should be {entry.architecture} as its {source} says"
            _compare(file, entry, brought, shapes, label)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.message}", help=help) from error
    return entry


def _search(path: Path, registry: Mapping[str, ModelEntry], shelf: Shelf) -> ModelEntry:
    """Return the entry of the registry whose tensors these are. See `recognise`."""
    brought = list(_find_weights(path, shelf))
    if not brought:
        raise CheckpointError(f"{path} holds no weights in a format that is known", help=_DESCRIBE)
    misfits: list[CheckpointError] = []
    refusals = []
    for entry in _order(registry.values(), brought):
        try:
            return _fit(entry, path, brought)
        except CheckpointError as error:
            # Without what holds on to the networks that were compared: 20 MiB of objects.
            misfits.append(error.with_traceback(None))
        except UnsafeWeightsError as error:
            refusals.append(error.with_traceback(None))
    if refusals and not misfits:
        raise refusals[-1]
    # What fits but for a file that is missing says more than what has other shapes.
    told = [error for error in misfits if not isinstance(error, _MisfitError)] or misfits
    near = [error for error in told if not isinstance(error, _StrangeError)]
    raise CheckpointError(
        f"{path} holds the weights of no model that is known"
        + (f"; the nearest is {near[0].message}" if near else ""),
        help=near[0].help if near else _DESCRIBE,
    )


def _order(entries: Iterable[ModelEntry], brought: Sequence[Brought]) -> Iterator[ModelEntry]:
    """Yield the models that have such files: those first that have one of the same name.

    Last come those that names alone tell not to fit, without the time to build their networks.
    """
    names = {one.path.name for one in brought}
    formats = set(map(_name_as, brought))
    fitting = [
        entry
        for entry in entries
        if not entry.members and formats <= {file.format for file in entry.files}
    ]
    fitting.sort(key=lambda entry: names.isdisjoint(file.name for file in entry.files))
    strange = []
    for entry in fitting:
        if all(_has_use_for(entry, one) for one in brought):
            yield entry
        else:
            strange.append(entry)
    yield from strange


def _has_use_for(entry: ModelEntry, brought: Brought) -> bool:
    """Whether a file has, by their names, no tensors but those that one of a model's may have."""
    for file in entry.files:
        if file.format != _name_as(brought):
            continue
        keymap = build_keymap(file.keymap, file.stem, entry.stems)
        try:
            renamed = rename_arrays(keymap, brought.read(keymap.inert).arrays)
        except (CheckpointError, UnsafeWeightsError):
            continue
        if renamed.arrays and not renamed.unused:
            return True
    return False


class _MisfitError(CheckpointError):
    """A file's tensors are not those that the network wants of it."""


class _StrangeError(_MisfitError):
    """Nothing in a file is called as anything in the network is."""


def _find_weights(path: Path, shelf: Shelf) -> Iterator[Brought]:
    """Yield a file, or every file of a folder that is in a format of weights."""
    files = [path]
    if path.is_dir():
        # A TensorFlow checkpoint is its index here; its other files lie beside it.
        only = "*.index" if sniff_format(path) == "tensorflow" else "*"
        files = sorted(file for file in path.glob(only) if file.is_file())[:_LARGEST_FOLDER]
    for file in files:
        brought = shelf.take(file)
        if brought is not None:
            yield brought


def _fit(entry: ModelEntry, path: Path, brought: Sequence[Brought]) -> ModelEntry:
    """Return the entry with these files, if each of them is one of the model's.

    Raises:
        CheckpointError: One is not; or some are missing.
    """
    model = build_model(entry)
    shapes = list_shapes(model)
    placed: dict[WeightFile, Brought] = {}
    for one in brought:
        file = _place(entry, one, shapes)
        if file in placed:
            raise CheckpointError(
                f"{entry.name}, and {placed[file].path.name} and {one.path.name} are the same "
                "part of it",
                help="keep one of them in the folder.",
            )
        placed[file] = one
    wanted = [file for file in entry.files if file.format != "companion"]
    missing = [file for file in wanted if file not in placed]
    if missing and not _stands_alone(model, missing):
        raise CheckpointError(
            f"{entry.name}, without its {', '.join(file.stem or file.name for file in missing)}",
            help="put all of its files into one folder.",
        )
    found = [file.stem for file in placed if file.stem is not None]
    stems = tuple(stem for stem in entry.stems if stem in found or not found)
    given = stems if entry.residual is None else (*stems, entry.residual)
    return replace(
        entry,
        name=path.stem.casefold(),
        description=f"{path.name}, recognised as weights of {entry.name}: {', '.join(given)}",
        stems=stems,
        files=tuple(
            replace(_as_own(file, one.path), format=one.format) for file, one in placed.items()
        ),
    )


def _place(
    entry: ModelEntry, brought: Brought, shapes: Mapping[str, tuple[int, ...]]
) -> WeightFile:
    """Return the one of a model's files that this is: by its tensors, then by its name."""
    fitting, error = [], None
    for file in entry.files:
        if file.format != _name_as(brought):
            continue
        try:
            _compare(file, entry, brought, shapes, entry.name)
        except CheckpointError as misfit:
            # Without what holds on to the network: another file may fit.
            error = error or misfit.with_traceback(None)
        else:
            fitting.append(file)
    if not fitting:
        assert error is not None, "the entry has files of this format"
        raise error
    named = [file for file in fitting if _is_named(brought.path, file)]
    if len(fitting) > 1 and len(named) != 1:
        raise CheckpointError(
            f"{entry.name}, and {brought.path.name} may be its "
            + " or its ".join(file.stem or file.name for file in fitting),
            help="put the stem into its name, such as vocals.pth.",
        )
    return (named or fitting)[0]


def _compare(
    file: WeightFile,
    entry: ModelEntry,
    brought: Brought,
    shapes: Mapping[str, tuple[int, ...]],
    label: str,
) -> None:
    """Check that a file's tensors are those that the network wants of it; `label` names it.

    Raises:
        _MisfitError: They are not.
    """
    keymap = build_keymap(file.keymap, file.stem, entry.stems)
    renamed = rename_arrays(keymap, brought.read(keymap.inert).arrays)
    prefix = "" if file.stem is None else f"core.nets.{file.stem}."
    mine = {name: shape for name, shape in shapes.items() if name.startswith(prefix)}
    found = renamed.arrays
    findings = {
        "are missing": mine.keys() - found.keys(),
        "are of no use": {*renamed.unused, *(found.keys() - mine.keys())},
        "have another shape": {
            name for name in mine.keys() & found.keys() if found[name].shape != mine[name]
        },
    }
    told = [
        f"{len(names)} tensors {what}, such as {min(names)}"
        for what, names in findings.items()
        if names
    ]
    if told:
        kind = _StrangeError if mine.keys().isdisjoint(found) else _MisfitError
        raise kind(f"{label}, but {'; '.join(told)}", help=_DESCRIBE)


def _stands_alone(model: StemModel, missing: Sequence[WeightFile]) -> bool:
    """Whether the model's other stems can be had without the missing files."""
    return isinstance(model.core, PerStem) and all(file.stem is not None for file in missing)


def _is_named(path: Path, file: WeightFile) -> bool:
    """Whether a file is called as the published one is, or after its stem."""
    if path.name == file.name:
        return True
    return file.stem is not None and file.stem in re.split(r"[^a-z]+", path.stem.casefold())


def _name_as(brought: Brought) -> str:
    """Return the format whose names a file's tensors have."""
    return _NAMED_AS.get(brought.format, brought.format)


def _as_own(file: WeightFile, path: Path) -> WeightFile:
    return WeightFile(
        source=(os.fspath(path.absolute()),),
        format=file.format,
        name=path.name,
        stem=file.stem,
        keymap=file.keymap,
    )
