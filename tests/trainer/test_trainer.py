"""The loop: exact accumulation, exact resume, and no bad number in the weights."""

import json
import math
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from modelzoo.base_config import UserError
from modelzoo.launch import build_run, resume
from modelzoo.saved_models import load_model
from modelzoo.trainer.bad_updates import BadUpdateError
from modelzoo.trainer.callbacks.metrics import read_metrics
from modelzoo.trainer.checkpoint import checkpoints_of, latest_checkpoint
from modelzoo.trainer.run_state import optimizer_tensors, restore
from tests.runs import launch, small_config, write_masked_dataset
from tests.trainer.observing import StopAt, add_first, losses, weights


def test_training_learns(dataset, tmp_path):
    trainer = launch(small_config(dataset, tmp_path, "trainer.max_steps=60", "optimizer.lr=0.01"))
    assert trainer.train()
    series = losses(trainer)
    assert len(series) == 60
    assert math.log(275) < series[0] < 1.3 * math.log(275)
    assert series[-1] < 0.6 * series[0]


@pytest.mark.parametrize("name", ["gptj_tiny", "gpt_neox_tiny", "gpt2_tiny"])
def test_every_family_trains(dataset, tmp_path, name):
    # learned positions have no fraction
    without = ["~model.position.fraction"] if name == "gpt2_tiny" else []
    trainer = launch(small_config(dataset, tmp_path, *without, base=name))
    trainer.train()
    assert losses(trainer)[-1] < losses(trainer)[0]


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_micro_batches_give_the_gradient_of_the_whole_batch(dataset, tmp_path, micro_batch_size):
    """Masks are uneven: the mean of the parts' means would be another number, and that mutant must show."""

    def gradients(micro, mean_of_means=False):
        config = small_config(dataset, tmp_path, f"trainer.micro_batch_size={micro}")
        trainer = build_run(config)
        batch = {k: np.array(v) for k, v in trainer.data.batch(0).items()}
        for row in range(8):
            batch["loss_mask"][row, : 3 * row] = False
        trainer.data = type("Fixed", (), {"batch": lambda self, step: batch})()
        taken = {}
        trainer._apply_gradients = lambda *_: taken.update(
            {n: p.grad.double() for n, p in trainer.model.named_parameters()}
        )
        if mean_of_means:
            total = int(batch["loss_mask"].sum())
            loss = trainer.model.loss

            def mean(**part):
                loss_sum, num_tokens = loss(**part)
                return loss_sum / num_tokens * total / (8 / micro), num_tokens

            trainer.model.loss = mean
        trainer.update()
        return taken

    def distance(a, b):
        return max(((a[n] - b[n]).norm() / b[n].norm()).item() for n in b)

    whole = gradients(8)
    assert distance(gradients(micro_batch_size), whole) < 1e-6
    assert distance(gradients(micro_batch_size, mean_of_means=True), whole) > 1e-2


def test_resume_is_bit_identical_with_dropout_and_accumulation(dataset, tmp_path):
    extra = ["model.dropout=0.2", "trainer.micro_batch_size=4", "trainer.log_every_steps=3", "trainer.max_steps=13"]
    whole = launch(small_config(dataset, tmp_path / "whole", *extra))
    assert whole.train()

    config = small_config(dataset, tmp_path / "parts", *extra)
    for stop in (5, 7):  # neither is a step that logs or saves by itself
        trainer = launch(config)
        add_first(trainer, StopAt(stop))
        assert not trainer.train()
        assert trainer.step == stop
    last = launch(config)
    assert last.step == 7
    assert last.train()

    assert losses(last) == losses(whole)
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(last).items())
    for name, value in optimizer_tensors(whole.optimizer):
        assert torch.equal(dict(optimizer_tensors(last.optimizer))[name], value), name


def test_resume_would_show_a_lost_random_state(dataset, tmp_path):
    """The test above can fail: without the random state, dropout draws other masks."""
    config = small_config(dataset, tmp_path, "model.dropout=0.2", "trainer.max_steps=8")
    whole = launch(config)
    whole.train()
    again = build_run(small_config(dataset, tmp_path / "again", "model.dropout=0.2", "trainer.max_steps=8"))
    again.accelerator.set_random_state = lambda state: torch.manual_seed(99)
    restore(again, tmp_path / "gptj_tiny" / "checkpoints" / "step_00000004")
    again.run_dir.mkdir(parents=True)
    again.train()
    assert not torch.equal(weights(again)["lm_head.weight"], weights(whole)["lm_head.weight"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_the_run_after_the_step_with_a_checkpoint(dataset, tmp_path, number):
    trainer = launch(small_config(dataset, tmp_path))
    trainer.callbacks["stop"] = StopAt(3, number)
    assert not trainer.train()
    assert latest_checkpoint(trainer.run_dir)[0].name == "step_00000003"
    assert signal.getsignal(number) is not None


def test_an_observing_callback_changes_nothing(dataset, tmp_path):
    bare = launch(small_config(dataset, tmp_path / "bare", "model.dropout=0.1", "~callbacks.evaluate"))
    bare.train()
    observed = launch(
        small_config(dataset, tmp_path / "observed", "model.dropout=0.1", "callbacks.evaluate.every_steps=1")
    )
    observed.train()
    assert losses(bare) == losses(observed)


def test_a_non_finite_gradient_never_reaches_the_weights(dataset, tmp_path):
    trainer = launch(small_config(dataset, tmp_path))
    trainer.update()
    before = weights(trainer)
    loss = trainer.model.loss
    trainer.model.loss = lambda **part: (loss(**part)[0] * math.nan, 1)
    with pytest.raises(BadUpdateError, match="the update was not applied"):
        trainer.update()
    assert all(torch.equal(value, weights(trainer)[name]) for name, value in before.items())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_and_keeps_weights_in_fp32(dataset, tmp_path, precision):
    extra = [f"accelerator.precision={precision}", "trainer.max_steps=30", "optimizer.lr=0.01"]
    trainer = launch(small_config(dataset, tmp_path, *extra))
    trainer.train()
    assert losses(trainer)[-1] < 0.8 * losses(trainer)[0]
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    if precision == "fp16":
        state = json.loads((latest_checkpoint(trainer.run_dir)[0] / "state.json").read_text())
        assert state["scaler"]["scale"] > 1
        assert "loss_scale" in read_metrics(trainer.run_dir / "metrics.jsonl")[0]


def test_clipping_bounds_the_gradient(dataset, tmp_path):
    trainer = launch(small_config(dataset, tmp_path, "trainer.gradient_clip_norm=0.01"))
    norms = []
    trainer.optimizer.step = lambda *_: norms.append(
        torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm().item()
    )
    assert trainer.update()["gradient_norm"] > 0.01
    assert norms == [pytest.approx(0.01, rel=1e-3)]


def test_evaluation_covers_every_token_of_the_split_once(dataset, tmp_path):
    """Uneven last batches change nothing: the loss is the sum over all tokens by their number."""
    trainer = build_run(small_config(dataset, tmp_path))
    by_size = [trainer.evaluate("", batch_size).metrics() for batch_size in (1, 3, 7)]
    for metrics in by_size[1:]:
        assert metrics["loss"] == pytest.approx(by_size[0]["loss"], rel=1e-6)
    data = trainer.validation[""]
    assert data.bytes_per_token == data.num_bytes / data.num_tokens
    nats = by_size[0]["loss"] * data.num_tokens
    assert by_size[0]["bits_per_byte"] == pytest.approx(nats / math.log(2) / data.num_bytes)
    assert by_size[0]["perplexity"] == pytest.approx(math.exp(by_size[0]["loss"]))


def test_the_learning_rate_follows_the_schedule(dataset, tmp_path):
    config = small_config(dataset, tmp_path)
    trainer = launch(config)
    trainer.train()
    rates = [r["lr"] for r in read_metrics(trainer.run_dir / "metrics.jsonl") if "lr" in r]
    assert rates == pytest.approx([config.optimizer.lr * config.lr_factor(step) for step in range(12)])


def test_a_changed_config_is_not_resumed_but_explained(dataset, tmp_path):
    launch(small_config(dataset, tmp_path)).train()
    changed = small_config(dataset, tmp_path, "optimizer.lr=0.05", "model.dropout=0.1")
    with pytest.raises(UserError) as error:
        launch(changed)
    assert "optimizer.lr: 0.003 → 0.05" in str(error.value)
    assert "model.dropout: 0.0 → 0.1" in str(error.value)


def test_a_run_can_be_prolonged(dataset, tmp_path):
    launch(small_config(dataset, tmp_path, "schedule=constant", "trainer.max_steps=6")).train()
    longer = small_config(dataset, tmp_path, "schedule=constant", "trainer.max_steps=9")
    trainer = build_run(longer)
    folder, notes = resume(trainer, longer)
    assert (folder.name, notes) == ("step_00000006", ["resuming with trainer.max_steps: 6 → 9"])
    trainer.train()
    assert len(losses(trainer)) == 9


def test_changed_data_is_not_resumed(dataset, tmp_path):
    from tests.runs import write_dataset

    launch(small_config(dataset, tmp_path)).train()
    other = write_dataset(tmp_path / "other", seed=1)
    trainer = build_run(small_config(other, tmp_path))
    with pytest.raises(UserError, match="manifest_sha256"):
        restore(trainer, latest_checkpoint(trainer.run_dir)[0])


def test_continue_from_takes_the_weights_alone(dataset, tmp_path):
    base = launch(small_config(dataset, tmp_path))
    base.train()
    trainer = build_run(small_config(dataset, tmp_path, "name=next", f"continue_from={base.run_dir}"))
    assert trainer.step == 0
    assert all(torch.equal(value, weights(base)[name]) for name, value in weights(trainer).items())
    assert not trainer.optimizer.state


def test_load_model_gives_the_trained_model(dataset, tmp_path):
    trainer = launch(small_config(dataset, tmp_path))
    trainer.train()
    model = load_model(trainer.run_dir)
    ids = torch.randint(0, 275, (2, 24))
    trainer.model.eval()
    with torch.no_grad():
        assert torch.equal(model(ids), trainer.model(ids))
    assert not model.training


def test_data_too_small_for_a_batch_is_refused(dataset, tmp_path):
    with pytest.raises(UserError, match="less than one batch"):
        build_run(small_config(dataset, tmp_path, "trainer.global_batch_size=4096"))


def test_a_vocabulary_smaller_than_the_datas_is_refused(dataset, tmp_path):
    with pytest.raises(UserError, match=r"model\.vocab_size=200; use at least 275"):
        build_run(small_config(dataset, tmp_path, "model.vocab_size=200"))


def test_a_tokenizer_that_did_not_write_the_data_is_refused(dataset, tmp_path):
    from tests.samples import small_tokenizer

    small_tokenizer(vocab_size=270).save(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="was written with a tokenizer of sha256") as error:
        build_run(small_config(dataset, tmp_path, f"data.tokenizer={tmp_path / 'tokenizer.json'}"))
    assert str(Path(dataset)) in str(error.value)
    assert str(tmp_path / "tokenizer.json") in str(error.value)


def test_tensorboard_and_the_plot_are_written(dataset, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    kinds = ["+callbacks.tensorboard={kind: tensorboard}", "+callbacks.loss_plot={kind: loss_plot}"]
    trainer = launch(small_config(dataset, tmp_path, *kinds))
    trainer.train()
    events = EventAccumulator(str(trainer.run_dir / "tensorboard")).Reload()
    written = {point.step: point.value for point in events.Scalars("train/loss")}
    assert written == pytest.approx(dict(enumerate(losses(trainer), 1)), rel=1e-6)
    assert {"validation/loss", "validation/bits_per_byte", "train/lr"} <= set(events.Tags()["scalars"])
    assert (trainer.run_dir / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not list(trainer.run_dir.glob("*partial*"))


def test_a_loss_mask_is_trained_on_and_has_no_bits_per_byte(tmp_path):
    output = write_masked_dataset(tmp_path)
    trainer = launch(small_config(output, tmp_path, "trainer.micro_batch_size=2"))
    trainer.train()
    batch = trainer.data.batch(0)
    assert 0 < batch["loss_mask"].sum() < batch["loss_mask"].size
    metrics = trainer.evaluate("", 4).metrics()
    assert set(metrics) == {"loss", "perplexity"}
    assert losses(trainer)[-1] < losses(trainer)[0]


def test_an_evaluation_that_a_signal_cut_short_is_taken_when_the_run_goes_on(dataset, tmp_path):
    for stop in (5, 12):  # both evaluate; 12 is the last
        trainer = launch(small_config(dataset, tmp_path))
        add_first(trainer, StopAt(stop))
        assert not trainer.train()
        assert trainer.evaluation_due
    last = launch(small_config(dataset, tmp_path))
    assert last.train()
    evaluated = [r["step"] for r in read_metrics(last.run_dir / "metrics.jsonl") if "validation_loss" in r]
    assert evaluated == [5, 10, 12]


def test_keep_last_never_deletes_the_one_just_saved(dataset, tmp_path):
    """Newer ones that were found damaged are left alone, and so is a copy under a name of its own."""
    keep = ["callbacks.checkpoint.keep_last=2", "callbacks.checkpoint.every_steps=2"]
    launch(small_config(dataset, tmp_path, *keep, "callbacks.checkpoint.keep_last=null")).train()
    folder = tmp_path / "gptj_tiny" / "checkpoints"
    (folder / "step_00000002").rename(folder / "step_00000002_mine")
    for step in (8, 10, 12):
        (folder / f"step_{step:08d}" / "model.safetensors").write_bytes(b"cut")
    again = launch(small_config(dataset, tmp_path, *keep, "trainer.max_steps=7"))
    assert again.step == 6
    again.train()
    assert latest_checkpoint(again.run_dir)[0].name == "step_00000007"
    names = {path.name for path in folder.iterdir()}
    assert names == {f"step_{s:08d}" for s in (6, 7, 8, 10, 12)} | {"step_00000002_mine"}


def test_a_damaged_shard_is_named(tmp_path, monkeypatch):
    import h5py

    from tests.runs import write_dataset

    output = write_dataset(tmp_path / "damaged")
    with h5py.File(output / "train" / "00000.h5", "r+") as file:
        file["tokens"][:] = 60_000
    with pytest.raises(UserError, match="its sha256 is not the one"):
        launch(small_config(output, tmp_path))
    monkeypatch.setattr("modelzoo.data.dataset.VERIFIED_BYTES", 0)  # as though it were too large to be hashed
    with pytest.raises(UserError, match="holds the id 60000"):
        launch(small_config(output, tmp_path)).train()


@pytest.mark.parametrize(
    ("keep_last", "kept"), [(1, [12]), (2, [10, 12]), (5, [4, 6, 8, 10, 12]), (9, [2, 4, 6, 8, 10, 12])]
)
def test_keep_last_keeps_so_many(dataset, tmp_path, keep_last, kept):
    keep = [f"callbacks.checkpoint.keep_last={keep_last}", "callbacks.checkpoint.every_steps=2"]
    trainer = launch(small_config(dataset, tmp_path, *keep))
    trainer.train()
    assert [int(f.name.removeprefix("step_")) for f in checkpoints_of(trainer.run_dir)] == kept


@pytest.mark.parametrize("how", ["full", "selective"])
def test_activations_that_are_computed_again_change_nothing_but_memory(dataset, tmp_path, how):
    extra = ["model.dropout=0.1", "trainer.max_steps=4"]
    kept = launch(small_config(dataset, tmp_path / "kept", *extra))
    assert kept.train()
    again = launch(small_config(dataset, tmp_path / "again", *extra, f"accelerator.activation_checkpointing={how}"))
    calls = []
    again.model.blocks[0].norm_1.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    assert again.train()
    assert losses(again) == losses(kept)
    assert all(torch.equal(value, weights(kept)[name]) for name, value in weights(again).items())
    in_training = [call for call in calls if call]
    assert len(in_training) == 2 * 4  # each forward pass of the block, once more for its backward pass
