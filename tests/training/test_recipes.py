"""The shipped recipes: each builds the network that was published, and trains it likewise."""

from __future__ import annotations

import pytest
import torch

from stemsplit.models.base import StemModel, build_config
from stemsplit.models.catalogue import ARCHITECTURES, find_architecture
from stemsplit.training.loader import count_excerpt
from stemsplit.training.losses import build_loss
from stemsplit.training.recipe_files import RECIPES, list_recipes, load_recipe

# As in the papers, the originals' code or their published weights; what stands behind a plus is the
# second bias of torch's LSTM, three layers both ways, which nnabla does not have.
UMX = 8_897_448 + 3 * 2 * 4 * 256
PARAMETERS = {
    "umx": 4 * UMX,
    "umxhq": 4 * UMX,
    "x-umx": 35_589_792 + 4 * 3 * 2 * 4 * 256,
    "d3net": 2_975_489 + 2_881_270 + 2_427_050 + 2_975_489,
    "unet-tfc-tdf": 987_476,
    "unet-tfc-tdf-complex-mask": 987_476,
    "tfc-tdf-large": 2_232_132,
    "lasaft": 8_424_028,
    "lasaft-large": 31_541_908,
    "lightsaft": 2_374_236,
    "cunet-film": 720_676,
    "cunet-film-tdf": 1_069_508,
    "cunet-film-lasaft": 7_998_436,
    "cunet-gpocm": 1_146_268,
    "cunet-gpocm-tdf": 1_495_100,
    "bsrnn": 32_414_628,
    "spleeter": 2 * 9_822_725,
}


def build(name: str, stems: tuple[str, ...] = ()) -> StemModel:
    recipe = load_recipe(name, stems)
    kind = find_architecture(recipe.model.architecture)
    values = {**recipe.model.config, "stems": recipe.model.stems}
    with torch.device("meta"):
        return kind(build_config(kind.Config, values))


def count(model: StemModel) -> int:
    tensors = dict(model.named_parameters())
    if model.config.__class__.__name__ in ("OpenUnmixConfig", "XUmxConfig", "D3NetConfig"):
        # nnabla's files count the norms' statistics, too.
        tensors = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
    return sum(tensor.numel() for tensor in tensors.values())


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.toml")))
def test_every_recipe_is_whole(name: str) -> None:
    recipe = load_recipe(name)
    model = build(name)
    assert recipe.description
    assert recipe.source.startswith("https://")
    assert recipe.model.stems
    build_loss(recipe.loss)
    recipe.data.check()
    excerpt = count_excerpt(model, recipe.data, centred=recipe.loss.centred)
    assert excerpt >= (model.chunk.samples if model.chunk.fixed else 2 * model.sample_rate)


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_the_networks_have_as_many_parameters_as_the_published_ones(name: str) -> None:
    assert count(build(name)) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "stem", "parameters"),
    [
        ("bsrnn", "bass", 33_371_812),
        ("bsrnn", "drums", 35_954_340),
        ("bsrnn", "other", 32_414_628),
        ("d3net", "drums", 2_881_270),
        ("d3net", "bass", 2_427_050),
        ("umx", "drums", UMX),
    ],
)
def test_a_stem_alone_has_its_own_network(name: str, stem: str, parameters: int) -> None:
    assert count(build(name, (stem,))) == parameters


def test_every_architecture_has_a_recipe_and_all_are_listed() -> None:
    listed = list_recipes()
    assert {load_recipe(name).model.architecture for name in listed} == set(ARCHITECTURES)
    assert set(PARAMETERS) <= set(listed)
    assert all(len(line) <= 80 for line in listed.values())


def test_the_settings_are_those_of_the_papers() -> None:
    umx, bsrnn, d3net, large = map(load_recipe, ("umxl", "bsrnn", "d3net", "tfc-tdf-large"))
    assert (umx.training.batch, umx.optimiser.weight_decay, umx.training.patience) == (
        16,
        1e-5,
        140,
    )
    assert (umx.schedule.factor, umx.schedule.patience, umx.schedule.cooldown) == (0.3, 80, 10)
    assert (umx.loss.centred, umx.augment.gain_low, umx.augment.gain_high) == (False, 0.25, 1.25)
    assert (bsrnn.training.clip, bsrnn.training.ema_decay, bsrnn.training.batch) == (5, 0.9999, 4)
    assert bsrnn.loss.terms == ("complex_l1", "waveform_l1")
    assert count_excerpt(build("bsrnn"), bsrnn.data) == 134_144
    assert (d3net.training.batch, d3net.training.max_epochs, d3net.loss.frames) == (6, 50, 256)
    assert (large.training.min_epochs, large.training.max_epochs, large.training.seed) == (
        2000, 3000, 2020,
    )  # fmt: skip
    assert load_recipe("lasaft-large").optimiser.lr == 1e-4
    assert load_recipe("x-umx").loss.weights == (1, 10)
