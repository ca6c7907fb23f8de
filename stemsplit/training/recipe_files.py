"""Recipe files: the shipped ones and a person's own; `extends`, tables per stem, `--set`.

A file holds the sections of `RecipeConfig`, and besides them:

    extends = "umxhq"            begin with that recipe
    [stem.bass.model.config]     another value, where this one stem is learned
"""

from __future__ import annotations

import copy
import importlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stemsplit.errors import UnknownNameError, UsageError
from stemsplit.training.recipe import RecipeConfig, build_recipe, list_keys, to_table
from stemsplit.weights.disk import write_text

RECIPES = Path(__file__).with_name("recipes")

_tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")


def list_recipes() -> dict[str, str]:
    """Return the shipped recipes, by name, with a line on each."""
    names = sorted(path.stem for path in RECIPES.glob("*.toml"))
    return {name: load_recipe(name).description for name in names}


def load_recipe(
    source: str | Path, stems: Sequence[str] = (), settings: Iterable[str] = ()
) -> RecipeConfig:
    """Read a recipe.

    Args:
        source: The name of a shipped one, or the path of a file.
        stems: What is to be learned; none for what the recipe says.
        settings: "optimiser.lr=3e-4": values to override, the last one wins.

    Raises:
        UnknownNameError: There is no such recipe, section or key.
        UsageError: A file that cannot be read, or a value that is not possible.
    """
    path = source if isinstance(source, Path) else _find_shipped(source)
    values = _read(path, ())
    per_stem = values.pop("stem", {})
    _check_stem_tables(per_stem)
    if stems:
        _merge(values, {"model": {"stems": list(stems)}})
    learned = values.get("model", {}).get("stems", [])
    if len(learned) == 1 and learned[0] in per_stem:
        _merge(values, per_stem[learned[0]])
    for setting in settings:
        _override(values, setting)
    try:
        return build_recipe(values)
    except UsageError as error:
        if isinstance(error, UnknownNameError):
            raise
        raise UsageError(f"recipe {path.stem}: {error.message}", help=error.help) from error


def list_stem_tables(source: str | Path) -> tuple[str, ...]:
    """Return the stems for which a recipe has values of their own.

    Raises:
        UnknownNameError: There is no such recipe.
        UsageError: A file that cannot be read.
    """
    path = source if isinstance(source, Path) else _find_shipped(source)
    return tuple(_read(path, ()).get("stem", {}))


def write_recipe(recipe: RecipeConfig, path: Path) -> None:
    """Write a recipe with all of its values, such that it can be read again.

    Raises:
        OutputError: The place cannot be written to.
    """
    write_text(path, "\n".join(write_table("", to_table(recipe))) + "\n")


def _find_shipped(name: str) -> Path:
    path = RECIPES / f"{name}.toml"
    if not path.is_file() or path.parent != RECIPES:
        known = [one.stem for one in RECIPES.glob("*.toml")]
        more = "`stemsplit train --list` shows all; --recipe FILE reads one of your own."
        raise UnknownNameError("recipe", name, known, more=more)
    return path


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """Read a file on top of what it extends."""
    if path in seen:
        raise UsageError(f"{path} extends itself, over {len(seen)} files", help="break the circle.")
    try:
        values: dict[str, Any] = _tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror or error}", help="check the path."
        ) from error
    except ValueError as error:
        raise UsageError(f"{path} is not TOML: {error}", help="mend that line.") from error
    parent = values.pop("extends", None)
    if parent is None:
        return values
    beside = path.parent / f"{parent}.toml"
    base = _read(beside if beside.is_file() else _find_shipped(parent), (*seen, path))
    _merge(base, values)
    return base


def _merge(base: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Put values over others, table by table. Another architecture's settings do not stay."""
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            if "architecture" in value and value["architecture"] != base[key].get("architecture"):
                base[key].pop("config", None)
            _merge(base[key], value)
        else:
            base[key] = copy.deepcopy(value)


def _check_stem_tables(per_stem: Any) -> None:
    """Refuse keys that no recipe has, whichever stems are learned now."""
    if not isinstance(per_stem, Mapping):
        raise UsageError(f"stem is {per_stem!r}", help="write a table: [stem.bass.optimiser]")
    for stem, values in per_stem.items():
        if not isinstance(values, Mapping):
            raise UsageError(
                f"stem.{stem} is {values!r}", help=f"write a table: [stem.{stem}.optimiser]"
            )
        for dotted in _list_dotted(values):
            if dotted not in list_keys():
                known = [f"stem.{stem}.{key}" for key in list_keys()]
                raise UnknownNameError("recipe key", f"stem.{stem}.{dotted}", known)


def _list_dotted(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table's keys with their sections; what is below those is the network's."""
    for section, inner in values.items():
        if isinstance(inner, Mapping):
            yield from (f"{section}.{key}" for key in inner)
        else:
            yield section


def _override(values: dict[str, Any], setting: str) -> None:
    name, equals, text = setting.partition("=")
    keys = [key.strip() for key in name.split(".")]
    if not equals or not all(keys):
        raise UsageError(
            f"--set {setting!r} is not a setting", help="write --set section.key=value."
        )
    dotted = ".".join(keys)
    is_config = keys[:2] == ["model", "config"] and len(keys) > 2
    if not is_config and dotted not in list_keys():
        raise UnknownNameError("recipe key", dotted, list_keys())
    inner = values
    for key in keys[:-1]:
        inner = inner.setdefault(key, {})
    inner[keys[-1]] = parse_value(text.strip())


def parse_value(text: str) -> Any:
    """Read a value as TOML writes it; what is none is a text.

    A list of bare words needs no quotation marks: `--set model.stems=[vocals, drums]`.
    """
    for form in (text, _quote_items(text)):
        try:
            return _tomllib.loads(f"value = {form}")["value"]
        except ValueError:
            continue
    return text


def _quote_items(text: str) -> str:
    if not (text.startswith("[") and text.endswith("]")):
        return json.dumps(text)
    items = [item.strip() for item in text[1:-1].split(",") if item.strip()]
    return json.dumps(items)


def write_table(where: str, values: Mapping[str, Any]) -> list[str]:
    """Return a table as the lines of a TOML file, its inner tables behind it.

    Args:
        where: The table's name; "" for the file itself.
        values: Texts, numbers, lists and tables.
    """
    tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    plain = [
        f"{_quote(key)} = {_write_value(value)}"
        for key, value in values.items()
        if key not in tables
    ]
    lines = ["", f"[{where}]", *plain] if where and (plain or not tables) else plain
    for key, value in tables.items():
        lines += write_table(f"{where}.{_quote(key)}" if where else _quote(key), value)
    return lines


def _quote(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)


def _write_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for a lone DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_write_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_quote(key)} = {_write_value(item)}" for key, item in value.items())
        return "{ " + inner + " }"
    return repr(value)
