import json

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import normalizers
from typer.testing import CliRunner

from data_preprocessing import tokenizer_report
from data_preprocessing.tokenizer_plot import plot
from data_preprocessing.tokenizer_report import KINDS, Domain, built_in_domains, count, kinds_of_bytes, read_domain
from modelzoo.base_config import UserError
from modelzoo.cli import tokenizer as cli
from modelzoo.tokenizer import Tokenizer
from tests.fuzzed_text import fuzzed_texts, tokenizer_json
from tests.samples import small_tokenizer

CODE = "def add(a, b):\n    return a + b\n\n"
PROSE = "The cat saw the bird. It was a fine day in 1999.\n"


@pytest.fixture(scope="module")
def tokenizers():
    return {style: Tokenizer(Backend.from_str(tokenizer_json(style)), style) for style in ("gpt2", "neox", "digits")}


def spelt(text):
    """One letter a byte: p, c, i or d."""
    return "".join(KINDS[kind][0] for kind in kinds_of_bytes(text.encode()))


def test_kinds_of_text():
    assert spelt("f(12)\n") == "ccddcc"
    assert spelt("\t if\n  x = {1}\n") == "iicccii" + "c" * 5 + "dcc"
    assert spelt("In 1999 a cat.\n") == "ppp" + "dddd" + "p" * 8
    assert spelt("a (b) fine day for the quick brown fox, is it\n")[0] == "c"
    assert spelt("a (fine) day for the quick brown fox, is it not\n")[0] == "p"
    assert spelt("A word.\n \t\nx = y[0]\n") == "p" * 8 + "iip" + "c" * 6 + "dcc"  # a paragraph each
    assert spelt("é = 1") == "ccccc" + "d"
    assert spelt("") == ""
    assert spelt("\n\n") == "pp"


def test_the_kinds_take_every_byte_once(tokenizers):
    domain = Domain("fuzz", "here", [text for text in fuzzed_texts(5, 100) if text])
    domain = domain._replace(texts=[tokenizer_report._cut(text, 10**6) for text in domain.texts])
    for tokenizer in tokenizers.values():
        counts = count(tokenizer, domain)
        assert sum(counts.kind_bytes) == sum(len(text.encode()) for text in domain.texts)
        assert sum(counts.kind_tokens) == pytest.approx(counts.num_tokens)
        assert counts.num_tokens == sum(len(tokenizer.encode(text)) for text in domain.texts)


def test_bytes_per_token_by_hand():
    tokenizer = small_tokenizer(257)  # bytes alone
    done = tokenizer_report.report({"bytes": tokenizer}, [Domain("a", "", [CODE, PROSE]), Domain("b", "", [PROSE])])
    assert done.bytes_per_token(0, 0) == 1
    assert [done.kind_bytes_per_token(0, kind) for kind in range(4)] == pytest.approx([1, 1, 1, 1])
    assert done.tokens_per_word(0, 1) == len(PROSE) / 12
    assert [done.kind_bytes(kind) for kind in range(4)] == [2 * (len(PROSE) - 4), len(CODE) - 4, 4, 8]


def test_a_token_across_two_kinds_counts_for_both():
    tokenizer = small_tokenizer()
    (the,) = tokenizer.encode(" the")  # one token
    assert tokenizer.byte_lengths[the] == 4
    counts = count(tokenizer, Domain("a", "", [" the"]))
    assert counts.kind_tokens == pytest.approx((0.75, 0, 0.25, 0))


def test_runs_of_spaces_and_single_digits_show(tokenizers):
    done = tokenizer_report.report(tokenizers, [Domain("code", "", [("        x = 123 + 1234\n" * 50)])])
    gpt2, neox, digits = ([done.kind_bytes_per_token(t, kind) for kind in range(4)] for t in range(3))
    assert neox[2] == 8 > digits[2]
    assert digits[3] == 1 < gpt2[3]
    assert gpt2[0] is None  # no prose


def test_a_tokenizer_that_changes_the_text_has_no_kinds():
    backend = small_tokenizer().backend
    backend.normalizer = normalizers.Lowercase()
    done = tokenizer_report.report({"lower": Tokenizer(backend, "lower")}, [Domain("a", "", [PROSE])])
    assert done.kind_bytes_per_token(0, 0) is None
    assert done.bytes_per_token(0, 0) > 0
    assert "–" in "\n".join(cli.describe(done))


def test_sampling_is_even_bounded_and_depends_on_the_names_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_report, "MIN_SHARE", 100)
    for number in range(20):
        (tmp_path / "d" / f"{number}").mkdir(parents=True)
        (tmp_path / "d" / f"{number}" / "text.txt").write_text(f"{number}\n" + "a line of text\n" * 100)
    (tmp_path / "d" / "binary.bin").write_bytes(b"\xff\x00")
    domain = read_domain("many", "d", tmp_path, max_bytes=4000)
    assert 3000 < sum(map(len, domain.texts)) <= 4000
    assert len(domain.texts) == 20  # each file gives its share
    assert domain == read_domain("many", "d", tmp_path, max_bytes=4000)
    few = read_domain("few", "d", tmp_path, max_bytes=500)
    assert sum(map(len, few.texts)) <= 500
    assert [text[:3] for text in few.texts[:5]] == [text[:3] for text in domain.texts[:5]]
    assert all(text.endswith("\n") for text in few.texts)  # whole lines


def test_domains_of_every_form(tmp_path):
    lines = [json.dumps({"text": f"e\u0301 {i}"}) for i in range(10)]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, "{broken"]))
    (tmp_path / "a.txt").write_text("text of one file\nof two lines")
    assert read_domain("a", "a.jsonl", tmp_path).texts == [f"é {i}" for i in range(10)]
    assert read_domain("a", str(tmp_path / "a.txt")).texts == ["text of one file\nof two lines"]
    assert len(read_domain("a", "a.*", tmp_path).texts) == 2
    with pytest.raises(UserError, match="no such file"):
        read_domain("a", "nothing.txt", tmp_path)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match=r"--data a=empty\.txt: no document can be read there"):
        read_domain("a", "empty.txt", tmp_path)


def test_without_data_the_report_reads_what_python_brings():
    docs, code = built_in_domains(50_000)
    assert 30_000 < len(docs.texts[0].encode()) <= 50_000
    assert 30_000 < sum(len(text.encode()) for text in code.texts) <= 50_000
    assert np.mean(kinds_of_bytes("".join(code.texts).encode()) == tokenizer_report.CODE) > 0.3
    assert np.mean(kinds_of_bytes(docs.texts[0].encode()) == tokenizer_report.PROSE) > 0.3


def saved(tmp_path, tokenizers):
    for name, tokenizer in tokenizers.items():
        tokenizer.save(tmp_path / name / "tokenizer.json")
    return [str(tmp_path / name) for name in tokenizers]


def test_the_command(tmp_path, tokenizers):
    (tmp_path / "code.txt").write_text(CODE * 50)
    (tmp_path / "prose.txt").write_text(PROSE * 50)
    first, *others = saved(tmp_path, tokenizers)
    arguments = ["report", first, f"a long name={others[0]}", others[1] + "/tokenizer.json"]
    arguments += ["--data", f"code={tmp_path}/code.txt", "--data", f"prose={tmp_path}/prose.txt"]
    done = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["gpt2", "a", "long", "name", "digits"]
    assert max(map(len, lines[:-5])) <= 80
    row = next(line for line in lines if line.startswith("  code"))
    assert row.split()[1] == f"{len(CODE) * 50:,}"
    picture = tmp_path / "new" / "report.png"
    done = CliRunner().invoke(cli.app, [*arguments, "--json", "--plot", str(picture)], catch_exceptions=False)
    numbers = json.loads(done.stdout)
    assert [tokenizer["name"] for tokenizer in numbers["tokenizers"]] == ["gpt2", "a long name", "digits"]
    assert f"{numbers['tokenizers'][0]['domains']['code']['bytes_per_token']:.2f}" == row.split()[2]
    assert numbers["domains"][0]["bytes_by_kind"]["indentation"] == 200
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_many_tokenizers_get_tables_below_one_another(tokenizers):
    many = {f"tokenizer number {number}": tokenizers["gpt2"] for number in range(7)}
    done = tokenizer_report.report(many, [Domain("a name that is too long for a table", "", [CODE])])
    lines = cli.describe(done)
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("vocabulary") for line in lines) == 4
    assert all(f"number {number}" in "\n".join(lines) for number in range(7))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--data", "nameless"], "--data nameless: expected NAME=PATH"),
        (["a=x", "a=y"], "the name a is taken"),
        (["x", "--plot", "file.doc"], r"expected a file that ends in \.png"),
        (["nowhere"], "nowhere: no such file"),
    ],
)
def test_what_is_asked_wrongly(arguments, message, tmp_path):
    if arguments[0] == "x":
        arguments = [*saved(tmp_path, {"x": small_tokenizer()}), *arguments[1:]]
    with pytest.raises(UserError, match=message):
        CliRunner().invoke(cli.app, ["report", *arguments], catch_exceptions=False)


def test_a_plot_of_one_tokenizer_and_of_many(tmp_path, tokenizers):
    domains = [Domain("prose", "", [PROSE])]
    for number in (1, 12):
        done = tokenizer_report.report({str(n): tokenizers["neox"] for n in range(number)}, domains)
        plot(done, tmp_path / f"{number}.svg")
        assert (tmp_path / f"{number}.svg").read_text().count("<path") > number
