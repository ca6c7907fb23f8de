"""A batch on a Ray cluster: a fixed number of workers that each keep the model, and one driver.

    driver: the catalogue -> two songs in each worker's hands -> endings
    worker: a process on some machine; load the model once, then song after song

The driver keeps nothing but the songs in somebody's hands, and decides everything: Ray is told to
restart and to retry nothing. A worker that dies, or finds its device broken, is replaced, wherever
there is room, and its songs go to others. That is safe because a song's job may be begun any number
of times. A worker gets its first song when its model is loaded: one for which there is no room
keeps nobody waiting, and a machine where it cannot be loaded does not end what others can do.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from stemsplit.batch.catalogue import Song
from stemsplit.batch.connection import (
    WORKER_ENVIRONMENT,
    Cluster,
    connected,
    count_room,
    list_nodes,
)
from stemsplit.batch.crash_report import contain
from stemsplit.batch.job import (
    SONGS_IN_HAND,
    Ending,
    SongWorker,
    Task,
    load_separator,
    make_place_finder,
)
from stemsplit.batch.order import Order
from stemsplit.errors import DeviceError, StemsplitError

_WAKE_S = 0.5
_STOPPING_S = 20.0
_WAITING_NOTE_S = 30.0
_REST_S = 30.0
"""After a worker that could not load the model, before another is tried in its place."""
_MOST_FAULTS = 3
"""Of a worker's device, one song after the other, before the worker is replaced."""
_HOPELESS_DEATHS = 10
"""So many workers may die one after the other, and as many more as there are, without a song."""

OnNote = Callable[[str], None]


def run_on_cluster(
    task: Task,
    songs: Iterator[Song],
    cluster: Cluster,
    *,
    cancelled: threading.Event,
    on_note: OnNote,
) -> Generator[Ending]:
    """Do the songs of a catalogue on a cluster; one that fails never stops the others.

    Args:
        task: What is done with each. A local destination has to be one folder for all machines.
        songs: Taken one by one, a few ahead of what is done.
        cluster: Where.
        cancelled: Set it, in any thread, to stop: what is under way is cleaned up, nothing begins.
        on_note: Gets a sentence when workers come and go.

    Yields:
        An ending per song that was begun, in the order in which they end.

    Raises:
        UsageError: There is no room for a single worker.
        StemsplitError: Ray is not installed or does not answer, no worker can load the model, or
            workers die as fast as they are made.
    """
    options = task.options
    if cluster.gpus_per_worker == 0 and options.device == "auto":
        # Ray would not keep two workers from the same GPU that neither has asked for.
        options = replace(options, device="cpu")
    threads = options.threads or max(1, math.floor(cluster.cpus_per_worker))
    task = replace(task, options=replace(options, threads=threads))
    with connected(cluster) as ray:
        count = cluster.workers or count_room(ray, cluster)
        on_note(f"workers: {count}, machines of the cluster: {len(list_nodes(ray))}")
        pool = _Pool(ray, task, cluster, count, cancelled, on_note)
        try:
            yield from pool.run(Order(songs, make_place_finder(task)))
        finally:
            pool.close()


class _Actor:
    """What runs in a worker's process."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._cancelled = threading.Event()
        self._worker: SongWorker | None = None

    def prepare(self) -> StemsplitError | None:
        """Load the model; an error is returned, so that it arrives as what it is."""
        from stemsplit.backends.process import keep_freed_memory, let_go_of_code

        keep_freed_memory()
        try:
            self._worker = SongWorker(self._task, load_separator(self._task), self._cancelled)
            let_go_of_code()
        except StemsplitError as error:
            return error
        except Exception as error:
            return contain(error, "loading the model")
        return None

    def work(self, song: Song) -> Ending:
        """Do a song. Songs are in threads of their own, which have to be told their share."""
        from stemsplit.dsp.threads import set_own_threads

        set_own_threads(self._task.options.threads or 1)
        assert self._worker is not None, "songs come after `prepare`"
        return self._worker.work(song)

    def stop(self) -> None:
        """End what is under way, cleanly."""
        self._cancelled.set()


@dataclass(eq=False)
class _Member:
    """A worker as the driver knows it.

    Attributes:
        handle: Ray's.
        is_ready: Whether its model is loaded.
        is_dead: Whether it has been replaced.
        songs: How many are in its hands.
        is_tested: Whether the song in its hands has lost its worker before.
        faults: How many songs its device has failed, one after the other.
    """

    handle: Any
    is_ready: bool = False
    is_dead: bool = False
    songs: int = 0
    is_tested: bool = False
    faults: int = 0

    @property
    def is_broken(self) -> bool:
        """Whether its device fails whatever it is given."""
        return self.faults >= _MOST_FAULTS

    @property
    def is_free(self) -> bool:
        """Whether it takes another song."""
        is_able = self.is_ready and not self.is_tested and not self.is_broken
        return is_able and self.songs < SONGS_IN_HAND


@dataclass
class _Errand:
    """What a worker was asked: to do a song, or to get ready.

    Attributes:
        member: The worker.
        song: None for getting ready.
        tries: How many workers have had this song in their hands, this one included.
        began_s: When the song was first handed out.
    """

    member: _Member
    song: Song | None = None
    tries: int = 1
    began_s: float = field(default_factory=time.monotonic)


class _Pool:
    """The workers, and what they have in their hands."""

    def __init__(
        self,
        ray: Any,
        task: Task,
        cluster: Cluster,
        count: int,
        cancelled: threading.Event,
        on_note: OnNote,
    ) -> None:
        self._ray = ray
        self._task = task
        self._cancelled = cancelled
        self._on_note = on_note
        self._errands: dict[Any, _Errand] = {}
        self._lost: dict[str, tuple[int, float]] = {}
        self._deaths = 0
        self._refusals = 0
        self._has_begun = False
        self._hiring_s = 0.0
        self._cluster = cluster
        self._count = count
        self._members: list[_Member] = []
        for _ in range(count):
            self._hire()

    def run(self, order: Order) -> Generator[Ending]:
        """Do all songs."""
        told_s = time.monotonic()
        stop_s: float | None = None
        while True:
            if self._cancelled.is_set() and stop_s is None:
                stop_s = time.monotonic()
                self._stop()
            if stop_s is None:
                self._fill_up()
                self._hand_out(order)
            if not any(errand.song for errand in self._errands.values()) and (
                stop_s is not None or order.is_over
            ):
                return
            if stop_s is not None and time.monotonic() - stop_s > _STOPPING_S:
                return
            is_idle = not any(member.is_ready for member in self._members)
            if is_idle and time.monotonic() - told_s > _WAITING_NOTE_S:
                told_s = time.monotonic()
                self._on_note("waiting for room for a worker, or for its model")
            for reference in self._wait():
                ending = self._take(reference, order)
                if ending is not None:
                    yield ending

    def close(self) -> None:
        """Dismiss everybody."""
        for member in self._members:
            with contextlib.suppress(Exception):  # Whoever is gone already is gone.
                self._ray.kill(member.handle)

    def _hire(self) -> None:
        cluster = self._cluster
        kind = self._ray.remote(_Actor).options(
            num_cpus=cluster.cpus_per_worker,
            num_gpus=cluster.gpus_per_worker,
            # The songs in hand, and a thread to hear `stop` with.
            max_concurrency=SONGS_IN_HAND + 1,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
            # A cluster of our own has it; a process that waits there needs no making then.
            runtime_env={"env_vars": WORKER_ENVIRONMENT} if cluster.address else None,
        )
        member = _Member(kind.remote(self._task))
        self._members.append(member)
        self._errands[member.handle.prepare.remote()] = _Errand(member)

    def _fill_up(self) -> None:
        """Try again for workers that could not get ready, once one has shown that it can be."""
        if self._has_begun and time.monotonic() >= self._hiring_s:
            while len(self._members) < self._count:
                self._hire()

    def _hand_out(self, order: Order) -> None:
        """Give songs to those who have the fewest.

        A song that has lost its worker goes to one who has nothing else, and gets nothing else
        meanwhile: if it was the song that did it, it takes no other with it again.
        """
        while free := [member for member in self._members if member.is_free]:
            song = order.take()
            if song is None:
                return
            member = min(free, key=lambda one: one.songs)
            is_lost = song.output in self._lost
            if is_lost and member.songs:
                order.give_back(song)
                return
            tries, began_s = self._lost.pop(song.output, (0, time.monotonic()))
            member.songs += 1
            member.is_tested = is_lost
            errand = _Errand(member, song, tries + 1, began_s)
            self._errands[member.handle.work.remote(song)] = errand

    def _wait(self) -> list[Any]:
        """Return what has been answered, waiting a moment for the first."""
        waiting = list(self._errands)
        if not waiting:
            self._cancelled.wait(_WAKE_S)
            return []
        ready, rest = self._ray.wait(waiting, num_returns=1, timeout=_WAKE_S)
        if ready and rest:
            more, _ = self._ray.wait(rest, num_returns=len(rest), timeout=0)
            ready += more
        return list(ready)

    def _take(self, reference: Any, order: Order) -> Ending | None:
        """Hear an answer; None where no song came to its end by it."""
        errand = self._errands.pop(reference)
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return self._mourn(errand, error, order)
        if errand.song is None:
            if answer is not None:
                self._refuse(errand.member, answer)
                return None
            errand.member.is_ready = self._has_begun = True
            self._refusals = 0
            return None
        ending: Ending = answer
        member = errand.member
        member.songs -= 1
        member.is_tested = False
        member.faults = member.faults + 1 if isinstance(ending.error, DeviceError) else 0
        self._deaths = 0
        order.finish(errand.song)
        if member.is_broken and not member.songs and not self._cancelled.is_set():
            self._dismiss(member)
            self._on_note("a worker whose device failed several songs is replaced")
            self._hire()
        return replace(ending, tries=ending.tries + errand.tries - 1)

    def _refuse(self, member: _Member, error: StemsplitError) -> None:
        """Do without a worker that could not load the model, where another can.

        Raises:
            StemsplitError: The same error: none could, or many one after the other.
        """
        self._dismiss(member)
        self._refusals += 1
        is_hopeless = self._refusals > _HOPELESS_DEATHS
        # Two of: nobody has ever got ready, nobody is left, and it has been tried often.
        if [not self._has_begun, not self._members, is_hopeless].count(True) >= 2:
            raise error
        self._hiring_s = time.monotonic() + _REST_S
        self._on_note(f"a worker could not load the model: {error.message}")

    def _dismiss(self, member: _Member) -> None:
        """Strike a worker off the list."""
        member.is_dead = True
        self._members.remove(member)
        with contextlib.suppress(Exception):  # It is to be gone, and mostly is.
            self._ray.kill(member.handle)

    def _mourn(self, errand: _Errand, error: Exception, order: Order) -> Ending | None:
        """Replace a worker that has died, and have its song done by another."""
        member, song = errand.member, errand.song
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if not member.is_dead:
            self._dismiss(member)
            self._deaths += 1
            if self._deaths > _HOPELESS_DEATHS + len(self._members):
                raise StemsplitError(
                    f"workers die one after the other, the last of them so: {said}",
                    help="look at the cluster's logs; a worker may need more memory.",
                ) from error
            if not self._cancelled.is_set():
                self._on_note(f"a worker died and is replaced: {said}")
                self._hire()
        if song is None:
            return None
        if self._cancelled.is_set():
            order.finish(song)
            return Ending(song, "cancelled", tries=errand.tries)
        if errand.tries <= self._task.retries:
            self._lost[song.output] = (errand.tries, errand.began_s)
            order.give_back(song)
            return None
        order.finish(song)
        failure = StemsplitError(
            f"{errand.tries} workers died over it, the last of them so: {said}",
            help="give workers more memory or a shorter --segment; if it alone does it, report it.",
        )
        elapsed_s = time.monotonic() - errand.began_s
        return Ending(song, "failed", failure, elapsed_s, tries=errand.tries)

    def _stop(self) -> None:
        for member in self._members:
            if member.is_ready:
                member.handle.stop.remote()
