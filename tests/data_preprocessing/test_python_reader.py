"""Code and prose of Python sources, apart from each other."""

import ast
import sysconfig
from pathlib import Path

import pytest

from data_preprocessing.readers.python import docstrings, without_docstrings
from tests.data_preprocessing.reading import read, summary, texts

SOURCE = '''\
#!/usr/bin/env python
"""What this module
   is for: ünïcode."""

import os  # a comment


class Thing:
    """A thing."""

    def method(self):
        \'\'\'Does it.

        At length.
        \'\'\'
        return "not a docstring"

    def nothing(self): "Does nothing."

    def said(self):
        """Says."""  # and so on
        return 1


async def only_documented():
    r"""Only \\d documented."""
'''
CODE = """\
#!/usr/bin/env python
import os  # a comment


class Thing:
    def method(self):
        return "not a docstring"

    def nothing(self): pass

    def said(self):
        # and so on
        return 1


async def only_documented():
    pass
"""


def test_code_has_no_docstring_and_docstrings_no_code():
    assert texts(read(SOURCE.encode(), kind="python", take="code")) == [CODE]
    (prose,) = texts(read(SOURCE.encode(), kind="python", take="docstrings"))
    assert prose == (
        "What this module\nis for: ünïcode.\n\nA thing.\n\nDoes it.\n\nAt length.\n\nDoes nothing.\n\nSays.\n\n"
        "Only \\d documented."
    )


@pytest.mark.parametrize("take", ["code", "docstrings"])
def test_what_does_not_parse_is_rejected(take):
    for content in (b"print 'of another time'\n", b"x = 1\x00\n"):
        assert summary(read(content, kind="python", take=take)) == [("f", "[not Python]")]
    assert summary(read("é".encode("latin-1"), kind="python", take=take)) == [("f", "[not UTF-8]")]


def test_files_without_what_is_wanted_are_empty():
    assert summary(read(b"x = 1\n", kind="python", take="docstrings")) == [("f", "[empty]")]
    assert summary(read(b'"""Only this."""\n', kind="python", take="code")) == [("f", "[empty]")]


def test_nothing_but_the_docstrings_goes_from_real_sources():
    """The code parses to the same tree, less its docstrings, which stand in none of it."""
    for name in ("argparse.py", "ast.py", "typing.py", "inspect.py", "textwrap.py", "asyncio/events.py"):
        source = (Path(sysconfig.get_paths()["stdlib"]) / name).read_text(encoding="utf-8")
        tree = ast.parse(source)
        code = without_docstrings(source, tree)
        long = [text for text in docstrings(tree) if len(text) > 200]
        assert long
        assert not any(text in code for text in long)
        assert not docstrings(ast.parse(code))
        for node in ast.walk(tree):
            documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            if documented and ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        assert ast.dump(ast.parse(code)) == ast.dump(tree)
