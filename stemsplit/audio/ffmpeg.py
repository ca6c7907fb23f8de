"""The ffmpeg program: where it is, how it is started, and what it says when it complains.

Nothing else in stemsplit starts a program. Command lines are lists, never shell text, and every
file reaches ffmpeg as `file:NAME`, so that a name is only ever a name.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

from stemsplit.errors import FFmpegMissingError

VARIABLE: Final = "STEMSPLIT_FFMPEG"

# Whatever a file says, only files and pipes are opened: a playlist fetches nothing.
LOCAL_ONLY: Final = ("-protocol_whitelist", "file,pipe")

_PATIENCE_S: Final = 20.0
_LINES_KEPT: Final = 8
_LINE_BYTES: Final = 4096
_LEVEL: Final = re.compile(r"\[(panic|fatal|error|warning|info|verbose|debug)\] ")
_SPEAKER: Final = re.compile(r"\[[^\[\]]{1,40} @ (?:0x)?[0-9a-fA-F]+\] ?")

# Said as warnings, and signs of damage all the same.
_DAMAGE: Final = (
    "filesize and duration do not match",
    "invalid concatenated file detected",
    "corrupt input packet",
    "Packet corrupt",
)


def find_ffmpeg() -> Path:
    """Return the ffmpeg to run: $STEMSPLIT_FFMPEG, else the one on PATH, else imageio-ffmpeg's.

    One on PATH that does not start (a missing library, say) is passed over.

    Raises:
        FFmpegMissingError: None of them is there, or $STEMSPLIT_FFMPEG is not a program.
    """
    return _find_ffmpeg(os.environ.get(VARIABLE, ""), os.environ.get("PATH", ""))


@functools.lru_cache(maxsize=8)
def _find_ffmpeg(chosen: str, search_path: str) -> Path:
    if chosen:
        located = shutil.which(chosen, path=search_path)
        if located is None or not _starts(located):
            raise FFmpegMissingError(
                f"${VARIABLE} is {chosen!r}, which is no ffmpeg that can be run",
                help=f"set {VARIABLE} to an ffmpeg program, or unset it to use the usual one.",
            )
        return Path(located)
    located = shutil.which("ffmpeg", path=search_path)
    if located is not None and _starts(located):
        return Path(located)
    try:
        import imageio_ffmpeg

        return Path(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError, OSError) as error:
        found = f"{located!r} does not start" if located else "there is none on PATH"
        raise FFmpegMissingError(
            f"ffmpeg is missing: {found}, and the package imageio-ffmpeg has none",
            help="run `pip install imageio-ffmpeg`, which brings one, or install ffmpeg.",
        ) from error


def _starts(program: str) -> bool:
    try:
        return _ask_version(program).startswith("ffmpeg version")
    except (OSError, subprocess.SubprocessError):
        return False


@functools.lru_cache(maxsize=8)
def _ask_version(program: str) -> str:
    done = subprocess.run(
        [program, "-version"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_PATIENCE_S,
        check=True,
    )
    return done.stdout.decode("utf-8", "replace")


def ffmpeg_version() -> str:
    """Return what ffmpeg calls its version, such as "7.1.1" or "n9.0.2-17-g2a571b6068".

    Raises:
        FFmpegMissingError: There is no ffmpeg.
    """
    words = _ask_version(str(find_ffmpeg())).split()
    return words[2] if len(words) > 2 else "unknown"


def name_file(path: Path) -> str:
    """Return a path as ffmpeg has to be told it, whatever characters it is made of."""
    return f"file:{path}"


def parse_complaint(line: str) -> str | None:
    """Return what a line written with `-v level+...` complains about; None if about nothing.

    A complaint is an error, or a warning that is a sign of damage, without its level and without
    its speaker's address in memory.
    """
    level = _LEVEL.search(line)
    if level is None:
        return None
    words = _SPEAKER.sub("", _LEVEL.sub("", line, count=1)).strip()
    is_error = level[1] in ("panic", "fatal", "error")
    return words if words and (is_error or any(sign in words for sign in _DAMAGE)) else None


class Complaints:
    """What ffmpeg writes to its standard error, read as it comes and kept in bounded memory.

    Attributes:
        errors: How many lines so far report an error or a sign of damage.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        """Start to read.

        Args:
            stream: The standard error of an ffmpeg run with `-v level+warning`.
        """
        self.errors = 0
        self._first = ""
        self._last: deque[str] = deque(maxlen=_LINES_KEPT)
        self._stream = stream
        self._thread = threading.Thread(target=self._read, name="ffmpeg-stderr", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._stream:
            while raw := self._stream.readline(_LINE_BYTES):
                self._note(raw.decode("utf-8", "replace").strip())

    def _note(self, line: str) -> None:
        complaint = parse_complaint(line)
        if complaint is None:
            return
        self.errors += 1
        self._first = self._first or complaint
        self._last.append(complaint)

    def wait(self) -> None:
        """Wait until ffmpeg has said all, which it has once its process is gone."""
        self._thread.join(_PATIENCE_S)

    @property
    def first(self) -> str:
        """The first complaint; empty when there is none."""
        return self._first

    def quote(self, count: int = 3) -> str:
        """Return the last `count` different complaints on one line; empty when there is none."""
        different = list(dict.fromkeys(self._last))
        return "; ".join(different[-count:])

    def mention(self, text: str) -> bool:
        """Say whether one of the last complaints contains a text."""
        return any(text in line for line in self._last)


class Process:
    """An ffmpeg at work.

    It runs in a session of its own, so that Ctrl-C reaches this program alone, which then ends it.

    Attributes:
        complaints: What it has said.
    """

    def __init__(
        self, arguments: Sequence[str], *, feed: bool = False, fetch: bool = False
    ) -> None:
        """Start it.

        Args:
            arguments: The command line behind the general options.
            feed: Give it a pipe as standard input.
            fetch: Give it a pipe as standard output.

        Raises:
            FFmpegMissingError: There is no ffmpeg, or it does not start.
        """
        program = find_ffmpeg()
        general = ("-hide_banner", "-nostdin", "-nostats", "-v", "level+warning")
        try:
            self._process = subprocess.Popen(
                [str(program), *general, *arguments],
                stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
                stdout=subprocess.PIPE if fetch else subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=quiet_environment(),
                start_new_session=True,
            )
        except OSError as error:
            raise FFmpegMissingError(
                f"{str(program)!r} does not start: {error.strerror}",
                help=f"install ffmpeg, or set {VARIABLE} to one that runs.",
            ) from error
        assert self._process.stderr is not None
        self.complaints = Complaints(self._process.stderr)

    @property
    def stdout(self) -> IO[bytes]:
        """Its unbuffered standard output, of a process started with `fetch`."""
        assert self._process.stdout is not None
        return self._process.stdout

    def send(self, data: memoryview) -> None:
        """Write to its standard input, of a process started with `feed`; waits while it is busy.

        Raises:
            OSError: It has ended.
            ValueError: The pipe was closed on this side.
        """
        assert self._process.stdin is not None
        while data:
            data = data[self._process.stdin.write(data) :]

    def wait(self) -> int:
        """Wait for its end and return its exit status."""
        status = self._process.wait()
        self.complaints.wait()
        return status

    def end(self) -> None:
        """Kill it if it still runs, and wait until it is gone; pipes stay open."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if hasattr(os, "killpg"):
                    os.killpg(self._process.pid, signal.SIGKILL)  # A wrapper's child goes with it.
                else:
                    self._process.kill()
        self.wait()

    def close_pipes(self) -> None:
        """Close this side of its pipes, which may be closed or broken already."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def quiet_environment() -> dict[str, str]:
    """Return the environment for ffmpeg: no colours among its words, no report files."""
    kept = {key: value for key, value in os.environ.items() if key != "FFREPORT"}
    return {**kept, "AV_LOG_FORCE_NOCOLOR": "1"}
