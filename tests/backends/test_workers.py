from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from stemsplit.backends.workers import Workers, count_workers, wait_for
from stemsplit.dsp import memory
from stemsplit.dsp.threads import set_own_threads

CPU = torch.device("cpu")


@pytest.mark.usefixtures("four_threads")
def test_two_chunks_share_a_processor_and_a_gpu_gets_one() -> None:
    assert count_workers(CPU) == 2
    assert count_workers(torch.device("cuda")) == 1
    torch.set_num_threads(1)
    assert count_workers(CPU) == 1


@pytest.mark.usefixtures("four_threads")
def test_a_large_network_has_few_cores_for_itself() -> None:
    assert count_workers(CPU, is_large=True) == 2
    torch.set_num_threads(3)
    assert count_workers(CPU, is_large=True) == 1
    assert count_workers(CPU) == 2


@pytest.mark.usefixtures("four_threads")
def test_workers_run_at_once_with_a_share_of_the_threads_each() -> None:
    workers = Workers(2)
    together = threading.Barrier(2)

    def work(number: int) -> tuple[int, int]:
        together.wait(10)
        return number, torch.get_num_threads()

    futures = [workers.submit(work, number) for number in range(4)]
    assert [wait_for(future) for future in futures] == [(n, 2) for n in range(4)]
    workers.close()
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four_threads")
def test_every_worker_has_an_arena_of_its_own() -> None:
    workers = Workers(2)
    together = threading.Barrier(2)

    def work() -> memory.Arena | None:
        together.wait(10)
        lease = memory._OWN.lease
        return None if lease is None else lease.arena

    one, other = (wait_for(future) for future in [workers.submit(work) for _ in range(2)])
    workers.close()
    assert one is not None
    assert other is not None
    assert one is not other
    assert memory._OWN.lease is None


def test_one_worker_is_the_caller() -> None:
    workers = Workers(1)
    future = workers.submit(threading.get_ident)
    assert future.done()
    assert wait_for(future) == threading.get_ident()
    workers.close()


@pytest.mark.parametrize("error", [ValueError("bad"), TimeoutError("slow")])
@pytest.mark.parametrize("count", [1, 2])
def test_errors_of_the_work_come_out(count: int, error: Exception) -> None:
    workers = Workers(count)

    def fail() -> None:
        raise error

    with pytest.raises(type(error), match=str(error)):
        wait_for(workers.submit(fail))
    workers.close()


def test_closing_drops_what_has_not_begun() -> None:
    workers = Workers(2)
    go_on = threading.Event()
    running = [workers.submit(go_on.wait, 10) for _ in range(2)]
    waiting = workers.submit(go_on.wait, 10)
    workers.close()
    assert waiting.cancelled()
    go_on.set()
    assert all(wait_for(future) for future in running)


@pytest.mark.usefixtures("four_threads")
def test_overlapping_workers_leave_the_number_of_threads_as_it_was() -> None:
    one = Workers(2)
    assert wait_for(one.submit(torch.get_num_threads)) == 2
    other = Workers(2)
    wait_for(other.submit(torch.get_num_threads))
    one.close()
    one.close()
    other.close()
    assert torch.get_num_threads() == 4
    seen: list[int] = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [4]


@pytest.mark.usefixtures("four_threads")
def test_a_threads_own_number_is_no_other_threads() -> None:
    found: list[int] = []

    def set_and_ask() -> None:
        set_own_threads(3)
        with ThreadPoolExecutor(1) as other:
            other.submit(set_own_threads, 2).result()
        found.append(torch.get_num_threads())

    with ThreadPoolExecutor(1) as pool:
        pool.submit(set_and_ask).result()
    assert found == [3]
