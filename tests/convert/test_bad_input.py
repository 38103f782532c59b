"""Configs and options that cannot be converted: a message that names the field, and nothing under a final name."""

import json

import pytest

from modelzoo.base_config import UserError
from modelzoo.cli import export_hf, import_hf
from modelzoo.convert.family import NEVER
from tests.cli.test_cli import modelzoo
from tests.convert.hf_models import change_config, refused, save
from tests.convert.test_fold import MODELS, checkpoint


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
