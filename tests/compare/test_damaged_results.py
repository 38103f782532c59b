"""Files of a study that are damaged or lacking: an error that names the file and says what to do."""

import json

import pytest

from modelzoo.base_config import UserError
from modelzoo.compare.results import collect, write_report
from modelzoo.compare.run_results import held_out_problem
from tests.compare.runs import Study, edit, runs_of


def damaged(change):
    def damage(found):
        change(found, found["sets"][""])

    return damage


DAMAGES = {
    "sets is missing": lambda found, _: found.pop("sets"),
    "sets is a list": lambda found, _: found.update(sets=[1]),
    "no set": lambda found, _: found.update(sets={}),
    "a set is a list": lambda found, _: found.update(sets={"": [1]}),
    "step is missing": lambda found, _: found.pop("step"),
    "step is text": lambda found, _: found.update(step="480"),
    "no losses": lambda _, own: own.pop("loss_sums"),
    "no tokens": lambda _, own: own.pop("num_tokens"),
    "no hash": lambda _, own: own.pop("documents_sha256"),
    "text among losses": lambda _, own: own["loss_sums"].__setitem__(2, "3.5"),
    "a list among losses": lambda _, own: own["loss_sums"].__setitem__(2, [3.5]),
    "true among bytes": lambda _, own: own["num_bytes"].__setitem__(2, True),
    "null among bytes": lambda _, own: own["num_bytes"].__setitem__(2, None),
    "less than no bytes": lambda _, own: own["num_bytes"].__setitem__(2, -5),
    "more bytes than any": lambda _, own: own["num_bytes"].__setitem__(2, 10**400),
    "fewer losses": lambda _, own: own["loss_sums"].pop(),
    "no documents": lambda _, own: own.update(num_bytes=[], num_tokens=[], loss_sums=[]),
    "no loss at all": lambda _, own: own.update(loss_sums=[0.0] * len(own["loss_sums"])),
    "diverged without a reason": lambda found, _: found.update(diverged=None, sets={}),
    "diverged with losses": lambda found, _: found.update(diverged="the loss is nan"),
    "another set": lambda found, own: found.update(sets={"": own, "code": own}),
    "another version": lambda found, _: found.update(schema=2),
}


@pytest.mark.parametrize("which", DAMAGES)
def test_a_damaged_held_out_file_is_an_error_that_says_what_to_do(tmp_path, which):
    folder = Study(documents=10).write(tmp_path)
    path = runs_of(folder, "gpt_neox")[1] / "held_out.json"
    assert held_out_problem(json.loads(path.read_text())) is None
    edit(path, damaged(DAMAGES[which]))
    assert which == "another set" or held_out_problem(json.loads(path.read_text()))
    with pytest.raises(UserError) as caught:
        collect(folder)
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith("delete it, and run the same command again")


@pytest.mark.parametrize("found", [None, [], "text", 3, {}])
def test_what_is_no_held_out_file_has_a_problem(found):
    assert held_out_problem(found)


def test_a_folder_without_a_study_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"holds no plan\.json"):
        write_report(tmp_path)
    folder = Study().write(tmp_path)
    held_out = runs_of(folder, "gptj")[0] / "held_out.json"
    held_out.write_text('{"schema": 1,')
    with pytest.raises(UserError, match=r"held_out\.json: cannot be read"):
        write_report(folder)
