"""museval, the definition's own program, without its package, which wants musdb and pandas."""

from __future__ import annotations

import importlib.util
import types
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def museval(distribution_file: Callable[[str, str], Path]) -> types.ModuleType:
    """The oracle's module `metrics`."""
    pytest.importorskip("scipy", reason="museval computes with scipy: `make test` installs it")
    path = distribution_file("museval", "museval/metrics.py")
    spec = importlib.util.spec_from_file_location("museval_metrics", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
