"""Which backend is taken, and what is refused."""

from __future__ import annotations

import pytest
import torch

from stemsplit.backends import openvino_core
from stemsplit.backends.choice import VARIABLE, find_backend
from stemsplit.backends.native import library
from stemsplit.errors import DeviceError, UnknownNameError
from stemsplit.models.catalogue import ARCHITECTURES, find_architecture
from stemsplit.separation.separator import _is_convolutional

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)


@pytest.fixture(params=[True, False])
def installed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(openvino_core, "is_installed", lambda: request.param)
    return bool(request.param)


@pytest.fixture(params=[True, False])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(library, "find_library", lambda: object() if request.param else None)
    return bool(request.param)


def test_auto_takes_openvino_where_torch_has_no_convolutions_of_ours(
    installed: bool, native: bool
) -> None:
    expected = "openvino" if installed and not native else "torch"
    assert find_backend("auto", CPU, "fp32", is_kept=True) == expected


@pytest.mark.parametrize("has_amx", [True, False])
def test_auto_takes_openvino_for_bf16_where_ours_are_no_faster(
    monkeypatch: pytest.MonkeyPatch, native: bool, has_amx: bool
) -> None:
    monkeypatch.setattr(openvino_core, "is_installed", lambda: True)
    monkeypatch.setattr(openvino_core, "computes_in", lambda precision: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx, raising=False)
    expected = "torch" if native and not has_amx else "openvino"
    assert find_backend("auto", CPU, "bf16", is_kept=True) == expected


def test_auto_takes_openvino_for_bf16_where_torch_would_compute_all_in_fp32(
    monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    monkeypatch.setattr(library, "find_library", object)
    monkeypatch.setattr(openvino_core, "computes_in", lambda precision: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    for precision, is_convolutional in (("bf16", True), ("bf16", False), ("fp32", True)):
        backend = find_backend(
            "auto", CPU, precision, is_kept=True, is_convolutional=is_convolutional
        )
        is_lost = precision == "bf16" and is_convolutional
        assert backend == ("openvino" if is_lost and installed else "torch")


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_which_networks_are_all_convolutions(name: str) -> None:
    kind = find_architecture(name)
    core = kind(kind.Config.tiny(("vocals",))).core
    assert _is_convolutional(core) == (name in ("d3net", "spleeter"))


def test_auto_takes_torch_where_a_graph_would_be_made_every_time(installed: bool) -> None:
    assert find_backend("auto", CPU, "fp32", is_kept=False) == "torch"


def test_auto_takes_torch_on_a_graphics_card(installed: bool) -> None:
    assert find_backend("auto", CUDA, "bf16", is_kept=True) == "torch"


def test_auto_takes_torch_where_openvino_would_compute_in_other_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openvino_core, "is_installed", lambda: True)
    monkeypatch.setattr(openvino_core, "computes_in", lambda precision: precision == "fp32")
    assert find_backend("auto", CPU, "bf16", is_kept=True) == "torch"
    with pytest.raises(DeviceError, match="does not compute in bf16"):
        find_backend("openvino", CPU, "bf16", is_kept=True)


def test_what_is_asked_for_is_taken() -> None:
    pytest.importorskip("openvino")
    assert find_backend("torch", CPU, "fp32", is_kept=True) == "torch"
    assert find_backend("openvino", CPU, "fp32", is_kept=False) == "openvino"


def test_the_variable_says_what_auto_is(monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    monkeypatch.setenv(VARIABLE, "torch")
    assert find_backend("auto", CPU, "fp32", is_kept=True) == "torch"
    monkeypatch.setenv(VARIABLE, "torhc")
    with pytest.raises(UnknownNameError, match="torhc"):
        find_backend("auto", CPU, "fp32", is_kept=True)


def test_openvino_on_a_graphics_card_is_refused() -> None:
    with pytest.raises(DeviceError, match="cuda is none") as caught:
        find_backend("openvino", CUDA, "fp32", is_kept=True)
    assert "--device cpu" in caught.value.help


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="openvin'") as caught:
        find_backend("openvin", CPU, "fp32", is_kept=True)
    assert "openvino" in caught.value.help


def test_without_the_package_the_help_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    openvino_core.find_runtime.cache_clear()
    with pytest.raises(DeviceError, match="needs the package openvino") as caught:
        find_backend("openvino", CPU, "fp32", is_kept=True)
    assert 'pip install "stemsplit[openvino]"' in caught.value.help
