"""The web application: routes, limits, and every error in OpenAI's shape."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from modelzoo.serve.completions import Completions, check_name
from modelzoo.serve.engine import Engine
from modelzoo.serve.limits import Limits
from modelzoo.serve.protocol import ApiError


def build_app(engine: Engine, name: str, limits: Limits) -> Starlette:
    """The ASGI application that serves an engine's model under a name. It starts the engine and closes it."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        engine.start()
        yield
        await run_in_threadpool(engine.close)

    card = {
        "id": name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "modelzoo",
        "max_model_len": engine.batcher.decoder.max_len,
    }

    async def health(request: Request) -> Response:
        status = "ok" if engine.is_alive else "stopped"
        answer = {"status": status, "active": engine.num_active, "waiting": engine.num_waiting}
        return JSONResponse(answer, 200 if engine.is_alive else 503)

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [card]})

    async def one_model(request: Request) -> Response:
        check_name(request.path_params["name"], name)
        return JSONResponse(card)

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", one_model),
            Route("/v1/completions", Completions(engine, name, limits), methods=["POST"]),
        ],
        exception_handlers={ApiError: _refuse, HTTPException: _refuse_http, Exception: _fail},
        lifespan=lifespan,
    )


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.status, headers=error.headers)


async def _refuse_http(request: Request, error: Exception) -> Response:
    """No such path, or a method that a path does not know."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}; there are POST /v1/completions, GET /v1/models, "
    return JSONResponse(ApiError(error.status_code, message + "GET /health").body(), error.status_code)


async def _fail(request: Request, error: Exception) -> Response:
    """A mistake of ours; starlette raises it again, and uvicorn writes it to the log."""
    return JSONResponse(ApiError(500, "the server failed; its log says why").body(), 500)
