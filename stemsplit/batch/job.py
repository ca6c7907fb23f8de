"""One song of a catalogue, from wherever it lies to wherever its stems go, whole or not at all.

    local -> local      as `stemsplit FILE` does it: a staging folder, renames, the manifest last
    a URL ->            fetched into a temporary file first
          -> a URL      made in a temporary folder, then uploaded; see `place`

The same job twice is one job: the second finds the proof. A proof costs one listing and a small
file; no song is fetched for it.
"""

from __future__ import annotations

import contextlib
import itertools
import posixpath
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stemsplit.batch.catalogue import Song
from stemsplit.batch.crash_report import contain
from stemsplit.batch.place import Place
from stemsplit.batch.storage import ObjectStorage, is_url
from stemsplit.errors import (
    CancelledError,
    DecodeError,
    InUseError,
    OutputError,
    StemsplitError,
    StorageError,
    UsageError,
)
from stemsplit.separation.files import FileOptions, separate_file
from stemsplit.separation.manifest import (
    Manifest,
    SourceRecord,
    read_manifest,
    record_source,
)
from stemsplit.separation.naming import Job, Template, is_free, safe_name
from stemsplit.separation.recipe import make_recipe, proves_done
from stemsplit.separation.sources import Source, refuse_overwriting
from stemsplit.separation.staging import refuse_os_errors, staging_folder

if TYPE_CHECKING:
    from stemsplit.separation.plan import Options
    from stemsplit.separation.separator import Separator
    from stemsplit.weights.entry import ModelEntry
    from stemsplit.weights.registry import Registry

Status = Literal["done", "skipped", "failed", "cancelled"]

SONGS_IN_HAND = 2
"""Of a worker: while one is in the network, the other comes or goes."""

PATIENCE_S = 1.0
"""Before the second try; twice as long before every further one."""
_LONGEST_PATIENCE_S = 60.0
_WAKE_S = 0.2


@dataclass(frozen=True)
class Task:
    """What is done with every song: all that a worker on another machine has to be told.

    Attributes:
        entry: The model.
        registry: Where the members of an ensemble are looked up.
        stems: What comes out.
        options: How to separate.
        file_options: What to write; its `out_dir` is not used.
        dest: Where the stems go: an absolute path, or a URL.
        retries: How often a song is tried again where storage failed it, or its worker died.
        offline: True: download no weights; None: as $STEMSPLIT_OFFLINE says.
    """

    entry: ModelEntry
    registry: Registry
    stems: tuple[str, ...]
    options: Options
    file_options: FileOptions
    dest: str
    retries: int = 3
    offline: bool | None = None


@dataclass(frozen=True)
class Ending:
    """What became of a song.

    Attributes:
        song: The same.
        status: "skipped" when its manifest proved it done, "cancelled" when the batch was stopped
            before it was through.
        error: Why it failed; None for any other status.
        elapsed_s: Time it took, waiting for other songs included.
        audio_s: Length of what was separated; 0 unless it is done or skipped.
        tries: How often it was begun.
        notices: What its manifest says that a person should know: that it is damaged, say.
    """

    song: Song
    status: Status
    error: StemsplitError | None = None
    elapsed_s: float = 0.0
    audio_s: float = 0.0
    tries: int = 1
    notices: tuple[str, ...] = ()


def load_separator(task: Task, on_progress: Callable[..., None] | None = None) -> Separator:
    """Load a task's model, downloading its weights where this machine has not got them.

    Raises:
        StemsplitError: It cannot be loaded.
    """
    from stemsplit.separation.separator import Separator
    from stemsplit.weights.load import load_entry
    from stemsplit.weights.store import Store

    store = Store(offline=task.offline)
    model = load_entry(task.entry, registry=task.registry, store=store, on_progress=on_progress)
    return Separator(model, task.options)


class SongWorker:
    """Does songs, one at a time in the network; any number of threads may ask at once."""

    def __init__(
        self, task: Task, separator: Separator, cancelled: threading.Event, slots: int = 1
    ) -> None:
        """Prepare.

        Args:
            task: What is done.
            separator: Its model.
            cancelled: Set it, in any thread, to stop.
            slots: How many songs may be in the network at once.

        Raises:
            StemsplitError: The destination's storage cannot be used from here.
            UsageError: The template of names cannot be used.
        """
        self._task = task
        self._separator = separator
        self._cancelled = cancelled
        self._turns = threading.Semaphore(slots)
        self._template = make_template(task)
        self._storages: dict[str, ObjectStorage] = {}
        self._dest = self._connect(task.dest) if is_url(task.dest) else None

    def work(self, song: Song) -> Ending:
        """Do a song; whatever happens, an ending comes out."""
        began = time.perf_counter()
        for tries in itertools.count(1):
            status: Status = "failed"
            error: StemsplitError | None = None
            manifest = None
            try:
                status, manifest = self._separate(song)
            except (CancelledError, KeyboardInterrupt):
                status = "cancelled"
            except (StorageError, InUseError) as failure:
                if tries <= self._task.retries and not self._wait_before(tries + 1):
                    continue
                error = failure
            except StemsplitError as failure:
                error = failure
            except Exception as failure:
                # Whatever it is, it concerns this song; the report keeps the traceback.
                error = contain(failure, f"separating {song.name!r}")
            audio_s = manifest.duration_s if manifest else 0.0
            notices = manifest.notices if manifest else ()
            elapsed_s = time.perf_counter() - began
            return Ending(song, status, error, elapsed_s, audio_s, tries, notices)
        raise AssertionError("the tries never end")

    def _wait_before(self, tries: int) -> bool:
        """Wait before another try; return whether the batch was stopped meanwhile."""
        return self._cancelled.wait(min(PATIENCE_S * 2 ** (tries - 2), _LONGEST_PATIENCE_S))

    def _separate(self, song: Song) -> tuple[Status, Manifest]:
        if song.fault is not None:
            raise song.fault
        self._check()
        out_dir = Path(self._task.dest)
        if self._dest is None and not is_url(song.name):
            return self._finish_here(*self._plan(song, _own_source(song), out_dir))
        with _scratch() as scratch:
            source, seen = self._find(song, scratch)
            if self._dest is None:
                return self._into_folder(*self._plan(song, source, out_dir), seen)
            plan = self._plan(song, source, scratch / "out")
            return self._into_storage(*plan, seen, self._dest)

    def _find(self, song: Song, scratch: Path) -> tuple[Source, SourceRecord]:
        """Know a song again: by its bytes where they are here, else by what storage says of them.

        The file of one that is elsewhere is there once it has been fetched.
        """
        if not is_url(song.name):
            own = _own_source(song)
            return own, record_source(own.path, own.name, place=own.place)
        found = self._connect(song.name).describe(song.name)
        if found is None or found.is_folder:
            raise DecodeError(f"there is no song {song.name!r}", help="check the list of songs.")
        name = posixpath.basename(song.name)
        path = scratch / "in" / safe_name(name)
        source = Source(path, name, song.folder, True, song.name, found.version)
        return source, SourceRecord(song.name, name, found.size, "", found.version)

    def _into_folder(
        self, job: Job, options: FileOptions, separator: Separator, seen: SourceRecord
    ) -> tuple[Status, Manifest]:
        """Do a song that is elsewhere and whose stems stay on this machine."""
        recipe = make_recipe(separator, job, options)
        is_clean = not staging_folder(job).exists()
        manifest = read_manifest(job.manifest)
        if manifest and is_clean and not options.overwrite and proves_done(job, seen, recipe):
            return "skipped", manifest
        self._fetch(job.source)
        return self._finish_here(job, options, separator)

    def _finish_here(
        self, job: Job, options: FileOptions, separator: Separator
    ) -> tuple[Status, Manifest]:
        refuse_overwriting([job.source], job.paths)
        self._refuse_another(job, read_manifest(job.manifest))
        with self._turn():
            result = separate_file(separator, job, options, _ignore, self._cancelled)
        return result.status, result.manifest

    def _into_storage(
        self,
        job: Job,
        options: FileOptions,
        separator: Separator,
        seen: SourceRecord,
        dest: ObjectStorage,
    ) -> tuple[Status, Manifest]:
        """Do a song whose stems go elsewhere."""
        place = Place(dest, self._task.dest, job)
        recipe = make_recipe(separator, job, options)
        if not options.overwrite and place.proves_done(seen, recipe):
            assert place.manifest is not None, "it has just proved something"
            place.drop_claim()
            return "skipped", place.manifest
        self._fetch(job.source)
        self._refuse_another(job, place.manifest)
        if not options.overwrite:
            place.refuse_foreign()
        with self._turn():
            result = separate_file(separator, job, options, _ignore, self._cancelled)
        return "done", place.deliver(result.manifest, self._check)

    def _plan(
        self, song: Song, source: Source, out_dir: Path
    ) -> tuple[Job, FileOptions, Separator]:
        """Name a song's outputs, and settle what is separated of it."""
        file_options = replace(self._task.file_options, out_dir=out_dir)
        job = _name_outputs(self._template, self._task, song, source, file_options)
        separator, options = self._separator, self._task.options
        if song.start_s is not None or song.duration_s is not None:
            start_s = options.start_s if song.start_s is None else song.start_s
            length_s = options.duration_s if song.duration_s is None else song.duration_s
            separator = separator.for_part(start_s, length_s)
        return job, file_options, separator

    def _fetch(self, source: Source) -> None:
        if source.url is not None:
            with refuse_os_errors(source.path.parent):
                source.path.parent.mkdir(parents=True)
            self._connect(source.url).fetch(source.url, source.path)
            self._check()

    def _refuse_another(self, job: Job, manifest: Manifest | None) -> None:
        """Check that no other song's stems are in the place.

        Raises:
            OutputError: They are.
        """
        if self._task.file_options.overwrite or is_free(job, manifest):
            return
        assert manifest is not None, "an empty place is free"
        whose = manifest.source.path or manifest.source.name
        raise OutputError(
            f"the place for {job.source.title!r} holds the stems of another song, {whose!r}",
            help="give it another name in the column 'output' of a .csv or .jsonl list.",
        )

    def _connect(self, url: str) -> ObjectStorage:
        protocol = url.partition("://")[0]
        if protocol not in self._storages:
            self._storages[protocol] = ObjectStorage(url)
        return self._storages[protocol]

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for a turn in the network."""
        while not self._turns.acquire(timeout=_WAKE_S):
            self._check()
        try:
            yield
        finally:
            self._turns.release()

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise CancelledError("stopped", help="run again to go on; what is done is kept.")


def make_template(task: Task) -> Template:
    """Return the template of a task's file names.

    Raises:
        UsageError: It cannot tell the outputs apart.
    """
    options = task.file_options
    return Template(options.filename, options.format.suffix, task.stems)


def make_place_finder(task: Task) -> Callable[[Song], Set[str]]:
    """Return what tells, of a song, the files that it will write, alike for names that are one.

    Raises:
        UsageError: The template of names cannot be used.
    """
    template = make_template(task)

    def find(song: Song) -> Set[str]:
        if song.fault is not None:
            return frozenset()
        try:
            options = replace(task.file_options, out_dir=Path())
            return _name_outputs(template, task, song, _own_source(song), options).places
        except UsageError:
            return frozenset()  # It has no name that can be, and fails in its turn.

    return find


def _name_outputs(
    template: Template, task: Task, song: Song, source: Source, options: FileOptions
) -> Job:
    values = {"track": song.track, "model": task.entry.name}
    return template.fill(source, values, "", options)


def _own_source(song: Song) -> Source:
    """Name the file of a song that is on this machine."""
    path = Path(song.name)
    return Source(path, path.name, song.folder)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """Give a temporary folder.

    Raises:
        OutputError: There is no room for one.
    """
    with refuse_os_errors(Path(tempfile.gettempdir())):
        folder = tempfile.TemporaryDirectory(prefix="stemsplit-", ignore_cleanup_errors=True)
    with folder as name:
        yield Path(name)


def _ignore(event: object) -> None:
    """Hear nothing: what a person should know of a song is in its manifest."""
