"""Processes that encode chunks. What one of them cannot do ends the run, with the place where it stood."""

import ctypes
import gc
import mmap
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from data_preprocessing.chunks import MAX_CHUNK_BYTES, Chunk
from data_preprocessing.encoder import ChunkEncoder, Outcome
from data_preprocessing.read_ahead import ReadAhead
from data_preprocessing.readers import FRAME_BYTES, Frame
from modelzoo.allocator import keep_freed_memory
from modelzoo.base_config import UserError
from modelzoo.forking import release, signals_held

SHARED_BYTES = MAX_CHUNK_BYTES + FRAME_BYTES
"""Memory that a worker shares with the process that reads: by a pipe, bytes are copied six times instead of two."""

PR_SET_PDEATHSIG = 1
"""Of prctl(2): the signal that a process gets when its parent dies."""


def encode_here(encoder: ChunkEncoder, chunks: Iterable[Chunk]) -> Iterator[Outcome]:
    """In this process, without workers."""
    encoder.tokenizer.prepare()
    yield from map(encoder, chunks)


def encode_in_processes(encoder: ChunkEncoder, chunks: Iterable[Chunk], workers: int) -> Iterator[Outcome]:
    """Outcomes in the order in which they come. A chunk is read ahead while the workers are busy.

    Raises:
        UserError: a worker died; names what it worked on.
    """
    encoder.tokenizer.prepare()
    # A fork has the tokenizer already, and shares its memory; elsewhere, or beside threads, it is unsafe
    forks = sys.platform == "linux" and threading.active_count() == 1
    pool = [_Worker(encoder, forks) for _ in range(workers)]
    ahead = ReadAhead(chunks)
    try:
        yield from _share_out(pool, ahead)
    finally:
        ahead.stop()
        for worker in pool:
            worker.end()
        for worker in pool:  # all at once: to take the memory of one apart takes 0.02 s
            worker.process.join()


def available_cpus() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_thread() -> None:
    """Keep the tokenizers of this process to one thread: the workers are the parallelism."""
    os.environ["RAYON_NUM_THREADS"], os.environ["TOKENIZERS_PARALLELISM"] = "1", "false"


def died(chunk: Chunk, how: str) -> UserError:
    """The error for a worker that ended while it had this chunk."""
    return UserError(
        f"{chunk.first}: a worker died ({how}) between here and {chunk.last}; if memory ran out, use "
        "fewer workers (workers=1). The same command goes on from the chunks that are done"
    )


def _share_out(pool: list["_Worker"], chunks: Iterator[Chunk]) -> Iterator[Outcome]:
    idle, busy = list(pool), dict[Any, _Worker]()
    done: list[Outcome] = []
    ended = False
    while busy or done or not ended:
        while idle and not ended:
            chunk = next(chunks, None)
            if chunk is None:
                ended = True
            else:
                worker = idle.pop()
                worker.send(chunk)
                busy[worker.connection] = worker
        yield from done  # once the workers have something to do again
        done = []
        for connection in wait(list(busy)) if busy else ():  # of no connection it would wait for ever
            worker = busy.pop(connection)
            done.append(worker.receive())
            idle.append(worker)


class _Worker:
    """One process, and the chunk that it has."""

    def __init__(self, encoder: ChunkEncoder, forks: bool) -> None:
        context: Any = multiprocessing.get_context("fork" if forks else "spawn")
        self.connection, theirs = context.Pipe()
        self._shared = mmap.mmap(-1, SHARED_BYTES) if forks else None
        # To a spawned process the encoder is sent by our own pipe: multiprocessing's would wait for ever for one
        # that has died, as it does where a script lacks `if __name__ == "__main__"`
        self._encoder = None if forks else encoder
        arguments = (theirs, encoder if forks else None, self._shared, os.getpid())
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        with signals_held():
            self.process.start()
        theirs.close()
        self.chunk: Chunk | None = None

    def send(self, chunk: Chunk) -> None:
        self.chunk = chunk
        try:
            if self._encoder is not None:
                self.connection.send(self._encoder)
                self._encoder = None
            self.connection.send(_put(chunk, self._shared) if self._shared else chunk)
        except (BrokenPipeError, ConnectionResetError):
            raise self._died() from None

    def receive(self) -> Outcome:
        try:
            outcome = self.connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._died() from None
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    def _died(self) -> UserError:
        self.process.join(5)
        code = self.process.exitcode
        how = f"killed by signal {signal.Signals(-code).name}" if code and code < 0 else f"exit code {code}"
        assert self.chunk is not None
        return died(self.chunk, how)

    def end(self) -> None:
        """Stop the process, whatever it does."""
        self.connection.close()
        self.process.terminate()


def _put(chunk: Chunk, shared: mmap.mmap) -> tuple[Chunk, dict[int, int]]:
    """The data of frames into shared memory, as far as there is room: the chunk without it, and by the number of the
    frame how many bytes they are."""
    items, placed, start = list(chunk.items), dict[int, int](), 0
    for number, item in enumerate(items):
        if isinstance(item, Frame) and start + len(item.data) <= len(shared):
            placed[number] = len(item.data)
            shared[start : start + len(item.data)] = item.data
            start += len(item.data)
            items[number] = item._replace(data=b"")
    return chunk._replace(items=items), placed


def _take(chunk: Chunk, placed: dict[int, int], shared: mmap.mmap) -> Chunk:
    """The chunk that `_put` was given."""
    items, start = list(chunk.items), 0
    for number, num_bytes in placed.items():
        item = items[number]
        assert isinstance(item, Frame), item
        items[number] = item._replace(data=shared[start : start + num_bytes])
        start += num_bytes
    return chunk._replace(items=items)


def _serve(connection: Connection, encoder: ChunkEncoder | None, shared: mmap.mmap | None, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    release()
    if sys.platform == "linux":  # elsewhere, an orphan ends when it next looks
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    one_thread()
    keep_freed_memory()
    # Millions of small objects live for one batch: looking through them for cycles takes a fifth of the time
    gc.freeze()
    gc.disable()
    while True:
        while not connection.poll(2):
            if os.getppid() != parent:  # killed: a fork keeps the other ends of its siblings' pipes open
                return
        try:
            message = connection.recv()
        except EOFError:
            return
        if encoder is None:
            encoder = message
            continue
        try:
            outcome: Outcome | OSError = encoder(_take(message[0], message[1], shared) if shared else message)
        except OSError as error:
            outcome = OSError(error.errno, error.strerror or str(error), error.filename)
        connection.send(outcome)
        gc.collect()
