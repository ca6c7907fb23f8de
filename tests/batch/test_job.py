"""Songs from anywhere to anywhere: whole or not at all, once, and the same wherever they go.

One file: the same few songs are asked the same questions with every kind of source and destination.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from buckets import Memory, serve_s3
from linear_model import GAINS, LinearModel, hash_tree, separate_song, write_song

from stemsplit.batch import job as module
from stemsplit.batch.catalogue import Song, open_catalogue
from stemsplit.batch.job import Ending, SongWorker, Task
from stemsplit.batch.local import run_catalogue
from stemsplit.batch.storage import settle_name
from stemsplit.errors import (
    DecodeError,
    OutputError,
    StemsplitError,
    StorageError,
    UsageError,
)
from stemsplit.separation.files import FileOptions
from stemsplit.separation.manifest import parse_manifest, read_manifest
from stemsplit.separation.plan import Options
from stemsplit.separation.separator import Separator
from stemsplit.weights.registry import Registry

NAMES = ["accompaniment.wav", "stemsplit.json", "vocals.wav"]


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "PATIENCE_S", 0.001)
    return tmp_path


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    found = Memory(monkeypatch)
    yield found
    found.clear()


def make_task(dest: str = "memory://out", *, retries: int = 1, **file_options: Any) -> Task:
    registry = Registry.load()
    return Task(
        # The model is the tests' own; of the entry, its name counts.
        entry=replace(registry.get("spleeter-2stems"), name="linear"),
        registry=registry,
        stems=tuple(GAINS),
        options=Options(),
        file_options=FileOptions(**file_options),
        dest=settle_name(dest),
        retries=retries,
    )


def make_worker(task: Task, stop: threading.Event | None = None, **model: Any) -> SongWorker:
    separator = Separator(LinearModel(GAINS, **model), task.options)
    return SongWorker(task, separator, stop or threading.Event())


def do(song: Song, task: Task | None = None, **model: Any) -> Ending:
    return make_worker(task or make_task(), **model).work(song)


def put_song(memory: Memory, name: str = "in/a.wav", seed: int = 0) -> Song:
    write_song(Path("here.wav"), 1.0, seed=seed)
    memory.files.pipe(f"/{name}", Path("here.wav").read_bytes())
    memory.calls.clear()
    return Song(f"memory://{name}", Path(name).stem)


def of_out(memory: Memory) -> dict[str, bytes]:
    names = [name for name in memory.names() if name.startswith("out/")]
    return {name: bytes(memory.files.store[f"/{name}"].getvalue()) for name in names}


def test_from_object_storage_to_object_storage_and_the_manifest_is_the_last(memory: Memory):
    song = put_song(memory)
    ending = do(song)
    assert (ending.status, ending.error, ending.audio_s, ending.tries) == ("done", None, 1.0, 1)
    assert memory.names() == ["in/a.wav", *(f"out/a/{name}" for name in NAMES)]
    writes = [call for call in memory.calls if call[0] in ("pipe_file", "put_file", "rm_file")]
    assert writes == [
        ("pipe_file", "out/a/stemsplit.json.part"),
        ("put_file", "out/a/vocals.wav"),
        ("put_file", "out/a/accompaniment.wav"),
        ("pipe_file", "out/a/stemsplit.json"),
        ("rm_file", "out/a/stemsplit.json.part"),
    ]
    manifest = parse_manifest(of_out(memory)["out/a/stemsplit.json"])
    assert manifest is not None
    assert manifest.source.path == "memory://in/a.wav"
    assert manifest.source.version


def test_stems_are_the_same_whichever_way_they_went(memory: Memory):
    song = replace(put_song(memory), output="here")
    separate_song("here.wav", out_dir=Path("plain"))
    expected = {name: Path(f"plain/here/{name}").read_bytes() for name in NAMES if "wav" in name}
    near = Song(settle_name("here.wav"), "here")
    do(song)
    do(song, make_task("far-near"))
    do(near, make_task("near-near"))
    stored = of_out(memory)
    memory.files.rm("/out", recursive=True)
    do(near)
    for name, sound in expected.items():
        assert stored[f"out/here/{name}"] == sound
        assert of_out(memory)[f"out/here/{name}"] == sound
        assert Path(f"far-near/here/{name}").read_bytes() == sound
        assert Path(f"near-near/here/{name}").read_bytes() == sound


def test_what_is_done_is_skipped_and_not_fetched_again(memory: Memory):
    song = put_song(memory)
    do(song)
    do(song, make_task("near"))
    before = of_out(memory), hash_tree("near")
    memory.calls.clear()
    for task in (make_task(), make_task("near")):
        ending = do(song, task)
        assert (ending.status, ending.audio_s) == ("skipped", 1.0)
    verbs = {verb for verb, _ in memory.calls}
    assert verbs == {"info", "ls", "cat_file"}
    assert ("cat_file", "in/a.wav") not in memory.calls
    assert (of_out(memory), hash_tree("near")) == before


def test_a_song_on_this_machine_is_known_again_by_its_bytes(memory: Memory):
    write_song(Path("x.wav"), 1.0)
    song = Song(settle_name("x.wav"), "x")
    assert do(song).status == "done"
    Path("x.wav").touch()
    assert do(song).status == "skipped"
    write_song(Path("x.wav"), 1.0, seed=1)
    assert do(song).status == "done"


@pytest.mark.parametrize("lost", NAMES)
def test_what_is_not_whole_is_done_again(memory: Memory, lost: str):
    song = put_song(memory)
    do(song)
    whole = of_out(memory)
    memory.files.rm_file(f"/out/a/{lost}")
    assert do(song).status == ("done" if lost != "stemsplit.json" else "failed")
    if lost != "stemsplit.json":
        assert of_out(memory) == whole


def test_other_bytes_other_weights_and_other_sizes_are_done_again(memory: Memory):
    song = put_song(memory)
    do(song)
    assert do(put_song(memory, seed=1)).status == "done"
    assert do(song, name="retrained").status == "done"
    assert do(song, name="retrained").status == "skipped"
    memory.files.pipe("/out/a/vocals.wav", b"short")
    assert do(song, name="retrained").status == "done"


def test_stems_of_other_options_stay_and_stay_known_as_ours(memory: Memory):
    from stemsplit.audio import parse_format

    song = put_song(memory)
    do(song)
    assert do(song, make_task(format=parse_format("flac"))).status == "done"
    assert len(of_out(memory)) == 5
    manifest = parse_manifest(of_out(memory)["out/a/stemsplit.json"])
    assert manifest is not None
    assert manifest.earlier == ("accompaniment.wav", "vocals.wav")
    assert do(song).status == "done"


class Killed(BaseException):
    """What SIGKILL is like, where the process must go on."""


WRITES = ("pipe_file", "put_file", "rm_file")


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("after", range(7))
def test_a_death_at_any_moment_leaves_nothing_that_looks_whole(
    memory: Memory, after: int, again: bool
):
    song = put_song(memory)
    do(song, name="new")
    expected = of_out(memory)
    memory.files.rm("/out", recursive=True)
    if again:
        do(song, name="old")
    left = [after]

    def die(verb: str, name: str) -> None:
        if verb in WRITES:
            if not left[0]:
                raise Killed
            left[0] -= 1

    memory.before(die)
    worker = make_worker(make_task(), name="new")
    count = 6 if again else 5
    if after < count:
        with pytest.raises(Killed):
            worker.work(song)
    else:
        assert worker.work(song).status == "done"
    left[0] = 100
    found = of_out(memory)
    proof = parse_manifest(found.get("out/a/stemsplit.json", b""))
    if proof is not None:
        assert all(len(found[f"out/a/{one.file}"]) == one.bytes for one in proof.files)
    is_done = after >= count - 1
    assert do(song, name="new").status == ("skipped" if is_done else "done")
    assert of_out(memory) == expected


def test_files_of_others_are_not_written_over(memory: Memory):
    song = put_song(memory)
    memory.files.pipe("/out/a/vocals.wav", b"mine")
    ending = do(song)
    assert isinstance(ending.error, OutputError)
    assert "'memory://out/a/vocals.wav' is there already" in ending.error.message
    assert of_out(memory) == {"out/a/vocals.wav": b"mine"}
    assert do(song, make_task(overwrite=True)).status == "done"


def test_the_place_of_another_song_is_not_taken(memory: Memory):
    first, second = put_song(memory), put_song(memory, "in/other/a.wav", seed=1)
    for dest in ("memory://out", "near"):
        assert do(first, make_task(dest)).status == "done"
        ending = do(replace(second, output="a"), make_task(dest))
        assert isinstance(ending.error, OutputError)
        assert "stems of another song, 'memory://in/a.wav'" in ending.error.message
        assert "output" in ending.error.help
        assert do(first, make_task(dest)).status == "skipped"


def test_a_song_that_was_moved_keeps_its_place(memory: Memory):
    song = put_song(memory)
    do(song)
    memory.files.mv("/in/a.wav", "/in/moved/a.wav")
    assert do(Song("memory://in/moved/a.wav", "a")).status == "done"


def fail_times(count: int, verb: str, error: Callable[[], Exception]) -> Callable[..., None]:
    left = [count]

    def hook(called: str, name: str) -> None:
        if called == verb and left[0]:
            left[0] -= 1
            raise error()

    return hook


@pytest.mark.parametrize("verb", ["info", "ls", "get_file", "put_file", "pipe_file"])
def test_storage_that_fails_is_asked_again(memory: Memory, verb: str):
    song = put_song(memory)
    memory.before(fail_times(1, verb, lambda: ConnectionResetError("peer\nreset")))
    ending = do(song)
    assert (ending.status, ending.tries) == ("done", 2)
    assert len(of_out(memory)) == 3


def test_storage_that_goes_on_failing_is_a_failure_that_names_the_object(memory: Memory):
    song = put_song(memory)
    memory.before(fail_times(100, "put_file", lambda: TimeoutError("no answer")))
    ending = do(song, make_task(retries=2))
    assert (ending.status, ending.tries) == ("failed", 3)
    assert type(ending.error) is StorageError
    assert "'memory://out/a/vocals.wav' cannot be written: TimeoutError" in ending.error.message
    assert "out/a/stemsplit.json" not in of_out(memory)


def test_what_is_not_allowed_is_not_asked_again(memory: Memory):
    song = put_song(memory)
    memory.before(fail_times(100, "put_file", lambda: PermissionError("no")))
    ending = do(song)
    assert (ending.status, ending.tries) == ("failed", 1)
    assert type(ending.error) is OutputError


def test_a_song_that_is_not_there_or_goes_away_fails_alone(memory: Memory):
    ending = do(Song("memory://in/none.wav", "none"))
    assert isinstance(ending.error, DecodeError)
    assert (ending.status, ending.tries) == ("failed", 1)
    song = put_song(memory)

    def remove(verb: str, name: str) -> None:
        if verb == "get_file":
            memory.files.store.pop("/in/a.wav", None)

    memory.before(remove)
    ending = do(song)
    assert isinstance(ending.error, DecodeError)
    assert "'memory://in/a.wav' cannot be read: it is not there" in ending.error.message
    assert of_out(memory) == {}


def test_a_song_that_is_no_music_is_called_by_its_url_and_not_tried_again(memory: Memory):
    memory.files.pipe("/in/a.mp3", b"no music" * 99)
    ending = do(Song("memory://in/a.mp3", "a"))
    assert isinstance(ending.error, DecodeError)
    assert "memory://in/a.mp3 is text" in ending.error.message
    assert ending.tries == 1


def test_a_song_on_this_machine_that_is_not_there_fails(memory: Memory):
    for dest in ("memory://out", "near"):
        ending = do(Song("/nowhere/x.wav", "x"), make_task(dest))
        assert isinstance(ending.error, DecodeError)
    assert not Path("near").exists()


def test_what_nobody_expected_is_contained(memory: Memory, monkeypatch: pytest.MonkeyPatch):
    song = put_song(memory)

    def explode(*arguments: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(module, "separate_file", explode)
    monkeypatch.setattr("platformdirs.user_log_path", lambda *a, **k: Path("logs"))
    ending = do(song)
    assert type(ending.error) is StemsplitError
    assert "ZeroDivisionError" in ending.error.message


def test_stopping_leaves_nothing_and_waits_for_no_patience(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "PATIENCE_S", 1000.0)
    song = put_song(memory)
    stop = threading.Event()
    worker = make_worker(make_task(), stop)

    def hook(verb: str, name: str) -> None:
        if verb == "put_file":
            stop.set()
            raise ConnectionError("stopped meanwhile")

    memory.before(hook)
    assert worker.work(song).status == "failed"
    assert worker.work(song).status == "cancelled"
    assert list(of_out(memory)) == ["out/a/stemsplit.json.part"]


def test_a_part_of_a_song_has_a_recipe_of_its_own(memory: Memory):
    song = put_song(memory)
    part = replace(song, start_s=0.25, duration_s=0.5)
    assert do(part).audio_s == 0.5
    assert do(part).status == "skipped"
    assert do(song).audio_s == 1.0


def test_a_line_that_is_none_fails_with_its_reason(memory: Memory):
    fault = UsageError("row 3", help="mend it")
    assert do(Song("x#3", "row 3", fault=fault)).error is fault


def test_outputs_that_lie_in_several_folders_are_found_again(memory: Memory):
    song = put_song(memory)
    task = make_task(filename="{track}/{ext}/{stem}/x.{ext}")
    assert do(song, task).status == "done"
    assert "out/a/wav/vocals/x.wav" in memory.names()
    assert do(song, task).status == "skipped"


def test_an_input_is_not_written_over():
    write_song(Path("a.wav"), 1.0)
    before = hash_tree()
    task = make_task(".", filename="{track}.{ext}", overwrite=True)
    task = replace(task, stems=("vocals",), options=Options(stems=("vocals",)))
    ending = do(Song(settle_name("a.wav"), "a"), task)
    assert isinstance(ending.error, UsageError)
    assert hash_tree() == before


def run_all(task: Task, songs: Iterator[Song], workers: int = 1, **rest: Any) -> list[Ending]:
    stop = rest.pop("cancelled", threading.Event())

    def make() -> Separator:
        return Separator(LinearModel(GAINS), task.options)

    return list(run_catalogue(task, make, songs, workers=workers, cancelled=stop))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_catalogue_is_done_and_the_next_time_skipped(memory: Memory, workers: int):
    for number in range(5):
        put_song(memory, f"in/{number}.wav", seed=number)
    memory.files.pipe("/in/bad.wav", b"no")
    task = make_task()
    read = open_catalogue("memory://in", task.dest).read
    statuses = sorted(one.status for one in run_all(task, read(), workers))
    assert statuses == ["done"] * 5 + ["failed"]
    statuses = sorted(one.status for one in run_all(task, read(), workers))
    assert statuses == ["failed"] + ["skipped"] * 5


def test_two_lines_of_one_song_are_one_job_and_two_of_one_place_are_told():
    write_song(Path("x/a.wav"), 1.0)
    write_song(Path("y/a.wav"), 1.0, seed=1)
    Path("songs.jsonl").write_text(
        '{"path": "x/a.wav", "output": "a"}\n'
        '{"path": "x/a.wav", "output": "A"}\n'
        '{"path": "y/a.wav", "output": "a"}\n'
    )
    task = make_task("out")
    songs = open_catalogue("songs.jsonl", task.dest).read()
    endings = {(one.song.name[-7:], one.song.output): one.status for one in run_all(task, songs, 4)}
    assert endings["x/a.wav", "a"] == "done"
    assert endings["y/a.wav", "a"] == "failed"


@pytest.mark.parametrize("dest", ["memory://out", "out"])
@pytest.mark.parametrize("workers", [1, 2])
def test_of_two_songs_whose_file_names_are_one_the_second_is_refused(
    memory: Memory, dest: str, workers: int
):
    songs = [put_song(memory, f"in/{name}.wav", seed) for seed, name in enumerate(("a?b", "a_b"))]
    task = make_task(dest)
    first, second = run_all(task, iter(songs), workers)
    assert (first.song.output, first.status) == ("a?b", "done")
    assert second.status == "failed"
    assert "holds the stems of another song, 'memory://in/a?b.wav'" in str(second.error)
    assert run_all(task, iter(songs[:1]), workers)[0].status == "skipped"


def test_a_catalogue_is_read_no_further_than_it_is_done():
    write_song(Path("a.wav"), 1.0)
    taken = 0

    def endless() -> Iterator[Song]:
        nonlocal taken
        while True:
            taken += 1
            assert taken < 100, "it is read through"
            yield Song(settle_name("a.wav"), f"{taken}")

    stop = threading.Event()
    task = make_task("out")
    endings = run_catalogue(
        task, lambda: Separator(LinearModel(GAINS)), endless(), workers=2, cancelled=stop
    )
    for done, _ in enumerate(endings, start=1):
        assert taken <= done + 4
        if done == 8:
            stop.set()
    assert done <= 12
    assert not list(Path("out").rglob("*.part"))


def test_closing_the_endings_stops_the_work():
    write_song(Path("a.wav"), 1.0)
    stop = threading.Event()
    songs = (Song(settle_name("a.wav"), f"{number}") for number in range(100))
    endings = run_catalogue(
        make_task("out"), lambda: Separator(LinearModel(GAINS)), songs, cancelled=stop
    )
    next(endings)
    endings.close()
    assert stop.is_set()
    assert len(list(Path("out").iterdir())) < 5


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with serve_s3() as address:
        yield address


def test_s3_gives_songs_takes_stems_and_is_asked_little(s3: str):
    import s3fs

    files = s3fs.S3FileSystem()
    for number in range(3):
        write_song(Path(f"{number}.wav"), 1.0, seed=number)
        files.put_file(f"{number}.wav", f"bucket/in/album/{number}.wav")
    task = make_task("s3://bucket/out")
    read = open_catalogue("s3://bucket/in", task.dest).read
    endings = run_all(task, read(), 2)
    assert [(one.status, one.error) for one in endings] == [("done", None)] * 3
    assert [one.status for one in run_all(task, read())] == ["skipped"] * 3
    near = make_task("near")
    assert [one.status for one in run_all(near, read())] == ["done"] * 3
    assert [one.status for one in run_all(near, read())] == ["skipped"] * 3
    for path in Path("near").rglob("*.wav"):
        stored = files.cat_file(f"bucket/out/{path.relative_to('near').as_posix()}")
        assert stored == path.read_bytes()
    manifest = read_manifest(Path("near/album/0/stemsplit.json"))
    assert manifest is not None
    assert manifest.source.path == "s3://bucket/in/album/0.wav"
    files.put_file("1.wav", "bucket/in/album/0.wav")
    assert sorted(one.status for one in run_all(task, read())) == ["done", "skipped", "skipped"]
    shutil.rmtree("near")


def test_a_bucket_that_is_not_there_is_said_so(s3: str):
    with pytest.raises(UsageError, match="no folder and no file 's3://none/in'"):
        open_catalogue("s3://none/in", "/out")
    write_song(Path("a.wav"), 1.0)
    ending = do(Song(settle_name("a.wav"), "a"), make_task("s3://none/out"))
    assert ending.status == "failed"
    assert ending.error is not None
    assert "s3://none/out/a/stemsplit.json.part" in ending.error.message
