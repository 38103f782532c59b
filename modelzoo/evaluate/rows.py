"""The loss of a dataset in the rows that training reads."""

from collections.abc import Callable

import numpy as np

from modelzoo.data.rows import RowDataset
from modelzoo.evaluate.scoring import Scorer
from modelzoo.evaluate.totals import TextSizes, Totals


def score_rows(
    scorer: Scorer,
    dataset: RowDataset,
    sizes: TextSizes,
    end_of_document_id: int,
    max_batches: int | None = None,
    on_tokens: Callable[[int], None] = lambda tokens: None,
) -> Totals:
    """The totals of all rows, or of the first `max_batches` batches. `on_tokens` hears of every batch.

    Bytes and characters are those of the predicted tokens; so they fit also where a loss mask leaves text out.
    """
    totals = Totals(num_documents=None if max_batches is not None else dataset.num_documents)
    for batch in dataset.evaluation_batches(scorer.batch_size, max_batches):
        losses, labels = scorer.losses(batch)
        is_end = labels == end_of_document_id
        num_bytes, num_characters = sizes.count(labels)
        totals.num_tokens += len(labels)
        totals.num_ends += int(is_end.sum())
        totals.loss_sum += float(losses.sum(dtype=np.float64))
        totals.end_loss_sum += float(losses[is_end].sum(dtype=np.float64))
        totals.num_bytes += num_bytes
        totals.num_characters += num_characters
        on_tokens(len(labels))
    return totals
