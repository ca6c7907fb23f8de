"""Models by name or by path: the registry's, and those that a person brings.

-m umxhq                    a name in the registry
-m my-model/                a folder with a models.toml beside its weights
-m my-model/models.toml     a registry file; its default, or its only model
-m model.safetensors        weights that say in their header what they are
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from stemsplit.errors import CheckpointError, RegistryError, UnknownNameError
from stemsplit.weights.entries import check_registry, parse_registry
from stemsplit.weights.registry import ModelEntry, Registry, read_toml

MANIFEST = "models.toml"
HEADER_KEY = "stemsplit"
_MAX_HEADER_BYTES = 100_000_000


def find_entry(name: str | os.PathLike[str] | None, registry: Registry) -> ModelEntry:
    """Return what is known of a model, without loading it or importing torch.

    Args:
        name: A registry name, a path, or None for the registry's default.
        registry: Where names are looked up first.

    Raises:
        UnknownNameError: Neither a name nor a path that exists.
        RegistryError: A folder or registry file that does not describe one model.
        CheckpointError: A file of weights that does not say what it is.
    """
    if name is None:
        return registry.get(registry.default)
    text = os.fspath(name)
    path = Path(text).expanduser()
    if text in registry.entries:
        return registry.get(text)
    if not path.exists():
        raise UnknownNameError(
            "model",
            text,
            registry.entries,
            more="`stemsplit models list` shows all; a path works too.",
        )
    if path.is_dir():
        manifest = path / MANIFEST
        if not manifest.is_file():
            raise RegistryError(
                f"the folder {path} has no {MANIFEST}",
                help="describe the model in one, as docs/adding-weights.md shows.",
            )
        return _read_manifest(manifest)
    return _read_manifest(path) if path.suffix == ".toml" else _read_header(path)


def _read_manifest(path: Path) -> ModelEntry:
    entries, default = parse_registry(path, read_toml(path))
    check_registry(entries, default or next(iter(entries), ""), (path,))
    if not default and len(entries) > 1:
        raise RegistryError(
            f"{path} describes {len(entries)} models and no default",
            help=f"add a line such as: default = {next(iter(entries))!r}.",
        )
    return entries[default or next(iter(entries))]


def _read_header(path: Path) -> ModelEntry:
    """Read the registry table that `describe` put into a safetensors file's header."""
    table = _read_metadata(path).get(HEADER_KEY)
    if table is None:
        raise CheckpointError(
            f"{path} does not say which model it is for",
            help="put a models.toml beside it and give the folder: docs/adding-weights.md.",
        )
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
