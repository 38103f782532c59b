"""lm-evaluation-harness: the same numbers as its own model `hf` gives on the same weights."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from tests.evaluate.references import exported, scorer
from tests.samples import TRICKY

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: the extra lm_eval")
pytest.importorskip("accelerate", reason="the harness's own model needs accelerate")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from modelzoo.base_config import UserError
from modelzoo.evaluate.harness import HarnessModel

FAMILIES = ["gpt2", "gptj", "gpt_neox"]
WORDS = ["the", "cat", "and", "the", "dog", "and", "the", "bird", "saw", "the", "other", "cat"]
LONG = " ".join(WORDS * 9)
PAIRS = [
    ("the cat", " and"),
    ("the cat", " dog"),
    ("the cat ", "saw the bird"),
    ("", "the cat and the dog"),
    ("", "x"),
    (LONG, " the other cat"),
    (LONG, " " + " ".join(WORDS[:3])),
    ("a question?", " yes"),
    ("a question?", " no, or perhaps never"),
    ("code:\n\n", "    return {1: 'a'}  # 日本語"),
    ("<|endoftext|>the dog", " saw<|endoftext|>"),
    ("<|endoftext|>", "the"),
    ("", "<|endoftext|>the cat"),
    ("e\u0301", " emoji 😶‍🌫️"),
]


def requests(kind: str, arguments: list[Any]) -> list[Instance]:
    return [Instance(kind, {}, one if isinstance(one, tuple) else (one,), index) for index, one in enumerate(arguments)]


@cache
def both(family: str, padded: bool = False) -> tuple[HFLM, Any]:
    """The harness's model and ours, at batch size 1; see `at` for others."""
    folder = Path(mkdtemp())
    model, tokenizer = exported(folder, family, padded)
    theirs = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1)
    return theirs, lambda batch_size=1, **options: HarnessModel(scorer(model, batch_size), tokenizer, **options)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_log_likelihoods(family: str, padded: bool) -> None:
    theirs, ours = both(family, padded)
    wanted = theirs.loglikelihood(requests("loglikelihood", PAIRS), disable_tqdm=True)
    greedy = [index for index, (_, is_greedy) in enumerate(wanted) if is_greedy]
    for batch_size in (1, 3, 16):
        found = ours(batch_size).loglikelihood(requests("loglikelihood", PAIRS), disable_tqdm=True)
        assert [value for value, _ in found] == pytest.approx([value for value, _ in wanted], abs=1e-4)
        assert [index for index, (_, is_greedy) in enumerate(found) if is_greedy] == greedy


@pytest.mark.parametrize("family", FAMILIES)
def test_what_greedy_decoding_gives_is_greedy(family: str) -> None:
    theirs, ours = both(family)
    text = ours().generate_until(requests("generate_until", [("the cat", {"until": [], "max_gen_toks": 3})]))[0]
    pairs = requests("loglikelihood", [("the cat", text), ("the cat", text + " and")])
    wanted = theirs.loglikelihood(pairs, disable_tqdm=True)
    assert [is_greedy for _, is_greedy in ours().loglikelihood(pairs, disable_tqdm=True)] == [g for _, g in wanted]


@pytest.mark.parametrize("family", FAMILIES)
def test_rolling_log_likelihoods(family: str) -> None:
    theirs, ours = both(family)
    texts = [*filter(None, TRICKY), LONG, LONG[:40], "x"]
    wanted = theirs.loglikelihood_rolling(requests("loglikelihood_rolling", texts), disable_tqdm=True)
    for batch_size in (1, 3, 16):
        found = ours(batch_size).loglikelihood_rolling(requests("loglikelihood_rolling", texts), disable_tqdm=True)
        assert found == pytest.approx(wanted, abs=1e-4, rel=1e-6)
    assert ours().loglikelihood_rolling(requests("loglikelihood_rolling", [""])) == [0.0]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_texts(family: str) -> None:
    theirs, ours = both(family)
    contexts = ["the cat", "the dog", LONG, "a question?", "<|endoftext|>", "😶‍🌫️"]
    free = theirs.generate_until(requests("generate_until", [(c, {"until": [], "max_gen_toks": 9}) for c in contexts]))
    stops = [[], ["\n"], [text[3:5] for text in free if len(text) > 5][:2], [free[0][4:6], "never"]]
    for until in stops:
        options = {"until": until, "max_gen_toks": 9, "do_sample": False, "temperature": 0.0}
        asked = requests("generate_until", [(context, options) for context in contexts])
        wanted = theirs.generate_until(asked, disable_tqdm=True)
        for batch_size in (1, 3):
            assert ours(batch_size).generate_until(asked, disable_tqdm=True) == wanted
    assert any(len(text) > 5 for text in free)


def test_requests_of_several_options_keep_their_order() -> None:
    theirs, ours = both("gptj")
    asked = requests(
        "generate_until",
        [("the cat", {"until": [], "max_gen_toks": n}) for n in (2, 7, 4)] + [("the dog", {"max_gen_toks": 2})],
    )
    assert ours(3).generate_until(asked) == theirs.generate_until(asked, disable_tqdm=True)


def test_sampling_is_reproducible() -> None:
    _, ours = both("gptj")
    asked = requests("generate_until", [("the cat", {"do_sample": True, "temperature": 0.9, "max_gen_toks": 8})])
    assert ours(seed=1).generate_until(asked) == ours(seed=1).generate_until(asked)
    assert ours(seed=1).generate_until(asked) != ours(seed=2).generate_until(asked)


def test_a_shorter_context_may_be_asked_for() -> None:
    theirs, ours = both("gpt_neox")
    theirs._max_length = 12
    try:
        asked = requests("loglikelihood", [(LONG, " the other cat")])
        wanted = theirs.loglikelihood(asked, disable_tqdm=True)[0][0]
        assert ours(max_length=12).loglikelihood(asked, disable_tqdm=True)[0][0] == pytest.approx(wanted, abs=1e-4)
        assert ours().loglikelihood(asked, disable_tqdm=True)[0][0] != pytest.approx(wanted, abs=1e-3)
    finally:
        theirs._max_length = None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("the cat", {"max_gen_toks": 40}), "max_gen_toks=40 leaves no room"),
        (("the cat", {"max_gen_toks": 2, "num_beams": 3}), "num_beams: not supported"),
    ],
)
def test_what_cannot_be_generated_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        both("gptj")[1]().generate_until(requests("generate_until", [arguments]))


def test_continuations_that_cannot_be_scored_are_refused() -> None:
    for pair in (("the cat", LONG), ("the cat", ""), ("", "<|endoftext|>")):
        with pytest.raises(UserError, match="a continuation of"):
            both("gptj")[1]().loglikelihood(requests("loglikelihood", [pair]), disable_tqdm=True)


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_context_cut_at_another_place_is_noticed(monkeypatch: Any, shift: int) -> None:
    real = HarnessModel._row

    def planted(self: Any, key: Any, context: list[int], continuation: list[int]) -> Any:
        keep = self.max_length + 1 - len(continuation) + shift
        return real(self, key, context[-keep:] if shift < 0 else context[-keep + 2 :], continuation)

    monkeypatch.setattr(HarnessModel, "_row", planted)
    with pytest.raises(AssertionError):
        test_log_likelihoods("gpt2", False)
