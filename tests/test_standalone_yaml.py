"""What is read without hydra is what hydra makes of it; everything else is left to hydra."""

import os
import subprocess
import sys

import pytest

from modelzoo import composition, config_files, standalone_yaml
from modelzoo.config_files import configs_dir

ALONE = """\
name: corpus  # a comment
reader:
  kind: jsonl
  paths: [/data/a b/c-1.jsonl, ../up/d.jsonl, ./e, "*.jsonl.gz", 'it''s']
  text: "5"
fraction: 0.5
limit: 12
zero: 0
flags: {_a: true, b1: false, nothing: null}
empty: {}
none: []
text: |
  some lines, with a: colon
  and 1e-4
rows:
  - {name: a, weight: 10.25}
  - [1, [2, x y]]
"""
LEFT_TO_HYDRA = [
    *("defaults: [_self_]\na: 1", "hydra: {}\na: 1", "# @package b\na: 1", "a: '${b}'\nb: 1", "a: ???"),
    *("a: ${b}\nb: 1", "a: -1", "a: +1", "a: 1_000", "a: 010"),
    *("a: 1e-4", "a: 2.5e9", "a: .5", "a: 1.", "a: 0x1F", "a: 1:30", "a: .inf"),
    *("a: yes", "a: Off", "a: True", "a: ~", "a:", "a: NULL", "a: 2001-01-01", "a: = b", "a: x@y", "a: €", "a: b:c"),
    *("a: 1\na: 2", "yes: 1", "1: 2", "a.b: 1", "? [a]\n: 1", "a: {b: 1, b: 2}", "a: &x {b: 1}\nc: {<<: *x}"),
    *("a: !!python/name:os.system", "a: !!int '5'", "a: !!str 5", "a: !x y", "a: !!binary aGk=", "a: !!set {b, c}"),
    *("a: !!set {b: null}", "a: !!omap [b: 1]", "!!set {a: null}", "a: !mine {b: 1}", "!mine [1]"),
    *("a: !!str [x]", "!foo 1", "a: 1\t", "a: &m {b: *m}", f"a: {'9' * 5000}", "a: " + "[" * 5000, "# @foo\na: 1"),
    *("a: 9999999999999999999",),
    *("", "[1, 2]", "5", "{}", "a: [", "a: 1\n---\nb: 2", "a:\tb\n\tc: 1", "\x00", "# nothing"),
]  # fmt: skip


def by_hydra(path):
    return composition.compose(str(path))


def test_a_yaml_alone_is_what_hydra_makes_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.yaml").write_text(ALONE)
    assert standalone_yaml.read(tmp_path / "corpus.yaml") is not None
    composed, expected = config_files.compose("corpus.yaml"), by_hydra("corpus.yaml")
    assert composed == expected
    assert repr(composed.data) == repr(expected.data)  # 1 and 1.0 and True are equal, but not the same
    assert composed.provenance.locate(("reader", "paths", 2)) == "corpus.yaml:4"


@pytest.mark.parametrize("content", LEFT_TO_HYDRA)
def test_all_else_is_left_to_hydra(tmp_path, content):
    (tmp_path / "a.yaml").write_text(content)
    assert standalone_yaml.read(tmp_path / "a.yaml") is None


def test_a_file_that_has_changed_is_read_again(tmp_path):
    file = tmp_path / "a.yaml"
    contents = (("a: 1", {"a": 1}), ("a: 10", {"a": 10}), ("b: 1e-4", {"b": 1e-4}), ("\na: 5", {"a": 5}))
    for number, (content, expected) in enumerate(contents):
        file.write_text(content)
        os.utime(file, ns=(0, number))
        assert config_files.compose(str(file)).data == expected
    assert config_files.compose(str(file)).provenance.locate(("a",)).endswith("a.yaml:2")


def test_what_is_no_file_or_no_text_is_left_to_hydra(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    (tmp_path / "folder.yaml").mkdir()
    for name in ("latin", "folder", "absent"):
        assert standalone_yaml.read(tmp_path / f"{name}.yaml") is None


def test_shipped_yamls_are_what_hydra_makes_of_them(tmp_path):
    files = sorted(configs_dir().rglob("*.yaml"))
    alone = [file for file in files if standalone_yaml.read(file) is not None]
    assert 10 < len(alone) < len(files)
    for number, original in enumerate(alone):
        composed, expected = config_files.compose(str(original)), by_hydra(original)  # some below their group
        assert composed == expected, original
        file = tmp_path / f"{number}.yaml"
        file.write_bytes(original.read_bytes())
        composed, expected = config_files.compose(str(file)), by_hydra(file)
        assert composed == expected, file
        assert repr(composed.data) == repr(expected.data), file


def test_overrides_are_hydras(tmp_path):
    (tmp_path / "a.yaml").write_text("a: 1")
    assert config_files.compose(str(tmp_path / "a.yaml"), ["a=1e-4"]).data == {"a": 1e-4}


def test_hydra_is_not_imported_for_a_yaml_alone(tmp_path):
    (tmp_path / "a.yaml").write_text("a: 1")
    program = (
        "import sys; from modelzoo.config_files import compose, compose_beside\n"
        "assert compose(sys.argv[1]).data == compose_beside(sys.argv[1])().data == {'a': 1}\n"
        "assert 'hydra' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.yaml")], check=True, timeout=60)
