"""The callback that ends a run with its report."""

import json
import signal

from modelzoo.cli.train import run as train
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
    last = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][-1]
    assert report["domains"][0]["after"] == last["validation_bits_per_byte"]
    assert report["run"]["machine"]["device"] == "cpu"
    assert report["run"]["machine"]["ranks"] == 1
    assert load_run_config(str(folder / "config.yaml")).callbacks["report"].new == ("validation",)


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
