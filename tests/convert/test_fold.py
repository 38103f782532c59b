"""muP's multipliers worked into the weights: equal logits in transformers, one multiplier at a time."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from modelzoo.base_config import UserError
from modelzoo.cli import export_hf
from modelzoo.convert import exporting
from modelzoo.convert.fold import foldings
from modelzoo.model.config import ModelConfig
from modelzoo.model.gpt import GPT
from modelzoo.run_config import dump_yaml
from modelzoo.saved_models import load_model
from modelzoo.trainer.checkpoint import write_checkpoint
from tests.convert.hf_models import weights
from tests.model.families import redraw

SIZES: dict[str, Any] = {
    "num_layers": 2,
    "num_heads": 3,
    "hidden_size": 30,
    "ffn_size": 44,
    "vocab_size": 61,
    "max_seq_len": 24,
}
MODELS: dict[str, dict[str, Any]] = {
    "gpt2_tied": {},
    "gpt2_untied": {"tie_embeddings": False},
    "gptj": {
        "parallel_residual": True,
        "tied_norm": True,
        "position": {"kind": "rotary", "style": "interleaved", "fraction": 0.4},
        "attention_bias": False,
        "lm_head_bias": True,
        "tie_embeddings": False,
    },
    "gpt_neox": {
        "parallel_residual": True,
        "position": {"kind": "rotary", "style": "half", "fraction": 0.4},
        "activation": "gelu",
        "tie_embeddings": False,
    },
    "gpt_neox_tied": {"position": {"kind": "rotary", "style": "half", "fraction": 1.0}, "tie_embeddings": True},
}
BASE = {"base_hidden_size": 30, "base_ffn_size": 44}
MULTIPLIERS: dict[str, dict[str, Any]] = {
    "embed": {"embeddings_scale": 3.7},
    "attention": {"attention_logits_alpha": 2.9},
    "logits": {"output_logits_alpha": 0.43},
    "width": {"base_hidden_size": 10, "base_ffn_size": 11},
    "all": {
        "base_hidden_size": 15,
        "embeddings_scale": 5.3,
        "attention_logits_alpha": 4.0,
        "output_logits_alpha": 2.22,
    },
}


def checkpoint(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    config = ModelConfig.model_validate({**SIZES, **options})
    model = GPT(config)
    redraw(model, seed=5)
    lines = "\n".join("  " + line for line in dump_yaml(config).splitlines())
    texts = {"state.json": "{}\n", "config.yaml": f"model:\n{lines}\n"}
    write_checkpoint(folder, {"model": model.to(dtype).state_dict()}, texts)
    return folder


@pytest.mark.parametrize("multiplier", MULTIPLIERS)
@pytest.mark.parametrize("model", MODELS)
def test_equal_logits(model, multiplier, tmp_path):
    folder = checkpoint(tmp_path / "mup", **MODELS[model], mup={**BASE, **MULTIPLIERS[multiplier]})
    report = export_hf.run(folder, tmp_path / "hf")
    assert report["logit_check"]["result"] == "equal"
    assert report["folded"]
    ids = torch.randint(0, 61, (2, 24))
    with torch.no_grad():
        wanted = load_model(folder)(ids)
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")(ids).logits
    assert (found - wanted).abs().max() < 1e-5 * max(1, wanted.abs().max())


@pytest.mark.parametrize("multiplier", MULTIPLIERS)
@pytest.mark.parametrize("model", MODELS)
def test_a_factor_that_is_left_out_is_found(model, multiplier, tmp_path, monkeypatch):
    """Each folding on its own is needed: without any one of them nothing is written."""
    folder = checkpoint(tmp_path / "mup", **MODELS[model], mup={**BASE, **MULTIPLIERS[multiplier]})
    whole = load_model(folder)
    kept = {name: fold for name, fold in foldings(whole.config).items() if name in whole.state_dict()}
    for name in sorted(kept):
        monkeypatch.setattr(exporting, "foldings", lambda _, left=name: {k: v for k, v in kept.items() if k != left})
        with pytest.raises(UserError, match="nothing is written"):
            export_hf.run(folder, tmp_path / "hf")
    assert {path.name for path in tmp_path.iterdir()} == {"mup"}


@pytest.mark.parametrize("head_dim", [5, 7, 10, 64, 96, 256])
def test_nothing_is_folded_in_the_standard_parametrisation(head_dim):
    sizes = {**SIZES, "num_heads": 1, "hidden_size": head_dim}
    assert foldings(ModelConfig.model_validate(sizes)) == {}


def test_half_precision_is_folded_in_fp32(tmp_path):
    """In fp16 the product would be rounded, and the logits no longer be equal."""
    folder = checkpoint(tmp_path / "mup", torch.float16, mup={**BASE, **MULTIPLIERS["all"]})
    assert export_hf.run(folder, tmp_path / "hf")["logit_check"]["result"] == "equal"
    types = {name: tensor.dtype for name, tensor in weights(tmp_path / "hf").items()}
    assert types["transformer.wte.weight"] == torch.float32
    assert types["transformer.h.0.mlp.c_fc.weight"] == torch.float16
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype="auto").dtype == torch.float32
