"""Matrices over frequency in C, beside torch's in double precision."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from random_weights import randomise
from torch import Tensor, nn

from stemsplit.backends.native import fusing, matrices
from stemsplit.backends.native.fusing import use_native_matrices
from stemsplit.backends.native.library import Library
from stemsplit.backends.native.matrices import NativeMatrix, fits_matrix
from stemsplit.backends.torch_core import TorchCore
from stemsplit.models.blocks import framewise
from stemsplit.models.blocks.conditioning import Attention, Condition, ConditionedBlock, LaSAFT
from stemsplit.models.blocks.intermediate import TDF, DenseConv, LinearLayer
from stemsplit.models.lasaft import ConditionedUNet, ConditionedUNetConfig
from stemsplit.models.unet import (
    IntermediateBlockUNet,
    IntermediateBlockUNetConfig,
    SpectrogramUNet,
)

LAST = torch.channels_last


def build(layer: LinearLayer, library: Library) -> NativeMatrix:
    pieces = layer.matrix()
    assert isinstance(pieces.norm, nn.BatchNorm2d)
    slope = 0.0 if isinstance(pieces.activation, nn.ReLU) else 1.0
    return NativeMatrix(library, pieces.linear, pieces.norm, slope)


def draw(channels: int, f_in: int, f_out: int, *, activation: str, bias: bool) -> LinearLayer:
    layer = LinearLayer(channels, f_in, f_out, activation, bias=bias, affine=bias).eval()
    randomise(layer)
    return layer


def lay_out(images: Tensor) -> list[Tensor]:
    """Return the same numbers in other places. Shape: (B, C, N, F)."""
    last = images.contiguous(memory_format=LAST)
    wide = torch.full((*images.shape[:1], 40 + images.shape[1], *images.shape[2:]), torch.nan)
    part = wide.contiguous(memory_format=LAST)[:, 17 : 17 + images.shape[1]]
    part.copy_(images)
    frames = torch.cat([last, last, last], 2).contiguous(memory_format=LAST)
    bins = torch.cat([last, last], 3).contiguous(memory_format=LAST)[..., : images.shape[3]]
    return [images, last, part, frames[:, :, images.shape[2] : 2 * images.shape[2]], bins]


def differ(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("channels", [8, 16, 24, 40])
@pytest.mark.parametrize(
    ("frames", "f_in", "f_out"), [(1, 1, 1), (3, 7, 19), (5, 40, 8), (2, 2048, 20)]
)
@pytest.mark.parametrize(("activation", "bias"), [("relu", True), ("identity", False)])
@torch.no_grad()
def test_what_comes_out(
    library: Library, channels: int, frames: int, f_in: int, f_out: int, activation: str, bias: bool
) -> None:
    layer = draw(channels, f_in, f_out, activation=activation, bias=bias)
    native = build(layer, library)
    images = torch.randn(2, channels, frames, f_in)
    expected = copy.deepcopy(layer).double()(images.double())
    for one in lay_out(images):
        found = native(one)
        assert found.shape == expected.shape
        assert found.is_contiguous(memory_format=LAST)
        # Errors of a sum in float32 grow with the root of how many numbers it has.
        assert differ(found, expected) <= 1e-7 * max(20, f_in**0.5)
        assert torch.equal(native(one.bfloat16()), native(one.bfloat16().float()))


@pytest.mark.parametrize(("songs", "stems", "images"), [(1, 1, 1), (1, 3, 1), (2, 3, 2), (2, 3, 6)])
@pytest.mark.parametrize("latents", [1, 4])
@torch.no_grad()
def test_a_stem_sums_latent_sources(
    library: Library, songs: int, stems: int, images: int, latents: int
) -> None:
    layer = draw(24, 11, 9 * latents, activation="relu", bias=True)
    x, attention = torch.randn(images, 24, 5, 11), torch.randn(stems, latents)
    expected = copy.deepcopy(layer).double().sum_latents(attention.double(), songs)(x.double())
    for one in lay_out(x):
        found = build(layer, library).sum_latents(attention, songs)(one)
        assert found.shape == expected.shape == (songs * stems, 24, 5, 9)
        assert differ(found, expected) <= 2e-6


@torch.no_grad()
def test_threads_share_the_outputs(
    library: Library, four_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = draw(24, 30, 41, activation="relu", bias=True)
    native, x = build(layer, library), torch.randn(1, 24, 6, 30)
    alone = native(x)
    monkeypatch.setattr(matrices, "FEWEST_PRODUCTS", 1)
    assert torch.equal(native(x), alone)


@torch.no_grad()
def test_what_is_no_number_stays_none(library: Library) -> None:
    layer = draw(8, 3, 9, activation="relu", bias=True)
    x = torch.randn(1, 8, 2, 3)
    x[0, 5, 1, 2] = torch.nan
    is_nan = build(layer, library)(x).isnan()
    assert torch.equal(is_nan, layer(x).isnan())
    assert is_nan.sum() == 9


@torch.no_grad()
def test_nothing_is_read_or_written_past_the_end(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = draw(40, 5, 2 * 11, activation="relu", bias=True)
    layer.linear.weight = nn.Parameter(fence(layer.linear.weight))
    assert layer.linear.bias is not None
    layer.linear.bias = nn.Parameter(fence(layer.linear.bias))
    native = build(layer, library)
    native.scale, native.shift = fence(native.scale), fence(native.shift)
    x = fence(torch.randn(1, 3, 5, 40)).permute(0, 3, 1, 2)
    kept: list[Tensor] = []

    def new_empty(_: Tensor, shape: tuple[int, ...]) -> Tensor:
        kept.append(torch.full((torch.Size(shape).numel() + 128,), torch.nan))
        return kept[-1][64:-64].view(shape)

    monkeypatch.setattr(matrices, "new_empty", new_empty)
    found = native.sum_latents(fence(torch.rand(2, 2)), 1)(x)
    (memory,) = kept
    assert found.isfinite().all()
    assert memory[:64].isnan().all()
    assert memory[-64:].isnan().all()


def fence(values: Tensor) -> Tensor:
    """Copy numbers to where there are none before and behind."""
    memory = torch.full((values.numel() + 128,), torch.nan)
    memory[64:-64] = values.detach().flatten()
    return memory[64:-64].view(values.shape)


def test_images_of_another_kind_are_refused(library: Library) -> None:
    native = build(draw(8, 5, 3, activation="relu", bias=True), library)
    for x in (torch.randn(1, 8, 2, 6), torch.randn(1, 16, 2, 5), torch.randn(1, 8, 2, 5).double()):
        with pytest.raises(ValueError, match="8 channels of float32, of 5 bins"):
            native(x)


def test_what_is_left_to_torch(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    linear, norm = nn.Linear(5, 3), nn.BatchNorm2d(24)
    assert fits_matrix(norm, linear, library) == (library.lanes == library.patch_lanes)
    for other in (nn.BatchNorm2d(6), nn.BatchNorm2d(8, track_running_stats=False), nn.Identity()):
        assert not fits_matrix(other, linear, library)
    assert not fits_matrix(norm, nn.Linear(5, 3).bfloat16(), library)
    turned = nn.Linear(5, 3)
    turned.weight = nn.Parameter(turned.weight.T.contiguous().T)
    assert not fits_matrix(norm, turned, library)
    monkeypatch.setattr(matrices.sys, "platform", "darwin")
    assert not fits_matrix(norm, linear, library)


@pytest.mark.parametrize("numbers_at_once", [300, 1 << 20])
@pytest.mark.parametrize("kind", ["tdf", "tfc-tdf", "tdc-rnn", "film", "lasaft", "lightsaft"])
@torch.no_grad()
def test_whole_networks(
    library: Library,
    kind: Any,
    numbers_at_once: int,
    four_threads: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fusing, "find_library", lambda: library)
    monkeypatch.setattr(framewise, "NUMBERS_AT_ONCE", numbers_at_once)
    monkeypatch.setattr(matrices, "FEWEST_PRODUCTS", 1)
    sizes: dict[str, Any] = {"n_fft": 128, "segment_frames": 16, "blocks": 5, "width": 8}
    model: SpectrogramUNet
    if kind in ("tdf", "tfc-tdf", "tdc-rnn"):
        unet = IntermediateBlockUNetConfig(("vocals",), block=kind, layers=2, **sizes)
        model = IntermediateBlockUNet(unet)
    else:
        how = {"modulation": "film", "transform": "tdf"} if kind == "film" else {"transform": kind}
        sizes |= {"latents": 3, "embedding": 8, "layers": 2, **how}
        model = ConditionedUNet(ConditionedUNetConfig(("a", "b", "c"), **sizes))
    model.eval()
    randomise(model)
    planes = torch.randn(2, 4, 16, 65)
    ran = TorchCore(model.core, torch.device("cpu"), "fp32")
    (got,) = ran((planes,))
    has_matrices = any(isinstance(one, NativeMatrix) for one in ran._core.modules())
    assert has_matrices == (library.lanes == library.patch_lanes)
    expected = copy.deepcopy(model.core).double()(planes.double())
    assert (got - expected).norm() < 1e-5 * expected.norm()
    assert torch.equal(ran((planes,))[0], got)


@torch.no_grad()
def test_a_block_with_its_matrices_in_c(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusing, "find_library", lambda: library)
    tdf = TDF(8, 10, 3 * 10, 6, "relu", bias=True, affine=True)
    dense = DenseConv(8, 8, 2, (3, 3), "relu")
    block = ConditionedBlock(dense, LaSAFT(tdf, Attention(5, 2, 3))).eval()
    randomise(block)
    x = torch.randn(1, 8, 12, 10).contiguous(memory_format=LAST)
    condition = Condition(1, torch.randn(2, 5), torch.randn(2, 8, 8), torch.randn(2, 8))
    expected = block([x], condition)
    use_native_matrices(block, is_lowered=False)
    kinds = {type(layer) for layer in tdf.layers}
    assert kinds == {NativeMatrix if library.lanes == library.patch_lanes else LinearLayer}
    assert differ(block([x], condition), expected) <= 1e-5


@pytest.mark.parametrize(("precision", "smaller"), [("fp32", 0), ("bf16", 1)])
def test_large_matrices_are_left_where_numbers_are_short(
    library: Library, precision: str, smaller: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processors that have shorter ones multiply these faster."""
    monkeypatch.setattr(fusing, "find_library", lambda: library)
    monkeypatch.setattr(fusing, "MOST_LOWERED", 60)
    tdf = TDF(8, 10, 3 * 10, 6, "relu", bias=True, affine=True)
    core = nn.Sequential(nn.Conv2d(1, 8, 1), tdf)
    ran = TorchCore(core, torch.device("cpu"), precision)
    kinds = [
        isinstance(one, NativeMatrix) for one in ran._core.get_submodule("1.layers").children()
    ]
    fits = library.lanes == library.patch_lanes
    assert kinds == [fits, fits and not smaller]
    assert not any(isinstance(one, NativeMatrix) for one in core.modules())
    x = torch.randn(2, 1, 5, 10)
    with torch.no_grad():
        expected = core.eval()(x)
        assert differ(ran((x,))[0], expected) <= (1e-2 if smaller else 1e-5)
