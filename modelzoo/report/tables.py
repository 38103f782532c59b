"""Tables that are read at any width: where there is no room, each row becomes a card of named values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelzoo.report.page import text


@dataclass(frozen=True)
class Column:
    """What stands below one another."""

    name: str
    number: bool = False
    """Set to the right, in figures of one width."""
    wide: bool = False
    """Takes what room is left."""


@dataclass(frozen=True)
class Html:
    """A cell that is HTML already; any other cell is text."""

    content: str


Cell = str | Html


def table(caption: str, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> str:
    """The first column names the row. `caption` is for readers of screens."""
    head = "".join(
        f'<th scope="col" role="columnheader"{_class(column)}>{text(column.name)}</th>' for column in columns
    )
    lines = []
    for row in rows:
        cells = []
        for number, (column, cell) in enumerate(zip(columns, row, strict=True)):
            content = cell.content if isinstance(cell, Html) else text(cell)
            tag, role = ("th", ' scope="row" role="rowheader"') if number == 0 else ("td", ' role="cell"')
            name = f' data-name="{text(column.name)}"' if number else ""
            cells.append(f"<{tag}{role}{_class(column)}{name}>{content}</{tag}>")
        lines.append(f'<tr role="row">{"".join(cells)}</tr>')
    return (
        f'<table class="cards" role="table"><caption>{text(caption)}</caption>'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup">{"".join(lines)}</tbody></table>'
    )


def facts(pairs: Mapping[str, str | Html]) -> str:
    """Names and what they are, in columns where there is room."""
    items = "".join(
        f"<div><dt>{text(name)}</dt><dd>{value.content if isinstance(value, Html) else text(value)}</dd></div>"
        for name, value in pairs.items()
    )
    return f'<dl class="facts">{items}</dl>'


def settings_table(settings: Mapping[str, Any]) -> str:
    """Dotted keys and their values."""
    return table("settings", [Column("key"), Column("value", wide=True)], [(k, str(v)) for k, v in settings.items()])


def difference_table(names: Sequence[str], differences: Sequence[tuple[str, Sequence[Any]]]) -> str:
    """Exactly the keys in which configs differ: (key, the value in each of those named)."""
    columns = [Column("key"), *(Column(name) for name in names)]
    return table("differences", columns, [(key, *map(str, values)) for key, values in differences])


def _class(column: Column) -> str:
    names = [name for name in ("number", "wide") if getattr(column, name)]
    return f' class="{" ".join(names)}"' if names else ""
