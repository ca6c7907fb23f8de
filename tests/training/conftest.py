from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from music import write_songs


@pytest.fixture(scope="session")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two stems: three tracks to learn from, one to judge by."""
    return write_songs(tmp_path_factory.mktemp("songs"))
