"""What the server is asked and what it answers: OpenAI's completions, as JSON. No web framework."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import orjson
from pydantic import BeforeValidator, Field, ValidationError

from modelzoo.base_config import Config
from modelzoo.batching import ShownToken
from modelzoo.model.sampling import MAX_PENALTY, MAX_TEMPERATURE, MIN_PENALTY, MIN_TEMPERATURE

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "suffix": (None, ""),
    "user": (None,),  # and any text, which asks nothing of the model
}
"""Parameters of OpenAI's that the server lacks, with the values that ask for nothing. Other values are refused."""

MAX_LOGPROBS, MAX_STOPS, MAX_STOP_CHARACTERS = 20, 16, 1000


class ApiError(Exception):
    """An answer other than 200, in OpenAI's shape."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        kind = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}
        return {
            "error": {
                "message": self.message,
                "type": kind.get(self.status, "invalid_request_error"),
                "param": self.param,
                "code": self.code,
            }
        }


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _prompts(value: Any) -> list[str | list[int]]:
    if isinstance(value, str) or _is_ids(value):
        return [value]
    if isinstance(value, list) and value and (all(isinstance(item, str) for item in value) or all(map(_is_ids, value))):
        return value
    raise ValueError("expected a text, a list of texts, a list of token ids, or a list of such lists; none empty")


def _stops(value: Any) -> Any:
    return [value] if isinstance(value, str) else value or []


class StreamOptions(Config):
    """How to stream."""

    include_usage: bool = False
    """Count the tokens in a last chunk."""


class CompletionRequest(Config):
    """The body of `POST /v1/completions`. top_k, min_p and repetition_penalty go beyond OpenAI's."""

    prompt: Annotated[list[str | list[int]], BeforeValidator(_prompts)]
    """One or several; an empty text continues the end of a document."""
    model: str | None = None
    """Its name, as `/v1/models` has it."""
    max_tokens: Annotated[int, Field(ge=1)] | None = 16
    """New tokens at most; null is what the context holds."""
    n: Annotated[int, Field(ge=1)] | None = 1
    """Completions of each prompt."""
    temperature: Annotated[float, Field(ge=0, le=MAX_TEMPERATURE)] | None = 1.0
    """0 is greedy; top_k, top_p and min_p then hold by themselves, for they keep the likeliest token."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    top_k: Annotated[int, Field(ge=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=MIN_PENALTY, le=MAX_PENALTY)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Of the first completion of each prompt; the next one takes seed + 1."""
    stop: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]],
        BeforeValidator(_stops),
        Field(max_length=MAX_STOPS),
    ] = []  # noqa: RUF012 (pydantic copies defaults)
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    """The logprobs of the tokens of the text, and of as many of the likeliest at each place."""
    echo: bool | None = False
    """Begin each text with its prompt."""
    stream: bool | None = False
    """Answer in server-sent events."""
    stream_options: StreamOptions | None = None


def parse_request(body: bytes) -> CompletionRequest:
    """The request that a body holds. Raises ApiError (400) with every problem in it."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ApiError(400, 'the body must be a JSON object, such as {"prompt": "Once", "max_tokens": 16}')
    unsupported = [key for key in data if key in NEUTRAL and not _is_neutral(key, data[key])]
    unknown = [key for key in data if key not in NEUTRAL and key not in CompletionRequest.model_fields]
    if wrong := unsupported + unknown:
        known = ", ".join(CompletionRequest.model_fields)
        raise ApiError(
            400,
            f"unsupported: {', '.join(map(_short, wrong[:10]))}; leave it out. Known here: {known}",
            param=wrong[0][:80],
            code="unsupported_parameter",
        )
    try:
        request = CompletionRequest.model_validate({key: data[key] for key in data if key not in NEUTRAL})
    except ValidationError as error:
        problems = error.errors(include_url=False)
        lines = [f"{'.'.join(map(str, p['loc']))}: {_message(p)}" for p in problems[:10]]
        raise ApiError(400, "; ".join(lines), param=str(problems[0]["loc"][0])) from None
    if request.temperature is not None and 0 < request.temperature < MIN_TEMPERATURE:
        raise ApiError(400, f"temperature: use 0 for greedy, or at least {MIN_TEMPERATURE}", param="temperature")
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "stream_options: has no effect without stream=true", param="stream_options")
    if request.echo and request.logprobs is not None:
        raise ApiError(400, "echo with logprobs: those of the prompt are not computed; ask for one", param="echo")
    return request


def _is_neutral(key: str, value: Any) -> bool:
    if key == "user" and isinstance(value, str):
        return True
    return not isinstance(value, bool) and value in NEUTRAL[key]  # True equals 1


def _message(problem: Any) -> str:
    if problem["type"] == "missing":
        return "is required"
    return f"{problem['msg'].removeprefix('Value error, ')}, got {_short(problem['input'])}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


class Answer:
    """The JSON of one request's answer, whole or in chunks."""

    def __init__(self, identifier: str, model: str) -> None:
        self._common = {
            "id": identifier,
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    def body(self, choices: Sequence[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
        """A completion, or a chunk of one."""
        return orjson.dumps({**self._common, "choices": choices, **({} if usage is None else {"usage": usage})})


def choice(index: int, text: str, logprobs: dict[str, Any] | None, finish_reason: str | None) -> dict[str, Any]:
    """One of the completions; `finish_reason` in OpenAI's words, which do not tell ends of documents apart."""
    reason = "stop" if finish_reason == "end_of_document" else finish_reason
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """The count of a request's tokens."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def logprobs_of(tokens: Iterable[ShownToken], decode: Callable[[list[int]], str]) -> dict[str, list[Any]]:
    """OpenAI's columns. The chosen token is among the likeliest; of those that read alike the likeliest stays."""
    columns: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for shown in tokens:
        text, logprob = decode([shown.token.token_id]), shown.token.logprob
        likeliest: dict[str, float | None] = {}
        for token_id, top in shown.token.top_logprobs:
            likeliest.setdefault(decode([token_id]), top)
        likeliest.setdefault(text, logprob)
        row = {"tokens": text, "token_logprobs": logprob, "top_logprobs": likeliest, "text_offset": shown.offset}
        for name, value in row.items():
            columns[name].append(value)
    return columns
