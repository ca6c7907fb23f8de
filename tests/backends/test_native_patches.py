"""Convolutions in C that go through an image patch by patch, beside torch's in double precision."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from random_weights import randomise
from torch import Tensor, nn
from torch.nn import functional

from stemsplit.backends.native import dense, fusing
from stemsplit.backends.native.dense import NativeDense
from stemsplit.backends.native.fusing import use_native_convolutions
from stemsplit.backends.native.library import Library
from stemsplit.backends.native.patches import NativePatches, fits_patches
from stemsplit.backends.torch_core import TorchCore
from stemsplit.models.blocks.frame import Resample
from stemsplit.models.blocks.fusion import Pending
from stemsplit.models.blocks.intermediate import DenseConv
from stemsplit.models.unet import IntermediateBlockUNet, IntermediateBlockUNetConfig

LAST = torch.channels_last


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


LAYERS: dict[str, tuple[type[nn.Conv2d] | type[nn.ConvTranspose2d], tuple[int, int], Any]] = {
    "up": (nn.ConvTranspose2d, (24, 24), {"kernel_size": 2, "stride": 2}),
    "up, bins alone": (nn.ConvTranspose2d, (5, 16), {"kernel_size": (1, 2), "stride": (1, 2)}),
    "up, frames alone": (nn.ConvTranspose2d, (7, 48), {"kernel_size": (3, 1), "stride": (3, 1)}),
    "up, no bias": (nn.ConvTranspose2d, (1, 8), {"kernel_size": 2, "stride": 2, "bias": False}),
    "down": (nn.Conv2d, (24, 24), {"kernel_size": 2, "stride": 2}),
    "down, bins alone": (nn.Conv2d, (3, 80), {"kernel_size": (1, 2), "stride": (1, 2)}),
    "side by side": (nn.Conv2d, (4, 24), {"kernel_size": (1, 2)}),
    "with gaps": (nn.Conv2d, (2, 16), {"kernel_size": (3, 2), "stride": (3, 3), "bias": False}),
    "overlapping": (nn.Conv2d, (1, 16), {"kernel_size": (2, 5), "stride": (2, 2)}),
}


@pytest.fixture
def narrow_strips(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small images go in strips, and networks get this library."""
    monkeypatch.setattr(dense, "MOST_COLUMNS", 24)
    monkeypatch.setattr(dense, "FEWEST_COLUMNS", 16)
    monkeypatch.setattr(dense, "MOST_SHARED", 0.5)
    monkeypatch.setattr(fusing, "find_library", lambda: library)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("size", [(2, 9, 13), (1, 3, 5), (1, 64, 40)])
@torch.no_grad()
def test_what_comes_out(library: Library, name: str, size: tuple[int, int, int]) -> None:
    kind, (wide_in, wide_out), options = LAYERS[name]
    torch.manual_seed(len(name))
    layer = kind(wide_in, wide_out, **options)
    if not fits_patches(layer, library):
        side_by_side = layer.kernel_size[1] if kind is nn.ConvTranspose2d else 1
        assert layer.out_channels * side_by_side % library.patch_lanes, "no whole vectors come out"
        return
    native = NativePatches(library, layer)
    batch, height, width = size
    wide = draw(batch, wide_in + 3, height + 1, width)
    images = [wide[:, 2:-1, 1:], wide.contiguous(memory_format=LAST)[:, 2:-1, 1:]]
    for image in (*images, images[0].contiguous(), images[1].contiguous(memory_format=LAST)):
        expected = copy.deepcopy(layer).double()(image.double())
        found = native(image)
        assert found.shape == expected.shape
        assert found.is_contiguous(memory_format=LAST)
        assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()
        assert torch.equal(native(image.bfloat16()), native(image.bfloat16().float()))


def test_what_is_left_to_others(library: Library) -> None:
    for layer in (
        nn.ConvTranspose2d(8, 8, 3, stride=2),
        nn.ConvTranspose2d(8, 8, 2, stride=2, padding=1),
        nn.ConvTranspose2d(8, 8, 2, stride=2, output_padding=1),
        nn.ConvTranspose2d(8, 8, 2, stride=2, groups=2),
        nn.ConvTranspose2d(8, 8, 2, stride=2).double(),
        nn.ConvTranspose2d(8, 3, 2, stride=2),
        nn.ConvTranspose2d(512, 16, 2, stride=2),
        nn.Conv2d(8, 16, 1),
        nn.Conv2d(8, 16, (2, 1), padding=(0, 1), stride=(2, 1)),
        nn.Conv2d(8, 16, 2),
        nn.Conv2d(8, 16, 2, stride=2, dilation=2),
        nn.Conv2d(8, 16, 2, stride=2, padding="valid"),
        nn.Linear(8, 8),
    ):
        assert not fits_patches(layer, library)


@torch.no_grad()
def test_nothing_is_read_or_written_past_the_end(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, height, width in (("up", 5, 7), ("down", 6, 10), ("side by side", 4, 6)):
        kind, wide, options = LAYERS[name]
        layer = kind(*wide, **options)
        if not fits_patches(layer, library):
            continue
        native = NativePatches(library, layer)
        memory = torch.full((wide[0] * height * width + 128,), torch.nan)
        image = draw(1, wide[0], height, width)
        memory[64:-64] = image.permute(0, 2, 3, 1).flatten()
        fenced = memory[64:-64].view(1, height, width, wide[0]).permute(0, 3, 1, 2)
        kept: list[Tensor] = []

        def fence(
            like: Tensor, shape: tuple[int, ...], dtype: torch.dtype, *, kept: list[Tensor] = kept
        ) -> Tensor:
            kept.append(torch.full((torch.Size(shape).numel() + 128,), torch.nan))
            return kept[0][64:-64].view(shape)

        monkeypatch.setattr("stemsplit.backends.native.patches.new_empty", fence)
        found = native(fenced)
        assert not found.isnan().any()
        torch.testing.assert_close(found, layer(image), rtol=1e-5, atol=1e-5)
        assert kept[0][:64].isnan().all()
        assert kept[0][-64:].isnan().all()


@torch.no_grad()
def test_threads_change_nothing(library: Library, set_threads: Callable[[int], None]) -> None:
    native = NativePatches(library, nn.ConvTranspose2d(24, 24, 2, stride=2))
    x = draw(1, 24, 37, 12)
    set_threads(1)
    alone = native(x)
    for threads in (2, 3, 16):
        set_threads(threads)
        assert torch.equal(native(x), alone)


def test_wrong_images_are_refused(library: Library) -> None:
    up = NativePatches(library, nn.ConvTranspose2d(8, 8, 2, stride=2))
    down = NativePatches(library, nn.Conv2d(8, 16, 2, stride=2))
    x = torch.zeros(1, 8, 6, 6)
    for native in (up, down):
        for image in (x[:, :7], x.double(), torch.zeros(1, 9, 6, 6)):
            with pytest.raises(ValueError, match="are what goes in"):
                native(image)
    with pytest.raises(ValueError, match=r"of at least \(2, 2\)"):
        down(x[:, :, :, :1])


@pytest.mark.parametrize(
    ("stride", "height", "width", "threads", "is_followed"),
    [
        ((2, 2), 20, 64, 1, True),
        ((2, 2), 20, 64, 2, True),
        ((1, 2), 9, 70, 3, True),
        ((2, 4), 6, 48, 2, True),
        ((2, 2), 4, 24, 2, False),
        ((2, 3), 8, 66, 1, False),
    ],
)
@pytest.mark.usefixtures("narrow_strips")
@torch.no_grad()
def test_a_part_is_computed_by_strips(
    library: Library,
    monkeypatch: pytest.MonkeyPatch,
    set_threads: Callable[[int], None],
    stride: tuple[int, int],
    height: int,
    width: int,
    threads: int,
    is_followed: bool,
) -> None:
    set_threads(threads)
    torch.manual_seed(width)
    block = nn.Sequential(DenseConv(16 + 5, 8, 3, (3, 3), "relu")).eval()
    randomise(block)
    use_native_convolutions(block)
    following = block[0]
    assert isinstance(following, NativeDense)
    up = NativePatches(library, nn.ConvTranspose2d(8, 16, stride, stride=stride))
    below = draw(1, 8, height // stride[0], width // stride[1])
    beside = draw(1, 5, height, width)
    computed = []

    class Counted(Pending):
        def compute(self) -> Tensor:
            computed.append(self.image)
            return super().compute()

    empty = dense.new_empty

    def poisoned(*args: Any, **options: Any) -> Tensor:
        return empty(*args, **options).fill_(torch.nan)

    monkeypatch.setattr(dense, "new_empty", poisoned)
    got = following([Counted(up, below), beside])
    assert len(computed) == (0 if is_followed else 1)
    assert torch.equal(got, following([up(below), beside]))
    with pytest.raises(ValueError, match="parts of different sizes"):
        following([Counted(up, below[..., 1:]), beside])


@pytest.mark.parametrize("name", ["down", "side by side", "down, bins alone", "overlapping"])
@pytest.mark.parametrize("has_other", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.usefixtures("narrow_strips")
@torch.no_grad()
def test_an_ordinary_convolution_is_computed_by_strips(
    library: Library,
    monkeypatch: pytest.MonkeyPatch,
    set_threads: Callable[[int], None],
    name: str,
    has_other: bool,
    threads: int,
) -> None:
    set_threads(threads)
    kind, (wide_in, wide_out), options = LAYERS[name]
    layer = kind(wide_in, wide_out, **options)
    if not fits_patches(layer, library):
        return
    block = nn.Sequential(DenseConv(wide_out + 3 * has_other, 8, 3, (3, 3), "relu")).eval()
    randomise(block)
    use_native_convolutions(block)
    native = NativePatches(library, layer, 0.0)
    image = draw(1, wide_in, 22, 131)
    whole = native(image)
    others = [draw(1, 3, *whole.shape[2:])] if has_other else []
    monkeypatch.setattr(Pending, "compute", lambda _: pytest.fail("it goes in strips"))
    empty = dense.new_empty

    def poisoned(*args: Any, **given: Any) -> Tensor:
        return empty(*args, **given).fill_(torch.nan)

    monkeypatch.setattr(dense, "new_empty", poisoned)
    got = block[0]([Pending(native, image), *others])
    assert torch.equal(got, block[0]([whole, *others]))


@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("name", ["up", "down", "side by side", "with gaps"])
@torch.no_grad()
def test_an_activation_goes_with_it(library: Library, name: str, slope: float) -> None:
    kind, (wide_in, wide_out), options = LAYERS[name]
    layer = kind(wide_in, wide_out, **options)
    if not fits_patches(layer, library):
        return
    x = draw(2, wide_in, 9, 13)
    x[0, :, 2] *= torch.inf
    x[1, :, 7] = torch.nan
    bare = NativePatches(library, layer)(x)
    expected = bare.relu() if slope == 0 else functional.leaky_relu(bare, slope)
    got = NativePatches(library, layer, slope)(x)
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


@torch.no_grad()
def test_a_chain_is_one_layer(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusing, "find_library", lambda: library)

    class Chain(nn.Module):
        def __init__(self, *behind: nn.Module, wide: int = 16) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, wide, (1, 2))
            self.norm, self.activation = behind

        def chains(self) -> Any:
            yield "conv", "norm", "activation"

        def forward(self, x: Tensor) -> Any:
            return self.activation(self.norm(self.conv(x)))

    x = draw(1, 4, 6, 9)
    for chain, is_one in (
        (Chain(nn.Identity(), nn.ReLU()), True),
        (Chain(nn.Identity(), nn.LeakyReLU(0.2)), True),
        (Chain(nn.Identity(), nn.Identity()), True),
        (Chain(nn.Identity(), nn.Tanh()), False),
        (Chain(nn.BatchNorm2d(16).eval(), nn.ReLU()), False),
        (Chain(nn.ReLU(), nn.LeakyReLU()), False),
        (Chain(nn.Identity(), nn.ReLU(), wide=3), False),
    ):
        expected = chain(x)
        holder = nn.Sequential(chain)
        use_native_convolutions(holder)
        assert isinstance(chain.norm, nn.Identity) >= is_one
        assert isinstance(chain.activation, nn.Identity) >= is_one
        torch.testing.assert_close(holder(x), expected)
        if not is_one:
            assert not isinstance(chain.activation, nn.Identity)


@torch.no_grad()
def test_a_network_gets_them(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusing, "find_library", lambda: library)
    with_norm, without = Resample(nn.ConvTranspose2d, 8, 2), Resample(nn.Conv2d, 16, 2)
    without.norm = nn.Identity()  # type: ignore[assignment]  # as folding leaves it
    net = nn.Sequential(with_norm, without, nn.Conv2d(4, 16, (1, 2)), nn.Conv2d(8, 8, 3)).eval()
    use_native_convolutions(net)
    assert [isinstance(one, NativePatches) for one in net] == [False, True, True, False]


@torch.no_grad()
def test_a_whole_network_in_strips(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusing, "find_library", lambda: library)
    monkeypatch.setattr(dense, "FEWEST_COLUMNS", 8)
    monkeypatch.setattr(dense, "MOST_COLUMNS", 16)
    monkeypatch.setattr(dense, "MOST_SHARED", 1)
    computed = []
    monkeypatch.setattr(Pending, "compute", lambda self: computed.append(self))
    config = IntermediateBlockUNetConfig(
        ("vocals",), n_fft=128, segment_frames=16, blocks=5, width=8, layers=2
    )
    model = IntermediateBlockUNet(config).eval()
    randomise(model)
    planes = draw(1, 4, 16, 65)
    got = TorchCore(model.core, torch.device("cpu"), "fp32")((planes,))[0]
    assert not computed, "all went in strips"
    monkeypatch.undo()
    expected = copy.deepcopy(model.core).double()(planes.double())
    assert (got - expected).norm() < 1e-5 * expected.norm()
