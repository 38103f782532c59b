"""Where the time of a run goes: every moment of it belongs to exactly one part, so that the parts add up to a
stop-watch.

An accelerator works on while the program runs ahead, and the program waits for it once a step, wherever that is. So
the time of forward pass, backward pass and optimizer together is the program's, and is divided among the three as the
device's own marks in its queue say. On the CPU the program's time is all there is.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, cast

import torch

ON_DEVICE = ("forward", "backward", "optimizer")
STEP = ("data", *ON_DEVICE)
"""What an update consists of; tokens per second are counted over these."""
PARTS = (*STEP, "evaluate", "save", "other")
WARMUP_STEPS = 2
"""First updates of a process, which fault memory in, tune kernels and compile: no part of tokens per second."""


class Mark(Protocol):
    """A point in a device's queue, as `torch.cuda.Event`."""

    def record(self) -> None: ...

    def query(self) -> bool: ...

    def elapsed_time(self, end: "Mark") -> float: ...


class StepClock:
    """Seconds by part and tokens per second, between two records and of the whole process."""

    def __init__(self, new_mark: Callable[[], Mark | None] = lambda: None) -> None:
        """`new_mark` gives a mark for the device's queue; None where the program's time is the device's."""
        self._elapsed_before, self._running = 0.0, False
        self._new_mark = new_mark
        self._pending: deque[tuple[str, Mark, Mark]] = deque()
        self._steps = 0
        self._counted_tokens, self._counted_seconds = 0, 0.0
        self._started = self._last = time.perf_counter()
        self._current = "other"
        self._begin_record()

    def resume(self, elapsed: float) -> None:
        """The run has taken so many seconds in other processes. Once started, no clock is turned back."""
        if not self._running:
            self._elapsed_before = elapsed

    def start(self) -> None:
        """Begin to count; what came before belongs to nothing."""
        self._started = self._last = time.perf_counter()
        self._running = True
        self._pending.clear()
        self._begin_record()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """The block's time belongs to this part, but for what parts inside it take."""
        before = self._switch(name)
        first = self._new_mark() if name in ON_DEVICE else None
        if first is not None:
            first.record()
        try:
            with _labelled(name):
                yield
        finally:
            if first is not None:
                last = cast(Mark, self._new_mark())
                last.record()
                self._pending.append((name, first, last))
            self._switch(before)

    def step_done(self, num_tokens: int) -> None:
        """An update of so many tokens is over."""
        self._switch(self._current)
        self._steps += 1
        seconds = sum(self._seconds[part] for part in STEP) - self._seconds_of_steps
        self._seconds_of_steps += seconds
        if self._steps > WARMUP_STEPS:
            self._tokens += num_tokens
            self._counted += seconds
        while self._pending and self._pending[0][2].query():
            self._read_marks()

    def record(self) -> dict[str, float | None]:
        """Seconds by part since the last record, their sum, and tokens per second; the device's queue is empty.

        `tokens_per_second` is None where all updates were warm-up.
        """
        self._switch(self._current)
        while self._pending:
            self._read_marks()
        if total := sum(self._device_seconds.values()):
            on_host = sum(self._seconds[part] for part in ON_DEVICE)
            for part, seconds in self._device_seconds.items():
                self._seconds[part] = on_host * seconds / total
        self._counted_tokens += self._tokens
        self._counted_seconds += self._counted
        numbers: dict[str, float | None] = {
            "tokens_per_second": self._tokens / self._counted if self._counted else None,
            **{f"{part}_seconds": round(seconds, 6) for part, seconds in self._seconds.items()},
            "seconds": round(sum(self._seconds.values()), 6),
            "elapsed_seconds": round(self.elapsed, 6),
        }
        self._begin_record()
        return numbers

    @property
    def elapsed(self) -> float:
        """Seconds of training since the run began; pauses between its processes do not count."""
        return self._elapsed_before + self._last - self._started

    @property
    def tokens_per_second(self) -> float | None:
        """Of all recorded updates of this process but its first; None where there were no others."""
        return self._counted_tokens / self._counted_seconds if self._counted_seconds else None

    def _begin_record(self) -> None:
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._device_seconds = dict.fromkeys(ON_DEVICE, 0.0)
        self._tokens, self._counted, self._seconds_of_steps = 0, 0.0, 0.0

    def _switch(self, part: str) -> str:
        """Charge the time since the last switch to the part that was on; which is returned."""
        now = time.perf_counter()
        self._seconds[self._current] += now - self._last
        self._last = now
        before, self._current = self._current, part
        return before

    def _read_marks(self) -> None:
        name, first, last = self._pending.popleft()
        self._device_seconds[name] += first.elapsed_time(last) / 1e3  # it counts milliseconds


def _labelled(name: str) -> AbstractContextManager[object]:
    """The part's name in a profiler's trace, where one runs: else it would cost some microseconds each time."""
    return torch.profiler.record_function(name) if torch.autograd.profiler._is_profiler_enabled else nullcontext()
