"""How a batch went: counts while it runs; a report, and a list of what failed, when it has ended.

The list of failed songs is a table in the sense of `catalogue`, with the reasons beside: given as
the source of another batch, it has those songs done alone, into the same places.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Any

from typing_extensions import Self

from stemsplit.batch.catalogue import Song, read_json_lines
from stemsplit.batch.job import Ending
from stemsplit.batch.storage import join, open_storage, settle_name

REPORT_NAME = "stemsplit-batch.json"
FAILED_NAME = "stemsplit-failed.jsonl"
SCHEMA = 1

_KEPT = 1000
_Key = tuple[str, str, float | None, float | None]
_IN_MEMORY_BYTES = 1 << 20


@dataclass
class Tally:
    """What has become of the songs so far.

    Attributes:
        counts: Songs by status.
        kinds: Failed songs by the class of their error.
        audio_s: Length of what was separated.
        skipped_audio_s: Length of what was there already.
        tries: How often songs were begun that had been begun before.
        skipping_s: Time in which nothing came to its end but what was there already.
        first_failures: Some failed songs: name and message.
        noticed: Songs, done or skipped, of which there is something to know.
        first_notices: Some of that: name and message.
    """

    counts: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    audio_s: float = 0.0
    skipped_audio_s: float = 0.0
    tries: int = 0
    skipping_s: float = 0.0
    first_failures: list[tuple[str, str]] = field(default_factory=list)
    noticed: int = 0
    first_notices: list[tuple[str, str]] = field(default_factory=list)

    def add(self, ending: Ending, passed_s: float = 0.0) -> None:
        """Count a song.

        Args:
            ending: What became of it.
            passed_s: Since another came to its end.
        """
        self.counts[ending.status] += 1
        self.tries += ending.tries - 1
        if ending.notices:
            self.noticed += 1
            if len(self.first_notices) < _KEPT:
                self.first_notices.append((ending.song.name, "; ".join(ending.notices)))
        if ending.status == "done":
            self.audio_s += ending.audio_s
        elif ending.status == "skipped":
            self.skipped_audio_s += ending.audio_s
            self.skipping_s += passed_s
        elif ending.error is not None:
            self.kinds[type(ending.error).__name__] += 1
            if len(self.first_failures) < _KEPT:
                self.first_failures.append((ending.song.name, ending.error.message))

    @property
    def songs(self) -> int:
        """All that have ended, those that were stopped left out."""
        return sum(count for status, count in self.counts.items() if status != "cancelled")

    def estimate_left_s(self, total: int | None, elapsed_s: float) -> float | None:
        """Return how long the rest takes if all of it has to be separated; None if nobody knows.

        Args:
            total: Songs in the catalogue.
            elapsed_s: Since the first was begun, skipped ones included.
        """
        worked = self.counts["done"] + self.counts["failed"]
        if total is None or not worked:
            return None
        return max(0, total - self.songs) * max(0, elapsed_s - self.skipping_s) / worked


@dataclass(frozen=True)
class BatchReport:
    """A batch that has ended.

    Attributes:
        source: As it was found.
        dest: Where the stems are.
        model: Its name.
        stems: What came out of each song.
        engine: "local" or "ray".
        tally: What became of the songs.
        total: Songs in the catalogue; None where nobody counted.
        elapsed_s: From the command's start to its end.
        is_stopped: Whether it was stopped before its end.
        failed_list: Where failed songs are listed; None where there are none.
        versions: Of the programs.
    """

    source: str
    dest: str
    model: str
    stems: tuple[str, ...]
    engine: str
    tally: Tally
    total: int | None
    elapsed_s: float
    is_stopped: bool
    failed_list: str | None
    versions: Mapping[str, str]

    @property
    def speed(self) -> float:
        """Seconds of audio separated per second, everything included."""
        return self.tally.audio_s / max(self.elapsed_s, 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        tally = self.tally
        return {
            "schema": SCHEMA,
            "source": self.source,
            "dest": self.dest,
            "model": self.model,
            "stems": list(self.stems),
            "engine": self.engine,
            "total": self.total,
            **{name: tally.counts[name] for name in ("done", "skipped", "failed", "cancelled")},
            "audio_s": round(tally.audio_s, 3),
            "skipped_audio_s": round(tally.skipped_audio_s, 3),
            "elapsed_s": round(self.elapsed_s, 3),
            "speed": round(self.speed, 3),
            "tried_again": tally.tries,
            "stopped": self.is_stopped,
            "errors": dict(tally.kinds.most_common()),
            "failures": [{"song": song, "message": said} for song, said in tally.first_failures],
            "noticed": tally.noticed,
            "notices": [{"song": song, "message": said} for song, said in tally.first_notices],
            "failed_list": self.failed_list,
            "versions": dict(self.versions),
        }

    def write(self, name: str) -> None:
        """Store it as JSON.

        Raises:
            OutputError: The place cannot be written to.
            StorageError: Object storage does not answer.
        """
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        open_storage(name).write(name, text.encode("utf-8", "replace"))


class FailedList:
    """The songs that failed, a JSON object a line, until they are stored where they belong.

    What is there already stays, but for songs that this batch has come to: a batch may be stopped
    before it comes to them, and several that do parts of a catalogue may share a list.
    """

    def __init__(self, place: str, source: str) -> None:
        """Read what is there, and begin a new one, in memory while it is small.

        Args:
            place: Where it belongs, from `settle_name`.
            source: Of the batch.

        Raises:
            StorageError: Object storage does not answer.
        """
        self._place = place
        self._source = source
        self._before = _read_rows(place)
        self._left = dict(self._before)
        self._is_blind = False
        self._count = 0
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115  # closed by `__exit__`

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, ending: Ending) -> None:
        """Write a song down if it has failed, and strike it off if it is there."""
        song, error = ending.song, ending.error
        if song.fault is not None or ending.status == "cancelled":
            # There is no song: its line has to be mended where it is. A folder may hide some.
            self._is_blind = True
            return
        before = self._left.pop(_key_of(song), "")
        if error is None:
            return
        row = {
            "path": song.name,
            "output": song.output,
            "start": song.start_s,
            "duration": song.duration_s,
            "error": type(error).__name__,
            "message": error.message,
            "help": error.help,
            # Whoever does the list alone is not the batch that finds the song gone.
            "source": _as_row(before).get("source", self._source),
        }
        kept = {key: value for key, value in row.items() if value is not None}
        self._file.write(json.dumps(kept).encode() + b"\n")
        self._count += 1

    def store(self, place: str | None = None, *, is_whole: bool) -> str | None:
        """Put it where it belongs; where nothing is left on it, take it away.

        Args:
            place: Where, instead.
            is_whole: Whether the batch came to all songs of its source: what else an earlier batch
                of that source wrote down is there no more.

        Returns:
            The name; None where nothing is left.

        Raises:
            OutputError: The place cannot be written to.
            StorageError: Object storage does not answer.
        """
        rows = self._before if place else _read_rows(self._place)
        rest = [line for key, line in rows.items() if self._stays(key, line, is_whole)]
        storage = open_storage(place or self._place)
        if not self._count and not rest:
            storage.remove(place or self._place)
            return None
        self._file.seek(0)
        listed = "".join(f"{line}\n" for line in rest).encode("utf-8", "surrogateescape")
        storage.write(place or self._place, listed + self._file.read())
        return place or self._place

    def _stays(self, key: _Key, line: str, is_whole: bool) -> bool:
        """Whether a song stays on the list without having been come to."""
        if key not in self._before:
            return True  # Another batch has written it meanwhile.
        if key not in self._left:
            return False
        is_gone = is_whole and not self._is_blind
        return not is_gone or _as_row(line).get("source") != self._source


def _key_of(song: Song) -> _Key:
    """Return what tells a song of a list from all others."""
    return song.name, song.output, song.start_s, song.duration_s


def _read_rows(place: str) -> dict[_Key, str]:
    """Return the lines of a list by the songs that they name."""
    storage = open_storage(place)
    if not place.endswith(".jsonl") or storage.describe(place) is None:
        return {}
    lines = [line for line in storage.lines(place) if line.strip()]
    songs = read_json_lines(place, iter(lines))
    return {_key_of(song): line for song, line in zip(songs, lines, strict=True)}


def _as_row(line: str) -> dict[str, Any]:
    """Return what a line holds; nothing where it is damaged."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def default_places(dest: str, report: str | None, failed: str | None) -> tuple[str, str]:
    """Return where the report and the list of failed songs go: into the destination, if not told.

    Args:
        dest: From `settle_name`.
        report: As typed.
        failed: As typed.
    """
    return (
        settle_name(report) if report else join(dest, REPORT_NAME),
        settle_name(failed) if failed else join(dest, FAILED_NAME),
    )
