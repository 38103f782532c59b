"""TRC2: the Thomson Reuters Text Research Collection, as NIST hands it out.

The collection is one file, TRC2-headlines-docs-TRECBLOG.v2: 1,800,370 stories, 2,871,075,221 bytes
(https://trec.nist.gov/data/reuters/reuters.html). It is not public; its form is known here from what others show
of it: the recipe and the sample in the documentation of Cerebras' ModelZoo (a story is

    <DOC>
    <DOCNO>TRC2-2008-01-01-0000</DOCNO>
    <BLOGS08DAY>-13</BLOGS08DAY>
    <CONTENT>
    …headline and story…
    </CONTENT>
    </DOC>

and lines may start with a time stamp, hold an identifier, and end in "(Click on the Z…"), and code that splits it at
its DOC tags. Tags are upper case; what is between them is no XML: & and < stand for themselves.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO, Literal

from data_preprocessing.readers import EMPTY, Document, Frame, ReaderConfig, Rejected, Unit
from data_preprocessing.streams import Steady, cut_from, decode, first_bytes, records

END = b"</DOC>"
SNIFFED = 2**16

# an element about the story, alone on its line
ABOUT = re.compile(r"\s*<(DOCNO|DOCID|BLOGS08DAY|DATE|TIME|DATETIME|DATE_TIME)>.*</\1>\s*")
TAG = re.compile(r"</?[A-Z][A-Z0-9_]*>")
IDENTIFIER = re.compile(r"\bTRC2-\d[-0-9]*[ \t]*")
STAMP = re.compile(r"^[ \t]*\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?Z?(?:[ \t]+|$)")
# to its closing bracket, which may stand some lines below, and what follows on that line; or to the end of its line
TAIL = re.compile(r"[ \t]*\(Click on the Z(?:(?:[^()\n]|\n(?!\s*\n))*\)[^\n]*|[^\n]*)")


class Trc2Reader(ReaderConfig):
    """The file of NIST's release, as it is or compressed. Each story is a document: its headline and its text,
    without tags, time stamps, identifiers and the "(Click on the Z…" tail. A file without DOC tags is read a line a
    story."""

    kind: Literal["trc2"] = "trc2"

    def frames(self, stream: BinaryIO, name: str) -> Iterator[Frame | Rejected]:
        source = Steady(stream)
        start = first_bytes(source, name, SNIFFED)
        if isinstance(start, Rejected):
            yield start
            return
        tagged = b"<DOC>" in start[:SNIFFED]
        unit: Unit = "document" if tagged else "line"
        for item in cut_from(start, source, name, unit, END if tagged else b"\n", self.max_document_bytes):
            if isinstance(item, Rejected) or not item.data.isspace():  # the line end behind the last story
                yield item

    def documents(self, frame: Frame) -> Iterator[Document | Rejected]:
        for raw, place in records(frame, END if frame.first.unit == "document" else b"\n"):
            story = decode(raw, place)
            if isinstance(story, Document):
                text = story_of(story.text)
                story = Document((text,), place) if text else Rejected(place, EMPTY, "no text", len(raw))
            yield story


def story_of(record: str) -> str:
    """Headline and text of a story, without what was put around them. Blank lines in the text stay."""
    lines = []
    for line in TAIL.sub("", record.replace("\r\n", "\n")).split("\n"):
        if "<" not in line and "TRC2-" not in line and not line[:5].lstrip()[:1].isdigit():
            lines.append(line)
        elif not ABOUT.fullmatch(line):
            bare = STAMP.sub("", IDENTIFIER.sub("", TAG.sub("", line)))
            if bare.strip():
                lines.append(bare)
    return "\n".join(lines).strip()
