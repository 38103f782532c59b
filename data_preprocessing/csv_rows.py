"""The rows of a CSV file one by one, in bounded memory, their cells as the bytes that stand there."""

import csv
import re
from collections.abc import Iterator
from typing import NamedTuple

from data_preprocessing import streams
from data_preprocessing.streams import Steady

ORDINARY = re.compile(r'[^",\r\n]+')
"""What no decision of the parser depends on."""


class Row(NamedTuple):
    """One row. Of one that is too long or broken there is only its length."""

    cells: tuple[bytes, ...] | None
    num_bytes: int
    problem: str = ""
    """Why there are no cells; "" where it is too long."""


def rows(start: bytes, source: Steady, max_bytes: int) -> Iterator[Row]:
    """The rows of a text that begins with `start` and goes on in `source`. Line ends within quotes belong to the
    cell; a blank line is a row without cells."""
    lines = _Lines(start, source, max_bytes)
    csv.field_size_limit(2**31 - 1)  # its own is 128 KiB; max_bytes is ours
    reader = csv.reader(lines)
    while True:
        lines.row_bytes, problem, cells = 0, "", list[str]()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:  # the reader goes on with the next line
            problem = f"{error}"
        if lines.at_end:  # it asked for one more line
            problem = "the file ends within its quotes"
        too_long = lines.row_bytes > max_bytes
        whole = None if too_long or problem else tuple(cell.encode("latin-1") for cell in cells)
        yield Row(whole, lines.row_bytes, problem)


class _Lines:
    """Lines for the parser: each byte as one character, so that it neither fails at bytes that are no UTF-8 nor
    changes them. Of a row that is too long, it gets no more than it needs to find the end."""

    def __init__(self, start: bytes, source: Steady, max_bytes: int) -> None:
        self.row_bytes = 0
        self.at_end = False
        self._lines, self._max_bytes = _lines(start, source, max_bytes), max_bytes

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._lines, None)
        if line is None:
            self.at_end = True
            raise StopIteration
        self.row_bytes += len(line)
        text = line.decode("latin-1")
        return ORDINARY.sub("x", text) if self.row_bytes > self._max_bytes else text


def _lines(start: bytes, source: Steady, max_bytes: int) -> Iterator[bytes]:
    """Lines with their ends; one that is longer than `max_bytes` comes in pieces."""
    chunk, rest = start, b""
    while chunk:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line + b"\n"
        if len(rest) > max_bytes:
            yield rest
            rest = b""
        chunk = source.read(min(max(streams.FRAME_BYTES, len(rest)), streams.LARGEST_READ))
    if rest:
        yield rest
