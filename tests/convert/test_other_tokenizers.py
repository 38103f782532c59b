"""A tokenizer that is not the model's: refused where it cannot be, told of where it may."""

import json
from pathlib import Path

import pytest

from modelzoo.base_config import UserError
from modelzoo.cli import export_hf, import_hf
from modelzoo.saved_models import load_model_config
from tests.convert.hf_models import change_config, refused, save
from tests.samples import small_tokenizer


def test_a_tokenizer_of_another_model(tmp_path, capsys):
    save(tmp_path / "hf", "gpt2", rows=274)
    refused(tmp_path / "hf", "has 275 ids, and the model 274 embeddings: it is another model's; give .* --tokenizer")
    save(tmp_path / "larger", "gpt2", rows=300, eos_token_id=290)
    refused(tmp_path / "larger", "eos_token_id=290, and .* ends a document with 0 and has 275 ids: it is another")
    change_config(tmp_path / "larger", eos_token_id=7)
    import_hf.run(str(tmp_path / "larger"), tmp_path / "ours")
    assert "eos_token_id=7, and" in capsys.readouterr().err
    (tmp_path / "larger" / "tokenizer.json").write_text("{}")
    refused(tmp_path / "larger", "tokenizer.json")


def other_tokenizer(folder: Path, extra: int = 0) -> str:
    """A tokenizer.json as large as the small one: of other ids, or of the same and more."""
    specification = json.loads(small_tokenizer().backend.to_str())
    vocab, added = specification["model"]["vocab"], specification["added_tokens"]
    if extra:
        added += [{**added[0], "id": len(vocab) + n, "content": f"<|more_{n}|>"} for n in range(extra)]
    else:  # what ends a document comes last, as GPT-2's does
        specification["model"]["vocab"] = {token: (id_ - 1) % len(vocab) for token, id_ in vocab.items()}
        added[0]["id"] = len(vocab) - 1
    (folder / "other.json").write_text(json.dumps(specification))
    return str(folder / "other.json")


def test_another_tokenizer_than_the_one_beside(tmp_path, capsys):
    save(tmp_path / "hf", "gpt_neox", rows=300)
    with pytest.raises(UserError, match=r"other\.json: of 275 ids, the first of them 0, .*beside.*modelzoo vocab"):
        import_hf.run(str(tmp_path / "hf"), tmp_path / "ours", tokenizer=other_tokenizer(tmp_path))
    import_hf.run(str(tmp_path / "hf"), tmp_path / "same", tokenizer=str(tmp_path / "hf"), check=False)
    more = other_tokenizer(tmp_path, extra=3)
    import_hf.run(str(tmp_path / "hf"), tmp_path / "more", tokenizer=more, check=False)
    assert load_model_config(tmp_path / "more").vocab_size == 278
    (tmp_path / "hf" / "tokenizer.json").write_text("{}")
    import_hf.run(str(tmp_path / "hf"), tmp_path / "not_compared", tokenizer=more, check=False)
    assert "is not compared with the model's own" in capsys.readouterr().err


def test_a_tokenizer_to_which_the_end_is_text(tmp_path):
    save(tmp_path / "hf", "gpt_neox", rows=300, tokenizer=False)
    other = other_tokenizer(tmp_path)
    with pytest.raises(UserError, match=r"eos_token_id=0 ends a text, and is '!' to .*other\.json, which .* with 274"):
        import_hf.run(str(tmp_path / "hf"), tmp_path / "ours", tokenizer=other)
    for number, end in enumerate((2, 274, [0, 274])):  # transformers' default, and what agrees
        change_config(tmp_path / "hf", eos_token_id=end)
        (tmp_path / "hf" / "generation_config.json").unlink(missing_ok=True)
        import_hf.run(str(tmp_path / "hf"), tmp_path / f"ours{number}", tokenizer=other, check=False)
    export_hf.run(tmp_path / "ours0", tmp_path / "again", check=False)
    for name in ("config.json", "generation_config.json"):
        written = json.loads((tmp_path / "again" / name).read_text())
        assert (written["eos_token_id"], written["bos_token_id"]) == (274, 274)


def test_export_writes_the_ids_of_its_tokenizer(tmp_path, capsys):
    save(tmp_path / "hf", "gpt2", eos_token_id=7, bos_token_id=9)
    import_hf.run(str(tmp_path / "hf"), tmp_path / "ours", check=False)
    export_hf.run(tmp_path / "ours", tmp_path / "again", check=False)
    told = capsys.readouterr().err
    for name in ("config.json", "generation_config.json"):
        written = json.loads((tmp_path / "again" / name).read_text())
        assert (written["eos_token_id"], written["bos_token_id"]) == (0, 0)
        assert f"{name}: eos_token_id=7 is not the tokenizer's, which is 0: that is written" in told
