"""Loggers beside each other, one that fails, and a profile."""

import json
import math
import sys
import time
from importlib.metadata import PackageNotFoundError
from types import ModuleType

import pytest

from modelzoo.launch import build_run
from modelzoo.trainer.callbacks.base import Callback
from modelzoo.trainer.callbacks.metrics import Metrics
from modelzoo.trainer.callbacks.progress import Progress, ProgressConfig
from tests.runs import launch, small_config
from tests.trainer.observing import records


class Failing(Callback):
    may_fail = True
    calls = 0

    def on_record(self, trainer, record):
        Failing.calls += 1
        raise ConnectionError("no network")

    def close(self):
        raise ConnectionError("no network")


def test_a_logger_that_fails_is_named_once_and_the_run_goes_on(dataset, tmp_path, capsys):
    bare = launch(small_config(dataset, tmp_path / "bare", "model.dropout=0.1", "trainer.max_steps=4"))
    bare.train()
    trainer = launch(small_config(dataset, tmp_path / "failing", "model.dropout=0.1", "trainer.max_steps=4"))
    trainer.callbacks = {"far_away": Failing(), **trainer.callbacks}
    assert trainer.train()
    said = capsys.readouterr().err
    assert said.count("far_away") == 1
    assert "callbacks.far_away failed, and is left out from here on: ConnectionError: no network" in said
    assert Failing.calls == 1
    assert [r["loss"] for r in records(trainer, "loss")] == [r["loss"] for r in records(bare, "loss")]

    broken = launch(small_config(dataset, tmp_path / "broken"))
    broken.callbacks["metrics"].on_record = Failing().on_record  # what must not fail
    with pytest.raises(ConnectionError):
        broken.train()


def test_metrics_are_strict_json(tmp_path):
    trainer = type("Trainer", (), {"run_dir": tmp_path})()
    Metrics().on_record(trainer, {"step": 1, "gradient_norm": math.inf, "loss": math.nan, "mfu": None, "text": "a"})
    line = (tmp_path / "metrics.jsonl").read_text()
    found = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found == {"step": 1, "gradient_norm": None, "loss": None, "mfu": None, "text": "a"}


def test_a_line_of_progress_fits_a_terminal(capsys):
    trainer = type("Trainer", (), {"step": 1_300_000, "total_steps": 1_493_333})()
    progress = Progress(ProgressConfig(every_seconds=0))
    progress.on_train_start(trainer)
    progress.started, progress.first_step = time.monotonic() - 1e6, 0
    record = {"step": 1_300_000, "loss": 2.34567, "lr": 5.809e-5, "tokens_per_second": 123_456.7, "mfu": 0.4567}
    progress.on_record(trainer, record)
    progress.on_record(trainer, {"step": 1_300_000, "seconds": 1.0})  # the closing record, which it passes over
    (line,) = capsys.readouterr().err.splitlines()
    assert "loss 2.3457, lr 5.8e-05, 123k tok/s, MFU 46%, 41h left" in line
    assert len(line) <= 80


WANDB = "+callbacks.wandb={kind: wandb, mode: offline}"


def test_wandb_writes_offline_and_goes_on_under_its_id(dataset, tmp_path, monkeypatch):
    """With TensorBoard beside it. The package itself is replaced: its service takes seconds to start."""
    log = _stand_in(monkeypatch)
    extra = ["schedule=constant", "+callbacks.tensorboard={kind: tensorboard}", WANDB]
    first = launch(small_config(dataset, tmp_path, *extra, "trainer.max_steps=4"))
    first.train()
    again = launch(small_config(dataset, tmp_path, *extra, "trainer.max_steps=6"))
    again.train()
    ids = [begun["id"] for begun in log["init"]]
    assert ids[0] == ids[1]
    assert all(begun["mode"] == "offline" and begun["dir"] == str(first.run_dir) for begun in log["init"])
    assert log["init"][1]["config"]["trainer"]["max_steps"] == 6
    steps = [step for step, numbers in log["log"] if "loss" in numbers]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert all(value is not None for _, numbers in log["log"] for value in numbers.values())
    assert log["finish"] == 2
    assert list((first.run_dir / "tensorboard").glob("events*"))


def _stand_in(monkeypatch):
    log = {"init": [], "log": [], "finish": 0}

    class Run:
        def log(self, numbers, step):
            log["log"].append((step, numbers))

        def finish(self):
            log["finish"] += 1

    module = ModuleType("wandb")
    module.Settings = dict
    module.init = lambda **options: log["init"].append(options) or Run()
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr("modelzoo.trainer.callbacks.wandb.version", lambda name: "0")
    return log


@pytest.mark.long
def test_wandb_itself_offline(dataset, tmp_path):
    pytest.importorskip("wandb")
    bare = launch(small_config(dataset, tmp_path / "bare", "model.dropout=0.1"))
    bare.train()
    trainer = launch(small_config(dataset, tmp_path / "logged", "model.dropout=0.1", WANDB))
    trainer.train()
    (written,) = trainer.run_dir.glob("wandb/offline-run-*/run-*.wandb")
    assert trainer.callbacks["wandb"].run_id in written.name
    deadline = time.monotonic() + 20  # its service writes on for a moment
    while b"batches_sha256" not in written.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert records(trainer, "loss")[-1]["batches_sha256"].encode() in written.read_bytes()
    assert [r["loss"] for r in records(trainer, "loss")] == [r["loss"] for r in records(bare, "loss")]


def test_wandb_that_is_not_installed_is_named_with_the_remedy(dataset, tmp_path, monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("modelzoo.trainer.callbacks.wandb.version", absent)
    with pytest.raises(ValueError, match="pip install"):
        build_run(small_config(dataset, tmp_path, WANDB))


def profile(start_step, num_steps):
    return f"+callbacks.profile={{kind: profile, start_step: {start_step}, num_steps: {num_steps}}}"


def test_a_profile_holds_the_steps_asked_for_and_changes_nothing(dataset, tmp_path, capsys):
    extra = ["model.dropout=0.1", "trainer.max_steps=6", "trainer.micro_batch_size=4", "~callbacks.evaluate"]
    bare = launch(small_config(dataset, tmp_path / "bare", *extra))
    bare.train()
    trainer = launch(small_config(dataset, tmp_path / "traced", *extra, profile(1, 3)))
    trainer.train()
    assert [r["loss"] for r in records(trainer, "loss")] == [r["loss"] for r in records(bare, "loss")]
    folder = trainer.run_dir / "profile"
    assert {path.name for path in folder.iterdir()} == {
        "steps_00000002-00000004.json",
        "steps_00000002-00000004.operators.txt",
    }
    events = json.loads((folder / "steps_00000002-00000004.json").read_text())["traceEvents"]
    labels = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert (labels.count("forward"), labels.count("backward")) == (3 * 2, 3 * (2 + 1))
    assert "aten::mm" in (folder / "steps_00000002-00000004.operators.txt").read_text()
    said = capsys.readouterr().err
    assert "no memory snapshot on cpu" in said
    assert "steps 2 to 4 are traced" in said


def test_a_profile_outside_the_run_is_refused_and_one_that_is_past_is_named(dataset, tmp_path, capsys):
    with pytest.raises(ValueError, match="exceed the run's 6 steps"):
        small_config(dataset, tmp_path, "trainer.max_steps=6", profile(4, 3))
    launch(small_config(dataset, tmp_path, "trainer.max_steps=4", "schedule=constant")).train()
    trainer = launch(small_config(dataset, tmp_path, "trainer.max_steps=6", "schedule=constant", profile(2, 3)))
    trainer.train()
    assert "step 4 is beyond start_step=2: nothing is traced" in capsys.readouterr().err
    assert not (trainer.run_dir / "profile").exists()
