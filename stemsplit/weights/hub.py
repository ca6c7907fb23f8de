"""Files on the Hugging Face hub, fetched with its own library: its tokens, mirrors, transport."""

from __future__ import annotations

import importlib
import inspect
import os
from pathlib import Path
from typing import Any

from stemsplit.errors import DiskFullError, DownloadError, HttpStatusError, NetworkError
from stemsplit.weights.digests import Progress
from stemsplit.weights.disk import FULL_ERRNOS, FULL_HELP, make_folder
from stemsplit.weights.sources import HubSource

_STATUS_HELP = {
    "GatedRepoError": "accept its terms on the hub and log in with `hf auth login`.",
    "RepositoryNotFoundError": "check the name; for a private one log in with `hf auth login`.",
    "RevisionNotFoundError": "check what stands behind the @.",
    "EntryNotFoundError": "check the path; the publisher may have moved the file.",
}


def download_from_hub(source: HubSource, folder: Path, on_progress: Progress | None = None) -> Path:
    """Fetch a file from the hub, or from what HF_ENDPOINT names, and return its path.

    Args:
        source: Which file.
        folder: Created; the hub's library keeps its own notes there, so that it can resume.
        on_progress: Told how far it is.

    Raises:
        HttpStatusError: No such repository, revision or file, or no right to it.
        NetworkError: No connection.
        DiskFullError: It does not fit.
    """
    make_folder(folder)
    import huggingface_hub

    options: dict[str, Any] = {"endpoint": os.environ.get("HF_ENDPOINT") or None}
    if "tqdm_class" in inspect.signature(huggingface_hub.hf_hub_download).parameters:
        options["tqdm_class"] = _make_reporter(on_progress)
    else:  # an older version: it would draw a bar of its own
        importlib.import_module("huggingface_hub.utils").disable_progress_bars()
    try:
        path = Path(
            huggingface_hub.hf_hub_download(
                source.repo, source.path, revision=source.revision, local_dir=folder, **options
            )
        )
    except Exception as error:  # its HTTP library, and so its errors, differ between versions
        raise _explain(source, error) from error
    if on_progress is not None:
        on_progress(path.stat().st_size, path.stat().st_size)
    return path


def _make_reporter(on_progress: Progress | None) -> type[Any]:
    """Return a class of silent progress bars that hand on what they are told."""
    from tqdm import tqdm

    class Reporter(tqdm):  # type: ignore[misc]  # it has no types
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})
            self.done = int(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> bool | None:
            self.done += int(n or 0)
            if on_progress is not None:
                on_progress(self.done, None if self.total is None else int(self.total))
            return None

    return Reporter


def _explain(source: HubSource, error: Exception) -> DownloadError | DiskFullError:
    if getattr(error, "errno", None) in FULL_ERRNOS:
        return DiskFullError(f"the disk is full: {source} does not fit", help=FULL_HELP)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason")
    for kind, help in _STATUS_HELP.items():
        # What the library calls LocalEntryNotFoundError is a failed connection.
        if kind in kinds and "LocalEntryNotFoundError" not in kinds:
            return HttpStatusError(f"{source} cannot be had: {first}", help=help)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return HttpStatusError(
            f"{source} cannot be had, the hub answered {status}: {first}", help="try again later."
        )
    return NetworkError(
        f"{source} cannot be had: {first}", help="check the connection and HF_ENDPOINT."
    )
