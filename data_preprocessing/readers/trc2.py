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
its DOC tags. Tags are upper case; what is between them is no XML: & and < stand for themselves. It is also passed on as
CSV, headlines-docs.csv, which others read by its columns date, headline and text (or story).
"""

import csv
import re
from collections.abc import Iterator
from typing import BinaryIO, Literal, cast

from data_preprocessing import streams
from data_preprocessing.csv_rows import Row, rows
from data_preprocessing.readers import EMPTY, Document, Frame, Place, ReaderConfig, Rejected
from data_preprocessing.streams import Steady, cut_from, damaged, decode, first_bytes, records, too_large
from modelzoo.base_config import UserError

BEGIN, END = b"<DOC>", b"</DOC>"
SNIFFED = 2**16
UNCLOSED, OUTSIDE = "unclosed", "outside a story"

HEADLINES = {"headline", "headlines", "title"}
STORIES = {"story", "text", "body", "content"}
EITHER_TAG = re.compile(rb"</?DOC>")

# an element about the story, alone on its line
ABOUT = re.compile(r"\s*<(DOCNO|DOCID|BLOGS08DAY|DATE|TIME|DATETIME|DATE_TIME)>.*</\1>\s*")
TAG = re.compile(r"</?[A-Z][A-Z0-9_]*>")
IDENTIFIER = re.compile(r"\bTRC2-\d[-0-9]*[ \t]*")
# the whole of a cell
DAY = re.compile(r"(?:\d{4}-?\d\d-?\d\d|\d{1,2}[/ -](?:\d{1,2}|[A-Za-z]{3})[/ -]\d{2,4})(?:[ T]\d\d?:\d\d[\d:.,Z+]*)?")
STAMP = re.compile(r"^[ \t]*\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?Z?(?:[ \t]+|$)")
# to its closing bracket, which may stand some lines below, and what follows on that line; or to the end of its line
TAIL = re.compile(r"[ \t]*\(Click on the Z(?:(?:[^()\n]|\n(?!\s*\n))*\)[^\n]*|[^\n]*)")


class Trc2Reader(ReaderConfig):
    """The file of NIST's release, as it is or compressed. Each story is a document: its headline and its text,
    without tags, time stamps, identifiers and the "(Click on the Z…" tail. The first bytes tell the form: DOC tags, CSV
    with columns headline and story (or text; without a header, the last two of three or four), or a line a story, with
    its identifier."""

    kind: Literal["trc2"] = "trc2"

    def frames(self, stream: BinaryIO, name: str) -> Iterator[Frame | Rejected]:
        source = Steady(stream)
        start = first_bytes(source, name, SNIFFED)
        if isinstance(start, Rejected):
            yield start
            return
        sniffed = start[:SNIFFED]
        first_line = sniffed.lstrip().partition(b"\n")[0].decode(errors="replace")
        if (columns := _columns(sniffed)) is not None:
            yield from self._csv_frames(start, source, name, columns)
        elif BEGIN in sniffed:
            before, _, start = start.partition(BEGIN)
            if before.strip():
                yield Rejected(Place(name, "file", 1), OUTSIDE, "text before the first <DOC>", len(before))
            ended = _Ended(cast(BinaryIO, source))
            yield from cut_from(start or b"\n", ended, name, "document", BEGIN, self.max_document_bytes)
        elif not first_line or IDENTIFIER.search(first_line):
            for item in cut_from(start, source, name, "line", b"\n", self.max_document_bytes):
                if isinstance(item, Rejected) or not item.data.isspace():
                    yield item
        else:
            raise UserError(
                f"{name}: is no file of TRC2's: expected stories between <DOC> and </DOC>, lines with TRC2-… "
                f"identifiers, or CSV with columns headline and story (or text), found {first_line[:60]!r}; give "
                "NIST's file, or make it JSON Lines, and use reader.kind=jsonl with text_key: [headline, story]"
            )

    def _csv_frames(
        self, start: bytes, source: Steady, name: str, columns: tuple[int, int, int, bool]
    ) -> Iterator[Frame | Rejected]:
        """Frames as the tagged form has them: what makes a document of a story is the same."""
        headline, story, num_columns, has_header = columns
        number, size, run = 0 if has_header else 1, 0, list[bytes]()  # the next row, and those of the frame before it
        for row in rows(start, source, self.max_document_bytes):
            place = Place(name, "document", number)
            if source.damage and row.cells is None:
                break
            refused = None if number == 0 else _refused(row, place, num_columns, self.max_document_bytes)
            if number and not refused and row.cells:
                text = row.cells[headline] + b"\n" + row.cells[story] + b"\n"
                run.append(EITHER_TAG.sub(b" ", text) + END)
                size += len(run[-1])
            if run and (refused or size >= streams.FRAME_BYTES):
                yield Frame(place._replace(number=number + (not refused) - len(run)), BEGIN.join(run))
                size, run = 0, []
            if refused:
                yield refused
            number += 1
        if run:
            yield Frame(Place(name, "document", number - len(run)), BEGIN.join(run))
        yield from damaged(source, Place(name, "document", number), 0)

    def documents(self, frame: Frame) -> Iterator[Document | Rejected]:
        tagged = frame.first.unit == "document"
        for raw, place in records(frame, BEGIN if tagged else b"\n"):
            story, end, behind = raw.partition(END) if tagged else (raw, b"", b"")
            if tagged and not end:
                yield Rejected(place, UNCLOSED, "no </DOC> before the next <DOC>, or the end of the file", len(raw))
                continue
            decoded = decode(story, place)
            if isinstance(decoded, Document):
                text = story_of(decoded.text)
                decoded = Document((text,), place) if text else Rejected(place, EMPTY, "no text", len(story))
            yield decoded
            if behind.strip():
                yield Rejected(place, OUTSIDE, "text behind its </DOC>", len(behind))


class _Ended(Steady):
    """A source with a line end behind its last byte, so that a <DOC> there starts a story too."""

    _given = False

    def read(self, size: int = -1) -> bytes:
        data = super().read(size)
        if data or self._given or self.damage:
            return data
        self._given = True
        return b"\n"


def _columns(start: bytes) -> tuple[int, int, int, bool] | None:
    """Of CSV: the columns of headline and story, how many there are, and whether the first row names them."""
    lines = start.decode("utf-8", errors="replace").split("\n")
    if "," not in lines[0] or lines[0].lstrip().startswith("<"):
        return None
    try:
        first = next(csv.reader(line + "\n" for line in lines))
    except csv.Error:
        return None
    names = [name.strip().lower() for name in first]
    headline = next((i for i, name in enumerate(names) if name in HEADLINES), None)
    story = next((i for i, name in enumerate(names) if name in STORIES), None)
    if headline is not None and story is not None:
        return headline, story, len(names), True
    about = names[:-2]
    if len(names) in (3, 4) and any(DAY.fullmatch(cell.strip()) for cell in about):
        return len(names) - 2, len(names) - 1, len(names), False
    return None


def _refused(row: Row, place: Place, num_columns: int, max_bytes: int) -> Rejected | None:
    """What to report of a row that holds no story."""
    if row.problem:
        return Rejected(place, UNCLOSED if "ends within" in row.problem else "not CSV", row.problem, row.num_bytes)
    if row.cells is None:
        return too_large(place, row.num_bytes, max_bytes)
    if not row.cells:
        return Rejected(place, EMPTY, "blank line", row.num_bytes)
    if len(row.cells) != num_columns:
        detail = f"{len(row.cells)} columns, and the first row has {num_columns}"
        return Rejected(place, "not CSV", detail, row.num_bytes)
    return None


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
