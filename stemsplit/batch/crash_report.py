"""What nobody expected, written down where the person can find it instead of on their screen."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import platform
import tempfile
import time
import traceback
from pathlib import Path

import platformdirs

from stemsplit.errors import StemsplitError

_count = itertools.count(1)


def contain(error: BaseException, doing: str) -> StemsplitError:
    """Turn an unexpected exception into an error in two lines, its traceback into a file.

    Args:
        error: What was raised.
        doing: What was being done, for the report: "separating song.mp3".
    """
    first_line = (str(error).splitlines() or [""])[0]
    said = f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
    if isinstance(error, MemoryError):
        return StemsplitError(
            f"out of memory while {doing}",
            help="use a shorter --segment, fewer --jobs, or close other programs.",
        )
    path = write_crash_report(error, doing)
    where = f"the report is {str(path)!r}" if path else "no report could be written"
    return StemsplitError(
        f"something unexpected happened while {doing}: {said}",
        help=f"this is a fault in stemsplit, please report it; {where}.",
    )


def write_crash_report(error: BaseException, doing: str) -> Path | None:
    """Write an exception with its traceback to the platform's folder for logs.

    Returns:
        The file, in the system's folder for temporary files where the other cannot be written to;
        None where neither can.
    """
    lines = [
        f"while {doing}",
        f"stemsplit {_version('stemsplit')}, torch {_version('torch')}, {platform.platform()}, "
        f"Python {platform.python_version()}",
        "",
        *traceback.format_exception(type(error), error, error.__traceback__),
    ]
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    name = f"crash-{stamp}-{os.getpid()}-{next(_count)}.txt"
    text = "\n".join(line.rstrip("\n") for line in lines) + "\n"
    logs = platformdirs.user_log_path("stemsplit", appauthor=False)
    for folder in (logs, Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, "utf-8", errors="backslashreplace")
        except OSError:
            continue
        return folder / name
    return None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
