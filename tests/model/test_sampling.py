"""Sampling: the distribution that is drawn from is that of transformers, and nonsense is refused."""

import math
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel
from transformers.generation.logits_process import LogitsProcessorList

from modelzoo.model.sampling import Chooser, Sampling, filtered, penalize

VOCAB = 97


def transformers_filters(**options: Any) -> LogitsProcessorList:
    """What transformers' `generate` would apply, in its order."""
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=2, vocab_size=VOCAB))
    config = GenerationConfig(do_sample=True, **{"top_k": None, "pad_token_id": 0} | options)
    model._prepare_special_tokens(config)
    return model._get_logits_processor(config)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.3},
        {"top_k": 1},
        {"top_k": 5},
        {"top_k": 1000},
        {"top_p": 1e-9},
        {"top_p": 0.01},
        {"top_p": 0.5},
        {"top_p": 0.999},
        {"top_p": 1.0},
        {"min_p": 0.0},
        {"min_p": 0.2},
        {"min_p": 1.0},
        {"repetition_penalty": 1.5},
        {"repetition_penalty": 0.4},
        {"temperature": 2.0, "top_k": 40, "top_p": 0.8},
        {"temperature": 0.6, "top_k": 9, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.2},
        {"temperature": 3.0, "top_p": 0.7, "min_p": 0.3},
    ],
    ids=str,
)
def test_the_distribution_is_that_of_transformers(options: dict[str, Any]) -> None:
    draw = torch.Generator().manual_seed(0)
    filters = transformers_filters(**options)
    sampling = Sampling(**{"temperature": 1.0} | options)
    for scale in (0.1, 1.0, 4.0):
        logits = torch.randn(VOCAB, generator=draw) * scale
        logits[5:9] = logits[5]  # ties
        seen_ids = torch.randint(0, VOCAB, (20,), generator=draw)
        expected = filters(seen_ids[None], logits[None].clone())[0].softmax(-1)
        seen = torch.zeros(VOCAB, dtype=torch.bool)
        seen[seen_ids] = True
        found = filtered(penalize(logits, sampling.repetition_penalty, seen), sampling).softmax(-1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        assert torch.equal(found == 0, expected == 0)


def test_the_penalty_counts_prompt_and_own_tokens() -> None:
    logits = torch.tensor([1.0, 3.0, -0.1, 2.5])
    chooser = Chooser(Sampling(repetition_penalty=2.0), torch.tensor([1]), 4)  # 3.0 is 1.5 from the start
    assert [int(chooser.choose(logits)) for _ in range(4)] == [3, 1, 1, 1]


@pytest.mark.parametrize("scale", [0.0, 1e4, 3e38])
@pytest.mark.parametrize("temperature", [0.0, 0.001, 1.0, 100.0])
@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
def test_no_option_leaves_the_range_of_fp32(scale: float, temperature: float, penalty: float) -> None:
    logits = torch.linspace(-1, 1, VOCAB) * scale
    for options in ({}, {"top_k": 3}, {"top_p": 1e-9}, {"min_p": 1.0}, {"top_k": 9, "top_p": 0.5, "min_p": 0.5}):
        if temperature == 0 and options:
            continue
        sampling = Sampling(temperature, repetition_penalty=penalty, seed=0, **options)
        for prompt in (torch.tensor([VOCAB - 1]), torch.arange(VOCAB)):
            chooser = Chooser(sampling, prompt, VOCAB)
            assert all(0 <= int(chooser.choose(values)) < VOCAB for values in (logits, -logits, -logits.abs()))
            if temperature:
                penalized = penalize(logits, penalty, torch.ones(VOCAB, dtype=torch.bool))
                assert not filtered(penalized, sampling).softmax(0).isnan().any()


def test_draws_follow_the_filtered_distribution() -> None:
    logits = torch.randn(VOCAB, generator=torch.Generator().manual_seed(3)) * 2
    sampling = Sampling(0.8, top_k=12, top_p=0.95, seed=0)
    chooser = Chooser(sampling, torch.tensor([0]), VOCAB)
    drawn = torch.stack([chooser.choose(logits) for _ in range(5_000)]).bincount(minlength=VOCAB) / 5_000
    torch.testing.assert_close(drawn, filtered(logits, sampling).softmax(0), rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1.0: expected 0"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"temperature": 1.0, "top_k": 0}, "top_k=0: expected 1 or more"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p=0.0: expected above 0"),
        ({"temperature": 1.0, "top_p": 1.1}, "top_p=1.1"),
        ({"temperature": 1.0, "min_p": -0.1}, "min_p=-0.1: expected from 0 to 1"),
        ({"temperature": 1.0, "min_p": math.nan}, "min_p=nan"),
        ({"temperature": 1e-300}, "temperature=1e-300: expected 0"),
        ({"temperature": 1e300}, "temperature=1e\\+300: expected 0 .greedy., or 0.001 … 100"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0: expected 0.01 … 100"),
        ({"repetition_penalty": 1e-300}, "repetition_penalty=1e-300: expected 0.01 … 100"),
        ({"repetition_penalty": 1e300}, "repetition_penalty=1e\\+300"),
        ({"seed": 2**64}, "seed=18446744073709551616: expected an integer of 64 bits"),
        ({"top_k": 5}, "top_k: no effect at temperature=0"),
        ({"top_p": 0.5, "min_p": 0.5}, "top_p and min_p: no effect at temperature=0"),
    ],
    ids=str,
)
def test_nonsense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**options)
