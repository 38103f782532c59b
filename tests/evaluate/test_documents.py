"""Losses of documents against transformers, token by token; that no mistake in the windows goes unnoticed."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from modelzoo.evaluate import documents, scoring
from modelzoo.evaluate.documents import Tokens, score_documents, tokenize
from modelzoo.evaluate.totals import DocumentTotals, TextSizes, Totals
from modelzoo.evaluate.windows import Row
from tests.evaluate.references import document_losses, scorer
from tests.model.families import MAX_SEQ_LEN, VOCAB, ours, reference
from tests.samples import TRICKY, small_tokenizer

END = 3
LENGTHS = [0, 1, 5, 22, 23, 24, 25, 60, 2, 47, 48, 11]


@pytest.fixture(scope="module", params=["gpt2", "gptj", "gpt_neox"])
def models(request):
    theirs = reference(request.param)
    return theirs, ours(theirs)


def corpus() -> list[Tokens]:
    draw = np.random.default_rng(0)
    return [Tokens(draw.integers(0, VOCAB, n), 3 * n, 2 * n, f"file:{n}") for n in LENGTHS]


def found(model, batch_size: int = 4, seq_len: int = MAX_SEQ_LEN, stride: int = 10) -> list[DocumentTotals]:
    return list(score_documents(scorer(model, batch_size), corpus(), END, seq_len, stride))


@pytest.mark.parametrize(
    ("seq_len", "stride"),
    [
        (MAX_SEQ_LEN, 10),
        pytest.param(MAX_SEQ_LEN, MAX_SEQ_LEN, marks=pytest.mark.long),
        pytest.param(7, 3, marks=pytest.mark.long),
        pytest.param(5, 1, marks=pytest.mark.long),
    ],
)
def test_losses_equal_transformers_token_by_token(models, seq_len: int, stride: int) -> None:
    theirs, model = models
    for document, totals in zip(corpus(), found(model, seq_len=seq_len, stride=stride), strict=True):
        losses = document_losses(theirs, document.ids.tolist(), END, seq_len, stride)
        assert totals.loss_sum == pytest.approx(math.fsum(losses), rel=2e-6, abs=2e-5)
        assert totals.end_loss == pytest.approx(losses[-1], rel=2e-6, abs=2e-5)
        assert totals.num_tokens == len(document.ids) + 1


def test_the_stride_is_of_no_matter_to_what_fits_a_window(models) -> None:
    _, model = models
    short = [n + 1 <= MAX_SEQ_LEN for n in LENGTHS]
    narrow, wide = found(model, stride=1), found(model, stride=MAX_SEQ_LEN)
    for fits, one, other in zip(short, narrow, wide, strict=True):
        if fits:
            assert one.loss_sum == pytest.approx(other.loss_sum, rel=1e-6)
        else:
            assert abs(one.loss_sum - other.loss_sum) > 1e-3


def test_batches_of_any_size_add_up_to_the_same(models, monkeypatch) -> None:
    _, model = models
    one = found(model, batch_size=1)
    monkeypatch.setattr(documents, "BATCHES_AT_ONCE", 1)  # documents are cut by what is scored at once
    for batch_size in (2, 3, 7, 100):
        many = found(model, batch_size)
        assert [d.index for d in many] == list(range(len(LENGTHS)))
        for a, b in zip(one, many, strict=True):
            assert a.loss_sum == pytest.approx(b.loss_sum, rel=1e-6)
            assert (a.num_tokens, a.num_bytes, a.place) == (b.num_tokens, b.num_bytes, b.place)


def test_sums_are_exact_in_double_precision() -> None:
    """Of equal numbers, cut in any way, the sum is one; in single precision it would not be."""

    class Constant(scoring.Scorer):
        def __init__(self, batch_size: int) -> None:
            self.batch_size = batch_size

        def score(self, rows, on_rows=lambda rows: None):
            return [scoring.Score(np.full(len(row.targets), -1.1, np.float32), False) for row in rows]

    def total(batch_size: int, seq_len: int, stride: int) -> float:
        sums = Totals()
        for document in score_documents(
            Constant(batch_size), [Tokens(np.zeros(9_999, int), 1, 1)] * 10, 0, seq_len, stride
        ):
            sums.add(document)
        return sums.loss_sum

    expected = 100_000 * float(np.float32(1.1))
    assert all(total(*cut) == pytest.approx(expected, rel=1e-12) for cut in ((1, 7, 3), (16, 512, 512), (5, 100, 9)))


def without_first(row_list: list[Row]) -> list[Row]:
    first = row_list[0]
    return [first._replace(targets=first.targets[1:] if len(first.targets) > 1 else first.targets), *row_list[1:]]


def counted_twice(row_list: list[Row]) -> list[Row]:
    return [Row(row.input_ids, np.append(row.input_ids[1:], row.targets[-1])) for row in row_list]


def last_dropped(row_list: list[Row]) -> list[Row]:
    return row_list[:-1] or row_list


def one_too_far_left(row_list: list[Row]) -> list[Row]:
    return [row._replace(input_ids=row.input_ids[1:]) if len(row.input_ids) == MAX_SEQ_LEN else row for row in row_list]


@pytest.mark.parametrize("mistake", [without_first, counted_twice, last_dropped, one_too_far_left])
def test_mistakes_are_noticed(monkeypatch, mistake) -> None:
    theirs = reference("gptj")
    real = documents.rows_of

    def planted(*arguments) -> Iterator[Row]:
        return iter(mistake(list(real(*arguments))))

    monkeypatch.setattr(documents, "rows_of", planted)
    with pytest.raises(AssertionError):
        test_losses_equal_transformers_token_by_token((theirs, ours(theirs)), MAX_SEQ_LEN, 10)


def test_a_lost_batch_is_noticed(monkeypatch) -> None:
    real = scoring.Scorer._batches
    monkeypatch.setattr(scoring.Scorer, "_batches", lambda self, rows: list(real(self, rows))[:-1])
    with pytest.raises(ValueError, match="zip"):
        found(ours(reference("gptj")))


def test_rows_of_equal_inputs_run_once_and_score_apart() -> None:
    theirs = reference("gpt2")
    model = ours(theirs)
    inputs = np.array([1, 2, 3, 4])
    rows = [Row(inputs, np.array([token])) for token in (5, 6, 5)] + [
        Row(inputs, np.array([3, 4, 7])),
        Row(inputs[:2], inputs[2:3]),
    ]
    shapes = []
    hook = model.blocks[0].register_forward_pre_hook(lambda _, arguments: shapes.append(tuple(arguments[0].shape[:2])))
    scores = scorer(model, batch_size=2).score(rows)
    hook.remove()
    assert shapes == [(2, 4)]
    with torch.no_grad():
        wanted = model(torch.tensor([[1, 2, 3, 4]]))[0].log_softmax(-1)
    assert scores[0].log_likelihoods == pytest.approx([wanted[3, 5].item()], abs=1e-5)
    assert scores[0].log_likelihoods == scores[2].log_likelihoods
    assert scores[3].log_likelihoods == pytest.approx(
        [wanted[i, t].item() for i, t in ((1, 3), (2, 4), (3, 7))], abs=1e-5
    )
    assert scores[4].log_likelihoods == pytest.approx([wanted[1, 3].item()], abs=1e-5)
    likeliest = [int(wanted[i].argmax()) for i in range(4)]
    greedy = scorer(model).score([Row(inputs, np.array([likeliest[3]])), Row(inputs, np.array([3, 4, likeliest[3]]))])
    assert [score.is_greedy for score in greedy] == [True, likeliest[1:3] == [3, 4]]


def test_bytes_and_characters_of_a_text() -> None:
    tokenizer = small_tokenizer()
    sizes = TextSizes.of(tokenizer)
    for text, document in zip(TRICKY, tokenize([("", text) for text in TRICKY], tokenizer), strict=True):
        assert (document.num_bytes, document.num_characters) == (len(text.encode()), len(text))
        assert sizes.count(document.ids) == (len(text.encode()), len(text))
    ends = np.array([tokenizer.end_of_document_id, 10**6])  # and an id that pads the vocabulary
    assert sizes.count(ends) == (0, 0)


def test_the_units() -> None:
    totals = Totals(
        2,
        num_tokens=10,
        num_ends=2,
        loss_sum=20 * math.log(2),
        end_loss_sum=4 * math.log(2),
        num_bytes=8,
        num_characters=4,
    )
    metrics = totals.metrics()
    assert metrics["loss"] == pytest.approx(2 * math.log(2))
    assert metrics["perplexity"] == pytest.approx(4)
    assert (metrics["bits_per_byte"], metrics["bits_per_character"]) == (pytest.approx(20 / 8), pytest.approx(20 / 4))
    ends = metrics["without_ends"]
    assert (ends["tokens"], ends["bits_per_byte"], ends["perplexity"]) == (8, pytest.approx(2), pytest.approx(4))
