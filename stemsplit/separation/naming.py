"""Songs -> jobs: where every output goes, under a name that any file system takes."""

from __future__ import annotations

import os
import re
import string
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stemsplit.errors import AudioError, UnknownNameError, UsageError
from stemsplit.separation.manifest import (
    MANIFEST_NAME,
    PARTIAL_SUFFIX,
    Manifest,
    hash_file,
    read_manifest,
)
from stemsplit.separation.sources import Source, find_sources, refuse_overwriting

if TYPE_CHECKING:
    from stemsplit.separation.files import FileOptions

TAG_FIELDS = {"artist": "Unknown artist", "album": "Unknown album", "title": ""}
FIELDS = ("track", "stem", "ext", "model", *TAG_FIELDS)
STEM_MP4_SUFFIX = ".stem.mp4"
MAX_NAME_BYTES = 255 - len(PARTIAL_SUFFIX)

_OF_THE_SONG = frozenset({"track", "title"})
_CUTTABLE = ("track", "title", "artist", "album", "model")
_REFUSED = re.compile(r'[<>:"/\\|?*]')
_RESERVED = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\.|$)", re.IGNORECASE
)

Part = tuple[str, str | None]
"""A piece of a template: literal text, and the field that follows it, if one does."""


@dataclass(frozen=True)
class Job:
    """One song and the files it is to become.

    Attributes:
        source: What to read.
        track: What the song is called, in outputs and on the screen; unique within its folder.
        model: Name of the model.
        outputs: Stem -> file.
        manifest: Where the proof goes.
        stem_mp4: Where the file with all stems goes; None when it was not asked for.
        out_dir: Below which everything is.
    """

    source: Source
    track: str
    model: str
    outputs: Mapping[str, Path]
    manifest: Path
    stem_mp4: Path | None
    out_dir: Path

    @property
    def paths(self) -> list[Path]:
        """All files that the job writes, the manifest last."""
        more = [] if self.stem_mp4 is None else [self.stem_mp4]
        return [*self.outputs.values(), *more, self.manifest]

    @property
    def places(self) -> set[str]:
        """The same; two paths that some file system holds for one are one."""
        return {_fold(path) for path in self.paths}


def plan_jobs(
    inputs: Iterable[str | os.PathLike[str] | Source],
    *,
    stems: Sequence[str],
    model: str,
    options: FileOptions,
) -> list[Job]:
    """Decide what is written where, before anything is.

    No two jobs share a file, also where case does not count. Of songs with the same name the second
    is called "song (2)"; a song whose stems are there already keeps the name they have, so that
    neither a rerun nor a growing folder moves or overwrites anything.

    Args:
        inputs: Files, folders, patterns; see `find_sources`.
        stems: What the separator will give, derived stems included.
        model: Its model's name, for {model}.
        options: Folder, template and format.

    Raises:
        UnknownNameError: The template has a field that does not exist.
        UsageError: A template that leaves the folder or cannot tell the outputs apart, an output
            that would overwrite an input, an input that is not there.
    """
    template = Template(options.filename, options.format.suffix, stems)
    jobs: list[Job] = []
    taken: set[str] = set()
    for source in find_sources(inputs):
        for job in _name_variants(source, template, model, options):
            keys = job.places
            if taken.isdisjoint(keys) and is_free(job, read_manifest(job.manifest)):
                break
        if len(keys) < len(job.paths):
            raise UsageError(
                f"the template {options.filename!r} gives two outputs of {job.track!r} one name",
                help="put {stem} into it, as in '{track}/{stem}.{ext}'.",
            )
        taken |= keys
        jobs.append(job)
    refuse_overwriting((job.source for job in jobs), (path for job in jobs for path in job.paths))
    return jobs


def _name_variants(
    source: Source, template: Template, model: str, options: FileOptions
) -> Iterator[Job]:
    """Yield the job under "song", "song (2)", "song (3)" ...

    Raises:
        UsageError: The template does not hold what tells two songs apart.
    """
    values = {"track": source.track, "model": model, **_read_tags(source, template.fields)}
    number, first = 1, None
    while True:
        mark = f" ({number})" if number > 1 else ""
        job = template.fill(source, values, mark, options)
        if first is None:
            first = job
        elif job.outputs == first.outputs:
            raise UsageError(
                f"the template {options.filename!r} gives two songs the same name: "
                f"{str(next(iter(job.outputs.values())))!r}",
                help="put {track} into it, as in '{artist}/{track}/{stem}.{ext}'.",
            )
        yield job
        number += 1


def is_free(job: Job, manifest: Manifest | None) -> bool:
    """Say whether the place is empty or holds this song's own stems, perhaps out of date.

    Args:
        job: What would be written.
        manifest: What is there; None for nothing.
    """
    if manifest is None:
        return True
    theirs, source = manifest.source, job.source
    if theirs.path is not None and theirs.path == source.place:
        return True
    try:
        same_size = source.path.stat().st_size == theirs.bytes
        return same_size and hash_file(source.path) == theirs.sha256
    except OSError:
        return False


def _read_tags(source: Source, fields: frozenset[str]) -> dict[str, str]:
    """Return the values of the tag fields, reading the file only when the template has one."""
    if fields.isdisjoint(TAG_FIELDS):
        return {}
    from stemsplit.audio import probe

    try:
        tags = {key.lower(): value for key, value in probe(source.path).tags.items()}
    except AudioError:
        tags = {}  # The file cannot be read; its job will say so in its turn.
    blank = {**TAG_FIELDS, "title": source.track}
    return {name: tags.get(name, "").strip() or blank[name] for name in TAG_FIELDS}


class Template:
    """A pattern of file names, checked: "{track}/{stem}.{ext}".

    Attributes:
        fields: The fields in it.
    """

    def __init__(self, text: str, suffix: str, stems: Sequence[str]) -> None:
        """Parse a template.

        Args:
            text: As typed; "/" (or a backslash) between folders.
            suffix: Of the output format, with its dot; added where the template has no {ext}.
            stems: The outputs that it must tell apart.

        Raises:
            UnknownNameError: A field that does not exist.
            UsageError: Not a template, or one that leaves the output folder, or without {stem}.
        """
        parts = _parse(text)
        self.fields = frozenset(field for _, field in parts if field)
        self._stems = tuple(stems)
        self._suffix = suffix
        self._components = _split(parts)
        _check_components(text, self._components)
        if "ext" not in self.fields and not text.endswith(suffix):
            self._components[-1].append((".", "ext"))
        if "stem" not in self.fields and len(self._stems) > 1:
            raise UsageError(
                f"the template {text!r} gives all {len(self._stems)} stems the same name",
                help="put {stem} into it, as in '{track}/{stem}.{ext}'.",
            )

    def fill(
        self, source: Source, values: Mapping[str, str], mark: str, options: FileOptions
    ) -> Job:
        """Name the outputs of one song.

        Args:
            source: The song.
            values: Of the fields "track" and "model", and of the tags in the template.
            mark: Added to the song's name: "", " (2)" ...
            options: The folder, and whether there is a file with all stems.
        """
        root = options.out_dir.joinpath(*(safe_name(part) for part in source.folder.parts))
        values = {**values, "ext": self._suffix.lstrip(".")}
        outputs = {}
        for stem in self._stems:
            named = {**values, "stem": stem}
            outputs[stem] = root.joinpath(*(_fill(c, named, mark) for c in self._components))
        folder, is_own = self._find_folder(root, values, mark)
        track: list[Part] = [("", "track")]
        beside = _fill([*track, ("." + MANIFEST_NAME, None)], values, mark)
        mp4 = folder / _fill([*track, (STEM_MP4_SUFFIX, None)], values, mark)
        return Job(
            source=source,
            track=_fill(track, values, mark),
            model=values["model"],
            outputs=outputs,
            manifest=folder / (MANIFEST_NAME if is_own else beside),
            stem_mp4=mp4 if options.stem_mp4 else None,
            out_dir=options.out_dir,
        )

    def _find_folder(self, root: Path, values: Mapping[str, str], mark: str) -> tuple[Path, bool]:
        """Return the deepest folder that all stems of a song share, and whether it is its own."""
        is_own = False
        for component in self._components[:-1]:
            fields = {field for _, field in component}
            if "stem" in fields:
                break
            root /= _fill(component, values, mark)
            is_own = is_own or not _OF_THE_SONG.isdisjoint(fields)
        return root, is_own


def _parse(text: str) -> list[Part]:
    parts: list[Part] = []
    try:
        for literal, field, spec, conversion in string.Formatter().parse(text):
            if field is not None and field not in FIELDS:
                raise UnknownNameError("template field", field, FIELDS)
            if spec or conversion:
                raise ValueError(f"nothing but a name may stand in {{{field}}}")
            parts.append((literal, field))
    except ValueError as error:
        raise UsageError(
            f"{text!r} is not a template: {error}",
            help="write it like '{track}/{stem}.{ext}'; a brace itself is doubled: '{{'.",
        ) from None
    return parts


def _split(parts: Sequence[Part]) -> list[list[Part]]:
    """Cut a template into the components of a path."""
    components: list[list[Part]] = [[]]
    for literal, field in parts:
        *folders, rest = re.split(r"[/\\]", literal)
        for folder in folders:
            components[-1].append((folder, None))
            components.append([])
        components[-1].append((rest, field))
    return components


def _check_components(text: str, components: Sequence[Sequence[Part]]) -> None:
    for component in components:
        literal = "".join(literal for literal, _ in component)
        if any(field for _, field in component):
            continue
        if literal in ("", ".", "..") or literal.startswith("~") or re.match(r"[A-Za-z]:", literal):
            raise UsageError(
                f"the template {text!r} does not name a file inside the output folder",
                help="write a relative one, like '{track}/{stem}.{ext}'; -o says where it begins.",
            )


def _fill(component: Sequence[Part], values: Mapping[str, str], mark: str) -> str:
    """Make one component's name, cutting the long values so that the whole of it fits.

    Raises:
        UsageError: It is too long even so.
    """
    chosen = {field: _flatten(values[field]).strip() or "_" for _, field in component if field}

    def join() -> str:
        pieces = []
        for literal, field in component:
            marked = mark if field in _OF_THE_SONG else ""
            pieces.append(literal + (chosen[field] + marked if field else ""))
        return _tidy("".join(pieces))

    while (excess := _count_bytes(name := join()) - MAX_NAME_BYTES) > 0:
        long = max(_CUTTABLE, key=lambda field: _count_bytes(chosen.get(field, "")))
        if _count_bytes(chosen.get(long, "")) <= 1:
            raise UsageError(
                f"the template makes the name {name[:40]!r}... of {_count_bytes(name)} bytes",
                help=f"shorten it to {MAX_NAME_BYTES}.",
            )
        chosen[long] = _cut(chosen[long], max(1, _count_bytes(chosen[long]) - excess))
    return name


def safe_name(text: str) -> str:
    """Turn any text into one name that Linux, macOS and Windows all take.

    What Windows refuses, control characters and what is not UTF-8 become "_"; so does a leading
    dot, which would hide the file. Dots and spaces at the end go, a reserved name gets a leading
    "_", and what is too long is cut at the end, between characters. Letters are composed (NFC).
    """
    return _cut(_tidy(text), MAX_NAME_BYTES).rstrip(" .")


def _tidy(text: str) -> str:
    """Do all that `safe_name` does but cut."""
    name = _flatten(text).strip(" ").rstrip(" .")
    if name.startswith(".") or _RESERVED.match(name):
        name = "_" + name.removeprefix(".")
    return name or "_"


def _flatten(text: str) -> str:
    """Replace the characters that no file name may have."""
    text = unicodedata.normalize("NFC", text)
    text = "".join("_" if _is_control(char) else char for char in text)
    return _REFUSED.sub("_", text)


def _is_control(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")


def _cut(text: str, max_bytes: int) -> str:
    return text.encode("utf-8")[:max_bytes].decode("utf-8", "ignore")


def _count_bytes(text: str) -> int:
    return len(text.encode("utf-8"))


def _fold(path: Path) -> str:
    """Name a path so that two that some file system holds for the same are the same."""
    return unicodedata.normalize("NFC", os.path.normpath(path).casefold())
