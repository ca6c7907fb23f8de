"""Batches for networks that take one item, and how far two networks are apart."""

from __future__ import annotations

import math

import torch

from stemsplit.backends.one_item import Tensors, compare, run_items


def test_items_run_one_by_one_and_come_out_in_their_order() -> None:
    seen: list[torch.Size] = []

    def double(item: Tensors) -> Tensors:
        seen.extend(tensor.shape for tensor in item)
        return item[0] * 2, item[0] + item[1]

    first, second = torch.randn(3, 4), torch.randn(3, 4)
    twice, total = run_items(double, (first, second))
    assert torch.equal(twice, first * 2)
    assert torch.equal(total, first + second)
    assert seen == [(1, 4)] * 6


def test_a_difference_that_is_no_number_is_not_taken_for_none() -> None:
    good, bad = torch.ones(3), torch.full((3,), torch.nan)
    assert compare([(good,)], [(good.clone(),)]) == 0
    assert math.isnan(compare([(good,), (good,)], [(bad,), (good,)]))
    assert compare([(torch.zeros(3),)], [(torch.zeros(3),)]) == 0
