"""`fastokens` read in a thread beside, as soon as its text is known: half a second without holding the interpreter."""

import importlib.util
import os
import re
from threading import Thread
from typing import Any

FAR_ID = re.compile(r'"id":\s*\d{8}')
"""An entry of `added_tokens` beyond any vocabulary."""


def is_installed() -> bool:
    """Whether there is a `fastokens` to import."""
    return importlib.util.find_spec("fastokens") is not None


def fits(specification: str) -> bool:
    """Whether the ids of added tokens are of a size that `fastokens` takes: it makes a table of as many, and where that
    is more than memory holds, it ends the process."""
    head, _, rest = specification.partition('"model":')
    return not FAR_ID.search(head if '"added_tokens"' in head else rest)


class Loading:
    """One tokenizer on its way into `fastokens`."""

    def __init__(self, specification: str) -> None:
        """Start to read the text of a tokenizer.json."""
        self._native: Any = None
        self._error = ""
        # One thread a process: encoders run in processes of their own, and no process that may still fork
        # gets a pool of threads. Whoever sets the variable keeps what he set.
        os.environ.setdefault("FASTOKENS_BPE_THREADS", "1")
        # Not a daemon: the end of the process must not cut off a thread in the midst of native code.
        self._thread = Thread(target=self._load, args=(specification,))
        self._thread.start()

    def _load(self, specification: str) -> None:
        try:
            import fastokens

            native = fastokens.Tokenizer.from_json_str(specification)
            native.no_truncation()
            native.no_padding()
            native.encode_batch_flat([" "])  # the first call builds tables: 0.03 to 0.06 s
            self._native = native
        except BaseException as error:  # a panic of Rust code is not an Exception
            self._error = f"fastokens cannot read it ({type(error).__name__}: {error})"

    def wait(self) -> tuple[Any, str]:
        """The native tokenizer, or None and what went wrong. No thread stays."""
        self._thread.join()
        return self._native, self._error


_ahead: dict[str, Loading] = {}


def begin_ahead(specification: str) -> None:
    """Start now what `loading` of the same text will ask for: a guess that costs nothing but time if it is wrong."""
    if is_installed() and fits(specification):
        _ahead[specification] = Loading(specification)


def loading(specification: str) -> Loading:
    """The one begun ahead for this text, or a new one."""
    return _ahead.pop(specification, None) or Loading(specification)
