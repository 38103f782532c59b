"""Text out of tokens that come one at a time: whole characters only, and nothing of a stop string. No torch."""

import codecs
from collections.abc import Callable, Iterable, Sequence


class TextStream:
    """Turns token ids into text that may be shown at once.

    A character whose bytes lie in several tokens appears with its last one. Text that could be the beginning of a
    stop string is held back until it is known not to be. The text ends before the stop string that is complete
    first (of those that are complete at the same character, the longest), wherever the borders of tokens fall.

    Attributes:
        stopped: a stop string was met; what is pushed afterwards is dropped.
        num_released: characters given out so far.
        num_decoded: characters decoded so far: those given out and those held back.
    """

    def __init__(self, decode_bytes: Callable[[Iterable[int]], bytes], stop: Sequence[str] = ()) -> None:
        assert all(stop), f"an empty stop string: {stop}"
        self._decode_bytes = decode_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False
        self.num_released = 0

    @property
    def num_decoded(self) -> int:
        return self.num_released + len(self._held)

    def push(self, token: int) -> str:
        """The text that one more token sets free."""
        return self._release(self._decoder.decode(self._decode_bytes([token])), final=False)

    def finish(self) -> str:
        """The rest: what was held back, and � for bytes that no token completed."""
        return self._release(self._decoder.decode(b"", final=True), final=True)

    def _release(self, text: str, final: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        found = [(begin + len(s), begin) for s in self._stop if (begin := text.find(s)) >= 0]
        if found:
            self.stopped = True
            end = min(found)[1]
        else:
            end = len(text) if final else self._safe_length(text)
        self._held = "" if self.stopped else text[end:]
        self.num_released += end
        return text[:end]

    def _safe_length(self, text: str) -> int:
        """Characters of `text` that belong to no stop string, however it goes on."""
        longest = max(map(len, self._stop), default=1) - 1
        for begin in range(max(0, len(text) - longest), len(text)):
            if any(s.startswith(text[begin:]) for s in self._stop):
                return begin
        return len(text)
