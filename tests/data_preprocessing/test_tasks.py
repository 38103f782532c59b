"""Tasks on several machines: merged, they give the bytes of one run, and only those of one run are merged."""

import pytest

from data_preprocessing import chunks, pipeline
from data_preprocessing.pipeline import run
from data_preprocessing.tasks import Task
from modelzoo.base_config import UserError
from tests.data_preprocessing.corpus import config, files_of


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("many_lots", [True, False])
def test_tasks_that_merge_give_the_same(base, count, many_lots, monkeypatch):
    if not many_lots:  # one lot: tasks share its chunks instead
        monkeypatch.setattr(pipeline, "lots", lambda inputs, size: chunks.lots(inputs, 10**9))
    run(config(workers=1), base)
    for index in reversed(range(count)):
        with pytest.raises(UserError, match=r"no task has ended|tasks have not ended: --task"):
            run(config(workers=1, output="other"), base, merge_tasks=True)
        assert run(config(workers=1, output="other"), base, task=Task(index, count)).manifest is None
    run(config(workers=1, output="other"), base, merge_tasks=True)
    assert files_of(base / "out") == files_of(base / "other")
    assert not (base / "other.partial").exists()


def test_tasks_of_other_settings_do_not_merge(base):
    run(config(workers=1), base, task=Task(0, 2))
    run(config(workers=1, shuffle_seed=8), base, task=Task(1, 2))
    with pytest.raises(UserError, match=r"1-of-2\.json:\n  settings\.shuffle_seed: 8 there, 7 here"):
        run(config(workers=1), base, merge_tasks=True)


def test_tasks_that_saw_other_files_do_not_merge(base):
    def task(number):
        run(config(workers=1), base, task=Task(number, 2))

    def merge():
        run(config(workers=1), base, merge_tasks=True)

    def edit(name, change):
        path = base / name
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")

    task(0)
    edit("b.jsonl", lambda text: text.replace("cat", "dog"))  # as long as before
    task(1)
    with pytest.raises(UserError, match=r"b\.jsonl: changed between one task and the next; run all tasks again"):
        merge()
    task(0)
    edit("c.jsonl", lambda text: text + '{"text": "more"}\n')
    with pytest.raises(UserError, match=r"0-of-2\.json:\n  files\..*c\.jsonl: \d+ there, \d+ here"):
        merge()
    task(0)
    task(1)
    merge()
    run(config(workers=1, output="plain"), base)
    assert files_of(base / "out") == files_of(base / "plain")


def test_another_number_of_tasks_says_what_to_delete(base):
    run(config(workers=1), base, task=Task(0, 3))
    for number in range(2):
        run(config(workers=1), base, task=Task(number, 2))
    with pytest.raises(UserError, match=r"different numbers of tasks \(0-of-2, 0-of-3, 1-of-2\); delete those"):
        run(config(workers=1), base, merge_tasks=True)
    (base / "out.partial/tasks/0-of-3.json").unlink()
    assert run(config(workers=1), base, merge_tasks=True).manifest
