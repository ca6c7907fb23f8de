"""One file over HTTP, by the book: resumed, retried, bounded, and hashed while it streams.

What arrives goes to `<target>.part`, with `<target>.part.json` saying what it is a part of. Only a
file that is whole and the right one is renamed to `target`; a part is kept for the next try, or
discarded where it is of no use.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import time
from pathlib import Path
from typing import Any

from stemsplit.errors import DiskFullError, HashMismatchError, NetworkError, TruncatedError
from stemsplit.weights.connection import (
    LATER_HELP,
    RETRY_HELP,
    InterruptedDownload,
    Pace,
    explain,
    open_url,
)
from stemsplit.weights.digests import BLOCK_BYTES, Known, Progress, check_file, feed_file
from stemsplit.weights.disk import check_free_space, translate_errors, write_text
from stemsplit.weights.patience import Patience

MAX_BYTES = 64 << 30
"""A server that never stops is cut here where nothing else says how long the file is."""

HEADWAY_BYTES = 1 << 20
"""So much more of the file than ever before makes up for the failures up to then."""


def download_file(
    url: str,
    target: Path,
    known: Known | None = None,
    *,
    patience: Patience | None = None,
    on_progress: Progress | None = None,
) -> str:
    """Fetch a file and return its sha256; `target` is there afterwards, whole, or nothing is.

    Args:
        url: http or https.
        target: Where it goes, in an existing folder.
        known: What it should be.
        patience: How long to bear with the server.
        on_progress: Told how far it is.

    Raises:
        HttpStatusError: 4xx, or 5xx to the end.
        NetworkError: No connection, a stall, a redirect loop, an answer against the rules.
        TruncatedError: The number of bytes is not the announced one.
        HashMismatchError: It is not the published file.
        DiskFullError: It does not fit.
        OutputError: `target` cannot be written.
    """
    attempt = _Attempt(url, target, known or Known(), patience or Patience(), on_progress)
    failures = 0
    furthest = attempt.part_bytes
    while True:
        try:
            return attempt.run()
        except InterruptedDownload as broken:
            if attempt.part_bytes >= furthest + HEADWAY_BYTES:
                failures = 0
                furthest = attempt.part_bytes
            failures += 1
            if failures >= attempt.patience.attempts:
                raise broken.error from broken.__cause__
            time.sleep(attempt.patience.compute_wait(failures, broken.asked_s))
        except DiskFullError:
            attempt.discard()
            raise


class _Attempt:
    """One download: its places, what is known, and a `run` that can be tried again."""

    def __init__(
        self, url: str, target: Path, known: Known, patience: Patience, on_progress: Progress | None
    ) -> None:
        self.url = url
        self.target = target
        self.known = known
        self.patience = patience
        self.on_progress = on_progress
        self.part = target.with_name(f"{target.name}.part")
        self.notes = target.with_name(f"{target.name}.part.json")

    @property
    def part_bytes(self) -> int:
        """How much has arrived."""
        return self.part.stat().st_size if self.part.exists() else 0

    def discard(self) -> None:
        """Forget what has arrived."""
        with translate_errors(self.part):
            self.part.unlink(missing_ok=True)
            self.notes.unlink(missing_ok=True)

    def run(self) -> str:
        """Try once, from where the last try ended, and return the sha256 of the whole file.

        Raises:
            InterruptedDownload: Another try may succeed.
            StemsplitError: None will.
        """
        offset, validator = self._find_start()
        headers = {"User-Agent": "stemsplit", "Accept": "*/*", "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if validator:
                headers["If-Range"] = validator
        is_pinned = self.known.sha256 is not None
        with open_url(self.url, headers, self.patience, is_pinned=is_pinned) as response:
            if response.status == 416:
                start = self._agree_on_end(response, offset)
                digest = feed_file(hashlib.sha256(), self.part).hexdigest()
            else:
                start, total = self._agree(response, offset)
                digest = self._receive(response, start, total)
        return self._finish(digest, resumed=start > 0)

    def _find_start(self) -> tuple[int, str | None]:
        """Return how many bytes to keep, and the validator that has to hold for them.

        A part is only continued where the server can say that its file is still the same, or the
        published hash will.
        """
        offset = self.part_bytes
        notes = self._read_notes() if offset else {}
        validator = notes.get("validator") if notes.get("url") == self.url else None
        is_safe = self.known.sha256 is not None or validator is not None
        if not is_safe or (self.known.size is not None and offset > self.known.size):
            self.discard()
            return 0, None
        return offset, validator

    def _read_notes(self) -> dict[str, Any]:
        try:
            notes = json.loads(self.notes.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return notes if isinstance(notes, dict) else {}

    def _agree(self, response: http.client.HTTPResponse, offset: int) -> tuple[int, int | None]:
        """Return at which byte the answer starts and how long the whole file is, if it says.

        Raises:
            InterruptedDownload: It answers another question than the one that was asked.
            DownloadError: It does not send the file at all.
        """
        self._check_kind(response)
        length = response.length
        start, total = 0, length
        if response.status == 206:
            told = response.headers.get("Content-Range", "")
            match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", told.strip())
            if match is None or int(match[1]) != offset or not offset:
                self.discard()
                raise InterruptedDownload(
                    NetworkError(
                        f"{self.url} was asked for the bytes from {offset} on and sent {told!r}",
                        help=LATER_HELP,
                    )
                )
            start = offset
            total = int(match[3]) if match[3] != "*" else length and offset + length
        if total is not None and self.known.size not in (None, total):
            raise TruncatedError(
                f"{self.url} has {total} bytes, and should have {self.known.size}",
                help=LATER_HELP,
            )
        if total is None and not response.chunked and not self.known.is_checkable:
            raise NetworkError(
                f"{self.url} does not say how long it is, and nothing is known to check it by",
                help="add the file's sha256 to its registry table.",
            )
        return start, total

    def _check_kind(self, response: http.client.HTTPResponse) -> None:
        """Refuse what is not the file itself.

        Raises:
            NetworkError: A compressed body, which nobody asked for, or a web page.
        """
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("identity", ""):
            raise NetworkError(
                f"{self.url} came encoded as {encoding!r}, which was not asked for",
                help=LATER_HELP,
            )
        if response.headers.get_content_type() == "text/html":
            raise NetworkError(
                f"{self.url} is a web page instead of a file",
                help="open it in a browser: the network may want a login, or the file has moved.",
            )

    def _receive(self, response: http.client.HTTPResponse, start: int, total: int | None) -> str:
        """Write the answer's body behind what is there, and return the sha256 of it all.

        Raises:
            InterruptedDownload: It ended, or fell silent, too early.
            TruncatedError: It is longer than it may be.
            DiskFullError: It does not fit.
        """
        expected = total if total is not None else self.known.size
        if expected is not None:
            check_free_space(self.part.parent, expected - start)
        limit = MAX_BYTES if expected is None else expected
        if start == 0:
            self._write_notes(response)
        with translate_errors(self.part):
            file = self.part.open("r+b" if start else "wb")
        hasher = hashlib.sha256()
        with file:
            if start:
                feed_file(hasher, self.part)
                file.seek(start)
            done = start
            pace = Pace(self.patience.timeout_s)
            while block := self._read(response, pace):
                done += len(block)
                if done > limit:
                    break
                hasher.update(block)
                with translate_errors(self.part):
                    file.write(block)
                if self.on_progress is not None:
                    self.on_progress(done, expected)
            with translate_errors(self.part):
                file.flush()
        if done > limit:
            self.discard()
            raise TruncatedError(
                f"{self.url} sends more than the {limit} bytes it should have", help=LATER_HELP
            )
        if expected is not None and done < expected:
            raise InterruptedDownload(
                TruncatedError(
                    f"{self.url} ended after {done} of {expected} bytes", help=RETRY_HELP
                )
            )
        return hasher.hexdigest()

    def _read(self, response: http.client.HTTPResponse, pace: Pace) -> bytes:
        try:
            block = response.read1(BLOCK_BYTES)
            if block:
                pace.check(len(block))
        except (OSError, http.client.HTTPException) as error:
            raise explain(error, self.url, self.patience) from error
        return block

    def _write_notes(self, response: http.client.HTTPResponse) -> None:
        # A weak ETag ("W/...") says "as good as", and If-Range takes none.
        etag = response.headers.get("ETag", "")
        strong = etag if etag.startswith('"') else None
        validator = strong or response.headers.get("Last-Modified")
        write_text(self.notes, json.dumps({"url": self.url, "validator": validator}))

    def _agree_on_end(self, response: http.client.HTTPResponse, offset: int) -> int:
        """Return the length of the file where "416 Range Not Satisfiable" says: nothing is missing.

        Raises:
            InterruptedDownload: It says something else.
        """
        told = response.headers.get("Content-Range", "").strip()
        if not offset or told != f"bytes */{offset}":
            self.discard()
            raise InterruptedDownload(
                NetworkError(
                    f"{self.url} has no bytes from {offset} on: it answered {told!r}",
                    help=LATER_HELP,
                )
            )
        return offset

    def _finish(self, digest: str, *, resumed: bool) -> str:
        """Check the whole file and give it its name."""
        try:
            check_file(self.part, digest, self.known, self.url)
        except (HashMismatchError, TruncatedError) as error:
            self.discard()
            if resumed:
                # Two halves of different files, perhaps: once more, from nothing.
                raise InterruptedDownload(error) from error
            raise
        with translate_errors(self.target):
            os.replace(self.part, self.target)
        self.notes.unlink(missing_ok=True)
        return digest
