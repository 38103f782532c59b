"""The values of a JSON text one by one, in bounded memory: the elements of an array, or one object after the other.

Only quotes, brackets and commas are looked at here, so that a broken element costs that element alone.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from data_preprocessing.streams import LARGEST_READ, Steady

# a short object without objects in it, in one go
FLAT = re.compile(rb'\{[^{}"]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^{}"]*+)*+\}', re.DOTALL)
MARK = re.compile(rb'["{}\[\],]')
SHORT = 512
BACKSLASH = ord("\\")
SPACE = re.compile(rb"[ \t\r\n]*+")


class Value(NamedTuple):
    """One value as it was written. Of one that is too long, only its length."""

    raw: bytes | None
    num_bytes: int
    whole: bool = True
    """False: the text ends within it."""


class Tail(NamedTuple):
    """What is wrong with the text as a whole, after its last value."""

    detail: str
    num_bytes: int = 0


def values(start: bytes, source: Steady, read_bytes: int, max_bytes: int) -> Iterator[Value | Tail]:
    """The values of a text that begins with `[` (its elements) or `{` (objects, spaces between them)."""
    return _Scan(start, source, read_bytes, max_bytes).run()


class _Scan:
    def __init__(self, start: bytes, source: Steady, read_bytes: int, max_bytes: int) -> None:
        self.data, self.source, self.read_bytes, self.max_bytes = start, source, read_bytes, max_bytes
        self.begin = 0  # of the value being read
        self.at = 0  # up to here it has been looked at
        self.dropped = 0  # bytes of a value that is too long, already thrown away

    def run(self) -> Iterator[Value | Tail]:
        self._skip_space()
        is_array = self.data[self.at : self.at + 1] == b"["
        self.at += is_array
        expects_value, after_comma = True, False
        while self._skip_space():
            mark = self.data[self.at : self.at + 1]
            if is_array and mark == b"]" and after_comma and expects_value:
                yield Tail("no element follows the array's last comma", self._drain())
                return
            if is_array and mark == b"]":
                self.at += 1
                if self._skip_space():
                    yield Tail("text follows the end of the array", self._drain())
                return
            if is_array and mark == b",":
                if expects_value:
                    yield Value(mark, 1)  # what stands between two commas
                self.at += 1
                expects_value = after_comma = True
                continue
            if is_array and not expects_value:
                yield Tail("expected a comma between two elements of the array", self._drain())
                return
            value = self._value(in_array=is_array)
            yield value
            if not value.whole:
                return
            expects_value = not is_array
        if is_array:
            yield Tail("the array ends without its closing bracket")

    def _value(self, in_array: bool) -> Value:
        """The value that starts here: up to where its brackets close, or to the comma or bracket after it."""
        self.begin, depth = self.at, 0
        if flat := FLAT.match(self.data, self.at, self.at + SHORT):
            self.at = flat.end()
            return self._take(whole=True)
        while True:
            mark = MARK.search(self.data, self.at)
            if mark is None:
                self.at = len(self.data)
                if not self._more():
                    return self._take(whole=depth == 0 and not in_array)
                continue
            sign, self.at = mark[0], mark.end()
            if sign == b'"':
                if not self._pass_string():
                    return self._take(whole=False)
                if depth == 0 and not in_array:
                    return self._take(whole=True)
            elif sign in b"{[":
                depth += 1
            elif sign == b",":
                if depth == 0:
                    self.at -= in_array
                    return self._take(whole=True)
            elif depth == 0:  # the bracket of the array itself, or one that nothing opened
                self.at -= in_array and sign == b"]"
                return self._take(whole=True)
            else:
                depth -= 1
                if depth == 0:
                    return self._take(whole=True)

    def _pass_string(self) -> bool:
        """Go behind the quote that ends the string. False: there is none."""
        while True:
            quote = self.data.find(b'"', self.at)
            end = quote if quote >= 0 else len(self.data)
            first = end  # of the backslashes before it: two of them are one, an odd one takes the quote's meaning
            while first > self.at and self.data[first - 1] == BACKSLASH:
                first -= 1
            odd = (end - first) % 2
            if quote >= 0:
                self.at = quote + 1
                if not odd:
                    return True
            else:
                self.at = end - odd
                if not self._more():
                    return False

    def _take(self, whole: bool) -> Value:
        raw = self.data[self.begin : self.at]
        num_bytes, too_long = self.dropped + len(raw), self.dropped + len(raw) > self.max_bytes
        self.dropped = 0
        return Value(None if too_long else raw.rstrip(b" \t\r\n"), num_bytes, whole)

    def _skip_space(self) -> bool:
        """Go to the next byte that is not a space. False: there is none."""
        while True:
            space = SPACE.match(self.data, self.at)
            self.begin = self.at = space.end() if space else self.at
            if self.at < len(self.data):
                return True
            if not self._more():
                return False

    def _more(self) -> bool:
        """Read on, keeping the value that has begun unless it is too long. False: nothing is left."""
        kept = self.data[self.begin :]
        if self.dropped or len(kept) > self.max_bytes:
            last = self.data[self.at :]  # a backslash at the most
            self.dropped += len(kept) - len(last)
            kept = last
        seen = len(self.data) - self.at
        chunk = self.source.read(min(max(self.read_bytes, len(kept)), LARGEST_READ))
        self.data = kept + chunk
        self.begin, self.at = 0, len(kept) - seen
        return bool(chunk)

    def _drain(self) -> int:
        """The bytes from here to the end."""
        count = len(self.data) - self.at
        while chunk := self.source.read(self.read_bytes):
            count += len(chunk)
        self.data, self.at = b"", 0
        return count
