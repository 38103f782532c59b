"""The one thread that computes: takes completions from a queue into the batch as rows become free."""

import logging
import threading
from collections import deque
from collections.abc import Sequence

from modelzoo.batching import FAILED, Batcher, Completion

log = logging.getLogger(__name__)


class Full(Exception):
    """The queue holds as many completions as it may."""


class Engine:
    """Continuous batching: completions come from any thread, and their pieces go out from the engine's own."""

    def __init__(self, batcher: Batcher, max_queue: int) -> None:
        """`max_queue` completions may wait for a row."""
        self.batcher = batcher
        self.max_queue = max_queue
        self._changed = threading.Condition()
        self._waiting: deque[Completion] = deque()
        self._cancelled: list[Completion] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="decoder", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end after the current step; completions that are not done fail."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def close(self) -> None:
        """`stop`, and wait for the thread."""
        self.stop()
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def num_active(self) -> int:
        """Completions in the batch."""
        return len(self.batcher)

    @property
    def num_waiting(self) -> int:
        """Completions in the queue."""
        return len(self._waiting)

    def submit(self, completions: Sequence[Completion]) -> None:
        """Queue completions, all or none. Raises Full; RuntimeError when the engine has stopped."""
        with self._changed:
            if self._closing or not self.is_alive:
                raise RuntimeError("the engine has stopped")
            if len(self._waiting) + len(completions) > self.max_queue:
                raise Full(f"{len(self._waiting)} completions are waiting already, and {self.max_queue} may")
            self._waiting.extend(completions)
            self._changed.notify()

    def cancel(self, completions: Sequence[Completion]) -> None:
        """Free what the completions hold, in the queue or in the batch; nothing for those that are done."""
        with self._changed:
            for completion in completions:
                if completion in self._waiting:
                    self._waiting.remove(completion)
                elif completion.finish_reason is None:
                    self._cancelled.append(completion)
            self._changed.notify()

    def _run(self) -> None:
        try:
            while self._take():
                try:
                    self.batcher.step()
                except Exception:  # of one step; the next batch may do better
                    log.exception("the decoder failed; %d completions are given up", len(self.batcher))
                    self._fail(self.batcher.clear())
        finally:
            with self._changed:
                self._closing = True
                left, self._waiting = self._waiting, deque()
            self._fail([*self.batcher.clear(), *left])

    def _take(self) -> bool:
        """Wait for work, and bring the batch up to date. False when the engine is to stop."""
        with self._changed:
            while not (self._closing or self._waiting or self._cancelled or len(self.batcher)):
                self._changed.wait()
            if self._closing:
                return False
            cancelled, self._cancelled = self._cancelled, []
            for completion in cancelled:
                self.batcher.remove(completion)
            begun = [self._waiting.popleft() for _ in range(min(len(self._waiting), self.batcher.num_free))]
        for completion in begun:
            try:
                self.batcher.add(completion)
            except Exception:
                log.exception("a completion could not begin")
                self._fail([completion])
        return True

    def _fail(self, completions: Sequence[Completion]) -> None:
        for completion in completions:
            completion.finish_reason = "error"
            try:
                completion.on_piece(FAILED)
            except Exception:  # whoever asked is gone; the others are still to be told
                log.exception("a failure could not be told")
