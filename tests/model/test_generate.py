"""Generation: cached, uncached and Hugging Face's agree; sampling keeps to what it is told."""

from typing import Any

import pytest
import torch
from torch import Tensor

from modelzoo.model.cache import KVCache
from modelzoo.model.config import ModelConfig
from modelzoo.model.generate import generate
from modelzoo.model.gpt import GPT
from tests.model.families import MAX_SEQ_LEN, ours, random_ids, redraw, reference

PROMPT, NEW = 5, 12


@pytest.mark.parametrize("family", ["gpt2", "gptj", "gpt_neox"])
def test_greedy_is_the_same_three_ways(family: str) -> None:
    theirs = reference(family)
    model, prompt = ours(theirs), random_ids(3, PROMPT)
    cached = generate(model, prompt, NEW)
    assert torch.equal(cached, theirs.generate(prompt, max_new_tokens=NEW, do_sample=False, pad_token_id=0))
    uncached = prompt
    for _ in range(NEW):
        uncached = torch.cat((uncached, model(uncached)[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(cached, uncached)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "gpt_neox"])
@pytest.mark.parametrize("chunks", [[1] * 13, [6, 1, 6], [1, 12], [12, 1], [5, 5, 3]], ids=str)
def test_prefill_in_chunks(family: str, chunks: list[int]) -> None:
    model, ids = ours(reference(family)), random_ids(2, 13)
    cache = KVCache(model.config.num_layers, max_len=13)
    logits = torch.cat([model(chunk, cache) for chunk in ids.split(chunks, dim=1)], dim=1)
    torch.testing.assert_close(logits, model(ids), rtol=0, atol=1e-5)
    assert cache.length == 13


@pytest.fixture
def model() -> GPT:
    fields: dict[str, Any] = {"num_layers": 1, "num_heads": 2, "hidden_size": 12, "max_seq_len": 300}
    model = GPT(ModelConfig.model_validate(fields | {"vocab_size": 20, "padded_vocab_size": 64}))
    redraw(model, seed=0)
    return model


@pytest.mark.parametrize("temperature", [0.0, 1.0, 50.0])
def test_padding_rows_are_never_drawn(model: GPT, temperature: float) -> None:
    with torch.no_grad():
        model.embedding.weight[20:] *= 30  # without the cut they would win often
    prompt = torch.randint(0, 20, (8, 2))
    assert (model(prompt)[:, -1].argmax(-1) >= 20).any()
    assert generate(model, prompt, 100, temperature=temperature, seed=0).max() < 20


def test_sampling_follows_the_softmax(model: GPT) -> None:
    prompt = torch.tensor([[3, 4]])
    drawn = generate(model, prompt.expand(20_000, 2), 1, temperature=0.7, seed=1)[:, -1]
    expected = (model(prompt)[0, -1, :20] / 0.7).softmax(-1)
    torch.testing.assert_close(drawn.bincount(minlength=20) / 20_000, expected, rtol=0, atol=0.015)


def test_top_k_and_top_p(model: GPT) -> None:
    prompt = torch.tensor([[3, 4]])
    probabilities = model(prompt)[0, -1, :20].softmax(-1)
    order = probabilities.argsort(descending=True).tolist()

    def drawn(**options: Any) -> set[int]:
        output = generate(model, prompt.expand(5_000, 2), 1, temperature=1.0, seed=2, **options)
        return set(output[:, -1].tolist())

    assert drawn(top_k=3) == set(order[:3])
    assert drawn(top_k=1) == drawn(top_p=1e-6) == {order[0]}
    nucleus = int((probabilities.sort(descending=True).values.cumsum(0) < 0.6).sum()) + 1
    assert 1 < nucleus < 20
    assert drawn(top_p=0.6) == set(order[:nucleus])
    assert drawn(top_k=2, top_p=0.99999) == set(order[:2])


def test_seed(model: GPT) -> None:
    prompt = torch.tensor([[3, 4]])
    first = generate(model, prompt, 50, temperature=1.0, seed=5)
    assert torch.equal(first, generate(model, prompt, 50, temperature=1.0, seed=5))
    assert not torch.equal(first, generate(model, prompt, 50, temperature=1.0, seed=6))


def test_stop_and_stream(model: GPT) -> None:
    prompt, seen = torch.arange(6).view(3, 2), list[Tensor]()
    free = generate(model, prompt, 200, temperature=1.0, seed=0)
    output = generate(model, prompt, 200, temperature=1.0, seed=0, stop_id=7, on_token=seen.append)
    assert torch.equal(torch.stack(seen, dim=1), output[:, 2:])
    ends = []
    for row, free_row in zip(output[:, 2:].tolist(), free[:, 2:].tolist(), strict=True):
        end = free_row.index(7) + 1
        assert row == free_row[:end] + [7] * (len(row) - end)
        ends.append(end)
    assert output.shape[1] == 2 + max(ends) < free.shape[1]


def test_training_mode_is_restored_and_has_no_dropout() -> None:
    theirs = reference("gpt2")
    model = ours(theirs, dropout=0.5)
    expected = generate(model, random_ids(1, 4), 8)
    assert torch.equal(generate(model.train(), random_ids(1, 4), 8), expected)
    assert model.training


def test_the_whole_length_can_be_used() -> None:
    model = ours(reference("gpt2"))
    assert generate(model, random_ids(1, 4), MAX_SEQ_LEN - 4).shape == (1, MAX_SEQ_LEN)
    with pytest.raises(ValueError, match=r"exceed max_seq_len=24; shorten the prompt, or use at most .*=20"):
        generate(model, random_ids(1, 4), MAX_SEQ_LEN - 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1.0: expected 0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": 1.0, "top_k": 0}, "top_k=0: expected 1 or more"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p=0.0: expected above 0"),
        ({"temperature": 1.0, "top_p": 1.1}, "top_p=1.1"),
        ({"top_k": 5}, "no effect at temperature=0"),
        ({"stop_id": 20}, "stop_id=20: expected below 20"),
    ],
    ids=str,
)
def test_nonsense_is_refused(model: GPT, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(model, torch.zeros(1, 2, dtype=torch.long), 3, **options)
    with pytest.raises(ValueError, match="the prompt is empty"):
        generate(model, torch.zeros(1, 0, dtype=torch.long), 3)
