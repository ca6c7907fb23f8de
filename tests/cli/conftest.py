"""A home of its own for every test, with a registry of one tiny model of random weights."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_model import write_tiny_registry

ROOT = Path(__file__).parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def tiny_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The registry file of the tiny model."""
    return write_tiny_registry(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def home(tmp_path: Path, tiny_registry: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: empty, with a cache, a configuration and logs elsewhere of their own."""
    around = tmp_path / "around"
    for name in ("STEMSPLIT_OFFLINE", "STEMSPLIT_DEBUG", "STEMSPLIT_FFMPEG", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STEMSPLIT_CACHE", str(around / "cache"))
    monkeypatch.setenv("STEMSPLIT_REGISTRY", str(tiny_registry))
    monkeypatch.setenv("HOME", str(around))
    for name in ("CONFIG", "STATE", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(around / name.lower()))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


@pytest.fixture
def run(home: Path) -> Run:
    """Run `python -m stemsplit` in a process of its own."""

    def call(*arguments: str, env: dict[str, str] | None = None, **options: object) -> object:
        given = {"capture_output": True, "text": True, "timeout": 60, **options}
        return subprocess.run(
            [sys.executable, "-m", "stemsplit", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(env or {})},
            check=False,
            **given,  # type: ignore[call-overload]  # subprocess's own options
        )

    return call  # type: ignore[return-value]  # the same call, typed for text
