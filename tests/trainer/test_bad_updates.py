"""Bad updates: none reaches the weights, and what was left out can be left out again, bit for bit."""

import json
import math
import signal

import pytest
import torch

from modelzoo.base_config import UserError
from modelzoo.config_errors import ConfigError
from modelzoo.launch import build_run
from modelzoo.trainer.accelerator import Accelerator
from modelzoo.trainer.bad_updates import BadUpdateError, TrainingError, UpdateGuard, first_difference, merged
from modelzoo.trainer.callbacks.base import Callback
from modelzoo.trainer.callbacks.metrics import read_metrics
from modelzoo.trainer.checkpoint import checkpoints_of
from modelzoo.trainer.config import BadUpdatesConfig, SpikesConfig
from modelzoo.trainer.loss_scale import GROWTH_STEPS, LossScale
from modelzoo.trainer.run_state import optimizer_tensors
from tests.runs import launch, small_config
from tests.trainer.faults import plant
from tests.trainer.observing import StopAt, add_first, losses, weights

DROPOUT = ["model.dropout=0.2", "trainer.micro_batch_size=4"]


def events(trainer):
    return [record for record in read_metrics(trainer.run_dir / "metrics.jsonl") if "event" in record]


def chain(trainer):
    return [r["batches_sha256"] for r in read_metrics(trainer.run_dir / "metrics.jsonl") if "batches_sha256" in r]


def assert_same_run(one, other):
    assert losses(one) == losses(other)
    theirs = dict(optimizer_tensors(other.optimizer)) | weights(other)
    for name, value in (dict(optimizer_tensors(one.optimizer)) | weights(one)).items():
        assert torch.equal(value, theirs[name]), name


def trained(dataset, folder, *overrides, bad=(), **planted):
    trainer = launch(small_config(dataset, folder, *DROPOUT, *overrides))
    plant(trainer, bad, **planted)
    assert trainer.train()
    return trainer


# ---------------------------------------------------------------- policies


def test_skipped_batches_can_be_skipped_again_bit_for_bit(dataset, tmp_path):
    skip = "trainer.bad_updates.policy=skip"
    bad = trained(dataset, tmp_path / "bad", skip, bad=(0, 3, 4, 9))
    assert [record["skipped_batches"] for record in events(bad)] == [[0, 0], [3, 3], [4, 4], [9, 9]]
    assert [(record["step"], record["bad_step"], record["event"]) for record in events(bad)] == [
        (1, 1, "skip"), (3, 3, "skip"), (3, 3, "skip"), (7, 7, "skip"),
    ]  # fmt: skip
    assert events(bad)[0]["reason"] == "loss nan, gradient norm nan"
    assert len(losses(bad)) == 12
    told = trained(dataset, tmp_path / "told", "trainer.skip_batches=[[9,9],[3,4],[0,0]]")
    assert not events(told)
    assert_same_run(bad, told)

    config = small_config(dataset, tmp_path / "parts", *DROPOUT, skip)
    for stop in (2, 3, 7):  # before, amid and after what is left out
        trainer = launch(config)
        plant(trainer, (0, 3, 4, 9))
        add_first(trainer, StopAt(stop))
        assert not trainer.train()
    last = launch(config)
    plant(last, (0, 3, 4, 9))
    assert last.train()
    assert_same_run(last, told)
    assert events(last) == events(bad)


@pytest.mark.parametrize(
    ("rollback_batches", "bad", "skipped"),
    [(200, (7, 11), [[4, 7], [8, 11]]), (2, (7, 11), [[6, 7], [10, 11]]), (1, (4, 8), [[4, 4], [8, 8]])],
)
def test_a_rollback_takes_the_steps_since_the_checkpoint_again(dataset, tmp_path, rollback_batches, bad, skipped):
    policy = ["trainer.bad_updates.policy=rollback", f"trainer.bad_updates.rollback_batches={rollback_batches}"]
    policy += ["+callbacks.tensorboard={kind: tensorboard}", "trainer.max_steps=14"]
    policy += ["+callbacks.ema={kind: ema, decay: 0.5}"]
    run = trained(dataset, tmp_path / "bad", *policy, bad=bad, in_gradient=True, factor=math.inf)
    assert [record["skipped_batches"] for record in events(run)] == skipped
    assert {record["event"] for record in events(run)} == {"rollback"}
    told = trained(dataset, tmp_path / "told", f"trainer.skip_batches={skipped}".replace(" ", ""), *policy)
    assert_same_run(run, told)
    averages = told.callbacks["ema"].tensors()
    assert all(torch.equal(value, averages[name]) for name, value in run.callbacks["ema"].tensors().items())
    steps = [r["step"] for r in read_metrics(run.run_dir / "metrics.jsonl") if "loss" in r]
    assert steps == list(range(1, 15))
    assert [r for r in read_metrics(run.run_dir / "metrics.jsonl") if "validation_loss" in r] == [
        r for r in read_metrics(told.run_dir / "metrics.jsonl") if "validation_loss" in r
    ]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    written = EventAccumulator(str(run.run_dir / "tensorboard")).Reload().Scalars("train/loss")
    assert [point.value for point in written] == pytest.approx(losses(run), rel=1e-6)


@pytest.mark.parametrize(("policy", "bad"), [("skip", (0, 3, 4, 9)), ("rollback", (7, 11))])
def test_batches_that_are_read_ahead_are_those_of_the_run(dataset, tmp_path, monkeypatch, policy, bad):
    """As for a device that works through a queue, which has the batch's forward and backward pass before it."""
    policies = [f"trainer.bad_updates.policy={policy}"]
    policies += ["trainer.bad_updates.rollback_batches=2"] if policy == "rollback" else []  # the next is another one
    plain = trained(dataset, tmp_path / "plain", *policies, bad=bad)
    monkeypatch.setattr(Accelerator, "runs_beside", True)
    monkeypatch.setattr(Accelerator, "mark", lambda self: None)
    monkeypatch.setattr(Accelerator, "synchronize", lambda self: None)
    ahead = trained(dataset, tmp_path / "ahead", *policies, bad=bad)
    assert_same_run(ahead, plain)
    assert chain(ahead) == chain(plain)
    last = ahead.guard.batch_number(ahead.total_steps)
    assert policy == "rollback" or ahead.data.numbers == list(range(last))  # each once

    order = list[str]()
    trainer = launch(small_config(dataset, tmp_path / "order", "trainer.max_steps=9", "schedule=constant"))
    read, waited = trainer.data.batch, trainer.parallel.sum_over_data
    trainer.data.batch = lambda number: order.append(f"read {number}") or read(number)
    trainer.parallel.sum_over_data = lambda sums: order.append("wait") or waited(sums)
    trainer.callbacks = {}
    assert trainer.train()
    assert order[:5] == ["read 0", "read 1", "wait", "read 2", "wait"]
    assert order[-3:] == ["read 8", "wait", "wait"]


def test_a_rollback_that_is_cut_short_is_made_again(dataset, tmp_path):
    policy = ["trainer.bad_updates.policy=rollback", "trainer.bad_updates.rollback_batches=2"]
    whole = trained(dataset, tmp_path / "whole", *policy, bad=(7,))
    config = small_config(dataset, tmp_path / "parts", *DROPOUT, *policy)
    for stop in (5, 6, 7):  # after the rollback, the last but one before what it left out
        trainer = launch(config)
        data = plant(trainer, (7,))
        after_it = StopAt(stop)
        after_it.on_step_end = lambda t, data=data, stop=stop: (
            StopAt(stop).on_step_end(t) if t.guard.skipped and t.step == stop else None
        )
        add_first(trainer, after_it)
        assert not trainer.train()
    last = launch(config)
    plant(last, (7,))
    assert last.train()
    assert_same_run(last, whole)
    assert events(last) == events(whole)


def test_a_stop_right_after_a_batch_was_left_out_keeps_its_record(dataset, tmp_path):
    class StopOnBad(Callback):
        def on_bad_update(self, trainer, record):
            signal.raise_signal(signal.SIGTERM)

    config = small_config(dataset, tmp_path, *DROPOUT, "trainer.bad_updates.policy=skip")
    trainer = launch(config)
    plant(trainer, (6,))
    trainer.callbacks["stop"] = StopOnBad()
    assert not trainer.train()
    again = launch(config)
    assert again.guard.found == ((6, 6),)
    assert again.train()
    assert [record["skipped_batches"] for record in events(again)] == [[6, 6]]


def test_without_a_checkpoint_a_rollback_passes_the_batch_over(dataset, tmp_path):
    run = trained(dataset, tmp_path / "bad", "trainer.bad_updates.policy=rollback", bad=(2,))
    assert [(record["event"], record["skipped_batches"]) for record in events(run)] == [("skip", [2, 2])]
    assert_same_run(run, trained(dataset, tmp_path / "told", "trainer.skip_batches=[[2,2]]"))


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_after_too_many_the_run_stops(dataset, tmp_path, policy):
    overrides = [f"trainer.bad_updates.policy={policy}", "trainer.bad_updates.limit=3"]
    trainer = launch(small_config(dataset, tmp_path, *overrides))
    plant(trainer, range(6, 100))
    with pytest.raises(TrainingError, match=r"bad update 4 within 1,000 batches, and trainer.bad_updates.limit=3"):
        trainer.train()
    assert [int(f.name[5:]) for f in checkpoints_of(trainer.run_dir)] == [4]
    assert all(value.isfinite().all() for value in weights(trainer).values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("in_gradient", [False, True])
def test_a_bad_update_touches_neither_weights_nor_moments(dataset, tmp_path, precision, in_gradient):
    trainer = launch(
        small_config(dataset, tmp_path, f"accelerator.precision={precision}", "trainer.micro_batch_size=2")
    )
    plant(trainer, (1,), factor=math.inf, in_gradient=in_gradient)
    trainer.update()
    trainer.step = 1
    before = {name: value.clone() for name, value in [*optimizer_tensors(trainer.optimizer), *weights(trainer).items()]}
    with pytest.raises(BadUpdateError, match=r"step 2 \(batch 1\): loss .*trainer.skip_batches=\[\[1,1\]\]"):
        trainer.update()
    after = dict([*optimizer_tensors(trainer.optimizer), *weights(trainer).items()])
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("factor", [1e16, 1e18, 1e19, 1e20, 1e30])
def test_a_gradient_whose_square_overflows_is_bad(dataset, tmp_path, factor):
    """Else the second moment is infinite, and that weight never moves again."""
    trainer = launch(small_config(dataset, tmp_path, "trainer.gradient_clip_norm=null"))
    plant(trainer, (0,), factor=factor, in_gradient=True)
    try:
        trainer.update()
    except BadUpdateError:
        assert factor > 1e18
        assert not trainer.optimizer.state
    assert all(value.isfinite().all() for _, value in optimizer_tensors(trainer.optimizer))


def test_a_stopped_run_goes_on_where_the_batch_is_left_out(dataset, tmp_path):
    trainer = launch(small_config(dataset, tmp_path / "run", *DROPOUT))
    plant(trainer, (6,))
    with pytest.raises(BadUpdateError):
        trainer.train()
    assert [int(f.name[5:]) for f in checkpoints_of(trainer.run_dir)] == [4]
    again = trained(dataset, tmp_path / "run", "trainer.skip_batches=[[6,6]]", bad=(6,))
    assert_same_run(again, trained(dataset, tmp_path / "told", "trainer.skip_batches=[[6,6]]"))


# ---------------------------------------------------------------- spikes


def test_a_spike_is_passed_over_and_so_it_is_by_a_resumed_run(dataset, tmp_path):
    policy = ["trainer.bad_updates.policy=skip", "trainer.bad_updates.spikes={window_steps: 4}", "trainer.max_steps=14"]
    whole = trained(dataset, tmp_path / "whole", *policy, bad=(2, 6, 9), factor=5.0)
    assert [record["bad_batch"] for record in events(whole)] == [6, 9]  # the window is not full at 2
    assert "is a spike: above" in events(whole)[0]["reason"]
    config = small_config(dataset, tmp_path / "parts", *DROPOUT, *policy)
    trainer = launch(config)
    plant(trainer, (2, 6, 9), factor=5.0)
    add_first(trainer, StopAt(5))
    assert not trainer.train()
    last = launch(config)
    plant(last, (2, 6, 9), factor=5.0)
    assert last.train()
    assert_same_run(last, whole)
    assert events(last) == events(whole)


def test_spikes_are_measured_in_deviations_above_the_median():
    guard = UpdateGuard(BadUpdatesConfig(spikes=SpikesConfig(window_steps=5, deviations=4)))
    for loss in (3.0, 3.2, 2.8, 3.1, 900.0):  # an outlier moves neither median nor spread
        assert guard.fault(loss, 1.0) is None
        guard.accept(loss, 1.0)
    limit = 3.1 + 4 * 1.4826 * 0.1
    assert guard.fault(limit - 0.001, 1.0) is None
    assert guard.fault(limit + 0.001, 1.0).startswith("loss 3.694 is a spike: above 3.693")
    assert guard.fault(0.0, 1.03) is None  # norms that are all alike have a spread of 1 %
    assert guard.fault(0.0, 1.05).startswith("gradient norm")
    assert UpdateGuard(BadUpdatesConfig()).fault(1e9, 1e9) is None


# ---------------------------------------------------------------- batches left out


def test_the_batch_of_an_update_is_the_next_that_is_not_left_out():
    guard = UpdateGuard(BadUpdatesConfig(), [(7, 7), (0, 0), (3, 5), (6, 6)])
    assert guard.skipped == ((0, 0), (3, 7))
    assert [guard.batch_number(step) for step in range(5)] == [1, 2, 8, 9, 10]
    guard.leave_out(9, 9)
    assert [guard.batch_number(step) for step in range(5)] == [1, 2, 8, 10, 11]
    kept = [number for number in range(2000) if not any(a <= number <= b for a, b in guard.skipped)]
    assert [guard.batch_number(step) for step in range(len(kept))] == kept


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [([], [], None), ([(1, 3)], [(1, 3)], None), ([(1, 3)], [], 1), ([(1, 3)], [(1, 5)], 4), ([(2, 3)], [(1, 3)], 1),
     ([(1, 3)], [(1, 3), (7, 7)], 7)],
)  # fmt: skip
def test_the_first_difference(a, b, expected):
    assert first_difference(merged(a), merged(b)) == first_difference(merged(b), merged(a)) == expected


def test_what_is_left_out_can_change_for_batches_to_come_alone():
    before = UpdateGuard(BadUpdatesConfig(), [(2, 2), (20, 21)])
    before.leave_out(5, 6)
    state = json.loads(json.dumps(before.state()))

    def resumed(*ranges):
        guard = UpdateGuard(BadUpdatesConfig(), ranges)
        guard.load_state(state, step=6)  # the next batch is 9
        return guard.skipped

    assert resumed((2, 2)) == ((2, 2), (5, 6))
    assert resumed((2, 2), (5, 6), (9, 9)) == ((2, 2), (5, 6), (9, 9))
    with pytest.raises(UserError, match="batch 8 was trained on before the checkpoint of step 6; only batches from 9"):
        resumed((2, 2), (8, 9))
    with pytest.raises(UserError, match="batch 2 was left out before"):
        resumed()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.skip_batches=[[5,3]]", r"(?s)skip_batches.*use \[3, 5\]"),
        ("trainer.skip_batches=[[-1,3]]", "skip_batches"),
        ("trainer.bad_updates.limit=3", "means nothing with policy=stop"),
        ("trainer.bad_updates={policy: skip, rollback_batches: 3}", "use policy=rollback"),
    ],
)
def test_options_that_make_no_sense_are_refused(dataset, tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        small_config(dataset, tmp_path, override)


# ---------------------------------------------------------------- fp16


def test_the_loss_scale_halves_at_an_overflow_and_doubles_after_long_without():
    scale = LossScale(enabled=True)
    scale.update(overflow=True)
    assert (scale.value, scale.num_overflows) == (2.0**15, 1)
    for _ in range(GROWTH_STEPS - 1):
        scale.update(overflow=False)
    again = LossScale(enabled=True)
    again.load_state_dict(json.loads(json.dumps(scale.state_dict())))
    again.update(overflow=False)
    assert (scale.value, again.value, again.num_overflows) == (2.0**15, 2.0**16, 1)
    again.value = 1.0
    with pytest.raises(
        TrainingError, match=r"overflow in fp16 even at a loss scale of 1, in 2 updates.*precision=bf16"
    ):
        again.update(overflow=True)


def test_an_overflow_in_fp16_is_counted_and_no_bad_update(dataset, tmp_path):
    config = small_config(dataset, tmp_path, "accelerator.precision=fp16", "model.dropout=0.1")
    trainer = launch(config)
    plant(trainer, (2, 3, 7), in_gradient=True)
    before = {}
    add_first(trainer, StopAt(7))
    trainer.callbacks["first"].on_train_start = lambda t: before.update(start=weights(t))
    assert not trainer.train()
    last = launch(config)
    assert (last.scaler.value, last.scaler.num_overflows) == (2.0**14, 2)
    plant(last, (2, 3, 7), in_gradient=True)
    assert last.train()
    records = [r for r in read_metrics(last.run_dir / "metrics.jsonl") if "loss" in r]
    assert [r["overflows"] for r in records] == [0, 0, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3]
    assert [r["step"] for r in records if "gradient_norm" not in r] == [3, 4, 8]
    assert records[-1]["loss_scale"] == 2.0**13
    assert not events(last)
    assert all(value.isfinite().all() for value in weights(last).values())


def test_a_loss_that_overflows_in_fp16_is_a_bad_update(dataset, tmp_path):
    trainer = build_run(small_config(dataset, tmp_path, "accelerator.precision=fp16"))
    plant(trainer, (0,), factor=math.inf)
    with pytest.raises(BadUpdateError):
        trainer.update()
