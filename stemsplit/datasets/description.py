"""What a folder of one's own may say of itself, in a file dataset.toml.

stems = ["voice", "piano"]             # which files of a track are its stems
valid = ["Song A"]                     # tracks for validation
test = ["Song B", "Song C"]            # tracks for the test

[aliases]
voice = ["lead vocal", "singing"]      # the stem's files may be called so
mixture = "full mix"
"""

from __future__ import annotations

import importlib
import sys
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from stemsplit.errors import DatasetError, UnknownNameError

FILE_NAME: Final = "dataset.toml"
_KEYS: Final = ("stems", "valid", "test", "aliases")


@dataclass(frozen=True)
class Description:
    """A data set in its owner's words; nothing is said by default.

    Attributes:
        stems: Which there are.
        valid: Tracks for validation.
        test: Tracks for the test.
        aliases: Stem (or "mixture") -> what its files may be called besides, in any case and
            without their ending.
    """

    stems: tuple[str, ...] | None = None
    valid: tuple[str, ...] | None = None
    test: tuple[str, ...] | None = None
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def fold(name: str) -> str:
    """Return a stem's name as all of them are compared: composed characters, lower case."""
    return normal(name).lower()


def normal(name: str) -> str:
    """Return a name in composed characters: some systems take those of files apart."""
    return unicodedata.normalize("NFC", name)


def read_description(root: Path) -> Description:
    """Read a folder's dataset.toml; where there is none, nothing is said.

    Raises:
        DatasetError: It is not TOML, or a value is of the wrong kind.
        UnknownNameError: It has a key that means nothing.
    """
    path = root / FILE_NAME
    # By name, as type checkers of one Python version know only one of the two.
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        table: dict[str, Any] = toml.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return Description()
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{str(path)!r} cannot be read as TOML: {error}",
            help='mend it; it may hold stems = ["voice", "piano"], valid, test and [aliases].',
        ) from error
    for key in table:
        if key not in _KEYS:
            raise UnknownNameError("key", key, _KEYS, more=f"It stands in {str(path)!r}.")
    aliases = table.get("aliases", {})
    if not isinstance(aliases, dict):
        raise _refuse(path, "aliases", aliases, 'write a table: [aliases], then voice = ["lead"].')
    return Description(
        stems=_read_folded(path, table, "stems"),
        valid=_read_names(path, table, "valid"),
        test=_read_names(path, table, "test"),
        aliases={fold(stem): _read_folded(path, aliases, stem) or () for stem in aliases},
    )


def _read_names(path: Path, table: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    value = table.get(key)
    if value is None:
        return None
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _refuse(path, key, value, f'write a list of names: {key} = ["A", "B"].')
    return tuple(dict.fromkeys(normal(name) for name in names))


def _read_folded(path: Path, table: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    names = _read_names(path, table, key)
    return None if names is None else tuple(dict.fromkeys(fold(name) for name in names))


def _refuse(path: Path, key: str, value: object, help: str) -> DatasetError:
    return DatasetError(f"{key} = {value!r} in {str(path)!r} is not possible", help=help)
