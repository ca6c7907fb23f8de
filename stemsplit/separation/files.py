"""A song's file -> its stems' files, whole or not at all, and the manifest that proves it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from stemsplit.audio import (
    OutputFormat,
    StemWriter,
    decode_blocks,
    ffmpeg_version,
    parse_format,
    probe,
    write_stem_mp4,
)
from stemsplit.errors import (
    CancelledError,
    DecodeError,
    OutputError,
    StemsplitError,
    UnknownNameError,
)
from stemsplit.separation.events import Event, Finished, Notice, Started, StemBlock
from stemsplit.separation.levels import CLIP_MODES, ClipMode, describe_levels, is_float, to_db
from stemsplit.separation.manifest import (
    FileRecord,
    Manifest,
    Recipe,
    SourceRecord,
    StemRecord,
    hash_file,
    list_versions,
    read_manifest,
    record_source,
    relative_name,
)
from stemsplit.separation.naming import Job, plan_jobs
from stemsplit.separation.recipe import make_recipe, proves_done
from stemsplit.separation.staging import Staging, refuse_os_errors, staging_folder
from stemsplit.separation.stem_files import Sound, StemFiles
from stemsplit.separation.tags import make_tags

if TYPE_CHECKING:
    from stemsplit.separation.separator import Separator

__all__ = ["FileOptions", "Job", "Result", "plan_jobs", "proves_done", "separate_file"]

OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class FileOptions:
    """What is written where, and how.

    Attributes:
        out_dir: Below which all outputs go.
        format: Of every stem.
        filename: Template of the outputs' names; see `naming.FIELDS`.
        clip: Beyond full scale: "none" leaves samples as they are (integer formats saturate),
            "clamp" limits them, "rescale" turns all stems of the song down by one gain.
        overwrite: Separate again what is done, and write over files that are not stemsplit's.
        stem_mp4: Also write a Native Instruments .stem.mp4 of the mixture and all stems.

    Raises:
        UnknownNameError: There is no such `clip`.
    """

    out_dir: Path = Path("stems")
    format: OutputFormat = field(default_factory=lambda: parse_format("wav"))
    filename: str = "{track}/{stem}.{ext}"
    clip: ClipMode = "none"
    overwrite: bool = False
    stem_mp4: bool = False

    def __post_init__(self) -> None:
        if self.clip not in CLIP_MODES:
            raise UnknownNameError("clip mode", self.clip, CLIP_MODES)


@dataclass(frozen=True)
class Result:
    """How a song ended.

    Attributes:
        job: The song.
        status: "skipped" when its manifest proved it done.
        manifest: The proof, as it stands in the folder.
    """

    job: Job
    status: Literal["done", "skipped"]
    manifest: Manifest


def separate_file(
    separator: Separator,
    job: Job,
    options: FileOptions,
    on_event: OnEvent,
    cancelled: threading.Event | None = None,
) -> Result:
    """Separate a song into files.

    Encoding runs beside the network, one thread per stem. Whatever ends this early, an exception
    or Ctrl-C, leaves the outputs as they were and no other file behind. With `clip="rescale"` the
    stems wait on disk as float32 (8 bytes per stereo sample and stem) until the gain is known.

    Args:
        separator: Gives the stems.
        job: From `plan_jobs`, with the separator's stems.
        options: The same as for `plan_jobs`.
        on_event: Gets `Started`, `Progress` and `Notice` as they come, and `Finished` once the
            files are in their places; nothing of a song that is skipped.
        cancelled: Set it, in any thread, to stop before the next event.

    Returns:
        What is now in the folder.

    Raises:
        DecodeError: The source cannot be read, or changed meanwhile.
        EncodeError: ffmpeg refused an output.
        OutputError: An output cannot be written, or there is a file in its place that no manifest
            calls stemsplit's.
        DeviceError: The device has not enough memory.
        CancelledError: `cancelled` was set.
    """
    try:
        return _separate_file(separator, job, options, on_event, cancelled)
    except StemsplitError as error:
        error.message = _call_by_name(job, error.message)
        raise


def _separate_file(
    separator: Separator,
    job: Job,
    options: FileOptions,
    on_event: OnEvent,
    cancelled: threading.Event | None,
) -> Result:
    began = time.perf_counter()
    _check(cancelled)
    source = _record_source(job)
    recipe = make_recipe(separator, job, options)
    is_clean = not staging_folder(job).exists()
    if is_clean and not options.overwrite and proves_done(job, source, recipe):
        return _skip(job)
    with Staging(job) as staging:
        if not options.overwrite and proves_done(job, source, recipe):
            return _skip(job)
        _refuse_foreign(job, options.overwrite)
        run = _Run(separator, job, options, on_event, cancelled, staging)
        finished, manifest = run.separate(source, recipe)
        staging.commit(manifest)
    on_event(replace(finished, elapsed_s=time.perf_counter() - began))
    return Result(job, "done", manifest)


class _Run:
    """One song on its way: what `separate_file` holds between the staging folder and the commit."""

    def __init__(
        self,
        separator: Separator,
        job: Job,
        options: FileOptions,
        on_event: OnEvent,
        cancelled: threading.Event | None,
        staging: Staging,
    ) -> None:
        self._separator = separator
        self._job = job
        self._options = options
        self._on_event = on_event
        self._cancelled = cancelled
        self._staged = {
            stem: staging.name(index, path)
            for index, (stem, path) in enumerate(job.outputs.items())
        }
        self._staging = staging
        self._notices: list[str] = []
        self._info = probe(job.source.path)

    def separate(self, source: SourceRecord, recipe: Recipe) -> tuple[Finished, Manifest]:
        """Write all outputs into the staging folder."""
        before = _fingerprint(self._job)
        started, finished, files, gain = self._write_stems()
        mp4 = self._write_stem_mp4(self._job.stem_mp4, gain) if self._job.stem_mp4 else None
        if _fingerprint(self._job) != before:
            raise DecodeError(
                f"{str(self._job.source.path)!r} changed while it was being separated",
                help="run again when nothing writes to it any more.",
            )
        for sentence in describe_levels(files.meters, gain, self._options.clip, self._format):
            self._pass_on(Notice(sentence))
        _check(self._cancelled)
        stems, stem_mp4 = self._record_files(files, gain, mp4)
        manifest = Manifest(
            track=self._job.track,
            source=source,
            recipe=recipe,
            sample_rate=started.sample_rate,
            channels=started.channels,
            samples=finished.samples,
            duration_s=round(finished.samples / started.sample_rate, 6),
            gain=gain,
            gain_db=to_db(gain) or 0.0,
            stems=stems,
            stem_mp4=stem_mp4,
            notices=tuple(self._notices),
            versions=list_versions(ffmpeg_version()),
            device=started.device,
        )
        return finished, replace(manifest, earlier=_list_earlier(self._job, manifest))

    @property
    def _format(self) -> OutputFormat:
        return self._options.format

    def _write_stems(self) -> tuple[Started, Finished, StemFiles, float]:
        """Take the song through the separator into the stems' files."""
        started = finished = files = None
        stream = self._separator.stream(self._job.source.path)
        try:
            with closing(cast("Generator[Event, None, None]", stream)) as events:
                for event in events:
                    _check(self._cancelled)
                    if isinstance(event, StemBlock) and files is not None:
                        files.feed(event)
                    elif isinstance(event, Finished):
                        finished = event
                    else:
                        if isinstance(event, Started):
                            started, files = event, self._open_files(event)
                        self._pass_on(event)
            if started is None or finished is None or files is None:
                raise RuntimeError("the separator stopped before it had finished")
            return started, finished, files, files.finish()
        except BaseException:
            if files is not None:
                files.abort()
            raise

    def _open_files(self, started: Started) -> StemFiles:
        sound = Sound(started.sample_rate, started.channels, self._format, self._options.clip)
        return StemFiles(self._staged, sound, partial(self._open_writer, started))

    def _open_writer(self, started: Started, stem: str) -> StemWriter:
        return StemWriter(
            self._staged[stem],
            sample_rate=started.sample_rate,
            channels=started.channels,
            format=self._format,
            tags=make_tags(self._info.tags, self._job.track, stem),
            cover_from=self._job.source.path if self._info.has_cover else None,
        )

    def _write_stem_mp4(self, target: Path, gain: float) -> Path:
        """Write the file with all stems; its mixture is decoded as the separator's was."""
        path = self._staging.name(len(self._staged), target)
        mixture = self._staging.folder / "mixture.wav"
        asked = self._separator.options
        decoder = decode_blocks(
            self._job.source.path,
            stream=asked.stream,
            start_s=asked.start_s,
            duration_s=asked.duration_s,
        )
        with decoder:
            writer = StemWriter(
                mixture,
                sample_rate=decoder.sample_rate,
                channels=decoder.channels,
                format=parse_format("wav", bits=32),
            )
            with writer:
                for block in decoder:
                    _check(self._cancelled)
                    writer.write(block if gain == 1.0 else block * block.dtype.type(gain))
        tags = make_tags(self._info.tags, self._job.track)
        write_stem_mp4(path, mixture, list(self._staged.items()), tags=tags)
        mixture.unlink()
        return path

    def _record_files(
        self, files: StemFiles, gain: float, mp4: Path | None
    ) -> tuple[tuple[StemRecord, ...], FileRecord | None]:
        """Measure and hash what was written, all files at once."""
        job, folder = self._job, self._job.manifest.parent
        paths = [*self._staged.values(), *([mp4] if mp4 else [])]
        with refuse_os_errors(self._staging.folder), ThreadPoolExecutor(len(paths)) as pool:
            hashes = list(pool.map(hash_file, paths))
            sizes = [path.stat().st_size for path in paths]
        is_limited = self._options.clip == "clamp" or not is_float(self._format)
        stems = []
        for index, (stem, meter) in enumerate(files.meters.items()):
            record = StemRecord(
                file=relative_name(job.outputs[stem], folder),
                bytes=sizes[index],
                sha256=hashes[index],
                stem=stem,
                peak_db=meter.peak_db(gain),
                loudness_lufs=meter.loudness_lufs(gain),
                clipped_samples=meter.over if is_limited and gain == 1.0 else 0,
            )
            stems.append(record)
        if job.stem_mp4 is None:
            return tuple(stems), None
        name = relative_name(job.stem_mp4, folder)
        return tuple(stems), FileRecord(name, sizes[-1], hashes[-1])

    def _pass_on(self, event: Event) -> None:
        if isinstance(event, Notice):
            event = Notice(_call_by_name(self._job, event.message))
            self._notices.append(event.message)
        self._on_event(event)


def _call_by_name(job: Job, sentence: str) -> str:
    """Speak of a source that lies in a temporary file by its name: "stdin"."""
    source = job.source
    if not source.is_temporary:
        return sentence
    path = str(source.path)
    for written in (repr(path), f"file:{path}", path):
        sentence = sentence.replace(written, source.title)
    return sentence


def _skip(job: Job) -> Result:
    manifest = read_manifest(job.manifest)
    assert manifest is not None, "the proof was read a moment ago"
    return Result(job, "skipped", manifest)


def _record_source(job: Job) -> SourceRecord:
    source = job.source
    return record_source(source.path, source.name, place=source.place, version=source.version)


def _fingerprint(job: Job) -> tuple[int, int]:
    try:
        found = os.stat(job.source.path)
    except OSError:
        return (-1, -1)
    return (found.st_size, found.st_mtime_ns)


def _refuse_foreign(job: Job, overwrite: bool) -> None:
    """Check that nothing would be lost: what is in the way is our own work.

    A manifest that is damaged still says whose the files around it are.

    Raises:
        OutputError: There is a folder, or a file that no manifest lists.
    """
    manifest = read_manifest(job.manifest)
    folder = job.manifest.parent
    is_ours = overwrite or (manifest is None and job.manifest.exists())
    owned = manifest.owned if manifest else set()
    for path in job.paths:
        if path.is_dir():
            raise OutputError(
                f"{str(path)!r} is a folder, and a file is to be written there",
                help="move it away, or choose another folder with -o.",
            )
        if is_ours or path == job.manifest or not os.path.lexists(path):
            continue
        if relative_name(path, folder) not in owned:
            raise OutputError(
                f"{str(path)!r} is there already, and no manifest says that stemsplit wrote it",
                help="move it away, choose another folder with -o, or give --overwrite.",
            )


def _list_earlier(job: Job, manifest: Manifest) -> tuple[str, ...]:
    """List outputs of earlier runs, with other options, that are still there."""
    before = read_manifest(job.manifest)
    now = {record.file for record in manifest.files}
    rest = before.owned - now if before else set()
    return tuple(sorted(name for name in rest if (job.manifest.parent / name).exists()))


def _check(cancelled: threading.Event | None) -> None:
    if cancelled is not None and cancelled.is_set():
        raise CancelledError("stopped", help="run again to go on; what is done is kept.")
