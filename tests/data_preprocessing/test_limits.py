"""Limits and fractions of what is read: a prefix, the same for any number of workers, of each source its own."""

import pytest

from data_preprocessing.pipeline import UNREAD, run
from modelzoo.base_config import UserError
from modelzoo.data.schema import read_manifest
from tests.data_preprocessing.corpus import config, documents_of, files_of
from tests.samples import small_tokenizer


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("limit", [{"max_documents": 37}, {"max_bytes": 1900}, {"max_tokens": 801}])
def test_limits_take_a_prefix(base, number, limit):
    settings = {"deduplication": None, "shuffle_seed": None, "validation_fraction": 0.0}
    run(config(workers=1, output="all", **settings), base)
    whole = documents_of(base / "all", "train")
    manifest = run(config(workers=number, **settings, **limit), base).manifest
    some = documents_of(base / "out", "train")
    assert 0 < len(some) < len(whole)
    assert some == whole[: len(some)]
    tokenizer = small_tokenizer()
    sizes = {
        "max_documents": [1] * len(some),
        "max_bytes": [len(text.encode()) for text in some],
        "max_tokens": [len(tokenizer.encode(text)) + 1 for text in some],
    }
    ((name, most),) = limit.items()
    assert sum(sizes[name][:-1]) < most <= sum(sizes[name])
    assert manifest.ledger.documents_written == len(some)
    run(config(workers=number + 1, output="again", **settings, **limit), base)
    assert files_of(base / "out") == files_of(base / "again")
    assert run(config(workers=1, **settings, **limit), base).already_done


def test_sources_have_limits_and_accounts_of_their_own(base):
    sources = {
        "first": {"reader": {"kind": "jsonl", "paths": "a.jsonl"}, "max_documents": 9},
        "second": {"reader": {"kind": "jsonl", "paths": "b.jsonl"}},
        "third": {"reader": {"kind": "jsonl", "paths": "c.jsonl"}, "fraction": 0.5},
    }
    settings = {"reader": None, "sources": sources, "deduplication": None}
    manifest = run(config(workers=1, **settings), base).manifest
    run(config(workers=3, output="other", **settings), base)
    assert files_of(base / "out") == files_of(base / "other")
    ledger = read_manifest(base / "out").ledger
    assert ledger == manifest.ledger
    assert ledger.sources["first"].documents_written == 9
    assert ledger.sources["second"].documents_written > 50
    third = ledger.sources["third"]
    assert 0 < ledger.documents_left_out < third.documents_in
    assert 15 < third.documents_written < 50


def test_fraction_is_of_documents_and_stable(base):
    settings = {"deduplication": None, "shuffle_seed": None, "validation_fraction": 0.0}
    run(config(workers=1, output="half", fraction=0.5, **settings), base)
    run(config(workers=1, output="more", fraction=0.7, **settings), base)
    run(config(workers=1, output="all", **settings), base)
    half, more, whole = (documents_of(base / name, "train") for name in ("half", "more", "all"))
    assert set(half) < set(more) < set(whole)
    assert [text for text in whole if text in set(half)] == half


@pytest.mark.parametrize("limit", [{"max_documents": 9}, {"max_documents": 10**6}])
def test_a_limit_hides_no_change_of_the_inputs(base, limit):
    """Files that a limit left unread stand in the manifest by name and size."""
    settings = {**limit, "reader": {"kind": "jsonl", "paths": "?.jsonl"}}
    manifest = run(config(**settings), base).manifest
    assert [file.path for file in manifest.inputs] == ["a.jsonl", "b.jsonl", "c.jsonl"]
    unread = [file.path for file in manifest.inputs if file.sha256 == UNREAD]
    assert unread == (["b.jsonl", "c.jsonl"] if limit["max_documents"] == 9 else [])
    assert run(config(**settings), base).already_done
    for name in ("0.jsonl", "d.jsonl"):  # before what was read, and after it
        (base / name).write_text('{"text": "new"}\n')
        with pytest.raises(UserError, match=f"inputs.{name}: None there, '16 bytes, not read to its end' here"):
            run(config(**settings), base)
        (base / name).unlink()
    with (base / "c.jsonl").open("a") as file:
        file.write('{"text": "more"}\n')
    with pytest.raises(UserError, match=r"inputs\.c\.jsonl: .* there, .* here"):
        run(config(**settings), base)
