"""Schedules are pure functions of the step; each kind's values at the points that define it."""

import math

import pytest

from modelzoo.schedule.constant import ConstantConfig
from modelzoo.schedule.cosine import CosineConfig
from modelzoo.schedule.linear import LinearConfig
from modelzoo.schedule.wsd import WSDConfig

TOTAL, TOKENS = 1000, 512


@pytest.mark.parametrize("cls", [ConstantConfig, LinearConfig, CosineConfig, WSDConfig])
def test_warmup_rises_linearly_to_the_peak(cls):
    schedule = cls(warmup_steps=10)
    factors = [schedule.factor(step, TOTAL, TOKENS) for step in range(11)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == pytest.approx(1.0)


@pytest.mark.parametrize("cls", [ConstantConfig, LinearConfig, CosineConfig, WSDConfig])
def test_tokens_and_steps_say_the_same(cls):
    in_tokens = cls(warmup_tokens=10 * TOKENS - 1)  # rounded up to whole steps
    in_steps = cls(warmup_steps=10)
    assert all(in_tokens.factor(s, TOTAL, TOKENS) == in_steps.factor(s, TOTAL, TOKENS) for s in range(0, TOTAL, 7))


def test_constant_stays():
    assert ConstantConfig().factor(999, TOTAL, TOKENS) == 1.0


def test_linear_is_a_line_and_then_constant():
    schedule = LinearConfig(decay_steps=100, final_lr_ratio=0.2)
    assert [schedule.factor(s, TOTAL, TOKENS) for s in (0, 50, 100, 900)] == pytest.approx([1.0, 0.6, 0.2, 0.2])


def test_cosine_is_half_a_cosine_and_then_constant():
    schedule = CosineConfig(warmup_steps=100, decay_steps=400, final_lr_ratio=0.1)
    assert schedule.factor(100, TOTAL, TOKENS) == 1.0
    assert schedule.factor(300, TOTAL, TOKENS) == pytest.approx(0.55)
    assert schedule.factor(200, TOTAL, TOKENS) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert schedule.factor(500, TOTAL, TOKENS) == schedule.factor(999, TOTAL, TOKENS) == pytest.approx(0.1)


def test_cosine_without_a_length_ends_with_the_run():
    schedule = CosineConfig(warmup_steps=100, final_lr_ratio=0.1)
    assert schedule.factor(550, TOTAL, TOKENS) == pytest.approx(0.55)
    assert schedule.factor(999, TOTAL, TOKENS) == pytest.approx(0.1, abs=1e-5)


def test_wsd_is_flat_then_falls_to_its_end_at_the_last_step():
    schedule = WSDConfig(warmup_steps=100, decay_steps=200, final_lr_ratio=0.0)
    assert [schedule.factor(s, TOTAL, TOKENS) for s in (100, 500, 799)] == [1.0, 1.0, 1.0]
    assert schedule.factor(899, TOTAL, TOKENS) == pytest.approx(0.5)
    assert schedule.factor(999, TOTAL, TOKENS) == 0.0


def test_wsd_is_the_same_before_its_decay_however_long_the_run():
    schedule = WSDConfig(warmup_steps=100, decay_steps=100)
    assert [schedule.factor(s, 1000, TOKENS) for s in range(900)] == [
        schedule.factor(s, 9000, TOKENS) for s in range(900)
    ]
