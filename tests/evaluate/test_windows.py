"""Windows over a document: every target once, with enough before it."""

import numpy as np
import pytest

from modelzoo.evaluate.windows import rows_of, windows


@pytest.mark.parametrize("seq_len", [1, 2, 5, 8])
@pytest.mark.parametrize("num_targets", [1, 2, 7, 8, 9, 23, 24])
def test_every_target_is_scored_once_with_its_context(seq_len: int, num_targets: int) -> None:
    for stride in range(1, seq_len + 1):
        scored = []
        for start, stop, count in windows(num_targets, seq_len, stride):
            assert stop - start <= seq_len
            for place in range(stop - count, stop):
                scored.append(place)
                others = place - start  # inputs before the one at its own place
                assert others == place if place < seq_len else others >= seq_len - stride
        assert scored == list(range(num_targets))


def test_the_plan_of_the_guide_to_perplexity() -> None:
    """https://huggingface.co/docs/transformers/perplexity: begins every `stride`, the target is what is new."""
    expected, previous = [], 0
    for begin in range(0, 1000, 120):
        end = min(begin + 256, 1000)
        expected.append((begin, end, end - previous))
        previous = end
        if end == 1000:
            break
    assert list(windows(1000, 256, 120)) == expected


def test_rows_of_a_document() -> None:
    rows = [(row.input_ids.tolist(), row.targets.tolist()) for row in rows_of(np.array([5, 6, 7, 8]), 0, 3, 2)]
    assert rows == [([0, 5, 6], [5, 6, 7]), ([6, 7, 8], [8, 0])]
    assert [row.targets.tolist() for row in rows_of(np.array([], int), 9, 3, 2)] == [[9]]
