"""Whose fault it is that an exception left the harness: a task file's and its data's, or the program's."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from modelzoo.base_config import UserError

OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EPIPE)
"""Numbers of an OSError that no task file brings about."""
LONGEST = 300
"""Characters of a message of the harness's that are shown."""


class Turn:
    """Whose turn it is while the harness works: that of a task, or (`where` is None) of the model.

    The harness builds requests, asks the model and looks at the answers all in one function. The methods that it
    calls say for themselves whose they are, see `hand_to`.
    """

    def __init__(self) -> None:
        self.where: str | None = None
        """The file and the task, as the message is to name them."""
        self.what = ""

    def hand_to(self, owner: Any, name: str, where: str | None, what: str = "") -> None:
        """From now on a call of `owner.name` takes the turn, and keeps it until another takes it."""
        method: Callable[..., Any] = getattr(owner, name)

        @wraps(method)
        def taken(*arguments: Any, **options: Any) -> Any:
            self.where, self.what = where, what
            return method(*arguments, **options)

        setattr(owner, name, taken)

    @contextmanager
    def of_task(self, where: str, what: str) -> Iterator[None]:
        """The block is a task's, and so are the exceptions that leave it."""
        self.where, self.what = where, what
        with self.blamed():
            yield

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """An exception in a task's turn becomes a UserError; in the model's turn it stays what it is."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if self.where is None or (isinstance(error, OSError) and error.errno in OF_THE_MACHINE):
                raise
            raise UserError(f"{self.where}: {self.what} failed ({said(error)}); {remedy(error)}") from error


def said(error: Exception) -> str:
    """Its type and, in one line, its message."""
    message = " ".join(str(error).split())
    shown = message if len(message) <= LONGEST else message[:LONGEST] + " …"
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__


def remedy(error: Exception) -> str:
    """What to do about an exception in a task's turn."""
    from jinja2.exceptions import SecurityError, TemplateError

    if isinstance(error, SecurityError):
        return "a template reaches out of its document, and such a file is not run"
    if isinstance(error, TemplateError):
        return "mend the template in the task file"
    if isinstance(error, ConnectionError) or "offline" in f"{type(error).__name__} {error}".lower():
        return "look at the address and the network, or name files on this machine with dataset_kwargs.data_files"
    if "scripts are no longer supported" in str(error):
        return "datasets that are Python code are not run: name their files with dataset_kwargs.data_files"
    return "mend the task file, or the data that it names"
