from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import pytest
import torch
from random_weights import randomise
from torch import Tensor, nn

from stemsplit.backends.folding import AffineMap, Place, fold_norms, map_norms
from stemsplit.backends.torch_core import TorchCore
from stemsplit.models.base import StemModel
from stemsplit.models.catalogue import ARCHITECTURES, find_architecture

STEMS = ("vocals", "drums", "bass")


def count_norms(core: nn.Module) -> int:
    return sum(isinstance(one, (nn.BatchNorm1d, nn.BatchNorm2d)) for one in core.modules())


@pytest.fixture(params=sorted(ARCHITECTURES))
def model(request: pytest.FixtureRequest) -> StemModel:
    kind = find_architecture(request.param)
    built: StemModel = kind(kind.Config.tiny(STEMS)).eval()
    randomise(built, spread=0.3)
    return built


@torch.no_grad()
def test_every_architecture_gives_the_same(model: StemModel) -> None:
    dice = torch.Generator().manual_seed(1)
    mixture = 0.2 * torch.randn(1, 2, model.chunk.samples, generator=dice)
    inputs, _ = model.encode(mixture)
    before = {name: value.clone() for name, value in model.core.state_dict().items()}
    expected = model.run_core(inputs)
    for ours, plain in zip(
        TorchCore(model.core, torch.device("cpu"), "fp32")(inputs), expected, strict=True
    ):
        assert (ours - plain).abs().max() <= 1e-5 * plain.abs().max()
    torch.testing.assert_close(dict(model.core.state_dict()), before, rtol=0, atol=0)


class Alone(nn.Module):
    """A norm, and the layers of its place."""

    def __init__(
        self, norm: nn.Module, before: Sequence[nn.Module] = (), after: Sequence[nn.Module] = ()
    ) -> None:
        super().__init__()
        self.norm = norm
        self.before = nn.ModuleList(before)
        self.after = nn.ModuleList(after)

    def forward(self, x: Tensor) -> Tensor:
        if self.before:
            x = torch.stack([layer(x) for layer in self.before]).sum(dim=0)
        x = self.norm(x)
        return torch.cat([layer(x) for layer in self.after]) if self.after else x

    def norm_places(self) -> Iterator[Place]:
        parts = [(layer, 0, self.norm.weight.numel()) for layer in self.before]  # type: ignore[union-attr]  # a norm's
        yield self.norm, [(0, parts)] if parts else [], list(self.after)


def check(net: nn.Module, x: Tensor, left: int) -> None:
    randomise(net)
    net.eval()
    with torch.no_grad():
        expected = net(x)
        ours = copy.deepcopy(net)
        fold_norms(ours)
        assert count_norms(ours) == left
        torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "before",
    [
        [nn.Conv2d(3, 4, 3, padding=1)],
        [nn.Conv2d(3, 4, 3, padding=1, bias=False, dilation=2)],
        [nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 5, padding=2)],
        [nn.ConvTranspose2d(3, 4, 5, stride=2, padding=1)],
    ],
)
def test_into_the_layers_before(before: list[nn.Module]) -> None:
    torch.manual_seed(0)
    check(Alone(nn.BatchNorm2d(4), before), torch.randn(2, 3, 9, 8), left=0)


def test_into_a_matrix_before() -> None:
    torch.manual_seed(0)
    check(Alone(nn.BatchNorm1d(4), [nn.Linear(3, 4, bias=False)]), torch.randn(5, 3), left=0)


@pytest.mark.parametrize(
    ("after", "left"),
    [
        ([nn.Conv2d(4, 3, 1)], 0),
        ([nn.Conv2d(4, 3, 3), nn.Conv2d(4, 3, 3, bias=False)], 0),
        # Zeros around what is read are not zeros before the norm.
        ([nn.Conv2d(4, 3, 3, padding=1)], 1),
        ([nn.Conv2d(4, 3, 1), nn.Conv2d(4, 3, 1, padding="same")], 1),
        ([nn.Conv2d(4, 4, 1, groups=2)], 1),
        ([nn.ConvTranspose2d(4, 3, 2, stride=2)], 1),
    ],
)
def test_into_the_layers_after(after: list[nn.Module], left: int) -> None:
    torch.manual_seed(0)
    check(Alone(nn.BatchNorm2d(4), after=after), torch.randn(2, 4, 9, 8), left=left)


def test_into_neighbours_in_a_sequence() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))
    check(net, torch.randn(2, 3, 9, 8), left=1)


def test_a_norm_without_statistics_stays() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    check(nn.Sequential(nn.Conv2d(3, 4, 3), norm), torch.randn(2, 3, 9, 8), left=1)


@pytest.mark.parametrize(
    ("architecture", "left"),
    [("d3net", 6), ("open-unmix", 0), ("x-umx", 0), ("intermediate-block-unet", 6)],
)
def test_which_norms_are_left(architecture: str, left: int) -> None:
    """The others read what something else reads too, or scale channels behind a mix of bins."""
    kind = find_architecture(architecture)
    core = kind(kind.Config.tiny(("vocals",))).eval().core
    fold_norms(core)
    assert count_norms(core) == left


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@torch.no_grad()
def test_norms_that_are_left_become_maps(affine: bool, layout: torch.memory_format) -> None:
    holder = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3, affine=affine)).eval()
    randomise(holder)
    x = torch.randn(2, 3, 300, 200).contiguous(memory_format=layout)
    before, expected = x.clone(), holder(x)
    map_norms(holder)
    assert isinstance(holder[1], AffineMap)
    found = holder(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found.is_contiguous(memory_format=layout)
    assert torch.equal(x, before)
    half = x.bfloat16()
    assert holder(half).dtype == torch.bfloat16
