"""The page of a study: nothing in it becomes markup, and all that was measured is there."""

import json
import shlex
from html import escape

import pytest

from modelzoo.compare.ladder import chain
from modelzoo.compare.page import compare_page
from modelzoo.compare.results import collect, write_report
from tests.compare.runs import LADDER, Arm, Study
from tests.report.test_page import EVIL, Outline


def html_of(folder):
    write_report(folder)
    return (folder / "report.html").read_text(encoding="utf-8")


def poisoned(value):
    """Every text of a report that people or files give, turned into an attack."""
    if isinstance(value, dict):
        return {key: poisoned(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [poisoned(inner) for inner in value]
    return EVIL + value if isinstance(value, str) and value not in KEPT else value


KEPT = ("gptj", "gpt_neox", "text", "tokens", "better", "slower", "faster")
"""Names by which parts of the report find each other."""


def test_nothing_in_a_study_becomes_markup(tmp_path):
    report = collect(Study(lr_grid=[1e-3, 3e-3]).write(tmp_path))
    arms = {arm["name"]: arm["differences"] for arm in report["arms"]}
    assert arms["gpt_neox"]
    for html in (compare_page(poisoned(report)), compare_page(renamed(report, "gpt_neox", EVIL))):
        outline = Outline(html)
        assert outline.tags.count("script") == 1
        assert "img" not in outline.tags
        assert not [name for name, _ in outline.attributes if name.startswith("on") or name == "style"]
        assert not {"\u202e", "\x00"} & set(html)


def renamed(report, old, new):
    return json.loads(json.dumps(report).replace(json.dumps(old), json.dumps(new)))


def test_the_page_shows_what_was_measured(tmp_path):
    study = Study(lr_grid=[1e-3, 3e-3])
    report = collect(study.write(tmp_path))
    html = compare_page(report)
    Outline(html)
    only, arm = report["effects"][0], report["arms"][1]
    for shown in (
        f"{only['after']:.4f}", "3.36\u202fM", "16.2\u202fM", "610\u202fMB", "<code>model</code>", "seeds better",
        "modelzoo compare compare/gptj_vs_neox_tiny", "same batches, by their hashes", "Zou &amp; Donner", "p = 0.250",
        arm["seeds"][2]["dir"], "slower", "Learning rates", "at the edge of the grid", "c0dec0dec0dec0de",
    ):  # fmt: skip
        assert shown in html, shown
    for sentence in report["answer"]["sentences"]:
        assert sentence in html


def test_a_ladder_is_drawn_in_order_and_side_rungs_apart(tmp_path):
    html = html_of(Study(arms=LADDER, documents=10).write(tmp_path))
    chart = html[html.index("The ladder, step by step") : html.index("The arms</h2>")]
    places = [chart.index(f"<span>{arm.name}<") for arm in LADDER]
    assert places == sorted(places)
    assert chart.index("Set apart from the steps") > places[-2]
    assert chart.index("Set apart from the steps") < places[-1]
    assert chart.count('class="move') == 7
    assert chart.count('class="whisker"') == 8
    assert "all 7 steps together" in html


@pytest.mark.parametrize(
    ("against", "expected"),
    [
        ({"a": None, "b": "a", "c": "b", "side": "b"}, ["a", "b", "side"]),
        ({"a": None, "side": "b", "b": "a", "c": "b"}, ["a", "b", "c"]),
        ({"a": None, "b": "a", "c": "b", "d": "c", "side": "b"}, ["a", "b", "c", "d"]),
        ({"a": None, "b": "a", "c": "a"}, ["a", "c"]),
    ],
)
def test_the_chain_is_the_longest(against, expected):
    assert chain([{"name": name, "against": other} for name, other in against.items()]) == expected


def test_arms_against_one_baseline_are_no_ladder(tmp_path):
    html = html_of(Study(arms=[Arm("gptj"), Arm("one", 0.01), Arm("two", -0.01)]).write(tmp_path))
    assert "The ladder" not in html
    assert html.count('class="whisker"') >= 2
    assert 'class="path"' not in html


def test_what_is_not_there_is_said(tmp_path):
    study = Study(speed=False, missing=[("gpt_neox", 0), ("gpt_neox", 1), ("gpt_neox", 2)])
    folder = study.write(tmp_path)
    html = html_of(folder)
    assert "The arms were not timed side by side." in html
    assert "gpt_neox, seed 2: has not ended" in html
    assert "No comparison has been measured." in html
    for path in (folder.parent / "runs").rglob("metrics.jsonl"):
        path.unlink()
    html = html_of(folder)
    assert "No validation was measured" in html
    Outline(html)


def test_a_diverged_arm_is_called_out(tmp_path):
    study = Study(arms=LADDER[:3], documents=10, diverged=[("half_rotary", seed) for seed in (0, 1, 2)])
    html = html_of(study.write(tmp_path / "ladder"))
    Outline(html)
    assert '<div class="answer bad"><span class="mark" aria-hidden="true">!</span>' in html
    assert '<span class="pill bad">diverged</span>' in html
    assert "half_rotary has diverged from 3 of 3 seeds" in html
    assert "Does not hold: every planned run ended." in html
    html = html_of(Study(diverged=[("gpt_neox", 1)]).write(tmp_path / "two"))
    Outline(html)
    assert "<dt>gpt_neox against gptj</dt><dd>diverged<small>no verdict</small></dd>" in html
    assert "2 seeds that all agree give the sign test p = 0.500" in html
    assert 'class="pill good"' not in html[html.index('id="effects"') : html.index('id="arms"')]


def test_the_commands_of_single_runs_can_be_typed(tmp_path):
    folder = Study(name="it's $HOME").write(tmp_path)
    report = write_report(folder)
    plan = json.loads((folder / "plan.json").read_text())
    for arm in report["arms"]:
        first = next(run["name"] for run in plan["runs"] if run["arm"] == arm["name"])
        assert shlex.split(arm["command"]) == ["modelzoo", "train", str(folder / "configs" / f"{first}.yaml")]
        assert escape(arm["command"]) in (folder / "report.html").read_text(encoding="utf-8")


def test_how_the_arms_were_timed_is_said(tmp_path):
    folder = Study().write(tmp_path)
    for name, change in (
        ("speed.json", lambda found: found.update(quiet=False)),
        ("plan.json", lambda found: found["study"].update(speed={"overrides": ["accelerator.precision=bf16"]})),
    ):
        found = json.loads((folder / name).read_text())
        change(found)
        (folder / name).write_text(json.dumps(found))
    html = html_of(folder)
    assert "The arms were timed with accelerator.precision=bf16." in html
    assert "Other processes were busy in many of the rounds." in html
    arms = html[html.index('id="arms"') : html.index('id="curves"')]
    assert "8,818" not in arms  # that is of other precision than the runs
