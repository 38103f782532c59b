import numpy as np
import pytest
from pydantic import ValidationError

from data_preprocessing.modes.fim import FimMode
from data_preprocessing.modes.lm import LmMode
from modelzoo.base_config import UserError
from modelzoo.tokenizer import Tokenizer
from tests.data_preprocessing.modes import TEXTS, bytes_of, documents, one, pieces_of, tokenizer_with
from tests.samples import small_tokenizer

TOKENS = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
MANY = [f"def f{i}(x):\n    return x + {i}  # {'日本' * (i % 7)} <|fim_middle|>\n" for i in range(2000)]


@pytest.fixture
def tokenizer() -> Tokenizer:
    return tokenizer_with(*TOKENS)


def mode(**options) -> FimMode:
    return FimMode.model_validate(options)


def undo(tokenizer: Tokenizer, ids: list[int]) -> tuple[str, bytes]:
    """The order of a piece, and the text that it was made of."""
    prefix, middle, suffix = (tokenizer.backend.token_to_id(token) for token in TOKENS)
    found = [id_ for id_ in ids if id_ in (prefix, middle, suffix)]
    ids = ids[:-1]
    if not found:
        return "plain", tokenizer.decode_bytes(ids)
    assert found == [prefix, suffix, middle]
    assert ids[0] == prefix
    at_suffix, at_middle = ids.index(suffix), ids.index(middle)
    first, last = ids[1:at_suffix], ids[at_suffix + 1 : at_middle]
    order = "SPM or PSM without prefix" if at_suffix == 1 else "PSM"
    return order, b"".join(map(tokenizer.decode_bytes, (first, ids[at_middle + 1 :], last)))


@pytest.mark.parametrize("spm_rate", [0, 0.5, 1])
@pytest.mark.parametrize("seed", [0, 1])
def test_undoing_it_gives_every_document_back(tokenizer, spm_rate, seed):
    texts = [*TEXTS, *MANY[:300]]
    batch = mode(rate=1, spm_rate=spm_rate, min_characters=1, seed=seed).encode(tokenizer, documents(*texts))
    for text, (piece,) in zip(texts, pieces_of(batch), strict=True):
        order, found = undo(tokenizer, piece)
        assert found == text.encode()
        assert order != "plain"


def test_it_does_rearrange(tokenizer):
    """The sections id by id, in both orders, each tokenized apart."""
    marks = [tokenizer.backend.token_to_id(token) for token in TOKENS]
    joined_differ = 0
    texts = ["the cat and the dog and the bird saw the other cat" + " cat" * i for i in range(50)]
    both = [mode(rate=1, spm_rate=share).encode(tokenizer, documents(*texts)) for share in (0, 1)]
    for text, (psm,), (spm,) in zip(texts, *map(pieces_of, both), strict=True):
        (p, m, s), (p2, m2, s2) = ([piece.index(mark) for mark in marks] for piece in (psm, spm))
        prefix, suffix, middle = psm[p + 1 : s], psm[s + 1 : m], psm[m + 1 : -1]
        assert (p, p2, s2) == (0, 0, 1)
        assert spm[s2 + 1 : m2] == suffix
        assert spm[m2 + 1 : -1] == prefix + middle
        for ids in (prefix, middle, suffix):
            assert tokenizer.encode(tokenizer.decode(ids)) == ids
        joined_differ += tokenizer.encode(tokenizer.decode(prefix + middle)) != prefix + middle
        assert tokenizer.decode(prefix + middle + suffix) == text
        assert text not in tokenizer.decode(psm) or not (middle and suffix)
    assert joined_differ > 10


@pytest.mark.parametrize(("rate", "spm_rate"), [(0.5, 0.5), (0.9, 0.2), (0.1, 0.8)])
def test_rates(tokenizer, rate, spm_rate):
    batch = mode(rate=rate, spm_rate=spm_rate).encode(tokenizer, documents(*MANY))
    orders = [undo(tokenizer, piece)[0] for (piece,) in pieces_of(batch)]
    rearranged = len(MANY) - orders.count("plain")
    assert abs(rearranged - rate * len(MANY)) < 4 * (rate * (1 - rate) * len(MANY)) ** 0.5
    spm = rearranged - orders.count("PSM")
    empty_prefixes = rearranged * (1 - spm_rate) / 20  # about: a cut at the first of 40 characters or so
    bound = 4 * (spm_rate * (1 - spm_rate) * rearranged) ** 0.5
    assert spm_rate * rearranged - bound < spm < spm_rate * rearranged + 2 * empty_prefixes + bound


def test_no_rate_changes_nothing(tokenizer):
    plain = LmMode().encode(tokenizer, documents(*MANY))
    none = mode(rate=0).encode(tokenizer, documents(*MANY))
    assert np.array_equal(none.ids, plain.ids)
    assert np.array_equal(none.lengths, plain.lengths)
    assert none.loss_mask is None


def test_the_cuts_are_even_over_the_characters(tokenizer):
    """Also within words and at both ends; 20 characters have 21 places."""
    texts = [f"{i:020d}" for i in range(6000)]
    found = [[len(text) for _, text in mode(rate=1, spm_rate=0)._arrange(text)] for text in texts]
    cuts = np.array([(prefix, prefix + middle) for prefix, _, middle in found])
    counts = np.bincount(cuts.ravel(), minlength=21)
    expected = 2 * len(texts) / 21
    assert len(counts) == 21
    assert ((counts - expected) ** 2 / expected).sum() < 50  # chi-squared, 20 degrees of freedom: p = 0.0002
    same = (cuts[:, 0] == cuts[:, 1]).mean()
    assert abs(same - 1 / 21) < 0.012  # the two are drawn apart


def test_a_pure_function_of_seed_and_text(tokenizer):
    asked = mode(rate=0.5)
    alone = [pieces_of(asked.encode(tokenizer, documents(text)))[0] for text in MANY[:60]]
    assert pieces_of(asked.encode(tokenizer, documents(*MANY[:60]))) == alone
    assert pieces_of(asked.encode(tokenizer, documents(*MANY[59::-1]))) == alone[::-1]
    assert pieces_of(mode(rate=0.5, seed=1).encode(tokenizer, documents(*MANY[:60]))) != alone
    assert pieces_of(asked.encode(tokenizer, documents((MANY[0][:9], MANY[0][9:])))) == alone[:1]


def test_short_documents_stay(tokenizer):
    for number in (5, 10):
        asked = mode(rate=1, min_characters=number)
        batch = asked.encode(tokenizer, documents("日" * (number - 1), "日" * number))
        assert [undo(tokenizer, piece)[0] == "plain" for (piece,) in pieces_of(batch)] == [True, False]
    assert mode().min_characters == 10


def test_other_names_of_the_tokens(tokenizer):
    names = {"prefix_token": "<P>", "middle_token": "<M>", "suffix_token": "<S>"}
    other = tokenizer_with("<M>", "<P>", "<S>")
    asked = mode(rate=1, spm_rate=0, **names)
    asked.prepare(other)
    ids = one(asked.encode(other, documents(MANY[3])))
    assert [other.backend.id_to_token(id_) for id_ in ids if id_ >= 275] == ["<P>", "<S>", "<M>"]
    with pytest.raises(UserError, match="<P>, <M>, <S>: no special token"):
        asked.prepare(tokenizer)


def test_prepare_refuses_a_tokenizer_without_the_tokens(tokenizer):
    mode().prepare(tokenizer)
    with pytest.raises(UserError, match=r"fim_prefix.*special_tokens=\[<\|endoftext\|>, <\|fim_prefix\|>, .*train"):
        mode().prepare(small_tokenizer())
    with pytest.raises(UserError, match=r"^mode.kind=fim: <\|fim_suffix\|>: no special"):
        mode().prepare(tokenizer_with(*TOKENS[:2]))
    backend = small_tokenizer().backend
    backend.add_tokens(list(TOKENS))  # not special: text would spell them
    with pytest.raises(UserError, match="special: true"):
        mode().prepare(Tokenizer(backend, "small"))
    with pytest.raises(UserError, match="ends a document"):
        mode(prefix_token="<|endoftext|>").prepare(tokenizer)
    with pytest.raises(ValidationError, match="two are the same"):
        mode(prefix_token=TOKENS[1])


@pytest.mark.parametrize("max_tokens", [32, 40, 100])
def test_a_limit_holds_and_split_loses_nothing(tokenizer, max_tokens):
    texts = [*TEXTS, "x" * 500, "日本 the cat 😶‍🌫️ " * 60]
    limit = {"max_tokens": max_tokens, "policy": "split"}
    batch = mode(rate=1, min_characters=1, limit=limit).encode(tokenizer, documents(*texts))
    assert batch.lengths.max() <= max_tokens
    orders = []
    for text, pieces in zip(texts, pieces_of(batch), strict=True):
        undone = [undo(tokenizer, piece) for piece in pieces]
        assert b"".join(found for _, found in undone) == text.encode()
        orders += [order for order, _ in undone]
    assert orders.count("plain") < 0.1 * len(orders)
    assert bytes_of(batch, texts) == [len(text.encode()) for text in texts]
    assert len(orders) > len(texts)


@pytest.mark.parametrize("policy", ["truncate_left", "truncate_right"])
def test_truncation_keeps_one_side(tokenizer, policy):
    batch = mode(rate=1, limit={"max_tokens": 40, "policy": policy}).encode(tokenizer, documents(*TEXTS))
    for text, (piece,), claimed in zip(TEXTS, pieces_of(batch), bytes_of(batch, TEXTS), strict=True):
        _, kept = undo(tokenizer, piece)
        assert text.encode().startswith(kept) if policy == "truncate_right" else text.encode().endswith(kept)
        assert len(kept) == claimed
        assert (len(kept) < len(text.encode())) == (len(tokenizer.encode(text)) > 24)


def test_reject_and_what_a_limit_leaves_alone(tokenizer):
    limit = {"max_tokens": 40, "policy": "reject"}
    batch = mode(rate=1, limit=limit).encode(tokenizer, documents("x" * 24, "x" * 25))
    assert batch.refused == {1: ("too long", "25 tokens of text; mode.limit admits 40, 16 of them beside the text")}
    assert one(mode(rate=1).encode(tokenizer, documents("x" * 24))) == pieces_of(batch)[0][0]
    short = [text for text in MANY[:200] if len(tokenizer.encode(text)) <= 84]
    free = pieces_of(mode().encode(tokenizer, documents(*short)))
    assert free == pieces_of(mode(limit={**limit, "max_tokens": 100}).encode(tokenizer, documents(*short)))
    with pytest.raises(ValidationError, match="greater than or equal to 32"):
        mode(limit={"max_tokens": 31, "policy": "split"})


def test_a_piece_that_would_become_too_long_stays_as_it_is(tokenizer, monkeypatch):
    """With one token too few set aside: x is always one token, so each full piece would have one too many."""
    monkeypatch.setattr("data_preprocessing.modes.fim.RESERVED", 3)
    limit = {"max_tokens": 32, "policy": "split"}
    batch = mode(rate=1, limit=limit).encode(tokenizer, documents("x" * (3 * 29 + 20)))
    assert batch.lengths.tolist() == [30, 30, 30, 24]
    orders, texts = zip(*(undo(tokenizer, piece) for piece in pieces_of(batch)[0]), strict=True)
    assert orders[:3] == ("plain",) * 3
    assert orders[3] != "plain"
    assert b"".join(texts) == b"x" * (3 * 29 + 20)
