"""The web application: routes, limits, and every error in OpenAI's shape."""

import re
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from modelzoo.serve.completions import Completions, check_name
from modelzoo.serve.engine import Engine
from modelzoo.serve.limits import Limits
from modelzoo.serve.protocol import ApiError


class HostCheck:
    """Answers only what is addressed to one of its own names: a page whose name is made to resolve to this machine
    (DNS rebinding) sends its own, and would otherwise read the answers."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        """`hosts` in lower case, without ports; IPv6 addresses in brackets."""
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = Headers(scope=scope).get("host", "")
            name = re.sub(r":\d*$", "", host).lower()
            if name not in self.hosts:
                message = f"the host {host!r:.100} is not served here; this server is {', '.join(sorted(self.hosts))}"
                refused = ApiError(421, message, code="unknown_host", headers={"connection": "close"})
                await JSONResponse(refused.body(), refused.status, headers=refused.headers)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def build_app(engine: Engine, name: str, limits: Limits, hosts: Collection[str] | None = None) -> Starlette:
    """The ASGI application that serves an engine's model under a name. It starts the engine and closes it.

    It answers requests for `hosts` alone (see `HostCheck`), or for any without them.
    """

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
        middleware=[] if hosts is None else [Middleware(HostCheck, hosts=hosts)],
        lifespan=lifespan,
    )


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.status, headers=error.headers)


async def _refuse_http(request: Request, error: Exception) -> Response:
    """No such path, or a method that a path does not know."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}; there are POST /v1/completions, GET /v1/models, "
    return JSONResponse(ApiError(error.status_code, message + "GET /health").body(), error.status_code, error.headers)


async def _fail(request: Request, error: Exception) -> Response:
    """A mistake of ours; starlette raises it again, and uvicorn writes it to the log."""
    return JSONResponse(ApiError(500, "the server failed; its log says why").body(), 500)
