"""Tables that fit the terminal."""

import shutil
import sys
from collections.abc import Sequence

NARROW = 24
"""Columns below which the last cell moves to a line of its own."""


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
    """Columns as wide as their content; on a terminal the last one is cut, or moves below, for want of room."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    room = shutil.get_terminal_size().columns - sum(widths[:-1]) - 2 * (len(widths) - 1)
    below = sys.stdout.isatty() and room < min(NARROW, widths[-1])
    if sys.stdout.isatty() and not below:
        widths[-1] = min(widths[-1], room)
    for row in [header, ["─" * width for width in widths], *rows]:
        cells = []
        for name, width, cell in zip(header, widths, row, strict=True):
            cut = cell if len(cell) <= width else cell[: width - 1] + "…"
            cells.append(cut.rjust(width) if name in right else cut.ljust(width))
        last = cells.pop() if below else ""
        print("  ".join(cells).rstrip())
        if last.strip(" ─") and row is not header:
            print("    " + last.rstrip())
