"""A run that no longer gets better ends, and says how to go on."""

import math

from modelzoo.cli.train import run as train
from modelzoo.trainer.callbacks.metrics import read_metrics
from modelzoo.trainer.checkpoint import latest_checkpoint
from tests.runs import small_overrides

STOP = "+callbacks.early_stop={kind: early_stop, patience: 2, min_delta: 100}"


def test_a_run_that_learns_nothing_more_ends_and_says_how_to_go_on(dataset, tmp_path, capsys):
    """The first evaluation, at 2, is the best; those at 4 and 6 are not better by 100."""
    overrides = [*small_overrides(dataset, tmp_path), "callbacks.evaluate.every_steps=2", STOP]
    overrides += ["+callbacks.at_end={kind: evaluate, weights: ema}", "+callbacks.ema={kind: ema}"]
    numbers = train("gptj_tiny", overrides)
    assert numbers["step"] == 6
    said = capsys.readouterr().err
    assert "ended early, after step 6 of 12: validation_loss has not fallen by" in said
    assert "(of step 2) in 2 evaluations; to go on, use callbacks.early_stop.patience=4, or ~callbacks" in said
    run_dir = tmp_path / "gptj_tiny"
    assert latest_checkpoint(run_dir)[0].name == "step_00000006"
    records = read_metrics(run_dir / "metrics.jsonl")
    assert [r["step"] for r in records if "validation_loss" in r] == [2, 4, 6]
    assert [r["step"] for r in records if "validation_ema_loss" in r] == [6]  # the end, which this has become

    assert train("gptj_tiny", overrides)["step"] == 6
    said = capsys.readouterr().err
    assert "already complete" in said
    assert "callbacks.early_stop.patience=4" in said
    assert read_metrics(run_dir / "metrics.jsonl") == records
    assert train("gptj_tiny", [*overrides, "callbacks.early_stop.patience=4"])["step"] == 10
    assert train("gptj_tiny", [*overrides, "~callbacks.early_stop"])["step"] == 12
    assert "ended early" not in capsys.readouterr().err.splitlines()[-2]


def test_a_better_value_starts_the_count_anew_and_one_that_is_no_number_does_not():
    from modelzoo.trainer.callbacks.early_stop import EarlyStopConfig

    class Trainer:
        step, callbacks = 0, {}

    def feed(values, **options):
        callback = EarlyStopConfig(patience=2, **options).build()
        Trainer.callbacks = {"it": callback}
        for step, value in enumerate(values):
            Trainer.step = step
            callback.on_record(Trainer, {"validation_loss": value})
            callback.on_record(Trainer, {"loss": 0.0})
            if callback.ends_run(Trainer):
                return step
        return None

    assert feed([3.0, 2.0, 2.5, 1.9, 2.0, 1.95]) == 5
    assert feed([3.0, 2.0, 2.5, 1.9, 2.0, 1.8]) is None
    assert feed([3.0, 2.95, 2.95], min_delta=0.1) == 2
    assert feed([math.nan, math.nan]) == 1
    assert feed([math.nan, 3.0, 4.0]) is None
