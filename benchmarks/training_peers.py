"""The peers of `benchmarks.training`, each as its own scripts train it: transformers, litgpt, nanoGPT.

A process that holds one of them alone imports next to nothing of ours.
"""

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmarks.training_case import ADAMW, Case, Step
from modelzoo.convert import hf

if TYPE_CHECKING:
    from modelzoo.trainer.protocols import Batch

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of input_ids and labels (B, T), the labels already shifted; the mean over tokens."""


@dataclass
class _Peer:
    loss: Loss
    parameters: Iterable[Tensor]


def _transformers(case: Case, weights: Mapping[str, Tensor] | None, compiled: bool) -> _Peer:
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = hf.config_to_hf(case.model)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.device(case.device):
        model = AutoModelForCausalLM.from_config(config)
    if weights is not None:
        own = model.state_dict()
        named = {name if name in own else name.replace("embed_out", "lm_head"): each for name, each in weights.items()}
        missing, surplus = model.load_state_dict(named, strict=False)
        assert not surplus, surplus
        assert set(missing) <= ({"lm_head.weight"} if case.model.tie_embeddings else set()), missing
    model.train()
    run = torch.compile(model) if compiled else model

    def loss(input_ids: Tensor, labels: Tensor) -> Tensor:
        return run(input_ids=input_ids, labels=labels, shift_labels=labels, use_cache=False).loss

    return _Peer(loss, model.parameters())


def _litgpt(case: Case, weights: Mapping[str, Tensor] | None, compiled: bool) -> _Peer:
    from litgpt.config import Config
    from litgpt.model import GPT as LitGPT
    from litgpt.scripts.convert_hf_checkpoint import copy_weights_gpt_neox
    from litgpt.utils import chunked_cross_entropy

    ours = case.model
    config = Config(
        block_size=ours.max_seq_len,
        padded_vocab_size=ours.num_embeddings,
        vocab_size=ours.vocab_size,
        n_layer=ours.num_layers,
        n_head=ours.num_heads,
        n_embd=ours.hidden_size,
        rotary_percentage=0.25,
        parallel_residual=True,
        bias=True,
        gelu_approximate="none",
        norm_eps=ours.norm_eps,
    )
    with torch.device(case.device):
        model = LitGPT(config)
    if weights is not None:
        theirs = dict[str, Tensor]()
        copy_weights_gpt_neox(config, theirs, dict(weights))
        model.load_state_dict(theirs)
    run = torch.compile(model) if compiled else model
    return _Peer(lambda input_ids, labels: chunked_cross_entropy(run(input_ids), labels), model.parameters())


def _nanogpt(case: Case, weights: Mapping[str, Tensor] | None, compiled: bool) -> _Peer:
    assert case.nanogpt is not None
    sys.path.insert(0, case.nanogpt)
    module = importlib.import_module("model")
    sys.path.remove(case.nanogpt)
    ours = case.model
    sizes = {"n_layer": ours.num_layers, "n_head": ours.num_heads, "n_embd": ours.hidden_size}
    config = module.GPTConfig(block_size=ours.max_seq_len, vocab_size=ours.num_embeddings, **sizes)
    with torch.device(case.device):
        model = module.GPT(config)
    if weights is not None:
        turned = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
        prefix = "" if any(name.startswith("transformer.") for name in weights) else "transformer."
        theirs = {prefix + name: each.T if name.endswith(turned) else each for name, each in weights.items()}
        missing, surplus = model.load_state_dict(theirs, strict=False)
        assert not surplus, surplus
        assert set(missing) <= {"lm_head.weight"}, missing
    run = torch.compile(model) if compiled else model
    return _Peer(lambda input_ids, labels: run(input_ids, labels)[1], model.parameters())


def build(name: str, case: Case, data: "Sequence[Batch]", weights: Mapping[str, Tensor] | None) -> Step:
    """The step that scripts of the peers make, on these weights or on those that the peer draws itself."""
    package, _, compiled = name.partition(", ")
    peer = {"transformers": _transformers, "litgpt": _litgpt, "nanoGPT": _nanogpt}[package](
        case, weights, bool(compiled)
    )
    optimizer = torch.optim.AdamW(peer.parameters, fused=True, **ADAMW)
    keys = ("input_ids", "labels")
    pairs = [[torch.from_numpy(each[key]).contiguous().to(case.device) for key in keys] for each in data]

    def step(index: int) -> float:
        with torch.autocast(case.device, torch.bfloat16, enabled=case.precision == "bf16"):
            loss = peer.loss(*pairs[index % len(pairs)])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step
