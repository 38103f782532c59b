"""Runs that train adapters alone: small checkpoints, exact resume, the base held fast by its fingerprint."""

import shutil

import pytest
import torch

from modelzoo.base_config import UserError
from modelzoo.config_errors import ConfigError
from modelzoo.convert.adapters import merge_checkpoint
from modelzoo.launch import build_run, resume
from modelzoo.model.lora import is_adapter
from modelzoo.saved_models import load_model, load_model_config
from modelzoo.trainer.checkpoint import latest_checkpoint, read_tensors
from tests.runs import launch, small_config
from tests.trainer.observing import StopAt, add_first, losses, weights
from tests.trainer.test_parallel import assert_same_run, split, train

LORA = ["+lora.rank=4", "lora.dropout=0.1", "optimizer.lr=0.01", "schedule.warmup_steps=0", "~callbacks.evaluate"]


@pytest.fixture(scope="module")
def base(dataset, tmp_path_factory):
    """The folder of a short run."""
    folder = tmp_path_factory.mktemp("base")
    trainer = launch(small_config(dataset, folder, "trainer.max_steps=4", "~callbacks.evaluate"))
    trainer.train()
    return trainer.run_dir


@pytest.fixture
def tuned(dataset, tmp_path, base):
    """The config of a run on it, with further overrides."""
    return lambda *extra, name="tuned": small_config(
        dataset, tmp_path, *LORA, f"continue_from={base}", f"name={name}", *extra
    )


def test_adapters_alone_are_trained_and_stored(tuned, base):
    trainer = launch(tuned("trainer.max_steps=30"))
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    whole = load_model(base)
    trainer.model.eval()
    ids = torch.randint(0, 275, (2, 24))
    with torch.no_grad():
        assert torch.equal(trainer.model(ids), whole(ids))  # as it begins
    trainer.train()
    assert losses(trainer)[-1] < 0.9 * losses(trainer)[0]
    changed = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if is_adapter(name)}
    assert {name for group in trainer.optimizer.param_groups for name in group["names"]} == changed
    folder = latest_checkpoint(trainer.run_dir)[0]
    assert read_tensors(folder, "model").keys() == changed
    assert {name.split("/", 1)[1] for name in read_tensors(folder, "optimizer")} == changed


@pytest.mark.parametrize("extra", [[], ["accelerator.precision=bf16", "lora.base_dtype=bf16"]])
def test_resume_is_bit_identical(tuned, extra):
    extra = [*extra, "trainer.max_steps=5", "model.dropout=0.1"]
    whole = launch(tuned(*extra, name="whole"))
    assert whole.train()
    part = launch(tuned(*extra))
    add_first(part, StopAt(3))
    assert not part.train()
    last = launch(tuned(*extra))
    assert last.step == 3
    assert last.train()
    assert losses(last) == losses(whole)
    assert all(torch.equal(value, weights(last)[name]) for name, value in weights(whole).items())


@pytest.mark.parametrize("targets", ["[blocks.*]", "[lm_head,blocks.0.*]"])
@pytest.mark.parametrize("how", ["accelerator.activation_checkpointing=full", "trainer.micro_batch_size=2"])
def test_memory_savers_change_nothing(tuned, how, targets):
    options = [f"lora.targets={targets}", "lora.dropout=0", "trainer.max_steps=3"]
    plain, saving = launch(tuned(*options, name="plain")), launch(tuned(*options, how))
    plain.train()
    saving.train()
    assert losses(saving) == pytest.approx(losses(plain), rel=1e-5)


def test_the_checkpoint_of_adapters_is_a_model_like_any_other(tuned, dataset, tmp_path):
    trainer = launch(tuned())
    trainer.train()
    trainer.model.eval()
    ids = torch.randint(0, 275, (2, 24))
    with torch.no_grad():
        expected = trainer.model(ids)
        torch.testing.assert_close(load_model(trainer.run_dir)(ids), expected, atol=1e-5, rtol=1e-5)
        folder = latest_checkpoint(trainer.run_dir)[0]
        report = merge_checkpoint(folder, load_model_config(folder), tmp_path / "merged", max_file_bytes=10**9)
        assert report["adapters"] == 8
        torch.testing.assert_close(load_model(tmp_path / "merged")(ids), expected, atol=1e-5, rtol=1e-5)
        # and what is learnt from here on may be all of it, or another adapter
        for extra in ([], ["+lora.rank=2"]):
            config = small_config(dataset, tmp_path, f"continue_from={folder}", "name=next", *extra)
            following = build_run(config).model.eval()
            torch.testing.assert_close(following(ids), expected, atol=1e-5, rtol=1e-5)


def test_another_base_is_refused_and_a_moved_one_found(tuned, dataset, tmp_path, base):
    own = tmp_path / "own"
    shutil.copytree(base, own)
    config = tuned(f"continue_from={own}", "trainer.max_steps=2")
    trainer = launch(config)
    trainer.train()
    own.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"needs their base: .*own.*put the base back there"):
        load_model(trainer.run_dir)
    moved = tuned(f"continue_from={tmp_path / 'moved'}", "trainer.max_steps=3")
    again = launch(moved)
    assert again.step == 2
    other = launch(small_config(dataset, tmp_path, "seed=1", "name=other", "trainer.max_steps=4"))
    other.train()
    shutil.copytree(latest_checkpoint(other.run_dir)[0], own / "checkpoints" / "step_00000004", dirs_exist_ok=True)
    with pytest.raises(UserError, match=r"belong to another base than .*model\.safetensors differs"):
        load_model(trainer.run_dir)


def test_a_run_without_adapters_is_not_resumed_with_them(dataset, tmp_path, base):
    launch(small_config(dataset, tmp_path, "trainer.max_steps=4", f"continue_from={base}")).train()
    config = small_config(dataset, tmp_path, "trainer.max_steps=4", f"continue_from={base}", "+lora.rank=4")
    with pytest.raises(UserError, match=r"lora\.rank: — → 4"):
        resume(build_run(config), config)


@pytest.mark.long
@pytest.mark.parametrize("sizes", [(2, 1, 1), (1, 2, 1), (2, 2, 1)], ids=str)
def test_any_split_of_data_is_the_same_run(dataset, tmp_path, base, sizes):
    adapted = [f"continue_from={base}", "+lora.rank=4", "lora.targets=['*']", "model.padded_vocab_size=null"]
    train(dataset, tmp_path / "alone", *adapted)
    train(dataset, tmp_path / "parts", *adapted, *split(*sizes), "trainer.micro_batch_size=1")
    assert_same_run(tmp_path / "parts", tmp_path / "alone")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+lora.targets=[attention.qkv]"], r"matches no linear; did you mean blocks\.\*\.attention\.qkv\?"),
        (["+lora.targets=[blocks.*.mlp.fc_inn]"], r"did you mean blocks\.\*\.mlp\.fc_in\?"),
        (["+lora.targets=[blocks.*, blocks.2.*]"], r"lora\.targets\.1"),
        (["+lora.targets=[]"], r"lora\.targets"),
        (["+lora.rank=33"], r"more than the 32 rows or columns"),
        (["+lora.targets=[lm_head]", "lora.dropout=0.1"], "product is part of the loss"),
        (["+lora.rank=4", "continue_from=null"], "lora needs a base to adapt"),
        (["+lora.rank=4", "accelerator.tensor=2"], "cannot go with lora"),
        (["+lora.base_dtype=bf16"], r"use accelerator\.precision=bf16"),
        (["+lora.rnk=4"], "rank"),
    ],
)
def test_what_cannot_be_adapted_is_said_at_check_time(dataset, tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        small_config(dataset, tmp_path, "continue_from=somewhere", *overrides)


def test_a_tied_head_is_no_target(dataset, tmp_path):
    extra = ["~model.position.fraction", "continue_from=somewhere", "+lora.targets=[lm_head]"]
    with pytest.raises(ConfigError, match="lm_head is tied to the embedding"):
        small_config(dataset, tmp_path, *extra, base="gpt2_tiny")
