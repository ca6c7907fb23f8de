from __future__ import annotations

from collections.abc import Iterator

from stemsplit.batch.catalogue import Song
from stemsplit.batch.order import Order


def songs(*outputs: str) -> Iterator[Song]:
    return (Song(f"/in/{number}", output) for number, output in enumerate(outputs))


def test_songs_come_in_turn_and_then_no_more():
    order = Order(songs("a", "b"))
    assert [order.take(), order.take()] == list(songs("a", "b"))
    assert not order.is_over
    assert order.take() is None
    assert order.is_over


def test_a_place_is_in_one_pair_of_hands_whatever_the_case():
    order = Order(songs("x/a", "X/A", "b"))
    first = order.take()
    assert first is not None
    assert order.take() is None
    assert not order.is_over
    order.finish(first)
    assert order.take() == Song("/in/1", "X/A")
    assert order.take() == Song("/in/2", "b")


def test_what_is_given_back_comes_next_and_its_place_stays_taken():
    order = Order(songs("a", "a", "b"))
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
