"""Logits and gradients against Hugging Face's models in fp32, and a failing mutant for every option.

Widths are small, so that rounding at weights of std 0.3 stays below the absolute tolerance of 1e-5.
"""

from typing import Any

import pytest
import torch

from modelzoo.model.config import ModelConfig
from tests.model.families import MAX_SEQ_LEN, largest_difference, ours, random_ids, reference

CASES: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {"head_dim": 6, "heads": 3}),
    ("gpt2", {"head_dim": 20, "heads": 1, "ffn": 33}),
    ("gpt2", {"head_dim": 10, "activation_function": "gelu", "layer_norm_epsilon": 1e-3}),
    ("gpt2", {"head_dim": 12, "tie_word_embeddings": False}),
    ("gptj", {"head_dim": 12, "fraction": 0.5}),
    ("gptj", {"head_dim": 8, "heads": 3, "fraction": 0.25, "ffn": 17}),
    ("gptj", {"head_dim": 10, "fraction": 1.0, "activation_function": "gelu"}),
    ("gptj", {"head_dim": 20, "heads": 1, "fraction": 0.3}),
    ("gpt_neox", {"head_dim": 12, "fraction": 0.5}),
    ("gpt_neox", {"head_dim": 24, "heads": 1, "fraction": 0.25, "ffn": 31}),
    ("gpt_neox", {"head_dim": 6, "heads": 3, "fraction": 1.0, "use_parallel_residual": False}),
    ("gpt_neox", {"head_dim": 10, "fraction": 0.4, "theta": 500.0, "hidden_act": "gelu_fast"}),
    ("gpt_neox", {"head_dim": 12, "attention_bias": False, "tie_word_embeddings": True}),
]


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 2), (2, 13), (1, MAX_SEQ_LEN)])
@pytest.mark.parametrize(("family", "changes"), CASES, ids=lambda v: v if isinstance(v, str) else str([*v.values()]))
def test_logits_and_gradients(family: str, changes: dict[str, Any], batch: int, length: int) -> None:
    theirs = reference(family, **changes)
    in_logits, in_gradients = largest_difference(theirs, ours(theirs), random_ids(batch, length))
    assert in_logits < 1e-5
    assert in_gradients < 1e-5


def rotary(**options: Any) -> dict[str, Any]:
    return {"position": {"kind": "rotary", "style": "interleaved", "fraction": 0.5, **options}}


def mup(**options: Any) -> dict[str, Any]:
    return {"mup": {"base_hidden_size": 24, "base_ffn_size": 96, **options}}


MUTANTS: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {"num_heads": 3}),
    ("gpt2", {"num_layers": 1}),
    ("gpt2", {"parallel_residual": True}),
    ("gpt2", {"position": {"kind": "none"}}),
    ("gpt2", rotary()),
    ("gpt2", {"activation": "gelu"}),
    ("gpt2", {"attention_bias": False}),
    ("gpt2", {"tie_embeddings": False}),
    ("gpt2", {"norm_eps": 1e-3}),
    ("gpt2", mup()),
    ("gptj", {"parallel_residual": False, "tied_norm": False}),
    ("gptj", {"tied_norm": False}),
    ("gptj", {"lm_head_bias": False}),
    ("gptj", {"position": {"kind": "learned"}}),
    ("gptj", rotary(style="half")),
    ("gptj", rotary(fraction=1.0)),
    ("gptj", rotary(theta=100.0)),
    ("gptj", rotary(unrotated="sinusoidal")),
    ("gpt_neox", {"parallel_residual": False}),
    ("gpt_neox", {"tied_norm": True}),
    ("gpt_neox", {"activation": "gelu_tanh"}),
    ("gpt_neox", {"attention_bias": False}),
    ("gpt_neox", rotary(style="interleaved")),
    ("gpt_neox", rotary(style="half", fraction=0.25, theta=10_000.0) | {"num_heads": 1}),
]


@pytest.mark.parametrize(("family", "change"), MUTANTS, ids=str)
def test_a_wrong_option_shows(family: str, change: dict[str, Any]) -> None:
    theirs = reference(family)
    with torch.no_grad():  # larger logits: the two GELUs, alike to 5e-4, would change them by 3e-4 only
        for name, parameter in theirs.named_parameters():
            parameter *= 10 if "ln_f" in name or "final_layer_norm" in name else 1
    in_logits, _ = largest_difference(theirs, ours(theirs, **change), random_ids(2, 13))
    assert in_logits > 1e-3


def test_a_wrong_dropout_shows() -> None:
    theirs = reference("gpt2")
    in_logits, _ = largest_difference(theirs, ours(theirs, dropout=0.2).train(), random_ids(2, 13))
    assert in_logits > 1e-3


SIZES: dict[str, int] = {
    "hidden_size": 26,
    "ffn_size": 97,
    "vocab_size": 54,
    "padded_vocab_size": 54,
    "max_seq_len": 25,
}


@pytest.mark.parametrize("field", SIZES)
def test_a_wrong_size_does_not_load(field: str) -> None:
    with pytest.raises(RuntimeError, match="size mismatch"):
        ours(reference("gpt2"), **{field: SIZES[field]})


def test_every_option_has_a_mutant() -> None:
    tested = {field for _, change in MUTANTS for field in change} | SIZES.keys() | {"dropout"}
    assert tested == ModelConfig.model_fields.keys() - {"init"}  # test_init.py measures what init draws


def test_bf16_weights_keep_rotary_angles_in_fp32() -> None:
    theirs = reference("gptj", fraction=1.0)
    model = ours(theirs)
    table = model.bfloat16().config.position.table(torch.arange(300, 304), 12)
    assert table is not None
    assert table.dtype == torch.float32
    logits, exact = model(random_ids(2, 13)), theirs(random_ids(2, 13)).logits
    assert logits.dtype == torch.bfloat16
    assert (logits - exact).abs().max() < 0.05 * exact.abs().max()
