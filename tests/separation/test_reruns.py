from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from linear_model import GAINS, LinearModel, hash_tree, separate_song, write_song

from stemsplit.audio import parse_format
from stemsplit.errors import (
    OutputError,
)
from stemsplit.separation.events import Event
from stemsplit.separation.files import FileOptions, plan_jobs, separate_file
from stemsplit.separation.manifest import hash_file, read_manifest
from stemsplit.separation.separator import Separator
from stemsplit.separation.sources import Source


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_done_is_skipped_silently_and_untouched():
    write_song(Path("song.wav"))
    first = separate_song()
    before = {path: Path(path).stat() for path in hash_tree("stems")}
    events: list[Event] = []
    again = separate_song(on_event=events.append)
    assert (again.status, events) == ("skipped", [])
    assert again.manifest == first.manifest
    assert {path: Path(path).stat() for path in before} == before


def test_done_songs_are_skipped_in_a_folder_that_cannot_be_written(in_tmp: Path):
    write_song(Path("song.wav"))
    separate_song()
    os.chmod("stems/song", 0o500)
    try:
        assert separate_song().status == "skipped"
    finally:
        os.chmod("stems/song", 0o700)


@pytest.mark.parametrize(
    "changes",
    [
        {"clip": "clamp"},
        {"format": parse_format("wav", bits=16)},
        {"separator": {"shifts": 2}},
        {"separator": {"segment_s": 0.5}},
        {"separator": {"duration_s": 1.0}},
        {"separator": {"residual": True}},
        {"separator": {"stems": ("vocals",)}},
        {"separator": {"precision": "bf16"}},
        {"separator": {"backend": "openvino"}},
        {"overwrite": True},
    ],
)
def test_a_changed_option_does_it_again(changes: dict[str, Any]):
    write_song(Path("song.wav"))
    separate_song()
    assert separate_song(**changes).status == "done"


@pytest.mark.parametrize("changes", [{"threads": 1}, {"batch_size": 2}])
def test_what_changes_the_last_bits_is_no_reason_to_do_it_again(changes: dict[str, Any]):
    write_song(Path("song.wav"))
    separate_song()
    assert separate_song(separator=changes).status == "skipped"


def test_other_weights_do_it_again():
    write_song(Path("song.wav"))
    options = FileOptions()
    for name, expected in (("a", "done"), ("a", "skipped"), ("b", "done")):
        separator = Separator(LinearModel(name=name))
        (job,) = plan_jobs(["song.wav"], stems=separator.stems, model="x", options=options)
        assert separate_file(separator, job, options, lambda e: None).status == expected


def test_a_changed_song_does_it_again():
    write_song(Path("song.wav"), seed=1)
    first = separate_song()
    write_song(Path("song.wav"), seed=2)
    again = separate_song()
    assert again.status == "done"
    assert again.job == first.job
    assert again.manifest.source.sha256 != first.manifest.source.sha256


def test_a_moved_song_is_still_done():
    write_song(Path("song.wav"))
    separate_song()
    Path("elsewhere").mkdir()
    os.rename("song.wav", "elsewhere/song.wav")
    assert separate_song("elsewhere/song.wav").status == "skipped"


def test_another_song_of_the_same_name_is_put_beside():
    write_song(Path("song.wav"), seed=1)
    write_song(Path("x/song.wav"), seed=2)
    first = separate_song()
    before = hash_tree("stems/song")
    second = separate_song("x/song.wav")
    assert (second.status, second.job.track) == ("done", "song (2)")
    assert hash_tree("stems/song") == before
    assert separate_song("x/song.wav").status == "skipped"
    assert separate_song().job == first.job


def test_another_standard_input_is_put_beside():
    for seed, track in ((1, "stdin"), (2, "stdin (2)"), (1, "stdin")):
        write_song(Path("spool"), seed=seed)
        result = separate_song(Source(Path("spool"), "stdin", is_temporary=True))
        assert result.job.track == track
    assert result.status == "skipped"
    assert result.manifest.source.path is None


@pytest.mark.parametrize("wrong", [b"", b"RIFF", None])
def test_a_tampered_output_is_done_again(wrong: bytes | None):
    write_song(Path("song.wav"))
    result = separate_song()
    path = result.job.outputs["vocals"]
    good = hash_file(path)
    path.unlink() if wrong is None else path.write_bytes(wrong)
    assert separate_song().status == "done"
    assert hash_file(path) == good


def test_a_damaged_manifest_is_done_again():
    write_song(Path("song.wav"))
    result = separate_song()
    result.job.manifest.write_text('{"schema": 1, "tra')
    assert separate_song().status == "done"
    assert read_manifest(result.job.manifest) == result.manifest


def test_files_that_are_not_ours_are_refused_until_overwrite_says_so():
    write_song(Path("song.wav"))
    Path("stems/song").mkdir(parents=True)
    Path("stems/song/vocals.wav").write_bytes(b"precious")
    with pytest.raises(OutputError, match="no manifest says") as caught:
        separate_song()
    assert "--overwrite" in caught.value.help
    assert hash_tree("stems") == {"stems/song/vocals.wav": hash_file(Path("stems/song/vocals.wav"))}
    assert Path("stems/song/vocals.wav").read_bytes() == b"precious"
    assert separate_song(overwrite=True).status == "done"
    assert separate_song().status == "skipped"


def test_a_folder_in_the_way_is_an_output_error():
    write_song(Path("song.wav"))
    Path("stems/song/vocals.wav").mkdir(parents=True)
    for overwrite in (False, True):
        with pytest.raises(OutputError):
            separate_song(overwrite=overwrite)
    assert hash_tree("stems") == {}
    assert Path("stems/song/vocals.wav").is_dir()


def test_a_link_where_stems_are_made_is_refused_and_left(in_tmp: Path):
    write_song(Path("song.wav"))
    elsewhere = in_tmp / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious.wav").write_bytes(b"mine")
    Path("stems/song").mkdir(parents=True)
    Path("stems/song/stemsplit.json.part").symlink_to(elsewhere)
    with pytest.raises(OutputError, match="link"):
        separate_song()
    assert (elsewhere / "precious.wav").read_bytes() == b"mine"


def test_outputs_in_another_format_stay_and_stay_ours():
    write_song(Path("in/song.wav"))
    out = Path("in/stems")
    for format, tracks in (("wav", 1), ("flac", 1), ("wav", 1), ("flac", 1)):
        chosen = FileOptions(out_dir=out, format=parse_format(format))
        separator = Separator(LinearModel(GAINS))
        jobs = plan_jobs(["in"], stems=separator.stems, model="linear", options=chosen)
        assert len(jobs) == tracks
        assert separate_file(separator, jobs[0], chosen, lambda e: None).status == "done"
    assert len(hash_tree(out)) == 5
    assert read_manifest(jobs[0].manifest).earlier == ("accompaniment.wav", "vocals.wav")


@pytest.mark.parametrize(
    "filename", ["{track}/{stem}.{ext}", "{stem}/{track}.{ext}", "{track} {stem}"]
)
def test_outputs_inside_the_input_folder_are_no_songs(filename: str):
    write_song(Path("in/song.wav"))
    separate_song("in", out_dir=Path("in/out"), filename=filename, stem_mp4=True)
    again = separate_song("in", out_dir=Path("in/out"), filename=filename, stem_mp4=True)
    assert again.status == "skipped"
