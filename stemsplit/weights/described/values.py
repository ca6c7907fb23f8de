"""Description files read strictly: every value has its type, every error says which file and key.

They come with weights from anywhere. Nothing in them is run or imported, and no message repeats
more of them than a few words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from stemsplit.errors import CheckpointError

T = TypeVar("T")

LARGEST = 1_000_000
"""Bytes of a description file; the originals' have a few thousand."""

_HELP = "mend it, or describe the model in a models.toml: docs/adding-weights.md."
_MISSING = object()
# How omegaconf writes that a value is that of another key: dots in front go up, as in a path.
_REFERENCE = re.compile(r"\$\{(\.*)([\w.]+)\}")
_MOST_REFERENCES = 8
_DEEPEST = 32
# What PyYAML's constructors come to on "!!bool x", "!!timestamp x", "!!int ''" and their like.
_WRONG_SCALARS = (ValueError, LookupError, AttributeError, TypeError, ArithmeticError)


class Values:
    """One mapping of a description.

    Attributes:
        path: The file.
        where: The mapping's place in it, as keys joined by dots.
        chain: The mappings around it, from the outermost; it is the last.
    """

    def __init__(self, path: Path, where: str, *chain: Mapping[Any, Any]) -> None:
        self.path = path
        self.where = where
        self.chain = chain

    def refuse(self, key: str, reason: str) -> NoReturn:
        """Raise a CheckpointError that names the file and the key.

        Args:
            key: Which key of this mapping.
            reason: What is wrong with it, with the value seen.
        """
        place = f"{self.where}.{key}" if self.where else key
        raise CheckpointError(f"{self.path}: {place} {reason}", help=_HELP)

    def __contains__(self, key: str) -> bool:
        """Whether there is such a key."""
        return key in self.chain[-1]

    def get(self, key: str, default: object = _MISSING) -> object:
        """Return a value as it stands; required where there is no default."""
        value = self.chain[-1].get(key, default)
        if value is _MISSING:
            self.refuse(key, "is missing")
        chain: Sequence[Mapping[Any, Any]] = self.chain
        followed = 0
        while isinstance(value, str) and (reference := _REFERENCE.fullmatch(value)):
            followed += 1
            if followed > _MOST_REFERENCES:
                self.refuse(key, "refers to itself")
            chain, value = self._follow(key, chain, *reference.groups())
        return value

    def _follow(
        self, key: str, chain: Sequence[Mapping[Any, Any]], dots: str, names: str
    ) -> tuple[Sequence[Mapping[Any, Any]], object]:
        """Return the value that a reference means, and the mappings around that."""
        around = list(chain[: len(chain) - len(dots) + 1] if dots else chain[:1])
        *parents, last = names.split(".")
        for name in parents:
            inner = around[-1].get(name) if around else None
            if not isinstance(inner, Mapping):
                self.refuse(key, f"refers to {names!r:.60}, which is not there")
            around.append(inner)
        if not around or last not in around[-1]:
            self.refuse(key, f"refers to {names!r:.60}, which is not there")
        return around, around[-1][last]

    def section(self, key: str) -> Values:
        """Return a mapping inside this one; required."""
        value = self.get(key)
        if not isinstance(value, Mapping):
            self._refuse_type(key, value, "a mapping")
        place = f"{self.where}.{key}" if self.where else key
        return Values(self.path, place, *self.chain, value)

    def integer(self, key: str, most: int, *, least: int = 1, default: object = _MISSING) -> int:
        """Return a whole number within these limits."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self._refuse_type(key, value, f"a whole number from {least} to {most}")
        return value

    def number(self, key: str, most: float) -> float:
        """Return a number above 0 and up to `most`; required."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
            self._refuse_type(key, value, f"a number above 0, up to {most:g}")
        return float(value)

    def flag(self, key: str, default: object = _MISSING) -> bool:
        """Return a truth value."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            self._refuse_type(key, value, "true or false")
        return value

    def text(self, key: str) -> str:
        """Return a text that is not empty; required."""
        value = self.get(key)
        if not isinstance(value, str) or not value:
            self._refuse_type(key, value, "a text")
        return value

    def choice(self, key: str, known: Mapping[Any, T], default: object = _MISSING) -> T:
        """Return what one of the known values means here."""
        value = self.get(key, default)
        # 1 is not true here, nor 0 false.
        meanings = [
            meaning
            for spelled, meaning in known.items()
            if type(spelled) is type(value) and spelled == value
        ]
        if not meanings:
            self._refuse_type(key, value, " or ".join(_show(spelled) for spelled in known))
        return meanings[0]

    def expect(self, key: str, wanted: object, reason: str) -> None:
        """Refuse a value that is there and is another than `wanted`."""
        value = self.get(key, wanted)
        if type(value) is not type(wanted) or value != wanted:
            self.refuse(key, f"is {_show(value)}, {reason}")

    def pairs(self, key: str, most: int, count: int) -> tuple[tuple[int, int], ...]:
        """Return a list of pairs of whole numbers from 1 to `most`, `count` at the most."""
        value = self.get(key)
        if not isinstance(value, list) or not 1 <= len(value) <= count:
            self._refuse_type(key, value, f"a list of pairs, 1 to {count}")
        for row, pair in enumerate(value):
            if not isinstance(pair, list) or [type(item) for item in pair] != [int, int]:
                self._refuse_type(f"{key}[{row}]", pair, "two whole numbers")
            if not all(1 <= item <= most for item in pair):
                self._refuse_type(f"{key}[{row}]", pair, f"two numbers from 1 to {most}")
        return tuple((end, step) for end, step in value)

    def _refuse_type(self, key: str, value: object, wanted: str) -> NoReturn:
        self.refuse(key, f"is {_show(value)} and has to be {wanted}")


def _show(value: object) -> str:
    """Return a value in a few words: a description may hold anything, of any size."""
    if isinstance(value, (Mapping, list, tuple)):
        return f"a {'mapping' if isinstance(value, Mapping) else 'list'} of {len(value)}"
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "a very large number"
    return f"{value!r:.60}"


def read_json(path: Path) -> Values:
    """Return what a JSON file holds.

    Raises:
        CheckpointError: It cannot be read, or holds no JSON object.
    """
    text = _read_text(path)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "JSON", error) from error
    return _check_mapping(path, values)


def read_yaml(path: Path) -> Values:
    """Return what a YAML file of plain values holds.

    Raises:
        CheckpointError: It cannot be read, holds no mapping, or asks for Python's objects.
    """
    # Only here: what is described in YAML is rare.
    import yaml

    text = _read_text(path)
    try:
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            # A few aliases of aliases stand for more than a machine holds, and the time that
            # levels take grows with their square: the originals write none, and three.
            if isinstance(event, yaml.AliasEvent):
                raise CheckpointError(f"{path} has aliases (*name)", help=_HELP)
            if depth > _DEEPEST:
                raise CheckpointError(f"{path} has more than {_DEEPEST} levels", help=_HELP)
        values = yaml.safe_load(text)
    except (yaml.YAMLError, *_WRONG_SCALARS) as error:
        raise _damaged(path, "YAML of plain values", error) from error
    return _check_mapping(path, values)


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror or error}",
            help="check the path and its rights.",
        ) from error
    if len(raw) > LARGEST:
        raise CheckpointError(
            f"{path} has more than {LARGEST} bytes, which no description needs", help=_HELP
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _damaged(path, "text", error) from error


def _check_mapping(path: Path, values: object) -> Values:
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds {_show(values)} in place of a mapping", help=_HELP)
    return Values(path, "", values)


def _damaged(path: Path, kind: str, error: Exception) -> CheckpointError:
    told = " ".join(str(error).split())
    return CheckpointError(f"{path} is not {kind}: {told:.200}", help=_HELP)
