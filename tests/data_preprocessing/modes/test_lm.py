import numpy as np
import pytest
from pydantic import ValidationError
from tokenizers import normalizers

from data_preprocessing.limits import cut
from data_preprocessing.modes.lm import LmMode
from modelzoo.tokenizer import Tokenizer
from tests.data_preprocessing.modes import TEXTS, bytes_of, documents, one, pieces_of
from tests.samples import small_tokenizer

POLICIES = ["split", "truncate_left", "truncate_right", "reject"]


def mode(max_tokens: int, policy: str = "split") -> LmMode:
    return LmMode.model_validate({"limit": {"max_tokens": max_tokens, "policy": policy}})


def test_a_document_is_its_tokens_and_the_end():
    tokenizer = small_tokenizer()
    batch = LmMode().encode(tokenizer, documents(*TEXTS, ("in ", "two parts")))
    assert pieces_of(batch) == [[[*tokenizer.encode(text), 0]] for text in [*TEXTS, "in two parts"]]
    assert batch.pieces is None  # the way that makes no object for each document
    assert batch.num_bytes is None
    assert batch.loss_mask is None


@pytest.mark.parametrize("max_tokens", [2, 3, 5, 16, 100])
def test_split_loses_nothing(max_tokens):
    tokenizer = small_tokenizer()
    batch = mode(max_tokens).encode(tokenizer, documents(*TEXTS))
    assert batch.lengths.max() <= max_tokens
    for text, pieces in zip(TEXTS, pieces_of(batch), strict=True):
        assert [id_ for piece in pieces for id_ in piece[:-1]] == tokenizer.encode(text)
        assert all(len(piece) > max_tokens - 4 for piece in pieces[:-1])  # a cut moves by 3 tokens of a character
    assert bytes_of(batch, TEXTS) == [len(text.encode()) for text in TEXTS]


def test_the_bytes_of_a_piece_are_those_of_its_ids():
    tokenizer = small_tokenizer()
    batch = mode(16).encode(tokenizer, documents(*TEXTS))
    pieces = [piece for document in pieces_of(batch) for piece in document]
    for piece, num_bytes in zip(pieces, batch.num_bytes, strict=True):
        assert num_bytes in (-1, len(tokenizer.decode_bytes(piece[:-1])))
        tokenizer.decode_bytes(piece[:-1]).decode()  # no cut within a character
    assert (batch.num_bytes >= 0).sum() > 10


@pytest.mark.parametrize("max_tokens", [5, 16, 100])
def test_truncation_keeps_one_side(max_tokens):
    tokenizer = small_tokenizer()
    right = mode(max_tokens, "truncate_right").encode(tokenizer, documents(*TEXTS))
    left = mode(max_tokens, "truncate_left").encode(tokenizer, documents(*TEXTS))
    for batch in (right, left):
        assert batch.lengths.max() <= max_tokens
        for text, (piece,), claimed in zip(TEXTS, pieces_of(batch), bytes_of(batch, TEXTS), strict=True):
            kept, whole = tokenizer.decode_bytes(piece[:-1]), text.encode()
            assert whole.startswith(kept) if batch is right else whole.endswith(kept)
            assert len(kept) == claimed
            assert (claimed == len(whole)) == (len(tokenizer.encode(text)) < max_tokens)


def test_reject_refuses_with_both_numbers():
    tokenizer = small_tokenizer()
    batch = mode(4, "reject").encode(tokenizer, documents("a", "the cat and the dog", "b"))
    assert pieces_of(batch) == [[[*tokenizer.encode("a"), 0]], [], [[*tokenizer.encode("b"), 0]]]
    length = len(tokenizer.encode("the cat and the dog")) + 1
    assert batch.refused[1] == ("too long", f"{length} tokens; mode.limit admits 4")


@pytest.mark.parametrize("policy", POLICIES)
def test_a_document_at_the_limit_is_untouched(policy):
    tokenizer, text = small_tokenizer(), TEXTS[1]
    length = len(tokenizer.encode(text)) + 1
    assert one(mode(length, policy).encode(tokenizer, documents(text))) == [*tokenizer.encode(text), 0]
    over = mode(length - 1, policy).encode(tokenizer, documents(text))
    assert len(over.lengths) == {"split": 2, "reject": 0}.get(policy, 1)
    assert max(over.lengths, default=0) < length


@pytest.mark.parametrize("policy", POLICIES)
def test_neighbours_change_nothing(policy):
    tokenizer = small_tokenizer()
    together = pieces_of(mode(16, policy).encode(tokenizer, documents(*TEXTS)))
    assert together == [pieces_of(mode(16, policy).encode(tokenizer, documents(text)))[0] for text in TEXTS]
    assert len({len(pieces) for pieces in together}) > 1 or policy.startswith("truncate")


def test_a_batch_below_the_limit_takes_the_fast_way(monkeypatch):
    monkeypatch.setattr("data_preprocessing.modes.lm.cut", None)
    tokenizer = small_tokenizer()
    batch = mode(10_000).encode(tokenizer, documents(*TEXTS))
    assert batch.pieces is None
    assert np.array_equal(batch.ids, LmMode().encode(tokenizer, documents(*TEXTS)).ids)


def test_bytes_add_up_where_the_tokenizer_normalizes():
    backend = small_tokenizer().backend
    backend.normalizer = normalizers.NFC()
    tokenizer = Tokenizer(backend, "nfc")
    texts = ["e\u0301" * 40, "\u0958" * 40, "plain"]  # NFC makes the first shorter and the second longer
    assert [len(tokenizer.decode_bytes(tokenizer.encode(text))) for text in texts[:2]] == [80, 240]
    batch = mode(16).encode(tokenizer, documents(*texts))
    assert bytes_of(batch, texts) == [len(text.encode()) for text in texts]
    assert batch.num_bytes.min() >= -1


def test_limits_that_make_no_sense_are_refused():
    with pytest.raises(ValidationError, match="greater than 1"):
        mode(1)
    with pytest.raises(ValidationError, match="truncate_left"):
        mode(10, "truncate")


def test_cuts_stay_out_of_characters_that_fit():
    tokenizer = small_tokenizer()
    ids = np.array(tokenizer.encode("日本"))
    assert len(ids) == 6
    for room, found in ((1, 6), (2, 4), (3, 2), (4, 2), (5, 2)):
        assert len(cut(tokenizer, ids, mode(9).limit, room)) == found
