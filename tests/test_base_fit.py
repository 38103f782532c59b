"""What `modelzoo check` says of a base, from its files alone, and what a run says where they do not fit."""

import json
import shutil
import subprocess
import sys

import pytest
from tokenizers import Tokenizer as Backend

from modelzoo.base_config import UserError
from modelzoo.cli import export_hf
from modelzoo.cli.check import command, data_notes
from modelzoo.launch import build_run
from modelzoo.run_config import dump_yaml
from modelzoo.saved_models import load_tokenizer
from modelzoo.tokenizer import Tokenizer, special_token
from tests.runs import small_config, small_overrides, write_dataset
from tests.samples import small_tokenizer


@pytest.fixture(scope="module")
def base(dataset, tmp_path_factory):
    """A run of a step, and the same as a Hugging Face folder beside it."""
    short = ["trainer.max_steps=1", "schedule.warmup_steps=0"]
    trainer = build_run(small_config(dataset, tmp_path_factory.mktemp("base"), *short))
    trainer.train()
    export_hf.run(trainer.run_dir, trainer.run_dir.parent / "hf", check=False)
    return trainer.run_dir


def with_names(count=25):
    """The small tokenizer with names for rows that text never uses, as GPT-J's has them."""
    tokenizer = small_tokenizer()
    tokenizer.backend.add_tokens([f"<|extratoken_{number}|>" for number in range(1, count + 1)])
    return Tokenizer(tokenizer.backend, "with_names")


def test_a_tokenizer_covers_another_that_gives_text_the_same_ids():
    plain, named = small_tokenizer(), with_names()
    assert named.sha256 != plain.sha256
    assert named.covers(plain)
    assert plain.covers(plain)
    assert not plain.covers(named)  # whose ids the rows may lack
    assert not named.covers(small_tokenizer(280))  # other merges
    spaces = small_tokenizer()
    spaces.backend.add_tokens(["    "])  # which text spells
    assert not Tokenizer(spaces.backend, "spaces").covers(plain)
    other = small_tokenizer()
    other.backend.add_special_tokens([special_token("<|user|>")])
    assert not named.covers(Tokenizer(other.backend, "other"))  # the same id for another name
    pieces = Backend.from_str(plain.backend.to_str())
    pieces.normalizer = None
    assert named.covers(Tokenizer(pieces, "again"))


def test_a_base_whose_tokenizer_has_more_names_starts_a_run(dataset, base, tmp_path):
    """The release of GPT-J: 50,400 ids in its tokenizer, and data in the 50,257 of GPT-2."""
    export_hf.run(base, tmp_path / "hf", check=False)
    with_names(5).save(tmp_path / "hf" / "tokenizer.json")
    (tmp_path / "hf" / "tokenizer_config.json").unlink(missing_ok=True)
    config = small_config(dataset, tmp_path, f"continue_from={tmp_path / 'hf'}")
    with pytest.raises(UserError, match="280 ids, and the model 275"):  # rows that it does not have
        build_run(config)


def test_a_run_keeps_the_larger_tokenizer_of_its_base(base, dataset, tmp_path):
    """So that data of it still fits after a run on data of the smaller one: also of a run that was resumed."""
    named, plain = with_names(5), small_tokenizer()
    rows = ["model.vocab_size=280", "trainer.max_steps=2", "schedule.warmup_steps=0"]
    wide = write_dataset(tmp_path / "wide", tokenizer=named)
    first = build_run(small_config(wide, tmp_path, *rows, "name=first"))
    first.train()
    second = small_config(dataset, tmp_path, *rows, "name=second", f"continue_from={first.run_dir}")
    trainer = build_run(second)
    trainer.train()
    assert load_tokenizer(trainer.run_dir).sha256 == named.sha256
    assert build_run(second).documents["tokenizer.json"] == trainer.documents["tokenizer.json"]  # goes on
    third = build_run(small_config(wide, tmp_path, *rows, "name=third", f"continue_from={trainer.run_dir}"))
    assert third.documents["tokenizer.json"] == (wide / "tokenizer.json").read_text()
    same = build_run(small_config(dataset, tmp_path, f"continue_from={base}", "name=same"))
    assert same.documents["tokenizer.json"] == (dataset / "tokenizer.json").read_text()
    assert load_tokenizer(base).sha256 == plain.sha256


def test_what_is_wrong_is_said_at_check_time(dataset, base, tmp_path):
    other = tmp_path / "other_tokenizer"
    small_tokenizer(280).save(tmp_path / "tokenizer.json")
    hf = base.parent / "hf"
    second = write_dataset(tmp_path / "second", seed=1)
    for source in (base, hf, next((base / "checkpoints").iterdir())):
        given = f"continue_from={source}"
        assert not any("continue_from" in note for note in data_notes(small_config(dataset, tmp_path, given)))
        with pytest.raises(UserError, match=r"continue_from=.*model\.num_layers is 2 there and 3 here"):
            data_notes(small_config(dataset, tmp_path, given, "model.num_layers=3"))
        (second / "tokenizer.json").write_text(small_tokenizer(280).backend.to_str())
        with pytest.raises(UserError, match=r"is another tokenizer than the one that .*second.* modelzoo vocab"):
            data_notes(small_config(dataset, tmp_path, given, f"data.validation.path={second}", "model.vocab_size=275"))
    other.mkdir()
    with pytest.raises(UserError, match="holds neither a checkpoint nor"):
        data_notes(small_config(dataset, tmp_path, f"continue_from={other}"))
    for source, note in (
        (tmp_path / "nowhere", f"not there yet: {tmp_path / 'nowhere'} (continue_from; written by: modelzoo train"),
        ("Owner/model", "not here: Owner/model (continue_from; the run will ask the Hugging Face hub for it)"),
    ):
        assert any(
            line.startswith(note) for line in data_notes(small_config(dataset, tmp_path, f"continue_from={source}"))
        )


def test_checking_a_base_takes_no_torch(dataset, base, tmp_path):
    program = "import sys\nfrom modelzoo.cli.check import data_notes\nfrom modelzoo.run_config import load_run_config\n"
    for source in (base, base.parent / "hf"):
        overrides = [*small_overrides(dataset, tmp_path), f"continue_from={source}"]
        program += f"data_notes(load_run_config('gptj_tiny', {overrides!r}))\n"
    subprocess.run([sys.executable, "-c", program + "assert 'torch' not in sys.modules"], check=True)


def test_a_validation_set_of_another_tokenizer_is_refused(dataset, tmp_path):
    folder = tmp_path / "second"
    second = write_dataset(folder, seed=1, tokenizer=small_tokenizer(270))
    config = small_config(dataset, tmp_path, f"data.validation.path={second}")
    for refuse in (build_run, data_notes):
        with pytest.raises(UserError, match="were written with different tokenizers, and a model reads one"):
            refuse(config)


def refusal(dataset, tmp_path, source):
    with pytest.raises(UserError) as error:
        data_notes(small_config(dataset, tmp_path, f"continue_from={source}"))
    return str(error.value)


def test_a_base_without_its_weights_is_refused(dataset, base, tmp_path):
    hf = tmp_path / "hf"
    shutil.copytree(base.parent / "hf", hf)
    weights = (hf / "model.safetensors").rename(hf / "model-00001-of-00002.safetensors")
    assert "hf: no weights in this directory" in refusal(dataset, tmp_path, hf)
    index = {"weight_map": {"a": weights.name, "b": "model-00002-of-00002.safetensors"}}
    (hf / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "hf: model-00002-of-00002.safetensors: no such file" in refusal(dataset, tmp_path, hf)
    shutil.copy(weights, hf / "model-00002-of-00002.safetensors")
    data_notes(small_config(dataset, tmp_path, f"continue_from={hf}"))


def test_a_damaged_checkpoint_and_adapters_without_a_base_are_refused(dataset, base, tmp_path):
    ours = tmp_path / "ours"
    shutil.copytree(next((base / "checkpoints").iterdir()), ours)
    gone = tmp_path / "gone"
    (ours / "base.json").write_text(json.dumps({"path": str(gone), "sha256": {}}))
    assert f"needs their base: {gone}: no checkpoint to be used" in refusal(dataset, tmp_path, ours)
    shutil.copytree(base, gone)
    data_notes(small_config(dataset, tmp_path, f"continue_from={ours}"))
    (next((gone / "checkpoints").iterdir()) / "model.safetensors").unlink()
    assert "needs their base: " in refusal(dataset, tmp_path, ours)
    (ours / "base.json").unlink()
    with (ours / "model.safetensors").open("ab") as file:
        file.write(b"x")
    assert "ours: the checkpoint is damaged: model.safetensors has " in refusal(dataset, tmp_path, ours)
    (ours / "model.safetensors").unlink()
    assert "ours: the checkpoint is damaged: model.safetensors is missing" in refusal(dataset, tmp_path, ours)


def test_a_base_imported_without_a_tokenizer_is_refused_in_the_words_of_a_run(dataset, base, tmp_path):
    ours = tmp_path / "imported"
    shutil.copytree(next((base / "checkpoints").iterdir()), ours)
    (ours / "tokenizer.json").unlink()
    manifest = json.loads((ours / "manifest.json").read_text())
    del manifest["files"]["tokenizer.json"]
    (ours / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError) as error:
        load_tokenizer(ours)
    assert refusal(dataset, tmp_path, ours) == f"continue_from={error.value}"


def test_check_looks_at_every_config_and_calls_none_ok_that_is_not(dataset, tmp_path, capsys):
    second = write_dataset(tmp_path / "second", seed=1, tokenizer=small_tokenizer(270))
    names = []
    for name, path in (("other", second), ("gone", dataset), ("fits", dataset)):
        config = small_config(dataset, tmp_path, f"data.validation.path={path}", f"name={name}")
        (tmp_path / f"{name}.yaml").write_text(dump_yaml(config))
        names.append(str(tmp_path / f"{name}.yaml"))
    names[1] = str(tmp_path / "nowhere.yaml")
    with pytest.raises(UserError) as error:
        command(names)
    assert "different tokenizers" in str(error.value)
    assert "nowhere.yaml" in str(error.value)
    assert [line for line in capsys.readouterr().out.splitlines() if line.endswith(": ok")] == [f"{names[2]}: ok"]


def test_every_fault_of_a_config_is_said_at_once(dataset, tmp_path):
    with pytest.raises(UserError) as error:
        data_notes(small_config(dataset, tmp_path, "model.vocab_size=200", f"continue_from={tmp_path}"))
    assert "use model.vocab_size=275" in str(error.value)
    assert "continue_from=" in str(error.value)
