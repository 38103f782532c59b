"""The coordinate check: level under muP, not under the standard parametrisation, nor with a wrong multiplier."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from modelzoo.model import attention, gpt, init
from modelzoo.model.config import ModelConfig
from modelzoo.model.gpt import GPT
from modelzoo.model.scaling import HIDDEN_MATRICES, Scaling, scaling_of
from modelzoo.mup import coordinates
from modelzoo.mup.coordinates import Size
from modelzoo.mup.report import CoordinateReport, Part, check, slope
from modelzoo.mup.widths import Settings
from modelzoo.optimizer.adamw import AdamWConfig
from modelzoo.run_config import load_run_config
from tests.model.test_scaling import FAMILIES

OPTIMIZER = AdamWConfig(lr=1e-3)
WIDTHS = (128, 256, 512, 1024)


def config(family: str, **mup: Any) -> ModelConfig:
    neutral = {"base_hidden_size": 128, "base_ffn_size": 512, "attention_logits_alpha": math.sqrt(32)}
    sizes = {"num_layers": 2, "num_heads": 4, "hidden_size": 128, "vocab_size": 256, "max_seq_len": 64}
    return ModelConfig.model_validate(sizes | FAMILIES[family] | {"mup": neutral | mup})


def standard(family: str) -> ModelConfig:
    return config(family).model_copy(update={"mup": None})


def slopes(report: CoordinateReport) -> dict[str, tuple[float, float]]:
    return {part.name: (round(part.size_slope, 2), round(part.change_slope, 2)) for part in report.parts}


# GPT-2's embeddings of std 0.02 are as small as what a step adds to them: a smaller step is less noisy
@pytest.mark.parametrize(
    ("family", "lr", "widths"),
    [("gptj", 2**-9, WIDTHS), ("gpt_neox", 2**-9, WIDTHS), ("gpt2", 2**-10, WIDTHS[:3])],
)
def test_activations_are_level_from_128_to_1024(family: str, lr: float, widths: tuple[int, ...]) -> None:
    report = check(config(family), OPTIMIZER, widths, seeds=(0, 1), settings=Settings(lr=lr))
    for part in report.parts:
        limit = 0.2 if (family, part.name) == ("gpt2", "head") else 0.1  # tied: what the embedding learns is in it
        assert abs(part.change_slope) <= limit, slopes(report)
        # the head starts random, which falls as width^-½; after the steps, the logits are what was learnt
        assert abs(part.size_slope) <= 0.1 or part.name == "head", slopes(report)
    assert not report.failing or family == "gpt2"


@pytest.mark.parametrize("family", ["gptj", "gpt_neox"])
def test_the_standard_parametrisation_fails(family: str) -> None:
    report = check(standard(family), OPTIMIZER, WIDTHS, seeds=(0,), settings=Settings())
    failing = {part.name: part.verdict() for part in report.failing}
    for part in ("attention logits", "attention", "MLP", "output"):
        assert failing[f"block 0 {part}"] == failing[f"block 1 {part}"] == "grows", slopes(report)
    assert failing["head"] == failing["logits"] == "grows"


def scale(kind: str, name: str, power: float) -> Callable[[Scaling, float], Scaling]:
    """A mistake: `name` of `kind` is off by m^power."""
    return lambda s, m: replace(s, **{kind: getattr(s, kind) | {name: getattr(s, kind).get(name, 1.0) * m**power}})


PARTS = {"qkv": "block 0 attention logits", "out": "block 0 attention", "fc_in": "block 0 MLP", "fc_out": "block 0 MLP"}
MISTAKES: dict[str, tuple[Callable[[Scaling, float], Scaling], str, str]] = {
    "embeddings grow": (lambda s, m: replace(s, embed=s.embed * m**0.5), "embedding", "grows"),
    "logits not divided": (lambda s, m: replace(s, logits=s.logits * m), "logits", "grows"),
    "logits divided by sqrt(m)": (lambda s, m: replace(s, logits=s.logits * m**0.5), "logits", "grows"),
    "embedding's rate / m": (scale("lr", "embedding", -1), "embedding", "shrinks"),
    "head's rate / m": (scale("lr", "lm_head", -1), "head", "shrinks"),
    "head's rate × m": (scale("lr", "lm_head", 1), "head", "grows"),
    **{f"std of {name} not scaled": (scale("init_std", name, 0.5), PARTS[name], "grows") for name in HIDDEN_MATRICES},
    "std of qkv scaled twice": (scale("init_std", "qkv", -0.5), PARTS["qkv"], "shrinks"),
    **{f"rate of {name} not scaled": (scale("lr", name, 1), PARTS[name], "grows") for name in HIDDEN_MATRICES},
}


def plant(monkeypatch: pytest.MonkeyPatch, mistake: Callable[[Scaling, float, int], Scaling]) -> None:
    def wrong(model: ModelConfig) -> Scaling:
        assert model.mup is not None
        return mistake(scaling_of(model), model.hidden_size / model.mup.base_hidden_size, model.head_dim)

    for module in (gpt, attention, init):
        monkeypatch.setattr(module, "scaling_of", wrong)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_multiplier_fails_at_its_part(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake, part, verdict = MISTAKES[name]
    plant(monkeypatch, lambda right, m, _head_dim: mistake(right, m))
    report = check(config("gptj"), OPTIMIZER, (128, 512), seeds=(0,), settings=Settings())
    assert {p.name: p.verdict(tolerance=0.2) for p in report.parts}[part] == verdict, slopes(report)


@pytest.mark.parametrize("wrong", [False, True])
def test_attention_logits_over_head_dim_is_seen_where_head_dim_grows(
    wrong: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a fixed head_dim, 1 / head_dim and 1 / sqrt(head_dim) differ by a constant, which nothing here sees."""
    if wrong:
        plant(monkeypatch, lambda right, _m, head_dim: replace(right, attention=head_dim**-0.5))
    report = check(config("gptj"), OPTIMIZER, (128, 512), seeds=(0,), settings=Settings(growth="head_dim"))
    verdicts = {part.name: part.verdict() for part in report.parts}
    assert verdicts["block 0 attention logits"] == ("grows" if wrong else "ok"), slopes(report)
    assert wrong or not report.failing, slopes(report)


def test_a_large_eps_shrinks_what_wide_models_learn() -> None:
    """Gradients fall as 1 / m, and eps does not."""
    wide = check(config("gptj"), AdamWConfig(lr=1e-3, eps=1e-3), (128, 512), seeds=(0,), settings=Settings())
    assert slopes(wide)["block 0 attention logits"][1] < -0.2, slopes(wide)


@pytest.mark.parametrize("mistake", ["weight decay", "norms", "biases"])
def test_what_it_cannot_see(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps are too few for these; the tests of the groups' numbers are what keeps them."""
    names = {"weight decay": (), "norms": ("norm_1", "final_norm"), "biases": ()}[mistake]
    multipliers = GPT.lr_multipliers

    def wrong(model: GPT) -> dict[str, float]:
        m = model.config.hidden_size / 128
        chosen = {n for n in multipliers(model) if n.split(".")[-2] in names or (mistake == "biases" and "bias" in n)}
        return {name: lr / m if name in chosen else lr for name, lr in multipliers(model).items()}

    monkeypatch.setattr(GPT, "lr_multipliers", wrong)
    decay = 1.0 if mistake == "weight decay" else 0.1
    optimizer = AdamWConfig(lr=1e-3, weight_decay=decay)
    report = check(config("gptj"), optimizer, (128, 512), seeds=(0,), settings=Settings())
    assert {part.verdict(tolerance=0.2) for part in report.parts} == {"ok"}, slopes(report)


def test_the_named_activations_are_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    model = GPT(Settings().model(config("gpt_neox", embeddings_scale=3.0), 128))
    ids = torch.arange(16)[None]
    with torch.no_grad():
        seen, hidden = coordinates.activations(model, ids)
        torch.testing.assert_close(seen["embedding"], 3.0 * model.embedding(ids))
        torch.testing.assert_close(
            seen["block 0 output"], seen["embedding"] + seen["block 0 attention"] + seen["block 0 MLP"]
        )
        torch.testing.assert_close(model.final_norm(seen["block 1 output"]), hidden)
        torch.testing.assert_close(seen["logits"], model(ids))
        block = model.blocks[0].attention
        table = model.config.position.table(torch.arange(16), 32)
        q, k = block.qkv(model.blocks[0].norm_1(seen["embedding"])).unflatten(-1, (4, 3, 32))[..., :2, :].unbind(-2)
        q, k = (block.rotate(x.transpose(1, 2), table) for x in (q, k))
        scores = (q @ k.mT)[..., torch.ones(16, 16, dtype=torch.bool).tril()] * math.sqrt(32) / 32
        torch.testing.assert_close(seen["block 0 attention logits"], scores, atol=1e-5, rtol=1e-5)
        assert model(ids).shape == (1, 16, 16)  # nothing is left hooked
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_slope_is_the_exponent_of_a_power_law() -> None:
    assert slope({width: 3.0 * width**-0.5 for width in WIDTHS}) == pytest.approx(-0.5)
    assert math.isnan(slope({128: 1.0, 256: math.inf}))
    assert math.isnan(slope({128: 1.0, 256: 0.0}))


@pytest.mark.parametrize(
    ("judged", "trained", "change", "verdict"),
    [
        ("level", 0.0, 0.05, "ok"),
        ("level", 0.2, 0.0, "grows"),
        ("level", 0.0, -0.2, "shrinks"),
        ("change", -0.5, 0.0, "ok"),
        ("change", 0.0, 0.2, "grows"),
        ("growth", -0.5, -0.4, "ok"),
        ("growth", 0.2, -0.4, "grows"),
        ("level", math.nan, 0.0, "overflows"),
    ],
)
def test_verdicts(judged: Any, trained: float, change: float, verdict: str) -> None:
    sizes = {width: Size(1.0, width**trained, width**change) for width in WIDTHS}
    assert Part("logits", sizes, judged).verdict() == verdict


def test_an_overflow_fails_and_is_null_for_programs() -> None:
    sizes = {128: Size(1.0, 1.0, 1.0), 256: Size(1.0, math.nan, math.inf)}
    report = CoordinateReport("muP", Settings(), 0.1, [Part("embedding", sizes, "level")])
    assert report.failing
    shown = report.to_json()
    assert (shown["ok"], shown["parts"][0]["change_slope"]) == (False, None)
    assert shown["parts"][0]["widths"][256] == {"initial": 1.0, "trained": None, "change": None}


def test_text_has_few_successors_and_comes_from_its_seed() -> None:
    settings = Settings(batch_size=64, seq_len=64)
    (ids, labels), (same, _) = (next(coordinates.markov_text(3, settings)) for _ in range(2))
    assert torch.equal(ids, same)
    assert torch.equal(ids[:, 1:], labels[:, :-1])
    assert not torch.equal(ids, next(coordinates.markov_text(4, settings))[0])
    pairs = np.unique(torch.stack([ids.flatten(), labels.flatten()]).numpy(), axis=1)
    assert np.bincount(pairs[0]).max() <= coordinates.NUM_SUCCESSORS


def test_gpt_j_6b_at_reduced_widths() -> None:
    """Its own multipliers, 14.6, 2.22 and 4.0, with heads of 32 so that it starts at 128."""
    model = load_run_config("params_gptj_6B_muP", ["model.num_heads=128"]).model
    report = check(model, OPTIMIZER, (128, 256, 512), seeds=(0, 1), settings=Settings())
    assert not report.failing, slopes(report)
