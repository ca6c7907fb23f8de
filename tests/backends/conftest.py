from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from stemsplit.backends.native.library import Library

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """Return `hatch_build.py`."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=[(4, 32), (8, 16), (8, 32), (16, 32)], ids=str)
def library(
    request: pytest.FixtureRequest, build: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Library:
    """Return the convolutions for vectors of any processor, compiled for this one."""
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no C compiler")
    target = tmp_path_factory.mktemp("native") / "convolution.so"
    flags = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-fPIC", "-shared")
    sources = [str(ROOT / source) for source in build.SOURCES]
    lanes, registers = request.param
    kind = (f"-DLANES={lanes}", f"-DREGISTERS={registers}")
    subprocess.run([compiler, *flags, *kind, *sources, "-o", str(target)], check=True)
    return Library(target)
