"""The numbers of a study's report, by hand from its files; what is missing, unfair or broken is said."""

import json
import math
import shutil

import numpy as np
import pytest

from modelzoo.base_config import UserError
from modelzoo.compare.results import collect, write_report
from modelzoo.compare.run_results import held_out_problem
from modelzoo.compare.summary import WIDTH, summary
from tests.compare.runs import LADDER, TOKENS_PER_STEP, TWO, Arm, Study


def check(report, start):
    (found,) = [entry for entry in report["fairness"] if entry["check"].startswith(start)]
    return found


def runs_of(folder, arm):
    return sorted((folder.parent / "runs").glob(f"{arm}-seed_?-*"))


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_the_arithmetic_of_an_effect_from_the_files(tmp_path):
    folder = Study().write(tmp_path)
    report = collect(folder)
    (effect,) = report["effects"]
    by_hand = {}
    for arm in ("gptj", "gpt_neox"):
        sets = [json.loads((run / "held_out.json").read_text())["sets"][""] for run in runs_of(folder, arm)]
        by_hand[arm] = [sum(found["loss_sums"]) / math.log(2) / sum(found["num_bytes"]) for found in sets]
    before, after = (sum(values) / 3 for values in by_hand.values())
    assert (effect["arm"], effect["against"], effect["domain"], effect["seeds"]) == (
        "gpt_neox",
        "gptj",
        "text",
        [0, 1, 2],
    )
    assert (effect["before"], effect["after"]) == pytest.approx((before, after), rel=1e-12)
    assert effect["difference"] == pytest.approx(after - before, rel=1e-9)
    assert effect["relative"] == pytest.approx(after / before - 1, rel=1e-9)
    differences = [(b - a) / before for a, b in zip(*by_hand.values(), strict=True)]
    assert effect["by_seed"] == pytest.approx(differences, rel=1e-9)
    half = 4.302652729696142 * np.std(differences, ddof=1) / math.sqrt(3)
    assert effect["interval_seeds"] == pytest.approx((effect["relative"] - half, effect["relative"] + half))
    low, high = effect["interval"]
    for end, side in ((low, 0), (high, 1)):
        parts = (effect["interval_seeds"][side], effect["interval_text"][side])
        assert abs(end - effect["relative"]) == pytest.approx(math.hypot(*(p - effect["relative"] for p in parts)))
    assert report["arms"][1]["bits_per_byte"] == {"text": pytest.approx(after)}
    assert report["arms"][1]["from_baseline"] == pytest.approx(after / before - 1)
    assert report["answer"]["headline"].startswith("gpt_neox is better than gptj: 2.")
    assert "(95 % interval −2." in report["answer"]["sentences"][0]
    assert len(report["answer"]["sentences"]) == 3
    assert all(entry["held"] for entry in report["fairness"])
    assert report["missing"] == []


def test_a_ladder_is_compared_step_by_step_and_the_mean_of_domains_decides(tmp_path):
    report = collect(Study(arms=LADDER, domains=("code", "prose"), documents=12).write(tmp_path))
    assert report["comparisons"] == 8
    assert report["primary"] == "all"
    primary = [effect for effect in report["effects"] if effect["domain"] == "all"]
    assert [(effect["arm"], effect["against"]) for effect in primary] == [(arm.name, arm.against) for arm in LADDER[1:]]
    effects = {(effect["arm"], effect["domain"]): effect for effect in report["effects"]}
    for when in ("before", "after"):
        of_domains = [effects["small_init", domain][when] for domain in ("code", "prose")]
        assert effects["small_init", "all"][when] == pytest.approx(sum(of_domains) / 2)
    narrow = collect(Study(name="two").write(tmp_path / "two"))["effects"][0]
    wide = [effect["interval_seeds"] for effect in primary][5]
    spread = np.std(effects["small_init", "all"]["by_seed"], ddof=1) / math.sqrt(3)
    assert (wide[1] - wide[0]) / 2 / spread == pytest.approx(12.5897, abs=1e-3)  # t of 2 degrees at 1 - 0.05 / 8
    assert narrow["interval_seeds"][0] < narrow["relative"]
    assert len(report["answer"]["sentences"]) == 3
    assert "for all 8 comparisons together" in report["answer"]["sentences"][0]


def test_what_is_equal_and_what_one_seed_cannot_tell(tmp_path):
    folder = Study(arms=[Arm("gptj"), Arm("again")]).write(tmp_path / "equal")
    for own, other in zip(runs_of(folder, "gptj"), runs_of(folder, "again"), strict=True):
        shutil.copy(own / "held_out.json", other / "held_out.json")
    report = collect(folder)
    assert report["effects"][0]["verdict"] == "equal"
    assert report["answer"]["headline"] == "again and gptj are equal, bit by bit."
    report = collect(Study(seeds=(0,)).write(tmp_path / "one"))
    assert report["effects"][0]["verdict"] == "one seed"
    assert report["effects"][0]["interval"] is None
    assert report["answer"]["headline"].startswith("It cannot be said: one seed")
    report = collect(Study(arms=[Arm("gptj"), Arm("other", 0.0001)]).write(tmp_path / "none"))
    assert report["answer"]["headline"] == "No difference shown between other and gptj."
    assert report["answer"]["sentences"][0].endswith("which may be chance.")


def test_where_losses_part_and_that_equal_configs_must_not(tmp_path):
    folder = Study(arms=[Arm("gptj"), Arm("again")]).write(tmp_path)
    found = collect(folder)
    assert found["effects"][0]["parting"] == [None] * len(found["seeds"])
    assert check(found, "again and gptj, which differ in nothing")["held"] is True

    def later(text):
        lines = [json.loads(line) for line in text.splitlines()]
        changed = [line | {"loss": 3.0 + 1e-9} if "loss" in line and line["step"] >= 40 else line for line in lines]
        return "".join(json.dumps(line) + "\n" for line in changed)

    path = runs_of(folder, "again")[1] / "metrics.jsonl"
    path.write_text(later(path.read_text()))
    found = collect(folder)
    steps = [pair and pair["step"] for pair in found["effects"][0]["parting"]]
    assert [step is None for step in steps] == [number != 1 for number in range(len(steps))]
    assert max(filter(None, steps)) == 40
    broken = check(found, "again and gptj, which differ in nothing")
    assert broken["held"] is False
    assert "3.0 and 3.000000001 at step 40" in broken["detail"]


def test_the_report_is_made_of_what_is_there(tmp_path):
    folder = Study(missing=[("gpt_neox", 1)]).write(tmp_path)
    shutil.rmtree(runs_of(folder, "gptj")[2])
    report = write_report(folder)
    assert report["effects"][0]["seeds"] == [0]
    assert report["effects"][0]["verdict"] == "one seed"
    assert [arm["missing_seeds"] for arm in report["arms"]] == [[2], [1]]
    assert len(report["missing"]) == 2
    assert report["missing"][0].startswith("gptj, seed 2: has not begun")
    assert report["missing"][1].startswith("gpt_neox, seed 1: has not ended")
    shutil.rmtree(folder.parent / "runs")
    report = write_report(folder)
    assert report["effects"] == []
    assert report["answer"]["headline"].startswith("Nothing can be said yet")
    assert len(report["missing"]) == 6
    assert "has not begun" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_run_that_diverged_or_ended_elsewhere_is_not_compared(tmp_path):
    folder = Study().write(tmp_path)
    first, second = runs_of(folder, "gpt_neox")[:2]
    edit(first / "held_out.json", lambda found: found["sets"][""]["loss_sums"].__setitem__(3, None))
    edit(second / "held_out.json", lambda found: found.update(step=240))
    report = collect(folder)
    assert report["effects"][0]["seeds"] == [2]
    assert "seed 0: has diverged" in report["missing"][0]
    assert "seed 1: was measured at step 240 of 480" in report["missing"][1]


FOUR = {"seeds": (0, 1, 2, 3), "arms": [TWO[0], Arm("gpt_neox", -0.05, overrides=["model=gpt_neox"])]}


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


def test_other_batches_are_found(tmp_path):
    folder = Study().write(tmp_path)
    assert check(collect(folder), "same batches")["detail"] == "one chain for each seed up to step 480, in 6 runs"
    path = runs_of(folder, "gpt_neox")[1] / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[-2]["batches_sha256"] = "0" * 64
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = collect(folder)
    assert check(report, "same batches") == {
        "check": "same batches, by their hashes", "held": False,
        "detail": "seed 1: gpt_neox had read other batches than gptj by step 480",
    }  # fmt: skip
    assert (
        "1 of 13 checks of fairness does not hold (same batches, by their hashes)" in report["answer"]["sentences"][1]
    )
    assert "Does not hold: same batches" in (write_report(folder) and (folder / "report.html").read_text())


def test_data_of_two_tokenizers_has_no_chain_in_common(tmp_path):
    arms = [Arm("gpt2_bpe"), Arm("neox_bpe", -0.01, bytes_per_token=3.8)]
    report = collect(Study(arms=arms).write(tmp_path))
    assert check(report, "same batches")["held"] is None
    assert check(report, "measured on the same")["held"]
    assert report["effects"][0]["verdict"] in ("better", "no difference shown")
    ratio = report["arms"][1]["tokens_per_byte"]["text"] / report["arms"][0]["tokens_per_byte"]["text"]
    assert ratio == pytest.approx(3.42 / 3.8, rel=0.01)


def test_tokens_that_were_not_seen_are_found(tmp_path):
    folder = Study().write(tmp_path)
    edit(folder / "plan.json", lambda plan: plan["arms"][1].update(tokens=TOKENS_PER_STEP))
    found = check(collect(folder), "tokens seen")
    assert not found["held"]
    assert found["detail"].startswith("gpt_neox, seed 0: 983,040 of 2,048")


def test_other_documents_are_not_compared(tmp_path):
    folder = Study().write(tmp_path)
    for run in runs_of(folder, "gpt_neox"):
        edit(run / "held_out.json", lambda found: found["sets"][""].update(documents_sha256="other"))
    report = collect(folder)
    assert not check(report, "measured on the same")["held"]
    assert report["effects"] == []
    assert report["missing"] == [
        "gpt_neox is not compared with gptj: they have no seed in common with losses of the same held-out documents."
    ]


def test_speeds_of_two_machines_are_not_compared(tmp_path):
    folder = Study(machines={"gpt_neox": {"precision": "bf16"}}, speed=False).write(tmp_path)
    report = collect(folder)
    assert check(report, "same machine") == {
        "check": "same machine, precision and torch", "held": False, "detail": "precision: fp32, bf16",
    }  # fmt: skip
    assert [arm["tokens_per_second"] for arm in report["arms"]] == [None, None]
    assert {p["seconds"] for p in report["curves"]["gptj"]["text"]} == {None}
    assert "speeds and seconds are not compared" in report["missing"][0]
    (runs_of(folder, "gptj")[0] / "machine.json").unlink()
    assert check(collect(folder), "same machine")["held"] is None


def test_speed_is_compared_round_by_round(tmp_path):
    folder = Study().write(tmp_path)
    report = collect(folder)
    timed = json.loads((folder / "speed.json").read_text())["training"]
    ratios = sorted(
        a / b for a, b in zip(timed["gptj"]["step_seconds"], timed["gpt_neox"]["step_seconds"], strict=True)
    )
    found = report["speed"]["gpt_neox"]["training"]
    assert found["ratio"] == pytest.approx(np.median(ratios))
    assert found["interval"] == pytest.approx((ratios[5], ratios[14]))  # 20 coins: 5 to 15 is rarer than 0.05
    assert found["verdict"] == "slower"
    assert report["speed"]["gptj"]["training"]["ratio"] is None
    assert report["arms"][0]["tokens_per_second"] == pytest.approx(9_400, rel=0.02)
    assert report["arms"][0]["seconds"] == pytest.approx(480 * TOKENS_PER_STEP / 9_400, rel=0.02)


def test_curves_and_learning_rates(tmp_path):
    report = collect(Study(lr_grid=[1e-3, 3e-3], domains=("code", "prose")).write(tmp_path))
    points = report["curves"]["gpt_neox"]["all"]
    assert points[-1]["tokens"] == 480 * TOKENS_PER_STEP
    assert points[-1]["bytes"] == pytest.approx(480 * TOKENS_PER_STEP * 3.42)
    assert points[-1]["flops"] == 480 * TOKENS_PER_STEP * report["arms"][1]["flops_per_token"]
    assert points[-1]["low"] < points[-1]["mean"] < points[-1]["high"]
    domains = [report["curves"]["gpt_neox"][domain][-1]["mean"] for domain in ("code", "prose")]
    assert points[-1]["mean"] == pytest.approx(sum(domains) / 2)
    sweep = report["sweep"]["gptj"]
    assert [rate for rate, _ in sweep["points"]] == [1e-3, 3e-3]
    assert sweep["points"][1][1] < sweep["points"][0][1]
    assert (sweep["chosen"], sweep["at_edge"]) == (3e-3, True)


def test_tasks_are_compared_in_pairs(tmp_path):
    folder = Study(arms=TWO).write(tmp_path)
    for arm, shift in (("gptj", 0.0), ("gpt_neox", 0.02)):
        for number, run in enumerate(runs_of(folder, arm)):
            value = 0.3 + 0.1 * number + shift + (0.001 * number if shift else 0)
            results = {"lambada": {"acc,none": value, "acc_stderr,none": 0.1, "alias": "lambada"}}
            (run / "tasks.json").write_text(json.dumps({"schema": 1, "settings": {}, "results": results}))
    found = write_report(folder)
    (task,) = found["tasks"]
    assert (task["task"], task["metric"]) == ("lambada", "acc")
    assert task["arms"]["gptj"]["mean"] == pytest.approx(0.4)
    apart = task["differences"]["gpt_neox"]
    assert apart["difference"] == pytest.approx(0.021)
    half = 4.302652729911275 * 0.001 / math.sqrt(3)  # Student's t of two degrees of freedom
    assert apart["interval"] == pytest.approx([0.021 - half, 0.021 + half])
    assert "lambada, acc" in (folder / "report.html").read_text()


def test_few_documents_give_no_interval(tmp_path):
    report = collect(Study(documents=9).write(tmp_path))
    assert report["effects"][0]["interval"] is None
    assert "9 held-out documents are fewer than 10" in report["missing"][0]


def test_a_folder_without_a_study_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"holds no plan\.json"):
        write_report(tmp_path)
    folder = Study().write(tmp_path)
    held_out = runs_of(folder, "gptj")[0] / "held_out.json"
    held_out.write_text('{"schema": 1,')
    with pytest.raises(UserError, match=r"held_out\.json: cannot be read"):
        write_report(folder)


@pytest.mark.parametrize("study", [Study(), Study(arms=LADDER, documents=10), Study(arms=TWO, missing=[("gptj", 0)])])
def test_the_terminal_has_lines_of_80(tmp_path, study):
    lines = summary(collect(study.write(tmp_path)))
    assert max(map(len, lines)) <= WIDTH
    assert "difference" in " ".join(lines) or "better" in lines[0]


def test_the_report_is_json_and_comes_out_the_same(tmp_path):
    folder = Study(lr_grid=[1e-3, 3e-3]).write(tmp_path)
    report = write_report(folder)
    text = (folder / "report.json").read_text()
    assert json.loads(text) == json.loads(json.dumps(report))
    write_report(folder)
    assert (folder / "report.json").read_text() == text


def test_a_curve_has_a_point_where_every_seed_has_one(tmp_path):
    folder = Study().write(tmp_path)
    path = runs_of(folder, "gptj")[1] / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [line for line in lines if not (line["step"] == 40 and "validation_bits_per_byte" in line)]
    path.write_text("".join(json.dumps(line) + "\n" for line in kept))
    curves = collect(folder)["curves"]
    assert 40 * TOKENS_PER_STEP in [point["tokens"] for point in curves["gpt_neox"]["text"]]
    assert 40 * TOKENS_PER_STEP not in [point["tokens"] for point in curves["gptj"]["text"]]
