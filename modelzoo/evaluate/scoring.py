"""Log-likelihoods of tokens under a model, for rows of any length.

Shapes: U different inputs in a batch, T places of the longest, N scored places, D hidden_size, V vocabulary.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from modelzoo.evaluate.windows import Row
from modelzoo.model.gpt import GPT
from modelzoo.trainer.accelerator import Accelerator

CHUNK = 256
"""Scored places whose logits are held at once."""


class Score(NamedTuple):
    """Of one row."""

    log_likelihoods: np.ndarray
    """(n,) float32: of each target, in nats."""
    is_greedy: bool
    """Every target is the likeliest token of its place."""


class Scorer:
    """A model with the batch size that it is run at. Numbers differ between batch sizes by rounding alone."""

    def __init__(self, model: GPT, accelerator: Accelerator, batch_size: int) -> None:
        self.model = model.eval()
        self.accelerator = accelerator
        self.batch_size = batch_size

    def score(self, rows: Sequence[Row], on_rows: Callable[[Sequence[Row]], None] = lambda rows: None) -> list[Score]:
        """The scores of `rows`, in their order. `on_rows` hears of each batch that is done.

        Rows are run in order of length, filled up at their right ends, which a causal model does not look at;
        rows of equal inputs (the answers to one question) run once. The softmax is over all V rows of the
        embedding, padding included, as in training.
        """
        scores: list[Score | None] = [None] * len(rows)
        for batch in self._batches(rows):
            found = self._score([rows[index] for index in batch])
            for index, score in zip(batch, found, strict=True):
                scores[index] = score
            on_rows([rows[index] for index in batch])
        return [score for score in scores if score is not None]

    def losses(self, batch: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Of a batch as a dataset gives it, where its mask is set: losses in nats (N,) float32, and labels (N,)."""
        kept = batch["loss_mask"].astype(bool)
        labels = batch["labels"][kept]
        log_likelihoods, _ = self._at(batch, np.flatnonzero(kept), labels)
        return -log_likelihoods, labels

    def _batches(self, rows: Sequence[Row]) -> Iterator[list[int]]:
        """Places in `rows`, longest first, so that running out of memory comes at once."""
        keys = [(-len(row.input_ids), row.input_ids.tobytes()) for row in rows]
        batch: list[int] = []
        different = 0
        for index in sorted(range(len(rows)), key=keys.__getitem__):
            is_new = not batch or keys[index] != keys[batch[-1]]
            if is_new and different == self.batch_size:
                yield batch
                batch, different = [], 0
            batch.append(index)
            different += is_new
        if batch:
            yield batch

    def _score(self, rows: Sequence[Row]) -> list[Score]:
        """One batch; rows of equal inputs stand side by side."""
        inputs: list[np.ndarray] = []
        places, longest = [], max(len(row.input_ids) for row in rows)
        for row in rows:
            if not inputs or not np.array_equal(inputs[-1], row.input_ids):
                inputs.append(row.input_ids)
            stop = (len(inputs) - 1) * longest + len(row.input_ids)
            places.append(np.arange(stop - len(row.targets), stop))
        input_ids = np.zeros((len(inputs), longest), dtype=np.int64)  # (U, T); what fills up is never looked at
        for row_ids, ids in zip(input_ids, inputs, strict=True):
            row_ids[: len(ids)] = ids
        labels = np.concatenate([row.targets for row in rows])
        log_likelihoods, is_greedy = self._at({"input_ids": input_ids}, np.concatenate(places), labels)
        ends = np.cumsum([len(row.targets) for row in rows])[:-1]
        parts = zip(np.split(log_likelihoods, ends), np.split(is_greedy, ends), strict=True)
        return [Score(values, bool(greedy.all())) for values, greedy in parts]

    @torch.inference_mode()
    def _at(
        self, batch: Mapping[str, np.ndarray], places: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """At the `places` (N,) of the flattened batch: log-likelihoods of `labels` (N,) float32, and whether each is
        the likeliest token. Statistics in fp32, whatever the precision of the products."""
        names = ("input_ids", "position_ids", "segment_ids")
        given = {name: self._tensor(batch[name]) for name in names if name in batch}
        values, greedy = [np.empty(0, np.float32)], [np.empty(0, np.bool_)]
        with self.accelerator.autocast():
            hidden = self.model.hidden(
                given["input_ids"], position_ids=given.get("position_ids"), segment_ids=given.get("segment_ids")
            )
            hidden = hidden.flatten(0, 1)[self._tensor(places)]  # (N, D)
            targets = self._tensor(labels.astype(np.int64))
            for part, wanted in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True):
                logits = self.model.logits(part).float()  # (CHUNK, V)
                chosen = logits.gather(1, wanted[:, None]).squeeze(1)
                largest, likeliest = logits.max(1)
                total = logits.sub_(largest[:, None]).exp_().sum(1)  # in place: a second copy costs as much again
                values.append((chosen - largest - total.log()).cpu().numpy())
                greedy.append((likeliest == wanted).cpu().numpy())
        return np.concatenate(values), np.concatenate(greedy)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.accelerator.device)
