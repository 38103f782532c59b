"""Generation: cached, uncached and Hugging Face's agree, alone and in a batch of any company."""

from typing import Any

import pytest
import torch
from torch import Tensor

from modelzoo.model import weights as forms
from modelzoo.model.config import ModelConfig
from modelzoo.model.decoder import Decoder, Token
from modelzoo.model.generate import generate
from modelzoo.model.gpt import GPT
from modelzoo.model.sampling import Sampling
from tests.model.families import MAX_SEQ_LEN, VOCAB, ours, random_ids, redraw, reference

NEW = 12
FAMILIES = ["gpt2", "gptj", "gpt_neox"]
PROMPTS = [random_ids(1, length, seed=length)[0].tolist() for length in (5, 1, 9, 3, 12)]
"""Of unequal lengths, the longest neither first nor last."""


def continued(theirs: Any, prompt: list[int], num: int = NEW, **options: Any) -> list[int]:
    """Greedy, by transformers, alone."""
    ids = torch.tensor([prompt])
    output = theirs.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=num, do_sample=False, pad_token_id=0, **options
    )
    return output[0, len(prompt) :].tolist()


def tokens_of(model: GPT, prompts: Any, num: int = NEW, *args: Any, **options: Any) -> list[list[int]]:
    return [completion.token_ids for completion in generate(model, prompts, num, *args, **options)]


def drain(decoder: Decoder) -> list[Token]:
    """Every token until all rows are finished."""
    tokens = []
    while decoder.num_rows:
        tokens += decoder.step()
    return tokens


def of_row(tokens: list[Token], row: int) -> list[int]:
    return [token.token_id for token in tokens if token.row == row]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("max_rows", [1, 2, 8])
def test_greedy_is_that_of_transformers(family: str, max_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "BLOCKED_WEIGHTS", 0)
    theirs = reference(family)
    expected = [continued(theirs, prompt) for prompt in PROMPTS]
    model = ours(theirs)
    assert tokens_of(model, PROMPTS, max_rows=max_rows) == expected
    assert tokens_of(model, PROMPTS, max_rows=max_rows, weights="packed") == expected


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("gpt2", {"heads": 3, "head_dim": 7, "ffn": 30}),
        ("gpt2", {"heads": 1, "head_dim": 33, "activation_function": "gelu"}),
        ("gptj", {"heads": 5, "head_dim": 6, "fraction": 1.0}),
        ("gptj", {"heads": 1, "head_dim": 14, "fraction": 0.15, "ffn": 17}),
        ("gpt_neox", {"heads": 3, "head_dim": 10, "fraction": 0.2, "theta": 100.0}),
        ("gpt_neox", {"heads": 7, "head_dim": 4, "fraction": 1.0, "use_parallel_residual": False}),
        ("gpt_neox", {"heads": 2, "head_dim": 16, "attention_bias": False, "tie_word_embeddings": True}),
    ],
    ids=str,
)
def test_other_shapes(family: str, shape: dict[str, Any]) -> None:
    """The last 6 ids are made padding, which transformers has to be told not to draw. The penalty keeps the texts
    from going in circles."""
    theirs = reference(family, **shape)
    prompts = [[token % (VOCAB - 6) for token in prompt] for prompt in PROMPTS]
    options = {"suppress_tokens": list(range(VOCAB - 6, VOCAB)), "repetition_penalty": 5.0}
    sampling = Sampling(repetition_penalty=5.0)
    model = ours(theirs, vocab_size=VOCAB - 6, padded_vocab_size=VOCAB)
    expected = [continued(theirs, prompt, **options) for prompt in prompts]
    assert tokens_of(model, prompts, NEW, sampling) == expected
    assert tokens_of(model, prompts, NEW, sampling, weights="packed") == expected
    assert [tokens_of(model, [prompt], NEW, sampling)[0] for prompt in prompts] == expected
    assert all(len(set(tokens)) > 3 for tokens in expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_is_that_of_transformers_padded_on_the_left(family: str) -> None:
    theirs, width = reference(family), max(map(len, PROMPTS))
    padded = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in PROMPTS])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS])
    output = theirs.generate(padded, attention_mask=mask, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    assert tokens_of(ours(theirs), PROMPTS) == output[:, width:].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_is_uncached(family: str) -> None:
    model, ids = ours(reference(family)), random_ids(3, 5)
    uncached = ids
    for _ in range(NEW):
        uncached = torch.cat((uncached, model(uncached)[:, -1:].argmax(-1)), dim=1)
    assert tokens_of(model, ids) == uncached[:, 5:].tolist()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("max_prefill_tokens", [1, 2, 5, 13, 14, 100])
def test_prompts_read_in_chunks(family: str, max_prefill_tokens: int) -> None:
    theirs = reference(family)
    decoder = Decoder(ours(theirs), max_prefill_tokens=max_prefill_tokens)
    rows = [decoder.add(prompt, max_new_tokens=NEW) for prompt in PROMPTS]
    tokens = drain(decoder)
    for row, prompt in zip(rows, PROMPTS, strict=True):
        assert of_row(tokens, row) == continued(theirs, prompt)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("max_prefill_tokens", [2, 100])
def test_rows_come_and_go(family: str, max_prefill_tokens: int) -> None:
    theirs = reference(family)
    decoder = Decoder(ours(theirs), max_rows=3, max_prefill_tokens=max_prefill_tokens)
    draw = torch.Generator().manual_seed(max_prefill_tokens)
    lengths, tokens, removed = dict[int, tuple[list[int], int]](), list[Token](), set[int]()
    for _ in range(120):
        if decoder.num_free and torch.rand((), generator=draw) < 0.5:
            prompt_length, num = torch.randint(1, 12, (2,), generator=draw).tolist()
            prompt = torch.randint(0, VOCAB, (prompt_length,), generator=draw).tolist()
            lengths[decoder.add(prompt, max_new_tokens=num)] = (prompt, num)
        tokens += decoder.step()
        finished = {token.row for token in tokens if token.finished}
        alive = sorted(lengths.keys() - finished - removed)
        if alive and torch.rand((), generator=draw) < 0.2:
            removed.add(alive[int(torch.randint(len(alive), (), generator=draw))])
            decoder.remove(max(removed & set(alive)))
    tokens += drain(decoder)
    assert len(removed) > 5
    assert len(lengths) > 20
    for row, (prompt, num) in lengths.items():
        found, expected = of_row(tokens, row), continued(theirs, prompt, num)
        assert found == (expected[: len(found)] if row in removed else expected)


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
    assert max(map(max, tokens_of(model, prompt, 100, Sampling(temperature, seed=0)))) < 20


def test_sampling_follows_the_softmax(model: GPT) -> None:
    prompt = torch.tensor([[3, 4]])
    drawn = tokens_of(model, prompt.expand(5_000, 2), 1, Sampling(0.7, seed=1), max_rows=5_000)
    expected = (model(prompt)[0, -1, :20] / 0.7).softmax(-1)
    found = torch.tensor(drawn).flatten().bincount(minlength=20) / 5_000
    torch.testing.assert_close(found, expected, rtol=0, atol=0.025)


def test_seed(model: GPT) -> None:
    first = tokens_of(model, [[3, 4]], 50, Sampling(1.0, seed=5))
    assert first == tokens_of(model, [[3, 4]], 50, Sampling(1.0, seed=5))
    assert first != tokens_of(model, [[3, 4]], 50, Sampling(1.0, seed=6))
    torch.manual_seed(1)
    free = tokens_of(model, [[3, 4]], 50, Sampling(1.0))
    assert free != tokens_of(model, [[3, 4]], 50, Sampling(1.0))
    torch.manual_seed(1)
    assert free == tokens_of(model, [[3, 4]], 50, Sampling(1.0))


@pytest.mark.parametrize("max_rows", [1, 2, 5])
def test_company_changes_nothing(model: GPT, max_rows: int) -> None:
    samplings = [
        Sampling(1.0, seed=3),
        Sampling(),
        Sampling(2.0, top_k=7, min_p=0.05, seed=3),
        Sampling(0.7, top_p=0.9, repetition_penalty=1.3, seed=4),
        Sampling(repetition_penalty=1.2),
    ]
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], [1, 2, 3], [11, 12]]
    alone = [tokens_of(model, [p], 60, s)[0] for p, s in zip(prompts, samplings, strict=True)]
    assert tokens_of(model, prompts, 60, samplings, max_rows=max_rows) == alone
    assert len({tuple(tokens) for tokens in alone}) == 5


def test_stop_and_stream(model: GPT) -> None:
    prompts, seen = [[0, 1], [2], [4, 5, 6]], [[] for _ in range(3)]  # type: list[list[int]], list[list[int]]

    def on_token(index: int, token: Token) -> bool:
        seen[index].append(token.token_id)
        return len(seen[index]) == 3 and index == 1

    free = tokens_of(model, prompts, 200, Sampling(1.0, seed=0))
    stopped = generate(model, prompts, 200, Sampling(1.0, seed=0), stop_ids=[7, 9], on_token=on_token, max_rows=2)
    assert [completion.token_ids for completion in stopped] == seen
    for index, (completion, tokens) in enumerate(zip(stopped, free, strict=True)):
        end = min(tokens.index(7), tokens.index(9)) + 1
        assert completion.token_ids == tokens[: 3 if index == 1 else end]
        assert completion.finished == "stop"
    [short] = generate(model, [[3]], 2)
    assert short.finished == "length"


def test_logprobs_are_the_models(model: GPT) -> None:
    sampling = Sampling(0.5, top_k=3, repetition_penalty=2.0, seed=0)  # none of them shows
    tokens = list[Token]()
    [completion] = generate(
        model, [[3, 4]], 5, sampling, num_logprobs=4, on_token=lambda _, token: tokens.append(token)
    )
    ids = torch.tensor([[3, 4, *completion.token_ids]])
    expected: Tensor = model(ids)[0, 1:-1, :20].log_softmax(-1)
    for position, token in enumerate(tokens):
        assert token.logprob == pytest.approx(expected[position, token.token_id].item(), abs=1e-5)
        values, best = expected[position].topk(4)
        assert [token_id for token_id, _ in token.top_logprobs] == best.tolist()
        assert [value for _, value in token.top_logprobs] == pytest.approx(values.tolist(), abs=1e-5)
    assert completion.logprobs == [token.logprob for token in tokens]


def test_training_mode_is_restored_and_has_no_dropout() -> None:
    theirs = reference("gpt2")
    model = ours(theirs, dropout=0.5)
    expected = tokens_of(model, PROMPTS)
    assert tokens_of(model.train(), PROMPTS) == expected
    assert model.training


def test_the_whole_length_can_be_used() -> None:
    model = ours(reference("gpt2"))
    [tokens] = tokens_of(model, [[1, 2, 3, 4]], MAX_SEQ_LEN - 4)
    assert len(tokens) == MAX_SEQ_LEN - 4
    with pytest.raises(ValueError, match=r"exceed max_seq_len=24; shorten the prompt, or use at most .*=20"):
        generate(model, [[1, 2, 3, 4]], MAX_SEQ_LEN - 3)
    decoder = Decoder(model, max_rows=1, max_len=10)
    with pytest.raises(ValueError, match=r"exceed max_len=10; shorten the prompt, or use at most .*=6"):
        decoder.add([1, 2, 3, 4], max_new_tokens=7)


def test_nonsense_is_refused(model: GPT) -> None:
    decoder = Decoder(model, max_rows=1)
    for prompt, options, message in (
        ([], {}, "the prompt is empty"),
        ([1, 20], {}, r"the prompt: token id 20: expected 0 … 19"),
        ([-1], {}, "token id -1"),
        ([1], {"stop_ids": [3, 20]}, "stop_ids: token id 20"),
        ([1], {"max_new_tokens": 0}, "max_new_tokens=0: expected 1 or more"),
        ([1], {"num_logprobs": 21}, "num_logprobs=21: expected 0 … 20"),
    ):
        with pytest.raises(ValueError, match=message):
            decoder.add(prompt, **options)  # type: ignore[arg-type]
    row = decoder.add([1])
    with pytest.raises(RuntimeError, match="all 1 rows are taken"):
        decoder.add([1])
    decoder.remove(row)
    with pytest.raises(KeyError):
        decoder.remove(row)
    with pytest.raises(ValueError, match="max_len=301: expected at least 1, at most 300"):
        Decoder(model, max_len=301)
    with pytest.raises(ValueError, match="2 samplings for 1 prompts"):
        generate(model, [[1]], 3, [Sampling(), Sampling()])


def test_logits_that_are_not_finite_are_refused(model: GPT) -> None:
    with torch.no_grad():
        model.final_norm.weight[0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        generate(model, [[1]], 3)


def test_a_row_that_fails_fails_alone(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [[id % 20 for id in prompt] for prompt in PROMPTS]
    expected = tokens_of(model, prompts)
    decoder = Decoder(model, max_rows=3)
    rows = [decoder.add(prompts[0], Sampling(), NEW)]
    ill = decoder.add(prompts[1], Sampling(1.0, seed=0), NEW)
    rows.append(decoder.add(prompts[2], Sampling(), NEW))
    tokens = decoder.step()

    def fail(*arguments: Any, **options: Any) -> Tensor:
        raise RuntimeError("planted")

    monkeypatch.setattr(torch, "multinomial", fail)  # only the row that draws
    new = decoder.step()
    (failed,) = [token for token in new if token.error is not None]
    assert (failed.row, failed.finished, str(failed.error)) == (ill, "error", "planted")
    assert decoder.num_rows == 2
    tokens += new + drain(decoder)
    assert [of_row(tokens, row) for row in rows] == [expected[0], expected[2]]
    with pytest.raises(RuntimeError, match="planted"):
        generate(model, [[1]], 3, Sampling(1.0))


def test_a_forward_pass_that_fails_leaves_the_decoder_usable(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [[id % 20 for id in prompt] for prompt in PROMPTS]
    expected = tokens_of(model, prompts)
    decoder = Decoder(model, max_rows=len(prompts), max_prefill_tokens=7)
    rows = [decoder.add(prompt, Sampling(), NEW) for prompt in prompts]
    decoder.step()
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "_inference", None)
        with pytest.raises(AttributeError):
            decoder.step()
    for row in rows:
        decoder.remove(row)
    rows = [decoder.add(prompt, Sampling(), NEW) for prompt in prompts]
    tokens = drain(decoder)
    assert [of_row(tokens, row) for row in rows] == expected
