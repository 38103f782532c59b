"""Schedules are pure functions of the step; each kind's values at the points that define it."""

import math
from functools import partial
from itertools import pairwise

import pytest

from modelzoo.cli.lr_curve import BARS, curve, drawn
from modelzoo.config_errors import ConfigError
from modelzoo.run_config import RunConfig, dump_yaml, load_run_config
from modelzoo.schedule.constant import ConstantConfig
from modelzoo.schedule.cosine import CosineConfig
from modelzoo.schedule.infinite import InfiniteConfig
from modelzoo.schedule.inverse_sqrt import InverseSqrtConfig
from modelzoo.schedule.linear import LinearConfig
from modelzoo.schedule.sequence import SequenceConfig
from modelzoo.schedule.wsd import WSDConfig

TOTAL, TOKENS = 1000, 512
KINDS = [
    ConstantConfig,
    LinearConfig,
    CosineConfig,
    WSDConfig,
    partial(InfiniteConfig, cooldown_steps=100),
    partial(InverseSqrtConfig, timescale_steps=50),
    partial(SequenceConfig, phases={"all": {"schedule": {"kind": "cosine"}}}),
]


@pytest.mark.parametrize("cls", KINDS)
def test_warmup_rises_linearly_to_the_peak(cls):
    schedule = cls(warmup_steps=10)
    factors = [schedule.factor(step, TOTAL, TOKENS) for step in range(11)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == pytest.approx(1.0)


@pytest.mark.parametrize("cls", KINDS)
def test_a_run_that_continues_warms_up_from_where_it_was(cls):
    schedule = cls(warmup_tokens=10 * TOKENS, initial_lr_ratio=0.2)
    factors = [schedule.factor(step, TOTAL, TOKENS) for step in range(11)]
    assert factors[:10] == pytest.approx([0.2 + 0.8 * (step + 1) / 10 for step in range(10)])
    assert factors[10] == pytest.approx(1.0)


@pytest.mark.parametrize("cls", KINDS)
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


SHAPES = {
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "one_minus_sqrt": lambda progress: 1 - math.sqrt(progress),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_wsd_falls_in_the_shape_that_is_asked_for(shape):
    schedule = WSDConfig(decay_tokens=200 * TOKENS, decay_shape=shape, final_lr_ratio=0.2)
    expected = [0.2 + 0.8 * SHAPES[shape]((step + 1) / 200) for step in range(200)]
    assert [schedule.factor(800 + step, TOTAL, TOKENS) for step in range(200)] == pytest.approx(expected)


@pytest.mark.parametrize("shape", ["cosine", "inverse_sqrt"])
def test_infinite_cools_down_stays_and_anneals(shape):
    schedule = InfiniteConfig(
        warmup_steps=100, cooldown_steps=200, cooldown_shape=shape, constant_lr_ratio=0.4, annealing_steps=100
    )
    factors = [schedule.factor(step, TOTAL, TOKENS) for step in range(TOTAL)]
    assert factors[100] == 1.0
    share = {"cosine": 0.5, "inverse_sqrt": (6**-0.5 - 11**-0.5) / (1 - 11**-0.5)}[shape]
    assert factors[200] == pytest.approx(0.4 + 0.6 * share)  # half of the cooldown
    assert factors[300:900] == [0.4] * 600
    assert factors[949] == pytest.approx(math.sqrt(0.4 * 0.1))  # half of an exponential: the geometric mean
    assert factors[-1] == pytest.approx(0.1)
    assert all(before >= after for before, after in pairwise(factors[100:]))
    longer = [schedule.factor(step, 9 * TOTAL, TOKENS) for step in range(900)]
    assert longer == factors[:900]  # what makes it infinite


def test_infinite_without_annealing_stays():
    schedule = InfiniteConfig(cooldown_steps=0, annealing_steps=0, constant_lr_ratio=0.5)
    assert {schedule.factor(step, TOTAL, TOKENS) for step in range(TOTAL)} == {0.5}


def test_inverse_sqrt_halves_after_three_timescales_and_is_the_transformers_with_a_warmup():
    assert InverseSqrtConfig(timescale_tokens=100 * TOKENS).factor(300, TOTAL, TOKENS) == pytest.approx(0.5)
    schedule = InverseSqrtConfig(warmup_steps=50)
    width_scale = min(200**-0.5, 200 * 50**-1.5) / min(50**-0.5, 50 * 50**-1.5)  # Vaswani et al., equation 3
    assert schedule.factor(200, TOTAL, TOKENS) == pytest.approx(width_scale)


REWARM = {
    "first": {"duration_steps": 400, "schedule": {"kind": "cosine", "warmup_steps": 20, "final_lr_ratio": 0.1}},
    "dropped": None,
    "second": {
        "duration_tokens": 300 * TOKENS,
        "peak_lr_ratio": 0.5,
        "schedule": {"kind": "linear", "warmup_steps": 30, "initial_lr_ratio": 0.2, "final_lr_ratio": 0.1},
    },
    "tail": {"peak_lr_ratio": 0.05, "schedule": {"kind": "constant"}},
}


def test_a_sequence_is_each_schedule_on_a_run_of_its_own_length():
    schedule = SequenceConfig(warmup_steps=10, phases=REWARM)
    factors = [schedule.factor(step, TOTAL, TOKENS) for step in range(TOTAL)]
    first = CosineConfig(warmup_steps=20, final_lr_ratio=0.1)
    second = LinearConfig(warmup_steps=30, initial_lr_ratio=0.2, final_lr_ratio=0.1)
    assert factors[10:410] == [first.factor(step, 400, TOKENS) for step in range(400)]
    assert factors[410:710] == [0.5 * second.factor(step, 300, TOKENS) for step in range(300)]
    assert factors[710:] == [0.05] * 290
    assert list(schedule.problems_in_run(TOTAL, TOKENS)) == []
    assert factors[409] == pytest.approx(factors[410], abs=0.02)  # it re-warms from where it was
    assert {9, 10, 29, 409, 410, 439, 709, 710, 999} == set(schedule.turns(TOTAL, TOKENS))


def test_phases_in_tokens_meet_the_runs_end_however_they_are_rounded():
    third = {"duration_tokens": 100, "schedule": {"kind": "constant"}}
    schedule = SequenceConfig(phases={"a": third, "b": third, "c": third})
    for tokens_per_step in (7, 16, 30, 99):
        assert list(schedule.problems_in_run(-(-300 // tokens_per_step), tokens_per_step)) == []


# ------------------------------------------------------------------ a schedule and a run that do not fit

PHASE = "schedule.phases.stable.duration_steps=100"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["schedule.decay_steps=1000"], "would be cut off; use decay_steps=215"),
        (["schedule.decay_tokens=2e6"], "use decay_tokens=440320 "),
        (["schedule=linear", "schedule.decay_steps=100"], "ends at zero after 100 of 215 steps"),
        (["schedule=wsd", "schedule.decay_steps=216"], "in the middle of its fall"),
        (["schedule=infinite"], "e.g. cooldown_steps=53"),
        (["schedule=infinite", "schedule.cooldown_steps=200"], "200 + 21 steps and 215 are left"),
        (["schedule=infinite", "schedule.cooldown_steps=9", "schedule.constant_lr_ratio=0.05"], "is above constant_lr"),
        (["schedule=infinite", "schedule.cooldown_steps=9", "schedule.cooldown_tokens=9"], "not both"),
        (["schedule=inverse_sqrt", "schedule.warmup_steps=0"], "or a warm-up"),
        (["schedule.warmup_steps=null", "schedule.initial_lr_ratio=0.5"], "and there is none"),
        (["schedule=sequence"], "needs duration_steps or duration_tokens"),
        (["schedule=sequence", "schedule.phases.stable=null", "schedule.phases.decay=null"], "needs a phase"),
        (["schedule=sequence", "schedule.phases.stable.duration_steps=300"], "schedule.phases.stable\n"),
        (["schedule=sequence", "schedule.phases.stable.duration_steps=215"], "schedule.phases.decay\n"),
        (["schedule=sequence", PHASE, "schedule.phases.decay.duration_steps=10"], "end after 110 of 215 steps"),
        (["schedule=sequence", PHASE, "schedule.phases.decay.duration_steps=116"], "from step 100 to step 216 of"),
        (["schedule=sequence", PHASE, "schedule.phases.stable.duration_tokens=10"], "not both"),
        (["schedule=sequence", PHASE, "schedule.phases.decay.schedule.decay_steps=116"], "use decay_steps=115"),
        (["schedule=sequence", PHASE, "schedule.phases.decay.schedule.warmup_step=1"], "did you mean warmup_steps?"),
        (["schedule=sequence", PHASE, "schedule.phases.decay.schedule.kind=sequence"], "must be one of constant,"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_error_at_check_time(overrides, message):
    with pytest.raises(ConfigError) as error:
        load_run_config("gptj_tiny", overrides)
    assert message in str(error.value)
    assert "1 problem" in str(error.value)


def test_a_mistake_within_a_phase_has_its_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "defaults:\n  - gptj_tiny\n  - override schedule: sequence\n  - _self_\nname: mine\nschedule:\n  phases:\n"
        "    stable: {duration_steps: 100}\n    decay:\n      schedule:\n        kind: wsd\n        decay_steps: 116\n"
    )
    with pytest.raises(ConfigError, match=r"mine\.yaml:12: schedule\.phases\.decay\.schedule\.decay_steps = 116"):
        load_run_config("mine.yaml")


def test_a_decay_may_outlast_its_run_where_that_is_meant():
    config = load_run_config("gptj_tiny", ["schedule.decay_steps=430", "schedule.may_outlast_run=true"])
    assert config.lr_factor(30 + 214) == pytest.approx(0.55, abs=0.01)


def test_a_sequence_survives_its_dump_with_its_order():
    import yaml

    config = load_run_config("gptj_tiny", ["schedule=sequence", PHASE])
    again = RunConfig.model_validate(yaml.safe_load(dump_yaml(config)))
    assert again == config
    assert list(again.schedule.phases) == ["stable", "decay"]


def test_the_curve_shows_what_the_run_will_do():
    config = load_run_config("gptj_tiny", ["schedule=sequence", PHASE, "optimizer.lr=0.002"])
    bars, values = drawn(curve(config))
    assert len(bars) == 48
    assert set(bars) <= set(BARS)
    assert bars[0] == BARS[0]
    assert bars[10] == BARS[-1]
    assert values.startswith("6.67e-05 at step 1, 0.002 at step 30,")
    assert values.endswith("at step 245")
