"""What the driver of a cluster decides, with a Ray that does everything in this process."""

from __future__ import annotations

import os
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stemsplit.batch import cluster as module
from stemsplit.batch.catalogue import Song
from stemsplit.batch.cluster import _Pool
from stemsplit.batch.connection import Cluster, connected, count_room
from stemsplit.batch.job import Ending, Task
from stemsplit.batch.order import Order
from stemsplit.errors import (
    DeviceError,
    NetworkError,
    OutputError,
    StemsplitError,
    UsageError,
)
from stemsplit.separation.files import FileOptions
from stemsplit.separation.plan import Options
from stemsplit.weights.registry import Registry


class FakeRayError(Exception):
    """What a dead worker's answer is."""


class Handle:
    """A worker: what it is asked is remembered, and answered when the driver waits."""

    def __init__(self, ray: FakeRay) -> None:
        self.ray = ray
        self.number = len(ray.handles)
        self.stopped = False
        ray.handles.append(self)

    def __getattr__(self, name: str) -> Any:
        def remote(*arguments: Any) -> object:
            reference = object()
            self.ray.asked[reference] = (self, name, arguments)
            return reference

        return type("Method", (), {"remote": staticmethod(remote)})


class FakeRay:
    """As much of Ray as the driver uses."""

    class exceptions:
        RayError = FakeRayError

    def __init__(self, answer: Callable[[Handle, str, tuple[Any, ...]], Any]) -> None:
        self.answer = answer
        self.handles: list[Handle] = []
        self.asked: dict[object, tuple[Handle, str, tuple[Any, ...]]] = {}
        self.killed: list[Handle] = []
        self.most_waiting = 0
        self.options: dict[str, Any] = {}

    def remote(self, kind: object) -> Any:
        made = type("Made", (), {"remote": staticmethod(lambda *arguments: Handle(self))})

        def take(**options: Any) -> Any:
            self.options = options
            return made

        return type("Kind", (), {"options": staticmethod(take)})

    def wait(
        self, references: list[object], num_returns: int, timeout: float
    ) -> tuple[list[object], list[object]]:
        songs = [one for one in references if self.asked[one][1] == "work"]
        self.most_waiting = max(self.most_waiting, len(songs))
        return references[:1], []

    def get(self, reference: object) -> Any:
        answer = self.answer(*self.asked[reference])
        if isinstance(answer, FakeRayError):
            raise answer
        return answer

    def kill(self, handle: Handle) -> None:
        self.killed.append(handle)


def do(handle: Handle, name: str, arguments: tuple[Any, ...]) -> Any:
    return Ending(arguments[0], "done", audio_s=1.0) if name == "work" else None


def make_task(retries: int = 1) -> Task:
    registry = Registry.load()
    entry = registry.get("spleeter-2stems")
    return Task(entry, registry, ("vocals",), Options(), FileOptions(), "/out", retries)


def run(
    answer: Callable[..., Any],
    songs: int = 6,
    workers: int = 2,
    cancelled: threading.Event | None = None,
    taken: list[str] | None = None,
) -> tuple[FakeRay, list[Ending], list[str]]:
    def make() -> Iterator[Song]:
        for number in range(songs):
            if taken is not None:
                taken.append(str(number))
            yield Song(f"/in/{number}.wav", str(number))

    ray = FakeRay(answer)
    notes: list[str] = []
    stop = cancelled or threading.Event()
    pool = _Pool(ray, make_task(), Cluster(), workers, stop, notes.append)
    endings = list(pool.run(Order(make(), lambda song: {song.output})))
    pool.close()
    return ray, endings, notes


def test_every_song_is_done_and_no_more_than_two_are_in_a_workers_hands():
    ray, endings, notes = run(do, songs=20)
    assert sorted(int(one.song.output) for one in endings) == list(range(20))
    assert ray.most_waiting == 4
    assert notes == []
    assert len(ray.killed) == 2


def test_songs_are_taken_from_the_catalogue_only_when_somebody_is_free():
    taken: list[str] = []
    seen: list[int] = []

    def answer(handle: Handle, name: str, arguments: tuple[Any, ...]) -> Any:
        seen.append(len(taken))
        return do(handle, name, arguments)

    run(answer, songs=50, taken=taken)
    # The first answer is of getting ready; every further one makes room for one more.
    assert seen[0] == 0
    assert all(now <= answers + 4 for answers, now in enumerate(seen))


def test_a_dead_worker_is_replaced_and_its_songs_go_to_others():
    def answer(handle: Handle, name: str, arguments: tuple[Any, ...]) -> Any:
        if handle.number == 0 and name == "work":
            return FakeRayError("the node is gone\nand more")
        return do(handle, name, arguments)

    ray, endings, notes = run(answer)
    assert sorted(one.song.output for one in endings) == [str(number) for number in range(6)]
    assert {one.status for one in endings} == {"done"}
    assert sum(one.tries == 2 for one in endings) == 2
    assert notes == ["a worker died and is replaced: the node is gone"]
    assert len(ray.handles) == 3
    assert ray.killed[0] is ray.handles[0]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_song_that_kills_its_workers_fails_alone_after_the_retries(workers: int):
    def answer(handle: Handle, name: str, arguments: tuple[Any, ...]) -> Any:
        if name == "work" and arguments[0].output == "3":
            return FakeRayError("out of memory")
        return do(handle, name, arguments)

    dead: set[int] = set()

    def answer_or_die(handle: Handle, name: str, arguments: tuple[Any, ...]) -> Any:
        answered = answer(handle, name, arguments)
        if isinstance(answered, FakeRayError):
            dead.add(handle.number)
        return FakeRayError("its worker is dead") if handle.number in dead else answered

    _, endings, _ = run(answer_or_die, songs=12, workers=workers)
    failed = [one for one in endings if one.status == "failed"]
    assert [one.song.output for one in failed] == ["3"]
    assert failed[0].tries == 2
    assert failed[0].error is not None
    assert "2 workers died over it" in failed[0].error.message
    # One song was in the same hands when it was not known yet; none was the second time.
    assert sum(one.tries > 1 for one in endings if one.status == "done") <= 1
    assert len(endings) == 12


def test_a_worker_that_dies_before_it_is_ready_is_replaced():
    def answer(handle: Handle, name: str, arguments: tuple[Any, ...]) -> Any:
        return FakeRayError("gone") if handle.number == 0 else do(handle, name, arguments)

    ray, endings, _ = run(answer, workers=1)
    assert len(endings) == 6
    assert len(ray.handles) == 2


def test_workers_that_die_one_after_the_other_end_the_batch():
    with pytest.raises(StemsplitError, match=r"one after the other.*: gone"):
        run(lambda *asked: FakeRayError("gone"))


def test_a_machine_that_cannot_load_the_model_does_not_end_what_others_do():
    def answer(handle: Handle, name: str, arguments: tuple[Any, ...]) -> Any:
        if handle.number == 0:
            return NetworkError("no route to the weights", help="check the network")
        return do(handle, name, arguments)

    ray, endings, notes = run(answer)
    assert [one.status for one in endings] == ["done"] * 6
    assert ray.killed[0] is ray.handles[0]
    assert notes == ["a worker could not load the model: no route to the weights"]
    assert len(ray.handles) == 2, "a replacement waits until later"


def test_a_replacement_that_cannot_load_the_model_is_tried_again_later(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(module, "_REST_S", 0.0)

    def answer(handle: Handle, name: str, arguments: tuple[Any, ...]) -> Any:
        if handle.number == 0 and name == "work":
            return FakeRayError("the node is gone")
        if handle.number in (1, 2):
            return OutputError("no space left", help="make some")
        return do(handle, name, arguments)

    ray, endings, notes = run(answer, workers=1)
    assert [one.status for one in endings] == ["done"] * 6
    assert notes[1:] == ["a worker could not load the model: no space left"] * 2
    assert len(ray.handles) == 4


def test_workers_that_cannot_load_the_model_any_more_end_the_batch(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(module, "_REST_S", 0.0)

    def answer(handle: Handle, name: str, arguments: tuple[Any, ...]) -> Any:
        if handle.number == 0:
            return FakeRayError("gone") if name == "work" else None
        return OutputError("no space left", help="make some")

    with pytest.raises(OutputError, match="no space left"):
        run(answer, workers=1)


def test_a_worker_whose_device_fails_song_after_song_is_replaced():
    def answer(handle: Handle, name: str, arguments: tuple[Any, ...]) -> Any:
        if handle.number == 0 and name == "work":
            error = DeviceError("cuda:0 is broken", help="look")
            return Ending(arguments[0], "failed", error)
        return do(handle, name, arguments)

    ray, endings, notes = run(answer, songs=20, workers=1)
    assert [one.status for one in endings].count("failed") in (3, 4)
    assert len(endings) == 20
    assert ray.killed[0] is ray.handles[0]
    assert notes == ["a worker whose device failed several songs is replaced"]


def test_songs_that_no_device_can_do_fail_by_themselves():
    def answer(handle: Handle, name: str, arguments: tuple[Any, ...]) -> Any:
        if name == "work":
            error = DeviceError("cuda:0 ran out of memory", help="a smaller --segment")
            return Ending(arguments[0], "failed", error)
        return do(handle, name, arguments)

    _, endings, _ = run(answer, songs=90)
    assert len(endings) == 90
    assert {type(one.error) for one in endings} == {DeviceError}


def test_one_machine_that_never_can_load_the_model_ends_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_REST_S", 0.0)
    waited = []

    def answer(handle: Handle, name: str, arguments: tuple[Any, ...]) -> Any:
        if handle.number > 0:
            waited.append(handle)
            return OutputError("no space left", help="make some")
        return do(handle, name, arguments)

    class Slow(FakeRay):
        def wait(self, references: list[object], num_returns: int, timeout: float) -> Any:
            loads = [one for one in references if self.asked[one][1] == "prepare"]
            return (loads[:1] if loads and len(waited) < 40 else references[:1]), []

    ray = Slow(answer)
    pool = _Pool(ray, make_task(), Cluster(), 2, threading.Event(), lambda note: None)
    songs = iter([Song(f"/in/{number}.wav", str(number)) for number in range(4)])
    endings = list(pool.run(Order(songs, lambda song: {song.output})))
    assert [one.status for one in endings] == ["done"] * 4
    assert len(waited) >= 40


def test_a_model_that_cannot_be_loaded_ends_the_batch_with_its_own_error():
    with pytest.raises(DeviceError, match="no such device"):
        run(lambda *asked: DeviceError("no such device", help="use cpu"))


def test_stopping_begins_nothing_and_hears_what_is_under_way():
    stop = threading.Event()
    told: list[str] = []

    def answer(handle: Handle, name: str, arguments: tuple[Any, ...]) -> Any:
        told.append(name)
        if name == "work" and not stop.is_set():
            stop.set()
            return do(handle, name, arguments)
        return Ending(arguments[0], "cancelled") if name == "work" else None

    ray, endings, _ = run(answer, songs=50, cancelled=stop)
    assert [one.status for one in endings] == ["done"] + ["cancelled"] * (len(endings) - 1)
    assert 2 <= len(endings) <= 4
    asked = [name for _, name, _ in ray.asked.values()]
    assert asked.count("stop") >= 1


def test_a_song_of_a_worker_that_dies_while_the_batch_stops_is_not_begun_again():
    stop = threading.Event()

    def answer(handle: Handle, name: str, arguments: tuple[Any, ...]) -> Any:
        if name == "work":
            stop.set()
            return FakeRayError("gone")
        return None

    ray, endings, notes = run(answer, songs=1, workers=1, cancelled=stop)
    assert [one.status for one in endings] == ["cancelled"]
    assert len(ray.handles) == 1
    assert notes == []


def test_stopping_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_STOPPING_S", 0.0)
    stop = threading.Event()

    class Silent(FakeRay):
        def wait(self, references: list[object], **rest: Any) -> Any:
            ready = [one for one in references if self.asked[one][1] != "work"]
            if not ready:
                stop.set()
            return ready, []

    ray = Silent(do)
    pool = _Pool(ray, make_task(), Cluster(), 1, stop, lambda note: None)
    assert list(pool.run(Order(iter([Song("/in/1.wav", "1")]), lambda song: {song.output}))) == []


class Machines:
    def __init__(self, *resources: dict[str, float]) -> None:
        self._resources = resources

    def nodes(self) -> list[dict[str, object]]:
        gone = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
        return [gone, *({"Alive": True, "Resources": one} for one in self._resources)]


def test_room_is_counted_machine_by_machine():
    machines = Machines({"CPU": 3.0}, {"CPU": 5.0, "GPU": 1.0}, {})
    assert count_room(machines, Cluster(cpus_per_worker=2)) == 3
    assert count_room(machines, Cluster(cpus_per_worker=1, gpus_per_worker=0.25)) == 4


def test_a_cluster_without_room_is_refused():
    with pytest.raises(UsageError, match=r"4 cores and 0 GPUs.*most are 3 and 0"):
        count_room(Machines({"CPU": 3.0}), Cluster(cpus_per_worker=4))


SLEEPING = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("address", "environment"), [(None, None), ("auto", {"env_vars": SLEEPING})]
)
def test_workers_of_a_cluster_that_is_there_are_told_their_environment(
    address: str | None, environment: dict[str, object] | None
):
    ray = FakeRay(do)
    _Pool(ray, make_task(), Cluster(address), 1, threading.Event(), lambda note: None)
    assert ray.options["runtime_env"] == environment


@pytest.mark.parametrize(("address", "is_own"), [(None, True), ("auto", False)])
def test_a_cluster_that_is_started_here_has_it_from_this_process(
    address: str | None, is_own: bool, monkeypatch: pytest.MonkeyPatch
):
    seen: dict[str, str] = {}
    module = types.SimpleNamespace(
        __spec__=object(), init=lambda **options: seen.update(os.environ), shutdown=lambda: None
    )
    monkeypatch.setitem(sys.modules, "ray", module)
    own = {**SLEEPING, "RAY_worker_niceness": "0"}
    monkeypatch.setattr(os, "environ", {"OPENBLAS_NUM_THREADS": "2"})
    with connected(Cluster(address)):
        pass
    told = {name: seen.get(name) for name in own}
    # What is set already stays.
    assert told == (
        {**own, "OPENBLAS_NUM_THREADS": "2"}
        if is_own
        else {**dict.fromkeys(own), "OPENBLAS_NUM_THREADS": "2"}
    )
    assert seen["RAY_USAGE_STATS_ENABLED"] == "0"
