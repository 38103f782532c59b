"""Properties of the model: causality, memory, dropout, multipliers, names."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from modelzoo.model.config import ModelConfig
from modelzoo.model.gpt import GPT
from tests.model.families import redraw

SMALL: dict[str, Any] = {
    "num_layers": 2,
    "num_heads": 2,
    "hidden_size": 24,
    "vocab_size": 53,
    "max_seq_len": 41,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "no position": {"position": {"kind": "none"}},
    "gpt-j": {
        "parallel_residual": True,
        "tied_norm": True,
        "position": {"kind": "rotary", "fraction": 0.5},
        "attention_bias": False,
        "tie_embeddings": False,
        "lm_head_bias": True,
    },
    "gpt-neox": {
        "parallel_residual": True,
        "position": {"kind": "rotary", "style": "half", "fraction": 0.5},
        "tie_embeddings": False,
    },
    "sinusoids": {"position": {"kind": "rotary", "fraction": 0.5, "unrotated": "sinusoidal"}},
}


def build(**changes: Any) -> GPT:
    model = GPT(ModelConfig.model_validate(SMALL | changes))
    redraw(model, seed=0)
    return model.eval()


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> dict[str, Any]:
    return FAMILIES[request.param]


def test_causality(family: dict[str, Any]) -> None:
    """Logits at t depend on every token up to t, and on none after it."""
    model, length = build(**family), 9
    embedded: list[Tensor] = []

    def keep(_module: Any, _args: Any, output: Tensor) -> None:
        embedded.append(output.detach().requires_grad_())

    model.embedding.register_forward_hook(lambda *args: (keep(*args), embedded[0])[1])
    logits = model(torch.randint(0, 53, (1, length)))
    for t in range(length):
        (gradient,) = torch.autograd.grad(logits[0, t].square().sum(), embedded[0], retain_graph=True)
        touched = gradient[0].abs().amax(-1) > 0
        assert touched.tolist() == [position <= t for position in range(length)]


def test_no_attention_matrix(family: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """No mask is passed, and no tensor of (…, T, T) is made."""
    length = 37
    masks: list[Any] = []
    shapes: set[Any] = set()
    attention = F.scaled_dot_product_attention

    def record(*args: Any, **kwargs: Any) -> Tensor:
        masks.append(kwargs.get("attn_mask"))
        return attention(*args, **kwargs)

    class Shapes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            results = result if isinstance(result, tuple | list) else (result,)
            shapes.update(t.shape[-2:] for t in results if isinstance(t, Tensor))
            return result

    monkeypatch.setattr(F, "scaled_dot_product_attention", record)
    with Shapes():
        model = build(**family)
        model.loss(*torch.randint(0, 53, (2, 3, length)))[0].backward()
    assert masks == [None, None]
    assert (length, 24) in shapes
    assert (length, length) not in shapes


def test_too_long() -> None:
    with pytest.raises(ValueError, match="42 tokens is longer than max_seq_len=41; shorten"):
        build()(torch.zeros(1, 42, dtype=torch.long))


def test_dropout_is_active_only_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities = []
    attention = F.scaled_dot_product_attention

    def record(*args: Any, **kwargs: Any) -> Tensor:
        probabilities.append(kwargs["dropout_p"])
        return attention(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", record)
    model, ids = build(dropout=0.25), torch.randint(0, 53, (4, 41))
    zeros: dict[str, float] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout):
            module.register_forward_hook(
                lambda _m, _i, out, name=name: zeros.__setitem__(name, (out == 0).float().mean().item())
            )
    branches = [f"blocks.{layer}.{branch}.dropout" for layer in (0, 1) for branch in ("attention", "mlp")]

    model.train()
    assert not torch.equal(model(ids), model(ids))
    assert probabilities == [0.25] * 4
    assert zeros == pytest.approx(dict.fromkeys(["dropout", *branches], 0.25), abs=0.03)
    model.eval()
    assert torch.equal(model(ids), build()(ids))
    assert probabilities[4:] == [0.0] * 4
    assert set(zeros.values()) == {0.0}


def mup(**options: Any) -> dict[str, Any]:
    return {"mup": {"base_hidden_size": 12, "base_ffn_size": 32, **options}}  # m = 2, m_f = 3


def test_mup_embeddings_scale() -> None:
    plain, scaled = build(**mup()), build(**mup(embeddings_scale=14.6))
    seen: list[Tensor] = []
    for model in (plain, scaled):
        model.blocks[0].register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
        model(torch.arange(7)[None])
    torch.testing.assert_close(seen[1], 14.6 * seen[0])


@pytest.mark.parametrize("family", ["gpt2", "gpt-j"], indirect=True)
def test_mup_output_logits(family: dict[str, Any]) -> None:
    ids, labels = torch.randint(0, 53, (2, 2, 7))
    model = build(**family, **mup(output_logits_alpha=2.2))
    hidden = model.hidden(ids)
    if model.lm_head is None:
        expected = hidden @ model.embedding.weight.T * 2.2 / 2
    else:  # a bias does not grow with the width, and is not divided by it
        torch.nn.init.normal_(model.lm_head.bias)
        expected = hidden @ model.lm_head.weight.T * 2.2 / 2 + model.lm_head.bias
    torch.testing.assert_close(model(ids), expected)
    expected = F.cross_entropy(model(ids).flatten(0, 1), labels.flatten(), reduction="sum")
    torch.testing.assert_close(model.loss(ids, labels)[0], expected)


def test_mup_attention_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    scales = []
    attention = F.scaled_dot_product_attention

    def record(*args: Any, **kwargs: Any) -> Tensor:
        scales.append(kwargs["scale"])
        return attention(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", record)
    for options in ({}, mup(), mup(attention_logits_alpha=4.0)):
        build(**options)(torch.arange(7)[None])
    assert scales == pytest.approx(2 * [1 / math.sqrt(12)] + 2 * [1 / 12] + 2 * [4 / 12])


def test_mup_learning_rates(family: dict[str, Any]) -> None:
    expected = {"qkv": 1 / 2, "out": 1 / 2, "fc_in": 1 / 2, "fc_out": 1 / 3}
    for options, factors in ((mup(), expected), ({}, {})):
        model = build(**family, **options)
        multipliers = model.lr_multipliers()
        assert multipliers.keys() == dict(model.named_parameters()).keys()
        for name, multiplier in multipliers.items():
            module, kind = name.split(".")[-2:]
            assert multiplier == pytest.approx(factors.get(module, 1.0) if kind == "weight" else 1.0), name


def test_mup_is_the_standard_parametrisation_at_the_base_width() -> None:
    """With alpha = sqrt(head_dim), which undoes 1 / head_dim against 1 / sqrt(head_dim)."""
    options = {"base_hidden_size": 24, "base_ffn_size": 96, "attention_logits_alpha": math.sqrt(12)}
    ids = torch.randint(0, 53, (2, 7))
    standard = GPT(ModelConfig.model_validate(SMALL))
    same = GPT(ModelConfig.model_validate(SMALL | {"mup": options}))
    torch.testing.assert_close(same(ids), standard(ids))


def test_parameter_names() -> None:
    block = ["norm_1", "attention.qkv", "attention.out", "norm_2", "mlp.fc_in", "mlp.fc_out"]
    names = {f"blocks.{i}.{part}.{kind}" for i in (0, 1) for part in block for kind in ("weight", "bias")}
    names |= {"embedding.weight", "position_embedding.weight", "final_norm.weight", "final_norm.bias"}
    assert build().state_dict().keys() == names
    assert build(tie_embeddings=False).state_dict().keys() == names | {"lm_head.weight"}
