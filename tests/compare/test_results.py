"""The numbers of a study's report, by hand from its files; what is missing is said."""

import json
import math
import shutil

import numpy as np
import pytest

from modelzoo.compare.results import collect, write_report
from modelzoo.compare.summary import WIDTH, summary
from tests.compare.runs import LADDER, TOKENS_PER_STEP, TWO, Arm, Study, check, runs_of


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
