from __future__ import annotations

from collections.abc import Iterator

import pytest

from stemsplit.batch.catalogue import Song
from stemsplit.batch.job import Task, make_place_finder
from stemsplit.batch.order import Order
from stemsplit.separation.files import FileOptions
from stemsplit.separation.plan import Options
from stemsplit.weights.registry import Registry


def make_order(*outputs: str) -> Order:
    registry = Registry.load()
    entry = registry.get("spleeter-2stems")
    task = Task(entry, registry, entry.stems, Options(), FileOptions(), "/out")
    return Order(songs(*outputs), make_place_finder(task))


def songs(*outputs: str) -> Iterator[Song]:
    return (Song(f"/in/{number}", output) for number, output in enumerate(outputs))


def test_songs_come_in_turn_and_then_no_more():
    order = make_order("a", "b")
    assert [order.take(), order.take()] == list(songs("a", "b"))
    assert not order.is_over
    assert order.take() is None
    assert order.is_over


def test_a_place_is_in_one_pair_of_hands_whatever_the_case():
    order = make_order("x/a", "X/A", "b")
    first = order.take()
    assert first is not None
    assert order.take() is None
    assert not order.is_over
    order.finish(first)
    assert order.take() == Song("/in/1", "X/A")
    assert order.take() == Song("/in/2", "b")


@pytest.mark.parametrize(
    ("one", "other"),
    [("a?b", "a_b"), ("a.", "a"), ("x:/a", "x_/a"), ("n" * 260, "n" * 261), ("\u00e9", "e\u0301")],
)
def test_two_names_that_are_one_as_file_names_are_one_place(one: str, other: str):
    order = make_order(one, other)
    first = order.take()
    assert first is not None
    assert order.take() is None
    order.finish(first)
    assert order.take() == Song("/in/1", other)


def test_what_is_given_back_comes_next_and_its_place_stays_taken():
    order = make_order("a", "a", "b")
    first = order.take()
    assert first is not None
    order.give_back(first)
    assert order.take() == first
    assert order.take() is None
    order.give_back(first)
    assert not order.is_over
    assert order.take() == first
    order.finish(first)
    assert order.take() == Song("/in/1", "a")
