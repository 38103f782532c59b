"""The documents say what the code does."""

import importlib.util
import re
from pathlib import Path

from modelzoo.config_files import shipped_names

ROOT = Path(__file__).parents[1]


def test_the_reference_says_nothing_that_the_code_does_not():
    """A new kind may be missing until `make docs`; what is written must be true."""
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = module.OUTPUT.read_text(encoding="utf-8").splitlines()
    assert len(written) > 200
    assert set(written) <= set(module.reference().splitlines()), "run `make docs`"


def test_links_of_the_documents_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_commands_in_the_readme_name_configs_that_are_shipped():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"modelzoo (?:train|show|check|preprocess|tokenizer train|diff) ([\w/]+)(?!\S)", text)
    known = {*shipped_names(), *shipped_names("preprocess"), *shipped_names("tokenizer")}
    assert len(named) >= 5
    for name in named:
        assert name in known, name
