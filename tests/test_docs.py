"""The documents say what the code does."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from data_preprocessing.config import PreprocessConfig
from modelzoo.cli.any_config import load_any
from modelzoo.cli.arguments import split_overrides
from modelzoo.cli.main import app
from modelzoo.config_files import shipped_names
from modelzoo.run_config import load_run_config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{job}.md" for job in ("train", "continue", "finetune"))]
BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
OF_A_CONFIG = ("train", "show", "check", "diff", "preprocess", "tokenizer train")


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
        for target, heading in re.findall(r"\]\(([^)#:]*)(#[^)]*)?\)", page.read_text(encoding="utf-8")):
            file = page.parent / target if target else page
            assert file.exists(), f"{page.name}: {target}"
            assert not heading or heading[1:] in headings(file), f"{page.name}: {target}{heading}"


def headings(page):
    """As GitHub makes anchors of them."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


def commands(page):
    """Every `modelzoo …` of a page's blocks, as words: without comments, ellipses, and what stands before it."""
    for language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.splitlines() if not language else ():
            for part in line.split(" && "):
                words = shlex.split(re.sub(r"\s#.*|…", "", part)) if "modelzoo " in part else []
                words = words[words.index("modelzoo") + 1 :] if "modelzoo" in words else []
                if words and part.startswith(("modelzoo ", "torchrun ")):
                    yield words


def configs_of(page):
    """The YAMLs that a page writes: (name of the file, verb, text)."""
    for language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "yaml":
            name, verb = re.match(r"# (\w+\.yaml): modelzoo (\w+) \1\n", block).groups()
            yield name, verb, block


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_name_configs_and_keys_that_there_are(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, _, text in [config for other in PAGES for config in configs_of(other)]:
        (tmp_path / name).write_text(text)
    given = list(commands(page))
    assert len(given) >= 5
    for words in given:
        verb = next((verb for verb in OF_A_CONFIG if words[: len(verb.split())] == verb.split()), None)
        if verb is None or "--merge" in words:
            continue
        names, overrides = split_overrides([w for w in words[len(verb.split()) :] if not w.startswith("--")])
        names = [name for name in names if not re.fullmatch(r"\d+(/\d+)?|runs/.*", name)]  # an option's value; a run's
        assert names, words
        for name in names:
            load_any(name, overrides)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_verbs_are_those_of_the_command_line(page):
    known = {command.name or command.callback.__module__.rsplit(".", 1)[-1] for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    for words in commands(page):
        assert words[0] in known, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_configs_that_are_written_out_are_valid(page, tmp_path):
    for name, verb, text in configs_of(page):
        (tmp_path / name).write_text(text)
        if verb == "preprocess":
            assert isinstance(load_any(str(tmp_path / name), [])[0], PreprocessConfig)
        else:
            load_run_config(str(tmp_path / name))


def test_every_page_of_a_job_is_short_and_linked():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert f"(docs/{page.name})" in readme
        assert len(page.read_text(encoding="utf-8").splitlines()) <= 150
    assert "continuous_pretraining/params_gptj_6B_TRC2" in shipped_names()
