"""Progress of work whose length is known: a bar on a terminal, one line at the end elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from modelzoo.cli.arguments import say


@contextmanager
def counting(label: str, total: int | None, unit: str) -> Iterator[Callable[..., None]]:
    """Yields `advance(amount, total=None, more="")`: how many more units are done, and what else to show."""
    started, done, beside = time.monotonic(), 0, ""
    with _bar(label, total) if sys.stderr is not None and sys.stderr.isatty() else nullcontext() as show:
        shown_at = 0.0

        def advance(amount: int, total: int | None = None, more: str = "") -> None:
            nonlocal done, beside, shown_at
            done, beside = done + amount, more
            if show is not None and time.monotonic() - shown_at > 0.1:
                rate = done / max(1e-9, time.monotonic() - started)
                shown = f"{rate / 1e6:.1f} MB/s" if unit == "bytes" else f"{rate:,.0f} {unit}/s"
                show(completed=done, total=total, rate=", ".join(filter(None, (shown, more))))
                shown_at = time.monotonic()

        yield advance
    if done:
        seconds = time.monotonic() - started
        rate = f" ({', '.join(filter(None, (f'{done / seconds / 1e6:.1f} MB/s', beside)))})" if unit == "bytes" else ""
        say(f"{label}: {done:,} {unit} in {seconds:.1f} s{rate}")


@contextmanager
def _bar(label: str, total: int | None) -> Iterator[Callable[..., None]]:
    """Yields what sets `completed`, `total` and `rate`, and draws the bar."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
    )
    console = Console(stderr=True, highlight=False)
    # without a thread of its own: who has threads cannot fork workers
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bar:
        task = bar.add_task(label, total=total, rate="")

        def show(**fields: Any) -> None:
            bar.update(task, refresh=True, **fields)

        yield show


@contextmanager
def reading(label: str) -> Iterator[Callable[[Any], None]]:
    """`counting` for data_preprocessing, which reports what is done so far, and the total of bytes."""
    started = time.monotonic()
    with counting(label, None, "bytes") as advance:
        before = 0

        def on_progress(progress: Any) -> None:
            nonlocal before
            rate = progress.tokens / max(1e-9, time.monotonic() - started)
            tokens = f"{rate / 1e6:.2f} Mtok/s" if progress.tokens else ""
            rejected = f"{progress.rejected:,} rejected" if progress.rejected else ""
            more = ", ".join(filter(None, (tokens, rejected)))
            advance(progress.bytes_done - before, total=progress.bytes_total, more=more)
            before = progress.bytes_done

        yield on_progress
