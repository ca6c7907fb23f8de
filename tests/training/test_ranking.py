from __future__ import annotations

import pytest

from stemsplit.training.ranking import Ranking


def test_the_best_are_remembered_and_equal_ones_change_nothing() -> None:
    ranking = Ranking(2, 0.0)
    found = [ranking.add(epoch, score) for epoch, score in enumerate([3.0, 2.0, 2.0, 5.0, 1.0])]
    assert found == [True, True, False, False, True]
    assert ranking.epochs == [4, 1]


@pytest.mark.parametrize(("min_delta", "waited"), [(0.0, [1, 1, 1, 2, 3]), (0.5, [1, 2, 1, 2, 3])])
def test_patience_counts_from_what_was_better_by_enough(
    min_delta: float, waited: list[int]
) -> None:
    ranking = Ranking(1, min_delta)
    found = []
    for epoch, score in enumerate([3.0, 2.75, 2.25, 2.25, 2.5]):
        ranking.add(epoch, score)
        found.append(ranking.count_since_better(epoch) + 1)
        again = Ranking(1, min_delta)
        again.load_state_dict(ranking.state_dict())
        ranking = again
    assert found == waited


def test_scores_of_another_kind_are_not_compared_with() -> None:
    ranking = Ranking(2, 0.0, "loss")
    ranking.add(0, -9.0)
    other = Ranking(2, 0.0, "usdr")
    other.load_state_dict(ranking.state_dict())
    assert other.epochs == []
    assert other.count_since_better(7) == 0
    assert other.add(7, -3.0)
    assert other.count_since_better(8) == 1
