"""The frame of a report: one HTML file that asks for nothing from elsewhere, with everything in it escaped.

Run names, samples and settings are text that nobody has checked. It enters a page through `text` alone, and the
page's own policy lets no script run but ours and nothing be fetched, should a mistake get through.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from html import escape

from modelzoo.report.script import SCRIPT
from modelzoo.report.style import STYLE

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
"""Characters that do not show, turn the direction of what follows, or cannot be written as UTF-8."""


def text(value: object) -> str:
    """Anything as HTML text, also within quotes of an attribute. What cannot be seen shows as its code."""
    return escape(_UNSEEN.sub(lambda match: f"⟨{ord(match[0]):02X}⟩", str(value).replace("\r\n", "\n")), quote=True)


def page(title: str, body: Sequence[str], foot: str = "") -> str:
    """The whole file. `body` is HTML, `title` and `foot` are text."""
    policy = (
        f"default-src 'none'; style-src '{_hash(STYLE)}'; script-src '{_hash(SCRIPT)}'; "
        "img-src data:; form-action 'none'; base-uri 'none'"
    )
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{text(title)}</title>",
            '<link rel="icon" href="data:,">',
            f"<style>{STYLE}</style>\n</head>\n<body>\n<main>",
            *body,
            "</main>",
            f"<footer>{text(foot)}</footer>" if foot else "",
            f"<script>{SCRIPT}</script>\n</body>\n</html>\n",
        ]
    )


def section(heading: str, parts: Sequence[str], lead: str = "", name: str = "") -> str:
    """A heading, a dim sentence that says how to read what follows, and the parts, which are HTML."""
    mark = f' id="{text(name)}"' if name else ""
    head = f"<section{mark}>\n<h2>{text(heading)}</h2>" + (f'\n<p class="lead">{text(lead)}</p>' if lead else "")
    return "\n".join([head, *parts, "</section>"])


def absent(what: str, fill: str) -> str:
    """Stands where a part would: what is not there, and what would fill it."""
    return f'<p class="absent">{text(what)} {text(fill)}</p>'


def details(summary: str, html: str) -> str:
    """Folded away until asked for."""
    return f"<details><summary>{text(summary)}</summary>\n{html}\n</details>"


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
