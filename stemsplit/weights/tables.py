"""TOML read strictly: every key is known, every value has its type, every error says where."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from stemsplit.errors import RegistryError, nearest


class Table:
    """One table of a registry file.

    Attributes:
        path: The file.
        where: The table's name as the file spells it: "models.umx.files[1]".
        values: What it holds.
    """

    def __init__(
        self, path: Path, where: str, values: Mapping[str, Any], known: Iterable[str]
    ) -> None:
        """Refuse keys that are not known.

        Raises:
            RegistryError: There is such a key; the nearest known one is named.
        """
        self.path = path
        self.where = where
        self.values = values
        known = tuple(known)
        for key in values:
            if key not in known:
                near = nearest(key, known, 1)
                lead = f"did you mean {near[0]!r}? " if near else ""
                self.refuse(key, "is not a known key", f"{lead}known keys: {', '.join(known)}.")

    def refuse(self, key: str, reason: str, help: str) -> NoReturn:
        """Raise a RegistryError that names the file, this table and the key.

        Args:
            key: Which key of this table; "" for the table as a whole.
            reason: What is wrong with it, with the value seen.
            help: What to do.
        """
        table = f"[{self.where}] " if self.where else ""
        raise RegistryError(f"{self.path}: {table}{f'{key} ' if key else ''}{reason}", help=help)

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string that is not blank; required where there is no default."""
        value = self._get(key, default)
        if not isinstance(value, str) or not value.strip():
            self._refuse_type(key, value, "a text that is not empty")
        return value

    def optional_text(self, key: str) -> str | None:
        """Return a string, or None where the key is absent."""
        return self.text(key) if key in self.values else None

    def integer(self, key: str, default: int) -> int:
        """Return a whole number of at least 1."""
        value = self._get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            self._refuse_type(key, value, "a whole number, 1 or more")
        return value

    def optional_integer(self, key: str) -> int | None:
        """Return a whole number of at least 1, or None where the key is absent."""
        return self.integer(key, 1) if key in self.values else None

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of different strings, one at the least; required."""
        value = self._get(key, None)
        is_list = isinstance(value, list) and bool(value)
        if not is_list or not all(isinstance(item, str) and item.strip() for item in value):
            self._refuse_type(key, value, "a list of texts, one at the least")
        if len(set(value)) < len(value):
            self._refuse_type(key, value, "a list without repetitions")
        return tuple(value)

    def numbers(self, key: str) -> dict[str, float]:
        """Return a table of finite numbers, one at the least; required."""
        value = self._get(key, None)
        if not isinstance(value, dict) or not value:
            self._refuse_type(key, value, "a table of numbers, one at the least")
        for name, item in value.items():
            is_number = isinstance(item, (int, float)) and not isinstance(item, bool)
            if not is_number or not -1e9 < item < 1e9:
                self._refuse_type(f"{key}.{name}", item, "a number")
        return {name: float(item) for name, item in value.items()}

    def mapping(self, key: str) -> dict[str, object]:
        """Return a table as it stands; empty where the key is absent."""
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            self._refuse_type(key, value, "a table")
        return dict(value)

    def table(self, key: str, values: object, known: Iterable[str]) -> Table:
        """Return a value as a table inside this one."""
        if not isinstance(values, dict):
            self._refuse_type(key, values, "a table")
        return Table(self.path, f"{self.where}.{key}".lstrip("."), values, known)

    def tables(self, key: str, known: Sequence[str]) -> list[Table]:
        """Return an array of tables; empty where the key is absent."""
        value = self.values.get(key, [])
        if not isinstance(value, list):
            self._refuse_type(key, value, "an array of tables ([[...]])")
        return [self.table(f"{key}[{row}]", item, known) for row, item in enumerate(value)]

    def _get(self, key: str, default: object) -> Any:
        value = self.values.get(key, default)
        if value is None:
            self.refuse(key, "is missing", f"add {key} = ... to the table.")
        return value

    def _refuse_type(self, key: str, value: object, wanted: str) -> NoReturn:
        self.refuse(key, f"is {value!r}", f"it has to be {wanted}.")


def read_toml(path: Path) -> dict[str, Any]:
    """Return a TOML file as a dictionary.

    Raises:
        RegistryError: It cannot be read, or it is not TOML.
    """
    # By name, as type checkers of one Python version know only one of the two.
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        values: dict[str, Any] = toml.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise RegistryError(
            f"{path} cannot be read: {error.strerror or error}",
            help="check $STEMSPLIT_REGISTRY and --registry; each names a TOML file.",
        ) from error
    except ValueError as error:
        raise RegistryError(
            f"{path} is not TOML: {error}",
            help="mend the file; stemsplit's own models.toml shows how a registry is written.",
        ) from error
    return values
