"""Convolutions over columns alone, in C, beside torch's in double precision."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from random_weights import randomise
from torch import Tensor, nn

from stemsplit.backends.native import fusing
from stemsplit.backends.native.fusing import use_native_convolutions
from stemsplit.backends.native.library import Library
from stemsplit.backends.native.rows import NativeDenseRows, NativeRows, fits_rows
from stemsplit.backends.torch_core import TorchCore
from stemsplit.models.blocks.fusion import Pending
from stemsplit.models.blocks.intermediate import ConvLayer
from stemsplit.models.unet import IntermediateBlockUNet, IntermediateBlockUNetConfig

LAST = torch.channels_last


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(
    ("parts", "wide_out", "taps", "pad", "bias"),
    [
        ((24,), 24, 3, 1, True),
        ((24, 24, 3), 24, 3, 1, True),
        ((5, 1), 8, 3, 0, False),
        ((1,), 16, 2, 1, True),
        ((7,), 40, 5, 4, True),
        ((2, 2), 32, 7, 3, False),
        ((24,), 4, 2, 1, True),
        ((9,), 13, 3, 1, True),
    ],
)
@pytest.mark.parametrize("size", [(2, 3, 1), (1, 5, 7), (1, 2, 40), (3, 1, 13)])
@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
@torch.no_grad()
def test_what_comes_out(
    library: Library,
    parts: tuple[int, ...],
    wide_out: int,
    taps: int,
    pad: int,
    bias: bool,
    size: tuple[int, int, int],
    slope: float,
) -> None:
    torch.manual_seed(taps)
    layer = nn.Conv2d(sum(parts), wide_out, (1, taps), padding=(0, pad), bias=bias)
    assert fits_rows(layer, library)
    native = NativeRows(library, layer, slope)
    batch, height, width = size
    # Images among other channels and pixels, in either order of axes.
    wide = [draw(batch, part + 2, height + 1, width + 3) for part in parts]
    images = [one[:, 1:-1, 1:, 2:-1] for one in wide]
    turned = [one.contiguous(memory_format=LAST)[:, 1:-1, 1:, 2:-1] for one in wide]
    if width + 2 * pad < taps:
        with pytest.raises(ValueError, match="too short for"):
            native(*images)
        return
    whole = torch.cat(images, dim=1)
    expected = nn.functional.leaky_relu(copy.deepcopy(layer).double()(whole.double()), slope)
    for given in (images, turned):
        found = native(*given)
        assert found.shape == expected.shape
        assert found.is_contiguous(memory_format=LAST)
        assert (found - expected).abs().max() <= 3e-6 * expected.abs().max()
    lowered = [one.bfloat16() for one in images]
    assert torch.equal(native(*lowered), native(*(one.float() for one in lowered)))


def test_what_is_left_to_others(library: Library) -> None:
    for layer in (
        nn.Conv2d(8, 8, (1, 1)),
        nn.Conv2d(8, 8, (3, 3), padding=1),
        nn.Conv2d(8, 8, (1, 3), padding=(1, 1)),
        nn.Conv2d(8, 8, (1, 3), padding=(0, 3)),
        nn.Conv2d(8, 8, (1, 3), padding="same"),
        nn.Conv2d(8, 8, (1, 3), stride=(1, 2)),
        nn.Conv2d(8, 8, (1, 3), dilation=(1, 2)),
        nn.Conv2d(8, 8, (1, 3), groups=2),
        nn.Conv2d(8, 8, (1, 3), padding=(0, 1), padding_mode="circular"),
        nn.Conv2d(8, 1, (1, 3)),
        nn.Conv2d(512, 64, (1, 3)),
        nn.Conv2d(8, 8, (1, 3)).double(),
        nn.ConvTranspose2d(8, 8, (1, 3)),
        nn.Linear(8, 8),
    ):
        assert not fits_rows(layer, library)


@pytest.mark.parametrize("outs", [8, 5])
@pytest.mark.parametrize(("taps", "pad"), [(2, 1), (3, 1), (3, 2), (5, 4)])
@torch.no_grad()
def test_nothing_is_read_or_written_past_the_end(
    library: Library, taps: int, pad: int, outs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = nn.Conv2d(5, outs, (1, taps), padding=(0, pad))
    native = NativeRows(library, layer)
    for height, width in ((1, 1), (3, 4), (2, 9), (4, 17)):
        scratch: list[Tensor] = []

        def fence_scratch(floats: int, *, scratch: list[Tensor] = scratch) -> Tensor:
            scratch.append(torch.full((floats + 128,), torch.nan))
            return scratch[0][64:-64]

        monkeypatch.setattr("stemsplit.backends.native.rows.find_workspace", fence_scratch)
        memory = torch.full((5 * height * width + 128,), torch.nan)
        image = draw(1, 5, height, width)
        memory[64:-64] = image.permute(0, 2, 3, 1).flatten()
        fenced = memory[64:-64].view(1, height, width, 5).permute(0, 3, 1, 2)
        kept: list[Tensor] = []

        def fence(like: Tensor, shape: tuple[int, ...], *, kept: list[Tensor] = kept) -> Tensor:
            kept.append(torch.full((torch.Size(shape).numel() + 128,), torch.nan))
            return kept[0][64:-64].view(shape)

        monkeypatch.setattr("stemsplit.backends.native.rows.new_empty", fence)
        found = native(fenced)
        torch.testing.assert_close(found, layer(image), rtol=1e-5, atol=1e-5)
        for fences in (kept[0], scratch[0]):
            assert fences[:64].isnan().all()
            assert fences[-64:].isnan().all()


@torch.no_grad()
def test_threads_change_nothing(library: Library, set_threads: Callable[[int], None]) -> None:
    native = NativeRows(library, nn.Conv2d(24, 24, (1, 3), padding=(0, 1)))
    x = draw(2, 24, 37, 129)
    alone = native(x)
    for threads in (2, 3, 16):
        set_threads(threads)
        assert torch.equal(native(x), alone)


@pytest.mark.parametrize("pixels", [1, 30, 1024])
@pytest.mark.parametrize("taps", [3, 5])
@torch.no_grad()
def test_layers_that_follow_one_another_give_what_each_gives_alone(
    library: Library,
    set_threads: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    pixels: int,
    taps: int,
) -> None:
    monkeypatch.setattr("stemsplit.backends.native.rows.PIXELS_AT_ONCE", pixels)
    torch.manual_seed(taps)
    layers = [
        NativeRows(library, nn.Conv2d(channels, 8, (1, taps), padding=(0, taps // 2)), 0.0)
        for channels in (7, 15, 23)
    ]
    dense = NativeDenseRows(layers)
    for batch, height, width in ((1, 1, 1), (1, 29, 13), (2, 7, 40)):
        image, other = draw(batch, 5, height, width), draw(batch, 1, height, width)
        pending = Pending(lambda x: torch.cat((x, -x), dim=1), other)
        seen = [pending.compute(), image]
        for layer in layers:
            seen.insert(0, layer(*seen))
        for threads in (1, 3):
            set_threads(threads)
            assert torch.equal(dense([pending, image]), seen[0])
            assert torch.equal(dense(seen[-2:]), seen[0])


@pytest.mark.parametrize("taps", [3, 5])
@torch.no_grad()
def test_layers_that_follow_one_another_stay_in_their_workspace(
    library: Library, taps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch: list[Tensor] = []

    def fence_scratch(floats: int) -> Tensor:
        scratch.append(torch.full((floats + 128,), torch.nan))
        return scratch[-1][64:-64]

    monkeypatch.setattr("stemsplit.backends.native.rows.find_workspace", fence_scratch)
    monkeypatch.setattr("stemsplit.backends.native.rows.PIXELS_AT_ONCE", 60)
    torch.manual_seed(taps)
    layers, channels = [], 7
    for outs in (5, 13, 8, 4):
        layers.append(nn.Conv2d(channels, outs, (1, taps), padding=(0, taps // 2)))
        channels += outs
    dense = NativeDenseRows([NativeRows(library, layer, 0.0) for layer in layers])
    for batch, height, width in ((1, 1, 1), (1, 29, 13), (2, 7, 40)):
        image = draw(batch, 7, height, width)
        seen = [image.double()]
        for layer in layers:
            wide = torch.cat(seen, dim=1)
            seen.insert(0, copy.deepcopy(layer).double()(wide).relu())
        assert (dense([image]) - seen[0]).abs().max() <= 1e-5 * seen[0].abs().max()
        for memory in scratch:
            assert memory[:64].isnan().all()
            assert memory[-64:].isnan().all()


def test_layers_that_do_not_follow_one_another_are_refused(library: Library) -> None:
    first, other = (nn.Conv2d(8, 8, (1, 3), padding=(0, 1)) for _ in range(2))
    with pytest.raises(ValueError, match="reads 8 channels of 16"):
        NativeDenseRows([NativeRows(library, first), NativeRows(library, other)])
    narrower = nn.Conv2d(8, 8, (1, 3))
    with pytest.raises(ValueError, match="changes the width"):
        NativeDenseRows([NativeRows(library, narrower)])


@torch.no_grad()
def test_no_rows_give_none(library: Library) -> None:
    native = NativeRows(library, nn.Conv2d(8, 8, (1, 3), padding=(0, 1)))
    assert native(torch.zeros(1, 8, 0, 5)).shape == (1, 8, 0, 5)


def test_wrong_images_are_refused(library: Library) -> None:
    native = NativeRows(library, nn.Conv2d(8, 8, (1, 3), padding=(0, 1)))
    x = torch.zeros(1, 8, 4, 4)
    wrong: list[tuple[Any, ...]] = [
        (x[:, :7],),
        (x, x),
        (x[:, :4], x[:, :4, 1:]),
        (x[:, :4], x[:, :4, :, 1:]),
        (x.double(),),
    ]
    for images in wrong:
        with pytest.raises(ValueError, match="8 channels of float32 come in"):
            native(*images)


@torch.no_grad()
def test_a_whole_network(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusing, "find_library", lambda: library)
    config = IntermediateBlockUNetConfig(
        ("vocals",), n_fft=128, blocks=5, width=8, layers=2, block="tdc"
    )
    model = IntermediateBlockUNet(config).eval()
    randomise(model)
    planes = draw(1, 4, 16, 65)
    core = TorchCore(model.core, torch.device("cpu"), "fp32")
    kinds = [type(one) for one in core._core.modules()]
    assert ConvLayer not in kinds
    assert kinds.count(NativeRows) >= 5 * 2
    assert kinds.count(NativeDenseRows) == 5
    expected = copy.deepcopy(model.core).double()(planes.double())
    assert (core((planes,))[0] - expected).norm() < 1e-5 * expected.norm()


@torch.no_grad()
def test_a_convolution_by_itself_is_replaced(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusing, "find_library", lambda: library)
    net = nn.Sequential(nn.Conv2d(8, 8, (1, 3), padding=(0, 1)), nn.Conv2d(8, 8, 1))
    use_native_convolutions(net)
    assert [isinstance(one, NativeRows) for one in net] == [True, False]
