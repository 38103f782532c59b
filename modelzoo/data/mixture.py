"""Several datasets read as one, in proportions that stay or change over the run. No torch.

Sample s of the run comes from a source that is a closed form of s (see interleave.py), so that any step is reached
at once, and what each source has given before it is known exactly.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from modelzoo.base_config import UserError
from modelzoo.data.accounting import Account, check_rows, describe_all
from modelzoo.data.interleave import Plan
from modelzoo.data.order import Order, locate
from modelzoo.data.rows import Batch, RowDataset
from modelzoo.data.weights import Rate, stretches


class Source(NamedTuple):
    """One part of a mixture."""

    dataset: RowDataset
    weight: float | Rate
    """What it gets: relative to the other sources' weights, where it is a number."""
    max_tokens: int | None = None
    """Only so much of it is used: rows drawn alike for every seed, or the first ones where nothing is shuffled."""
    max_epochs: int | None = None
    """How often what is used of it may be read."""
    drop: bool = False
    """It ends after max_epochs, and the others take its part; else a run that needs more is refused."""


class MixtureLoader:
    """Batches of several datasets. Each is read in an order of its own, epoch after epoch.

    The interface is `BatchLoader`'s. The order in which the sources are named does not matter, the names do.
    """

    def __init__(self, sources: Mapping[str, Source], batch_size: int, seed: int, shuffle: bool = True) -> None:
        """`batch_size` is global, in rows. Without `shuffle` the rows of each source come in order.

        Raises:
            UserError: the sources were written with different tokenizers, max_tokens is more than there is, or the
                weights leave nothing to read at some step.
        """
        assert batch_size > 0, batch_size
        self.sources = dict(sorted(sources.items()))
        self.batch_size = batch_size
        self.seed = seed
        _check_tokenizers(self.sources)
        rates = {
            name: source.weight if isinstance(source.weight, Rate) else Rate(((0, float(source.weight)),))
            for name, source in self.sources.items()
        }
        self._orders = [
            Order(
                rows_used(name, source.dataset, source.max_tokens), _seed_of(name, seed), shuffle, len(source.dataset)
            )
            for name, source in self.sources.items()
        ]
        self._caps = [
            None if source.max_epochs is None else source.max_epochs * order.length
            for source, order in zip(self.sources.values(), self._orders, strict=True)
        ]
        self._ends = [cap if own.drop else None for cap, own in zip(self._caps, self.sources.values(), strict=True)]
        self._stretches = stretches(rates)
        self._plan = Plan(self._stretches, batch_size, self._ends)
        self.datasets = tuple(source.dataset for source in self.sources.values())

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should be told once before training on this data."""
        return tuple(dict.fromkeys(note for dataset in self.datasets for note in dataset.notes))

    @property
    def num_batches_per_epoch(self) -> int:
        """Batches until every row of every source has been seen at least once; sources that end before do not count."""
        samples = [self._plan.samples_until(number, order.length) for number, order in enumerate(self._orders)]
        return -(-max((each for each in samples if each is not None), default=1) // self.batch_size)

    def __len__(self) -> int:
        return self.num_batches_per_epoch

    def __getitem__(self, step: int) -> Batch:
        return self.batch(step)

    def batch(self, step: int, part: slice = slice(None)) -> Batch:
        """As `BatchLoader.batch`."""
        samples = range(step * self.batch_size, (step + 1) * self.batch_size)[part]
        assert samples.step == 1, part
        source, number = self._plan.locate(samples.start, samples.stop)
        batch: Batch = {}
        for each in np.unique(source).tolist():
            where = np.flatnonzero(source == each)  # its samples are consecutive among its own
            rows = self.datasets[each].rows(self._orders[each].rows(int(number[where[0]]), len(where)))
            for name, array in rows.items():
                batch.setdefault(name, np.empty((len(samples), *array.shape[1:]), array.dtype))[where] = array
        return batch

    def source_of_rows(self, step: int) -> list[str]:
        """The source of each row of the batch of this step."""
        names = list(self.sources)
        numbers, _ = self._plan.locate(step * self.batch_size, (step + 1) * self.batch_size)
        return [names[number] for number in numbers]

    def state(self, step: int) -> dict[str, object]:
        """As `BatchLoader.state`, with the place in each source, and all that decides which rows come next: a run
        whose shares or ends are others, though at this place it has read as much, is another run."""
        counts = self._plan.counts(step * self.batch_size)
        places = [locate(count, order.length) for count, order in zip(counts, self._orders, strict=True)]
        return {
            "seed": self.seed,
            "sources": {
                name: {
                    "epoch": epoch,
                    "index": index,
                    "rows": self._orders[number].length,
                    "ends_after_rows": self._ends[number],
                    "manifest_sha256": source.dataset.fingerprint,
                }
                for number, ((name, source), (epoch, index)) in enumerate(
                    zip(self.sources.items(), places, strict=True)
                )
            },
            "shares": [
                {"first_step": each.first, "start": list(each.start), "end": list(each.end)} for each in self._stretches
            ],
        }

    def tokens_seen(self, step: int, left_out: Iterable[tuple[int, int]] = ()) -> dict[str, int]:
        """Tokens of each source in the batches before this step, in closed form; `left_out` as `BatchLoader.seen`.
        They sum to the run's."""
        return {name: rows * self.datasets[0].seq_len for name, rows in self._rows_seen(step, left_out).items()}

    def seen(self, step: int, left_out: Iterable[tuple[int, int]] = ()) -> dict[str, float]:
        """As `BatchLoader.seen`: `tokens_seen/<source>`, which sum to the run's tokens, and `epochs/<source>`."""
        tokens = self.tokens_seen(step, left_out)
        rows = self._rows_seen(step, left_out)
        return {
            **{f"tokens_seen/{name}": count for name, count in tokens.items()},
            **{f"epochs/{name}": rows[name] / own.length for name, own in zip(rows, self._orders, strict=True)},
        }

    def _rows_seen(self, step: int, left_out: Iterable[tuple[int, int]]) -> dict[str, int]:
        counts = np.array(self._plan.counts(step * self.batch_size))
        for first, last in left_out:
            stop = min(last + 1, step)
            if first < stop:
                counts -= self._plan.counts(stop * self.batch_size)
                counts += self._plan.counts(first * self.batch_size)
        return dict(zip(self.sources, counts.tolist(), strict=True))

    def accounts(self, num_steps: int) -> list[Account]:
        """What a run of `num_steps` takes of each source."""
        return [
            self._account(number, count, num_steps)
            for number, count in enumerate(self._plan.counts(num_steps * self.batch_size))
        ]

    def summary(self, num_steps: int) -> list[str]:
        """The same, a line for each source."""
        return describe_all(self.accounts(num_steps))

    def check(self, num_steps: int) -> None:
        """Refuse a run of `num_steps` that its sources do not serve.

        Raises:
            UserError: a source is read more often than its max_epochs allows, or all have ended before the run has,
                or one holds less than a batch takes of it; what the run needs of each, and what would make it fit.
        """
        if self._plan.end is not None and self._plan.end < num_steps * self.batch_size:
            steps = self._plan.end // self.batch_size
            lines = "\n".join(f"    {line}" for line in self.summary(steps))
            raise UserError(
                f"data.train: every source has ended after {steps:,} of {num_steps:,} steps:\n{lines}\n"
                f"raise a max_epochs, or end the run there (trainer.max_steps={steps})"
            )
        accounts = self.accounts(num_steps)
        self._check_epochs(accounts, num_steps)
        check_rows(accounts, self.datasets[0].seq_len, self.batch_size)

    def _check_epochs(self, accounts: list[Account], num_steps: int) -> None:
        short = {
            number: cap
            for number, (cap, account) in enumerate(zip(self._caps, accounts, strict=True))
            if cap is not None and account.tokens > cap * self.datasets[0].seq_len
        }
        if not short:
            return
        lines = "\n".join(f"    {line}" for line in describe_all(accounts))
        until = [self._plan.samples_until(number, cap + 1) or 1 for number, cap in short.items()]
        steps = (min(until) - 1) // self.batch_size
        names = ", ".join(accounts[number].name for number in short)
        drop = ", let it end there for the others to take its part (after_max_epochs=drop)" if len(accounts) > 1 else ""
        raise UserError(
            f"data.train: a run of {num_steps:,} steps reads {names} more often than max_epochs allows:\n{lines}\n"
            f"lower the weight of {names}, raise its max_epochs{drop}, or end the run after {steps:,} steps "
            f"(trainer.max_steps={steps})"
        )

    def _account(self, number: int, count: int, num_steps: int) -> Account:
        (name, source), order = list(self.sources.items())[number], self._orders[number]
        data = source.dataset
        within = [stretch for stretch in self._stretches if stretch.first < num_steps] or self._stretches[:1]
        stops = [min(num_steps, num_steps if each.stop is None else each.stop) for each in within]
        course = [
            share[number]
            for stretch, stop in zip(within, stops, strict=True)
            for share in (stretch.start, stretch.at(stop))
        ]
        end = self._ends[number]
        return Account(
            name=name,
            path=str(data.path),
            num_tokens=min(data.num_tokens, order.length * data.seq_len),
            num_rows=order.length,
            filled=data.num_tokens / (len(data) * data.seq_len),
            tokens=count * data.seq_len,
            epochs=count / order.length,
            max_epochs=source.max_epochs,
            largest_batch=math.ceil(max(course) * self.batch_size),
            shares=tuple(share for at, share in enumerate(course) if at == 0 or share != course[at - 1]),
            last_step=None if end is None or count < end else -(-self._until(number, end) // self.batch_size),
        )

    def _until(self, number: int, count: int) -> int:
        samples = self._plan.samples_until(number, count)
        assert samples is not None, (number, count)
        return samples


def rows_used(name: str, dataset: RowDataset, max_tokens: int | None) -> int:
    """The rows of a source that are read. UserError: max_tokens is more than there is."""
    if max_tokens is None:
        return len(dataset)
    if max_tokens > dataset.num_tokens:
        raise UserError(
            f"data.train.sources.{name}.max_tokens={max_tokens:,}, but {dataset.path} holds "
            f"{dataset.num_tokens:,}; use that or less, or null for all (max_epochs is for repetition)"
        )
    return min(len(dataset), -(-max_tokens // dataset.seq_len))


def _seed_of(name: str, seed: int) -> int:
    """A seed of each source's own: two of one length would be read in the same order otherwise."""
    return int.from_bytes(blake2b(f"{seed} {name}".encode(), digest_size=8).digest(), "little")


def _check_tokenizers(sources: Mapping[str, Source]) -> None:
    """Refuse sources of different tokenizers; where a format keeps no hash, their end-of-document ids speak."""
    keys: list[tuple[str, Callable[[RowDataset], object]]] = [
        ("a tokenizer of sha256", lambda dataset: dataset.tokenizer_sha256),
        ("the end-of-document id", lambda dataset: dataset.end_of_document_id),
    ]
    for what, key in keys:
        known = [(name, source.dataset, key(source.dataset)) for name, source in sources.items()]
        known = [entry for entry in known if entry[2] is not None]
        for name, dataset, value in known[1:]:
            first_name, first, expected = known[0]
            if value != expected:
                raise UserError(
                    f"data.train: {first_name} ({first.path}) was written with {what} {expected}, but {name} "
                    f"({dataset.path}) with {value}; a mixture needs one tokenizer: preprocess one of them again"
                )
