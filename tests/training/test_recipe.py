"""Recipe files: what they may hold, and what a value that is wrong is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from music import make_recipe

from stemsplit.errors import UnknownNameError, UsageError
from stemsplit.models.base import build_config
from stemsplit.models.catalogue import ARCHITECTURES, find_architecture
from stemsplit.training.recipe import build_recipe, list_keys
from stemsplit.training.recipe_files import list_stem_tables, load_recipe, parse_value, write_recipe


def test_a_file_is_read_on_top_of_what_it_extends(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(
        'extends = "umx"\n[optimiser]\nlr = 0.5\nweight_decay = 0.25\n[model.config]\nlayers = 2\n'
    )
    path = tmp_path / "own.toml"
    path.write_text('extends = "base"\n[optimiser]\nlr = 0.125\n')
    recipe = load_recipe(path)
    assert (recipe.optimiser.lr, recipe.optimiser.weight_decay) == (0.125, 0.25)
    assert recipe.model.config == {**load_recipe("umx").model.config, "layers": 2}
    assert recipe.augment == load_recipe("umx").augment


def test_another_architecture_keeps_none_of_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('extends = "umx"\n[model]\narchitecture = "d3net"\n')
    assert load_recipe(path).model.config == {}


def test_what_extends_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text('extends = "two"\n')
    (tmp_path / "two.toml").write_text('extends = "one"\n')
    with pytest.raises(UsageError, match="extends itself"):
        load_recipe(tmp_path / "one.toml")


def test_a_stem_may_have_values_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        'extends = "bsrnn"\n[stem.bass.training]\nbatch = 3\n[stem.bass.model.config]\nwidth = 64\n'
    )
    bass = load_recipe(path, ["bass"])
    assert (bass.training.batch, bass.model.config["width"]) == (3, 64)
    for stems in (["drums"], ["bass", "drums"]):
        other = load_recipe(path, stems)
        assert (other.training.batch, other.model.config["width"]) == (4, 128)
        assert other.model.stems == tuple(stems)


@pytest.mark.parametrize(
    ("setting", "section", "key", "value"),
    [
        ("optimiser.lr=3e-4", "optimiser", "lr", 3e-4),
        ("optimiser.lr = 1", "optimiser", "lr", 1.0),
        ("training.batch=7", "training", "batch", 7),
        ("training.wandb=true", "training", "wandb", True),
        ("training.precision=32", "training", "precision", "32"),
        ("training.precision=bf16-mixed", "training", "precision", "bf16-mixed"),
        ("schedule.milestones=[3, 5]", "schedule", "milestones", (3, 5)),
        ("model.stems=[drums, bass]", "model", "stems", ("drums", "bass")),
        ('model.stems=["a, b"]', "model", "stems", ("a, b",)),
        ("loss.terms=[waveform_l1]", "loss", "terms", ("waveform_l1",)),
        ("description=short = sweet", None, "description", "short = sweet"),
    ],
)
def test_a_value_is_overridden(setting: str, section: str | None, key: str, value: object) -> None:
    recipe = load_recipe("umx", settings=[setting])
    found = getattr(recipe if section is None else getattr(recipe, section), key)
    assert found == value
    assert type(found) is type(value)


def test_the_architecture_s_own_settings_are_overridden() -> None:
    recipe = load_recipe("umx", settings=["model.config.hidden_size=64", "model.config.layers=1"])
    assert recipe.model.config["hidden_size"] == 64
    assert recipe.model.config["layers"] == 1
    assert recipe.model.config["n_fft"] == 4096


@pytest.mark.parametrize(
    ("setting", "near"),
    [
        ("optimizer.lr=1", "optimiser.lr"),
        ("optimiser.learning_rate=1", "optimiser.lr"),
        ("training.max_epoch=1", "training.max_epochs"),
        ("augment.gain_hi=1", "augment.gain_high"),
    ],
)
def test_an_unknown_key_has_the_nearest_three(setting: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match="no recipe key") as refused:
        load_recipe("umx", settings=[setting])
    listed = refused.value.help.removeprefix("did you mean ").rstrip("?").split(", ")
    assert near in listed
    assert 1 <= len(listed) <= 3
    assert set(listed) <= set(list_keys())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optimiser.lr", "'optimiser.lr' is not a setting"),
        ("=3", "'=3' is not a setting"),
        ("optimiser.lr=fast", "optimiser.lr is 'fast'"),
        ("optimiser.lr=0", "optimiser.lr is 0.0"),
        ("optimiser.lr=-1", "optimiser.lr is -1.0"),
        ("optimiser.betas=[0.9]", "optimiser.betas has 1 values"),
        ("training.batch=1.5", "training.batch is 1.5"),
        ("training.batch=true", "training.batch is True"),
        ("training.wandb=1", "training.wandb is 1"),
        ("training.ema_decay=1.0", "training.ema_decay is 1.0"),
        ("training.clip=-5", "training.clip is -5.0"),
        ("validation.every=0", "validation.every is 0"),
        ("schedule.name=linear", "no schedule.name 'linear'"),
        ("training.precision=16", "no training.precision '16'"),
        ("training.precision=true", "no training.precision 'True'"),
        ("model.stems=vocals", "model.stems is 'vocals'"),
    ],
)
def test_a_value_that_cannot_be_is_refused(setting: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        load_recipe("umx", settings=[setting])
    assert message in refused.value.message


def test_scores_cannot_decide_where_no_track_is_scored() -> None:
    settings = ["validation.monitor=usdr", "validation.tracks=0"]
    with pytest.raises(UsageError, match=r"validation\.tracks is 0"):
        load_recipe("umx", settings=settings)
    assert load_recipe("umx", settings=settings[:1]).validation.monitor == "usdr"
    assert load_recipe("umx", settings=settings[1:]).validation.tracks == 0


@pytest.mark.parametrize(
    ("table", "told", "near"),
    [
        ("[stem.bas.optimizer]\nlr = 1", "'stem.bas.optimizer.lr'", "stem.bas.optimiser.lr"),
        ("[stem.bass.optimiser]\nrate = 1", "'stem.bass.optimiser.rate'", "stem.bass."),
        ("[stem.bass.model]\nconfigs = 1", "'stem.bass.model.configs'", "stem.bass.model.config"),
        ("[stem.bass]\noptimiser = 1", "'stem.bass.optimiser'", "stem.bass.optimiser."),
        ("[stem]\nbass = 1", "stem.bass is 1", "[stem.bass.optimiser]"),
    ],
)
def test_a_stem_s_values_are_checked_whatever_is_learned(
    table: str, told: str, near: str, tmp_path: Path
) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f'extends = "bsrnn"\n{table}\n')
    for stems in (["drums"], ["bass"], ["drums", "bass"]):
        with pytest.raises(UsageError) as refused:
            load_recipe(path, stems)
        assert told in refused.value.message
        assert near in refused.value.help


def test_the_stems_that_have_values_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('extends = "umx"\n[stem.bas.model.config]\nlayers = 2\n')
    assert list_stem_tables(path) == ("bas",)
    assert list_stem_tables("umx") == ()


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_recipe(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("lr = = 3")
    with pytest.raises(UsageError, match="is not TOML"):
        load_recipe(tmp_path / "bad.toml")
    (tmp_path / "odd.toml").write_text("optimiser = 3")
    with pytest.raises(UsageError, match="recipe odd: optimiser is 3"):
        load_recipe(tmp_path / "odd.toml")
    for name in ("umxx", "../recipes/umx"):
        with pytest.raises(UnknownNameError, match="no recipe"):
            load_recipe(name)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_what_is_written_is_read_again(architecture: str, tmp_path: Path) -> None:
    recipe = make_recipe(architecture, optimiser={"lr": 1e-7}, validation={"terms": ["si_sdr"]})
    write_recipe(recipe, tmp_path / "recipe.toml")
    again = load_recipe(tmp_path / "recipe.toml")
    assert again == recipe
    kind = find_architecture(architecture).Config
    above = {"stems": again.model.stems}
    assert build_config(kind, {**again.model.config, **above}) == kind.tiny(again.model.stems)


def test_awkward_texts_are_written_as_toml(tmp_path: Path) -> None:
    told = 'quotes " and \\ and \x7f, line\nends, ä, \u2028'
    recipe = build_recipe({"description": told, "model": {"config": {"odd key.": told}}})
    write_recipe(recipe, tmp_path / "recipe.toml")
    assert load_recipe(tmp_path / "recipe.toml") == recipe


def test_values_are_toml_or_else_texts() -> None:
    assert parse_value("[1, 2.5]") == [1, 2.5]
    assert parse_value("a\nb = 3") == "a\nb = 3"
    assert parse_value("") == ""
