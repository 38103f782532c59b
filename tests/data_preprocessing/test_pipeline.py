import errno
import hashlib
import json

import h5py
import numpy as np
import pytest

from data_preprocessing.config import PreprocessConfig
from data_preprocessing.encoder import split_of
from data_preprocessing.pipeline import run
from modelzoo.base_config import UserError
from modelzoo.data.schema import file_sha256, read_manifest
from modelzoo.tokenizer import Tokenizer
from tests.data_preprocessing.corpus import documents_of
from tests.samples import TRICKY, small_tokenizer

DOCUMENTS = [text for text in TRICKY if text] + [f"document {i} about {'cats ' * (i % 9)}" for i in range(80)]


@pytest.fixture
def base(tmp_path):
    """A folder with a tokenizer and a corpus of DOCUMENTS."""
    small_tokenizer().save(tmp_path / "tokenizer.json")
    write(tmp_path, DOCUMENTS)
    return tmp_path


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 300 bytes, so that DOCUMENTS make many, and workers for the smallest input."""
    monkeypatch.setattr("data_preprocessing.chunks.MIN_CHUNK_BYTES", 300)
    monkeypatch.setattr("data_preprocessing.chunks.MAX_CHUNK_BYTES", 300)
    monkeypatch.setattr("data_preprocessing.streams.FRAME_BYTES", 100)
    monkeypatch.setattr("data_preprocessing.pipeline.SMALL_BYTES", 0)


def write(base, documents, name="corpus.jsonl"):
    lines = [json.dumps({"text": text}) if isinstance(text, str) else text.decode() for text in documents]
    (base / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def config(**settings):
    reader = {"kind": "jsonl", "paths": "corpus.jsonl"}
    return PreprocessConfig.model_validate(
        {"name": "t", "reader": reader, "tokenizer": "tokenizer.json", "output": "out", **settings}
    )


def rejected(base, name="out"):
    lines = (base / name / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_every_document_is_written_once_in_order(base):
    summary = run(config(validation_fraction=0.3), base)
    assert not summary.already_done
    written = {split: documents_of(base / "out", split) for split in ("train", "validation")}
    for split, found in written.items():
        assert found == [text for text in DOCUMENTS if split_of(text, 0.3) == split]
    assert 10 < len(written["validation"]) < 45
    ledger = summary.manifest.ledger
    num_bytes = sum(len(text.encode()) for text in DOCUMENTS)
    assert (ledger.documents_in, ledger.documents_written) == (len(DOCUMENTS),) * 2
    assert (ledger.bytes_in, ledger.bytes_written) == (num_bytes,) * 2
    tokenizer = Tokenizer.load(base / "tokenizer.json")
    tokens = sum(len(tokenizer.encode(text)) + 1 for text in DOCUMENTS)
    assert sum(split.num_tokens for split in summary.manifest.splits.values()) == tokens
    assert Tokenizer.load(base / "out").sha256 == tokenizer.sha256 == summary.manifest.tokenizer.sha256


def test_end_of_document_ends_each_document_and_stands_nowhere_else(base):
    run(config(), base)
    with h5py.File(base / "out/train/00000.h5") as file:
        tokens, offsets = file["tokens"][:], file["document_offsets"][:]
        assert json.loads(file.attrs["source_config"])["reader"]["kind"] == "jsonl"
    assert np.array_equal(np.flatnonzero(tokens == 0), offsets[1:] - 1)


def test_shards_are_bounded_and_change_nothing(base):
    run(config(), base)
    run(config(output="many", shard_tokens=300), base)
    shards = read_manifest(base / "many").splits["train"].shards
    assert len(shards) > 3
    assert all(shard.num_tokens <= 300 for shard in shards)
    assert documents_of(base / "many", "train") == documents_of(base / "out", "train")
    assert all(file_sha256(base / "many" / shard.file) == shard.sha256 for shard in shards)
    files = {str(path.relative_to(base / "many")) for path in (base / "many").rglob("*") if path.is_file()}
    assert files == {"manifest.json", "rejected.jsonl", "tokenizer.json"} | {shard.file for shard in shards}


def test_the_content_of_a_plain_shard_is_pinned(base):
    """What a release writes, the next one writes too. The hash leaves out what h5py and tokenizers add of theirs,
    and the settings, which new options lengthen."""
    run(config(), base)
    digest = hashlib.sha256()
    with h5py.File(base / "out/train/00000.h5") as file:
        assert sorted(file) == ["document_offsets", "tokens"]
        for name in sorted(file):
            digest.update(f"{name} {file[name].dtype.str}".encode() + file[name][:].tobytes())
        for name in sorted(set(file.attrs) - {"tokenizer_sha256", "source_config"}):
            digest.update(f"{name}={file.attrs[name]}".encode())
    assert digest.hexdigest() == "91f34607730916329cd4c795b9112257e877009af57f7be99b934f8841f96a74"


def test_a_growing_corpus_moves_no_document(base):
    before = {text for text in DOCUMENTS if split_of(text, 0.3) == "validation"}
    write(base, ["new first"] + DOCUMENTS[::-1] + [f"more {i}" for i in range(50)])
    run(config(validation_fraction=0.3), base)
    assert before <= set(documents_of(base / "out", "validation"))
    assert not before & set(documents_of(base / "out", "train"))


def test_running_again_does_nothing(base):
    first = run(config(), base)
    stamp = (base / "out/train/00000.h5").stat().st_mtime_ns
    again = run(config(name="renamed", description="d"), base)
    assert again.already_done
    assert again.manifest == first.manifest
    assert (base / "out/train/00000.h5").stat().st_mtime_ns == stamp


def test_running_again_with_something_else_says_what(base):
    run(config(), base)
    with pytest.raises(UserError) as caught:
        run(config(validation_fraction=0.25, max_documents=9), base)
    assert "settings.validation_fraction: 0.0 there, 0.25 here" in str(caught.value)
    assert "settings.max_documents: None there, 9 here" in str(caught.value)
    assert "choose another `output`, or delete it" in str(caught.value)
    assert "shard_tokens" not in str(caught.value)
    write(base, [*DOCUMENTS, "one more"])
    with pytest.raises(UserError, match=r"inputs\.corpus\.jsonl: '[0-9a-f]{64}' there"):
        run(config(), base)
    write(base, DOCUMENTS)
    small_tokenizer(270).save(base / "tokenizer.json")
    with pytest.raises(UserError, match="tokenizer: '"):
        run(config(), base)


def test_output_that_is_something_else_is_left_alone(base):
    (base / "out").mkdir()
    run(config(), base)  # an empty directory is taken
    (base / "mine").mkdir()
    (base / "mine" / "precious.txt").write_text("x")
    with pytest.raises(UserError, match="mine: exists and is not a dataset"):
        run(config(output="mine"), base)
    assert (base / "mine" / "precious.txt").exists()


def test_leftovers_of_a_killed_run_are_removed(base):
    (base / "out.partial").mkdir()
    (base / "out.partial" / "half.h5").write_text("x")
    run(config(), base)
    assert not (base / "out.partial").exists()
    assert not (base / "out" / "half.h5").exists()


BROKEN = [
    (b'{"text": "a', "corpus.jsonl:4: not JSON"),
    (b'{"body": "a"}', "corpus.jsonl:4: missing key: no key 'text'; it has 'body'"),
    (b'{"text": null}', "corpus.jsonl:4: not a string"),
    (rb'{"text": "ab\ud800"}', r"corpus.jsonl:4: unpaired surrogate: \ud800 at character 2"),
]


@pytest.mark.parametrize(("line", "message"), BROKEN)
def test_broken_document_stops_or_is_listed(base, line, message):
    write(base, [*DOCUMENTS[:3], line, "", *DOCUMENTS[3:]])
    with pytest.raises(UserError) as caught:
        run(config(), base)
    assert message in str(caught.value)
    assert "on_error=reject" in str(caught.value)
    assert not (base / "out").exists()
    ledger = run(config(on_error="reject"), base).manifest.ledger
    assert documents_of(base / "out", "train") == DOCUMENTS
    assert ledger.documents_in == ledger.documents_written + 2 == len(DOCUMENTS) + 2
    assert ledger.documents_rejected == sum(ledger.rejected_by_reason.values()) == 2
    assert ledger.rejected_by_reason["empty"] == 1
    listed = rejected(base)[0]
    assert (listed["file"], listed["unit"], listed["number"]) == ("corpus.jsonl", "line", 4)
    assert message.startswith("{file}:{number}: {reason}".format(**listed))


def test_invalid_utf8(base):
    (base / "corpus.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xe9"}\n')
    with pytest.raises(UserError, match=r"corpus\.jsonl:2: not UTF-8: .*\(0xe9\) at byte 10 of this line"):
        run(config(), base)
    assert not (base / "out").exists()


def test_nothing_to_read(base):
    with pytest.raises(UserError, match=r"nowhere\.jsonl: no such file"):
        run(config(reader={"kind": "jsonl", "paths": "nowhere.jsonl"}), base)
    (base / "corpus.jsonl").write_text("")
    with pytest.raises(UserError, match=r"no document in corpus\.jsonl \(1 empty\)"):
        run(config(), base)
    write(base, ["", b"{"])
    with pytest.raises(UserError, match=r"no document in corpus\.jsonl \(1 empty, 1 not JSON\)"):
        run(config(on_error="reject"), base)
    with pytest.raises(UserError, match=r"lost\.json: no such file"):
        run(config(tokenizer="lost.json"), base)
    assert not (base / "out").exists()


def test_split_without_a_document(base):
    with pytest.raises(UserError, match="validation_fraction=1e-06: of 86 documents none fell into validation"):
        run(config(validation_fraction=1e-6), base)
    assert not (base / "out").exists()


def test_limits(base):
    run(config(max_documents=5), base)
    assert documents_of(base / "out", "train") == DOCUMENTS[:5]
    run(config(output="b", max_bytes=len(DOCUMENTS[0].encode()) + 1), base)
    assert documents_of(base / "b", "train") == [DOCUMENTS[0], DOCUMENTS[1]]


FULL = [
    OSError(errno.ENOSPC, "full"),
    OSError("h5py: errno = 28, No space left"),
    RuntimeError("Can't decrement id ref count (unable to extend file properly, errno = 27, error message = '')"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
@pytest.mark.parametrize("place", ["data_preprocessing.encoder.write_spill", "data_preprocessing.merge.write_shard"])
def test_full_disk_keeps_what_is_done(base, monkeypatch, error, place):
    def fail(*args):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(place, fail)
        with pytest.raises(UserError, match=r"out\.partial: no space left on the device .*needs about .* MB"):
            run(config(), base)
    assert not (base / "out").exists()
    assert not (base / "out.partial/dataset").exists()
    run(config(), base)
    assert documents_of(base / "out", "train") == DOCUMENTS
    assert not (base / "out.partial").exists()


def test_an_output_may_be_a_link_to_a_directory(base):
    (base / "disk").mkdir()
    for name in ("disk/there", "disk/not_yet"):
        (base / "link").symlink_to(name)
        if name == "disk/there":
            (base / name).mkdir()
        summary = run(config(output="link"), base)
        assert summary.output == base / name
        assert documents_of(base / "link", "train") == DOCUMENTS
        assert not (base / "link.partial").exists()
        assert run(config(output="link"), base).already_done
        (base / "link").unlink()


def test_an_output_that_is_no_path(base):
    for output in ("a\0b", ".."):
        with pytest.raises(UserError, match="expected the path of a directory to write"):
            run(config(output=output), base)


def test_progress_ends_at_the_whole(base, small_chunks):
    seen = []
    run(config(), base, seen.append)
    assert len(seen) > 5
    assert seen == sorted(seen)
    size = (base / "corpus.jsonl").stat().st_size
    assert (seen[-1].bytes_done, seen[-1].bytes_total) == (size, size)
    assert seen[-1].documents == len(DOCUMENTS)


def test_directory_of_files(base):
    (base / "src").mkdir()
    for name, text in {"b.py": "b = 1\n", "a.py": "\ta\r\n", "empty.py": ""}.items():
        (base / "src" / name).write_bytes(text.encode())
    reader = {"kind": "directory", "paths": "src", "suffixes": [".py"]}
    manifest = run(config(reader=reader), base).manifest
    assert documents_of(base / "out", "train") == ["\ta\r\n", "b = 1\n"]
    assert manifest.ledger.rejected_by_reason == {"empty": 1}
    assert [file.path for file in manifest.inputs] == ["src/a.py", "src/b.py", "src/empty.py"]
