"""The documents say what the code does."""

import importlib.util
import re
from pathlib import Path

from modelzoo.config_files import shipped_names

ROOT = Path(__file__).parents[1]


def test_the_reference_is_up_to_date():
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.OUTPUT.read_text(encoding="utf-8") == module.reference(), "run `make docs`"


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
