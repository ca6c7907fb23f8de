"""OpenVINO gives what torch gives, for every architecture; graphs are made once and kept whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stemsplit.backends import openvino_graph
from stemsplit.errors import DeviceError
from stemsplit.models.base import StemModel
from stemsplit.models.catalogue import ARCHITECTURES, find_architecture
from stemsplit.separation.cores import make_core, make_examples
from stemsplit.separation.events import Notice
from stemsplit.separation.separator import Separator

pytest.importorskip("openvino")

STEMS = ("vocals", "drums", "bass")
CPU = torch.device("cpu")
VARIANTS = [
    *((name, {}) for name in sorted(ARCHITECTURES.keys() - {"d3net"})),
    pytest.param("d3net", {}, marks=pytest.mark.slow),  # a deep tree of small layers
    ("bsrnn", {"bottleneck": "attention"}),
    ("bsrnn", {"cell": "gru", "bidirectional": False}),
    *(("intermediate-block-unet", {"block": block}) for block in ("tfc", "tdf", "tdc", "tdc-rnn")),
    ("lasaft", {"modulation": "film", "transform": "tdf"}),
    ("lasaft", {"transform": "lightsaft"}),
]


def build(name: str, **changes: object) -> StemModel:
    kind = find_architecture(name)
    model = kind(replace(kind.Config.tiny(STEMS), **changes)).eval()
    dice = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            # Norms that do something, so that folding them away shows.
            if key.endswith(("running_mean", "running_var")):
                tensor.copy_(torch.rand(tensor.shape, generator=dice) + 0.5)
    if not model.chunk.fixed:
        model.chunk = replace(model.chunk, samples=400 * model.chunk.multiple_of)
    return model


def noise(samples: int, batch: int = 1) -> Tensor:
    return 0.1 * torch.randn(batch, 2, samples, generator=torch.Generator().manual_seed(samples))


def difference(expected: Sequence[Tensor], got: Sequence[Tensor]) -> float:
    pairs = list(zip(expected, got, strict=True))
    assert all(one.shape == other.shape for one, other in pairs)
    return max(float((one - other).norm() / one.norm()) for one, other in pairs)


@pytest.mark.parametrize(("name", "changes"), VARIANTS, ids=str)
@torch.no_grad()
def test_it_gives_what_torch_gives(name: str, changes: dict[str, object]) -> None:
    model = build(name, **changes)
    core = make_core(model, CPU, "openvino", "fp32")
    songs = [noise(model.chunk.samples, batch=2)]
    if not model.chunk.fixed:
        songs += [noise(9000), noise(3 * model.chunk.samples // 2), noise(9000)]
    for song in songs:
        inputs = model.encode(song).inputs
        assert difference(model.run_core(inputs), core(inputs)) < 1e-5


@pytest.mark.parametrize("name", ["lasaft", "open-unmix"])
@torch.no_grad()
def test_a_whole_song_is_taken_too(name: str) -> None:
    model = build(name)
    core = make_core(model, CPU, "openvino", "fp32", is_whole=True)
    for samples in (70_000, 30_000):
        inputs = model.encode(noise(samples)).inputs
        assert difference(model.run_core(inputs), core(inputs)) < 1e-5


@pytest.mark.slow
def test_what_goes_another_way_with_every_length_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The original's patches: how many there are is a matter of Python, not of the graph.
    with pytest.raises(DeviceError, match="away from what torch computes"):
        make_core(build("d3net"), CPU, "openvino", "fp32", is_whole=True)
    monkeypatch.delenv("STEMSPLIT_BACKEND")
    separator = Separator(loaded("d3net"), framing="original")
    assert separator.backend == "torch"


def test_songs_come_out_the_same_every_time_whatever_else_runs(four_threads: None) -> None:
    model = build("spleeter")
    song = noise(400_000)[0]
    torch_stems = Separator(model, backend="torch").separate(song)
    first, second = (Separator(model, backend="openvino").separate(song) for _ in range(2))
    for stem in STEMS:
        assert torch.equal(first[stem], second[stem])
        assert float((first[stem] - torch_stems[stem]).norm() / torch_stems[stem].norm()) < 1e-5


def loaded(name: str = "spleeter") -> StemModel:
    model = build(name)
    model.identify("mine", "1" * 64)
    return model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEMSPLIT_CACHE", str(tmp_path))
    return tmp_path / "converted"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Every core that a graph is made of."""
    cores: list[nn.Module] = []
    make = openvino_graph.make_graph

    def note(core: nn.Module, examples: Sequence[tuple[Tensor, ...]]) -> object:
        cores.append(core)
        return make(core, examples)

    monkeypatch.setattr("stemsplit.separation.cores.make_graph", note)
    return cores


@torch.no_grad()
def test_a_graph_is_made_once_and_a_damaged_one_again(cache: Path, made: list[nn.Module]) -> None:
    model = loaded()
    inputs = model.encode(noise(model.chunk.samples)).inputs
    (expected,) = make_core(model, CPU, "openvino", "fp32")(inputs)
    kinds = sorted(path.suffix for path in cache.iterdir())
    assert (kinds, len(made)) == ([".bin", ".sha256", ".xml"], 1)
    assert torch.equal(make_core(model, CPU, "openvino", "fp32")(inputs)[0], expected)
    assert len(made) == 1
    (weights,) = cache.glob("*.bin")
    content = bytearray(weights.read_bytes())
    content[1000] ^= 1
    weights.write_bytes(content)
    assert torch.equal(make_core(model, CPU, "openvino", "fp32")(inputs)[0], expected)
    assert len(made) == 2
    next(cache.glob("*.xml")).unlink()
    assert torch.equal(make_core(model, CPU, "openvino", "fp32")(inputs)[0], expected)
    assert len(made) == 3


def test_whoever_waits_for_a_graph_is_told(cache: Path) -> None:
    told: list[str] = []
    for model in (loaded(), loaded()):
        Separator(model, backend="openvino", on_graph=lambda: told.append("graph"))
    assert told == ["graph"]


@torch.no_grad()
def test_changed_weights_are_never_taken_for_the_loaded_ones(cache: Path) -> None:
    model = loaded()
    inputs = model.encode(noise(model.chunk.samples)).inputs
    make_core(model, CPU, "openvino", "fp32")
    next(model.parameters()).mul_(2)
    assert not model.has_loaded_weights
    got = make_core(model, CPU, "openvino", "fp32")(inputs)
    assert difference(model.run_core(inputs), got) < 1e-5
    other = loaded()
    other.core.nets["vocals"].out.bias = nn.Parameter(torch.ones(2))
    assert not other.has_loaded_weights


def test_other_stems_are_another_graph(cache: Path, made: list[nn.Module]) -> None:
    model = build("open-unmix")
    model.identify("mine", "2" * 64)
    for stems in (("vocals",), ("drums",), ("vocals",)):
        make_core(model.only(stems).eval(), CPU, "openvino", "fp32")
    assert len(made) == 2


def test_a_failed_conversion_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(graph: object, path: Path) -> None:
        path.write_text("<half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stemsplit.separation.cores.save_graph", fail)
    make_core(loaded(), CPU, "openvino", "fp32")
    assert list(cache.iterdir()) == []


def test_what_was_killed_in_the_middle_is_cleared_away(cache: Path) -> None:
    make_core(loaded(), CPU, "openvino", "fp32")
    (graph,) = cache.glob("*.xml")
    made = set(cache.iterdir())
    graph.unlink()
    left = cache / f".{graph.stem}.killed"
    left.mkdir()
    (left / "half.bin").write_bytes(b"half")
    make_core(loaded(), CPU, "openvino", "fp32")
    assert set(cache.iterdir()) == made


class Wrong(nn.Module):
    """A core that computes something else whenever it is not traced."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1.0 if torch.jit.is_tracing() else 2.0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the disk that is always full")
def test_a_full_cache_makes_the_graph_in_memory(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = openvino_graph.save_graph

    def save_to_full_disk(graph: object, path: Path) -> None:
        path.with_suffix(".bin").symlink_to("/dev/full")
        save(graph, path)

    monkeypatch.setattr("stemsplit.separation.cores.save_graph", save_to_full_disk)
    model = loaded()
    (example,) = make_examples(model, any_length=False)
    core = make_core(model, CPU, "openvino", "fp32")
    with torch.no_grad():
        assert difference(model.run_core(example), core(example)) < 1e-5
    assert list(cache.iterdir()) == []


def test_a_graph_that_differs_is_refused() -> None:
    example = (torch.ones(1, 4),)
    with pytest.raises(DeviceError, match="away from what torch computes"):
        openvino_graph.make_graph(Wrong().eval(), [example, example])


class Strange(nn.Module):
    """A core with an operation that OpenVINO lacks."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(x @ x.transpose(1, 2))


def test_auto_falls_back_to_torch_and_says_so(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEMSPLIT_BACKEND")
    monkeypatch.setattr("stemsplit.backends.choice.has_native_convolutions", lambda _: False)
    model = build("spleeter")
    model.identify("mine", "4" * 64)
    assert Separator(model).backend == "openvino"

    def refuse(core: nn.Module, examples: object) -> None:
        raise DeviceError("no such operation", help="use --backend torch.")

    monkeypatch.setattr("stemsplit.separation.cores.make_graph", refuse)
    model.identify("mine", "5" * 64)
    separator = Separator(model)
    assert separator.backend == "torch"
    notices: list[str] = []
    separator.separate(
        noise(3000)[0],
        on_event=lambda event: notices.append(event.message) if isinstance(event, Notice) else None,
    )
    assert notices == ["torch computes this model: no such operation."]
    with pytest.raises(DeviceError, match="no such operation"):
        Separator(model, backend="openvino")


def test_an_operation_that_it_lacks_is_named() -> None:
    with pytest.raises(
        DeviceError, match=r"network: No conversion rule .* aten::linalg_eigvalsh"
    ) as caught:
        openvino_graph.make_graph(Strange().eval(), [(torch.ones(1, 3, 3),)])
    assert "--backend torch" in caught.value.help


def test_only_axes_that_vary_are_open() -> None:
    assert openvino_graph.find_shapes(make_examples(build("d3net"), any_length=False)) == [
        (1, 2, 129, 32)
    ]
    (shape,) = openvino_graph.find_shapes(make_examples(build("d3net"), any_length=True))
    assert shape == (1, 2, 129, -1)
