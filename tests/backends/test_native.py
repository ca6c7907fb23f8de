"""The convolutions in C, beside torch's in double precision.

One file: all of it draws, fuses and compares in the same way.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from random_weights import randomise
from torch import Tensor, nn
from torch.nn import functional

from stemsplit.backends.native import dense, fusing, matrices
from stemsplit.backends.native.convolution import MOST_TILES, NativeConv2d
from stemsplit.backends.native.dense import NativeDense
from stemsplit.backends.native.fusing import NativeUnit, use_native_convolutions
from stemsplit.backends.native.geometry import plan
from stemsplit.backends.native.library import Library
from stemsplit.backends.native.matrices import NativeMatrix
from stemsplit.backends.native.planes import NativePlanesConv2d, fits_planes
from stemsplit.backends.native.rows import NativeRows
from stemsplit.models.blocks.fusion import Fusion
from stemsplit.models.blocks.intermediate import DenseConv
from stemsplit.models.spleeter import SameConvTranspose2d

ROOT = Path(__file__).parents[2]
TOLERANCE = 2e-5
"""Of the largest value: what F(4x4, 3x3) costs in float32, sums of up to a thousand products."""


def fuse(library: Library, pieces: Fusion) -> NativeUnit:
    geometry = plan(pieces.conv, (pieces.zeros[0], pieces.zeros[2]))
    assert geometry is not None
    return NativeUnit(pieces, geometry, library).eval()


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    worst = (found.double() - expected).abs().max()
    assert worst <= TOLERANCE * expected.abs().max(), f"{worst:.2e}"


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


LAYERS: dict[str, tuple[type[nn.Conv2d] | type[nn.ConvTranspose2d], dict[str, Any]]] = {
    "plain": (nn.Conv2d, {"kernel_size": 3, "padding": 1}),
    "without zeros": (nn.Conv2d, {"kernel_size": 3, "bias": False}),
    "wide zeros": (nn.Conv2d, {"kernel_size": 3, "padding": (3, 2)}),
    "dilated": (nn.Conv2d, {"kernel_size": 3, "padding": 2, "dilation": 2}),
    "far": (nn.Conv2d, {"kernel_size": 3, "padding": 8, "dilation": 8}),
    "dilated, cut": (nn.Conv2d, {"kernel_size": 3, "padding": 1, "dilation": 3}),
    "halving": (nn.Conv2d, {"kernel_size": 5, "stride": 2, "padding": 2}),
    "halving, uneven": (nn.Conv2d, {"kernel_size": (5, 6), "stride": 2, "padding": (1, 0)}),
    "doubling": (nn.ConvTranspose2d, {"kernel_size": 5, "stride": 2, "padding": 1}),
    "doubling, longer": (
        nn.ConvTranspose2d,
        {"kernel_size": 6, "stride": 2, "padding": 2, "output_padding": 1},
    ),
}


@pytest.mark.parametrize("channels", [(8, 8), (3, 24), (13, 39), (20, 1), (40, 33)], ids=str)
@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_it_is_the_convolution(library: Library, name: str, channels: tuple[int, int]) -> None:
    kind, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = kind(*channels, **shape)
    native = fuse(library, Fusion(layer))
    exact = copy.deepcopy(layer).double()
    for size in ((1, 9, 30), (2, 23, 14), (1, 8, 8)):
        x = draw(size[0], channels[0], *size[1:])
        for turned in (x, x.contiguous(memory_format=torch.channels_last)):
            assert_near(native(turned), exact(x.double()))


@pytest.mark.parametrize("channels", [8, 13])
@pytest.mark.parametrize("affine_first", [False, True])
@torch.no_grad()
def test_norm_and_activation_are_done_on_the_way(
    library: Library, channels: int, affine_first: bool
) -> None:
    torch.manual_seed(1)
    layer = nn.Conv2d(channels, channels, 5, stride=2)
    norm = nn.BatchNorm2d(channels, eps=1e-3)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert tensor is not None
        tensor.uniform_(0.5, 2.0)
    order = (norm, nn.LeakyReLU(0.2)) if affine_first else (nn.LeakyReLU(0.2), norm)
    pieces = Fusion(layer, behind=(*order, nn.ELU()), zeros=(1, 2, 1, 2), gives_bare=True)
    native = fuse(library, pieces)
    assert [type(rest) for rest in native.behind] == [nn.ELU], "what C cannot do is left to torch"
    exact = nn.Sequential(layer, *order, nn.ELU()).double().eval()
    x = draw(2, channels, 12, 18)
    bare, result = native(x)
    wide = functional.pad(x.double(), (1, 2, 1, 2))
    assert_near(bare, exact[0](wide))
    assert_near(result, exact(wide))


@pytest.mark.parametrize("channels", [5, 8, 30])
@torch.no_grad()
def test_slices_are_read_where_they_lie(library: Library, channels: int) -> None:
    torch.manual_seed(2)
    norm = nn.BatchNorm2d(channels).eval()
    norm.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]  # it tracks its statistics
    layer = nn.Conv2d(channels, channels, 3, padding=4, dilation=4)
    native = fuse(library, Fusion(layer, before=(norm, nn.ReLU()), takes_plus=True))
    whole = draw(1, 2 * channels, 21, 17).contiguous(memory_format=torch.channels_last)
    x, plus = whole[:, :channels], whole[:, channels:]
    before = whole.clone()
    expected = copy.deepcopy(layer).double()(functional.relu(norm(x)).double())
    assert_near(native(x), expected)
    torch.testing.assert_close(whole, before, rtol=0, atol=0)
    total = expected + plus.double()
    found = native(x, plus)
    assert_near(found, total)
    assert found.data_ptr() == plus.data_ptr(), "the sum replaces what was added"
    torch.testing.assert_close(x, before[:, :channels], rtol=0, atol=0)


@torch.no_grad()
def test_a_small_part_of_an_image_is_not_written_over(library: Library) -> None:
    """What comes out would keep all of it."""
    torch.manual_seed(5)
    layer = nn.Conv2d(4, 4, 3, padding=1)
    native = fuse(library, Fusion(layer, takes_plus=True))
    whole = draw(1, 12, 9, 10).contiguous(memory_format=torch.channels_last)
    before = whole.clone()
    x, plus = whole[:, :4], whole[:, 8:]
    expected = copy.deepcopy(layer).double()(x.double()) + plus.double()
    assert_near(native(x, plus), expected)
    torch.testing.assert_close(whole, before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("height", "width", "channels", "layers", "threads", "is_followed"),
    [
        (41, 11, 3, 5, 1, False),
        (41, 12, 3, 5, 1, True),
        (41, 70, 3, 5, 1, True),
        (41, 70, 24, 5, 3, True),
        (41, 35, 24, 5, 3, False),
        (1, 36, 8, 5, 3, True),
        (3, 49, 8, 5, 2, True),
        (4, 49, 8, 2, 2, True),
        (5, 49, 8, 5, 2, True),
        (8, 48, 8, 1, 2, True),
        (40, 51, 8, 3, 2, True),
        (40, 70, 4, 11, 1, False),
    ],
)
@pytest.mark.parametrize("rows", [4, 8])
@torch.no_grad()
def test_dense_layers_follow_one_another(
    library: Library,
    height: int,
    width: int,
    channels: int,
    layers: int,
    threads: int,
    is_followed: bool,
    rows: int,
    monkeypatch: pytest.MonkeyPatch,
    set_threads: Callable[[int], None],
) -> None:
    """To the last bit what one layer after the other gives, and nothing that was never written."""
    monkeypatch.setattr(dense, "ROWS_AT_ONCE", rows)
    monkeypatch.setattr(dense, "MOST_COLUMNS", 24)
    monkeypatch.setattr(dense, "FEWEST_COLUMNS", 12)
    monkeypatch.setattr(dense, "MOST_SHARED", 1.5)
    set_threads(threads)
    runs: list[Any] = []
    follow = dense._Run.follow

    def follow_and_say(*args: Any) -> None:
        runs.append(args)
        follow(*args)

    monkeypatch.setattr(dense._Run, "follow", follow_and_say)
    torch.manual_seed(width)
    block = DenseConv(channels + 5, channels, layers, (3, 3), "relu").eval()
    randomise(block)
    units = [fuse(library, layer.fusion()) for layer in block.layers]  # type: ignore[operator]  # a ModuleList forgets what it was given
    following = NativeDense([unit.conv for unit in units])
    # One of them a slice of a larger image.
    wide = draw(1, channels + 3, height, width).contiguous(memory_format=torch.channels_last)
    parts = [wide[:, :channels], draw(1, 5, height, width)]
    seen = list(parts)
    for unit in units:
        seen.insert(0, unit(*seen))
    make, made = NativeConv2d._new_image, []

    def make_poisoned(*args: Any) -> Tensor:
        made.append(make(*args).fill_(torch.nan))
        return made[-1]

    monkeypatch.setattr(NativeConv2d, "_new_image", make_poisoned)
    torch.testing.assert_close(following(parts), seen[0], rtol=0, atol=0)
    assert_near(seen[0], copy.deepcopy(block).double()([part.double() for part in parts]))
    assert len(runs) == (threads if is_followed else 0)
    if is_followed:
        # The row behind a window's last may be read, and is never written.
        assert all(window[:, :, -1].isnan().all() for window in made[1:])
    both = torch.cat([torch.cat(parts, dim=1)] * 2)
    assert torch.equal(following([both])[1:], seen[0])
    with pytest.raises(ValueError, match="parts of different sizes"):
        following([parts[0], parts[1][..., 1:]])


def test_rows_need_those_next_to_them_alone(library: Library) -> None:
    layer = nn.Conv2d(8, 8, 3, padding=1)
    assert fuse(library, Fusion(layer)).conv.keeps_rows
    for other, zeros in (
        (nn.Conv2d(8, 8, 3), (2, 0, 2, 0)),
        (nn.Conv2d(8, 8, 3), (0, 2, 0, 2)),
        (nn.Conv2d(8, 8, 3, padding=2), (0, 0, 0, 0)),
        (nn.Conv2d(8, 8, 3, padding=2, dilation=2), (0, 0, 0, 0)),
        (nn.Conv2d(8, 8, 5, padding=2, stride=2), (0, 0, 0, 0)),
    ):
        assert not fuse(library, Fusion(other, zeros=zeros)).conv.keeps_rows


@torch.no_grad()
def test_only_bare_convolutions_follow_one_another(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusing, "find_library", lambda: library)
    for activation, kind in (("relu", NativeDense), ("sigmoid", DenseConv)):
        holder = nn.Sequential(DenseConv(8, 8, 2, (3, 3), activation)).eval()
        use_native_convolutions(holder)
        assert isinstance(holder[0], kind)


@torch.no_grad()
def test_parts_are_read_as_one(library: Library) -> None:
    torch.manual_seed(3)
    parts = [draw(2, channels, 10, 11) for channels in (24, 7, 1)]
    for layer in (nn.Conv2d(32, 9, 3, padding=1), SameConvTranspose2d(32, 2)):
        native = fuse(library, Fusion(layer))
        assert_near(native(*parts), copy.deepcopy(layer).double()(torch.cat(parts, 1).double()))


@torch.no_grad()
def test_nothing_is_read_or_written_past_the_end(library: Library) -> None:
    """NaN stands around every image; one read or written number of it would be seen."""

    def fence(image: Tensor) -> tuple[Tensor, Tensor]:
        flat = image.permute(0, 2, 3, 1).flatten()
        memory = torch.full((flat.numel() + 128,), torch.nan)
        memory[64:-64] = flat
        sizes = (image.shape[0], *image.shape[2:], image.shape[1])
        return memory, memory[64:-64].view(sizes).permute(0, 3, 1, 2)

    layer = nn.Conv2d(3, 3, 3, padding=1)
    native = fuse(library, Fusion(layer, takes_plus=True))
    (_, x), (around, plus) = fence(draw(2, 3, 9, 10)), fence(draw(2, 3, 9, 10))
    expected = layer(x) + plus
    found = native(x, plus)
    assert_near(found, expected.double())
    assert found.data_ptr() == plus.data_ptr()
    assert around[:64].isnan().all()
    assert around[-64:].isnan().all()


@torch.no_grad()
def test_threads_change_nothing(
    library: Library, monkeypatch: pytest.MonkeyPatch, set_threads: Callable[[int], None]
) -> None:
    layer = nn.Conv2d(16, 16, 3, padding=1)
    native = fuse(library, Fusion(layer))
    make = NativeConv2d._new_image
    monkeypatch.setattr(NativeConv2d, "_new_image", lambda *args: make(*args).fill_(torch.nan))
    for size in ((2, 16, 70, 50), (1, 16, 8, 128), (1, 16, 12, 17)):
        x = draw(*size)
        set_threads(1)
        alone = native(x)
        for threads in (2, 3, 16):
            set_threads(threads)
            torch.testing.assert_close(native(x), alone, rtol=0, atol=0)
        assert not alone.isnan().any()


def test_blocks_of_tiles_are_of_one_size(library: Library) -> None:
    layer = fuse(library, Fusion(nn.Conv2d(1, 1, 3, padding=1))).conv
    task = layer.describe([draw(1, 1, 8, 8)], (8, 8), draw(1, 1, 8, 8))
    assert MOST_TILES == 96
    sizes = {(100, 1): 50, (96, 1): 96, (64, 2): 32, (25, 3): 12, (3, 2): 12, (0, 2): 12}
    assert {key: layer.find_block(task, *key) for key in sizes} == sizes


@torch.no_grad()
def test_large_and_small_numbers_keep_their_digits(library: Library) -> None:
    layer = nn.Conv2d(24, 24, 3, padding=1, bias=False)
    native, exact = fuse(library, Fusion(layer)), copy.deepcopy(layer).double()
    for level in (1e-30, 1e-3, 1e3, 1e30):
        x = level * draw(1, 24, 16, 16)
        assert_near(native(x), exact(x.double()))
    assert not native(torch.zeros(1, 24, 16, 16)).any()
    poisoned = torch.zeros(1, 24, 16, 16)
    poisoned[0, 3, 5, 5] = torch.nan
    assert native(poisoned).isnan().any(), "what is wrong is seen"


@torch.no_grad()
def test_bf16_is_made_float32_first(library: Library) -> None:
    torch.manual_seed(4)
    layer, planes = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(1, 2, 3)
    native = fuse(library, Fusion(layer, behind=(nn.ReLU(),), gives_bare=True, takes_plus=True))
    x, plus = (draw(2, 8, 9, number).bfloat16() for number in (10, 10))
    for one, exact in zip(native(x, plus), native(x.float(), plus.float()), strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, exact)
    of_one = NativePlanesConv2d(library, planes)
    assert torch.equal(of_one(x[:, :1]), of_one(x[:, :1].float()))


def test_wrong_images_are_refused(library: Library) -> None:
    native = fuse(library, Fusion(nn.Conv2d(8, 8, 3, padding=1), takes_plus=True)).conv
    x = torch.zeros(1, 8, 6, 6)
    for parts, more in (
        ((x[:, :7],), {}),
        ((x, x), {}),
        ((x[:, :4], x[:, :4, :5]), {}),
        ((x.double(),), {}),
        ((x,), {"plus": x[:, :, :5]}),
    ):
        with pytest.raises(ValueError, match=r"channels|sizes|float32|image"):
            native(*parts, **more)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, (1, 3), padding=(0, 1)),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.Conv2d(8, 8, 7),
        nn.Conv2d(8, 8, 4, dilation=2),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(8, 8, 3, padding="same"),
        nn.Conv2d(8, 8, 3, dilation=(1, 2)),
        nn.Conv2d(8, 8, 5, stride=2, dilation=2),
        nn.ConvTranspose2d(8, 8, 2, stride=2),
        nn.ConvTranspose2d(8, 8, 3),
        nn.ConvTranspose2d(8, 8, 5, stride=(2, 1)),
    ],
    ids=str,
)
def test_other_layers_are_left_to_torch(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    assert plan(layer, (0, 0)) is None


@torch.no_grad()
def test_all_libraries_of_a_machine_give_the_same_bits(
    build: ModuleType,
    tmp_path: Path,
    set_threads: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    capabilities = {"AVX2": ["avx2"], "AVX512": ["avx2", "avx512", "avx512vl"]}
    here = capabilities.get(torch.backends.cpu.get_cpu_capability(), [])
    if len(here) < 2 or build.find_compiler() is None:
        pytest.skip("this machine has one kind of vectors, or no C compiler")
    shutil.copytree(ROOT / build.FOLDER, tmp_path / build.FOLDER)
    assert not set(here) & set(build.compile_libraries(tmp_path))
    folder = tmp_path / build.FOLDER
    libraries = [Library(folder / f"convolution-{name}.so") for name in here]
    norm, image = nn.BatchNorm2d(26), draw(2, 21, 19, 30)
    randomise(norm)
    for channels in (26, 2):
        for kind, shape in LAYERS.values():
            layer = kind(21, channels, **shape)
            randomise(layer)
            behind = (norm, nn.LeakyReLU(0.1)) if channels == 26 else ()
            given = [fuse(one, Fusion(layer, behind=behind))(image) for one in libraries]
            assert all(torch.equal(given[0], other) for other in given[1:])
    for taps in (2, 3, 5):
        across = nn.Conv2d(21, 24, (1, taps), padding=(0, 1))
        of_rows = [NativeRows(one, across, 0.1)(image) for one in libraries]
        assert all(torch.equal(of_rows[0], other) for other in of_rows[1:])
    planes = nn.Conv2d(1, 3, (3, 5))
    of_one = [NativePlanesConv2d(one, planes)(image[:, :1]) for one in libraries]
    assert all(torch.equal(of_one[0], other) for other in of_one[1:])
    # Another part of the outputs falls to each of three threads.
    monkeypatch.setattr(matrices, "FEWEST_PRODUCTS", 1)
    matrix, behind, attention = nn.Linear(30, 3 * 21), nn.BatchNorm2d(40), torch.rand(2, 3)
    randomise(behind)
    shown = draw(1, 40, 5, 30)
    for work in (NativeMatrix.forward, lambda layer, x: layer.sum_latents(attention, 1)(x)):
        multiplied = []
        for threads in (1, 3):
            set_threads(threads)
            layers = [NativeMatrix(one, matrix, behind, 0.0) for one in libraries]
            multiplied += [work(layer, shown) for layer in layers]
        assert all(torch.equal(multiplied[0], other) for other in multiplied[1:])


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(1, 2, 4, dilation=2, padding=3),
        nn.Conv2d(1, 4, (3, 5), padding=(1, 4), bias=False),
        nn.Conv2d(1, 1, 1),
        nn.Conv2d(1, 3, (9, 2), padding=(5, 0), dilation=3),
    ],
)
@pytest.mark.parametrize("threads", [1, 3])
def test_planes_are_convolved(
    library: Library, layer: nn.Conv2d, threads: int, set_threads: Callable[[int], None]
) -> None:
    set_threads(threads)
    randomise(layer)
    assert fits_planes(layer)
    x = torch.randn(3, 1, 30, 37, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = layer.double()(x.double()).float()
        given = NativePlanesConv2d(library, layer.float())(x)
    torch.testing.assert_close(given, expected, rtol=0, atol=2e-6)
    with pytest.raises(ValueError, match="one channel of float32"):
        NativePlanesConv2d(library, layer)(x.expand(3, 2, 30, 37))


def test_what_planes_are_not_for() -> None:
    others = [nn.Conv2d(2, 2, 3), nn.Conv2d(1, 5, 3), nn.Conv2d(1, 2, 3, stride=2)]
    assert not any(map(fits_planes, [*others, nn.Conv2d(1, 2, 3, padding_mode="circular")]))
