"""Whether an Ogg file has its end: the format announces no length that a cut would contradict.

RFC 3533, section 6: a page begins with "OggS", a version and flags, of which 4 says that it is the
last of its stream. Byte 26 counts the bytes behind it, which add up to the length of what follows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from stemsplit.audio.readable import open_readable

_PAGE: Final = b"OggS\0"
_FLAGS: Final = 5
_LAST: Final = 4
_COUNT: Final = 26
_MOST_PAGE_BYTES: Final = 27 + 255 + 255 * 255


def lacks_end(path: Path) -> bool:
    """Say whether a file ends in the middle of a page, or on one that others should follow.

    Raises:
        DecodeError: The file is gone or cannot be read.
    """
    with open_readable(path) as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 2 * _MOST_PAGE_BYTES))
        tail = file.read()
    page = tail[max(0, tail.rfind(_PAGE)) :]
    if len(page) <= _COUNT or not page[_FLAGS] & _LAST:
        return True
    lengths = page[_COUNT + 1 :][: page[_COUNT]]
    return len(lengths) < page[_COUNT] or len(page) < _COUNT + 1 + len(lengths) + sum(lengths)
