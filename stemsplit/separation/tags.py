"""Tags of a stem: those of the song, with the stem's name added to the title."""

from __future__ import annotations

from collections.abc import Mapping

_OF_THE_SAMPLES = ("replaygain_", "r128_", "mp3gain_", "itunnorm", "itunsmpb", "itunpgap")
_OF_THE_CONTAINER = frozenset(
    (
        "compatible_brands",
        "creation_time",
        "duration",
        "encoded_by",
        "encoder",
        "encoder_options",
        "handler_name",
        "major_brand",
        "minor_version",
        "tlen",
        "tsse",
        "vendor_id",
    )
)


def make_tags(song: Mapping[str, str], track: str, stem: str | None = None) -> dict[str, str]:
    """Return the tags of a stem.

    What describes the mixture's loudness, its gaps or its container is left out: it is wrong for
    a stem.

    Args:
        song: Tags of the source.
        track: The title where the source has none.
        stem: None for a file that holds all stems.

    Returns:
        Keys in lower case.
    """
    tags: dict[str, str] = {}
    for key, value in song.items():
        name = key.lower()
        if name not in _OF_THE_CONTAINER and not name.startswith(_OF_THE_SAMPLES):
            tags[name] = value
    title = tags.get("title", "").strip() or track
    tags["title"] = f"{title} ({stem})" if stem else title
    return tags
