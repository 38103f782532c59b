"""The callback that ends a run with its report."""

import json
import signal

import pytest

from modelzoo.cli.train import run as train
from modelzoo.config_errors import ConfigError
from modelzoo.data.schema import file_sha256
from modelzoo.launch import build_run
from modelzoo.run_config import load_run_config
from tests.runs import small_config, small_overrides

REPORT = "+callbacks.report={kind: report, new: [validation]}"


def test_a_run_ends_with_its_report(dataset, tmp_path):
    overrides = [*small_overrides(dataset, tmp_path), REPORT]
    train("gptj_tiny", overrides)
    folder = tmp_path / "gptj_tiny"
    report = json.loads((folder / "report.json").read_text())
    assert "<h1>May the new model replace the old?</h1>" in (folder / "report.html").read_text(encoding="utf-8")
    assert report["run"]["complete"]
    assert report["run"]["steps"] == 12
    assert [(d["name"], d["role"], len(d["curve"])) for d in report["domains"]] == [("validation", "new", 3)]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = [line["validation_bits_per_byte"] for line in lines if "validation_bits_per_byte" in line][-1]
    assert report["domains"][0]["after"] == pytest.approx(last, rel=1e-9)
    assert report["run"]["machine"]["device"] == "cpu"
    assert report["run"]["machine"]["ranks"] == 1
    assert load_run_config(str(folder / "config.yaml")).callbacks["report"].new == ("validation",)


def test_a_continued_run_says_what_was_before_and_after(dataset, tmp_path):
    extra = ["callbacks=continuation", "callbacks.evaluate.every_steps=5", "callbacks.evaluate.batch_size=1"]
    extra += ["callbacks.evaluate.max_batches=null"]
    extra += ["callbacks.progress.every_seconds=0", "callbacks.samples.max_new_tokens=4"]
    overrides = [o for o in small_overrides(dataset, tmp_path) if "callbacks." not in o]
    train("gptj_tiny", [*overrides, *extra])
    folder = tmp_path / "gptj_tiny"
    report = json.loads((folder / "report.json").read_text())
    (domain,) = report["domains"]
    assert [point["step"] for point in domain["curve"]] == [0, 5, 10, 12]
    assert domain["interval"][0] < domain["change"] < domain["interval"][1] < 0
    assert domain["verdict"] == "better"
    assert {sample["step"] for sample in map(json.loads, (folder / "samples.jsonl").read_text().splitlines())} == {
        0,
        12,
    }
    evaluations = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    assert [line["step"] for line in evaluations] == [0, 5, 10, 12]
    text = {(line["dataset"], line["split"]) for line in evaluations}
    assert text == {(file_sha256(dataset / "manifest.json"), "validation")}
    assert len(evaluations[0]["loss_sums"]) == len(evaluations[0]["num_tokens"]) >= 10


def test_what_the_report_needs_is_asked_for_at_check_time(dataset, tmp_path):
    for overrides, message in (
        ([REPORT.replace("validation", "newx")], "there is no validation set newx; there are: validation"),
        ([REPORT, "~callbacks.evaluate"], "needs a callback of the kind evaluate"),
    ):
        with pytest.raises(ConfigError, match=message):
            small_config(dataset, tmp_path, *overrides)


def test_a_run_that_was_stopped_has_none_yet(dataset, tmp_path):
    trainer = build_run(small_config(dataset, tmp_path, REPORT))
    publish = trainer.publish

    def stop(**numbers):
        publish(**numbers)
        signal.raise_signal(signal.SIGTERM)

    trainer.publish = stop
    trainer.run_dir.mkdir(parents=True)
    assert not trainer.train()
    assert (trainer.run_dir / "machine.json").is_file()
    assert not (trainer.run_dir / "report.html").exists()


def test_the_report_changes_nothing_of_the_run(dataset, tmp_path):
    with_report = small_config(dataset, tmp_path / "with", REPORT)
    without = small_config(dataset, tmp_path / "without")
    losses = []
    for config in (with_report, without):
        trainer = build_run(config)
        trainer.run_dir.mkdir(parents=True)
        trainer.train()
        lines = [json.loads(line) for line in (trainer.run_dir / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12
