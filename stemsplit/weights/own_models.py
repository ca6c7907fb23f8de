"""Models by name or by path: the registry's, and those that a person brings.

-m umxhq                    a name in the registry
-m my-model/                a folder with a models.toml beside its weights
-m my-model/models.toml     a registry file; its default, or its only model
-m runs/vocals/             a training's folder; the best epoch so far
-m model.safetensors        weights that say in their header what they are
-m d3net-mss/, vocals.pth   weights as others publish them, known by their tensors
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from stemsplit.errors import CheckpointError, RegistryError, UnknownNameError, UsageError
from stemsplit.weights.disk import expand_home
from stemsplit.weights.entries import check_registry, parse_registry
from stemsplit.weights.registry import ModelEntry, Registry, read_toml

MANIFEST = "models.toml"
RUN_MODEL = "model"
"""The folder in a training's folder that holds what it has learned."""
RUN_RECIPE = "recipe.toml"
"""The file that makes a folder a training's."""
HEADER_KEY = "stemsplit"
_MAX_HEADER_BYTES = 100_000_000
_SUFFIXES = (".ckpt", ".pt", ".pth", ".h5", ".onnx", ".safetensors", ".toml")


def find_entry(name: str | os.PathLike[str] | None, registry: Registry) -> ModelEntry:
    """Return what is known of a model, without loading it or importing torch.

    Args:
        name: A registry name, a path, or None for the registry's default.
        registry: Where names are looked up first.

    Raises:
        UnknownNameError: Neither a name nor a path.
        UsageError: A path that leads nowhere.
        RegistryError: A folder or registry file that does not describe one model.
        CheckpointError: Weights that do not say what they are, and are of no known model.
    """
    if name is None:
        return registry.get(registry.default)
    text = os.fspath(name)
    path = expand_home(text)
    if text in registry.entries:
        return registry.get(text)
    if not path.exists() and (path.name != text or path.suffix in _SUFFIXES):
        raise UsageError(
            f"there is no file or folder {text!r}",
            help="check the path; `stemsplit models list` shows the models that have names.",
        )
    if not path.exists():
        raise UnknownNameError(
            "model",
            text,
            registry.entries,
            more="`stemsplit models list` shows all; a path works too.",
        )
    if path.is_dir():
        return _open_folder(path, registry)
    if path.suffix == ".toml":
        return _read_manifest(path)
    return _read_header(path) or _recognise(path, registry)


def _open_folder(path: Path, registry: Registry) -> ModelEntry:
    for manifest in (path / MANIFEST, path / RUN_MODEL / MANIFEST):
        if manifest.is_file():
            return _read_manifest(manifest)
    if (path / RUN_RECIPE).is_file():
        raise CheckpointError(
            f"the training in {path} has not exported a model yet",
            help="the first is there after its first validation; `stemsplit train --resume` "
            "goes on with it.",
        )
    return _recognise(path, registry)


def _recognise(path: Path, registry: Registry) -> ModelEntry:
    # Needs the networks, and so torch: the registry's names need neither.
    from stemsplit.weights.recognise import recognise

    return recognise(path, registry.entries)


def _read_manifest(path: Path) -> ModelEntry:
    entries, default = parse_registry(path, read_toml(path))
    check_registry(entries, default or next(iter(entries), ""), (path,))
    if not default and len(entries) > 1:
        raise RegistryError(
            f"{path} describes {len(entries)} models and no default",
            help=f"add a line such as: default = {next(iter(entries))!r}.",
        )
    return entries[default or next(iter(entries))]


def _read_header(path: Path) -> ModelEntry | None:
    """Read the registry table that `describe` put into a safetensors file's header, if it did."""
    table = _read_metadata(path).get(HEADER_KEY)
    if table is None:
        return None
    name = path.stem.casefold()
    source = {"source": str(path.absolute()), "format": "safetensors"}
    values = {"default": "own", "models": {"own": {**json.loads(table), "files": [source]}}}
    entries, _ = parse_registry(path, values)
    entry = entries["own"]
    return type(entry)(**{**vars(entry), "name": name})


def describe(entry: ModelEntry) -> dict[str, str]:
    """Return the header that lets a safetensors file of this entry's weights be opened alone."""
    table = {
        "description": entry.description,
        "architecture": entry.architecture,
        "config": dict(entry.config),
        "stems": list(entry.stems),
        **({} if entry.residual is None else {"residual": entry.residual}),
        "sample_rate": entry.sample_rate,
        "channels": entry.channels,
        "chunk": dict(entry.chunk),
        "licence": entry.licence,
        "source_page": entry.source_page,
    }
    return {HEADER_KEY: json.dumps(table, sort_keys=True)}


def _read_metadata(path: Path) -> Mapping[str, str]:
    """Return a safetensors file's own metadata; empty for any other file."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER_BYTES, path.stat().st_size):
                return {}
            header = json.loads(file.read(length))
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror or error}",
            help="check the path and its rights.",
        ) from error
    except ValueError:
        return {}
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else {}
    return metadata if isinstance(metadata, dict) else {}
