"""Tags: ffmpeg's text format for them (ffmetadata), read and written; which of them to keep."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_HEAD: Final = ";FFMETADATA1"
_SPECIAL: Final = re.compile(r"([=;#\\\n\r])")

# True of the source's own bytes and of nothing made from it.
_TECHNICAL: Final = frozenset(
    (
        "accurateripresult",
        "bps",
        "coverart",
        "creation_time",
        "compatible_brands",
        "duration",
        "encoded_by",
        "encoder",
        "encoder_options",
        "encoding",
        "encodersettings",
        "handler_name",
        "itunnorm",
        "itunpgap",
        "itunsmpb",
        "language",
        "length",
        "major_brand",
        "metadata_block_picture",
        "minor_version",
        "software",
        "tlen",
        "tsse",
        "vendor_id",
    )
)
_TECHNICAL_STARTS: Final = ("replaygain_", "r128_", "_statistics_", "number_of_", "accuraterip")


def parse_metadata(text: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Read an ffmetadata document.

    Args:
        text: As ffmpeg wrote it.

    Returns:
        The global tags, and those of each stream in order; keys in lower case, the first of equal
        ones wins, blank values are left out.
    """
    whole: dict[str, str] = {}
    streams: list[dict[str, str]] = []
    into: dict[str, str] | None = whole
    for line in _split_lines(text):
        if line == "[STREAM]":
            into = {}
            streams.append(into)
        elif line == "[CHAPTER]":
            into = None
        elif into is not None and not line.startswith(";"):
            key, value = _split_pair(line)
            if key and value.strip():
                into.setdefault(key.lower(), value)
    return whole, streams


def _split_lines(text: str) -> list[str]:
    """Split at line feeds that no backslash stands before; escapes stay."""
    return re.findall(r"(?:\\.|[^\\\n])+", text, flags=re.DOTALL)


def _split_pair(line: str) -> tuple[str, str]:
    found = re.match(r"((?:\\.|[^\\=])*)=(.*)\Z", line, flags=re.DOTALL)
    if found is None:
        return "", ""
    key, value = (re.sub(r"\\(.)", r"\1", part, flags=re.DOTALL) for part in found.groups())
    return key, value


def build_metadata(tags: Mapping[str, str]) -> str:
    """Return an ffmetadata document with these global tags."""
    lines = [f"{_escape(key)}={_escape(value)}" for key, value in tags.items()]
    return "\n".join([_HEAD, *lines, ""])


def _escape(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)


def keep_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that describe the music, sorted by key, fit to be written.

    Left out is what describes the source's encoding (encoder, gapless data, brands) or its loudness
    (ReplayGain): copied to a stem it would be wrong.

    Args:
        tags: By ffmpeg's names, in any case.
    """
    kept: dict[str, str] = {}
    for key, value in tags.items():
        name = key.strip().lower()
        clean = value.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
        if not re.fullmatch(r"[\x20-\x3c\x3e-\x7e]+", name) or not clean.strip():
            continue
        if name not in _TECHNICAL and not name.startswith(_TECHNICAL_STARTS):
            kept.setdefault(name, clean)
    return dict(sorted(kept.items()))
