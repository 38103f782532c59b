"""An iterator that works while its items are used."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class ReadAhead(Iterator[T]):
    """An iterator run by a thread, a few items ahead."""

    DEPTH = 2

    def __init__(self, items: Iterable[T]) -> None:
        self._queue: queue.Queue[tuple[bool, Any]] = queue.Queue(self.DEPTH)
        self._stopped = False
        self._thread = threading.Thread(target=self._run, args=(items,), daemon=True)
        self._thread.start()

    def _run(self, items: Iterable[T]) -> None:
        try:
            for item in items:
                self._put((True, item))
                if self._stopped:
                    return
            self._put((False, None))
        except BaseException as error:
            self._put((False, error))

    def _put(self, entry: tuple[bool, Any]) -> None:
        while not self._stopped:
            try:
                return self._queue.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def __next__(self) -> T:
        more, item = self._queue.get()
        if more:
            return item
        self._queue.put((False, None))
        if item is not None:
            raise item
        raise StopIteration

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True
        self._thread.join()
