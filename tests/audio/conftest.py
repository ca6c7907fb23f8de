from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def fake_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Make $STEMSPLIT_FFMPEG a shell script that calls itself ffmpeg and does as it is told."""

    def make(script: str) -> Path:
        path = tmp_path / "fake-ffmpeg"
        version = 'if [ "$1" = -version ]; then echo "ffmpeg version fake-1"; exit 0; fi'
        path.write_text(f"#!/bin/sh\n{version}\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("STEMSPLIT_FFMPEG", str(path))
        return path

    return make
