import re

import numpy as np
import pytest

from modelzoo.base_config import UserError
from modelzoo.data.dataset import TokenDataset
from modelzoo.data.loader import BatchLoader
from modelzoo.data.mixture import MixtureLoader, Source
from tests.data.datasets import build


@pytest.fixture
def three(tmp_path):
    """Three datasets of 42 tokens each, told apart by their first ids."""
    for number, name in enumerate("abc"):
        build(tmp_path / name, offset=100 * number, vocab_size=300)
    return {name: TokenDataset(tmp_path / name, "train", 5) for name in "abc"}


def owners(batch):
    """Which of `three` each row comes from."""
    return [(row[row > 0].min() - 1) // 100 for row in batch["input_ids"]]


def test_batches_mix_as_asked_and_read_each_source_fully(three):
    weights = {"a": 2.0, "b": 1.0, "c": 1.0}
    loader = MixtureLoader({name: Source(three[name], weights[name]) for name in three}, 4, seed=3)
    batches = [loader.batch(step) for step in range(9)]
    assert all(sorted(owners(batch)) == [0, 0, 1, 2] for batch in batches)
    labels = np.concatenate([batch["labels"] for batch in batches])
    mask = np.concatenate([batch["loss_mask"] for batch in batches])
    of = np.concatenate([owners(batch) for batch in batches])
    for number, (name, epochs) in enumerate({"a": 2, "b": 1, "c": 1}.items()):
        found = labels[of == number][mask[of == number]]
        rows = three[name].rows(range(9))
        assert sorted(found) == sorted(rows["labels"][rows["loss_mask"]].tolist() * epochs)
    assert loader.num_batches_per_epoch == 9
    assert loader.tokens_seen(9) == {"a": 90, "b": 45, "c": 45}
    orders = {name: [tuple(row) for row in labels[of == number] % 100][:9] for number, name in enumerate("abc")}
    assert orders["b"] != orders["c"]  # of one length, but not in one order


def test_any_step_is_reached_at_once(three):
    def loader():
        return MixtureLoader({name: Source(dataset, 1) for name, dataset in three.items()}, 4, seed=3)

    forward = [loader().batch(step)["labels"] for step in range(12)]
    one = loader()
    backward = [one.batch(step)["labels"] for step in reversed(range(12))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forward, backward, strict=True))
    parts = [one.batch(5, slice(start, start + 2))["labels"] for start in (0, 2)]
    assert np.array_equal(np.concatenate(parts), forward[5])
    assert one.batch(5, slice(2, 2)) == {}


def test_the_order_in_which_sources_are_named_does_not_matter(three):
    sources = {name: Source(dataset, 1 + number) for number, (name, dataset) in enumerate(three.items())}
    one = MixtureLoader(sources, 4, seed=3)
    two = MixtureLoader(dict(reversed(sources.items())), 4, seed=3)
    assert all(np.array_equal(one.batch(step)["labels"], two.batch(step)["labels"]) for step in range(5))


def test_state_holds_each_sources_place(three):
    loader = MixtureLoader({name: Source(three[name], 1) for name in ("a", "b")}, 4, seed=3)
    place = {"epoch": 1, "index": 1, "rows": 9, "ends_after_rows": None}
    assert loader.state(5) == {
        "seed": 3,
        "sources": {name: {**place, "manifest_sha256": three[name].fingerprint} for name in ("a", "b")},
        "shares": [{"first_step": 0, "start": [0.5, 0.5], "end": [0.5, 0.5]}],
    }


def test_a_part_of_a_source_is_the_same_for_every_seed(three):
    def parts(seed):
        sources = {"a": Source(three["a"], 1, max_tokens=12), "b": Source(three["b"], 1)}
        loader = MixtureLoader(sources, 4, seed)
        rows = np.concatenate([loader.batch(step)["input_ids"] for step in range(9)])
        return [tuple(row) for row in rows if row.max() < 100]

    assert len(parts(1)) == 18
    assert set(parts(1)) == set(parts(2))
    assert len(set(parts(1))) == 3  # ceil(12 / 5) rows
    assert parts(1) != parts(2)
    with pytest.raises(UserError, match=r"sources\.a\.max_tokens=43, but .* holds 42"):
        MixtureLoader({"a": Source(three["a"], 1, max_tokens=43)}, 4, 1)


def test_a_run_that_repeats_too_much_is_refused_with_what_would_fit(three):
    sources = {"a": Source(three["a"], 3, max_epochs=2), "b": Source(three["b"], 1)}
    loader = MixtureLoader(sources, 4, seed=3)
    loader.check(6)  # 18 rows of 9
    with pytest.raises(UserError) as error:
        loader.check(7)
    assert re.search(
        r"a: 75\.00% of the run: 105 tokens, 2\.33 epochs \(at most 2\) of the 42 in .*/a;", str(error.value)
    )
    assert re.search(r"b: 25\.00% of the run: 35 tokens, 0\.78 epochs of the 42 in .*/b", str(error.value))
    assert "lower the weight of a, raise its max_epochs, let it end there" in str(error.value)
    assert "or end the run after 6 steps (trainer.max_steps=6)" in str(error.value)


def test_more_than_twenty_equal_corpora(three):
    loader = MixtureLoader({f"s{n:02}": Source(three["abc"[n % 3]], 1) for n in range(24)}, 8, seed=0)
    assert loader.num_batches_per_epoch == 27
    assert loader.tokens_seen(27) == dict.fromkeys(loader.sources, 45)
    assert sum(loader.tokens_seen(10).values()) == 10 * 8 * 5


def test_sources_of_two_tokenizers_are_refused(tmp_path, three):
    build(tmp_path / "other", tokenizer_sha256="cd", vocab_size=300)
    other = TokenDataset(tmp_path / "other", "train", 5)
    with pytest.raises(UserError, match=r"a \(.*/a\) was written with .* ab, but o \(.*/other\) with cd"):
        MixtureLoader({"a": Source(three["a"], 1), "o": Source(other, 1)}, 4, 0)


def test_batches_that_were_left_out_do_not_count(three):
    loader = MixtureLoader({"a": Source(three["a"], 3), "b": Source(three["b"], 2)}, 4, 0)
    kept = [step for step in range(20) if not 3 <= step <= 4 and not 8 <= step <= 11 and step != 19]
    rows = [name for step in kept for name in loader.source_of_rows(step)]
    left_out = [(3, 4), (8, 11), (19, 30), (40, 50)]
    assert loader.tokens_seen(20, left_out) == {name: 5 * rows.count(name) for name in "ab"}
    assert loader.seen(20, left_out)["epochs/b"] == rows.count("b") / 9
    alone = BatchLoader(three["a"], 4, 0)
    assert alone.seen(20, left_out) == {"epochs": len(kept) * 4 / 9}
