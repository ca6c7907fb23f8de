"""The compiled libraries: how they are made, and which one is taken."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from stemsplit.backends.native import library as library_module
from stemsplit.backends.native.convolution import NativeConv2d
from stemsplit.backends.native.fusing import use_native_convolutions
from stemsplit.backends.native.library import Library, find_library

ROOT = Path(__file__).parents[2]


class TestChoice:
    @pytest.fixture(autouse=True)
    def _look_anew(self) -> Iterator[None]:
        find_library.cache_clear()
        yield
        find_library.cache_clear()

    def test_it_can_be_turned_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STEMSPLIT_NATIVE", "0")
        net = nn.Sequential(nn.Conv2d(8, 8, 3))
        use_native_convolutions(net)
        assert isinstance(net[0], nn.Conv2d)

    def test_without_a_library_torch_does_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(library_module, "_LIBRARIES", {})
        monkeypatch.setattr(platform, "machine", lambda: "riscv64")
        net = nn.Sequential(nn.Conv2d(8, 8, 3))
        use_native_convolutions(net)
        assert isinstance(net[0], nn.Conv2d)

    def test_a_network_gets_them(self) -> None:
        if find_library() is None:
            pytest.skip("the package was built without a C compiler, or for another processor")
        net = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(2, 2, 3), nn.Conv2d(8, 8, 1))
        weights = net[0].weight
        use_native_convolutions(net.eval())
        assert [type(layer) for layer in net] == [NativeConv2d, nn.Conv2d, nn.Conv2d]
        assert weights.requires_grad, "the layer itself stays as it was"

    @pytest.mark.parametrize("halves", [False, True])
    def test_long_vectors_are_for_processors_that_take_them_whole(
        self, halves: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Compiled:
            def __init__(self, path: Path) -> None:
                self.name = path.stem
                self.halves = halves and path.stem == "convolution-avx512"

        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")
        monkeypatch.setattr(library_module, "Library", Compiled)
        found = find_library()
        assert isinstance(found, Compiled)
        assert found.name == ("convolution-avx512vl" if halves else "convolution-avx512")

    def test_long_vectors_are_better_than_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Compiled:
            halves = True

            def __init__(self, path: Path) -> None:
                if path.stem != "convolution-avx512":
                    raise OSError(path)

        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")
        monkeypatch.setattr(library_module, "Library", Compiled)
        assert isinstance(find_library(), Compiled)


class TestBuild:
    def test_only_long_vectors_are_halved_and_by_one_family(self, library: Library) -> None:
        told = Path("/proc/cpuinfo")
        if library.lanes < 16 or not told.exists():
            assert library.lanes == 16 or not library.halves
            return
        said = dict(line.split(":", 1) for line in told.read_text().splitlines() if ":" in line)
        facts = {key.strip(): value.strip() for key, value in said.items()}
        is_amd = facts.get("vendor_id") == "AuthenticAMD"
        assert library.halves == (is_amd and facts.get("cpu family") == "25")

    def test_without_a_compiler_nothing_is_left(
        self, build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setattr(shutil, "which", lambda _: None)
        failed = build.compile_libraries(tmp_path)
        assert set(failed) == set(build.VARIANTS.get(platform.machine().lower(), {}))
        assert all("no C compiler" in reason for reason in failed.values())

    def test_a_compiler_that_fails_is_quoted(
        self, build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CC", "false")
        folder = tmp_path / build.FOLDER
        folder.mkdir(parents=True)
        for reason in build.compile_libraries(tmp_path).values():
            assert "false" in reason
        assert not list(folder.iterdir())

    def test_a_library_of_other_sources_is_refused(
        self, library: Library, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = Path(library._library._name)
        monkeypatch.setattr(library_module.ctypes, "sizeof", lambda _: 1)
        with pytest.raises(OSError, match="other sources"):
            Library(path)

    @pytest.mark.parametrize(
        "name",
        ["convolve_beside", "follow", "convolve_planes", "follow_rows", "multiply_rows", "pack"],
    )
    def test_a_library_without_a_function_is_refused(
        self, name: str, build: ModuleType, tmp_path: Path
    ) -> None:
        compiler = shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            pytest.skip("there is no C compiler")
        sources = [str(ROOT / source) for source in build.SOURCES]
        target = tmp_path / "old.so"
        flags = ("-std=gnu11", "-DLANES=4", "-DREGISTERS=32", "-w", "-fPIC", "-shared")
        flags += (f"-Dstemsplit_{name}=stemsplit_{name}_of_old",)
        subprocess.run([compiler, *flags, *sources, "-o", str(target)], check=True)
        with pytest.raises(OSError, match="other sources"):
            Library(target)
