"""Mask rates and loss weights against their formulas and against calculus."""

import math

import pytest
import torch
from helpers.exact import RATES

from diffusion.noise import MIN_TIME, SCHEDULES

# w = r'/r with its factors cancelled by hand, so that no digits are lost near t = 0.
WEIGHTS = {
    "linear": lambda t: 1 / t,
    "log-linear": lambda t: 1 / t,
    "cosine-a": lambda t: (math.pi / 2) / math.tan(math.pi * t / 2),
    "cosine-b": lambda t: (math.pi / 2) / math.tan(math.pi * t / 4),
}
TIMES = torch.linspace(MIN_TIME, 1, 1000, dtype=torch.float64)

every_schedule = pytest.mark.parametrize("name", RATES)


@every_schedule
def test_rates_and_weights_are_the_published_formulas(name):
    rate, weight = SCHEDULES[name].rate(TIMES), SCHEDULES[name].weight(TIMES)
    expected_rate = torch.tensor([RATES[name](t) for t in TIMES.tolist()], dtype=torch.float64)
    expected_weight = torch.tensor([WEIGHTS[name](t) for t in TIMES.tolist()], dtype=torch.float64)
    torch.testing.assert_close(rate, expected_rate, rtol=1e-9, atol=0)
    torch.testing.assert_close(weight, expected_weight, rtol=1e-12, atol=1e-12)


@every_schedule
def test_weights_are_the_slope_of_the_log_rate(name):
    schedule, h = SCHEDULES[name], 1e-5
    t = TIMES[10:-1]
    slope = (schedule.rate(t + h).log() - schedule.rate(t - h).log()) / (2 * h)
    torch.testing.assert_close(schedule.weight(t), slope, rtol=1e-5, atol=1e-6)


@every_schedule
def test_single_precision_is_enough_at_the_smallest_time(name):
    t = torch.tensor([MIN_TIME])
    assert SCHEDULES[name].weight(t).item() == pytest.approx(WEIGHTS[name](t.item()), rel=1e-5)
    assert SCHEDULES[name].rate(t).item() == pytest.approx(RATES[name](t.item()), rel=1e-5)
