"""LaSAFT and its relatives, against the originals.

The goldens are random weights in the layouts of the original's two releases, and what its code made
of planes and of a short song with them, stem by stem: tools/goldens/lasaft.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from random_weights import randomise
from torch import Tensor

from stemsplit.dsp.memory import has_channels_last
from stemsplit.errors import CheckpointError, UnsafeWeightsError
from stemsplit.models.base import StemModel
from stemsplit.models.blocks import framewise, intermediate
from stemsplit.models.blocks.conditioning import Attention, Condition, ConditionedBlock, LaSAFT
from stemsplit.models.blocks.intermediate import TDF, DenseConv
from stemsplit.models.lasaft import ConditionedUNet, ConditionedUNetConfig, ConditionedUNetCore
from stemsplit.separation.separator import Separator
from stemsplit.weights.build import build_model
from stemsplit.weights.convert import convert
from stemsplit.weights.keymaps import apply_keymap, build_keymap
from stemsplit.weights.load import load_model
from stemsplit.weights.registry import Registry
from stemsplit.weights.store import Store

GOLDENS = Path(__file__).parent.parent / "goldens"
STEMS = ("vocals", "drums", "bass", "other")
SMALL = (
    "n_fft = 64, hop_length = 16, layers = 2, segment_frames = 32, trim_samples = 100, width = 3, "
    "bottleneck_factor = 4, bottleneck_least = 6, embedding = 5, latents = 3, key_width = 4"
)
CASES = {
    "gpocm_lasaft": "blocks = 3",
    "gpocm_lightsaft": 'blocks = 3, transform = "lightsaft", conditioned = "full", bias = true, '
    "overlap = 0.25",
    "gpocm": 'blocks = 5, transform = "none", norm_modulation = false, overlap = 0.0',
    "film_tdf": 'blocks = 3, modulation = "film", transform = "tdf", conditioned = "encoder", '
    'bias = true, gamma_activation = "sigmoid", beta_activation = "tanh"',
}
TABLE = """
[models.golden]
description = "random weights, for tests"
architecture = "lasaft"
stems = {stems}
config = {{ {small}, {config} }}

[[models.golden.files]]
source = "{source}"
format = "torch-pickle"
keymap = "lasaft"
"""


def load(folder: Path, case: str, source: Path | None = None) -> StemModel:
    source = source or GOLDENS / f"lasaft_{case}.ckpt"
    table = TABLE.format(
        stems=list(STEMS), small=SMALL, config=CASES[case], source=source.as_posix()
    )
    registry = folder / "registry.toml"
    registry.write_text(table, encoding="utf-8")
    store = Store(folder / "cache", offline=True)
    return load_model("golden", registry=Registry.load([registry]), store=store)


def golden(case: str) -> dict[str, Tensor]:
    with np.load(GOLDENS / f"lasaft_{case}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_the_network_alone(case: str, tmp_path: Path) -> None:
    file = golden(case)
    got = load(tmp_path, case).core(file["planes"])
    for index in range(len(STEMS)):
        assert file["net"][:, index].std() > 0.05
        assert relative(got[:, index], file["net"][:, index]) < 1e-5
        assert relative(file["net"][:, index], file["net"][:, index - 1]) > 0.01


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_whole_song(case: str, tmp_path: Path) -> None:
    file = golden(case)
    got = Separator(load(tmp_path, case), framing="original").separate(file["song"])
    for index, stem in enumerate(STEMS):
        assert relative(got[stem], file["heard"][index]) < 1e-4


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("numbers_at_once", [200, 1 << 20])
@torch.no_grad()
def test_stems_together_are_stems_one_by_one(
    case: str, numbers_at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(framewise, "NUMBERS_AT_ONCE", numbers_at_once)
    model = load(tmp_path, case)
    planes = torch.randn(3, 4, 8, 33, generator=torch.Generator().manual_seed(0))
    expected = model.core(planes)
    # In training all songs and stems are one batch; the norms stay as they are here.
    model.core.training = True
    torch.testing.assert_close(model.core(planes), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@torch.no_grad()
def test_a_network_that_hears_nothing_of_stems() -> None:
    """Of one block there is none coming up, which alone would be modulated."""
    config = replace(ConditionedUNetConfig.tiny(("a", "b")), blocks=1, transform="none")
    core = ConditionedUNetCore(config).eval()
    a, b = core(torch.randn(1, 4, 8, 64)).unbind(1)
    assert a.any()
    assert torch.equal(a, b)


@torch.no_grad()
def test_only_the_conditions_of_the_wanted_stems_run(tmp_path: Path) -> None:
    model = load(tmp_path, "gpocm_lasaft")
    asked: list[Tensor] = []
    model.core.control.register_forward_hook(lambda _, given, __: asked.extend(given[0]))
    rows = model.core.embedding.weight
    chunk = torch.randn(1, 2, model.chunk.samples, generator=torch.Generator().manual_seed(0))
    part = model.only(["bass", "vocals"])
    stems = part(chunk)
    assert torch.equal(torch.stack(asked), rows[[2, 0]])
    asked.clear()
    assert relative(stems, model(chunk)[:, [2, 0]]) < 1e-6
    assert torch.equal(torch.stack(asked), rows)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("frames", [1, 5, 12, 13])
@pytest.mark.parametrize("cached", [1, 1 << 19])
@torch.no_grad()
def test_frames_are_transformed_a_few_at_a_time(
    monkeypatch: pytest.MonkeyPatch, layout: torch.memory_format, frames: int, cached: int
) -> None:
    torch.manual_seed(0)
    tdf = TDF(4, 10, 3 * 10, 6, "relu", bias=True, affine=True)
    dense = DenseConv(4, 4, 2, (3, 3), "relu")
    block = ConditionedBlock(dense, LaSAFT(tdf, Attention(5, 2, 3))).eval()
    randomise(block)
    x = torch.randn(1, 4, 12, 10).contiguous(memory_format=layout)
    condition = Condition(1, torch.randn(2, 5), torch.randn(2, 4, 4), torch.randn(2, 4))
    monkeypatch.setattr(framewise, "NUMBERS_AT_ONCE", 1 << 20)
    expected = block([x], condition=condition)
    # Large matrices are applied to rows of bins, whatever the image's order.
    monkeypatch.setattr(intermediate, "CACHED_WEIGHTS", cached)
    monkeypatch.setattr(framewise, "NUMBERS_AT_ONCE", 2 * frames * 4 * 10)
    got = block([x], condition=condition)
    assert got.shape == expected.shape == (2, 4, 12, 10)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    assert has_channels_last(got) == has_channels_last(expected)


@pytest.mark.parametrize(
    ("case", "parting"),
    [("film_tdf", 0), ("gpocm", 3), ("gpocm_lasaft", 0), ("gpocm_lightsaft", 0)],
)
@torch.no_grad()
def test_convolutions_of_what_all_stems_share_are_computed_once(
    case: str, parting: int, tmp_path: Path
) -> None:
    """Attention tells stems apart from the first block on, a modulation from where it begins."""
    model = load(tmp_path, case)
    net = model.core.net
    runs: list[int] = []
    for place, block in enumerate((*net.encoders, net.middle, *net.decoders)):
        block.register_forward_hook(lambda *_, place=place: runs.append(place))
    model(torch.randn(1, 2, model.chunk.samples, generator=torch.Generator().manual_seed(0)))
    assert len(model.stems) > 1
    for place in range(net.blocks):
        assert runs.count(place) == (1 if place <= parting else len(model.stems)), place


@pytest.mark.parametrize("samples", [1, 271, 272, 273, 408, 500, 888])
@torch.no_grad()
def test_pieces_that_change_nothing_give_the_song_with_the_originals_gains(
    samples: int, tmp_path: Path
) -> None:
    pieces = load(tmp_path, "gpocm_lasaft").pieces
    song = torch.rand(2, 2, samples, generator=torch.Generator().manual_seed(0)) + 1
    joined = pieces.join(pieces.cut(song).unsqueeze(1), samples)[:, 0]
    gains = set((joined / song).mul(4).round().div(4).flatten().tolist())
    # A piece that counts in full beside the half of its neighbour makes 1.5: as in the original.
    assert gains <= {0.5, 1.0, 1.5}
    assert samples > 272 or gains == {1.0}


# What is registered, whose files are not here


@pytest.mark.parametrize(
    ("modulation", "transform", "parameters"),
    [
        ("film", "none", 720_676),
        ("film", "tdf", 1_069_508),
        ("film", "lasaft", 7_998_436),
        ("gpocm", "none", 1_146_268),
        ("gpocm", "tdf", 1_495_100),
        ("gpocm", "lasaft", 8_424_028),
        ("gpocm", "lightsaft", 2_374_236),
    ],
)
def test_the_sizes_of_the_studied_networks(
    modulation: str, transform: str, parameters: int
) -> None:
    config = ConditionedUNetConfig(
        STEMS,
        n_fft=2048,
        blocks=7,
        embedding=32,
        modulation=modulation,  # type: ignore[arg-type]  # one of the literals
        transform=transform,  # type: ignore[arg-type]  # one of the literals
    )
    with torch.device("meta"):
        model = ConditionedUNet(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def to_published(key: str) -> str:
    """Return what a tensor of the large network is called in a published file."""
    name = key.removeprefix("core.").removeprefix("net.")
    parts = name.split(".")
    if parts[0] == "control":
        index = int(parts[2])
        place = 4 * index + 5 if parts[1] == "norm" else max(0, 4 * index - 2)
        return f"condition_generator.dense_control_block.linear.{place}.{parts[3]}"
    for here, there in (
        ("gamma.linear", "condition_generator.linear_gamma.0"),
        ("gamma.norm", "condition_generator.linear_gamma.2"),
        ("beta.linear", "condition_generator.linear_beta.0"),
        ("beta.norm", "condition_generator.linear_beta.2"),
        ("first_norm.", "first_conv.1."),
        ("first.", "first_conv.0."),
        ("last.", "last_conv.0."),
        ("middle.", "mid_block."),
        ("down.", "downsamplings."),
        ("up.", "upsamplings."),
    ):
        if name.startswith(here):
            name = there + name.removeprefix(here)
    for here, there in (
        (".dense.layers.", ".tfc.H."),
        (".transform.tdf.layers.0.linear", ".tdfs.tdf.0"),
        (".transform.tdf.layers.0.norm", ".tdfs.tdf.1"),
        (".transform.tdf.layers.1.linear", ".tdfs.tdf.3"),
        (".transform.tdf.layers.1.norm", ".tdfs.tdf.4"),
        (".transform.attention.query", ".linear_query"),
        (".transform.attention.keys", ".keys"),
        (".conv.", ".0."),
        (".norm.", ".1."),
    ):
        name = name.replace(here, there)
    return name


def test_published_names_fill_the_large_network() -> None:
    model = build_model(Registry.load().get("lasaft-2020"))
    assert sum(parameter.numel() for parameter in model.parameters()) == 31_541_908
    # The published file holds the transform's window too: 543.
    assert len(model.state_dict()) == 542
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    wanted = {key: shape for key, shape in shapes.items() if "num_batches" not in key}
    arrays = {
        f"state_dict.spec2spec.{to_published(key)}": np.broadcast_to(np.float32(0), shape)
        for key, shape in shapes.items()
    }
    assert len(arrays) == 542
    keymap = build_keymap("lasaft", None, STEMS)
    assert apply_keymap(keymap, arrays, wanted).keys() == wanted.keys()
    for left_out in ("embedding.weight", "mid_block.keys", "decoders.0.tdfs.tdf.3.weight"):
        fewer = {key: array for key, array in arrays.items() if not key.endswith(left_out)}
        with pytest.raises(CheckpointError, match=r"missing: core\."):
            apply_keymap(keymap, fewer, wanted)
    with pytest.raises(CheckpointError, match=r"unused: state_dict\.head"):
        apply_keymap(keymap, {**arrays, "state_dict.head": np.zeros(1)}, wanted)


# Hostile files


def test_other_stems_than_the_file_has_conditions_for(tmp_path: Path) -> None:
    model = load(tmp_path, "gpocm_lasaft")
    shapes = {
        key: tuple(value.shape)
        for key, value in model.state_dict().items()
        if "num_batches" not in key
    }
    shapes["core.embedding.weight"] = (5, 5)
    row = (GOLDENS / "lasaft_gpocm_lasaft.ckpt", "torch-pickle", "lasaft", None)
    with pytest.raises(CheckpointError, match=r"core\.embedding\.weight \(4, 5\)"):
        convert([row], [*STEMS, "piano"], shapes)


class Loss:
    """What no weights file has any use for."""


def test_an_unknown_loss_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {"train_loss": Loss()}}, path)
    with pytest.raises(UnsafeWeightsError, match="Loss"):
        load(tmp_path, "gpocm", path)


def test_a_checkpoint_of_another_network_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"core\.net\.encoders\.0\.transform"):
        load(tmp_path, "gpocm_lasaft", GOLDENS / "lasaft_gpocm_lightsaft.ckpt")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"transform": "fft"}, "fft"),
        ({"transform": "lightsaft", "bottleneck_factor": 0}, "bottleneck"),
        ({"gamma_activation": "swish", "modulation": "film"}, "swish"),
    ],
)
def test_an_impossible_configuration_is_an_error(values: dict[str, object], named: str) -> None:
    config = ConditionedUNetConfig(**{**vars(ConditionedUNetConfig.tiny(STEMS)), **values})
    with pytest.raises(ValueError, match=named):
        ConditionedUNet(config)
