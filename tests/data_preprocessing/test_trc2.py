"""On text written for these tests: the collection itself is not public."""

import gzip

import pytest

from tests.data_preprocessing.reading import Dribble, read, summary, texts

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
    assert summary(read(content, kind="trc2")) == [("f: document 1", "[empty]"), ("f: document 2", "last story")]


def test_bytes_that_are_not_utf8_cost_their_story():
    good = STORY.format(number=1).encode()
    items = read(good + good.replace(b"CHICAGO", b"CHIC\xe1GO") + good, kind="trc2")
    assert [getattr(item, "reason", "") for item in items] == ["", "not UTF-8", ""]


def test_without_doc_tags_a_line_is_a_story():
    content = b"2008-01-01 00:00:03 TRC2-2008-01-01-0000 One <P>story</P> (Click on the Z)\nTRC2-2008-01-01-0001 Two\n"
    assert texts(read(content, kind="trc2")) == ["One story", "Two"]
