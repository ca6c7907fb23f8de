from __future__ import annotations

import os
import unicodedata
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from linear_model import write_song

from stemsplit.errors import UnknownNameError, UsageError
from stemsplit.separation import naming
from stemsplit.separation.files import FileOptions, parse_format
from stemsplit.separation.naming import Job, plan_jobs, safe_name
from stemsplit.separation.sources import Source, find_sources

STEMS = ("vocals", "accompaniment")
any_text = st.text(max_size=400) | st.text(st.characters(codec=None), max_size=40)


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))


def plan(*inputs: object, stems: tuple[str, ...] = STEMS, **options: object) -> list[Job]:
    options = {"out_dir": Path("out"), **options}
    return plan_jobs(inputs, stems=stems, model="net", options=FileOptions(**options))


def names(jobs: list[Job]) -> list[str]:
    return [path.as_posix() for job in jobs for path in job.outputs.values()]


# --- what is separated ---------------------------------------------------------------------------


def test_a_file_becomes_a_folder_of_stems():
    touch("song.mp3")
    (job,) = plan("song.mp3")
    assert names([job]) == ["out/song/vocals.wav", "out/song/accompaniment.wav"]
    assert job.manifest == Path("out/song/stemsplit.json")
    assert (job.track, job.model, job.stem_mp4) == ("song", "net", None)


def test_a_named_file_needs_no_known_suffix():
    touch("take.xyz", "noise")
    assert [job.track for job in plan("take.xyz", "noise")] == ["take", "noise"]


def test_a_folder_is_searched_in_the_order_of_names_and_keeps_its_subfolders():
    touch(
        "in/b.wav", "in/A.FLAC", "in/cd 1/02.mp3", "in/cd 1/01.mp3", "in/notes.txt", "in/cover.jpg"
    )
    jobs = plan("in")
    assert [job.outputs["vocals"].as_posix() for job in jobs] == [
        "out/A/vocals.wav",
        "out/b/vocals.wav",
        "out/cd 1/01/vocals.wav",
        "out/cd 1/02/vocals.wav",
    ]


def test_hidden_partial_and_special_files_of_a_folder_are_left_out(in_tmp: Path):
    touch("in/a.wav", "in/._a.wav", "in/.git/b.wav", "in/c.wav.part", "in/x.part/d.wav")
    os.mkfifo(in_tmp / "in" / "pipe.wav")
    assert [job.track for job in plan("in")] == ["a"]


def test_a_dead_link_in_a_folder_is_a_job_that_will_fail_and_not_silence(in_tmp: Path):
    touch("in/a.wav")
    (in_tmp / "in" / "b.wav").symlink_to("nowhere.wav")
    assert [job.track for job in plan("in")] == ["a", "b"]


def test_patterns_are_expanded_when_the_shell_did_not():
    touch("x/b.wav", "x/a.wav", "x/y/c.wav", "x/d.mp3")
    assert [job.track for job in plan("x/*.wav")] == ["a", "b"]
    assert [job.track for job in plan("x/**/*.wav")] == ["a", "b", "c"]
    assert len(plan("x*")) == 4


def test_a_file_whose_name_looks_like_a_pattern_is_that_file():
    touch("[live].wav", "l.wav")
    assert [job.source.path.name for job in plan("[live].wav")] == ["[live].wav"]


def test_each_file_is_taken_once(in_tmp: Path):
    touch("in/a.wav")
    (in_tmp / "link.wav").symlink_to("in/a.wav")
    assert len(plan("in", "in/a.wav", "./in/../in/a.wav", "link.wav")) == 1


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("sonng.mp3", "there is no file 'sonng.mp3'"),
        ("*.ogg", "no file fits"),
        ("empty", "no audio or video files"),
        ("song.mp3/x", "there is no file"),
        ("pipe", "neither a file nor a folder"),
        ("nul\0.wav", "cannot be opened"),
        ("x" * 300, "cannot be opened"),
    ],
)
def test_inputs_that_are_not_there_are_errors_of_the_call(in_tmp: Path, item: str, said: str):
    touch("song.mp3", "empty/readme.txt")
    os.mkfifo(in_tmp / "pipe")
    with pytest.raises(UsageError, match=said.replace("*", r"\*")):
        plan(item)


def test_a_missing_file_is_met_with_the_nearest_name():
    touch("song.mp3")
    with pytest.raises(UsageError) as caught:
        plan("sonng.mp3")
    assert "song.mp3" in caught.value.help


def test_nothing_is_an_error():
    with pytest.raises(UsageError, match="nothing to separate"):
        plan()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read_is_an_error():
    touch("in/a.wav", "in/secret/b.wav")
    os.chmod("in/secret", 0)
    try:
        with pytest.raises(UsageError, match="cannot be read"):
            plan("in")
    finally:
        os.chmod("in/secret", 0o700)


def test_a_source_given_as_such_is_called_by_its_name():
    touch("spool-x1y2")
    (job,) = plan(Source(Path("spool-x1y2"), "stdin", is_temporary=True))
    assert job.track == "stdin"
    assert job.outputs["vocals"] == Path("out/stdin/vocals.wav")


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("AC/DC: T.N.T?", "AC_DC_ T.N.T_"),
        ('<a>"b"|c*\\', "_a__b__c__"),
        ("line\nbreak\ttab\x7f\x85", "line_break_tab__"),
        ("\u2028\u2029", "__"),
        ("ends. . ", "ends"),
        ("  spaced", "spaced"),
        (".hidden", "_hidden"),
        ("...Baby One More Time", "_..Baby One More Time"),
        ("..", "_"),
        ("", "_"),
        ("   ", "_"),
        ("CON", "_CON"),
        ("con.live", "_con.live"),
        ("LPT1 .x", "_LPT1 .x"),
        ("COM²", "_COM²"),
        ("console", "console"),
        ("COM10", "COM10"),
        ("🎸🎤 song 👩‍🎤", "🎸🎤 song 👩‍🎤"),
        ("Cafe\u0301", "Caf\u00e9"),
        ("bad \udcff byte", "bad _ byte"),
        ("-i", "-i"),
    ],
)
def test_safe_name(text: str, expected: str):
    assert safe_name(text) == expected


@given(any_text)
@example("é" * 300)
@example("🎸" * 90)
@example("a" * 249 + ". b")
def test_safe_names_are_safe(text: str):
    name = safe_name(text)
    encoded = name.encode("utf-8")
    assert 0 < len(encoded) <= 250
    assert not set(name) & set('<>:"/\\|?*')
    assert all(unicodedata.category(char) not in ("Cc", "Cs") for char in name)
    assert name == name.strip(" ")
    assert not name.startswith(".")
    assert not name.endswith(".")
    assert not naming._RESERVED.match(name)
    assert unicodedata.is_normalized("NFC", name)
    assert safe_name(name) == name


@given(
    track=any_text,
    template=st.sampled_from(
        ["{track}/{stem}.{ext}", "{stem}/{track}.{ext}", "x {track} - {stem}", "{stem}{track}"]
    ),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_outputs_of_any_name_fit_and_stay_inside(track: str, template: str):
    source = Source(Path("spooled"), track, PurePosixPath(".."), is_temporary=True)
    checked = naming.Template(template, ".flac", STEMS)
    options = FileOptions(Path("out"), parse_format("flac"), template, stem_mp4=True)
    values = {"track": source.track, "model": "m"}
    jobs = [checked.fill(source, values, mark, options) for mark in ("", " (2)")]
    for job in jobs:
        assert len(set(job.paths)) == 4
        for path in job.paths:
            assert path.parts[0] == "out"
            assert ".." not in path.parts
            assert all(len(part.encode("utf-8")) <= 250 for part in path.parts)
        assert all(path.name.endswith(".flac") for path in job.outputs.values())
    assert not {*jobs[0].paths} & {*jobs[1].paths}


def test_an_overlong_name_keeps_its_stem_its_suffix_and_whole_characters():
    touch("é" * 120 + ".wav")
    (job,) = plan("é" * 120 + ".wav", filename="{track} - {stem}.{ext}")
    for stem, path in job.outputs.items():
        assert path.name.endswith(f"é - {stem}.wav")
        assert 248 <= len(path.name.encode("utf-8")) <= 250


def test_overlong_names_that_differ_at_the_end_stay_apart():
    touch("x" * 249 + "1.wav", "x" * 249 + "2.wav")
    jobs = plan(".", filename="{track}/{stem}.{ext}")
    assert len(set(names(jobs))) == 4


# --- templates -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "vocals", "manifest"),
    [
        ("{track}/{stem}.{ext}", "out/song/vocals.wav", "out/song/stemsplit.json"),
        ("{track}-{stem}.{ext}", "out/song-vocals.wav", "out/song.stemsplit.json"),
        ("{stem}/{track}.{ext}", "out/vocals/song.wav", "out/song.stemsplit.json"),
        ("{model}/{stem} of {track}", "out/net/vocals of song.wav", "out/net/song.stemsplit.json"),
        ("{model}/{track}/{stem}", "out/net/song/vocals.wav", "out/net/song/stemsplit.json"),
        ("{track}\\{stem}.{ext}", "out/song/vocals.wav", "out/song/stemsplit.json"),
        ("{track}/{stem}/x.{ext}", "out/song/vocals/x.wav", "out/song/stemsplit.json"),
        ("{track}/{stem}.wav", "out/song/vocals.wav", "out/song/stemsplit.json"),
        ("{{{track}}}/{stem}.{ext}", "out/{song}/vocals.wav", "out/{song}/stemsplit.json"),
    ],
)
def test_templates(template: str, vocals: str, manifest: str):
    touch("song.mp3")
    (job,) = plan("song.mp3", filename=template)
    assert job.outputs["vocals"].as_posix() == vocals
    assert job.manifest.as_posix() == manifest


@pytest.mark.parametrize(
    "template",
    [
        "../{track}/{stem}.{ext}",
        "{track}/../{stem}.{ext}",
        "/tmp/{track}/{stem}.{ext}",
        "\\\\server\\{track}\\{stem}.{ext}",
        "C:\\{track}\\{stem}.{ext}",
        "~/{track}/{stem}.{ext}",
        "./{track}/{stem}.{ext}",
        "{track}//{stem}.{ext}",
        "{track}/{stem}/",
        "",
        "{track}/{stem",
        "{track!r}/{stem}.{ext}",
        "{track:>9}/{stem}.{ext}",
        "{track}.{ext}",
        "{track}/" + "x" * 260 + "{stem}.{ext}",
    ],
)
def test_templates_that_leave_the_folder_or_are_none(template: str):
    touch("song.mp3")
    with pytest.raises(UsageError):
        plan("song.mp3", filename=template)


@pytest.mark.parametrize("field", ["trak", "", "0", "track.name", "track[0]"])
def test_an_unknown_field_is_named(field: str):
    touch("song.mp3")
    with pytest.raises(UnknownNameError) as caught:
        plan("song.mp3", filename="{" + field + "}/{stem}.{ext}")
    assert repr(field) in caught.value.message


def test_one_stem_needs_no_stem_in_the_template():
    touch("song.mp3")
    assert names(plan("song.mp3", stems=("vocals",), filename="{track}.{ext}")) == ["out/song.wav"]


def test_stems_whose_safe_names_are_the_same_are_refused():
    touch("song.mp3")
    with pytest.raises(UsageError, match="one name"):
        plan("song.mp3", stems=("a/b", "a:b"))


def test_tags_name_outputs_only_where_the_template_asks(monkeypatch: pytest.MonkeyPatch):
    import soundfile

    write_song(Path("a.wav"), 0.1)
    with soundfile.SoundFile("b.flac", "w", 8000, 1) as file:
        file.title, file.artist, file.album = "T: 1", "AC/DC", "  "
        file.write([0.0] * 800)
    template = "{artist}/{album}/{title}/{stem}.{ext}"
    jobs = plan("a.wav", "b.flac", filename=template)
    assert jobs[0].outputs["vocals"].as_posix() == "out/Unknown artist/Unknown album/a/vocals.wav"
    assert jobs[1].outputs["vocals"].as_posix() == "out/AC_DC/Unknown album/T_ 1/vocals.wav"
    assert jobs[1].manifest.as_posix() == "out/AC_DC/Unknown album/T_ 1/stemsplit.json"
    monkeypatch.setattr("stemsplit.audio.probe", lambda path: pytest.fail("no need to read it"))
    plan("b.flac")


def test_a_file_that_cannot_be_read_is_named_all_the_same():
    touch("broken.mp3")
    (job,) = plan("broken.mp3", filename="{artist} - {title}/{stem}.{ext}")
    assert job.outputs["vocals"].parent.name == "Unknown artist - broken"


def test_the_file_with_all_stems_lies_beside_the_manifest():
    touch("song.mp3")
    assert plan("song.mp3", stem_mp4=True)[0].stem_mp4 == Path("out/song/song.stem.mp4")
    (job,) = plan("song.mp3", stem_mp4=True, filename="{stem}/{track}.{ext}")
    assert job.stem_mp4 == Path("out/song.stem.mp4")


# --- nothing is overwritten ----------------------------------------------------------------------


def test_songs_of_the_same_name_stay_apart_and_do_so_again():
    touch("song.mp3", "song.flac", "x/song.mp3", "x/Song.MP3")
    inputs = ("song.mp3", "song.flac", "x/song.mp3", "x/Song.MP3")
    first = plan(*inputs)
    assert [job.track for job in first] == ["song", "song (2)", "song (3)", "Song (4)"]
    assert len({name.casefold() for name in names(first)}) == 8
    assert plan(*inputs) == first


@given(st.lists(st.sampled_from(["a", "A", "a (2)", "á", "a\u0301", "a.", "a ", "a:"]), max_size=8))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_two_jobs_share_a_file(tracks: list[str]):
    sources = [Source(Path(f"{n}"), track, is_temporary=True) for n, track in enumerate(tracks)]
    if sources:
        jobs = plan(*sources, stem_mp4=True)
        folded = [
            unicodedata.normalize("NFC", str(path)).casefold() for job in jobs for path in job.paths
        ]
        assert len(set(folded)) == len(folded) == 4 * len(jobs)


def test_a_template_that_cannot_tell_two_songs_apart_is_refused():
    touch("a.wav", "b.wav")
    with pytest.raises(UsageError, match="same name"):
        plan("a.wav", "b.wav", filename="{artist}/{stem}.{ext}")


def test_an_output_never_overwrites_an_input():
    touch("song.wav", "x/song/vocals.wav")
    with pytest.raises(UsageError, match="overwrite its own input"):
        plan("song.wav", stems=("vocals",), filename="{track}.{ext}", out_dir=Path("."))
    with pytest.raises(UsageError, match="overwrite its own input"):
        plan("song.wav", "x/song/vocals.wav", out_dir=Path("x"))


def test_nor_one_that_is_the_same_file_under_another_name(in_tmp: Path):
    touch("song.wav", "out/a/x")
    os.link("song.wav", "out/a/vocals.wav")
    touch("a.mp3")
    with pytest.raises(UsageError, match="overwrite its own input"):
        plan("a.mp3", "song.wav")


def test_subfolders_are_made_safe_too():
    touch("in/con/a?.wav")
    assert names(plan("in"))[0] == "out/_con/a_/vocals.wav"


def test_sources_know_where_they_were_found():
    touch("in/x/a.wav")
    (source,) = find_sources(["in"])
    assert source == Source(Path("in/x/a.wav"), "a.wav", PurePosixPath("x"))


def test_a_link_to_nothing_is_told(in_tmp: Path):
    (in_tmp / "song.wav").symlink_to("gone.wav")
    with pytest.raises(UsageError, match=r"'song\.wav' is a link to 'gone\.wav'") as caught:
        plan("song.wav")
    assert "mend the link" in caught.value.help
