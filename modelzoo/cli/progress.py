"""Progress of work whose length is known: a bar on a terminal, one line at the end elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from modelzoo.cli.arguments import say


@contextmanager
def counting(label: str, total: int | None, unit: str) -> Iterator[Callable[..., None]]:
    """Yields `advance(amount)`, to be called with how many more units are done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    started, done = time.monotonic(), 0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total, rate="")

        def advance(amount: int, total: int | None = None) -> None:
            nonlocal done
            done += amount
            rate = done / max(1e-9, time.monotonic() - started)
            shown = f"{rate / 1e6:.1f} MB/s" if unit == "bytes" else f"{rate:,.0f} {unit}/s"
            bar.update(task, completed=done, rate=shown, total=total)

        yield advance
    if done:
        say(f"{label}: {done:,} {unit} in {time.monotonic() - started:.1f} s")


@contextmanager
def reading(label: str) -> Iterator[Callable[[Any], None]]:
    """`counting` for data_preprocessing, which reports the bytes done so far and their total."""
    with counting(label, None, "bytes") as advance:
        before = 0

        def on_progress(progress: Any) -> None:
            nonlocal before
            advance(progress.bytes_done - before, total=progress.bytes_total)
            before = progress.bytes_done

        yield on_progress
