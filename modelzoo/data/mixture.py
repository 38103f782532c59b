"""Several datasets read as one, in given proportions. No torch.

Sample s of the run comes from a source that is a closed form of s, so that any step is reached at once and no
table of the run is ever made. The sources are the leaves of a balanced binary tree. A node hands the n samples
it has had so far on as round(n·p) to its left and the others to its right side, p being the left side's part of
the node's weight; either number grows by one or not at all with each sample. Each level adds half a sample of
error at most, so after any number of samples no source is further from its share than half the tree's height.
"""

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from modelzoo.base_config import UserError
from modelzoo.data.order import Order, locate
from modelzoo.data.rows import Batch, RowDataset

UNIT = 2**32
"""Shares are kept in this many parts; rounding them moves a source by one sample in a billion at most."""


class Interleave:
    """Which source each sample comes from, and how many of that source came before it."""

    def __init__(self, weights: Sequence[float]) -> None:
        """`weights` are positive and need not sum to 1."""
        assert min(weights) > 0, weights
        self.weights = list(weights)

    def locate(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source (n,) of each sample (n,), and the sample's number among that source's."""
        samples = np.asarray(samples, dtype=np.uint64)
        source = np.zeros(len(samples), dtype=np.int64)
        number = np.zeros(len(samples), dtype=np.int64)

        def descend(low: int, high: int, where: np.ndarray, index: np.ndarray) -> None:
            if high - low == 1:
                source[where], number[where] = low, index
            elif len(where):
                before = self._left(low, high, index)
                goes_left = self._left(low, high, index + np.uint64(1)) > before
                descend(low, (low + high) // 2, where[goes_left], before[goes_left])
                descend((low + high) // 2, high, where[~goes_left], (index - before)[~goes_left])

        descend(0, len(self.weights), np.arange(len(samples)), samples)
        return source, number

    def counts(self, num_samples: int) -> list[int]:
        """How many of the first `num_samples` come from each source."""

        def descend(low: int, high: int, count: int) -> list[int]:
            if high - low == 1:
                return [count]
            left = int(self._left(low, high, np.array([count], dtype=np.uint64))[0])
            middle = (low + high) // 2
            return descend(low, middle, left) + descend(middle, high, count - left)

        return descend(0, len(self.weights), num_samples)

    def samples_until(self, source: int, count: int) -> int:
        """How many samples of the run it takes until `count` have come from this source."""
        high = 1
        while self.counts(high)[source] < count:
            high *= 2
        low = high // 2
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.counts(middle)[source] < count else (low, middle)
        return high

    def _left(self, low: int, high: int, count: np.ndarray) -> np.ndarray:
        """round(count · p) in 64 bits: the counts' upper half apart from the lower one, for both to fit."""
        left, both = sum(self.weights[low : (low + high) // 2]), sum(self.weights[low:high])
        share = np.uint64(min(max(round(UNIT * left / both), 1), UNIT - 1))
        half, shift, mask = np.uint64(UNIT // 2), np.uint64(32), np.uint64(UNIT - 1)
        return np.asarray((count >> shift) * share + (((count & mask) * share + half) >> shift))


class Source(NamedTuple):
    """One part of a mixture."""

    dataset: RowDataset
    weight: float
    """Its share of the tokens, relative to the other sources' weights."""
    max_tokens: int | None = None
    """Only so much of it is used: rows drawn alike for every seed."""
    max_epochs: int | None = None
    """How often what is used of it may be read."""


class MixtureLoader:
    """Batches of several datasets. Each is read in a shuffled order of its own, epoch after epoch.

    The interface is `BatchLoader`'s. The order in which the sources are named does not matter, the names do.
    """

    def __init__(self, sources: Mapping[str, Source], batch_size: int, seed: int) -> None:
        """`batch_size` is global, in rows.

        Raises:
            UserError: the sources were written with different tokenizers, or max_tokens is more than there is.
        """
        assert batch_size > 0, batch_size
        self.sources = dict(sorted(sources.items()))
        self.batch_size = batch_size
        self.seed = seed
        _check_tokenizers(self.sources)
        self._interleave = Interleave([source.weight for source in self.sources.values()])
        self._orders = [
            Order(_rows_used(name, source), _seed_of(name, seed), out_of=len(source.dataset))
            for name, source in self.sources.items()
        ]
        self.datasets = tuple(source.dataset for source in self.sources.values())

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should be told once before training on this data."""
        return tuple(dict.fromkeys(note for dataset in self.datasets for note in dataset.notes))

    @property
    def num_batches_per_epoch(self) -> int:
        """Batches until every row of every source has been seen at least once."""
        return max(self._steps_until(number, order.length) for number, order in enumerate(self._orders))

    def __len__(self) -> int:
        return self.num_batches_per_epoch

    def __getitem__(self, step: int) -> Batch:
        return self.batch(step)

    def batch(self, step: int, part: slice = slice(None)) -> Batch:
        """As `BatchLoader.batch`."""
        samples = range(step * self.batch_size, (step + 1) * self.batch_size)[part]
        assert samples.step == 1, part
        source, number = self._interleave.locate(np.arange(samples.start, samples.stop))
        batch: Batch = {}
        for each in np.unique(source).tolist():
            where = np.flatnonzero(source == each)  # its samples are consecutive among its own
            rows = self.datasets[each].rows(self._orders[each].rows(int(number[where[0]]), len(where)))
            for name, array in rows.items():
                batch.setdefault(name, np.empty((len(samples), *array.shape[1:]), array.dtype))[where] = array
        return batch

    def state(self, step: int) -> dict[str, object]:
        """As `BatchLoader.state`, with the place in each source."""
        counts = self._interleave.counts(step * self.batch_size)
        places = [locate(count, order.length) for count, order in zip(counts, self._orders, strict=True)]
        return {
            "seed": self.seed,
            "sources": {
                name: {"epoch": epoch, "index": index, "manifest_sha256": source.dataset.fingerprint}
                for (name, source), (epoch, index) in zip(self.sources.items(), places, strict=True)
            },
        }

    def tokens_seen(self, step: int) -> dict[str, int]:
        """Tokens of each source in all batches before this step, in closed form. They sum to the run's."""
        counts = self._interleave.counts(step * self.batch_size)
        seq_len = self.datasets[0].seq_len
        return {name: count * seq_len for name, count in zip(self.sources, counts, strict=True)}

    def check_budget(self, num_steps: int) -> None:
        """Refuse a run that would read a source more often than its max_epochs allows.

        Raises:
            UserError: what the run needs of each source, and what would make it fit.
        """
        counts = self._interleave.counts(num_steps * self.batch_size)
        caps = [
            None if source.max_epochs is None else source.max_epochs * order.length
            for source, order in zip(self.sources.values(), self._orders, strict=True)
        ]
        short = [number for number, cap in enumerate(caps) if cap is not None and counts[number] > cap]
        if not short:
            return
        seq_len = self.datasets[0].seq_len
        lines = []
        for name, source, order, count in zip(self.sources, self.sources.values(), self._orders, counts, strict=True):
            limit = f"max_epochs={source.max_epochs}" if source.max_epochs else "no max_epochs"
            lines.append(
                f"    {name}: {count * seq_len:,} tokens of the run, {order.length * seq_len:,} in it: "
                f"{count / order.length:.2f} epochs, {limit}"
            )
        steps = min(self._longest(number, caps[number] or 0) for number in short)
        names = ", ".join(list(self.sources)[number] for number in short)
        raise UserError(
            f"data.train: a run of {num_steps:,} steps reads {names} more often than max_epochs allows:\n"
            + "\n".join(lines)
            + f"\nlower the weight of {names}, raise its max_epochs, or end the run after {steps:,} steps "
            f"(trainer.max_steps={steps})"
        )

    def _longest(self, source: int, count: int) -> int:
        """Steps that read at most `count` rows of a source."""
        return (self._interleave.samples_until(source, count + 1) - 1) // self.batch_size

    def _steps_until(self, source: int, count: int) -> int:
        return -(-self._interleave.samples_until(source, count) // self.batch_size)


def _rows_used(name: str, source: Source) -> int:
    dataset = source.dataset
    if source.max_tokens is None:
        return len(dataset)
    if source.max_tokens > dataset.num_tokens:
        raise UserError(
            f"data.train.sources.{name}.max_tokens={source.max_tokens:,}, but {dataset.path} holds "
            f"{dataset.num_tokens:,}; use that or less, or null for all (max_epochs is for repetition)"
        )
    return min(len(dataset), -(-source.max_tokens // dataset.seq_len))


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
