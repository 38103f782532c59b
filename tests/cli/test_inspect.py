import json
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from data_preprocessing import inspect
from data_preprocessing.inspect.contents import Document
from data_preprocessing.inspect.lengths import Lengths
from data_preprocessing.inspect.pieces import folded, pieces, visible
from modelzoo.base_config import UserError
from modelzoo.cli.inspect import coloured_text, histogram_lines, plain_text
from modelzoo.cli.main import app
from modelzoo.tokenizer import Tokenizer
from tests.cli.handmade import END, SPLITS, write_dataset
from tests.samples import TRICKY, shared_data, small_tokenizer

TEXTS = [text for shard in SPLITS["train"] for text in shard]
CJK = "日本語"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Not to be written to."""
    return write_dataset(tmp_path_factory.mktemp("lm") / "data")


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("masked") / "data", masked=True)


def run(*arguments):
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


def told(*arguments):
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.exception
    return json.loads(done.stdout)


def document(ids, loss_mask=None):
    return Document("train", 0, "a.h5", len(ids), 0, np.array(ids), loss_mask)


# numbers


def test_the_summary_counts_what_was_written(root):
    facts = told(root)
    train, tokenizer = facts["splits"]["train"], small_tokenizer()
    lengths = sorted(len(tokenizer.encode(text)) + 1 for text in TEXTS)
    assert (facts["what"], facts["mode"], facts["tokenizer"]["vocab_size"]) == ("dataset", "lm", 275)
    assert (train["files"], train["documents"], train["tokens"]) == (2, len(TEXTS), sum(lengths))
    assert train["bytes"] == sum(len(text.encode()) for text in TEXTS)
    assert train["bytes_per_token"] == train["bytes"] / train["tokens"]
    assert (train["has_loss_mask"], train["learnt_tokens"]) == (False, train["tokens"])
    quantiles = train["tokens_per_document"]
    assert [quantiles[key] for key in ("min", "median", "max")] == [lengths[0], lengths[3], lengths[-1]]
    assert quantiles["mean"] == pytest.approx(np.mean(lengths))
    for low, high, count in train["histogram"]:
        assert count == sum(low <= length <= high for length in lengths)
    assert sum(count for *_, count in train["histogram"]) == len(TEXTS)
    assert facts["splits"]["validation"]["documents"] == 2
    assert facts["ledger"]["rejected_by_reason"] == {"not JSON": 1}


def test_the_loss_mask_is_counted(masked):
    train = told(masked)["splits"]["train"]
    short = sum(min(3, len(small_tokenizer().encode(text)) + 1) for text in TEXTS)
    assert train["learnt_tokens"] == train["tokens"] - short
    shown = told(masked, "--document", 1)["documents"][0]["loss_mask"]
    assert shown[:3] == [0, 0, 0]
    assert set(shown[3:]) == {1}


@pytest.mark.parametrize("high", [3, 40, 1000, 500_000])
def test_lengths_agree_with_numpy(high):
    draw = np.random.default_rng(high)
    lengths = np.exp(draw.uniform(0, np.log(high), 5000)).astype(np.int64)
    counted = Lengths.of(np.array_split(lengths, 7))
    assert np.array_equal(np.repeat(counted.values, counted.counts), np.sort(lengths))
    assert counted.summary()["p25"] == np.quantile(lengths, 0.25, method="inverted_cdf")
    assert counted.summary()["mean"] == pytest.approx(lengths.mean())
    bins = counted.histogram()
    assert len(bins) <= 26
    assert all(before.high + 1 == after.low for before, after in pairwise(bins))
    for low, top, count in bins:
        assert count == np.count_nonzero((lengths >= low) & (lengths <= top))
    assert sum(bin_.documents for bin_ in bins) == len(lengths)


def test_lengths_of_nothing():
    empty = Lengths.of([])
    assert (empty.summary(), empty.histogram()) == ({}, [])
    assert Lengths.of([np.array([0, 0, 5])]).histogram()[0] == (0, 0, 2)


def test_the_histogram_fits_80_columns(root):
    many = Lengths.of([np.repeat(2 ** np.arange(24), 10**4)])
    numbers = {"tokens_per_document": many.summary(), "histogram": many.histogram()}
    lines = list(histogram_lines(numbers, "document", "train"))
    assert max(map(len, lines)) <= 80
    assert "█" * 40 in lines[-1]
    assert max(map(len, run(root, "--num", 0).stdout.splitlines())) <= 80


# documents


def test_any_document_is_found_by_its_index(root):
    for index, text in enumerate(TEXTS):
        for asked in (index, index - len(TEXTS)):
            found = told(root, "--document", asked)["documents"]
            assert [(one["index"], one["text"]) for one in found] == [(index, text + "<|endoftext|>")]
    assert told(root, "--document", 4)["documents"][0]["file"] == "train/00001.h5"
    assert told(root, "--split", "validation", "--document", -1)["documents"][0]["text"] == "the bird<|endoftext|>"


@pytest.mark.parametrize("index", [7, -8])
def test_an_index_out_of_range_tells_the_range(root, index):
    error = run(root, "--document", index).exception
    assert isinstance(error, UserError)
    assert f"no document {index}, it holds 7 documents; expected 0 to 6, or -1 to -7 from the end" in str(error)


def test_documents_are_spread_over_the_split(root):
    assert [one["index"] for one in told(root, "--num", 3)["documents"]] == [0, 2, 4]
    assert [one["index"] for one in told(root, "--num", 99)["documents"]] == list(range(7))


def test_a_long_document_is_cut_and_says_so(root):
    text = run(root, "--document", 6, "--max-tokens", 4).stdout
    assert "needle" not in text
    assert f"… {len(small_tokenizer().encode(TEXTS[6])) + 1 - 4} tokens more" in text


@pytest.mark.parametrize("block", [2**20, 32])
def test_search_finds_every_document_that_holds_the_text(root, monkeypatch, block):
    monkeypatch.setattr("data_preprocessing.inspect.shards.BLOCK", block)
    for wanted in ("the", "cat", CJK, "<|endoftext|>", "a", TEXTS[6][-9:]):
        found = told(root, "--search", wanted, "--num", 99)["documents"]
        assert [one["index"] for one in found] == [i for i, text in enumerate(TEXTS) if wanted in text], wanted
    over_an_end = run(root, "--split", "validation", "--search", "catthe")
    assert "no document holds 'catthe'" in str(over_an_end.exception)
    found = told(root, "--search", "needle and", "--max-tokens", 8)["documents"][0]
    assert (found["first_token"], len(found["ids"])) == (0, 8)


def test_options_that_would_be_ignored_are_refused(root):
    assert "give one of them" in str(run(root, "--document", 1, "--search", "x").exception)
    assert "give one of them" in str(run(root, "--json", "--html", "x.html").exception)
    assert "no split 'test'; it has train, validation" in str(run(root, "--split", "test").exception)


def test_one_shard_on_its_own(root, tmp_path):
    facts = told(root / "train" / "00001.h5", "--document", 0)
    assert (facts["what"], facts["documents"][0]["text"]) == ("shard", "<|endoftext|> spelt<|endoftext|>")
    alone = tmp_path / "alone.h5"
    alone.write_bytes((root / "train" / "00001.h5").read_bytes())
    assert "text" not in told(alone, "--document", 0)["documents"][0]
    assert "text" in told(alone, "--document", 0, "--tokenizer", root)["documents"][0]
    small_tokenizer(270).save(tmp_path / "tokenizer.json")
    assert "was written with a tokenizer of sha256" in str(run(alone, "--tokenizer", tmp_path).exception)


def test_what_is_no_dataset_is_refused(root, tmp_path):
    assert "no such file or directory" in str(run(tmp_path / "nowhere").exception)
    assert "no manifest.json" in str(run(tmp_path).exception)
    assert "a part of a dataset" in str(run(root / "train").exception)
    (tmp_path / "cut.h5").write_bytes((root / "train" / "00000.h5").read_bytes()[:3000])
    assert "truncated, or not an HDF5 file" in str(run(tmp_path / "cut.h5").exception)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert "a run or a checkpoint" in str(run(tmp_path / "run").exception)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["images"] = np.zeros(3)
    assert "holds images; expected a shard" in str(run(tmp_path / "other.h5").exception)


def test_a_damaged_shard_is_no_traceback(tmp_path):
    root = write_dataset(tmp_path / "data")
    with h5py.File(root / "train" / "00001.h5", "r+") as file:
        file["document_offsets"][1] = file["document_offsets"][2]
    assert "document_offsets do not increase; see: modelzoo verify" in str(run(root).exception)


# tokens and characters


@pytest.mark.parametrize("text", [text for text in TRICKY if text])
def test_pieces_are_whole_characters_and_lose_nothing(text):
    tokenizer = small_tokenizer()
    ids = [*tokenizer.encode(text), END]
    shown = list(pieces(document(ids), tokenizer))
    assert [id_ for piece in shown for id_ in piece.ids] == ids
    assert b"".join(piece.data for piece in shown[:-1]).decode() == text
    assert "".join(piece.text for piece in shown[:-1]) == visible(text)
    assert [piece.special for piece in shown] == [False] * (len(shown) - 1) + [True]


def test_a_character_over_several_tokens_is_one_piece():
    tokenizer = small_tokenizer()
    ids = tokenizer.encode(CJK)
    assert len(ids) == 9  # bytes
    assert [piece.text for piece in pieces(document(ids), tokenizer)] == list(CJK)
    cut = [piece.text for piece in pieces(document([*ids[:4], END]), tokenizer)]
    assert cut == ["日", "�", "<|endoftext|>"]


def test_control_characters_are_drawn_and_never_sent():
    assert visible("a\x1b[2J\x00\r\x7f") == "a␛[2J␀␍␡"
    assert visible("\x9b1m \u202e \u2028 \ufeff") == "⟨U+009B⟩1m ⟨U+202E⟩ ⟨U+2028⟩ ⟨U+FEFF⟩"
    assert visible("a\n\tb") == "a↵\n⇥   b"
    assert visible("😶‍🌫️ ελ") == "😶‍🌫️ ελ"


def test_nothing_of_the_data_reaches_the_terminal_as_a_command(root):
    done = run(root, "--num", 99)
    assert "alert(1)" in done.stdout
    assert "␛[31m{oops" in done.stdout  # a string of the manifest
    assert not {char for char in done.stdout if ord(char) < 32 or 127 <= ord(char) < 160} - {"\n"}


def test_masked_spans_are_marked_without_colour(masked):
    ids = small_tokenizer().encode(TEXTS[6])
    head = small_tokenizer().decode(ids[:3])
    assert f"⟦{head}⟧{TEXTS[6].removeprefix(head)}«<|endoftext|>»" in run(masked, "--document", 6).stdout


def test_colours_tell_learnt_from_masked_and_neighbours_apart():
    tokenizer = small_tokenizer()
    ids = [*tokenizer.encode("the xyz"), END]
    shown = list(pieces(document(ids, np.arange(len(ids)) >= 2), tokenizer))
    styles = [str(span.style) for span in coloured_text(shown, has_mask=True).spans]
    assert len(styles) == len(ids)
    assert styles[0].split()[0] == styles[1].split()[0] != styles[2].split()[0] == styles[3].split()[0]
    assert all(one.split()[-1] != other.split()[-1] for one, other in pairwise(styles))
    assert "bold" in styles[-1]
    assert (
        plain_text(shown)
        == "⟦" + "".join(p.text for p in shown[:2]) + "⟧" + "".join(p.text for p in shown[2:-1]) + "«<|endoftext|>»"
    )


def test_padding_is_drawn_together():
    shown = list(folded(pieces(document([5, END, END, END, 5]), small_tokenizer())))
    assert [piece.text for piece in shown][1:-1] == ["<|endoftext|>×3"]
    assert shown[1].ids == (END,) * 3


def on_a_terminal(root, **environment):
    """What `inspect` writes when its output is a terminal."""
    program = (
        "import os, pty, sys\n"
        "os.environ.update(dict(a.split('=', 1) for a in sys.argv[3:]))\n"
        "command = 'from modelzoo.cli.main import main; main()'\n"
        "pty.spawn([sys.executable, '-c', command, 'inspect', sys.argv[1], '--document', sys.argv[2]])\n"
    )
    settings = [f"{key}={value}" for key, value in {"TERM": "xterm-256color", **environment}.items()]
    return subprocess.run(
        [sys.executable, "-c", program, str(root), "1", *settings], capture_output=True, text=True, check=True
    ).stdout


def test_colour_is_for_terminals_that_want_it(masked):
    assert "\x1b[38;5;" in on_a_terminal(masked)
    for setting in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        plain = on_a_terminal(masked, **setting)
        assert "38;5" not in plain
        assert "⟦" in plain


# the page


class Page(HTMLParser):
    """Tags, what they contain, and attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.attributes = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_the_page_is_self_contained_and_escapes_all(tmp_path):
    root = write_dataset(tmp_path / "<img src=x onload=y>", masked=True)
    assert "there is no directory" in str(run(root, "--html", tmp_path / "absent" / "page.html").exception)
    assert not (tmp_path / "absent").exists()
    assert run(root, "--html", tmp_path / "page.html", "--num", 99).exit_code == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "img", "link", "iframe", "object", "a"} & set(page.tags)
    names = {name for name, _ in page.attributes}
    assert not {"src", "href", "style", "onclick", "onload"} & names
    assert "http" not in text.replace("http-equiv", "")
    assert "<script>alert(1)</script> & ␛[2J⟨U+009B⟩31m" in page.text
    assert "␛[31m{oops" in page.text
    assert ">&lt;</span>" in text
    assert "><</span>" not in text
    policy = text.split('Content-Security-Policy" content="')[1]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert ("title", "id 0 · bytes 3c 7c 65 6e 64 6f 66 74 65 78 74 7c 3e") in page.attributes
    classes = [value for name, value in page.attributes if name == "class"]
    assert {"t m", "t o m", "t l", "t o l"} <= set(classes)
    assert page.tags.count("article") == 7
    assert "max-width: 40rem" in text


# files of Cerebras ModelZoo


def samples(path, rows):
    """Rows of ids as ModelZoo writes them: inputs, mask, shifted labels."""
    ids = np.array(rows)
    mask = np.ones_like(ids[:, 1:])
    mask[-1, -2:] = 0
    with h5py.File(path, "w") as file:
        file["data"] = np.stack([ids[:, :-1], mask, ids[:, 1:]], axis=1).astype("<i4")


def test_modelzoo_samples(tmp_path):
    tokenizer = small_tokenizer()
    tokenizer.save(tmp_path / "tokenizer.json")
    row = [*tokenizer.encode("the cat saw the bird on a mat"), END][:9]
    samples(tmp_path / "a.h5", [row, row[::-1]])
    samples(tmp_path / "b.h5", [row])
    facts = told(tmp_path, "--tokenizer", tmp_path, "--document", -1)
    assert (facts["what"], facts["unit"]) == ("ModelZoo samples", "row")
    assert facts["splits"]["samples"]["documents"] == 3
    assert facts["splits"]["samples"]["learnt_tokens"] == 3 * 8 - 4
    assert facts["documents"][0]["ids"] == row
    assert facts["documents"][0]["loss_mask"] == [0] + [1] * 6 + [0] * 2
    assert facts["documents"][0]["text"] == tokenizer.decode(row)
    done = run(tmp_path / "b.h5")
    assert done.exit_code == 0
    assert "--tokenizer PATH" in done.stderr
    assert f" {row[1]} {row[2]}" in done.stdout  # ids, where there is no tokenizer


@pytest.mark.parametrize("block", [2**20, 4])
def test_modelzoo_corpora(tmp_path, monkeypatch, block):
    monkeypatch.setattr("data_preprocessing.inspect.modelzoo.BLOCK", block)
    documents = [[5, 6, END], [END], [7] * 9 + [END], [8, 9, END], [5]]
    for number, part in enumerate((documents[:2], documents[2:])):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file["data"] = np.concatenate(part).astype("u1")
    assert "which id ends a document" in str(run(tmp_path).exception)
    (tmp_path / "data_params.json").write_text(json.dumps({"processing": {"eos_id": END, "vocab_size": 275}}))
    found = [told(tmp_path, "--document", index)["documents"][0]["ids"] for index in range(5)]
    assert found == documents
    assert told(tmp_path)["splits"]["corpus"]["tokens"] == 18
    small_tokenizer().save(tmp_path / "tokenizer.json")
    wanted = small_tokenizer().decode([7])
    assert [one["index"] for one in told(tmp_path, "--tokenizer", tmp_path, "--search", wanted)["documents"]] == [2]


def test_modelzoo_files_that_are_wrong(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = np.zeros((4, 2, 8), "i4")
    assert "expected whole numbers, (num_tokens,) or (rows, 3, tokens)" in str(run(tmp_path).exception)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = np.zeros((4, 3, 8), "i4")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["data"] = np.zeros((4, 3, 9), "i4")
    assert "differ in shape" in str(run(tmp_path).exception)


def test_files_that_modelzoo_wrote():
    folder = shared_data("modelzoo_hdf5/neox")
    tokenizer = Tokenizer.load(shared_data("tokenizers/20B_tokenizer.json"))
    contents = inspect.open_contents(folder, tokenizer.path)
    numbers = inspect.summary(contents)["splits"]["samples"]
    assert (numbers["documents"], numbers["tokens"], numbers["learnt_tokens"]) == (433, 221_696, 221_554)
    last = inspect.find_document(contents, contents.split(None), -1)
    assert tokenizer.decode(last.ids[last.loss_mask]).endswith("found ten set in the state.<|endoftext|>")


def test_no_torch():
    program = "import sys, data_preprocessing.inspect.page, data_preprocessing.verify, modelzoo.cli.inspect\n"
    program += "import modelzoo.cli.verify\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("content", [b"{", b"\xff\n", b'{"file": "a"}\n', b'["reason"]\n'])
def test_a_damaged_list_of_rejected_documents_is_told(tmp_path, content):
    root = write_dataset(tmp_path / "data")
    whole = (root / "rejected.jsonl").read_bytes()
    (root / "rejected.jsonl").write_bytes(whole + content)
    with pytest.raises(UserError, match=r"rejected\.jsonl, line 2: not as it was written; .* modelzoo verify"):
        CliRunner().invoke(app, ["inspect", str(root)], catch_exceptions=False)
