"""Hugging Face to a checkpoint and back: equal logits, equal bits, and what transformers makes of the result."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from modelzoo.base_config import UserError
from modelzoo.cli import export_hf, import_hf
from modelzoo.convert import logit_check
from modelzoo.launch import build_run
from modelzoo.saved_models import load_model, load_model_config, load_saved_config, load_tokenizer
from modelzoo.trainer.checkpoint import all_damage, read_tensors
from tests.convert.hf_models import FAMILIES, IDS, change_config, save, small_model, weights
from tests.runs import small_config
from tests.samples import TRICKY

SHAPES: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {"rows": 300}),
    ("gpt2", {"heads": 1, "head_dim": 14, "n_inner": 33, "tie_word_embeddings": False, "n_layer": 3}),
    ("gpt2", {"activation_function": "gelu", "layer_norm_epsilon": 1e-3}),
    ("gptj", {"rows": 320}),
    ("gptj", {"heads": 5, "head_dim": 8, "rotary_dim": 2, "n_inner": 29}),
    ("gpt_neox", {"rows": 384}),
    (
        "gpt_neox",
        {"heads": 1, "head_dim": 16, "rotary_pct": 1.0, "rotary_emb_base": 500, "use_parallel_residual": False},
    ),
    ("gpt_neox", {"attention_bias": False, "tie_word_embeddings": True, "hidden_act": "gelu_fast"}),
]


def named(value: Any) -> str:
    return value if isinstance(value, str) else "-".join(map(str, value.values()))


@pytest.mark.parametrize(("family", "changes"), SHAPES, ids=named)
def test_equal_logits_both_ways_and_a_round_trip_of_equal_bits(family, changes, tmp_path):
    theirs = save(tmp_path / "hf", family, **changes)
    report = import_hf.run(str(tmp_path / "hf"), tmp_path / "ours")
    assert report["logit_check"]["result"] == "equal"
    assert list(all_damage(tmp_path / "ours")) == []
    ids = torch.randint(0, IDS, (2, 40))
    model = load_model(tmp_path / "ours")
    with torch.no_grad():
        expected = theirs(ids).logits
        assert (model(ids) - expected).abs().max() < 1e-5
        assert export_hf.run(tmp_path / "ours", tmp_path / "again")["logit_check"]["result"] == "equal"
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "again").eval()
        assert torch.equal(again(ids).logits, expected)
    before, after = weights(tmp_path / "hf"), weights(tmp_path / "again")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert differing(tmp_path) <= {"rotary_emb_base", "rotary_pct"}  # beside rope_parameters, for others to read
    config = load_model_config(tmp_path / "ours")
    rows = changes.get("rows", IDS)
    assert (config.vocab_size, config.num_embeddings) == (IDS, rows)


def differing(folder: Path) -> set[str]:
    """Fields of two configs, as transformers reads them, of different values."""
    a, b = (AutoConfig.from_pretrained(folder / name).to_dict() for name in ("hf", "again"))
    return {key for key in a.keys() | b.keys() if a.get(key) != b.get(key)} - {"_name_or_path"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_stays_as_stored_and_is_compared_in_fp32(family, dtype, tmp_path):
    save(tmp_path / "hf", family, dtype)
    import_hf.run(str(tmp_path / "hf"), tmp_path / "ours")
    assert {tensor.dtype for tensor in read_tensors(tmp_path / "ours", "model").values()} == {dtype}
    report = export_hf.run(tmp_path / "ours", tmp_path / "again")
    assert report["logit_check"]["max_difference"] < 1e-5
    before, after = weights(tmp_path / "hf"), weights(tmp_path / "again")
    assert all(torch.equal(before[name].view(torch.int16), after[name].view(torch.int16)) for name in before)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype="auto").dtype == dtype
    assert next(load_model(tmp_path / "ours").parameters()).dtype == torch.float32
    assert next(load_model(tmp_path / "ours", dtype=torch.bfloat16).parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("family", FAMILIES)
def test_files_in_parts(family, tmp_path):
    theirs = save(tmp_path / "hf", family, shard="20KB")
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 2
    import_hf.run(str(tmp_path / "hf"), tmp_path / "ours", max_shard_size="30KB")
    parts = sorted(path.name for path in (tmp_path / "ours").glob("model-*"))
    assert len(parts) > 1
    assert parts[0] == f"model-00001-of-{len(parts):05}.safetensors"
    export_hf.run(tmp_path / "ours", tmp_path / "again", max_shard_size="25KB")
    index = json.loads((tmp_path / "again" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in weights(tmp_path / "again").values())
    ids = torch.randint(0, IDS, (1, 9))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    with torch.no_grad():
        assert torch.equal(again(ids).logits, theirs(ids).logits)
        assert (load_model(tmp_path / "ours")(ids) - theirs(ids).logits).abs().max() < 1e-5


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_bin_files_without_prefix_with_buffers_and_either_name_of_the_head(family, legacy, tmp_path):
    theirs = save(tmp_path / "hf", family)
    state = {name.removeprefix(theirs.base_model_prefix + "."): value for name, value in theirs.state_dict().items()}
    buffers = {
        "gpt2": {
            "h.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.uint8),
            "h.1.attn.masked_bias": torch.tensor(-1e4),
        },
        "gptj": {"h.0.attn.bias": torch.ones(4, 4, dtype=torch.bool), "h.1.attn.embed_positions": torch.ones(2, 2)},
        "gpt_neox": {"layers.0.attention.rotary_emb.inv_freq": torch.ones(2), "layers.1.attention.bias": torch.ones(1)},
    }[family]
    (tmp_path / "hf" / "model.safetensors").unlink()
    torch.save(state | buffers, tmp_path / "hf" / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    import_hf.run(str(tmp_path / "hf"), tmp_path / "ours", check=False)
    ids = torch.randint(0, IDS, (2, 40))
    with torch.no_grad():
        assert (load_model(tmp_path / "ours")(ids) - theirs(ids).logits).abs().max() < 1e-5


def test_a_bin_in_parts(tmp_path):
    theirs = save(tmp_path / "hf", "gptj")
    state = theirs.state_dict()
    names = sorted(state)
    files = {name: f"pytorch_model-0000{1 + (number > 9)}-of-00002.bin" for number, name in enumerate(names)}
    for file in set(files.values()):
        torch.save({name: state[name] for name in names if files[name] == file}, tmp_path / "hf" / file)
    (tmp_path / "hf" / "model.safetensors").unlink()
    (tmp_path / "hf" / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    assert import_hf.run(str(tmp_path / "hf"), tmp_path / "ours")["logit_check"]["result"] == "equal"


def test_weights_are_taken_in_the_order_of_transformers(tmp_path):
    theirs = save(tmp_path / "hf", "gpt_neox")
    other = {name: torch.full_like(tensor, 7.0) for name, tensor in theirs.state_dict().items()}
    torch.save(other, tmp_path / "hf" / "pytorch_model.bin")
    for ending in ("model.safetensors", "pytorch_model.bin"):  # of an earlier save in parts, which are gone
        stale = {"metadata": {}, "weight_map": dict.fromkeys(other, f"gone-{ending}")}
        (tmp_path / "hf" / f"{ending}.index.json").write_text(json.dumps(stale))
    import_hf.run(str(tmp_path / "hf"), tmp_path / "ours")
    ids = torch.randint(0, IDS, (2, 40))
    with torch.no_grad():
        assert (load_model(tmp_path / "ours")(ids) - theirs(ids).logits).abs().max() < 1e-5
    (tmp_path / "hf" / "model.safetensors").unlink()
    (tmp_path / "hf" / "model.safetensors.index.json").unlink()
    import_hf.run(str(tmp_path / "hf"), tmp_path / "second", check=False)
    assert load_model(tmp_path / "second").embedding.weight[0, 0] == 7.0


@pytest.mark.parametrize("old", [{}, {"rotary_pct": 0.625, "rotary_emb_base": 700}])
def test_rope_scaling_stands_in_the_place_of_rope_parameters(tmp_path, old):
    save(tmp_path / "hf", "gpt_neox", head_dim=16)
    ours = {"rope_type": "default", "rope_theta": 500, "partial_rotary_factor": 0.4}
    change_config(tmp_path / "hf", rope_scaling={"type": "default"}, rope_parameters=ours, **old)
    assert import_hf.run(str(tmp_path / "hf"), tmp_path / "ours")["logit_check"]["result"] == "equal"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_exported_tokenizer_gives_equal_ids(family, tmp_path):
    save(tmp_path / "hf", family)
    import_hf.run(str(tmp_path / "hf"), tmp_path / "ours")
    report = export_hf.run(tmp_path / "ours", tmp_path / "again")
    assert report["tokenizer_check"] == {"result": "equal"}
    check_tokenizer(tmp_path / "ours", tmp_path / "again")
    for name in ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        if (tmp_path / "hf" / name).exists():
            assert json.loads((tmp_path / "hf" / name).read_text()) == json.loads(
                (tmp_path / "again" / name).read_text()
            )


def check_tokenizer(ours: Path, exported: Path) -> None:
    tokenizer, theirs = load_tokenizer(ours), AutoTokenizer.from_pretrained(exported)
    for text in TRICKY[:-1]:  # their tokenizers read a spelt <|endoftext|> as the token
        assert theirs(text)["input_ids"] == tokenizer.encode(text)
    assert theirs.eos_token_id == tokenizer.end_of_document_id
    model = AutoModelForCausalLM.from_pretrained(exported)
    assert model.generation_config.eos_token_id == tokenizer.end_of_document_id
    assert model.config.eos_token_id == tokenizer.end_of_document_id


@pytest.mark.parametrize("base", ["gpt2_tiny", "gptj_tiny", "gpt_neox_tiny"])
def test_a_trained_checkpoint_exports_and_an_imported_one_starts_a_run(base, dataset, tmp_path):
    overrides = [
        "trainer.max_steps=1",
        "schedule.warmup_steps=0",
        "~callbacks.evaluate",
        "callbacks.checkpoint.every_steps=1",
    ]
    if base == "gpt2_tiny":
        overrides.append("~model.position.fraction")
    trainer = build_run(small_config(dataset, tmp_path, *overrides, base=base))
    trainer.train()
    report = export_hf.run(trainer.run_dir, tmp_path / "hf")
    assert (report["logit_check"]["result"], report["tokenizer_check"]["result"]) == ("equal", "equal")
    check_tokenizer(trainer.run_dir, tmp_path / "hf")
    import_hf.run(str(tmp_path / "hf"), tmp_path / "ours")
    trained, imported = (load_model(path).state_dict() for path in (trainer.run_dir, tmp_path / "ours"))
    assert all(torch.equal(trained[name], imported[name]) for name in trained)
    following = build_run(
        small_config(dataset, tmp_path, "name=on", f"continue_from={tmp_path / 'ours'}", *overrides, base=base)
    )
    assert all(torch.equal(value, trained[name]) for name, value in following.model.state_dict().items())
    other = [*overrides, "name=other", f"continue_from={tmp_path / 'ours'}", "model.activation=gelu"]
    if base == "gpt_neox_tiny":
        other[-1] = "model.activation=gelu_tanh"
    with pytest.raises(UserError, match=r"model\.activation is gelu\w* there and gelu\w* here"):
        build_run(small_config(dataset, tmp_path, *other, base=base))


def test_an_imported_checkpoint_says_that_it_is_no_run(tmp_path):
    save(tmp_path / "hf", "gptj")
    import_hf.run(str(tmp_path / "hf"), tmp_path / "ours")
    with pytest.raises(UserError, match="holds a model alone, and no run"):
        load_saved_config(tmp_path / "ours")
    state = json.loads((tmp_path / "ours" / "state.json").read_text())["imported"]
    assert state["logit_check"]["result"] == "equal"
    assert state["logit_check"]["where"].keys() == {"sequence", "position", "token_id"}


def test_without_a_tokenizer(tmp_path, capsys):
    save(tmp_path / "hf", "gpt_neox", tokenizer=False, rows=61, head_dim=12)
    import_hf.run(str(tmp_path / "hf"), tmp_path / "ours")
    assert "holds no tokenizer" in capsys.readouterr().err
    with pytest.raises(UserError, match="imported without a tokenizer"):
        load_tokenizer(tmp_path / "ours")
    export_hf.run(tmp_path / "ours", tmp_path / "again")
    assert "so none is exported" in capsys.readouterr().err


def test_checks_that_did_not_happen_are_recorded(tmp_path, monkeypatch):
    save(tmp_path / "hf", "gptj")
    skipped = import_hf.run(str(tmp_path / "hf"), tmp_path / "a", check=False)
    assert skipped["logit_check"] == {"result": "not checked", "reason": "--no-check"}
    monkeypatch.setattr(logit_check, "available_memory", lambda: 1000)
    small = import_hf.run(str(tmp_path / "hf"), tmp_path / "b")
    assert "GiB of memory are free" in small["logit_check"]["reason"]
    monkeypatch.setattr(logit_check, "_has_transformers", lambda: False)
    absent = import_hf.run(str(tmp_path / "hf"), tmp_path / "c")
    assert "transformers is not installed" in absent["logit_check"]["reason"]
    assert json.loads((tmp_path / "c" / "state.json").read_text())["imported"] == {
        key: value for key, value in absent.items() if key != "checkpoint"
    }
    assert "not installed" in import_hf.describe(absent)


MISTAKES: list[tuple[str, str, Any]] = [
    ("gpt2", "blocks.{}.attention.out", "layout"),
    ("gptj", "blocks.{}.attention.qkv", "order"),
    ("gpt_neox", "hidden_act", "gelu_fast"),
    ("gpt_neox", "rotary_pct", 0.6),
]


@pytest.mark.parametrize(("family", "part", "mistake"), MISTAKES)
def test_a_mistake_in_the_conversion_is_found_and_nothing_stays(family, part, mistake, tmp_path, monkeypatch):
    from modelzoo.convert import hf
    from modelzoo.convert.layout import COPY

    save(tmp_path / "hf", family)
    parts = hf.FAMILIES[family].parts
    if mistake == "layout":
        monkeypatch.setitem(parts, part, parts[part]._replace(layout=COPY))
    elif mistake == "order":
        monkeypatch.setitem(parts, part, parts[part]._replace(theirs=parts[part].theirs[::-1]))
    else:  # our config differs from the one that transformers reads
        real = hf.Family.config_from_hf
        monkeypatch.setattr(
            hf.Family,
            "config_from_hf",
            lambda self, given: real(self, {**given, "rope_parameters": None, part: mistake}),
        )
    with pytest.raises(UserError, match=r"logits differ from transformers' by up to .* so nothing is written"):
        import_hf.run(str(tmp_path / "hf"), tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_mistake_in_the_export_is_found_and_nothing_stays(tmp_path, monkeypatch):
    from modelzoo.convert import exporting

    save(tmp_path / "hf", "gptj")
    import_hf.run(str(tmp_path / "hf"), tmp_path / "ours")
    monkeypatch.setattr(exporting, "foldings", lambda config: {"lm_head.bias": lambda bias: bias * 1.001})
    with pytest.raises(UserError, match=r"exported model's logits in transformers differ .* so nothing is written"):
        export_hf.run(tmp_path / "ours", tmp_path / "again")
    assert {path.name for path in tmp_path.iterdir()} == {"hf", "ours"}


def test_fields_of_older_transformers(tmp_path):
    theirs = save(tmp_path / "hf", "gpt_neox", rotary_emb_base=700)
    change_config(
        tmp_path / "hf",
        rope_parameters=...,
        rotary_pct=0.4,
        rotary_emb_base=700,
        rope_scaling=None,
        torch_dtype="float32",
    )
    import_hf.run(str(tmp_path / "hf"), tmp_path / "ours")
    ids = torch.randint(0, IDS, (2, 40))
    with torch.no_grad():
        assert (load_model(tmp_path / "ours")(ids) - theirs(ids).logits).abs().max() < 1e-5


def save_large_weights(folder: Path, family: str) -> None:
    """A model whose softmaxes are so sharp that rounding in fp32 is seen in the logits."""
    layers = "num_hidden_layers" if family == "gpt_neox" else "n_layer"
    model = small_model(family, heads=4, head_dim=60, **{layers: 10})
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=10, generator=generator)
    model.tie_weights()
    model.save_pretrained(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_rounding_of_large_weights_is_no_mistake_and_hides_none(family, tmp_path, monkeypatch):
    from modelzoo.convert import hf
    from modelzoo.convert.layout import COPY, Layout

    save_large_weights(tmp_path / "hf", family)
    report = import_hf.run(str(tmp_path / "hf"), tmp_path / "ours")["logit_check"]
    if family == "gpt2":
        assert (report["result"], report["computed_in"]) == ("equal", "float64")
    else:  # their tables of angles, and GPT-J's scores, are in fp32 all the same
        assert report["result"] == "equal" or "rounding in fp32 alone" in report["reason"]
    parts = hf.FAMILIES[family].parts
    name = next(name for name in parts if name.endswith("qkv"))
    wrong = parts[name]._replace(theirs=parts[name].theirs[::-1]) if family == "gptj" else parts[name]
    upside_down = Layout(lambda theirs, _: theirs[0].flip(0), lambda ours, _: (ours.flip(0),))
    monkeypatch.setitem(parts, name, wrong if family == "gptj" else wrong._replace(layout=upside_down))
    if family == "gpt2":  # of a square weight, which no shape betrays
        monkeypatch.undo()
        monkeypatch.setitem(parts, out := "blocks.{}.attention.out", parts[out]._replace(layout=COPY))
    with pytest.raises(UserError, match="logits differ"):
        import_hf.run(str(tmp_path / "hf"), tmp_path / "wrong")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_vocabulary_of_one(family, tmp_path):
    save(tmp_path / "hf", family, rows=1, tokenizer=False)
    assert import_hf.run(str(tmp_path / "hf"), tmp_path / "ours")["logit_check"]["result"] == "equal"
