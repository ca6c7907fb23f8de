from __future__ import annotations

import ntpath
import os
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import pytest
from linear_model import separate_song, write_song

from stemsplit.batch import catalogue as module
from stemsplit.batch.catalogue import Song, open_catalogue
from stemsplit.batch.storage import Folders, Listing, join, open_storage, settle_name
from stemsplit.errors import StemsplitError, StorageError, UnknownNameError, UsageError


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def bucket() -> Iterator[Any]:
    files = fsspec.filesystem("memory", use_listings_cache=False)
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"x")


def read(source: str, dest: str = "out") -> list[Song]:
    return list(open_catalogue(source, settle_name(dest)).read())


def outputs(source: str, dest: str = "out") -> list[str]:
    return [song.output for song in read(source, dest)]


def test_a_folder_gives_its_songs_at_any_depth_in_the_order_of_their_names(tmp_path: Path):
    touch("in/b.mp3", "in/A/z.flac", "in/A/deep/q.ogg", "in/a.wav", "in/notes.doc", "in/.x.wav")
    touch("in/.git/x.wav", "in/c.wav.part")
    songs = read("in")
    assert [song.output for song in songs] == ["a", "b", "A/z", "A/deep/q"]
    assert songs[2].name == str(tmp_path / "in/A/z.flac")
    assert (str(songs[3].folder), songs[3].track) == ("A/deep", "q")
    assert open_catalogue("in", "/out").count() == 4


def test_two_songs_of_one_name_in_a_folder_keep_their_suffixes_and_no_other_does():
    touch("in/song.mp3", "in/Song.flac", "in/other.mp3", "in/x/song.mp3")
    assert outputs("in") == ["other", "Song.flac", "song.mp3", "x/song"]


def test_stems_are_no_songs_wherever_they_are():
    touch("in/own.mp3")
    write_song(Path("in/song.wav"))
    separate_song("in/song.wav", out_dir=Path("in"))
    separate_song("in/song.wav", out_dir=Path("in"), filename="{track} {stem}.{ext}")
    assert len(list(Path("in").rglob("*.wav"))) == 5
    assert outputs("in") == ["own", "song"]
    assert outputs("in", "in") == ["own", "song"]


def test_the_destination_is_not_searched_for_songs():
    touch("in/a.mp3", "in/out/stray.mp3", "in/outer/b.mp3")
    assert outputs("in", "in/out") == ["a", "outer/b"]


def test_a_source_within_the_destination_is_searched():
    touch("in/deep/a.mp3", "in/deep/er/b.mp3", "in/c.mp3")
    assert outputs("in", ".") == ["c", "deep/a", "deep/er/b"]
    assert outputs("in", "in") == ["c", "deep/a", "deep/er/b"]


def test_a_bucket_is_a_folder(bucket: Any):
    names = ["b.mp3", "Z/1.mp3", "a/z.flac", "a/z.wav", "out/stray.mp3", "notes.txt", ".git/x.mp3"]
    for name in names:
        bucket.pipe(f"/music/{name}", b"x")
    songs = read("memory://music", "memory://music/out")
    assert [song.output for song in songs] == ["b", "a/z.flac", "a/z.wav", "Z/1"]
    assert songs[1].name == "memory://music/a/z.flac"
    assert open_catalogue("memory://music/", "memory://music/out").count() == 4


def test_a_folder_is_listed_no_further_than_songs_are_taken(monkeypatch: pytest.MonkeyPatch):
    listed: list[str] = []

    class Endless(Folders):
        def walk(self, root: str) -> Iterator[Listing]:
            for number in range(10**9):
                listed.append(f"{root}/{number}")
                yield Listing(listed[-1], [], ["a.mp3", "b.mp3"])

    Path("in").mkdir()
    monkeypatch.setattr(module, "open_storage", lambda name: Endless())
    songs = open_catalogue("in", "/out").read()
    assert [song.output for song in islice(songs, 5)] == ["0/a", "0/b", "1/a", "1/b", "2/a"]
    assert len(listed) == 3


@pytest.mark.parametrize("template", ["{track}/{stem}.{ext}", "{stem}/{track}.{ext}"])
def test_stems_are_no_songs_where_they_go_among_them(template: str):
    write_song(Path("in/a.wav"), 1.0)
    separate_song("in/a.wav", out_dir=Path("in"), filename=template)
    assert len(list(Path("in").rglob("vocals*"))) == 1
    assert outputs("in", "in") == ["a"]


def test_stems_of_an_interrupted_song_are_no_songs(bucket: Any):
    write_song(Path("in/a.wav"), 1.0)
    separate_song("in/a.wav", out_dir=Path("in"))
    for path in Path("in").rglob("*.*"):
        claimed = str(path).replace("stemsplit.json", "stemsplit.json.part")
        bucket.pipe(f"/{claimed}", path.read_bytes())
    assert outputs("memory://in", "memory://in") == ["a"]
    staging = Path("in/a/stemsplit.json.part")
    staging.mkdir()
    Path("in/a/stemsplit.json").rename(staging / "manifest.json")
    assert outputs("in", "in") == ["a"]


def test_a_manifest_that_cannot_be_read_ends_no_walk(bucket: Any, monkeypatch: pytest.MonkeyPatch):
    touch("in/a.mp3", "in/stemsplit.json.part/manifest.json/x")
    assert outputs("in", "in") == ["a"]
    bucket.pipe("/in/a.mp3", b"x")
    bucket.pipe("/in/stemsplit.json", b"{}")

    def refuse(name: str) -> bytes:
        raise PermissionError("no key")

    monkeypatch.setattr(bucket, "cat_file", refuse)
    assert outputs("memory://in", "memory://in") == ["a"]


def test_a_manifest_that_fails_to_come_is_asked_for_again(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("stemsplit.batch.storage._WAITS_S", (0.0, 0.0))
    write_song(Path("in/a.wav"), 1.0)
    separate_song("in/a.wav", out_dir=Path("in"))
    for path in Path("in").rglob("*.*"):
        bucket.pipe(f"/{path}", path.read_bytes())
    real, failures = bucket.cat_file, [2]

    def fetch(name: str) -> bytes:
        if failures[0]:
            failures[0] -= 1
            raise TimeoutError("slow down")
        return real(name)

    monkeypatch.setattr(bucket, "cat_file", fetch)
    assert outputs("memory://in", "memory://in") == ["a"]
    assert failures == [0]


def test_a_folder_that_cannot_be_read_fails_alone(monkeypatch: pytest.MonkeyPatch):
    touch("in/a.mp3", "in/locked/b.mp3", "in/z/c.mp3", "in/gone/d.mp3", "in/file/e.mp3")
    scan = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("locked"):
            raise OSError(116, "Stale file handle", str(path))
        if str(path).endswith("gone"):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        if str(path).endswith("file"):
            raise NotADirectoryError(20, "Not a directory", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    songs = read("in")
    assert sorted(song.output for song in songs if song.fault is None) == ["a", "z/c"]
    (fault,) = [song for song in songs if song.fault]
    assert fault.name == settle_name("in/locked")
    assert fault.output == "locked"
    assert "cannot be read: Stale file handle" in str(fault.fault)
    with pytest.raises(UsageError, match="cannot be read"):
        read("in/locked")


@pytest.mark.parametrize("failures", [2, 99])
def test_storage_that_fails_while_it_lists_is_asked_again(
    bucket: Any, monkeypatch: pytest.MonkeyPatch, failures: int
):
    monkeypatch.setattr("stemsplit.batch.storage._WAITS_S", (0.0, 0.0))
    for name in ("a/1.mp3", "b/2.mp3", "b/c/3.mp3"):
        bucket.pipe(f"/music/{name}", b"x")
    left = [failures]
    real = bucket.ls

    def ls(path: str, **rest: Any) -> Any:
        if path.endswith("b") and left[0]:
            left[0] -= 1
            raise TimeoutError("slow down")
        return real(path, **rest)

    monkeypatch.setattr(bucket, "ls", ls)
    if failures == 2:
        assert outputs("memory://music") == ["a/1", "b/2", "b/c/3"]
    else:
        with pytest.raises(StorageError, match="slow down"):
            read("memory://music")


def test_a_denied_folder_of_a_bucket_fails_alone(bucket: Any, monkeypatch: pytest.MonkeyPatch):
    for name in ("a/1.mp3", "b/2.mp3", "c/3.mp3"):
        bucket.pipe(f"/music/{name}", b"x")
    real = bucket.ls

    def ls(path: str, **rest: Any) -> Any:
        if path.endswith("b"):
            raise PermissionError("Access Denied")
        return real(path, **rest)

    monkeypatch.setattr(bucket, "ls", ls)
    songs = read("memory://music")
    assert [song.output for song in songs] == ["a/1", "b", "c/3"]
    assert [bool(song.fault) for song in songs] == [False, True, False]
    assert "'memory://music/b' cannot be read: that is not allowed" in str(songs[1].fault)


def test_a_list_whose_reading_fails_goes_on_where_it_was(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("stemsplit.batch.storage._WAITS_S", (0.0, 0.0))
    bucket.pipe("/songs.txt", "".join(f"{number}.mp3\n" for number in range(9)).encode())
    real, opened = bucket.open, []

    def open_anew(name: str, mode: str, **rest: Any) -> Any:
        file = real(name, mode, **rest)
        if mode != "rt":
            return file
        opened.append(file)
        if len(opened) > 4:
            return file

        def some() -> Iterator[str]:
            yield from islice(file, 2 * len(opened))
            raise TimeoutError("gone")

        return nullcontext(some())

    monkeypatch.setattr(bucket, "open", open_anew)
    # More failures than are put up with where nothing comes between them.
    assert outputs("memory://songs.txt") == [str(number) for number in range(9)]
    assert len(opened) == 5


def test_a_list_that_does_not_go_on_is_given_up(bucket: Any, monkeypatch: pytest.MonkeyPatch):
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    bucket.pipe("/songs.txt", b"a.mp3\n")
    tries = []

    def refuse(name: str, mode: str, **rest: Any) -> Any:
        tries.append(name)
        raise TimeoutError("gone")

    monkeypatch.setattr(bucket, "open", refuse)
    with pytest.raises(StorageError, match="gone"):
        read("memory://songs.txt")
    assert len(tries) == len(waits) + 1
    assert len(waits) > 1
    assert waits == sorted(set(waits))


def test_what_is_not_there_is_asked_for_once(bucket: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("time.sleep", lambda wait_s: pytest.fail("it waited"))
    for name in ("songs.txt", "music/a.mp3"):
        bucket.pipe(f"/{name}", b"x")
    listed = open_catalogue("memory://songs.txt", "/out")
    walked = open_catalogue("memory://music", "/out")
    bucket.store.clear()
    with pytest.raises(StemsplitError, match="it is not there"):
        list(listed.read())
    assert list(walked.read()) == []


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("file:///a%20b/c", "/a b/c"),
        ("file://localhost/a", "/a"),
        ("FILE:///a", "/a"),
        ("/a%20b", "/a%20b"),
    ],
)
def test_file_urls_are_paths(text: str, path: str):
    assert settle_name(text) == os.path.abspath(path)
    assert isinstance(open_storage(settle_name(text)), Folders)


@pytest.mark.parametrize("text", ["file://server/a", "file://", "file://a", "file:///a%00"])
def test_a_file_url_of_nothing_on_this_machine_is_refused(text: str):
    with pytest.raises(UsageError, match="leads to nothing on this machine"):
        settle_name(text)


def test_a_file_url_is_read_as_the_machine_writes_paths(monkeypatch: pytest.MonkeyPatch):
    nturl2path = pytest.importorskip("nturl2path")
    monkeypatch.setattr("urllib.request.url2pathname", nturl2path.url2pathname)
    monkeypatch.setattr(os.path, "abspath", ntpath.normpath)
    assert settle_name("file:///C:/a%20b/c") == r"C:\a b\c"
    with pytest.raises(UsageError, match="leads to nothing on this machine"):
        settle_name("file:///1:/a")


def test_names_below_a_folder_are_written_as_the_machine_does(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os.path, "join", ntpath.join)
    assert join(r"C:\in", "a/b.wav") == r"C:\in\a\b.wav"
    assert join("s3://bucket/in/", "a/b.wav") == "s3://bucket/in/a/b.wav"


def test_all_that_storage_has_is_a_folder(bucket: Any):
    bucket.pipe("/one/a.mp3", b"x")
    bucket.pipe("/two/b/c.mp3", b"x")
    songs = read("memory://", "memory://two/b")
    assert [(song.name, song.output) for song in songs] == [("memory://one/a.mp3", "one/a")]


def test_a_file_url_in_a_list_puts_its_stems_where_its_path_does():
    Path("songs.txt").write_text("file://localhost/m/a%20b.mp3\n/m/a b.mp3\n/m/a%20b.mp3\n")
    assert outputs("songs.txt") == ["m/a b", "m/a b", "m/a%20b"]


def test_a_line_of_a_list_that_is_no_path_fails_alone():
    Path("songs.txt").write_text("a.mp3\n\nfile://server/b.mp3\nc\0.mp3\nd.mp3\n")
    songs = read("songs.txt")
    assert [song.output for song in songs if song.fault is None] == ["a", "d"]
    messages = [song.fault.message for song in songs if song.fault]
    assert ["row 2 of" in messages[0], "row 3 of" in messages[1]] == [True, True]


def test_a_list_has_a_path_a_line_and_keeps_the_folders_that_it_names(tmp_path: Path):
    lines = ["a/song.mp3", "", "/music/b/é.flac", "../up.wav", "s3://bucket/c/x.y.mp3", "noext"]
    Path("lists").mkdir()
    Path("lists/songs.txt").write_text("\ufeff" + "\r\n".join(lines), "utf-8")
    songs = read("lists/songs.txt")
    assert [song.output for song in songs] == ["a/song", "music/b/é", "up", "bucket/c/x.y", "noext"]
    assert [song.name for song in songs] == [
        str(tmp_path / "lists/a/song.mp3"),
        "/music/b/é.flac",
        str(tmp_path / "up.wav"),
        "s3://bucket/c/x.y.mp3",
        str(tmp_path / "lists/noext"),
    ]


def test_a_name_that_is_no_utf8_is_still_that_file():
    Path("songs.txt").write_bytes(b"caf\xe9.mp3\n")
    (song,) = read("songs.txt")
    assert os.fsencode(song.name).endswith(b"caf\xe9.mp3")


def test_a_list_in_a_bucket_names_its_neighbours(bucket: Any):
    bucket.pipe("/music/lists/songs.txt", b"../a/x.mp3\n/local/y.mp3\n")
    songs = read("memory://music/lists/songs.txt")
    assert [song.name for song in songs] == ["memory://music/a/x.mp3", "/local/y.mp3"]


def test_a_part_of_a_list_puts_its_stems_where_the_whole_would():
    Path("songs.txt").write_text("x/a.mp3\nx/b.mp3\n/m/c.mp3\n")
    Path("part.txt").write_text("/m/c.mp3\nx/b.mp3\n")
    assert {*outputs("part.txt")} < {*outputs("songs.txt")}


def test_a_csv_says_outputs_and_times():
    Path("songs.csv").write_text(
        'path,output,start,duration\n"a, b.mp3",x/../y/one,1.5,\nb.mp3,,,30\n\n'
    )
    assert read("songs.csv") == [
        Song(settle_name("a, b.mp3"), "x/y/one", 1.5, None),
        Song(settle_name("b.mp3"), "b", None, 30.0),
    ]


def test_json_lines_say_the_same_and_reasons_of_a_failed_list_are_passed_over():
    Path("songs.jsonl").write_text(
        '{"path": "a.mp3", "start": 2, "error": "X", "message": "y", "help": "z"}\n'
    )
    assert read("songs.jsonl") == [Song(settle_name("a.mp3"), "a", 2.0)]


def test_a_row_that_cannot_be_read_is_a_song_that_fails():
    rows = ["nonsense", "[1]", '{"path": 3}', '{"path": "a.mp3", "start": "x"}']
    rows += [
        '{"path": "a.mp3", "duration": 0}',
        '{"path": "a.mp3", "strat": 1}',
        '{"path": "b.mp3"}',
    ]
    Path("songs.jsonl").write_text("\n".join(rows))
    songs = read("songs.jsonl")
    faults = [song.fault for song in songs]
    assert [bool(fault) for fault in faults] == [True] * 6 + [False]
    messages = [fault.message for fault in faults if fault]
    assert all(f"row {row} of" in message for row, message in enumerate(messages, start=1))
    assert "start 'x'" in messages[3]
    assert "duration 0" in messages[4]
    assert "no column 'strat'" in messages[5]
    assert len({song.output for song in songs}) == 7


def test_a_table_is_refused_for_its_columns_at_once():
    Path("songs.csv").write_text("path,outptu\na.mp3,b\n")
    with pytest.raises(UnknownNameError, match="no column 'outptu'") as error:
        read("songs.csv")
    assert "output" in error.value.help
    Path("songs.csv").write_text("output,start\nb,1\n")
    with pytest.raises(UsageError, match="no column 'path'"):
        read("songs.csv")


def test_a_row_of_too_many_columns_fails_alone():
    Path("songs.csv").write_text("path,output\na.mp3,b,c\nb.mp3,d\n")
    first, second = read("songs.csv")
    assert first.fault is not None
    assert second.output == "d"


def test_a_stray_quote_takes_no_other_row_with_it():
    rows = ['"b.mp3,b', *(f"{number}.mp3," for number in range(1000)), '"' + "x" * 200_000]
    Path("songs.csv").write_text("path,output\n" + "\n".join(rows) + "\n")
    songs = read("songs.csv")
    assert [bool(song.fault) for song in songs] == [True, *[False] * 1000, True]
    assert songs[0].fault is not None
    assert songs[0].fault.message.startswith("row 1 of")
    Path("songs.csv").write_text('"path,output\na.mp3,b\n')
    with pytest.raises(UsageError, match="names no columns"):
        read("songs.csv")


def test_a_single_song_is_a_catalogue():
    touch("in/song.x.opus")
    assert outputs("in/song.x.opus") == ["song.x"]


def test_a_source_that_is_not_there_is_refused(bucket: Any):
    for source in ("nothing", "memory://nothing"):
        with pytest.raises(UsageError, match="no folder and no file"):
            open_catalogue(source, "/out")


def test_storage_of_no_known_kind_is_refused_with_those_that_are_near():
    with pytest.raises(UnknownNameError, match="'s4'") as error:
        open_catalogue("s4://bucket", "/out")
    assert "s3" in error.value.help


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(StemsplitError, match="fsspec") as error:
        open_catalogue("s3://bucket", "/out")
    assert 'pip install "stemsplit[cloud]"' in error.value.help
