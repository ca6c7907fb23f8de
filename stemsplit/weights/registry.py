"""The registry: which models there are, as typed data read from `models.toml` files.

The file that ships with stemsplit is read first, then the person's own: `models.toml` in the
platform's configuration folder, those in $STEMSPLIT_REGISTRY, those given with `--registry`. A
later file adds models and replaces whole tables. Nothing here imports torch or touches a network.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stemsplit.errors import RegistryError, UnknownNameError, UsageError
from stemsplit.weights.entry import (
    CHECKSUM_DIGITS,
    FORMATS,
    METRICS,
    Member,
    ModelEntry,
    Score,
    WeightFile,
)
from stemsplit.weights.parsing import check_registry, parse_registry
from stemsplit.weights.tables import read_toml

__all__ = [
    "CHECKSUM_DIGITS",
    "FORMATS",
    "METRICS",
    "Member",
    "ModelEntry",
    "Registry",
    "Score",
    "WeightFile",
    "find_registry_files",
]


@dataclass(frozen=True)
class Registry:
    """All the models that are known.

    Attributes:
        entries: By name, in the order of the files.
        default: The name of the model that is used where none is asked for.
        paths: The files that were read, in order.
    """

    entries: Mapping[str, ModelEntry]
    default: str
    paths: tuple[Path, ...] = field(default=())

    @classmethod
    def load(cls, extra: Sequence[Path] = ()) -> Registry:
        """Read the shipped registry, the person's, and then these.

        Args:
            extra: Registry files; later ones win.

        Raises:
            RegistryError: A file that is missing, no TOML, or holds what no registry has.
        """
        entries: dict[str, ModelEntry] = {}
        default = ""
        paths = (*find_registry_files(), *extra)
        for path in paths:
            found, wanted = parse_registry(path, read_toml(path))
            entries.update(found)
            default = wanted or default
        check_registry(entries, default, paths)
        return cls(entries, default, paths)

    def get(self, name: str) -> ModelEntry:
        """Return a model by its name.

        Raises:
            UnknownNameError: There is none; the nearest three are named.
        """
        if name not in self.entries:
            more = "`stemsplit models list` shows all."
            raise UnknownNameError("model", name, self.entries, more=more)
        return self.entries[name]

    def find(self, name: str | os.PathLike[str] | None) -> ModelEntry:
        """Return a model by its name, or one of the person's own by its path.

        Args:
            name: A model's name; or a folder with a `models.toml`, a registry file, or a file of
                weights that a `models.toml` (or a .toml of its own name) beside it describes; or
                None for the default.

        Raises:
            UnknownNameError: Neither a model nor anything on disk.
            UsageError: The path does not say which model is meant.
            RegistryError: The registry file found there is wrong.
        """
        if name is None:
            return self.get(self.default)
        text = os.fspath(name)
        if text in self.entries:
            return self.entries[text]
        path = Path(text).expanduser()
        return self._find_own(path) if path.exists() else self.get(text)

    def _find_own(self, path: Path) -> ModelEntry:
        """Return the model that a folder, a registry file or a file of weights stands for."""
        if path.is_dir():
            tables = [path / "models.toml"]
        elif path.suffix == ".toml":
            tables = [path]
        else:
            tables = [path.with_suffix(".toml"), path.with_name("models.toml")]
        table = next((one for one in tables if one.is_file()), None)
        if table is None:
            raise UsageError(
                f"{path} does not say which model it is: there is no {tables[-1]}",
                help="put a models.toml there, with a table for it as in stemsplit's own.",
            )
        found, default = parse_registry(table, read_toml(table))
        check_registry({**self.entries, **found}, default or self.default, (table,))
        if default and default in found:
            candidates = [found[default]]
        else:
            candidates = list(found.values())
        if path.is_file() and path != table:
            own = str(path.absolute())
            candidates = [
                entry for entry in found.values() if any(own in file.source for file in entry.files)
            ]
        if len(candidates) != 1:
            count = "no model" if not candidates else f"{len(candidates)} models"
            raise UsageError(
                f"{table} has {count} for {path}",
                help=f"choose by name: --registry {table} -m {next(iter(found), 'NAME')}",
            )
        return candidates[0]

    def names(self) -> tuple[str, ...]:
        """Return the names of all models, in the order of the files."""
        return tuple(self.entries)

    def filter(self, stem: str | None = None, licence: str | None = None) -> list[ModelEntry]:
        """Return the models that give a stem and whose licence has these words.

        Args:
            stem: Only models with this stem.
            licence: Only models whose licence holds every word of this, in any case: "mit",
                "CC BY-NC-SA".

        Raises:
            UnknownNameError: No model at all has this stem.
        """
        stems = {name for entry in self.entries.values() for name in entry.stems}
        if stem is not None and stem not in stems:
            raise UnknownNameError("stem", stem, stems)
        words = set((licence or "").casefold().split())
        return [
            entry
            for entry in self.entries.values()
            if (stem is None or stem in entry.stems)
            and words <= set(entry.licence.casefold().split())
        ]


def find_registry_files() -> tuple[Path, ...]:
    """Return the registry files in force: the shipped one, then those the person has set up.

    Raises:
        RegistryError: The installation lacks its models.toml.
    """
    import platformdirs

    package = Path(__file__).resolve().parent.parent
    shipped = next((p for p in (package, package.parent) if (p / "models.toml").is_file()), None)
    if shipped is None:
        raise RegistryError(
            f"{package / 'models.toml'} is missing from the installation",
            help="install stemsplit anew.",
        )
    own = platformdirs.user_config_path("stemsplit") / "models.toml"
    named = os.environ.get("STEMSPLIT_REGISTRY", "").split(os.pathsep)
    return (
        shipped / "models.toml",
        *([own] if own.is_file() else []),
        *(Path(name).expanduser() for name in named if name.strip()),
    )
