"""What a run takes of each source: known before its first step, and exact at any. No torch."""

from collections.abc import Sequence
from typing import NamedTuple

from modelzoo.base_config import UserError

WELL_FILLED = 0.98
"""Rows that hold more padding than this leaves are worth a word."""


class Account(NamedTuple):
    """One source of a run of known length."""

    name: str
    """Empty where the run has a single dataset."""
    path: str
    num_tokens: int
    """In it, or in the part of it that is used."""
    num_rows: int
    """That hold them: an epoch."""
    filled: float
    """The part of these rows that is not padding."""
    tokens: int
    """That the run takes: rows × seq_len, repetition and padding included, as the run counts its own."""
    epochs: float
    max_epochs: int | None
    largest_batch: int
    """Rows that a batch takes of it at most, if no other source ends."""
    shares: tuple[float, ...]
    """Of the tokens: at the run's start, at each point where its course changes, at its end; one where it stays."""
    last_step: int | None = None
    """Where it ends within the run: the step that takes its last row."""

    def describe(self, tokens_of_run: int) -> str:
        """In a line."""
        name = f"{self.name}: " if self.name else ""
        share = f"{self.tokens / tokens_of_run:.2%} of the run"
        if len(self.shares) > 1:
            share += f" ({' → '.join(f'{each:.2%}' for each in self.shares)})"
        limit = "" if self.max_epochs is None else f" (at most {self.max_epochs})"
        ends = "" if self.last_step is None else f", and ends at step {self.last_step:,}"
        padded = f"; its rows are filled to {self.filled:.0%}" if self.filled < WELL_FILLED else ""
        return (
            f"{name}{share}: {self.tokens:,} tokens, {self.epochs:.2f} epochs{limit} of the {self.num_tokens:,} in "
            f"{self.path}{ends}{padded}"
        )


def describe_all(accounts: Sequence[Account]) -> list[str]:
    """All sources of a run, a line each."""
    total = max(1, sum(account.tokens for account in accounts))
    return [account.describe(total) for account in accounts]


def check_rows(accounts: Sequence[Account], seq_len: int, batch_size: int) -> None:
    """Refuse a source that a single batch would read more than once.

    Raises:
        UserError: which, what it holds, and the remedy.
    """
    for account in accounts:
        if account.num_rows < account.largest_batch:
            where = f"data.train.sources.{account.name}: {account.path}" if account.name else account.path
            several = f" of its {batch_size:,}, which repeats some of them at once" if account.name else ""
            raise UserError(
                f"{where} holds {account.num_rows:,} rows of {seq_len:,} tokens, less than one batch takes of it: "
                f"{account.largest_batch:,}{several}; use a larger corpus, or a smaller trainer.global_batch_size"
                + (", or give it less weight" if account.name else ", or a smaller data.seq_len")
            )
