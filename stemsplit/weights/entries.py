"""From the tables of a registry file to `ModelEntry` objects, refusing whatever is not right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stemsplit.errors import RegistryError, UsageError, nearest
from stemsplit.models.catalogue import ARCHITECTURES
from stemsplit.weights.entry import (
    CHECKSUM_DIGITS,
    FORMATS,
    METRICS,
    Member,
    ModelEntry,
    Score,
    WeightFile,
)
from stemsplit.weights.sources import HttpSource, LocalSource, Source, is_inner_path, parse_source
from stemsplit.weights.tables import Table

MODEL_KEYS = (
    "description", "architecture", "config", "stems", "residual", "sample_rate", "channels",
    "chunk", "files", "members", "licence", "source_page", "paper", "verified", "scores",
)  # fmt: skip
FILE_KEYS = (
    "source", "format", "name", "sha256", "checksum", "size", "member", "stem", "keymap",
)  # fmt: skip
CHUNK_KINDS: dict[str, tuple[type, ...]] = {
    "samples": (int,),
    "overlap": (int, float),
    "edge_samples": (int,),
    "multiple_of": (int,),
    "remainder": (int,),
    "fixed": (bool,),
}
"""The fields of `stemsplit.models.base.ChunkPlan`, which cannot be imported without torch."""

_MODEL_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")
_FILE_NAME = re.compile(r"[^\\/:*?\"<>|\x00-\x1f]+")


def parse_registry(path: Path, values: Mapping[str, Any]) -> tuple[dict[str, ModelEntry], str]:
    """Return the models of one file, and the default that it names ("" for none).

    Args:
        path: The file: errors name it, and relative local paths start from its folder.
        values: What it holds.

    Raises:
        RegistryError: An unknown key, a wrong type or a wrong value.
    """
    top = Table(path, "", values, ("default", "models"))
    default = top.optional_text("default") or ""
    entries = {}
    for name, model in top.mapping("models").items():
        table = top.table(f"models.{name}", model, MODEL_KEYS)
        if not _MODEL_NAME.fullmatch(name):
            table.refuse(
                "",
                f"has {name!r} for a name",
                "a model's name is made of a-z, 0-9, dots, dashes and underscores.",
            )
        entries[name] = _parse_model(name, table)
    return entries, default


def check_registry(entries: Mapping[str, ModelEntry], default: str, paths: Sequence[Path]) -> None:
    """Check what only shows when all files have been read: the default and the ensembles.

    Args:
        entries: All models.
        default: The name of the default model.
        paths: The files that were read.

    Raises:
        RegistryError: A name that no model has, or members that do not fit their ensemble.
    """
    where = ", ".join(str(path) for path in paths)
    if default not in entries:
        raise _unknown_model(f"{where}: default names the model {default!r}", default, entries)
    for entry in entries.values():
        for member in entry.members:
            lead = f"{where}: [models.{entry.name}] members: {member.model!r}"
            part = entries.get(member.model)
            if part is None:
                raise _unknown_model(lead, member.model, entries)
            reason = _find_misfit(entry, part, member)
            if reason:
                raise RegistryError(f"{lead} {reason}", help="leave it out or mend the table.")


def _find_misfit(entry: ModelEntry, part: ModelEntry, member: Member) -> str | None:
    if part.is_ensemble:
        return "is an ensemble itself"
    if (part.sample_rate, part.channels) != (entry.sample_rate, entry.channels):
        return (
            f"has {part.sample_rate} Hz and {part.channels} channels, "
            f"the ensemble {entry.sample_rate} Hz and {entry.channels}"
        )
    missing = sorted(set(member.weights) - set(part.stems))
    return f"has no stem {missing[0]!r}" if missing else None


def _unknown_model(lead: str, name: str, entries: Mapping[str, ModelEntry]) -> RegistryError:
    near = ", ".join(nearest(name, entries) or entries)
    return RegistryError(f"{lead}, which no file has", help=f"known models near it: {near}.")


def _parse_model(name: str, table: Table) -> ModelEntry:
    stems = table.texts("stems")
    residual = table.optional_text("residual")
    for key, stem in (*(("stems", stem) for stem in stems), ("residual", residual)):
        if stem is not None and not _FILE_NAME.fullmatch(stem):
            table.refuse(key, f"holds {stem!r}", "a stem's name becomes a file's name.")
    if residual in stems:
        table.refuse("residual", f"is {residual!r}, one of the stems", "name what they leave.")
    entry = ModelEntry(
        name=name,
        description=table.text("description"),
        architecture=table.optional_text("architecture"),
        config=table.mapping("config"),
        stems=stems,
        residual=residual,
        sample_rate=table.integer("sample_rate", 44100),
        channels=table.integer("channels", 2),
        chunk=_parse_chunk(table),
        files=tuple(_parse_file(row, stems) for row in table.tables("files", FILE_KEYS)),
        members=tuple(
            _parse_member(row, stems) for row in table.tables("members", ("model", "weights"))
        ),
        licence=table.text("licence", "not stated"),
        source_page=table.text("source_page", "not stated"),
        paper=table.optional_text("paper"),
        verified=table.optional_text("verified"),
        scores=tuple(
            _parse_score(row, stems)
            for row in table.tables("scores", ("dataset", "metric", "values", "source"))
        ),
    )
    _check_shape(entry, table)
    return entry


def _check_shape(entry: ModelEntry, table: Table) -> None:
    """Refuse a table that is neither a model nor an ensemble, or whose files collide."""
    if entry.is_ensemble:
        for key in ("architecture", "config", "chunk", "files"):
            if key in table.values:
                table.refuse(key, "does not go with members", "an ensemble has members alone.")
        for stem in entry.stems:
            if not any(member.weights.get(stem, 0) > 0 for member in entry.members):
                table.refuse("members", f"leave {stem!r} without a weight", "give one above 0.")
        return
    if entry.architecture is None:
        table.refuse("architecture", "is missing", f"one of {', '.join(ARCHITECTURES)}.")
    _check_choice(table, "architecture", entry.architecture, tuple(ARCHITECTURES))
    if all(file.format == "companion" for file in entry.files):
        table.refuse("files", "are missing", f"add [[{table.where}.files]] with source and format.")
    names = [file.name.casefold() for file in entry.files]
    for row, name in enumerate(names):
        if name in names[:row]:
            table.refuse(
                f"files[{row}]",
                f"is the second one called {name!r}",
                'give it another name in the cache: name = "...".',
            )


def _parse_file(table: Table, stems: tuple[str, ...]) -> WeightFile:
    sources = _parse_sources(table)
    member = table.optional_text("member")
    if member is not None and not is_inner_path(member):
        table.refuse("member", f"is {member!r}", "it is a path inside the archive, without '..'.")
    name = table.text("name", member.rpartition("/")[2] if member else sources[0].name)
    if not _FILE_NAME.fullmatch(name) or name.strip(". ") != name:
        table.refuse("name", f"is {name!r}", "it has to be the plain name of a file.")
    format = table.text("format")
    _check_choice(table, "format", format, FORMATS)
    stem = table.optional_text("stem")
    if stem is not None:
        _check_choice(table, "stem", stem, stems)
    sha256 = _parse_sha256(table)
    if sha256 is None and any(isinstance(s, HttpSource) and not s.is_secure for s in sources):
        table.refuse(
            "source",
            "goes over http, which anyone on the way can change",
            "use https, or give the file's full sha256.",
        )
    return WeightFile(
        source=tuple(str(source) for source in sources),
        format=format,
        name=name,
        sha256=sha256,
        checksum=_parse_checksum(table),
        size=table.optional_integer("size"),
        member=member,
        stem=stem,
        keymap=table.optional_text("keymap"),
    )


def _parse_sources(table: Table) -> list[Source]:
    is_one = isinstance(table.values.get("source"), str)
    texts = (table.text("source"),) if is_one else table.texts("source")
    base = table.path.absolute().parent
    try:
        sources = [parse_source(text, base) for text in texts]
    except UsageError as error:
        table.refuse("source", f"is wrong: {error.message}", error.help)
    for source in sources:
        if isinstance(source, LocalSource) and not source.name:
            table.refuse("source", f"is {source}, which names no file", "name one.")
    return sources


def _parse_sha256(table: Table) -> str | None:
    value = table.optional_text("sha256")
    if value is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        table.refuse(
            "sha256",
            f"is {value!r}, which has not 64 hexadecimal digits",
            'give all 64; a hash known in part is checksum = "sha256-prefix:...".',
        )
    return None if value is None else value.lower()


def _parse_checksum(table: Table) -> str | None:
    value = table.optional_text("checksum")
    if value is None:
        return None
    kind, _, digits = value.lower().partition(":")
    least, most = CHECKSUM_DIGITS.get(kind, (1, 0))
    if not re.fullmatch(rf"[0-9a-f]{{{least},{max(least, most)}}}", digits) or most == 0:
        kinds = ", ".join(
            f"{name}: and {low}{'' if low == high else f' to {high}'} digits"
            for name, (low, high) in CHECKSUM_DIGITS.items()
        )
        table.refuse("checksum", f"is {value!r}", f"write {kinds}.")
    return f"{kind}:{digits}"


def _parse_member(table: Table, stems: tuple[str, ...]) -> Member:
    weights = table.numbers("weights")
    for stem, weight in weights.items():
        _check_choice(table, "weights", stem, stems)
        if weight < 0:
            table.refuse(f"weights.{stem}", f"is {weight:g}", "a weight is 0 or more.")
    return Member(table.text("model"), weights)


def _parse_score(table: Table, stems: tuple[str, ...]) -> Score:
    values = table.numbers("values")
    for stem in values:
        _check_choice(table, "values", stem, (*stems, "average"))
    metric = table.text("metric")
    _check_choice(table, "metric", metric, METRICS)
    return Score(table.text("dataset"), metric, values, table.text("source"))


def _parse_chunk(table: Table) -> dict[str, object]:
    chunk = table.mapping("chunk")
    inner = table.table("chunk", chunk, CHUNK_KINDS)
    for key, value in chunk.items():
        is_wrong_bool = isinstance(value, bool) and bool not in CHUNK_KINDS[key]
        if is_wrong_bool or not isinstance(value, CHUNK_KINDS[key]):
            wanted = " or ".join(kind.__name__ for kind in CHUNK_KINDS[key])
            inner.refuse(key, f"is {value!r}", f"it has to be of type {wanted}.")
        if not isinstance(value, bool) and float(str(value)) < 0:
            inner.refuse(key, f"is {value!r}", "it has to be 0 or more.")
    return chunk


def _check_choice(table: Table, key: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        near = nearest(value, known, 1)
        lead = f"did you mean {near[0]!r}? " if near else ""
        table.refuse(key, f"is {value!r}", f"{lead}known: {', '.join(known)}.")
