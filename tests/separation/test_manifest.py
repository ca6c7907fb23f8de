from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stemsplit.errors import DecodeError
from stemsplit.separation import manifest as manifests
from stemsplit.separation.manifest import (
    FileRecord,
    Manifest,
    SourceRecord,
    StemRecord,
    hash_file,
    is_done,
    list_outputs,
    read_manifest,
    record_source,
)

RECIPE = {"model": "net", "options": {"shifts": 0}, "clip": "none"}
FILES = {"vocals": "vocals.wav", "drums": "sub/drums.wav"}


@pytest.fixture
def done(tmp_path: Path) -> Manifest:
    """A song that is done: source, outputs and manifest lie in `tmp_path`."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "song.mp3").write_bytes(b"song")
    stems = []
    for stem, name in FILES.items():
        path = tmp_path / name
        path.write_bytes(stem.encode() * 100)
        os.utime(path, (1e9, 1e9))
        record = StemRecord(name, path.stat().st_size, hash_file(path), stem, -1.5, None, 3)
        stems.append(record)
    manifest = Manifest(
        track="song",
        source=record_source(tmp_path / "song.mp3", "song.mp3"),
        recipe=RECIPE,
        sample_rate=44100,
        channels=2,
        samples=441,
        duration_s=0.01,
        gain=1.0,
        gain_db=0.0,
        stems=tuple(stems),
        stem_mp4=None,
        notices=("told",),
        versions={"stemsplit": "0"},
        device="cpu",
    )
    write(tmp_path, manifest)
    return manifest


def write(folder: Path, manifest: Manifest) -> None:
    (folder / "stemsplit.json").write_text(manifest.to_json(), "utf-8")


def proves(folder: Path, **changes: Any) -> bool:
    source = changes.pop("source", None) or record_source(folder / "song.mp3", "song.mp3")
    now = {"recipe": RECIPE, "files": FILES, "stem_mp4": None, **changes}
    return is_done(folder / "stemsplit.json", source, **now)


def test_what_is_written_is_what_is_read(tmp_path: Path, done: Manifest):
    assert read_manifest(tmp_path / "stemsplit.json") == done
    assert json.loads(done.to_json())["schema"] == 1
    mp4 = replace(done, stem_mp4=FileRecord("x.stem.mp4", 1, "ab"), earlier=("old.wav",))
    write(tmp_path, mp4)
    assert read_manifest(tmp_path / "stemsplit.json") == mp4


def test_names_of_any_kind_survive(tmp_path: Path, done: Manifest):
    source = tmp_path / os.fsdecode(b"caf\xff\xf0\x9f\x8e\xb8\n.mp3")
    source.write_bytes(b"x")
    odd = replace(done, source=record_source(source, source.name), track="🎸")
    write(tmp_path, odd)
    assert read_manifest(tmp_path / "stemsplit.json") == odd
    assert "🎸" in (tmp_path / "stemsplit.json").read_text("utf-8")


def test_it_proves_what_it_should(tmp_path: Path, done: Manifest):
    assert proves(tmp_path)


def test_a_moved_or_renamed_song_is_still_done(tmp_path: Path, done: Manifest):
    os.rename(tmp_path / "song.mp3", tmp_path / "other.mp3")
    assert proves(tmp_path, source=record_source(tmp_path / "other.mp3", "other.mp3"))


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": {**RECIPE, "clip": "clamp"}},
        {"recipe": {**RECIPE, "more": 1}},
        {"files": {"vocals": "vocals.wav"}},
        {"files": {**FILES, "bass": "bass.wav"}},
        {"files": {"vocals": "vocals.flac", "drums": "sub/drums.flac"}},
        {"files": {"vocals": "sub/drums.wav", "drums": "vocals.wav"}},
        {"stem_mp4": "song.stem.mp4"},
    ],
)
def test_another_recipe_or_other_outputs_are_not_done(
    tmp_path: Path, done: Manifest, changes: dict[str, Any]
):
    assert not proves(tmp_path, **changes)


def test_another_song_is_not_done_even_with_the_same_size_and_time(tmp_path: Path, done: Manifest):
    before = (tmp_path / "song.mp3").stat()
    (tmp_path / "song.mp3").write_bytes(b"gnos")
    os.utime(tmp_path / "song.mp3", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not proves(tmp_path)


@pytest.mark.parametrize("name", FILES.values())
def test_an_output_that_is_gone_cut_or_grown_is_not_done(tmp_path: Path, done: Manifest, name: str):
    path = tmp_path / name
    content = path.read_bytes()
    for wrong in (content[:-1], content + b"x", b""):
        path.write_bytes(wrong)
        assert not proves(tmp_path)
    path.unlink()
    assert not proves(tmp_path)
    path.mkdir()
    assert not proves(tmp_path)


def test_an_output_changed_in_place_is_not_done(tmp_path: Path, done: Manifest):
    path = tmp_path / "vocals.wav"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    assert not proves(tmp_path)


def test_an_output_that_was_only_copied_is_done(tmp_path: Path, done: Manifest):
    path = tmp_path / "vocals.wav"
    path.write_bytes(path.read_bytes())
    os.utime(path, (4e9, 4e9))
    assert proves(tmp_path)


def test_an_untouched_output_is_not_read_again(
    tmp_path: Path, done: Manifest, monkeypatch: pytest.MonkeyPatch
):
    source = record_source(tmp_path / "song.mp3", "song.mp3")
    monkeypatch.setattr(manifests, "hash_file", lambda path: pytest.fail(f"{path} was read"))
    assert proves(tmp_path, source=source)


def test_no_manifest_proves_nothing(tmp_path: Path, done: Manifest):
    (tmp_path / "stemsplit.json").unlink()
    assert not proves(tmp_path)
    assert list_outputs(tmp_path / "stemsplit.json") == set()


def test_a_damaged_manifest_proves_nothing_wherever_it_ends(tmp_path: Path, done: Manifest):
    path = tmp_path / "stemsplit.json"
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 7):
        path.write_bytes(whole[:length])
        assert read_manifest(path) is None
        assert not proves(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(key=st.sampled_from(list(Manifest.__dataclass_fields__)), value=json_values)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_values_of_any_kind_never_raise(tmp_path: Path, done: Manifest, key: str, value: Any):
    data = {**json.loads(done.to_json()), key: value}
    (tmp_path / "stemsplit.json").write_text(json.dumps(data), "utf-8")
    proves(tmp_path)
    list_outputs(tmp_path / "stemsplit.json")


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{}", '{"schema": 1}', "[" * 100_000, "\ufeff{}", '{"schema": 99}', "nan"],
)
def test_other_json_proves_nothing(tmp_path: Path, text: str):
    (tmp_path / "stemsplit.json").write_text(text, "utf-8")
    assert read_manifest(tmp_path / "stemsplit.json") is None


def test_bytes_that_are_not_text_prove_nothing(tmp_path: Path):
    (tmp_path / "stemsplit.json").write_bytes(b"\xff\xfe\x00")
    assert read_manifest(tmp_path / "stemsplit.json") is None
    assert read_manifest(tmp_path) is None


@pytest.mark.parametrize("name", ["../x.wav", "/etc/passwd", "a/../../x", "..\\x", "", 5, None])
@pytest.mark.parametrize("place", ["stems", "earlier", "stem_mp4"])
def test_a_manifest_never_speaks_of_files_outside_its_folder(
    tmp_path: Path, done: Manifest, name: object, place: str
):
    data = json.loads(done.to_json())
    if place == "stems":
        data["stems"][0]["file"] = name
    else:
        data[place] = [name] if place == "earlier" else {"file": name, "bytes": 1, "sha256": ""}
    (tmp_path / "stemsplit.json").write_text(json.dumps(data), "utf-8")
    assert read_manifest(tmp_path / "stemsplit.json") is None


def test_all_outputs_are_listed_those_of_earlier_runs_too(tmp_path: Path, done: Manifest):
    write(tmp_path, replace(done, earlier=("vocals.flac",)))
    expected = {tmp_path / name for name in (*FILES.values(), "vocals.flac")}
    assert list_outputs(tmp_path / "stemsplit.json") == expected


def test_a_source_that_cannot_be_read_is_said_so(tmp_path: Path):
    with pytest.raises(DecodeError, match="cannot be read"):
        record_source(tmp_path / "none.mp3", "none.mp3")
    with pytest.raises(DecodeError, match="cannot be read"):
        record_source(tmp_path, "folder")


def test_standard_input_has_no_place(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"song")
    record = record_source(tmp_path / "x", "stdin")
    assert record == SourceRecord(None, "stdin", 4, hash_file(tmp_path / "x"))


def test_a_version_at_one_place_stands_for_bytes_that_were_not_read():
    read = SourceRecord("s3://b/x.mp3", "x.mp3", 4, "12ab", "v1")
    seen = SourceRecord("s3://b/x.mp3", "x.mp3", 4, "", "v1")
    assert read.is_same_song(seen)
    assert not read.is_same_song(replace(seen, version="v2"))
    assert not read.is_same_song(replace(seen, version=None))
    assert not read.is_same_song(replace(seen, path="s3://b/y.mp3"))
    assert not read.is_same_song(replace(seen, bytes=5))
    assert not read.is_same_song(replace(seen, sha256="34cd"))
    assert not replace(read, version=None).is_same_song(replace(seen, version=None))


def test_a_manifest_of_before_versions_still_proves(tmp_path: Path, done: Manifest):
    fields = json.loads(done.to_json())
    del fields["source"]["version"]
    (tmp_path / "stemsplit.json").write_text(json.dumps(fields))
    assert read_manifest(tmp_path / "stemsplit.json") == done
