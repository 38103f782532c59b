"""`modelzoo serve`: a checkpoint behind OpenAI's completions API."""

import importlib.util
import ipaddress
import socket
from pathlib import Path
from typing import NoReturn

import typer

from modelzoo.base_config import UserError
from modelzoo.cli.arguments import say
from modelzoo.cli.decoding import check_precision, load_batcher

EXTRA = ("starlette", "uvicorn")


def command(
    checkpoint: Path = typer.Argument(..., help="A checkpoint, or a run's folder (its newest one)."),
    host: str = typer.Option("127.0.0.1", help="Address to listen on; the default is reached from this machine only."),
    port: int = typer.Option(8000, min=0, max=65535, help="0 takes a free one, and says which."),
    name: str = typer.Option(None, help="What clients call the model; the run's name otherwise."),
    max_batch_size: int = typer.Option(
        8, min=1, help="Completions computed at a time; each takes memory for its cache."
    ),
    max_len: int = typer.Option(
        None, min=2, help="Tokens of a prompt and its completion; the model's context otherwise."
    ),
    max_queue: int = typer.Option(64, min=1, help="Completions that wait for a place in the batch; beyond: 429."),
    max_requests: int = typer.Option(64, min=1, help="Requests at a time; beyond: 429."),
    max_choices: int = typer.Option(None, min=1, help="Completions of one request, prompts times n; 32 otherwise."),
    max_body_bytes: int = typer.Option(2**20, min=1, help="Bytes of a request's body; beyond: 413."),
    device: str = typer.Option("auto", help="auto, cpu, cuda, mps, xpu."),
    precision: str = typer.Option("fp32", help="Of the weights: fp32, bf16, int8 (CPU)."),
) -> None:
    """Serve completions over HTTP as OpenAI's API does: /v1/completions, /v1/models, /health."""
    if missing := [package for package in EXTRA if importlib.util.find_spec(package) is None]:
        raise UserError(f"modelzoo serve needs {' and '.join(missing)}: pip install 'modelzoo[serve]'")
    max_choices = min(32, max_queue) if max_choices is None else max_choices
    if max_choices > max_queue:
        raise UserError(
            f"--max-choices {max_choices}: a request of so many never fits --max-queue {max_queue}; raise that"
        )
    check_precision(precision)
    listener = bind(host, port)

    from modelzoo.saved_models import find_saved_config, load_model_config, load_tokenizer
    from modelzoo.serve.app import build_app
    from modelzoo.serve.engine import Engine
    from modelzoo.serve.limits import Limits
    from modelzoo.serve.server import run
    from modelzoo.trainer.checkpoint import find_checkpoint

    folder = find_checkpoint(checkpoint)
    longest = load_model_config(folder).max_seq_len
    if max_len is not None and max_len > longest:
        raise UserError(f"--max-len {max_len}: the model's max_seq_len is {longest}; use that or less")
    run_config = find_saved_config(folder)
    batcher = load_batcher(folder, load_tokenizer(folder), device, precision, max_batch_size, max_len)
    limits = Limits(max_body_bytes=max_body_bytes, max_choices=max_choices, max_requests=max_requests)
    engine = Engine(batcher, max_queue)
    app = build_app(engine, name or (run_config.name if run_config else folder.name), limits, own_names(listener, host))
    try:
        listener.listen()
    except OSError as error:  # another process took the same port in the meantime
        refuse_address(host, port, error)
    announce(listener, str(folder))
    run(app, engine, listener)
    say("stopped")


def bind(host: str, port: int) -> socket.socket:
    """A socket that holds the address, and lets nobody in before it listens."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:  # gaierror too: no such host
        refuse_address(host, port, error)
    return listener


def refuse_address(host: str, port: int, error: OSError) -> NoReturn:
    reason = (error.strerror or str(error)).lower()
    raise UserError(
        f"--host {host} --port {port}: {reason}; choose another with --port, or 0 for any free one"
    ) from None


def own_names(listener: socket.socket, host: str) -> set[str] | None:
    """What clients on this machine may call a server that only they reach; None for one that others reach too."""
    address = listener.getsockname()[0]
    if not _is_loopback(address):
        return None
    return {"localhost", "127.0.0.1", "[::1]", *(_in_url(name.lower()) for name in (address, host))}


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.split("%")[0]).is_loopback


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def announce(listener: socket.socket, what: str) -> None:
    """Say where the server is reached, and warn if that is not from this machine alone."""
    address, port = listener.getsockname()[:2]
    shown = _in_url(address)
    if not _is_loopback(address):
        say(
            f"WARNING: listening on {shown}, not on this machine alone: whoever reaches port {port} can use the model. "
            "There are no keys and no encryption; put a proxy that has both in front, or leave --host out"
        )
    say(f"serving {what} at http://{shown}:{port}/v1 (Ctrl-C stops)")
