"""Tags of a stem: the song's, with the stem's name added to the title."""

from __future__ import annotations

from collections.abc import Mapping


def make_tags(song: Mapping[str, str], track: str, stem: str | None = None) -> dict[str, str]:
    """Return the tags of a stem; those that are of the source's encoding only, the writer drops.

    Args:
        song: Tags of the source.
        track: The title where the source has none.
        stem: None for a file that holds all stems.

    Returns:
        Keys in lower case.
    """
    tags = {key.lower(): value for key, value in song.items()}
    title = tags.get("title", "").strip() or track
    return {**tags, "title": f"{title} ({stem})" if stem else title}
