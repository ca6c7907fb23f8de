from __future__ import annotations

import pytest
import torch
from random_weights import randomise
from torch import nn

from stemsplit.backends.torch_core import (
    TorchCore,
    explain_lack_of_memory,
    find_device,
    find_precision,
)
from stemsplit.errors import DeviceError, UnknownNameError
from stemsplit.models.base import StemModel
from stemsplit.models.catalogue import ARCHITECTURES, find_architecture

PRECISIONS = ("fp32", "bf16")


def test_devices_by_name() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "cpu0"])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(UnknownNameError):
        find_device(name)


def test_a_device_that_is_not_there_is_said_so() -> None:
    with pytest.raises(DeviceError, match="doctor"):
        find_device(f"cuda:{torch.cuda.device_count()}")


def test_precisions() -> None:
    cpu = torch.device("cpu")
    assert find_precision("auto", cpu) == "fp32"
    assert find_precision("bf16", cpu) == "bf16"
    with pytest.raises(UnknownNameError, match="fp32"):
        find_precision("fp23", cpu)
    with pytest.raises(DeviceError, match="bf16"):
        find_precision("fp16", cpu)


@pytest.mark.parametrize("precision", PRECISIONS)
@torch.no_grad()
def test_it_gives_what_the_core_gives_in_float32(precision: str) -> None:
    torch.manual_seed(0)
    core = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    image = torch.randn(3, 2, 20, 30)
    expected = core(image)
    (got,) = TorchCore(core, torch.device("cpu"), precision)((image,))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 if precision == "fp32" else 2e-2)


@pytest.mark.parametrize("has_amx", [False, True])
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
@torch.no_grad()
def test_every_architecture_runs_in_bf16(
    name: str, has_amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx, raising=False)
    kind = find_architecture(name)
    model: StemModel = kind(kind.Config.tiny(("vocals", "drums", "bass"))).eval()
    randomise(model)
    dice = torch.Generator().manual_seed(1)
    inputs, _ = model.encode(0.2 * torch.randn(1, 2, model.chunk.samples, generator=dice))
    cpu = torch.device("cpu")
    exact, lowered = (TorchCore(model.core, cpu, precision)(inputs) for precision in PRECISIONS)
    for plain, ours in zip(exact, lowered, strict=True):
        assert ours.dtype == torch.float32
        # The bar of a song is 40 dB, which is 1e-2; these are a few frames of random weights.
        assert (ours - plain).norm() <= 3e-2 * plain.norm()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("tried to allocate 3 PiB\nmore words"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate"),
        MemoryError(),
    ],
)
def test_running_out_of_memory_says_what_to_do(error: Exception) -> None:
    cpu = torch.device("cpu")
    with pytest.raises(DeviceError, match="out of memory") as told, explain_lack_of_memory(cpu):
        raise error
    assert "segment" in str(told.value.help)


def test_other_errors_stay_what_they_are() -> None:
    cpu = torch.device("cpu")
    with pytest.raises(RuntimeError, match="mismatch") as told, explain_lack_of_memory(cpu):
        raise RuntimeError("shape mismatch")
    assert not isinstance(told.value, DeviceError)


def test_the_network_that_was_given_stays_as_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ConvTranspose2d(8, 2, 5, stride=2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    core = TorchCore(network, torch.device("cpu"), "fp32")
    core((torch.randn(1, 2, 16, 16),))
    assert [type(module) for module in network] == [nn.Conv2d, nn.ConvTranspose2d]
    for name, value in network.state_dict().items():
        assert value.is_contiguous()
        assert torch.equal(value, before[name])
