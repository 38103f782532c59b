"""Fixtures of the tests of the trainer."""

import pytest


@pytest.fixture(scope="module")
def two_sets(dataset):
    """Overrides: a's rows are those of the split, b's are packed in another way."""
    source = f"path: {dataset}, split: validation"
    sets = f"{{a: {{{source}}}, b: {{{source}, packing: best_fit}}, c: null}}"
    return ["~data.validation.path", "~data.validation.split", f"+data.validation.sources={sets}"]
