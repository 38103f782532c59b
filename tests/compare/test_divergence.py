"""Runs that diverged: what is left beside them is shown and not judged, and the other comparisons are."""

import pytest

from modelzoo.compare.results import collect, write_report
from modelzoo.compare.summary import WIDTH, summary
from tests.compare.runs import TWO, Arm, Study, check, edit, runs_of

FOUR = {"seeds": (0, 1, 2, 3), "arms": [TWO[0], Arm("gpt_neox", -0.05, overrides=["model=gpt_neox"])]}


def test_a_run_that_diverged_or_ended_elsewhere_is_not_compared(tmp_path):
    folder = Study().write(tmp_path)
    first, second = runs_of(folder, "gpt_neox")[:2]
    edit(first / "held_out.json", lambda found: found["sets"][""]["loss_sums"].__setitem__(3, None))
    edit(second / "held_out.json", lambda found: found.update(step=240))
    report = collect(folder)
    assert report["effects"][0]["seeds"] == [2]
    assert "seed 0: has diverged" in report["missing"][0]
    assert "seed 1: was measured at step 240 of 480" in report["missing"][1]


def test_runs_that_are_left_beside_diverged_ones_are_not_judged(tmp_path):
    folder = Study(**FOUR, diverged=[("gpt_neox", 1), ("gpt_neox", 3)]).write(tmp_path)
    report = collect(folder)
    (effect,) = report["effects"]
    assert (effect["verdict"], effect["seeds"], effect["interval"]) == ("diverged", [0, 2], None)
    assert effect["relative"] == pytest.approx(-0.05, abs=0.01)
    assert [arm["diverged_seeds"] for arm in report["arms"]] == [[], [1, 3]]
    assert [arm["from_baseline"] for arm in report["arms"]] == [0.0, None]
    headline, (told, held, limits) = report["answer"]["headline"], report["answer"]["sentences"]
    assert headline == "gpt_neox has diverged from 2 of 4 seeds: gpt_neox is not judged against gptj."
    assert told.startswith("From the 2 seeds from which both ended gpt_neox needs ")
    assert told.endswith("so there is no interval and no verdict.")
    assert "from each of 4 seeds (2 seeds could be compared)" in held
    assert "1 of 13 checks of fairness does not hold (every planned run ended)" in held
    assert "this much text, from 2 seeds;" in limits
    assert check(report, "every planned run")["detail"] == "diverged: gpt_neox (seeds 1, 3)"
    assert report["smallest_p"] == 0.5
    assert report["missing"][0].startswith("gpt_neox, seed 1: has diverged: step 193: the loss is nan (runs/")
    lines = summary(report)
    assert lines[0].startswith("gpt_neox has diverged from 2 of 4 seeds")
    assert max(map(len, lines)) <= WIDTH
    equal = collect(Study(**FOUR).write(tmp_path / "whole"))
    assert equal["answer"]["headline"].startswith("gpt_neox is better than gptj")
    assert check(equal, "every planned run") == {"check": "every planned run ended", "held": True, "detail": "all 8"}


def test_a_baseline_that_diverged_gives_no_verdict_either(tmp_path):
    report = collect(Study(**FOUR, diverged=[("gptj", 0), ("gpt_neox", 3)]).write(tmp_path))
    assert report["effects"][0]["verdict"] == "diverged"
    assert report["answer"]["headline"].startswith("gptj has diverged from 1 of 4 seeds; gpt_neox from 1 of 4 seeds: ")


def test_an_arm_that_diverged_from_every_seed_is_still_compared_in_the_report(tmp_path):
    study = Study(diverged=[("gpt_neox", seed) for seed in (0, 1, 2)])
    folder = study.write(tmp_path)
    (runs_of(folder, "gpt_neox")[0] / "metrics.jsonl").unlink()  # it diverged before its first record
    report = write_report(folder)
    (effect,) = report["effects"]
    assert (effect["verdict"], effect["relative"], effect["seeds"]) == ("diverged", None, [])
    assert report["answer"]["headline"].startswith("gpt_neox has diverged from 3 of 3 seeds: ")
    assert report["answer"]["sentences"][0] == "gpt_neox and gptj have no seed from which both ended."
    assert "from no seeds;" in report["answer"]["sentences"][2]
    assert any(line.startswith("gpt_neox ") and line.endswith(" diverged") for line in summary(report))


def test_the_other_comparisons_of_a_study_are_judged(tmp_path):
    arms = [Arm("gptj"), Arm("wide", -0.05), Arm("wild", -0.05), Arm("deep", -0.05)]
    folder = Study(arms=arms, diverged=[("wild", 1)], missing=[("deep", 2)]).write(tmp_path)
    report = write_report(folder)
    verdicts = {effect["arm"]: effect["verdict"] for effect in report["effects"]}
    assert verdicts["wild"] == "diverged"
    assert verdicts["wide"] == "better"
    headline, (told, held, limits) = report["answer"]["headline"], report["answer"]["sentences"]
    assert headline.startswith("wild has diverged from 1 of 3 seeds. ")
    assert "of 2 other comparisons show" in headline
    assert "wild" not in headline.partition(". ")[2]
    assert "From the 2 seeds from which both ended wild needs" in told
    assert "2 to 3 seeds could be compared" in held
    assert "from 2 to 3 seeds;" in limits
    assert check(report, "every planned run")["detail"] == "diverged: wild (seed 1); not ended: deep (seed 2)"
    all_lost = collect(Study(arms=arms[:3], diverged=[("gptj", 1)]).write(tmp_path / "base"))["answer"]
    assert all_lost["headline"] == "gptj has diverged from 1 of 3 seeds: none is judged."
    assert all_lost["sentences"][0].endswith("have diverged: wide against gptj; wild against gptj.")


@pytest.mark.parametrize("domains", [("",), ("code", "prose")])
def test_diverged_losses_are_of_no_verdict_in_any_domain(tmp_path, domains):
    folder = Study(**FOUR, domains=domains).write(tmp_path)
    edit(
        runs_of(folder, "gpt_neox")[1] / "held_out.json",
        lambda found: found["sets"][domains[0]]["loss_sums"].__setitem__(3, None),
    )
    report = collect(folder)
    assert {effect["verdict"] for effect in report["effects"]} == {"diverged"}
    assert report["answer"]["headline"].startswith("gpt_neox has diverged from 1 of 4 seeds")
