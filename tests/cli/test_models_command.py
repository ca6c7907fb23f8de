"""`stemsplit models`: listing, files, and the cache, without torch and without a network."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from stemsplit.cli import main

WEIGHTS = b"weights, in a manner of speaking"


@pytest.fixture
def more(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry with a pinned model, one with a wrong hash, one unpinned, and an ensemble."""
    served = home.parent / "served"
    served.mkdir()
    (served / "weights.bin").write_bytes(WEIGHTS)
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    tables = ["default = 'pinned'"]
    for name, line in {
        "pinned": f'sha256 = "{digest}"',
        "wrong": f'sha256 = "{digest[::-1]}"',
        "unpinned": "",
    }.items():
        tables.append(f"""
[models.{name}]
description = "the model {name}"
architecture = "spleeter"
stems = ["vocals", "kazoo"]
licence = "CC BY 4.0"
source_page = "https://example.org/{name}"
[[models.{name}.files]]
source = "https://example.org/weights.bin"
format = "torch-pickle"
size = {len(WEIGHTS)}
{line}
[[models.{name}.scores]]
dataset = "songs"
metric = "uSDR"
values = {{ vocals = 1.0, kazoo = 4.0 }}
source = "nobody"
""")
    tables.append("""
[models.both]
description = "two in one"
stems = ["vocals", "kazoo"]
licence = "CC BY 4.0"
source_page = "https://example.org/both"
[[models.both.members]]
model = "pinned"
weights = { vocals = 1.0, kazoo = 1.0 }
[[models.both.members]]
model = "unpinned"
weights = { vocals = 0.5 }
""")
    path = home.parent / "more.toml"
    path.write_text("\n".join(tables))
    monkeypatch.setenv("STEMSPLIT_REGISTRY", str(path))
    return served / "weights.bin"


def ask(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    """Run, check the exit code, and return what stands on standard output."""
    assert main(["models", *arguments]) == status
    return capsys.readouterr().out


def test_list_is_a_table(more: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ask(capsys, "list", "--stem", "kazoo").splitlines()
    assert lines[0].split() == [
        "NAME",
        "STEMS",
        "ARCHITECTURE",
        "LICENCE",
        "SCORE",
        "SIZE",
        "CACHED",
    ]
    assert lines[1].split("  ")[0] == "pinned *"
    assert "vocals, kazoo" in lines[1]
    assert "2.50 uSDR" in lines[1]
    assert lines[1].endswith(f"{len(WEIGHTS)} B  no")
    assert "ensemble" in lines[4]
    assert lines[5] == "* the default"
    assert ask(capsys) == ask(capsys, "list")


def test_list_fits_the_terminal(
    more: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert max(len(line) for line in ask(capsys).splitlines()) <= 100


def test_list_filters(more: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = json.loads(ask(capsys, "list", "--json", "--stem", "kazoo", "--licence", "cc by"))
    assert [model["name"] for model in both] == ["pinned", "wrong", "unpinned", "both"]
    assert json.loads(ask(capsys, "--json", "--stem", "kazoo", "--licence", "GPL")) == []
    assert main(["models", "--stem", "kazooo"]) == 2
    assert "kazoo" in capsys.readouterr().err


def test_list_as_json(more: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model,) = json.loads(ask(capsys, "--json", "--stem", "kazoo"))[:1]
    assert model["is_default"] is True
    assert model["is_cached"] is False
    assert model["size_bytes"] == len(WEIGHTS)
    assert model["score"] == {"metric": "uSDR", "average_db": 2.5}
    assert model["files"][0]["checked_by"] == "pinned sha256"
    assert model["path"] is None


def test_the_shipped_models_are_listed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {model["name"] for model in json.loads(ask(capsys, "--json"))}
    assert {"tiny", "spleeter-2stems", "umxhq"} <= names


def test_info_tells_where_it_comes_from_and_how_that_is_known(
    more: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = ask(capsys, "info", "pinned")
    assert said.startswith("pinned (the default)\n  the model pinned\n")
    for text in ("vocals, kazoo", "CC BY 4.0", "https://example.org/pinned", "uSDR on songs"):
        assert text in said
    assert f"pinned sha256 {hashlib.sha256(WEIGHTS).hexdigest()}" in said
    assert "recorded on the first download" in ask(capsys, "info", "unpinned")
    said = ask(capsys, "info", "both")
    assert "member:       pinned: vocals 1.0, kazoo 1.0" in said
    assert json.loads(ask(capsys, "info", "both", "--json"))["architecture"] is None


def test_info_of_a_folder_of_ones_own(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(WEIGHTS)
    (folder / "models.toml").write_text("""
default = "own"
[models.own]
description = "what I trained"
architecture = "spleeter"
stems = ["vocals", "kazoo"]
licence = "CC0"
source_page = "not stated"
[[models.own.files]]
source = "./weights.bin"
format = "torch-pickle"
""")
    said = ask(capsys, "info", str(folder))
    assert said.startswith("own\n  what I trained\n")
    assert str(folder / "weights.bin") in said
    assert main(["models", "info", str(tmp_path / "nothing")]) == 2
    assert "there is no file or folder" in capsys.readouterr().err


def test_import_verify_path_and_remove(more: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(capsys, "verify") == "no model is in the cache\n"
    said = ask(capsys, "import", "pinned", str(more))
    assert f"pinned: {len(WEIGHTS)} B in the cache\n" in said
    folder = Path(ask(capsys, "path", "pinned").strip())
    assert folder.is_relative_to(Path(ask(capsys, "path").strip()))
    (kept,) = folder.iterdir()
    assert kept.read_bytes() == WEIGHTS
    assert json.loads(ask(capsys, "info", "pinned", "--json"))["path"] == str(folder)
    assert f"cached:       {folder}" in ask(capsys, "info", "pinned")
    assert ask(capsys, "verify") == f"pinned: {kept.name}: ok: agrees with the published sha256\n"

    kept.write_bytes(b"poison")
    assert main(["models", "verify", "pinned"]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith(f"pinned: {kept.name}: NOT ok: ")
    assert captured.err.startswith("error: not right: 1 file of pinned\nhelp: `stemsplit models re")
    assert json.loads(ask(capsys, "verify", "--json", status=1))[0]["ok"] is False

    assert ask(capsys, "remove", "pinned") == "pinned: 6 B freed\n"
    assert ask(capsys, "remove", "pinned") == "pinned: 0 B freed\n"
    assert not kept.exists()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["import", "wrong", "WEIGHTS"], 1, "sha256"),
        (["path", "pinned"], 1, "`stemsplit models download pinned`"),
        (["path", "both"], 1, "`stemsplit models download pinned`"),
        (["remove", "both"], 2, "remove its members: pinned, unpinned"),
        (["remove", "pinnd"], 2, "did you mean pinned"),
        (
            ["verify", "pinned"],
            1,
            "not right: 1 file of pinned\nhelp: `stemsplit models download pinned`",
        ),
        (["verify", "both"], 1, "not right: 2 files of pinned, unpinned"),
        (["download", "pinned", "--offline"], 1, "help: "),
    ],
)
def test_what_is_not_there_or_not_right(
    more: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, said: str
) -> None:
    given = [str(more) if word == "WEIGHTS" else word for word in arguments]
    assert main(["models", *given]) == status
    assert said in capsys.readouterr().err


def test_download_fetches_the_members_of_an_ensemble(
    more: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(self: object, entry: object, on_progress: object) -> tuple[()]:
        asked.append(entry.name)  # type: ignore[attr-defined]
        on_progress(5, 10)  # type: ignore[operator]
        return ()

    monkeypatch.setattr("stemsplit.weights.store.Store.fetch", fetch)
    assert main(["models", "download", "both", "pinned"]) == 0
    assert asked == ["pinned", "unpinned"]
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "downloading pinned: 5 B of 10 B"
    assert said[1].startswith("pinned: ")
    assert main(["models", "download", "both", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_a_model_of_ones_own_is_used_in_place(
    home: Path, tiny_registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(capsys, "path", "tiny") == f"{tiny_registry.parent}\n"
    assert "tiny" in ask(capsys, "list", "--stem", "vocals")
