"""muP's multipliers, one by one: each reaches what it multiplies, and a wrong one is seen there and nowhere else.

What a model does is measured on the model and the optimizer; the rules are written out here a second time.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modelzoo.model import attention, gpt, init
from modelzoo.model.config import ModelConfig
from modelzoo.model.gpt import GPT
from modelzoo.model.scaling import HIDDEN_MATRICES, Scaling, scaling_of
from modelzoo.optimizer.adamw import AdamWConfig
from modelzoo.optimizer.base import parameter_groups
from modelzoo.run_config import load_run_config

FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gptj": {
        "parallel_residual": True,
        "tied_norm": True,
        "position": {"kind": "rotary", "style": "interleaved", "fraction": 0.5},
        "attention_bias": False,
        "lm_head_bias": True,
        "tie_embeddings": False,
        "init": {"scheme": "mesh_jax"},
    },
    "gpt_neox": {
        "parallel_residual": True,
        "position": {"kind": "rotary", "style": "half", "fraction": 0.5},
        "activation": "gelu",
        "tie_embeddings": False,
        "init": {"scheme": "small_wang"},
    },
}
D, K, F_, V = 96, 12, 432, 53
BASE_D, BASE_F = 48, 144  # m = 2, m_f = 3
M, M_F = D / BASE_D, F_ / BASE_F
SIZES = {"num_layers": 2, "num_heads": D // K, "hidden_size": D, "ffn_size": F_, "vocab_size": V, "max_seq_len": 16}
SCALARS = {"embeddings_scale": 14.6, "output_logits_alpha": 2.22, "attention_logits_alpha": 4.0}


def config(family: str, **changes: Any) -> ModelConfig:
    mup = {"base_hidden_size": BASE_D, "base_ffn_size": BASE_F, **SCALARS}
    return ModelConfig.model_validate(SIZES | FAMILIES[family] | {"mup": mup} | changes)


def expected(model: ModelConfig) -> dict[str, float]:
    """Yang et al. 2022, table 8, with the names and scalars of Cerebras-GPT (Dey et al. 2023, appendix G)."""
    base = ModelConfig.model_validate(
        model.model_dump() | {"hidden_size": BASE_D, "ffn_size": BASE_F, "num_heads": BASE_D // K, "mup": None}
    )
    std, hidden = init.init_stds(base), {"qkv": M, "out": M, "fc_in": M, "fc_out": M_F}
    return {
        "embed": 14.6,
        "attention": 4.0 / K,
        "logits": 2.22 / M,
        "head bias": 1.0,
        **{f"std {name}": std[name] / math.sqrt(hidden.get(name, 1.0)) for name in (*HIDDEN_MATRICES, "embedding")},
        **{f"lr {name}": 1 / hidden[name] for name in HIDDEN_MATRICES},
        **{f"lr {name}": 1.0 for name in ("embedding", "lm_head", "biases", "norms")},
        **({} if model.tie_embeddings else {"std lm_head": std["lm_head"]}),
    }


def observed(model: GPT, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the model and its optimizer do, by the names of `expected`."""
    found: dict[str, float] = {}
    cut = 0.880 if model.config.init.scheme == "mesh_jax" else 1.0  # of a normal truncated at ±2 std
    for module in (*HIDDEN_MATRICES, "embedding", *(["lm_head"] if model.lm_head else [])):
        weights = [p.flatten() for n, p in model.named_parameters() if n.split(".")[-2:] == [module, "weight"]]
        found[f"std {module}"] = torch.cat(weights).std().item() / cut
    rates: dict[str, set[float]] = {"lr lm_head": {1.0}} if model.lm_head is None else {}
    for group in parameter_groups(model.named_parameters(), 1.0, 0.1, model.lr_multipliers()):
        for name in group["names"]:
            module, kind = name.split(".")[-2:]
            named = "norms" if "norm" in module else "biases" if kind == "bias" else module
            rates.setdefault(f"lr {named}", set()).add(group["lr"])
    rates.pop("lr position_embedding", None)
    for name, values in rates.items():
        assert len(values) == 1, (name, values)
        found[name] = values.pop()

    scales: list[float] = []
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *a, **k: (scales.append(k["scale"]), fused(*a, **k))[1]
    )
    inputs: list[Tensor] = []
    model.blocks[0].register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
    ids = torch.randint(0, V, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        hidden = model.hidden(ids)
        embedded = model.embedding(ids)
        if model.position_embedding is not None:
            embedded = embedded + model.position_embedding(torch.arange(9))
        found["embed"] = (inputs[0] / embedded).median().item()
        found["attention"] = scales[0]
        weight = model.embedding.weight if model.lm_head is None else model.lm_head.weight
        found["logits"] = (model.logits(hidden) / (hidden @ weight.T)).median().item()
        found["head bias"] = 1.0
        if model.lm_head is not None and model.lm_head.bias is not None:
            without = model.logits(hidden)
            model.lm_head.bias += 1.0
            found["head bias"] = (model.logits(hidden) - without).mean().item()
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_what_each_multiplier_does(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = config(family)
    assert observed(GPT(chosen), monkeypatch) == pytest.approx(expected(chosen), rel=0.04)


def wrong(kind: str, name: str) -> Callable[[Scaling], Scaling]:
    return lambda right: replace(right, **{kind: getattr(right, kind) | {name: getattr(right, kind)[name] * 1.5}})


MISTAKES: dict[str, Callable[[Scaling], Scaling]] = {
    "embed": lambda right: replace(right, embed=right.embed * 1.5),
    "attention": lambda right: replace(right, attention=right.attention * 1.5),
    "logits": lambda right: replace(right, logits=right.logits * 1.5),
    **{f"std {name}": wrong("init_std", name) for name in HIDDEN_MATRICES},
    **{f"lr {name}": wrong("lr", name) for name in HIDDEN_MATRICES},
    "lr embedding": lambda right: replace(right, lr=right.lr | {"embedding": 1.5}),
    "lr lm_head": lambda right: replace(right, lr=right.lr | {"lm_head": 1.5}),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_multiplier_is_seen_where_it_acts(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (gpt, attention, init):
        monkeypatch.setattr(module, "scaling_of", lambda model: MISTAKES[mistake](scaling_of(model)))
    model = GPT(config("gptj"))
    found = observed(model, monkeypatch)
    monkeypatch.undo()
    right = expected(model.config)
    assert {name for name, value in found.items() if value != pytest.approx(right[name], rel=0.04)} == {mistake}


@pytest.mark.parametrize("family", FAMILIES)
def test_at_the_base_width_it_is_the_standard_model_with_the_scalars_in_its_weights(family: str) -> None:
    """embeddings_scale on the embeddings, output_logits_alpha on the head, attention_logits_alpha on the queries."""
    at_base = {"mup": {"base_hidden_size": D, "base_ffn_size": F_, **SCALARS}, "tie_embeddings": False}
    scaled, standard = GPT(config(family, **at_base)), GPT(config(family, **at_base | {"mup": None}))
    with torch.no_grad():
        standard.embedding.weight *= 14.6
        if standard.position_embedding is not None:
            standard.position_embedding.weight *= 14.6
        assert standard.lm_head is not None
        standard.lm_head.weight *= 2.22
        for block in standard.blocks:
            block.attention.qkv.weight.unflatten(0, (-1, 3, K))[:, 0] *= 4.0 / math.sqrt(K)
    ids = torch.randint(0, V, (2, 9))
    torch.testing.assert_close(scaled(ids), standard(ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_at_the_base_width_it_learns_as_the_standard_model_does(family: str) -> None:
    """With all scalars neutral: bit for bit, weights and steps."""
    neutral = {"base_hidden_size": D, "base_ffn_size": F_, "attention_logits_alpha": math.sqrt(16)}
    sizes = {"num_heads": D // 16}  # 4 / 16 is 16 ** -0.5 exactly
    ids, labels = torch.randint(0, V, (2, 2, 9))
    weights = []
    for mup in (neutral, None):
        model = GPT(config(family, mup=mup, **sizes))
        optimizer = AdamWConfig(lr=1e-2)
        groups = parameter_groups(model.named_parameters(), optimizer.lr, 0.1, model.lr_multipliers())
        optim = optimizer.build(groups, fused=True)
        for _ in range(3):
            model.loss(ids, labels)[0].backward()
            optim.step()
            optim.zero_grad()
        weights.append(model.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_the_numbers_of_gpt_j_6b() -> None:
    """Twice the base width of 2048: computed, where the published file types 1.0 and 0.0714 for the stds."""
    model = load_run_config("params_gptj_6B_muP").model
    scaling, stds = scaling_of(model), init.init_stds(model)
    assert (scaling.embed, scaling.attention, scaling.logits) == pytest.approx((14.6, 4.0 / 256, 2.22 / 2))
    assert scaling.lr == pytest.approx(dict.fromkeys(HIDDEN_MATRICES, 1 / 2))
    assert stds["qkv"] == stds["fc_in"] == pytest.approx(0.0221 / math.sqrt(2), rel=1e-3)
    assert stds["out"] == stds["fc_out"] == pytest.approx(0.0118 / math.sqrt(56) / math.sqrt(2), rel=2e-3)
    assert stds["lm_head"] == pytest.approx(0.0221, rel=1e-3)
