"""Python sources, their prose apart from their code. Nothing that is read is run: it is parsed alone."""

import ast
import inspect
import warnings
from collections.abc import Iterator
from typing import Annotated, BinaryIO, Literal

from pydantic import Field

from data_preprocessing.directories import TreeReader
from data_preprocessing.readers import EMPTY, Document, Frame, Place, Rejected
from data_preprocessing.streams import cut, decode, records
from modelzoo.base_config import FromList

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class PythonReader(TreeReader):
    """The Python files below the directories `paths`, sorted by their relative paths: of each its code, or its prose,
    which are two domains without a text in common."""

    kind: Literal["python"] = "python"
    suffixes: Annotated[tuple[str, ...], FromList, Field(min_length=1)] = (".py",)
    """Ends of the file names that are read."""
    take: Literal["code", "docstrings"]
    """What of a file is the document. code: the file without its docstrings. docstrings: those of its module, classes
    and functions, one after the other. A file that this Python cannot parse is rejected."""

    def frames(self, stream: BinaryIO, name: str) -> Iterator[Frame | Rejected]:
        return cut(stream, name, "file", None, self.max_document_bytes)

    def documents(self, frame: Frame) -> Iterator[Document | Rejected]:
        for raw, place in records(frame, None):
            source = decode(raw, place)
            yield source if isinstance(source, Rejected) else self._part(source.text, place)

    def _part(self, source: str, place: Place) -> Document | Rejected:
        tree = _parsed(source, place)
        if isinstance(tree, Rejected):
            return tree
        text = without_docstrings(source, tree) if self.take == "code" else "\n\n".join(docstrings(tree))
        return Document((text,), place) if text.strip() else Rejected(place, EMPTY, f"no {self.take}", 0)


def docstrings(tree: ast.Module) -> list[str]:
    """Of the module, its classes and its functions, in their order, without indentation."""
    return [inspect.cleandoc(str(node.value)).strip() for _, node in _docstring_nodes(tree)]


def without_docstrings(source: str, tree: ast.Module) -> str:
    """The source without them, and without the empty lines behind them; `pass` where nothing else would stand."""
    lines = source.encode().splitlines(keepends=True)  # as the parser counts: in bytes, and by line ends alone
    for owner, node in reversed(_docstring_nodes(tree)):
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        before, after = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
        alone = len(owner.body) == 1 and not isinstance(owner, ast.Module)
        kept = before + b"pass" + after if alone else before + after.lstrip(b" \t;")
        if kept.strip():
            lines[first : last + 1] = [kept]
            continue
        while last + 1 < len(lines) and not lines[last + 1].strip():
            last += 1
        del lines[first : last + 1]
    return b"".join(lines).decode()


def _docstring_nodes(tree: ast.Module) -> list[tuple[Documented, ast.Constant]]:
    """Whose each is, and where it stands, in the order of the source."""
    found = []
    for owner in ast.walk(tree):
        if isinstance(owner, Documented) and ast.get_docstring(owner, clean=False) is not None:
            statement = owner.body[0]
            assert isinstance(statement, ast.Expr)
            assert isinstance(statement.value, ast.Constant)
            found.append((owner, statement.value))
    return sorted(found, key=lambda pair: (pair[1].lineno, pair[1].col_offset))


def _parsed(source: str, place: Place) -> ast.Module | Rejected:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that mean nothing
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Rejected(place, "not Python", str(error).partition("\n")[0], len(source.encode()))
