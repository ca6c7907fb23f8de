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

from stemsplit.errors import RegistryError, UnknownNameError
from stemsplit.weights.disk import expand_home
from stemsplit.weights.entries import check_registry, parse_registry
from stemsplit.weights.entry import (
    CHECKSUM_DIGITS,
    FORMATS,
    METRICS,
    Member,
    ModelEntry,
    Score,
    WeightFile,
)
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
    "read_toml",
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
        stems = {name for entry in self.entries.values() for name in entry.all_stems}
        if stem is not None and stem not in stems:
            raise UnknownNameError("stem", stem, stems)
        words = set((licence or "").casefold().split())
        return [
            entry
            for entry in self.entries.values()
            if (stem is None or stem in entry.all_stems)
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
        *(expand_home(name) for name in named if name.strip()),
    )
