"""Timings of arms: what is timed, which rounds count, and what ratios say of drifting machines."""

import json
import statistics

import numpy as np
import pytest
import torch

from modelzoo.base_config import UserError
from modelzoo.compare import other_processes, speed
from modelzoo.compare.other_processes import OtherProcesses
from modelzoo.compare.speed import check_measurable, measure_speed
from modelzoo.compare.speed_ratios import median_interval, speed_ratios, tokens_per_second
from modelzoo.compare.timed_arm import TimedArm
from tests.runs import small_config


@pytest.fixture
def arms(tmp_path):
    """Of no dataset at all."""
    missing = tmp_path / "missing"
    sequential = ("model.parallel_residual=false", "model.tied_norm=false", "trainer.micro_batch_size=4")
    return {"parallel": small_config(missing, tmp_path), "sequential": small_config(missing, tmp_path, *sequential)}


def test_arms_are_timed_in_turn_and_leave_their_weights_alone(arms, tmp_path, monkeypatch):
    calls, built = [], []

    class Watched(TimedArm):
        def __init__(self, config):
            super().__init__(config)
            self.name = "sequential" if not config.model.parallel_residual else "parallel"
            built.append((self, {name: value.clone() for name, value in self.trainer.model.state_dict().items()}))

        def update(self):
            calls.append(("update", self.name))
            return super().update()

        def generate(self, prompt, new_tokens):
            calls.append(("generate", self.name))
            assert (len(prompt), new_tokens) == (64, 5)
            return super().generate(prompt, new_tokens)

    monkeypatch.setattr(speed, "TimedArm", Watched)
    monkeypatch.setattr(OtherProcesses, "share", lambda self: None)
    found = measure_speed(arms, tmp_path / "study", rounds=6, warmup_rounds=2, new_tokens=5, peak_memory=False)
    assert json.loads((tmp_path / "study" / "speed.json").read_text()) == found
    rounds = [calls[start : start + 4] for start in range(0, len(calls), 4)]
    assert len(rounds) == 8
    every = [(what, name) for what in ("generate", "update") for name in arms]
    assert all(sorted(each) == every and each[0][0] == each[1][0] == "update" for each in rounds)
    assert len({each[0] for each in rounds}) == 2  # neither is always the first
    assert (found["rounds"], found["rounds_dropped"], found["threads"]) == (6, 0, torch.get_num_threads())
    for name in arms:
        assert found["training"][name]["tokens_per_step"] == 8 * 24
        assert len(found["training"][name]["step_seconds"]) == len(found["generation"][name]["seconds"]) == 6
        assert min(found["training"][name]["step_seconds"] + found["generation"][name]["seconds"]) > 0
    for arm, before in built:
        assert all(torch.equal(value, before[name]) for name, value in arm.trainer.model.state_dict().items())
        state = arm.trainer.optimizer.state_dict()["state"]
        assert len(state) == len(before)  # the optimizer has had its step
        assert state[0]["step"] == 8
        assert arm.trainer.since_record["num_tokens"] == 8 * 8 * 24


def test_micro_batches_and_isolated_documents_are_those_of_the_run(tmp_path):
    settings = ("trainer.micro_batch_size=2", "data.isolate_documents=true")
    arm = TimedArm(small_config(tmp_path, tmp_path, *settings))
    shapes, loss = [], arm.trainer.model.loss

    def watched(**given):
        shapes.append({name: tuple(tensor.shape) for name, tensor in given.items()})
        return loss(**given)

    arm.trainer.model.loss = watched
    arm.update()
    keys = ("input_ids", "labels", "position_ids", "segment_ids")  # every token counts
    assert shapes == [dict.fromkeys(keys, (2, 24))] * 4


def test_rounds_that_others_disturbed_do_not_count(arms, tmp_path, monkeypatch):
    def measured(shares):
        left = iter(shares)
        monkeypatch.setattr(OtherProcesses, "share", lambda self: next(left))
        options = {"rounds": 4, "warmup_rounds": 0, "new_tokens": 0, "peak_memory": False}
        found = measure_speed({"parallel": arms["parallel"]}, tmp_path, **options)
        assert found["generation"] is None
        assert len(found["training"]["parallel"]["step_seconds"]) == found["rounds"]
        return found["rounds"], found["rounds_dropped"], found["quiet"]

    monkeypatch.setattr(OtherProcesses, "known", True)
    assert measured([0.05] * 4) == (4, 0, True)
    assert measured([0.0, 0.5, 0.0, 0.07, 0.0, 0.0]) == (4, 2, True)
    assert measured([0.0, 0.0, *[0.5] * 6]) == (2, 6, True)
    assert measured([0.0, *[0.5] * 7]) == (8, 0, False)


def test_what_other_processes_use_is_told_from_what_this_one_does(tmp_path, monkeypatch):
    def state(own, others, idle):
        ticks = [round(100 * own), 0, 0, round(100 * idle), 0, 0, 0, round(100 * others), 0, 0]
        (tmp_path / "stat").write_text("cpu  " + " ".join(map(str, ticks)) + "\ncpu0 1 2 3\n")
        monkeypatch.setattr(other_processes.time, "process_time", lambda: own)

    monkeypatch.setattr(other_processes, "CPU_TIMES", tmp_path / "stat")
    state(own=3, others=7, idle=100)
    watch = OtherProcesses()
    assert watch.known
    state(own=4, others=7.1, idle=100.9)
    assert watch.share() == pytest.approx((0.1 - 0.02) / 2)
    state(own=4, others=7, idle=101)
    assert watch.share() == 0
    monkeypatch.setattr(other_processes, "CPU_TIMES", tmp_path / "nothing")
    assert not OtherProcesses().known
    assert OtherProcesses().share() is None


def test_arms_that_are_no_model_on_one_device_are_refused(arms):
    config = arms["parallel"]
    offloaded = config.model_copy(update={"accelerator": config.accelerator.model_copy(update={"cpu_offload": True})})
    with pytest.raises(UserError, match=r"arms\.b: accelerator\.cpu_offload=true .* speed: null"):
        check_measurable({"a": config, "b": offloaded})


@pytest.mark.long
def test_peak_memory_is_that_of_the_arm_alone(tmp_path):
    large = small_config(tmp_path, tmp_path, "model.hidden_size=512", "model.position.fraction=0.5")
    small = small_config(tmp_path, tmp_path)
    found = measure_speed({"large": large, "small": small}, tmp_path, rounds=1, warmup_rounds=0, new_tokens=0)
    bytes_of = {name: found["training"][name]["peak_memory_bytes"] for name in found["training"]}
    extra = 16 * (large.model.num_parameters() - small.model.num_parameters())  # weights, gradients, two moments
    assert 0.5 * extra < bytes_of["large"] - bytes_of["small"] < 3 * extra


def timings(a, b, tokens=(100, 100)):
    """A speed.json of two arms, by the seconds of their rounds."""
    return {
        "training": {
            name: {"step_seconds": list(seconds), "tokens_per_step": num}
            for name, seconds, num in zip("ab", (a, b), tokens, strict=True)
        },
        "generation": None,
    }


def test_a_machine_that_slows_down_in_the_middle_does_not_move_the_ratio():
    """b takes 5 % longer. A change to half the speed after 10 of 21 rounds, in the midst of a round: the median of one
    arm lies before it, that of the other behind."""
    draw = np.random.default_rng(0)
    pace = np.repeat([1.0, 2.0], [10, 11])
    a, b = pace * draw.normal(1, 0.01, 21), 1.05 * pace * draw.normal(1, 0.01, 21)
    a[10] /= 2  # timed first in its round, before the change
    found = speed_ratios(timings(a, b), [("b", "a")])["b"]
    assert found["against"] == "a"
    assert found["generation"] is None
    assert found["training"]["ratio"] == pytest.approx(1 / 1.05, abs=0.01)
    low, high = found["training"]["interval"]
    assert 0.93 < low < 1 / 1.05 < high < 0.98
    assert statistics.median(a) / statistics.median(b) < 0.6  # unpaired


def test_ratios_are_of_tokens_per_second():
    """Twice the tokens in three times the time."""
    found = timings([1.0] * 8, [3.0] * 8, tokens=(100, 200))
    found["generation"] = {name: {"seconds": [s] * 8, "new_tokens": 50} for name, s in (("a", 2.0), ("b", 1.0))}
    ratios = speed_ratios(found, [("b", "a")])["b"]
    assert ratios["training"]["ratio"] == pytest.approx(2 / 3)
    assert ratios["generation"]["ratio"] == pytest.approx(2)
    assert tokens_per_second(found)["b"] == {"training": pytest.approx(200 / 3), "generation": 50}


def test_intervals_of_equal_arms_hold_one_as_often_as_they_say():
    draw, held, wide = np.random.default_rng(1), 0, 0
    for _ in range(1_000):
        a, b = draw.lognormal(0, 0.1, (2, 20)) * draw.lognormal(0, 0.5, 20)  # alike within a round
        low, high = speed_ratios(timings(a, b), [("b", "a")])["b"]["training"]["interval"]
        held += low <= 1 <= high
        wide += high / low
    assert 950 <= held <= 985
    assert wide / 1_000 < 1.25


def test_an_interval_needs_enough_rounds():
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]) is None  # between the ends with 15/16
    assert median_interval([6.0, 1.0, 2.0, 3.0, 4.0, 5.0]) == [1.0, 6.0]
    assert median_interval(list(map(float, range(20)))) == [5.0, 14.0]
    assert median_interval(list(map(float, range(20))), confidence=0.999) == [2.0, 17.0]
