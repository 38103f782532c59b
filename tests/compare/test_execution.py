"""Runs are started once each, so many at a time, and none after a failure or a wish to stop."""

import json

import pytest

from modelzoo.compare.config import TasksConfig
from modelzoo.compare.execution import execute, is_finished
from modelzoo.compare.plan import HELD_OUT, MEASURE_CODE, code_sha256, make_plan
from tests.compare.studies import small_study


class Worker:
    """Stands for the process of a run: it is done after some polls."""

    def __init__(self, run, polls=2, code=0):
        self.run, self.polls, self.code = run, polls, code

    def poll(self):
        self.polls -= 1
        if self.polls > 0:
            return None
        if self.code == 0:
            self.run.dir.mkdir(parents=True, exist_ok=True)
            content = {"schema": 1, "step": 12, "max_bytes": 1_000_000, "code_sha256": code_sha256(MEASURE_CODE)}
            content |= {"diverged": "for a test", "sets": {}}
            (self.run.dir / HELD_OUT).write_text(json.dumps(content))
        return self.code


@pytest.fixture
def plan(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("modelzoo.compare.execution.POLL_SECONDS", 0.0)
    return make_plan(small_study(dataset, tmp_path), [])


def carry_out(plan, runs, parallel=1, codes=None, stopping=lambda: False):
    started, seen = [], []

    def start(run, slot):
        started.append((run.name, slot))
        return Worker(run, code=(codes or {}).get(run.name, 0))

    def on_progress(progress):
        seen.append((progress.finished, len(progress.running)))

    return execute(runs, plan.study, start, parallel, on_progress, stopping), started, seen


def test_every_run_once_and_none_again(plan):
    runs = plan.runs({})
    failed, started, seen = carry_out(plan, runs)
    assert failed is None
    assert [name for name, _ in started] == [run.name for run in runs]
    assert all(is_finished(run, plan.study) for run in runs)
    assert seen[-1] == (4, 0)
    assert carry_out(plan, runs)[1] == []
    fewer = plan.study.held_out.model_copy(update={"max_bytes": 10})
    assert not is_finished(runs[0], plan.study.model_copy(update={"held_out": fewer}))
    held_out = runs[1].dir / HELD_OUT
    held_out.write_text(held_out.read_text().replace(code_sha256(MEASURE_CODE), "0" * 64))
    assert not is_finished(runs[1], plan.study)  # other code measured it
    assert not is_finished(runs[0], plan.study.model_copy(update={"tasks": TasksConfig(names=("lambada",))}))


def test_so_many_at_a_time_each_in_a_slot_of_its_own(plan):
    _, started, seen = carry_out(plan, plan.runs({}), parallel=2)
    assert max(running for _, running in seen) == 2
    assert {slot for _, slot in started} == {0, 1}


def test_a_failure_ends_it_and_is_named(plan):
    runs = plan.runs({})
    failed, started, _ = carry_out(plan, runs, codes={runs[1].name: 1})
    assert failed == (runs[1], 1)
    assert len(started) == 2
    assert [name for name, _ in carry_out(plan, runs)[1]] == [run.name for run in runs[1:]]


def test_nothing_begins_after_a_wish_to_stop(plan):
    wishes = iter([False, False, True, True, True, True, True, True])
    _, started, _ = carry_out(plan, plan.runs({}), stopping=lambda: next(wishes))
    assert len(started) == 1


def test_runs_of_one_hash_are_one_run(dataset, tmp_path, plan):
    twins = {"a": {"config": "gptj_tiny"}, "b": {"config": "gptj_tiny"}}
    same = make_plan(small_study(dataset, tmp_path, arms=twins), [])
    _, started, _ = carry_out(same, same.runs({}))
    assert len(started) == 2  # seeds
    assert same.runs({})[0].dir == same.runs({})[1].dir
    assert carry_out(plan, plan.runs({}))[1] == [(run.name, 0) for run in plan.runs({}) if run.arm == "neox"]
