"""On text written for these tests: the collection itself is not public."""

import gzip
import json

import pytest

from data_preprocessing.config import PreprocessConfig
from data_preprocessing.pipeline import run
from modelzoo.base_config import UserError
from tests.data_preprocessing.reading import Dribble, read, summary, texts
from tests.samples import small_tokenizer

STORY = """<DOC>
<DOCNO>TRC2-2008-01-01-{number:04}</DOCNO>
<BLOGS08DAY>-13</BLOGS08DAY>
<CONTENT>
2008-01-01 00:00:03 Wheat rises by {number} cents on AT&T's <quoted> news TRC2-2008-01-01-{number:04}
CHICAGO, Jan 1 - Prices rose.

10:30 a.m. was the time; 2008 the year - 1 of many (see [ID:nN01]).
(Click on the Z{number} code for
more of these stories) and so on
- a dash starts this line
</CONTENT>
</DOC>
"""
TEXT = """Wheat rises by {number} cents on AT&T's <quoted> news
CHICAGO, Jan 1 - Prices rose.

10:30 a.m. was the time; 2008 the year - 1 of many (see [ID:nN01]).

- a dash starts this line"""


def stripped(text):
    return "\n".join(line.rstrip() for line in text.split("\n"))


@pytest.mark.parametrize("frame_bytes", [1, 100, 2**20])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_stories(monkeypatch, frame_bytes, line_end):
    monkeypatch.setattr("data_preprocessing.streams.FRAME_BYTES", frame_bytes)
    content = "".join(STORY.format(number=i) for i in range(30)).replace("\n", line_end).encode()
    for stream in (content, Dribble(content, 33)):
        items = read(stream, kind="trc2")
        assert [stripped(text) for text in texts(items)] == [TEXT.format(number=i) for i in range(30)]
    assert [str(item.place) for item in items[:2]] == ["f: document 1", "f: document 2"]
    assert texts(read(content.rstrip(), kind="trc2")) == texts(items)
    assert texts(read(gzip.compress(content), "trc2.v2.gz", kind="trc2")) == texts(items)


def test_the_tail_of_a_line_goes_to_its_end_where_no_bracket_closes_it():
    story = b"Headline\nSome text (Click on the Z codes for more\nmore text\n\n(other)\n"
    content = b"<DOC>\n<CONTENT>\n" + story + b"</CONTENT>\n</DOC>"
    assert texts(read(content, kind="trc2")) == ["Headline\nSome text\nmore text\n\n(other)"]


def test_other_tags_and_stamps_before_or_after_the_identifier():
    content = (
        b"<DOC><DOCNO>TRC2-2009-02-28-9999</DOCNO>\n<DATE>2009-02-28 23:54:14</DATE>\n"
        b"<HEADLINE>TRC2-2009-02-28-9999 2009-02-28 23:54:14 Head</HEADLINE>\n"
        b"<TEXT>2009-02-28 23:54:14\n2009-02-28 23:54:14 TRC2-2009-02-28-9999 Body\n</TEXT>\n</DOC>\n"
    )
    assert texts(read(content, kind="trc2")) == ["Head\nBody"]


def test_a_story_without_text_and_one_that_is_cut_short():
    content = b"<DOC>\n<DOCNO>TRC2-2008-01-01-0000</DOCNO>\n</DOC>\n<DOC>\n<CONTENT>\nlast story"
    assert summary(read(content, kind="trc2")) == [("f: document 1", "[empty]"), ("f: document 2", "[unclosed]")]


def test_an_unclosed_story_costs_itself_alone():
    one, two, three = (STORY.format(number=i) for i in (1, 2, 3))
    unclosed = two.replace("</DOC>\n", "")
    items = read((one + unclosed + three + "<DOC>").encode(), kind="trc2")
    assert [getattr(item, "reason", "story") for item in items] == ["story", "unclosed", "story", "unclosed"]
    assert [item.place.number for item in items] == [1, 2, 3, 4]
    assert items[1].num_bytes == len(unclosed) - len("<DOC>")
    assert "by 3 cents" in items[2].text
    assert "by 2" not in items[0].text + items[2].text


def test_a_file_cut_anywhere_gives_whole_stories_and_says_that_one_is_not():
    content = (STORY.format(number=1) + STORY.format(number=2)).encode()
    whole = texts(read(content, kind="trc2"))
    first = content.index(b"</DOC>") + len("</DOC>\n")
    for end in range(first + len("<DOC>"), len(content) - len("</DOC>\n") + 1):
        story, rest = read(content[:end], kind="trc2")
        assert story.text == whole[0]
        assert rest.reason == "unclosed"


def test_text_outside_of_the_stories_is_not_lost_silently():
    content = b"before\n<DOC>\none\n</DOC>\nbehind\n<DOC>\ntwo\n</DOC>\n"
    assert [getattr(item, "reason", None) or item.text for item in read(content, kind="trc2")] == [
        *("outside a story", "one", "outside a story", "two")
    ]


@pytest.mark.parametrize("number", [1, 3])
def test_the_account_of_broken_stories_adds_up_for_any_number_of_workers(tmp_path, monkeypatch, number):
    monkeypatch.setattr("data_preprocessing.chunks.MIN_CHUNK_BYTES", 300)
    monkeypatch.setattr("data_preprocessing.chunks.MAX_CHUNK_BYTES", 300)
    monkeypatch.setattr("data_preprocessing.streams.FRAME_BYTES", 100)
    monkeypatch.setattr("data_preprocessing.pipeline.SMALL_BYTES", 0)
    small_tokenizer().save(tmp_path / "tokenizer.json")
    stories = [STORY.format(number=i).replace("</DOC>\n", "" if i % 7 == 3 else "</DOC>\n") for i in range(40)]
    (tmp_path / "stories.v2").write_text("".join(stories)[:-3])
    rows = [f'{i},2008-01-01,"Head, {i}","A ""quoted""\n\nstory {i}"\n' for i in range(40)]
    (tmp_path / "docs.csv").write_text("id,date,headline,story\n" + "".join(rows) + "1,2\n" + '40,x,"cut')
    settings = {
        "name": "t",
        "reader": {"kind": "trc2", "paths": ["stories.v2", "docs.csv"]},
        "tokenizer": "tokenizer.json",
        "output": "out",
        "on_error": "reject",
        "workers": number,
    }
    ledger = run(PreprocessConfig.model_validate(settings), tmp_path).manifest.ledger
    assert ledger.rejected_by_reason == {"not CSV": 1, "unclosed": 6 + 1 + 1}
    assert ledger.documents_in == 40 + 42
    assert ledger.documents_written == 33 + 40
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines] == [4, 11, 18, 25, 32, 39, 40, 41, 42]


CSV = (
    "id,date,headline,story\n"
    '1,2008-01-01 00:00:03,"Wheat, corn ""up""","2008-01-01 00:00:03 CHICAGO, Jan 1 - Prices\n\nrose <b> & fell\n'
    '(Click on the Z codes)\n<DOC> end"\n'
    "2,2008-01-01 00:00:04,Plain head,plain story\n"
    "\n"
    "3,2008-01-01\n"
    '4,2008-01-01 00:00:04,Last,"líne\nends"\n'
)


@pytest.mark.parametrize("frame_bytes", [1, 100, 2**20])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_csv(monkeypatch, frame_bytes, line_end):
    monkeypatch.setattr("data_preprocessing.streams.FRAME_BYTES", frame_bytes)
    content = CSV.replace("\n", line_end).encode()
    wanted = [
        ("f: document 1", 'Wheat, corn "up"\nCHICAGO, Jan 1 - Prices\n\nrose <b> & fell\n\n  end'),
        ("f: document 2", "Plain head\nplain story"),
        ("f: document 3", "[empty]"),
        ("f: document 4", "[not CSV]"),
        ("f: document 5", "Last\nlíne\nends"),
    ]
    for stream in (content, Dribble(content, 7)):
        assert summary(read(stream, "f", kind="trc2")) == wanted
    bare = content.partition(b"\n")[2]
    assert summary(read(bare, kind="trc2")) == wanted  # without a header
    other = content.replace(b"id,date,headline,story", b"date,id,Headline,Text", 1)
    assert summary(read(other, kind="trc2")) == wanted


def test_csv_that_is_cut_too_long_or_not_utf8_costs_its_row():
    head = b"date,headline,text\n"
    long = b'2008-01-01,Long,"' + b"x, \n" * 100 + b'"\n'
    items = read(head + b'd,a,"b"\n' + long + b'd,c\xe1,d\nd,"e","f\n', kind="trc2", max_document_bytes=80)
    assert summary(items) == [
        ("f: document 1", "a\nb"),
        ("f: document 2", "[too large]"),
        ("f: document 3", "[not UTF-8]"),
        ("f: document 4", "[unclosed]"),
    ]
    assert items[1].num_bytes == len(long)
    assert texts(read(head + b'd,a,"' + b"b" * 200_000 + b'"', kind="trc2"))[0].count("b") == 200_000


@pytest.mark.parametrize(
    "content", [b"Once upon a time\n", b"id,name\n1,x\n", b'{"text": "x"}\n', b"a,b,c\nd,e,f\n", b'"x\ry,",z']
)
def test_what_is_neither_form_is_refused(content):
    with pytest.raises(UserError, match=r"^f: is no file of TRC2's: expected .* reader.kind=jsonl"):
        read(content, kind="trc2")


def test_commas_do_not_make_a_line_a_row():
    line = b"2008-01-01 00:00:03 TRC2-2008-01-01-0000 Wheat, corn, oats\n"
    assert texts(read(line, kind="trc2")) == ["Wheat, corn, oats"]


def test_bytes_that_are_not_utf8_cost_their_story():
    good = STORY.format(number=1).encode()
    items = read(good + good.replace(b"CHICAGO", b"CHIC\xe1GO") + good, kind="trc2")
    assert [getattr(item, "reason", "") for item in items] == ["", "not UTF-8", ""]


def test_without_doc_tags_a_line_is_a_story():
    content = b"2008-01-01 00:00:03 TRC2-2008-01-01-0000 One <P>story</P> (Click on the Z)\nTRC2-2008-01-01-0001 Two\n"
    assert texts(read(content, kind="trc2")) == ["One story", "Two"]
