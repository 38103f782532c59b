"""The forward pass of generation is that of the model, over every option; other forms of the weights come close."""

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from modelzoo.model.cache import KVCache
from modelzoo.model.config import ModelConfig
from modelzoo.model.decoder import Decoder
from modelzoo.model.gpt import GPT
from modelzoo.model.inference import Inference
from modelzoo.model.weights import Form, packed, float16, int8, linear_of
from tests.model.families import redraw

FIELDS: dict[str, Any] = {
    "num_layers": 2,
    "num_heads": 3,
    "hidden_size": 42,
    "ffn_size": 50,
    "vocab_size": 29,
    "padded_vocab_size": 31,
    "max_seq_len": 21,
}
ROTARY: dict[str, Any] = {"kind": "rotary", "fraction": 0.3, "theta": 100.0}
UNTIED: dict[str, Any] = {"tie_embeddings": False, "lm_head_bias": True}
MUP = {"base_hidden_size": 8, "base_ffn_size": 30, "embeddings_scale": 3.0, "output_logits_alpha": 2.0}
MUP |= {"attention_logits_alpha": 0.7}
OPTIONS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "no bias": {"attention_bias": False},
    "exact gelu": {"activation": "gelu"},
    "norm_eps": {"norm_eps": 1e-2},
    "no position": {"position": {"kind": "none"}},
    "interleaved": {"position": ROTARY},
    "halves": {"position": ROTARY | {"style": "half"}},
    "sinusoids": {"position": ROTARY | {"unrotated": "sinusoidal"}},
    "halves and sinusoids": {"position": ROTARY | {"style": "half", "unrotated": "sinusoidal"}},
    "whole head": {"position": ROTARY | {"style": "half", "fraction": 1.0}},
    "untied": UNTIED,
    "parallel": {"parallel_residual": True},
    "tied norm": {"parallel_residual": True, "tied_norm": True, "position": ROTARY},
    "muP": {"mup": MUP},
    "muP, head with bias": {"mup": MUP} | UNTIED,
    "odd heads": {"num_heads": 2, "hidden_size": 26, "position": ROTARY | {"fraction": 0.31}},
    "one head": {"num_heads": 1, "dropout": 0.5},
}


def made(options: dict[str, Any], dtype: torch.dtype = torch.float32) -> GPT:
    model = GPT(ModelConfig.model_validate(FIELDS | options))
    redraw(model, seed=3)
    return model.to(dtype).eval()


def in_chunks(model: GPT, ids: Tensor, chunks: list[int], weights: Form = "model") -> Tensor:
    """Logits (B, T, vocab_size) of rows that are read in chunks of these lengths, beside each other."""
    cache = KVCache(model.config, len(ids), ids.shape[1], dtype=model.embedding.weight.dtype)
    inference, logits = Inference(model, weights), []
    with torch.inference_mode():
        for chunk in ids.split(chunks, dim=1):
            cache.expect(0, [(row, chunk.shape[1]) for row in range(len(ids))])
            hidden = inference.hidden(chunk.flatten(), cache)
            logits.append(inference.logits(hidden).unflatten(0, chunk.shape))
    return torch.cat(logits, dim=1)


def ids_of(batch: int, length: int = 21) -> Tensor:
    return torch.randint(0, 29, (batch, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("chunks", [[21], [1] * 21, [7, 1, 13]], ids=["whole", "single", "chunks"])
@pytest.mark.parametrize("name", OPTIONS)
def test_logits_are_the_models(name: str, chunks: list[int]) -> None:
    model, ids = made(OPTIONS[name]), ids_of(3)
    found = in_chunks(model, ids, chunks)
    torch.testing.assert_close(found, model(ids)[..., :29], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", sorted(OPTIONS.keys() - {"gpt2", "one head", "odd heads"}))
def test_each_option_matters(name: str) -> None:
    """The comparison above would fail, were the option ignored."""
    model, ids = made(OPTIONS[name]), ids_of(1)
    plain = GPT(model.config.model_copy(update={"mup": None}) if "muP" in name else ModelConfig(**FIELDS))
    redraw(plain, seed=3)
    plain.load_state_dict(model.state_dict(), strict=False)
    assert (in_chunks(plain.eval(), ids, [21]) - model(ids)[..., :29]).abs().max() > 1e-4


def test_bf16_keeps_positions_in_fp32() -> None:
    model, ids = made(OPTIONS["halves"], torch.bfloat16), ids_of(2)
    found, expected = in_chunks(model, ids, [5, 1, 15]), model(ids)[..., :29].float()
    exact = made(OPTIONS["halves"])
    exact.load_state_dict(model.state_dict())
    error = (expected - exact(ids)[..., :29]).square().mean()
    assert (found - exact(ids)[..., :29]).square().mean() < 1.5 * error


@pytest.mark.parametrize(("weights", "tolerance"), [("packed", 1e-5), ("float16", 4e-3), ("int8", 8e-2)])
@pytest.mark.parametrize("name", ["gpt2", "tied norm", "muP, head with bias"])
def test_forms_come_close(name: str, weights: Form, tolerance: float) -> None:
    """Relative to the spread of the logits; int8 rounds to 1/254 of each output's largest weight."""
    if weights == "float16" and "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("torch without FBGEMM")
    model, ids = made(OPTIONS[name]), ids_of(2)
    expected = model(ids)[..., :29]
    for chunks in ([21], [1] * 21):
        error = (in_chunks(model, ids, chunks, weights) - expected).square().mean().sqrt() / expected.std()
        assert (1e-5 if weights != "packed" else -1) < error < tolerance


@pytest.mark.parametrize("make", [packed, float16, int8])
@pytest.mark.parametrize("num", [1, 2, 40])
def test_products(make: Any, num: int) -> None:
    if make is float16 and "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("torch without FBGEMM")
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(num, 64, generator=draw)
    for outputs in (32, 200):
        weight, bias = torch.randn(outputs, 64, generator=draw), torch.randn(outputs, generator=draw)
        weight[3] = 0  # its scale would be 0
        for b in (bias, None):
            exact = torch.nn.functional.linear(x, weight, b)
            assert (make(weight, b)(x) - exact).abs().max() < {packed: 1e-4, float16: 0.02, int8: 0.5}[make]


def test_impossible_forms_are_refused() -> None:
    model = made({})
    with pytest.raises(ValueError, match="weights='int4': expected model, packed, float16, int8"):
        Decoder(model, weights="int4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"weights='float16' needs weights up to 65504 \(found 1e\+06\)"):
        float16(torch.full((4, 4), 1e6), None)
    with pytest.raises(ValueError, match="weights='int8' is for the CPU, and the model is on meta"):
        int8(torch.ones(4, 4, device="meta"), None)
    assert [linear_of(form) for form in get_args(Form)]
