"""The forward pass of generation is that of the model, over every option; other forms of the weights come close."""

from functools import partial
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from modelzoo.model import weights as forms
from modelzoo.model.cache import KVCache
from modelzoo.model.config import ModelConfig
from modelzoo.model.decoder import Decoder
from modelzoo.model.gpt import GPT
from modelzoo.model.inference import Inference, _Fused
from modelzoo.model.weights import Form, float16, int8, linear_of, packed
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


def with_like_gains(model: GPT) -> GPT:
    """Gains uneven over the channels, and nearly the same in both LayerNorms of a block, as training leaves them."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for block in model.blocks:
            common = torch.randn(model.config.hidden_size, generator=draw).mul(0.7).exp()
            for norm in (block.norm_1, block.norm_2):
                norm.weight.copy_(common * torch.randn(len(common), generator=draw).mul(0.1).exp())
    return model


def in_chunks(model: GPT, ids: Tensor, chunks: list[int], weights: Form = "model") -> Tensor:
    """Logits (B, T, vocab_size) of rows that are read in chunks of these lengths, beside each other."""
    cache = KVCache(model.config, len(ids), ids.shape[1], dtype=model.embedding.weight.dtype)
    inference, logits = Inference(model, weights, max_rows=len(ids)), []
    with torch.inference_mode():
        for chunk in ids.split(chunks, dim=1):
            cache.expect(0, [(row, chunk.shape[1]) for row in range(len(ids))])
            hidden = inference.hidden(chunk.flatten(), cache)
            logits.append(inference.logits(hidden).unflatten(0, chunk.shape))
    return torch.cat(logits, dim=1)


def ids_of(batch: int, length: int = 21) -> Tensor:
    return torch.randint(0, 29, (batch, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("chunks", [[21], [1] * 21, [7, 1, 13]], ids=["whole", "single", "chunks"])
@pytest.mark.parametrize(("weights", "batch"), [("model", 3), ("packed", 1), ("packed", 3)])
@pytest.mark.parametrize("name", OPTIONS)
def test_logits_are_the_models(
    name: str, weights: Form, batch: int, chunks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "BLOCKED_WEIGHTS", 0)
    model, ids = made(OPTIONS[name]), ids_of(batch)
    found = in_chunks(model, ids, chunks, weights)
    torch.testing.assert_close(found, model(ids)[..., :29], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "dtype", "weights", "is_fused"),
    [
        ("gpt2", torch.float32, "packed", False),
        ("parallel", torch.float32, "packed", True),
        ("parallel", torch.float32, "int8", False),  # gains with nothing in common
        ("tied norm", torch.float32, "int8", True),
        ("parallel", torch.float32, "model", False),
        ("parallel", torch.bfloat16, "packed", False),
        ("tied norm", torch.bfloat16, "packed", True),
    ],
)
def test_which_blocks_are_fused(name: str, dtype: torch.dtype, weights: Form, is_fused: bool) -> None:
    layers = Inference(made(OPTIONS[name], dtype), weights)._layers
    assert {isinstance(layer, _Fused) for layer in layers} == {is_fused}


def test_int8_is_fused_where_gains_are_alike() -> None:
    model, ids = with_like_gains(made(OPTIONS["parallel"])), ids_of(2)
    assert all(isinstance(layer, _Fused) for layer in Inference(model, "int8")._layers)
    expected = model(ids)[..., :29]
    error = (in_chunks(model, ids, [21], "int8") - expected).square().mean().sqrt() / expected.std()
    assert error < 3e-2


def test_int8_does_not_mind_what_gains_and_weights_share() -> None:
    """A channel's gain times 2, its weights by 2: the same model."""
    model, ids = made(OPTIONS["tied norm"]), ids_of(2)
    expected = model(ids)[..., :29].detach()

    def error() -> float:
        return float((in_chunks(model, ids, [21], "int8") - expected).square().mean().sqrt() / expected.std())

    before, draw = error(), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for block in model.blocks:
            factor = torch.randn(42, generator=draw).exp()
            for gain in (block.norm_1.weight, block.norm_1.bias):
                gain.mul_(factor)
            for weight in (block.attention.qkv.weight, block.mlp.fc_in.weight):
                weight.div_(factor)
    assert error() == pytest.approx(before, rel=1e-2)


GAINS: dict[str, tuple[float, float, int]] = {
    "even": (0, 0, 0),
    "nearly even": (0, 0.2, 0),
    "alike": (1, 0.2, 0),
    "a few far above the others": (0, 0.1, 4),
    "apart": (0, 1, 0),
}
"""Spread (of the logarithm) that both gains have in common, and that of each; channels with 30 times the gain."""


@pytest.mark.parametrize("name", GAINS)
def test_factors_for_two_gains(name: str) -> None:
    """One int8 product of both weights is no worse than two of their own, or it is declined."""
    common, own, outliers = GAINS[name]
    draw = torch.Generator().manual_seed(0)
    shared = torch.randn(96, generator=draw).mul(common).exp()
    shared[:outliers] *= 30
    gains = [shared * torch.randn(96, generator=draw).mul(own).exp() for _ in range(2)]
    weights = [torch.randn(rows, 96, generator=draw) for rows in (200, 300)]
    weights[1] *= 50  # a weight's size does not matter
    gains[0][7] = gains[1][7] = 0
    x = torch.randn(64, 96, generator=draw)
    found = forms.shared_factors(weights, gains)
    assert (found is None) == (name == "apart")
    if found is None:
        return
    for weight, gain in zip(weights, gains, strict=True):
        exact = (x * gain) @ weight.t()
        apart = (int8(weight, None)(x * gain) - exact).norm()
        assert (int8(weight * gain / found, None)(x * found) - exact).norm() < 1.15 * apart


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


@pytest.mark.parametrize(
    ("weights", "tolerance"), [("packed", 1e-5), ("float16", 4e-3), ("int8", 8e-2), ("mixed", 8e-2)]
)
@pytest.mark.parametrize("name", ["gpt2", "parallel", "tied norm", "muP, head with bias"])
def test_forms_come_close(name: str, weights: Form, tolerance: float) -> None:
    """Relative to the spread of the logits; int8 rounds to 1/254 of each output's largest weight."""
    if weights == "float16" and "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("torch without FBGEMM")
    model, ids = made(OPTIONS[name]), ids_of(2)
    expected = model(ids)[..., :29]
    for chunks in ([21], [1] * 21):
        error = (in_chunks(model, ids, chunks, weights) - expected).square().mean().sqrt() / expected.std()
        assert (1e-5 if weights != "packed" else -1) < error < tolerance


@pytest.mark.parametrize("make", [packed, partial(packed, max_rows=2), float16, int8])
@pytest.mark.parametrize("num", [1, 2, 40])
def test_products(make: Any, num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if make is float16 and "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("torch without FBGEMM")
    monkeypatch.setattr(forms, "BLOCKED_WEIGHTS", 0)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(num, 67, generator=draw)[:, 1:65]  # not beside each other, as parts of a fused product are not
    for outputs in (32, 200):
        weight, bias = torch.randn(outputs, 64, generator=draw), torch.randn(outputs, generator=draw)
        weight[3] = 0  # its scale would be 0
        for b in (bias, None):
            exact = torch.nn.functional.linear(x, weight, b)
            assert (make(weight, b)(x) - exact).abs().max() < {float16: 0.02, int8: 0.5}.get(make, 1e-4)


@pytest.mark.parametrize(("has_int8", "tolerance"), [(True, 3e-4), (False, 5e-3)])
def test_int8_rounds_weights_alone(has_int8: bool, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of weights that 8 bits hold the product is exact but for the inputs' rounding: 13 bits, or bf16 without FBGEMM.
    One row's values do not matter to another."""
    if has_int8 and not forms._has_int8():
        pytest.skip("torch without FBGEMM")
    monkeypatch.setattr(forms, "_has_int8", lambda: has_int8)
    draw = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (40, 70), generator=draw).float()
    weight[:, 0] = 127
    weight[:2] = torch.tensor([[127.0], [-127.0]])  # sums as large as they get: they must not overflow
    bias, x = torch.randn(40, generator=draw), torch.randn(6, 70, generator=draw)
    x[1] *= 1e6
    x[2] = 0
    x[3] = 1
    product, exact = int8(weight, bias), torch.nn.functional.linear(x, weight, bias)
    error = (product(x) - exact).norm(dim=1) / exact.norm(dim=1)
    assert error.max() < tolerance
    assert all(torch.equal(product(row[None])[0], found) for row, found in zip(x, product(x), strict=True))
    many = x.repeat(100, 1)
    assert torch.equal(product(many), product(x).repeat(100, 1))
    assert not product(x.index_fill(1, torch.tensor(3), torch.nan)).isfinite().any()


@pytest.mark.parametrize("unit", [1.0, 1e-6, 1e6], ids=["fp16", "too small for fp16", "too large"])
@pytest.mark.parametrize("num", [1, 5])
def test_bf16_without_instructions(unit: float, num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As near to the exact product as bf16 is."""
    monkeypatch.setattr(forms, "multiplies_bf16", lambda: False)
    draw = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(90, 80, generator=draw).mul(unit).bfloat16(), torch.zeros(90, dtype=torch.bfloat16)
    x = torch.randn(num, 80, generator=draw).bfloat16()
    exact = torch.nn.functional.linear(x.double(), weight.double())
    found = packed(weight, bias, max_rows=5)(x)
    assert found.dtype == torch.bfloat16
    assert (found - exact).norm() < 2**-8 * exact.norm()


@pytest.mark.parametrize("weights", get_args(Form))
def test_a_model_that_is_not_kept_gives_up_its_blocks(weights: Form) -> None:
    ids = ids_of(1)[0].tolist()

    def tokens(keep_model: bool) -> list[int]:
        model = made(OPTIONS["tied norm"])
        decoder = Decoder(model, 1, weights=weights, keep_model=keep_model)
        assert len(model.blocks) == (2 if keep_model else 0)
        decoder.add(ids[:5], max_new_tokens=9)
        return [token.token_id for _ in range(9) for token in decoder.step()]

    assert tokens(keep_model=False) == tokens(keep_model=True)


def test_mixed_reads_prompts_in_fp16() -> None:
    if not forms._has_float16():
        pytest.skip("torch without FBGEMM")
    draw = torch.Generator().manual_seed(0)
    weight, bias, x = torch.randn(40, 70, generator=draw), torch.randn(40, generator=draw), torch.randn(9, 70)
    product = forms.mixed(weight, bias)
    assert torch.equal(product(x), float16(weight, bias)(x))
    assert torch.equal(product(x[:8]), int8(weight, bias)(x[:8]))
    assert torch.equal(linear_of("mixed", max_rows=9, reads_prompts=False)(weight, bias)(x), product(x))
    assert torch.equal(linear_of("mixed", max_rows=8, reads_prompts=False)(weight, bias)(x), int8(weight, bias)(x))
    for size in (1e6, 1e-8):  # fp16 does not hold it
        assert torch.equal(forms.mixed(weight * size, bias)(x), int8(weight * size, bias)(x))


@pytest.mark.skipif(not forms.multiplies_bf16(), reason="a CPU without instructions for bf16")
@pytest.mark.parametrize("num", [1, 5, 40])
def test_bf16_with_instructions(num: int) -> None:
    draw = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(rows, 80, generator=draw).bfloat16() for rows in (90, num))
    exact = torch.nn.functional.linear(x.double(), weight.double())
    assert (packed(weight, None, max_rows=5)(x) - exact).norm() < 2**-7 * exact.norm()


def test_impossible_forms_are_refused() -> None:
    model = made({})
    with pytest.raises(ValueError, match="weights='int4': expected model, packed, float16, int8, mixed"):
        Decoder(model, weights="int4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"weights='float16' needs weights up to 65504 \(found 1e\+06\)"):
        float16(torch.full((4, 4), 1e6), None)
    with pytest.raises(ValueError, match="weights='int8' is for the CPU, and the model is on meta"):
        int8(torch.ones(4, 4, device="meta"), None)
    assert [linear_of(form) for form in get_args(Form)]
