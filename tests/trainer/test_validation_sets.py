"""Several validation sets: numbers of each, taken when they are due, also around a stop."""

import json
import signal

import pytest

from modelzoo.base_config import UserError
from modelzoo.cli.evaluate import run as evaluate
from modelzoo.cli.train import run as train
from modelzoo.config_errors import ConfigError
from modelzoo.trainer.callbacks.metrics import read_metrics
from tests.runs import small_config, small_overrides
from tests.trainer.observing import StopAt, add_first, finished, recorded


def names(*sets, weights=""):
    metrics = ("loss", "perplexity", "bits_per_byte")
    return {f"validation_{weights}{metric}/{of_set}" for of_set in sets for metric in metrics}


def test_each_set_has_numbers_of_its_own(dataset, tmp_path, two_sets):
    config = small_config(dataset, tmp_path, *two_sets, "callbacks.evaluate.at_start=true")
    trainer = recorded(config)
    at_first = {name: trainer.evaluate(name, 16).metrics()["loss"] for name in ("a", "b")}
    assert at_first["a"] != at_first["b"]
    assert trainer.train()
    records = [record for record in trainer.callbacks["recorder"].records if "validation_loss/a" in record]
    assert [record["step"] for record in records] == [0, 5, 10, 12]
    assert {name: records[0][f"validation_loss/{name}"] for name in at_first} == at_first
    for record in records:
        assert set(record) == {"step", "tokens"} | names("a", "b")
    for name in ("a", "b"):
        numbers = evaluate(trainer.run_dir, of_set=name, device="cpu")
        assert numbers["loss"] == pytest.approx(trainer.evaluate(name, 16).metrics()["loss"], rel=1e-6)
        assert numbers["loss"] == pytest.approx(records[-1][f"validation_loss/{name}"], rel=1e-6)
    with pytest.raises(UserError, match=r"has the validation sets a, b; name one of them: --set NAME"):
        evaluate(trainer.run_dir, device="cpu")
    with pytest.raises(UserError, match=r"--set c: the run in .* has the validation sets a, b"):
        evaluate(trainer.run_dir, of_set="c", device="cpu")


def test_two_evaluations_are_each_taken_again_where_a_stop_cut_them_short(dataset, tmp_path, two_sets):
    """At 6 one is due, at 10 the other, at 12 both; and each at its own steps once, as in a run without a stop."""
    other = "+callbacks.other={kind: evaluate, sets: [b], every_steps: 3}"
    samples = '+callbacks.samples={kind: samples, prompts: ["the "], every_steps: 6, max_new_tokens: 4}'
    config = small_config(dataset, tmp_path, *two_sets, "callbacks.evaluate.sets=[a]", other, samples)
    for stop, due in ((6, (False, True)), (10, (True, False)), (12, (True, True))):
        trainer = recorded(config)
        add_first(trainer, StopAt(stop, signal.SIGTERM))
        assert not trainer.train()
        assert (trainer.callbacks["evaluate"].due, trainer.callbacks["other"].due) == due
        assert trainer.evaluation_due
    assert recorded(config).train()
    records = read_metrics(tmp_path / "gptj_tiny" / "metrics.jsonl")
    assert [r["step"] for r in records if "validation_loss/a" in r] == [5, 10, 12]
    assert [r["step"] for r in records if "validation_loss/b" in r] == [3, 6, 9, 12]
    assert [r["step"] for r in records if "loss" in r] == list(range(1, 13))
    lines = (tmp_path / "gptj_tiny" / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [6, 12]


@pytest.mark.parametrize("at_start", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_stop_in_the_middle_of_a_set_takes_the_whole_evaluation_again(dataset, tmp_path, two_sets, at_start):
    step = 0 if at_start else 5
    config = small_config(dataset, tmp_path, *two_sets, f"callbacks.evaluate.at_start={at_start}".lower())
    trainer = recorded(config)
    batches = trainer.validation["b"].evaluation_batches

    def stopping(*arguments):
        for batch in batches(*arguments):
            if trainer.step == step:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    trainer.validation["b"].evaluation_batches = stopping
    assert not trainer.train()
    assert trainer.step == step
    assert not trainer.callbacks["recorder"].series("validation_loss/a")
    again = recorded(config)
    assert again.step == step
    assert again.train()
    records = read_metrics(again.run_dir / "metrics.jsonl")
    steps = [r["step"] for r in records if "validation_loss/a" in r]
    assert steps == [*([0] if at_start else []), 5, 10, 12]
    whole = finished(small_config(dataset, tmp_path, *two_sets, "name=whole"))
    assert [r["loss"] for r in records if "loss" in r] == [v for _, v in whole.callbacks["recorder"].series("loss")]


def test_loggers_tell_the_sets_apart(dataset, tmp_path, two_sets, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    more = ["+callbacks.tensorboard={kind: tensorboard}", "+callbacks.loss_plot={kind: loss_plot}"]
    more += ['+callbacks.samples={kind: samples, prompts: ["the "], max_new_tokens: 8}']
    numbers = train("gptj_tiny", [*small_overrides(dataset, tmp_path), *two_sets, *more])
    shown = capsys.readouterr().err
    for name in ("a", "b"):
        loss = numbers[f"validation_loss/{name}"]
        assert f"step 12: validation loss of {name} {loss:.4f}" in shown
        assert f", validation loss of {name} {loss:.4f}" in shown.splitlines()[-2]
    assert "step 12: the ▸" in shown
    run_dir = tmp_path / "gptj_tiny"
    events = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    assert {"validation/loss/a", "validation/bits_per_byte/b", "train/loss"} <= set(events.Tags()["scalars"])
    assert "samples/0/text_summary" in events.Tags()["tensors"]
    assert (run_dir / "loss.png").stat().st_size > 1000


def test_sets_of_a_single_one_without_a_name_are_refused(dataset, tmp_path):
    with pytest.raises(ConfigError, match="it is one dataset, without a name; leave sets out"):
        small_config(dataset, tmp_path, "+callbacks.evaluate.sets=[a]")
