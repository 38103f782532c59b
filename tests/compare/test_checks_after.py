"""What the runs themselves must have had in common: batches, tokens, held-out documents and the machine."""

import json

import pytest

from modelzoo.compare.results import collect, write_report
from tests.compare.runs import TOKENS_PER_STEP, Arm, Study, check, edit, runs_of


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
