"""Starting from another model: its weights, and its loss before the first update."""

import json

import pytest
import torch
from torch.nn import functional as F

from modelzoo import continuing
from modelzoo.base_config import UserError
from modelzoo.cli import export_hf
from modelzoo.continuing import IMPORTED, RECORD
from modelzoo.data.schema import file_sha256
from modelzoo.launch import build_run
from modelzoo.trainer.parallel import Parallel
from tests.runs import small_config, write_dataset
from tests.trainer.test_parallel import train as train_ranks


@pytest.fixture(scope="module")
def base(dataset, tmp_path_factory):
    """A run of a few steps, whose weights are not those that any seed draws."""
    config = small_config(dataset, tmp_path_factory.mktemp("base"), "trainer.max_steps=4", "schedule.warmup_steps=0")
    trainer = build_run(config)
    trainer.train()
    return trainer.run_dir


def record_of(trainer):
    return json.loads((trainer.run_dir / RECORD).read_text())


def test_the_loss_before_the_first_update_is_the_bases_own(dataset, base, tmp_path):
    trainer = build_run(small_config(dataset, tmp_path, f"continue_from={base}", "model.dropout=0.1"))
    losses = record_of(trainer)["sets"][""]
    assert losses["loss"] == pytest.approx(losses["base_loss"], abs=1e-6)
    assert f"starts from {base} with its loss" in trainer.accelerator.notes[-1]
    assert trainer.model.training
    metrics = trainer.evaluate("", 4, continuing.ROWS_PER_SET // 4).metrics()
    assert metrics["loss"] == pytest.approx(losses["loss"], abs=1e-6)


def test_what_taught_the_base_is_on_record(dataset, base, tmp_path):
    first = build_run(small_config(dataset, tmp_path, f"continue_from={base}", "name=first", "trainer.max_steps=4"))
    of_base = {"path": str(dataset), "fingerprint": file_sha256(dataset / "manifest.json")}
    assert record_of(first)["trained_on"] == [of_base]
    assert record_of(first)["sources"] == {"": of_base["fingerprint"]}
    first.train()
    (tmp_path / "first").rename(tmp_path / "moved")
    other = write_dataset(tmp_path / "other", num_documents=20, seed=1)
    given = [f"continue_from={tmp_path / 'moved'}", "name=second", "trainer.max_steps=4", f"data.train.path={other}"]
    build_run(small_config(dataset, tmp_path, *given)).train()
    third = build_run(small_config(dataset, tmp_path, f"continue_from={tmp_path / 'second'}", "name=third"))
    of_second = {"path": str(other), "fingerprint": file_sha256(other / "manifest.json")}
    assert record_of(third)["trained_on"] == [of_second, of_base]
    record = tmp_path / "second" / RECORD
    record.write_text(json.dumps(record_of(third) | {"trained_on": ["data/older"]}))  # as older versions did
    (other / "manifest.json").write_text((other / "manifest.json").read_text() + "\n")  # written anew since then
    fourth = build_run(small_config(dataset, tmp_path, f"continue_from={tmp_path / 'second'}", "name=fourth"))
    assert record_of(fourth)["trained_on"] == [of_second, {"path": "data/older", "fingerprint": None}]


@pytest.mark.parametrize("change", [1.001, 0.0])
def test_another_loss_stops_the_run(dataset, base, tmp_path, monkeypatch, change):
    """A weight that came over wrong: a thousandth of one matrix is enough."""
    load = Parallel.load

    def wrong(self, model, weights, source):
        changed = {"lm_head.weight": weights["lm_head.weight"] * change}
        load(self, model, {**weights, **changed}, source)

    monkeypatch.setattr(Parallel, "load", wrong)
    with pytest.raises(UserError, match=r"before the first update the loss is \d\.\d+ instead of \d\.\d+"):
        build_run(small_config(dataset, tmp_path, f"continue_from={base}"))


def test_what_may_differ_is_named(dataset, base, tmp_path):
    config = small_config(
        dataset, tmp_path, f"continue_from={base}", "accelerator.precision=bf16", "data.isolate_documents=true"
    )
    assert continuing._suspects(config).startswith("accelerator.precision=bf16, data.isolate_documents=true")
    build_run(config)  # and neither is a mistake


def test_a_hugging_face_folder_starts_a_run_once_imported(dataset, base, tmp_path, capsys):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    export_hf.run(base, tmp_path / "hf")
    config = small_config(dataset, tmp_path, f"continue_from={tmp_path / 'hf'}")
    trainer = build_run(config)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    loss_sum = num_tokens = 0.0
    for batch in trainer.validation[""].evaluation_batches(4, continuing.ROWS_PER_SET // 4):
        ids, labels, mask = (torch.from_numpy(batch[key]) for key in ("input_ids", "labels", "loss_mask"))
        with torch.no_grad():
            logits = theirs(ids.long()).logits
        losses = F.cross_entropy(logits.flatten(0, 1).double(), labels.long().flatten(), reduction="none")
        loss_sum += float((losses * mask.flatten()).sum())
        num_tokens += int(mask.sum())
    assert record_of(trainer)["sets"][""]["loss"] == pytest.approx(loss_sum / num_tokens, abs=1e-5)
    imported = trainer.run_dir / IMPORTED
    assert json.loads((imported / "state.json").read_text())["imported"]["logit_check"]["result"] == "equal"
    written = (imported / "model.safetensors").stat().st_mtime_ns
    build_run(config)
    assert (imported / "model.safetensors").stat().st_mtime_ns == written
    (tmp_path / "hf" / "model.safetensors").touch()
    with pytest.raises(UserError, match="was imported from it before its files changed; remove"):
        build_run(config)
    export_hf.run(base, tmp_path / "hf2")
    with pytest.raises(UserError, match="which an earlier start of this run imported"):
        build_run(small_config(dataset, tmp_path, f"continue_from={tmp_path / 'hf2'}"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.position.style=half"], "model.position.style is interleaved there and half here"),
        (["model.vocab_size=280"], "model.num_embeddings|padded_vocab_size"),
    ],
)
def test_another_model_is_refused_by_name(dataset, base, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        build_run(small_config(dataset, tmp_path, f"continue_from={base}", *overrides))


def test_what_does_not_fit_is_refused_before_anything_is_imported(dataset, base, tmp_path):
    export_hf.run(base, tmp_path / "hf", check=False)
    given = f"continue_from={tmp_path / 'hf'}"
    with pytest.raises(UserError, match=r"model\.num_heads is 4 there and 8 here"):
        build_run(small_config(dataset, tmp_path, given, "model.num_heads=8"))
    (tmp_path / "hf" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"holds no tokenizer.* put its tokenizer.json there, or import it with one"):
        build_run(small_config(dataset, tmp_path, given))
    assert not (tmp_path / "gptj_tiny").exists()


@pytest.mark.long
@pytest.mark.parametrize("split", ["shard", "tensor", "replicate"])
def test_ranks_that_gather_in_bf16_start_from_a_base(dataset, base, tmp_path, split):
    extra = ["accelerator.precision=bf16", "accelerator.replicate=1", f"accelerator.{split}=2"]
    done = train_ranks(dataset, tmp_path, f"continue_from={base}", "model.padded_vocab_size=275", *extra, check=False)
    if split == "tensor":
        assert "does not divide" in done.stderr  # the odd vocabulary of the base
        return
    assert done.returncode == 0, done.stderr
    assert "of the base by itself" in done.stderr


def test_a_folder_without_a_model_is_refused(dataset, tmp_path):
    (tmp_path / "empty").mkdir()
    for path, message in (("empty", "holds neither a checkpoint nor a config.json"), ("nothing", "no such directory")):
        with pytest.raises(UserError, match=f"continue_from=.*{message}"):
            build_run(small_config(dataset, tmp_path, f"continue_from={tmp_path / path}"))
