"""`POST /v1/completions`: a request's way from its body to its last event."""

import asyncio
import logging
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from modelzoo.batching import Completion, Piece, ShownToken
from modelzoo.model.sampling import Sampling
from modelzoo.serve.engine import Engine, Full
from modelzoo.serve.limits import Limits
from modelzoo.serve.protocol import (
    Answer,
    ApiError,
    CompletionRequest,
    choice,
    logprobs_of,
    parse_request,
    usage,
)
from modelzoo.tokenizer import Tokenizer

log = logging.getLogger(__name__)

CLOSE = {"connection": "close"}
"""Sent where a body was not read to its end."""
LATER = {"retry-after": "1"}


class Completions:
    """The endpoint, as an ASGI application: however a request ends, its rows and its place are free again."""

    def __init__(self, engine: Engine, name: str, limits: Limits) -> None:
        self.engine, self.name, self.limits = engine, name, limits
        self._num_requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._num_requests >= self.limits.max_requests:
            raise ApiError(
                429,
                f"{self._num_requests} requests are in progress, as many as may be; try again soon",
                code="too_many_requests",
                headers=LATER | CLOSE,
            )
        self._num_requests += 1
        started = time.monotonic()
        job: Job | None = None
        try:
            asked = parse_request(await _read_body(Request(scope, receive), self.limits))
            completions = await run_in_threadpool(self._completions, asked)
            job = Job(asked, completions, self.name, self.engine.batcher.tokenizer)
            self._submit(completions)
            if asked.stream:
                response: Response = StreamingResponse(job.events(), media_type="text/event-stream")
                response.headers["cache-control"] = "no-store"
            else:
                response = Response(await _unless_gone(job.whole(), receive), media_type="application/json")
            await response(scope, receive, send)
            counts = job.usage()
            log.info(
                "%d completions, %d + %d tokens, %.2f s",
                len(completions),
                counts["prompt_tokens"],
                counts["completion_tokens"],
                time.monotonic() - started,
            )
        except ClientDisconnect:
            log.info("a client went away before its answer was complete")
        finally:
            self._num_requests -= 1
            if job is not None:
                self.engine.cancel(job.completions)

    def _completions(self, asked: CompletionRequest) -> list[Completion]:
        """Every completion that is asked for, checked. Raises ApiError."""
        check_name(asked.model, self.name)
        num_each = asked.n or 1
        if len(asked.prompt) * num_each > self.limits.max_choices:
            raise ApiError(
                400,
                f"{len(asked.prompt)} prompts, n={num_each}: at most {self.limits.max_choices} completions a request; "
                "send several requests",
                param="n" if num_each > 1 else "prompt",
            )
        seed = secrets.randbits(62) if asked.seed is None else asked.seed
        samplings = [_sampling(asked, (seed + sample) % 2**63) for sample in range(num_each)]
        completions = []
        for number, prompt in enumerate(asked.prompt):
            where = f"prompt[{number}]" if len(asked.prompt) > 1 else "prompt"
            ids = self._encode(prompt)
            max_new_tokens = self._max_new_tokens(asked.max_tokens, len(ids), where)
            for sampling in samplings:
                completion = Completion(ids, sampling, max_new_tokens, tuple(asked.stop), asked.logprobs)
                try:
                    self.engine.batcher.check(completion)
                except ValueError as error:
                    raise ApiError(400, f"{where}: {error}", param="prompt") from None
                completions.append(completion)
        return completions

    def _encode(self, prompt: str | list[int]) -> list[int]:
        tokenizer = self.engine.batcher.tokenizer
        return (tokenizer.encode(prompt) or [tokenizer.end_of_document_id]) if isinstance(prompt, str) else prompt

    def _max_new_tokens(self, max_tokens: int | None, prompt_len: int, where: str) -> int:
        max_len = self.engine.batcher.decoder.max_len
        room = max_len - prompt_len
        if room < (max_tokens or 1):
            raise ApiError(
                400,
                f"this model's maximum context length is {max_len} tokens; {where} has {prompt_len}, and "
                f"max_tokens is {max_tokens}: shorten the prompt, or ask for fewer",
                param="prompt" if room < 1 else "max_tokens",
                code="context_length_exceeded",
            )
        return max_tokens or room

    def _submit(self, completions: Sequence[Completion]) -> None:
        try:
            self.engine.submit(completions)
        except Full as full:
            raise ApiError(429, f"{full}; try again soon", code="queue_full", headers=LATER) from None
        except RuntimeError as stopped:
            raise ApiError(503, str(stopped)) from None


class Job:
    """A request's completions while they are computed, and its answer."""

    def __init__(
        self, asked: CompletionRequest, completions: Sequence[Completion], name: str, tokenizer: Tokenizer
    ) -> None:
        self.asked, self.completions, self.tokenizer = asked, completions, tokenizer
        self._answer = Answer(f"cmpl-{uuid.uuid4().hex}", name)
        self._pieces: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for index, completion in enumerate(completions):
            completion.on_piece = self._sender(loop, index)

    def _sender(self, loop: asyncio.AbstractEventLoop, index: int) -> Callable[[Piece], None]:
        def send(piece: Piece) -> None:  # in the engine's thread
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._pieces.put_nowait, (index, piece))

        return send

    async def _arriving(self) -> AsyncIterator[tuple[int, Piece]]:
        """(choice, piece) until all choices are done. Raises ApiError where the computation failed."""
        num_left = len(self.completions)
        while num_left:
            index, piece = await self._pieces.get()
            if piece.finish_reason == "error":
                if error := self.completions[index].error:
                    log.error("a completion failed alone", exc_info=error)
                raise ApiError(500, "the computation failed, or the server is stopping; its log says why")
            num_left -= piece.finish_reason is not None
            yield index, piece

    async def whole(self) -> bytes:
        """The answer in one."""
        tokens: list[list[ShownToken]] = [[] for _ in self.completions]
        async for index, piece in self._arriving():
            tokens[index] += piece.tokens
        choices = [
            choice(index, self._echo(index) + done.text, self._logprobs(tokens[index]), done.finish_reason)
            for index, done in enumerate(self.completions)
        ]
        return self._answer.body(choices, self.usage())

    async def events(self) -> AsyncIterator[bytes]:
        """The answer in server-sent events: a chunk for every piece that says something."""
        try:
            if self.asked.echo:
                for index in range(len(self.completions)):
                    yield self._event(choice(index, self._echo(index), None, None))
            async for index, piece in self._arriving():
                if piece.text or piece.tokens or piece.finish_reason:
                    yield self._event(choice(index, piece.text, self._logprobs(piece.tokens), piece.finish_reason))
            if self.asked.stream_options is not None and self.asked.stream_options.include_usage:
                yield _sse(self._answer.body([], self.usage()))
        except ApiError as error:  # the status has gone out already
            yield _sse(orjson.dumps(error.body()))
        yield _sse(b"[DONE]")

    def _event(self, choice: dict[str, Any]) -> bytes:
        return _sse(self._answer.body([choice]))

    def _echo(self, index: int) -> str:
        """What the text of a choice begins with."""
        if not self.asked.echo:
            return ""
        prompt = self.asked.prompt[index // (self.asked.n or 1)]
        return prompt if isinstance(prompt, str) else self.tokenizer.decode(prompt)

    def _logprobs(self, tokens: Sequence[ShownToken]) -> dict[str, list[Any]] | None:
        return None if self.asked.logprobs is None else logprobs_of(tokens, self.tokenizer.decode)

    def usage(self) -> dict[str, int]:
        """Tokens of the prompts, each counted once, and of the completions so far."""
        prompts = self.completions[:: self.asked.n or 1]
        return usage(sum(len(c.prompt_ids) for c in prompts), sum(c.num_tokens for c in self.completions))


def check_name(asked: str | None, name: str) -> None:
    """Raise ApiError (404) where another model is asked for."""
    if asked not in (None, name):
        raise ApiError(
            404,
            f"the model {asked!r:.100} does not exist; this server has {name!r}",
            param="model",
            code="model_not_found",
        )


def _sampling(asked: CompletionRequest, seed: int) -> Sampling:
    temperature = 1.0 if asked.temperature is None else asked.temperature
    drawn = temperature > 0  # else the filters keep what greedy decoding takes
    try:
        return Sampling(
            temperature=temperature,
            top_k=asked.top_k if drawn else None,
            top_p=asked.top_p if drawn else None,
            min_p=asked.min_p if drawn else None,
            repetition_penalty=asked.repetition_penalty or 1.0,
            seed=seed,
        )
    except ValueError as error:
        raise ApiError(400, str(error)) from None


async def _read_body(request: Request, limits: Limits) -> bytes:
    """The body. Raises ApiError as soon as it is known to be too long, too slow, or not JSON."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":  # which also keeps web pages out: a browser asks first before it sends this
        raise ApiError(415, f"content-type is {kind!r:.100}: expected application/json", headers=CLOSE)
    if request.headers.get("content-encoding", "identity") != "identity":
        raise ApiError(415, "content-encoding: expected none; send the JSON as it is", headers=CLOSE)
    too_long = ApiError(
        413, f"the body is longer than {limits.max_body_bytes} bytes; send several requests", headers=CLOSE
    )
    if int(request.headers.get("content-length", 0)) > limits.max_body_bytes:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.max_body_bytes:
                    raise too_long
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {limits.body_seconds:g} seconds", headers=CLOSE) from None
    return bytes(body)


async def _unless_gone(answer: Coroutine[Any, Any, bytes], receive: Receive) -> bytes:
    """The answer, unless the client goes away before: then ClientDisconnect."""

    async def wait_until_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    work, gone = asyncio.create_task(answer), asyncio.create_task(wait_until_gone())
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        return work.result()
    finally:
        work.cancel()
        gone.cancel()


def _sse(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
