"""Small random models as `save_pretrained` writes them, each with a tokenizer; and imports that are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer as Backend
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedTokenizerFast,
)

from modelzoo.base_config import UserError
from modelzoo.cli import import_hf
from tests.model.families import redraw
from tests.samples import small_tokenizer

FAMILIES = ("gpt2", "gptj", "gpt_neox")
IDS = 275
"""Of the tokenizer; more rows than that are padding."""
END = {"bos_token_id": 0, "eos_token_id": 0}


def small_model(family: str, rows: int = 275, heads: int = 3, head_dim: int = 10, **changes: Any) -> Any:
    """A model at an odd shape, in evaluation mode, its weights redrawn."""
    width = heads * head_dim
    sizes = {"n_layer": 2, "n_head": heads, "n_embd": width, "n_positions": 40, "vocab_size": rows}
    no_dropout = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
    model: Any
    match family:
        case "gpt2":
            model = GPT2LMHeadModel(GPT2Config(**{**sizes, **END, **no_dropout, **changes}))
        case "gptj":
            model = GPTJForCausalLM(GPTJConfig(**{**sizes, **END, "rotary_dim": 6, **changes}))
        case "gpt_neox":
            neox = {
                "num_hidden_layers": 2,
                "num_attention_heads": heads,
                "hidden_size": width,
                "intermediate_size": 77,
                "max_position_embeddings": 40,
                "vocab_size": rows,
            }
            model = GPTNeoXForCausalLM(GPTNeoXConfig(**{**neox, **END, "rotary_pct": 0.4, **changes}))
        case _:
            raise AssertionError(family)
    redraw(model, seed=3)
    return model.eval()


def save(
    folder: Path,
    family: str,
    dtype: torch.dtype = torch.float32,
    tokenizer: bool = True,
    shard: str = "5GB",
    **changes: Any,
) -> Any:
    """`small_model` in a folder, and the model."""
    model = small_model(family, **changes).to(dtype)
    model.save_pretrained(folder, max_shard_size=shard)
    if tokenizer:
        backend = Backend.from_str(small_tokenizer().backend.to_str())
        end = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
        PreTrainedTokenizerFast(tokenizer_object=backend, **end, model_max_length=40).save_pretrained(folder)
    return model


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a folder's safetensors."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def change_config(folder: Path, **changes: Any) -> None:
    """Other values in a config.json; `...` removes a field."""
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def refused(folder: Path, message: str) -> None:
    """Importing the folder is refused, and leaves nothing."""
    before = {path.name for path in folder.parent.iterdir()}
    with pytest.raises(UserError, match=message):
        import_hf.run(str(folder), folder.parent / "out")
    after = {path.name for path in folder.parent.iterdir()}
    assert after == before, after ^ before
