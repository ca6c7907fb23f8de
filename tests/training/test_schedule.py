from __future__ import annotations

import math

import pytest
import torch

from stemsplit.training.recipe import ScheduleConfig
from stemsplit.training.recipe_files import load_recipe
from stemsplit.training.schedule import Schedule


def factors(config: ScheduleConfig, epochs: int) -> list[float]:
    schedule = Schedule(config, epochs)
    return [schedule.find_factor(epoch, 0.0, 1000 * epoch) for epoch in range(epochs)]


def test_bsrnn_s_warms_up_in_powers_of_ten_and_decays() -> None:
    found = factors(load_recipe("bsrnn").schedule, 13)
    assert found[0] == pytest.approx(1e-10)
    assert found[9] == pytest.approx(0.1)
    assert found[10:] == pytest.approx([1, 0.98, 0.9604])


def test_d3net_s_falls_with_the_fortieth_epoch() -> None:
    found = factors(load_recipe("d3net").schedule, 50)
    assert found[:39] == [1.0] * 39
    assert found[39:] == pytest.approx([0.1] * 11)


def test_the_others() -> None:
    assert factors(ScheduleConfig(), 3) == [1, 1, 1]
    assert factors(ScheduleConfig("exponential", factor=0.5), 4) == [1, 0.5, 0.25, 0.125]
    assert factors(ScheduleConfig("step", factor=0.5, milestones=(1, 3)), 4) == [1, 0.5, 0.5, 0.25]


def test_cosine_moves_inside_an_epoch() -> None:
    schedule = Schedule(ScheduleConfig("cosine", least=0.2), 4)
    assert schedule.find_factor(0, 0.0, 0) == 1
    assert schedule.find_factor(2, 0.0, 0) == pytest.approx(0.6)
    expected = 0.2 + 0.8 * (1 + math.cos(math.pi * 0.375)) / 2
    assert schedule.find_factor(1, 0.5, 0) == pytest.approx(expected)
    assert schedule.find_factor(4, 0.0, 0) == pytest.approx(0.2)


def test_a_warm_up_goes_before_any() -> None:
    schedule = Schedule(ScheduleConfig("exponential", factor=0.5, warmup_steps=4), 10)
    assert [schedule.find_factor(0, 0.0, step) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    assert schedule.find_factor(1, 0.0, 100) == 0.5


@pytest.mark.parametrize("cooldown", [0, 2])
def test_plateau_is_torch_s_own_also_after_a_resume(cooldown: int) -> None:
    config = ScheduleConfig("plateau", factor=0.3, patience=2, cooldown=cooldown, threshold=1e-2)
    dice = torch.Generator().manual_seed(3)
    losses = (2 + torch.rand(60, generator=dice) - torch.linspace(0, 0.5, 60)).tolist()
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, factor=0.3, patience=2, cooldown=cooldown, threshold=1e-2, eps=0
    )
    schedule = Schedule(config, 60)
    for epoch, loss in enumerate(losses):
        schedule.observe(loss)
        oracle.step(loss)
        found = schedule.find_factor(epoch, 0.0, epoch)
        assert found == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-12)
        resumed = Schedule(config, 60)
        resumed.load_state_dict(schedule.state_dict())
        schedule = resumed
    assert found < 0.1


def test_only_a_plateau_counts_losses() -> None:
    schedule = Schedule(ScheduleConfig("constant", patience=0), 100)
    for _ in range(5):
        schedule.observe(1.0)
    later = Schedule(ScheduleConfig("plateau", patience=0), 100)
    later.load_state_dict(schedule.state_dict())
    assert later.find_factor(5, 0.0, 50) == 1
