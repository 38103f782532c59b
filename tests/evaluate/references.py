"""Slow and plain: the loss of a document token by token, through transformers alone."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Backend
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from modelzoo.convert import hf
from modelzoo.evaluate.scoring import Scorer
from modelzoo.model.config import ModelConfig
from modelzoo.model.gpt import GPT
from modelzoo.tokenizer import Tokenizer
from modelzoo.trainer.accelerator import Accelerator
from tests.model.families import redraw
from tests.samples import small_tokenizer


def scorer(model: GPT, batch_size: int = 4) -> Scorer:
    return Scorer(model, Accelerator(torch.device("cpu"), "fp32", compile=False, fused_optimizer=True), batch_size)


@torch.no_grad()
def log_likelihood(theirs: Any, context: list[int], token: int) -> float:
    """Of one token after a context, by a forward pass of its own."""
    logits: Tensor = theirs(torch.tensor([context]), use_cache=False).logits[0, -1]
    return float(logits.double().log_softmax(-1)[token])


def document_losses(theirs: Any, ids: list[int], end: int, seq_len: int, stride: int) -> list[float]:
    """The loss of every token of a document and of its closing end-of-document: position p is read in the first
    window that reaches it, windows starting at 0, stride, 2 stride, …"""
    stream = [end, *ids, end]
    losses = []
    for place in range(1, len(stream)):
        start = 0
        while start + seq_len < place:
            start += stride
        losses.append(-log_likelihood(theirs, stream[start:place], stream[place]))
    return losses


def exported(
    folder: Path, family: str, padded: bool = False, max_seq_len: int = 40, tokenizer: Tokenizer | None = None
) -> tuple[GPT, Tokenizer]:
    """A model for `small_tokenizer`, and in `folder` the same one as transformers saves it, with its tokenizer. With
    padding, the embedding has rows that no token uses."""
    tokenizer = tokenizer or small_tokenizer()
    end = tokenizer.end_of_document_id
    common = {"vocab_size": tokenizer.vocab_size + 13 * padded, "bos_token_id": end, "eos_token_id": end}
    names = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": max_seq_len}
    theirs: PreTrainedModel
    match family:
        case "gpt2":
            theirs = GPT2LMHeadModel(GPT2Config(**common, **names, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0))
        case "gptj":
            theirs = GPTJForCausalLM(GPTJConfig(**common, **names, rotary_dim=6))
        case _:
            theirs = GPTNeoXForCausalLM(
                GPTNeoXConfig(
                    **common,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    hidden_size=32,
                    intermediate_size=128,
                    max_position_embeddings=max_seq_len,
                )
            )
    redraw(theirs, seed=7)
    theirs.eval().save_pretrained(folder)
    text = tokenizer.end_of_document_token
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Backend.from_str(tokenizer.backend.to_str()), bos_token=text, eos_token=text, pad_token=text
    )
    fast.save_pretrained(folder)
    fields = hf.config_from_hf(theirs.config.to_dict())
    if padded:
        fields |= {"vocab_size": tokenizer.vocab_size, "padded_vocab_size": fields["vocab_size"]}
    config = ModelConfig.model_validate(fields)
    model = GPT(config)
    model.load_state_dict(hf.weights_from_hf(theirs.state_dict(), theirs.config.to_dict(), config))
    return model.eval(), tokenizer
