"""What an evaluation finds of each row, on any number of ranks, and the blocks that are kept of it."""

import math
from types import SimpleNamespace

import pytest

from modelzoo.launch import build_run
from modelzoo.trainer.callbacks import evaluate as callback
from modelzoo.trainer.evaluation import Evaluation, evaluate_loss, over_ranks, share_of
from tests.runs import small_config, write_masked_dataset


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """A run on completions, so that rows count different numbers of tokens."""
    folder = tmp_path_factory.mktemp("masked")
    return build_run(small_config(write_masked_dataset(folder), folder))


def test_the_loss_of_each_row_is_that_of_the_row_by_itself(trainer):
    found = trainer.evaluate("", 7)
    alone = [trainer.evaluate("", 1)]
    rows = list(trainer.validation[""].evaluation_batches(1))
    assert len(found.row_sums) == len(rows) >= 10
    assert found.row_sums == pytest.approx(alone[0].row_sums, rel=1e-5)
    assert found.row_tokens == [int(row["loss_mask"].sum()) for row in rows]
    assert len(set(found.row_tokens)) > 2
    assert sum(found.row_sums) / sum(found.row_tokens) == pytest.approx(found.loss, rel=1e-6)
    several = evaluate_loss(trainer.model, iter(rows), trainer.accelerator)
    assert found.row_sums == pytest.approx([batch.loss_sum for batch in several], rel=1e-5)


def test_ranks_put_their_rows_in_the_order_of_the_data(trainer):
    """Three ranks, one after the other; the last batch of ten has fewer rows than ranks take."""
    batches = list(trainer.validation[""].evaluation_batches(5, 2))
    batches.append({name: array[:2] for name, array in batches[0].items()})
    sizes = [len(batch["input_ids"]) for batch in batches]
    ranks = [SimpleNamespace(num_data_ranks=3, data_rank=rank, sum_over_data=list) for rank in range(3)]
    each = []
    for rank in ranks:
        found = evaluate_loss(trainer.model, (share_of(batch, rank) for batch in batches), trainer.accelerator)
        each.append(over_ranks(found, sizes, None, rank))
    alone = SimpleNamespace(num_data_ranks=1, data_rank=0, sum_over_data=list)
    whole = over_ranks(evaluate_loss(trainer.model, iter(batches), trainer.accelerator), sizes, None, alone)
    assert [sum(row) for row in zip(*(one.row_sums for one in each), strict=True)] == pytest.approx(whole.row_sums)
    assert [sum(row) for row in zip(*(one.row_tokens for one in each), strict=True)] == whole.row_tokens


@pytest.mark.parametrize("num_rows", [1, 1000, 1001, 2500])
def test_a_line_has_no_more_blocks_than_a_report_uses(num_rows):
    found = Evaluation(1.5, [0.1 * row for row in range(num_rows)], [row % 5 for row in range(num_rows)], 4.0)
    line = callback.in_blocks(found)
    assert (
        len(line["loss_sums"])
        == len(line["num_tokens"])
        == (num_rows if num_rows <= 1000 else -(-num_rows // -(-num_rows // 1000)))
    )
    assert len(line["loss_sums"]) <= callback.MOST_BLOCKS
    assert sum(line["num_tokens"]) == sum(found.row_tokens)
    assert math.fsum(line["loss_sums"]) == pytest.approx(math.fsum(found.row_sums), abs=1e-4 * num_rows)
    assert line["loss"] == 1.5
