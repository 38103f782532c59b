"""What a completion answers, whole and as a stream: texts, ends, counts and logprobs."""

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from modelzoo.model.sampling import Sampling
from tests.serve.served import ANSWERS, TOKENIZER, events, texts


def test_a_completion(served):
    answer = served.post(max_tokens=20).json()
    assert answer["object"] == "text_completion"
    assert answer["model"] == "small"
    assert answer["choices"] == [{"index": 0, "text": "the cat", "logprobs": None, "finish_reason": "stop"}]
    made = len(TOKENIZER.encode("the cat")) + 1
    assert answer["usage"] == {"prompt_tokens": 1, "completion_tokens": made, "total_tokens": 1 + made}


def test_max_tokens_is_16_unless_told(served):
    answer = served.post("z").json()
    assert answer["choices"][0]["text"] == "x" * 16
    assert answer["choices"][0]["finish_reason"] == "length"
    assert texts(served.post("z", max_tokens=None)) == ["x" * 99]  # what the context of 100 holds


@pytest.mark.parametrize("prompt", [["a", "c", "b"], [TOKENIZER.encode(text) for text in "acb"]])
def test_several_prompts_and_n_keep_their_order(served, prompt):
    assert texts(served.post(prompt, n=2, max_tokens=30)) == [ANSWERS[key] for key in "aaccbb"]


def test_a_prompt_of_token_ids_and_an_empty_one(served):
    assert texts(served.post(TOKENIZER.encode("a"))) == ["the cat"]
    assert texts(served.post("")) == ["begun"]


@pytest.mark.parametrize("stop", [" and", [" and", "nowhere"], "dog"])
@pytest.mark.parametrize("stream", [False, True])
def test_stop(served, stop, stream):
    response = served.post("b", stop=stop, stream=stream, max_tokens=30)
    chunks = events(response) if stream else [response.json()]
    expected = "the " if stop == "dog" else "the dog"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_stream_says_what_the_whole_says(served):
    asked = {"n": 2, "logprobs": 1, "max_tokens": 30, "stop": ["t and t"]}
    whole = served.post(["b", "c"], **asked).json()["choices"]
    chunks = events(served.post(["b", "c"], stream=True, **asked))
    assert len({chunk["id"] for chunk in chunks}) == 1
    for choice in whole:
        mine = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert "".join(c["text"] for c in mine) == choice["text"]
        for column, values in choice["logprobs"].items():
            assert [value for c in mine for value in c["logprobs"][column]] == values
        assert [c["finish_reason"] for c in mine] == [None] * (len(mine) - 1) + [choice["finish_reason"]]
    assert whole[0]["text"] == "the dog and the cat"


def test_the_usage_of_a_stream_comes_if_asked_for(served):
    *_, last = events(served.post(["a", "b"], n=2, stream=True, stream_options={"include_usage": True}))
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens"] == 2
    assert all("usage" not in chunk for chunk in events(served.post(stream=True)))


def test_logprobs(served):
    logprobs = served.post("b", logprobs=2, stop=" and", max_tokens=30).json()["choices"][0]["logprobs"]
    ids = TOKENIZER.encode("the dog")
    assert logprobs["tokens"] == [TOKENIZER.decode([i]) for i in ids]
    assert logprobs["token_logprobs"] == [-float(i) for i in ids]
    assert logprobs["text_offset"] == [len(TOKENIZER.decode(ids[:n])) for n in range(len(ids))]
    assert logprobs["top_logprobs"] == [{TOKENIZER.decode([i]): -float(i), TOKENIZER.decode([5]): -50.0} for i in ids]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["a", TOKENIZER.encode("a")])
def test_echo(served, stream, prompt):
    response = served.post(prompt, echo=True, stream=stream)
    chunks = events(response) if stream else [response.json()]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "athe cat"


def test_options_reach_the_choice(served):
    texts(served.post(["a", "b"], n=2, seed=2**63 - 1, temperature=0.5, top_p=0.9, top_k=7, min_p=0.1))
    drawn = [Sampling(0.5, top_k=7, top_p=0.9, min_p=0.1, seed=seed) for seed in (2**63 - 1, 0)]
    assert sorted(served.decoder.samplings, key=repr) == sorted(2 * drawn, key=repr)
    texts(served.post(temperature=0, top_p=0.9, top_k=7, min_p=0.1, repetition_penalty=2, seed=3))
    assert served.decoder.samplings[-1] == Sampling(repetition_penalty=2, seed=3)
    texts(served.post())
    texts(served.post())
    first, second = served.decoder.samplings[-2:]
    assert first.seed != second.seed
    assert (first.temperature, first.top_p, first.repetition_penalty) == (1, 1, 1)


def test_echo_of_several(served):
    expected = ["athe cat"] * 2 + ["bthe dog and the cat"] * 2
    asked = {"prompt": ["a", "b"], "n": 2, "echo": True, "max_tokens": 30}
    assert texts(served.post(**asked)) == expected
    choices = [choice for chunk in events(served.post(stream=True, **asked)) for choice in chunk["choices"]]
    assert ["".join(c["text"] for c in choices if c["index"] == index) for index in range(4)] == expected


def test_what_asks_for_nothing_is_accepted(served):
    neutral = {"best_of": 1, "frequency_penalty": 0.0, "logit_bias": {}, "presence_penalty": 0, "suffix": None}
    assert texts(served.post(model="small", user=None, n=None, stop=None, temperature=0, top_p=1, **neutral)) == [
        "the cat"
    ]
    assert texts(served.post(user="me")) == ["the cat"]
