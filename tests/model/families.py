"""Small random Hugging Face models with the same models of ours, and how far apart two models are."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedModel,
)

from modelzoo.convert import hf
from modelzoo.model.config import ModelConfig
from modelzoo.model.gpt import GPT

VOCAB, MAX_SEQ_LEN = 53, 24
_COMMON = {"vocab_size": VOCAB, "bos_token_id": None, "eos_token_id": None, "attn_implementation": "eager"}


def redraw(model: nn.Module, seed: int) -> None:
    """Weights, biases and norms alike from a normal of std 0.3, so that none of them hides behind 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=generator)


def reference(family: str, *, heads: int = 2, head_dim: int = 12, ffn: int | None = None, **changes: Any) -> Any:
    """A Hugging Face model in evaluation mode with redrawn weights."""
    width = heads * head_dim
    names = {"n_layer": 2, "n_head": heads, "n_embd": width, "n_inner": ffn, "n_positions": MAX_SEQ_LEN}
    model: PreTrainedModel
    match family:
        case "gpt2":
            no_dropout = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
            model = GPT2LMHeadModel(GPT2Config(**_COMMON, **names, **no_dropout, **changes))
        case "gptj":
            rotary_dim = int(head_dim * changes.pop("fraction", 0.5))
            model = GPTJForCausalLM(GPTJConfig(**_COMMON, **names, rotary_dim=rotary_dim, **changes))
        case "gpt_neox":
            rope = {"rope_type": "default", "rope_theta": changes.pop("theta", 10_000.0)}
            rope["partial_rotary_factor"] = changes.pop("fraction", 0.5)
            config = GPTNeoXConfig(
                **_COMMON,
                num_hidden_layers=2,
                num_attention_heads=heads,
                hidden_size=width,
                intermediate_size=ffn or 4 * width,
                max_position_embeddings=MAX_SEQ_LEN,
                rope_parameters=rope,
                **changes,
            )
            model = GPTNeoXForCausalLM(config)
        case _:
            raise AssertionError(family)
    assert model.config._attn_implementation == "eager"
    redraw(model, seed=7)
    return model.eval()


def ours(theirs: Any, **changes: Any) -> GPT:
    """The same model; with `changes` to its ModelConfig a mutant, whose weights are shared where both have
    them."""
    fields = hf.config_from_hf(theirs.config.to_dict())
    weights = hf.weights_from_hf(theirs.state_dict(), theirs.config.to_dict(), ModelConfig.model_validate(fields))
    model = GPT(ModelConfig.model_validate(fields | changes))
    redraw(model, seed=8)
    model.load_state_dict(weights, strict=not changes)
    return model.eval()


def random_ids(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def largest_difference(theirs: Any, model: GPT, input_ids: Tensor) -> tuple[float, float]:
    """The largest difference of the logits, absolute, and of the gradients of the mean cross-entropy.

    That of the gradients is the larger of the absolute one and of the one relative to the parameter's largest
    gradient: means over tokens are small, and an absolute bound alone would be an easy one.
    """
    labels = random_ids(*input_ids.shape, seed=1)
    expected = theirs(input_ids, use_cache=False).logits
    theirs.zero_grad()
    F.cross_entropy(expected.flatten(0, 1), labels.flatten()).backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    fields = ModelConfig.model_validate(hf.config_from_hf(theirs.config.to_dict()))
    wanted = hf.weights_from_hf(gradients, theirs.config.to_dict(), fields)  # the mapping is linear

    model.zero_grad()
    loss, num_tokens = model.loss(input_ids, labels)
    (loss / num_tokens).backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    in_logits = (model(input_ids) - expected).abs().max().item()
    in_gradients = max(_difference(found[name], wanted[name]) for name in found.keys() & wanted.keys())
    return in_logits, in_gradients


def _difference(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).abs().max() / wanted.abs().max().clamp(max=1.0)).item()
