import importlib
import sys
from typing import get_args

import pytest
from pydantic import TypeAdapter

from modelzoo.base_config import Config, union_of_kinds

BETWEEN = """
from typing import Literal
from kinds_base import Base

class Shared(Base):
    size: int = 1
"""
KIND = """
from typing import Literal
from kinds_between import Shared

class {name}(Shared):
    kind: Literal["{kind}"] = "{kind}"
"""


@pytest.fixture
def kinds(tmp_path, monkeypatch):
    """A package of kinds, whose classes share one that stands outside of it."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "kinds_base.py").write_text("from modelzoo.base_config import Config\nclass Base(Config): pass\n")
    (tmp_path / "kinds_between.py").write_text(BETWEEN)
    (tmp_path / "kinds").mkdir()
    (tmp_path / "kinds" / "__init__.py").write_text("")
    (tmp_path / "kinds" / "a.py").write_text(KIND.format(name="A", kind="a"))
    (tmp_path / "kinds" / "b.py").write_text(
        KIND.format(name="B", kind="b") + 'class C(B):\n    kind: Literal["c"] = "c"\n'
    )
    importlib.invalidate_caches()
    yield importlib.import_module("kinds_base").Base
    for name in [name for name in sys.modules if name.startswith("kinds")]:
        del sys.modules[name]


def test_kinds_are_found_below_a_class_that_they_share(kinds):
    union = TypeAdapter(union_of_kinds("kinds", kinds))
    for kind in "abc":
        chosen = union.validate_python({"kind": kind, "size": 3})
        assert (type(chosen).__name__, chosen.size) == (kind.upper(), 3)
        assert isinstance(chosen, Config)


def test_shared_classes_are_no_kind(kinds):
    assert len(get_args(get_args(union_of_kinds("kinds", kinds))[0])) == 3
