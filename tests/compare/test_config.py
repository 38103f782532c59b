"""The YAML of a study: what is wrong with it is said with its key."""

import pytest
from pydantic import ValidationError

from modelzoo.compare.config import CompareConfig

TWO = {"a": {"config": "gptj_tiny"}, "b": {"builds_on": "a"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"a": {"config": "gptj_tiny"}}}, "has 1; a comparison needs at least two"),
        ({"arms": {"a": {}, "b": {"config": "gptj_tiny"}}}, "give a config, or another arm"),
        ({"arms": {"a": {"config": "x", "builds_on": "b"}, "b": {"config": "x"}}}, "and not both"),
        ({"arms": {**TWO, "c": {"builds_on": "d"}}}, "must be another arm; there are: a, b"),
        ({"arms": {"a": {"builds_on": "b"}, "b": {"builds_on": "a"}}}, "comes back to this arm"),
        ({"arms": {**TWO, "c d": {"config": "x"}}}, "at most 80 letters, digits"),
        ({"name": "runs"}, "is the name of the folder of all runs"),
        ({"arms": {**TWO, "c" * 81: {"config": "x"}}}, "at most 80 letters"),
        (
            {"arms": {**TWO, "c": {"config": "x", "against": "d"}, "d": {"config": "x", "against": "c"}}},
            "leads round in a circle, and never to the baseline a",
        ),
        (
            {"arms": {**TWO, "c": {"config": "x", "seed_offset": 1000}}, "lr_grid": [1e-3, 1e-4]},
            "would be chosen on a run that is compared: use 2002",
        ),
        ({"baseline": "c"}, "is not an arm; there are: a, b"),
        ({"seeds": [0, 0]}, "names a seed twice"),
        ({"lr_grid": [1e-3]}, "needs two rates or more"),
        ({"lr_grid": [1e-3, 1e-4], "lr_seed": 0}, "is one of the seeds"),
        ({"budget": {"unit": "flops"}}, "there is no usual number of flops"),
        ({"arms": {"a": {"config": "x", "against": "b"}, "b": {"config": "x"}}}, "is compared with none"),
    ],
)
def test_a_wrong_study_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        CompareConfig.model_validate({"name": "study", "arms": TWO, **changes})


def test_whom_an_arm_is_compared_with():
    arms = {**TWO, "c": {"builds_on": "b"}, "d": {"config": "gpt2_tiny"}, "e": {"builds_on": "b", "against": "a"}}
    study = CompareConfig.model_validate({"name": "study", "arms": arms})
    assert [study.against(name) for name in arms] == [None, "a", "b", "a", "a"]
    assert study.chain("c") == ["a", "b", "c"]
