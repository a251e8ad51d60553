"""Courses of the learning rate and of k over training."""

import pytest

from monosem.train.optim import KSchedule, OptimSettings


def test_warm_up_rises_to_the_peak_in_equal_steps() -> None:
    optim = OptimSettings(lr=1.0, schedule="constant", warmup_steps=4, total_steps=10)
    assert [optim.lr_at(step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cosine_ends_at_its_final_rate_and_stays() -> None:
    optim = OptimSettings(lr=5e-5, lr_final=1e-5, schedule="cosine", warmup_steps=2, total_steps=103)
    assert optim.lr_at(2) == pytest.approx(5e-5)
    assert optim.lr_at(52) == pytest.approx(3e-5)
    assert optim.lr_at(102) == pytest.approx(1e-5)
    assert optim.lr_at(500) == pytest.approx(1e-5)
    rates = [optim.lr_at(step) for step in range(2, 103)]
    assert rates == sorted(rates, reverse=True)


def test_linear_falls_over_the_last_steps_only() -> None:
    optim = OptimSettings(lr=1.0, lr_final=0.0, schedule="linear", decay_steps=5, total_steps=20)
    assert [optim.lr_at(step) for step in range(16)] == [1.0] * 16
    assert [optim.lr_at(step) for step in range(15, 21)] == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0, 0.0])


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_a_single_step_has_a_rate(schedule: str) -> None:
    optim = OptimSettings(lr=1.0, lr_final=0.1, schedule=schedule, decay_steps=1, total_steps=1)  # pyright: ignore[reportArgumentType]
    assert optim.lr_at(0) == 1.0


def test_k_falls_linearly_then_stays() -> None:
    assert [KSchedule(k=4, start=16, steps=4).at(step) for step in range(6)] == [16, 13, 10, 7, 4, 4]
    assert KSchedule(k=4).at(0) == 4
