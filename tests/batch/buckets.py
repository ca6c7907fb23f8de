"""Object storage for tests: an S3 server in this process, and memory that fails when told to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import pytest

KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def serve_s3() -> Iterator[str]:
    """Give the address of an S3 server with an empty bucket named "bucket"."""
    server = pytest.importorskip("moto.server", reason="moto is not installed")
    s3fs = pytest.importorskip("s3fs", reason="the extra [cloud] is not installed")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.lower().endswith("_proxy") or name.startswith("AWS_"):
                patch.delenv(name)
        for name, value in KEYS.items():
            patch.setenv(name, value)
        running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        running.start()
        try:
            host, port = running.get_host_and_port()
            address = f"http://{host}:{port}"
            patch.setenv("AWS_ENDPOINT_URL", address)
            s3fs.S3FileSystem.clear_instance_cache()
            s3fs.S3FileSystem().mkdir("bucket")
            yield address
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            running.stop()


class Memory:
    """fsspec's storage in memory, emptied, with hooks before its verbs.

    Attributes:
        files: fsspec's.
        calls: Every call of a verb: its name and the object's.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.files: Any = fsspec.filesystem("memory", use_listings_cache=False)
        self.clear()
        self.calls: list[tuple[str, str]] = []
        self._hooks: list[Callable[[str, str], None]] = []
        for verb in ("put_file", "get_file", "cat_file", "pipe_file", "rm_file", "info", "ls"):
            self._watch(patch, verb)

    def before(self, hook: Callable[[str, str], None]) -> None:
        """Have a function called with the verb and the object's name before each call."""
        self._hooks.append(hook)

    def names(self) -> list[str]:
        """Return the names of all objects, without the slash in front."""
        return sorted(name.lstrip("/") for name in self.files.store)

    def clear(self) -> None:
        """Drop everything."""
        self.files.store.clear()
        self.files.pseudo_dirs[:] = [""]

    def _watch(self, patch: pytest.MonkeyPatch, verb: str) -> None:
        real = getattr(self.files, verb)

        def call(*arguments: Any, **rest: Any) -> Any:
            name = arguments[1] if verb == "put_file" else arguments[0]
            name = name.removeprefix("memory://").lstrip("/")
            self.calls.append((verb, name))
            for hook in self._hooks:
                hook(verb, name)
            return real(*arguments, **rest)

        patch.setattr(self.files, verb, call)
