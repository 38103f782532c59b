"""What cannot be converted: a message that names tensor, file or field, and nothing under a final name."""

import json
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modelzoo import tokenizer_files
from modelzoo.base_config import UserError
from modelzoo.cli import export_hf, import_hf
from modelzoo.convert import importing
from modelzoo.convert.family import NEVER
from modelzoo.saved_models import load_model_config
from modelzoo.trainer import checkpoint as checkpoint_files
from tests.cli.test_cli import modelzoo
from tests.convert.hf_models import FAMILIES, change_config, save
from tests.convert.test_fold import MODELS, checkpoint
from tests.samples import small_tokenizer

QKV = {
    "gpt2": "transformer.h.1.attn.c_attn.weight",
    "gptj": "transformer.h.1.attn.k_proj.weight",
    "gpt_neox": "gpt_neox.layers.1.attention.query_key_value.bias",
}


@pytest.fixture(params=FAMILIES)
def hf_folder(request, tmp_path):
    save(tmp_path / "hf", request.param)
    return tmp_path / "hf"


def refused(folder: Path, message: str) -> None:
    """Importing the folder is refused, and leaves nothing."""
    before = {path.name for path in folder.parent.iterdir()}
    with pytest.raises(UserError, match=message):
        import_hf.run(str(folder), folder.parent / "out")
    assert {path.name for path in folder.parent.iterdir()} == before


def change_weights(folder: Path, change) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_missing_tensor(hf_folder):
    family = json.loads((hf_folder / "config.json").read_text())["model_type"]
    change_weights(hf_folder, lambda state: state.pop(QKV[family]))
    refused(hf_folder, f"the weights have no '{QKV[family]}'")


def test_an_extra_tensor(hf_folder):
    change_weights(hf_folder, lambda state: state.update({"h.7.mystery.weight": torch.zeros(2)}))
    refused(hf_folder, r"1 tensors that the config does not need: 'h\.7\.mystery\.weight'")


def test_a_wrong_shape(hf_folder):
    family = json.loads((hf_folder / "config.json").read_text())["model_type"]
    change_weights(hf_folder, lambda state: state.update({QKV[family]: state[QKV[family]][..., :-1].contiguous()}))
    refused(hf_folder, rf"{QKV[family]} has shape \(.*\), and the config needs \(")


def test_a_type_that_is_no_weight(hf_folder):
    family = json.loads((hf_folder / "config.json").read_text())["model_type"]
    change_weights(hf_folder, lambda state: state.update({QKV[family]: state[QKV[family]].to(torch.int8)}))
    refused(hf_folder, f"{QKV[family]}' is of a type that is not read")


def test_another_tied_head(tmp_path):
    save(tmp_path / "hf", "gpt2")
    change_weights(tmp_path / "hf", lambda state: state.update({"lm_head.weight": torch.zeros(275, 30)}))
    refused(tmp_path / "hf", r"lm_head\.weight differs from the embedding")


def test_a_head_under_both_names(tmp_path):
    save(tmp_path / "hf", "gpt_neox")
    change_weights(tmp_path / "hf", lambda state: state.update({"lm_head.weight": state["embed_out.weight"].clone()}))
    refused(tmp_path / "hf", "hold both 'embed_out.weight' and 'lm_head.weight'")


@pytest.mark.parametrize("length", [0, 5, 300, -1])
def test_a_truncated_safetensors_file(hf_folder, length):
    file = hf_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    refused(hf_folder, r"model\.safetensors: not a whole safetensors file")


def test_a_part_that_is_missing_cut_or_not_what_the_index_says(tmp_path):
    save(tmp_path / "hf", "gptj", shard="40KB")
    part = next(iter((tmp_path / "hf").glob("model-00002*")))
    content = part.read_bytes()
    part.write_bytes(content[:-7])
    refused(tmp_path / "hf", f"{part.name}: not a whole safetensors file")
    part.unlink()
    refused(tmp_path / "hf", f"{part.name}: no such file")
    part.write_bytes(next(iter((tmp_path / "hf").glob("model-00001*"))).read_bytes())
    refused(tmp_path / "hf", f"{part.name}: holds '.*', and so does model-00001")
    save_file({"other": torch.zeros(1)}, part)
    refused(tmp_path / "hf", f"{part.name}: has no tensor '.*', and model.safetensors.index.json says so")
    index = tmp_path / "hf" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    refused(tmp_path / "hf", "has no weight_map of tensor names to files beside it")


class Runs:
    """Unpickling it would write a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_bin_that_holds_code_is_not_run(tmp_path, zipped):
    theirs = save(tmp_path / "hf", "gpt2")
    (tmp_path / "hf" / "model.safetensors").unlink()
    state = {**theirs.state_dict(), "extra": Runs(tmp_path / "hf" / "has_run")}
    file = tmp_path / "hf" / "pytorch_model.bin"
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    refused(tmp_path / "hf", r"pytorch_model\.bin: is not read: it is damaged, or holds more than tensors")
    assert not (tmp_path / "hf" / "has_run").exists()
    torch.load(file, weights_only=False)
    assert (tmp_path / "hf" / "has_run").exists()  # the trap is a real one


def test_other_bins(tmp_path):
    theirs = save(tmp_path / "hf", "gpt2")
    (tmp_path / "hf" / "model.safetensors").unlink()
    file = tmp_path / "hf" / "pytorch_model.bin"
    torch.save(theirs.state_dict(), file)
    file.write_bytes(file.read_bytes()[:-100])
    refused(tmp_path / "hf", "pytorch_model.bin: is not read")
    torch.save([1, 2], file)
    refused(tmp_path / "hf", "holds no tensors by name")
    torch.save({"epoch": 3}, file)
    refused(tmp_path / "hf", "'epoch' is no tensor")


def test_no_weights_no_config_no_directory(tmp_path):
    save(tmp_path / "hf", "gpt2")
    (tmp_path / "hf" / "model.safetensors").unlink()
    refused(tmp_path / "hf", "no weights in this directory; expected model.safetensors or pytorch_model.bin")
    (tmp_path / "hf" / "config.json").unlink()
    refused(tmp_path / "hf", r"config\.json: no such file")
    refused(tmp_path / "gone", "gone: no such directory")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "expected a JSON object, found list"),
        ('"\\ud800', "not JSON"),
        ("{}", "model_type=None is not supported; supported are gpt2, gptj, gpt_neox"),
        ('{"model_type": "llama"}', "model_type='llama' is not supported"),
        ('{"model_type": ["gpt2"]}', "is not supported"),
        ('{"model_type": "gpt2"}', "the config has no field 'n_layer'"),
    ],
)
def test_a_malformed_config(tmp_path, text, message):
    save(tmp_path / "hf", "gpt2")
    (tmp_path / "hf" / "config.json").write_text(text)
    refused(tmp_path / "hf", rf"config\.json: .*{message.replace('(', '.')}")


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("gpt2", "n_layer", "2"),
        ("gpt2", "n_head", 0),
        ("gpt2", "n_head", 7),
        ("gpt2", "n_embd", 30.0),
        ("gpt2", "layer_norm_epsilon", None),
        ("gpt2", "layer_norm_epsilon", -1),
        ("gpt2", "reorder_and_upcast_attn", True),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True),
        ("gptj", "rotary_dim", 5),
        ("gptj", "rotary_dim", 64),
        ("gptj", "n_inner", -3),
        ("gpt_neox", "use_parallel_residual", None),
        ("gpt_neox", "hidden_act", "swiglu"),
        ("gpt_neox", "rope_parameters", {"rope_type": "default", "partial_rotary_factor": 0.3, "rope_theta": 1e4}),
        ("gpt_neox", "rope_parameters", {"rope_type": "linear", "factor": 2.0}),
        ("gpt_neox", "rope_parameters", "default"),
        ("gpt_neox", "num_key_value_heads", 1),
        ("gptj", "alibi", True),
        ("gpt2", "quantization_config", {"bits": 8}),
        ("gpt2", "multi_query", True),
        ("gpt2", "add_cross_attention", True),
        ("gpt2", "layer_norm_epsilon", 10**400),
        ("gpt2", "layer_norm_epsilon", float("nan")),
        ("gpt2", "attn_pdrop", 10**400),
        ("gpt2", "n_embd", 10**400),
        ("gpt2", "n_layer", 10**8),
        ("gpt2", "activation_function", ["gelu"]),
        ("gpt_neox", "rope_parameters", {"partial_rotary_factor": 0.3, "rope_theta": 1e4}),
        ("gpt_neox", "rotary_pct", 0.3),
        ("gpt_neox", "eos_token_id", "0"),
        ("gptj", "bos_token_id", [0]),
        ("gptj", "pad_token_id", True),
        ("gpt2", "eos_token_id", [0, 1.5]),
        ("gpt2", "dtype", "nonsense"),
        ("gptj", "torch_dtype", "nn"),
        ("gpt_neox", "head_dim", 99),
        ("gptj", "rope_scaling", {"type": "linear", "factor": 2.0}),
        ("gpt2", "rope_scaling", {"type": "linear", "factor": 2.0}),
        ("gpt_neox", "position_embedding_type", "alibi"),
        ("gpt2", "position_embedding_type", "relative_key"),
        ("gpt_neox", "rope_parameters", {"full_attention": {"rope_type": "default", "rope_theta": 500}}),
        ("gpt2", "note", "\ud800"),
        ("gpt2", "note", [{"\ud800": 1}]),
    ],
)
def test_a_field_that_we_cannot_represent_is_named(tmp_path, family, field, value):
    save(tmp_path / "hf", family)
    if field == "rotary_pct":
        change_config(tmp_path / "hf", rope_parameters=...)
    change_config(tmp_path / "hf", **{field: value})
    refused(tmp_path / "hf", rf"config\.json: .*{field}")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_json_that_cannot_be_written_again(tmp_path, name):
    save(tmp_path / "hf", "gpt_neox")
    file = tmp_path / "hf" / name
    plain = json.loads(file.read_text())
    for depth in (200, 100_000):
        file.write_text(json.dumps(plain)[:-1] + ', "deep": ' + "[" * depth + "]" * depth + "}")
        refused(tmp_path / "hf", rf"{name}: .*nested more than 100 deep")
    file.write_text(json.dumps({**plain, "note": "\ud800"}))
    refused(tmp_path / "hf", rf"{name}: 'note' holds half a character")


@pytest.mark.parametrize("kind", ["meta", "csr", "coo", "nested"])
def test_a_bin_of_tensors_without_values(tmp_path, kind):
    theirs = save(tmp_path / "hf", "gpt2")
    (tmp_path / "hf" / "model.safetensors").unlink()
    state = theirs.state_dict()
    weight = state[QKV["gpt2"]]
    state[QKV["gpt2"]] = {
        "meta": lambda: weight.to("meta"),
        "csr": weight.to_sparse_csr,
        "coo": weight.to_sparse,
        "nested": lambda: torch.nested.nested_tensor([weight, weight[:2]]),
    }[kind]()
    torch.save(state, tmp_path / "hf" / "pytorch_model.bin")
    refused(tmp_path / "hf", rf"pytorch_model\.bin: ('{QKV['gpt2']}' is no dense tensor|is not read)")


def test_sizes_beyond_all_bounds(tmp_path):
    save(tmp_path / "hf", "gpt2")
    for size in ("9" * 400, "9" * 400 + "GB", "99999999999GB"):
        with pytest.raises(UserError, match=r"--max-shard-size 9+…?(GB)?: expected a size"):
            import_hf.run(str(tmp_path / "hf"), tmp_path / "ours", max_shard_size=size)
    import_hf.run(str(tmp_path / "hf"), tmp_path / "ours", check=False)
    many = ("vocab", "ours", "hf", "new", "--multiple-of", "99999999999999")
    assert "65536" in modelzoo(*many, cwd=tmp_path, code=2).stderr


def test_fields_that_never_may_be_set_are_harmless_when_they_are_not(tmp_path):
    save(tmp_path / "hf", "gptj")
    change_config(tmp_path / "hf", **{name: allowed[-1] for name, allowed in NEVER.items()})
    import_hf.run(str(tmp_path / "hf"), tmp_path / "ours")


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


def test_out_exists(tmp_path):
    save(tmp_path / "hf", "gpt2")
    import_hf.run(str(tmp_path / "hf"), tmp_path / "ours")
    with pytest.raises(UserError, match="ours: exists already"):
        import_hf.run(str(tmp_path / "hf"), tmp_path / "ours")
    with pytest.raises(UserError, match="hf: exists already"):
        export_hf.run(tmp_path / "ours", tmp_path / "hf")
    with pytest.raises(UserError, match="--max-shard-size 5 apples: expected a size"):
        export_hf.run(tmp_path / "ours", tmp_path / "out", max_shard_size="5 apples")


def test_an_interrupted_import_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    save(tmp_path / "hf", "gpt2")
    monkeypatch.setattr(importing, "check_logits", interrupt)
    with pytest.raises(KeyboardInterrupt):
        import_hf.run(str(tmp_path / "hf"), tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_full_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    save(tmp_path / "hf", "gpt2")
    monkeypatch.setattr(importing, "write_tensors", full)
    refused(tmp_path / "hf", "no space left on the device")
    assert checkpoint_files.MANIFEST not in {path.name for path in tmp_path.iterdir()}


UNREPRESENTABLE = [
    ("gpt2_tied", {"parallel_residual": True}, "model.parallel_residual=true .needs false."),
    ("gpt2_tied", {"attention_bias": False}, "model.attention_bias=false .needs true."),
    ("gpt2_tied", {"position": {"kind": "none"}}, "model.position.kind=none"),
    ("gpt2_untied", {"lm_head_bias": True}, "model.lm_head_bias=true"),
    ("gptj", {"attention_bias": True}, "model.attention_bias=true .needs false.*GPTJForCausalLM, which cannot hold"),
    ("gptj", {"lm_head_bias": False}, "model.lm_head_bias=false"),
    ("gptj", {"tied_norm": False}, "model.tied_norm=false"),
    ("gptj", {"tie_embeddings": True, "lm_head_bias": False}, "model.tie_embeddings=true"),
    ("gptj", {"position": {"kind": "rotary", "fraction": 0.4, "theta": 500.0}}, "model.position.theta=500.0"),
    ("gptj", {"position": {"kind": "rotary", "fraction": 0.4, "unrotated": "sinusoidal"}}, "position.unrotated=sinus"),
    (
        "gpt_neox",
        {"position": {"kind": "rotary", "style": "half", "fraction": 0.4, "unrotated": "sinusoidal"}},
        "model.position.unrotated=sinusoidal .needs none",
    ),
    ("gpt_neox", {"tied_norm": True}, "model.tied_norm=true .needs false"),
    ("gpt_neox", {"lm_head_bias": True}, "model.lm_head_bias=true"),
]


@pytest.mark.parametrize(("model", "change", "message"), UNREPRESENTABLE)
def test_what_hugging_face_cannot_hold_is_refused_by_its_option(model, change, message, tmp_path):
    folder = checkpoint(tmp_path / "ours", **{**MODELS[model], **change})
    with pytest.raises(UserError, match=message):
        export_hf.run(folder, tmp_path / "hf")
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_the_commands_exit_with_2_and_no_traceback(tmp_path):
    save(tmp_path / "hf", "gptj")
    change_config(tmp_path / "hf", model_type="bloom")
    done = modelzoo("import", "hf", "ours", cwd=tmp_path, code=2)
    assert "hf/config.json: model_type='bloom' is not supported" in done.stderr
    change_config(tmp_path / "hf", model_type="gptj")
    report = json.loads(modelzoo("import", "hf", "ours", "--json", "--no-check", cwd=tmp_path).stdout)
    assert report["logit_check"]["reason"] == "--no-check"
    assert "exists already" in modelzoo("export", "ours", "hf", cwd=tmp_path, code=2).stderr
    text = modelzoo("generate", "ours", "--prompt", "the", "--max-new-tokens", "3", cwd=tmp_path).stdout
    assert text.startswith("the")


def test_the_hub_is_asked_aloud_and_for_what_is_needed(tmp_path, monkeypatch, capsys):
    save(tmp_path / "cache", "gpt_neox")
    asked = []

    def snapshot_download(repository, revision, allow_patterns):
        asked.append((repository, revision, allow_patterns))
        return str(tmp_path / "cache")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    report = import_hf.run("EleutherAI/pythia-14m@step3000", tmp_path / "ours")
    assert "taken as a repository of the Hugging Face hub" in capsys.readouterr().err
    assert report["from"] == "EleutherAI/pythia-14m@step3000"
    assert [call[:2] for call in asked] == [("EleutherAI/pythia-14m", "step3000")]
    assert {"config.json", "model.safetensors", "model-*.safetensors", "tokenizer.json"} <= set(asked[0][2])
    assert not any(pattern.endswith(".bin") for pattern in asked[0][2])


def test_no_network_and_no_package(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("We couldn't connect to 'https://huggingface.co'\nand more")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=offline))
    with pytest.raises(UserError, match=r"hf://owner/name: cannot be downloaded .*couldn't connect.*its files by hand"):
        import_hf.run("owner/name", tmp_path / "ours")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"needs the package huggingface_hub; install it .*modelzoo\[hub\]"):
        import_hf.run("hf://owner/name@v1", tmp_path / "ours")
    assert tokenizer_files.HUB.fullmatch("hf://owner/name@v1")
    (tmp_path / "models").mkdir()
    with pytest.raises(UserError, match="models/typo: no such directory; give"):
        import_hf.run("models/typo", tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["models"]
