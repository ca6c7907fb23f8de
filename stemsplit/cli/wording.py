"""Numbers, names and tables as a person reads them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

GAP = "  "


def printable(text: object) -> str:
    r"""Return a name on one line that a terminal can show: control characters as escapes.

    Newlines, escape sequences, marks that turn the line's direction, and bytes that are no UTF-8
    become "\n", "\x1b" and the like; every other character, emoji included, stays.
    """
    return "".join(_escape(char) for char in str(text))


def _escape(char: str) -> str:
    category = unicodedata.category(char)
    # Format characters (Cf) include the joiner of emoji, which is harmless: it only ever joins.
    is_hidden = category in ("Cc", "Cs", "Zl", "Zp") or (category == "Cf" and char != "\u200d")
    return char.encode("unicode_escape").decode("ascii") if is_hidden else char


def format_clock(seconds: float) -> str:
    """Return a length of time: "0:07", "3:25", "1:02:03"."""
    whole = round(max(0.0, seconds))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def format_bytes(count: float | None) -> str:
    """Return a size in powers of 1000: "5 kB", "118.1 MB"; "?" where it is not known."""
    if count is None:
        return "?"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_speed(speed: float) -> str:
    """Return how many times faster than real time: "12.3x real time"."""
    return f"{speed:.0f}x real time" if speed >= 100 else f"{speed:.1f}x real time"


def format_count(count: int, noun: str) -> str:
    """Return a number and its noun: "1 song", "3 songs"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_table(headers: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Lay out rows in columns, left-aligned, two spaces apart.

    The widest columns are cut, with "..." at their end, until a row fits; a column is never cut to
    less than its header or twelve characters, so a very narrow terminal wraps.

    Args:
        headers: One per column.
        rows: As many cells each.
        width: Columns of the terminal.

    Returns:
        The lines, the headers first, without trailing spaces.
    """
    columns = list(zip(headers, *rows, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    least = [max(len(header), 12) for header in headers]
    while sum(widths) + len(GAP) * (len(widths) - 1) > width:
        slack = [have - floor for have, floor in zip(widths, least, strict=True)]
        widest = max(range(len(widths)), key=lambda column: (slack[column] > 0, widths[column]))
        if slack[widest] <= 0:
            break
        widths[widest] -= 1
    lines = []
    for row in (headers, *rows):
        cells = [_fit(cell, size) for cell, size in zip(row, widths, strict=True)]
        lines.append(GAP.join(cells).rstrip())
    return lines


def _fit(cell: str, width: int) -> str:
    return cell.ljust(width) if len(cell) <= width else cell[: width - 3].rstrip() + "..."
