"""What torch.compile makes of a network gives what the network gives, and says where it cannot."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stemsplit.backends.choice import find_backend
from stemsplit.backends.compiled_core import CompiledCore
from stemsplit.backends.one_item import Tensors
from stemsplit.dsp.threads import set_own_threads
from stemsplit.errors import DeviceError
from stemsplit.models.base import StemModel
from stemsplit.models.catalogue import ARCHITECTURES, find_architecture
from stemsplit.separation.cores import make_core
from stemsplit.separation.separator import Separator

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="there is no C++ compiler"
)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever another run has compiled is not there."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))


def small_core() -> nn.Sequential:
    core = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in core.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape) + 0.1)
    return core.eval()


def tiny(name: str) -> StemModel:
    kind = find_architecture(name)
    torch.manual_seed(1)
    return kind(kind.Config.tiny(("vocals", "drums", "other"))).eval()


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_it_sees_a_network_whole(name: str) -> None:
    model = tiny(name)
    if any(isinstance(one, nn.RNNBase) for one in model.core.modules()):
        pytest.skip("torch.compile leaves recurrent layers to torch")
    inputs, _ = model.encode(torch.zeros(1, 2, model.chunk.samples))
    with torch.no_grad():
        seen = torch._dynamo.explain(model.core)(*inputs)
    torch._dynamo.reset()
    assert seen.graph_count == 1, [str(one.reason) for one in seen.break_reasons]


class Calls:
    """torch.compile that notes how often its code is called, and with what."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.options: dict[str, Any] = {}

    def compile(self, core: nn.Module, **options: Any) -> Callable[..., Any]:
        self.options = options

        def run(image: torch.Tensor) -> torch.Tensor:
            self.shapes.append(tuple(image.shape))
            result: torch.Tensor = core(image)
            return result

        return run


IMAGES = """
core, image = small_core(), torch.randn(3, 2, 20, 30)
with torch.no_grad():
    expected = core(image)
(got,) = CompiledCore(core, CPU, "fp32", (image[:1],))((image,))
torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
assert isinstance(core[1], torch.nn.BatchNorm2d), "the caller's network is left as it is"
"""
SONGS = """
torch.set_num_threads(2)
model = tiny("open-unmix")
song = 0.1 * torch.randn(2, 9 * model.chunk.samples // 2)
expected = Separator(model, backend="torch").separate(song)
separator = Separator(model, backend="compile")
assert separator.backend == "compile"
first, second = separator.separate(song), separator.separate(song)
for stem in model.stems:
    assert torch.equal(first[stem], second[stem])
    assert float((first[stem] - expected[stem]).norm() / expected[stem].norm()) < 1e-5
"""


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("code", [IMAGES, SONGS], ids=["images", "songs"])
def test_it_gives_what_torch_gives(code: str) -> None:
    # In a process of its own: torch's compiler brings packages that change Python itself.
    imports = "from tests.backends.test_compiled_core import *"
    command = [sys.executable, "-c", f"{imports}\n{code}"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@torch.no_grad()
def test_another_length_goes_through_the_network_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls()
    monkeypatch.setattr(torch, "compile", calls.compile)
    core = small_core()
    compiled = CompiledCore(core, CPU, "fp32", (torch.randn(1, 2, 20, 30),))
    assert calls.options == {"dynamic": False}
    short = torch.randn(1, 2, 20, 25)
    torch.testing.assert_close(compiled((short,))[0], core(short))
    compiled((torch.randn(2, 2, 20, 30),))
    assert calls.shapes == [(1, 2, 20, 30)] * 3


def test_code_is_tried_for_every_number_of_threads_and_by_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch, four_threads: None
) -> None:
    tried: list[int] = []
    busy = threading.Lock()

    def compile_slowly(core: nn.Module, **_: Any) -> Callable[..., Any]:
        def run(image: torch.Tensor) -> torch.Tensor:
            if torch.get_num_threads() not in tried:
                assert busy.acquire(blocking=False), "two threads compile at once"
                time.sleep(0.05)
                tried.append(torch.get_num_threads())
                busy.release()
            result: torch.Tensor = core(image)
            return result

        return run

    monkeypatch.setattr(torch, "compile", compile_slowly)
    image = torch.randn(1, 2, 20, 30)
    core = CompiledCore(small_core(), CPU, "fp32", (image,), workers=2)
    assert tried == [2]
    assert torch.get_num_threads() == 4
    with ThreadPoolExecutor(3, initializer=set_own_threads, initargs=(3,)) as pool:
        for (got,) in pool.map(core, [(image,)] * 6):
            assert got.shape == (1, 4, 16, 26)
    assert tried == [2, 3]


def test_code_that_fails_for_another_number_of_threads_is_explained(
    monkeypatch: pytest.MonkeyPatch, four_threads: None
) -> None:
    def compile_for_two(core: nn.Module, **_: Any) -> Callable[..., Any]:
        def run(image: torch.Tensor) -> Any:
            if torch.get_num_threads() != 2:
                raise RuntimeError("no code for these")
            return core(image)

        return run

    monkeypatch.setattr(torch, "compile", compile_for_two)
    image = torch.randn(1, 2, 20, 30)
    core = CompiledCore(small_core(), CPU, "fp32", (image,), workers=2)
    with pytest.raises(DeviceError, match="no code for these"):
        core((image,))


def test_chunks_of_the_length_asked_for_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []

    def note(core: nn.Module, _: object, __: object, example: Tensors, workers: int) -> nn.Module:
        assert workers == 1
        lengths.append(example[0].shape[-1])
        return core

    monkeypatch.setattr("stemsplit.separation.cores.CompiledCore", note)
    model = tiny("open-unmix")
    seconds = 2 * model.chunk.samples / model.sample_rate
    Separator(model, backend="compile")
    Separator(model, backend="compile", segment_s=seconds)
    assert lengths[1] == pytest.approx(2 * lengths[0], abs=2)


@pytest.mark.parametrize("said", ["RuntimeError: No working C++ compiler found", ""])
def test_a_machine_without_a_compiler_is_told_so(
    monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    def fail(*_: object, **__: object) -> Callable[..., Any]:
        def run(*_: object) -> None:
            raise RuntimeError(said)

        return run

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(DeviceError, match=re.escape(said or "RuntimeError")) as caught:
        CompiledCore(small_core(), CPU, "fp32", (torch.randn(1, 2, 20, 30),))
    assert "--backend torch" in caught.value.help


def test_code_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda core, **_: lambda image: core(image) * 1.001)
    with pytest.raises(DeviceError, match="away from it"):
        CompiledCore(small_core(), CPU, "fp32", (torch.randn(1, 2, 20, 30),))


@pytest.mark.parametrize("factor", [1.5, torch.nan])
def test_bf16_is_compared_too(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    monkeypatch.setattr(torch, "compile", lambda core, **_: lambda image: core(image) * factor)
    with pytest.raises(DeviceError, match="away from it"):
        CompiledCore(small_core(), CPU, "bf16", (torch.randn(1, 2, 20, 30),))


def test_lack_of_memory_is_not_blamed_on_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Callable[..., Any]:
        def run(*_: object) -> None:
            raise MemoryError

        return run

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(DeviceError, match="ran out of memory"):
        CompiledCore(small_core(), CPU, "fp32", (torch.randn(1, 2, 20, 30),))


def test_a_variable_that_asks_for_it_where_it_cannot_be_is_answered_with_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STEMSPLIT_BACKEND", "compile")
    separator = Separator(tiny("open-unmix"), framing="original")
    assert separator.backend == "torch"
    with pytest.raises(DeviceError, match="one length"):
        Separator(tiny("open-unmix"), framing="original", backend="compile")


def test_whole_songs_are_refused() -> None:
    model = tiny("open-unmix")
    with pytest.raises(DeviceError, match="one length"):
        make_core(model, CPU, "compile", "fp32", is_whole=True)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("is_kept", [True, False])
def test_it_is_taken_only_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, device: str, precision: str, is_kept: bool
) -> None:
    monkeypatch.delenv("STEMSPLIT_BACKEND", raising=False)
    asked = torch.device(device), precision
    assert find_backend("compile", *asked, is_kept=is_kept) == "compile"
    assert find_backend("auto", *asked, is_kept=is_kept) != "compile"
