"""Task files of lm-evaluation-harness: what is found by which name, and that no file runs code. Without the harness."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelzoo.base_config import UserError
from modelzoo.evaluate.task_files import OFFLINE, QUIET, TaskFiles, needs_network, select

PLAIN = {
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "questions.jsonl"}},
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{question}}",
    "doc_to_target": 0,
    "doc_to_choice": "{{[right, wrong]}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`select` sets variables that are not to outlive a test."""
    for variable in QUIET | OFFLINE:
        monkeypatch.setenv(variable, "1")
        monkeypatch.delenv(variable)


def write(folder: Path, files: dict[str, Any]) -> Path:
    """Task files, from objects or as text, beside some questions."""
    folder.mkdir(exist_ok=True)
    lines = [{"question": f"the cat {i}", "right": "and the dog", "wrong": "saw"} for i in range(7)]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    for name, content in files.items():
        (folder / name).write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return folder


def found(folder: Path, name: str) -> list[str]:
    return [config["task"] for config in TaskFiles(folder).find(name)]


def test_names_of_tasks_files_tags_and_groups(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "one.yaml": PLAIN | {"task": "one_local", "tag": "both"},
            "two.yaml": {"include": "one.yaml", "task": "two_local", "doc_to_text": "so: {{question}}"},
            "three.yaml": PLAIN | {"task": "three", "tag": ["both", "odd"]},
            "all.yaml": {"group": "all", "task": ["three", {"task": "two_local", "num_fewshot": 2}]},
            "more.yaml": {"group": "more", "task": ["all", "one_local"]},
            "notes.yml": "- a list\n",
        },
    )
    assert found(tmp_path, "one_local") == found(tmp_path, "one") == ["one_local"]
    assert found(tmp_path, "*_local") == ["one_local", "two_local"]
    assert found(tmp_path, "both") == ["one_local", "three"]
    assert found(tmp_path, "all") == ["three", "two_local"]
    assert found(tmp_path, "more") == ["three", "two_local", "one_local"]
    (two,) = TaskFiles(tmp_path).find("two")
    assert two["doc_to_text"] == "so: {{question}}"
    assert two["doc_to_target"] == 0
    assert TaskFiles(tmp_path).find("all")[1]["num_fewshot"] == 2
    assert Path(two["dataset_kwargs"]["data_files"]["test"]) == tmp_path / "questions.jsonl"
    specs, notes = select(["all", "three"], tmp_path)
    assert [spec["task"] for spec in specs if isinstance(spec, dict)] == ["three", "two_local"]
    assert not notes


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("on_local", "on_local: no such task in .* did you mean one_local"),
        ("zzz", "there is: one, one_local"),
        ("a*z", "no such task"),
    ],
)
def test_a_misspelt_name(tmp_path: Path, name: str, message: str) -> None:
    write(tmp_path, {"one.yaml": PLAIN | {"task": "one_local"}})
    with pytest.raises(UserError, match=message):
        TaskFiles(tmp_path).find(name)


FUNCTION = "task: bad\ndataset_path: json\ndataset_kwargs: {data_files: questions.jsonl}\n"
CODE = {
    "function": (
        FUNCTION + "doc_to_text: !function evil.run\n",
        r"bad.yaml:4: doc_to_text: !function evil.run is Python",
    ),
    "within a list": (FUNCTION + "metric_list:\n  - metric: !function os.system\n", r"metric_list.0.metric: !function"),
    "class": (FUNCTION + "class: evil.Task\n", "class: names a Python class"),
    "class as a function": (FUNCTION + "class: !function evil.Task\n", "class"),
    "unsafe": (FUNCTION + "unsafe_code: true\n", "unsafe_code: runs what the model writes"),
    "prompt": (FUNCTION + "use_prompt: 'evil.yaml:x'\n", "use_prompt"),
    "custom data": (FUNCTION + "custom_dataset: evil.load\n", "custom_dataset"),
    "remote metric": (FUNCTION + "metric_list:\n  - {metric: rouge, hf_evaluate: true}\n", "hf_evaluate: downloads"),
    "remote code": (
        "task: bad\ndataset_path: a/b\ndataset_kwargs: {trust_remote_code: true}\n",
        "trust_remote_code: runs the code",
    ),
    "pickles": ("task: bad\ndataset_path: pandas\ndataset_kwargs: {data_files: x.pkl}\n", "reads pickles"),
    "python object": (
        FUNCTION + "description: !!python/object/apply:os.system ['touch ran']\n",
        "bad.yaml:4: not a YAML",
    ),
    "by an include": ("task: bad\ninclude: base\n", r"base:4|Python"),
    "by a group": ("group: bad\ntask: [{task: fine, process_docs: !function evil.run}]\n", "Python code"),
}


@pytest.mark.parametrize("case", CODE)
def test_files_that_would_run_code_are_refused(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, message = CODE[case]
    evil = "from pathlib import Path\nPath('ran').touch()\nrun = load = Task = print\n"
    files = {"bad.yaml": text, "base": FUNCTION + "doc_to_text: !function evil.run\n", "evil.py": evil}
    write(tmp_path, files | {"fine.yaml": PLAIN | {"task": "fine"}})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        TaskFiles(tmp_path).find("bad")
    assert not Path("ran").exists()
    if case != "python object":
        assert found(tmp_path, "fine") == ["fine"]  # what is not asked for does not matter


def test_code_switched_off_is_none(tmp_path: Path) -> None:
    write(tmp_path, {"one.yaml": PLAIN | {"task": "one", "unsafe_code": False, "use_prompt": None}})
    assert found(tmp_path, "one") == ["one"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset_kwargs": {"data_files": "DATA_DIR/x.jsonl"}}, "DATA_DIR/x.jsonl: no such file"),
        ({"dataset_kwargs": {}}, "without dataset_kwargs.data_files"),
        ({"dataset_path": None}, "dataset_path=None"),
        ({"include": "nowhere.yaml"}, "nowhere.yaml: no such file"),
        ({"include": "one.yaml"}, "includes itself"),
        ({"include": "list.yaml"}, "one.yaml: include: .*list.yaml: holds no keys"),
        ({"metric_list": ["acc"]}, r"one.yaml: task one: metric_list: \['acc'\]; expected .*metric: acc"),
        ({"metric_list": [{"name": "acc"}]}, "metric_list"),
        ({"metric_list": []}, "metric_list"),
        ({"dataset_kwargs": "x"}, "one.yaml: task one: dataset_kwargs: 'x'; expected a mapping"),
        ({"generation_kwargs": [1]}, "generation_kwargs: .* expected a mapping"),
        ({"generation_kwargs": {"max_gen_toks": -5}}, "generation_kwargs.max_gen_toks: -5; expected a whole number"),
        ({"generation_kwargs": {"max_gen_toks": "x"}}, "generation_kwargs.max_gen_toks: 'x'"),
        ({"generation_kwargs": {"until": 3}}, "generation_kwargs.until: 3"),
        ({"generation_kwargs": {"temperature": "hot"}}, "generation_kwargs.temperature: 'hot'"),
        ({"output_type": "multiple"}, "output_type: 'multiple'; expected one of multiple_choice, "),
        ({"output_type": None}, "output_type: None"),
        ({"doc_to_choice": []}, "doc_to_choice"),
        ({"doc_to_choice": ["a", ""]}, "doc_to_choice: .* none of them empty"),
        ({"doc_to_choice": [True, False]}, "doc_to_choice: .* in quotes"),
        ({"filter_list": {"name": "x"}}, "filter_list: .* expected a list of mappings"),
        ({"filter_list": [{"name": "x", "filter": "take_first"}]}, "filter_list.0.filter: 'take_first'"),
        ({"filter_list": [{"name": "x", "filter": ["take_first"]}]}, "filter_list.0.filter"),
        ({"fewshot_config": {"samples": "x"}}, "fewshot_config.samples: 'x'"),
        ({"process_docs": "x"}, "process_docs: 'x'; expected nothing"),
        ({"process_results": "x"}, "process_results"),
        ({"doc_to_image": "picture"}, "doc_to_image: .* reads text alone"),
        ({"repeats": 0}, "repeats: 0; expected a whole number, 1 or more"),
        ({"num_fewshot": -1}, "num_fewshot: -1; expected a whole number, 0 or more"),
        ({"num_fewshot": True}, "num_fewshot: True"),
        ({"test_split": 3}, "test_split: 3; expected text"),
    ],
)
def test_files_that_are_wrong(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path, {"one.yaml": PLAIN | {"task": "one"} | changes, "list.yaml": "- 1\n"})
    with pytest.raises(UserError, match=message):
        TaskFiles(tmp_path).find("one")


def test_values_that_are_right(tmp_path: Path) -> None:
    """What the harness's own files hold is not refused."""
    generation = {"until": ["x", "."], "max_gen_toks": 5, "temperature": "1e-3", "do_sample": False, "top_p": 0.9}
    right = {
        "doc_to_text": 0,
        "doc_to_target": ["a", "b"],
        "doc_to_choice": {"a": "yes", "b": "no"},
        "generation_kwargs": generation,
        "fewshot_config": {"sampler": "first_n", "samples": [{"question": "a"}], "process_docs": None},
        "filter_list": [{"name": "x", "filter": [{"function": "regex", "regex_pattern": "a"}]}],
        "metric_list": None,
        "num_fewshot": 0,
        "process_docs": None,
        "metadata": {"version": 1.0},
    }
    write(tmp_path, {"one.yaml": PLAIN | {"task": "one"} | right})
    (config,) = TaskFiles(tmp_path).find("one")
    assert {key: config[key] for key in right} == right
    assert config.file == tmp_path / "one.yaml"


def test_files_that_hold_themselves(tmp_path: Path) -> None:
    text = yaml.safe_dump(PLAIN | {"task": "one"})
    shared = "metadata: {a: &x [1], b: *x}\n"
    write(tmp_path, {"one.yaml": text + "metadata: &a [*a]\n", "two.yaml": text.replace("one", "two") + shared})
    with pytest.raises(UserError, match=r"one.yaml: metadata.0: an alias"):
        TaskFiles(tmp_path).find("one")
    assert found(tmp_path, "two") == ["two"]
    with pytest.raises(UserError, match=r"deep.yaml: nested too deeply"):
        TaskFiles(write(tmp_path / "deep", {"deep.yaml": "task: " + "[" * 1000 + "]" * 1000}))
    with pytest.raises(UserError, match=r"all.yaml: the group all: task: names none"):
        TaskFiles(write(tmp_path / "group", {"all.yaml": {"group": "all", "task": []}})).find("all")


def test_directories_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory"):
        TaskFiles(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no task file"):
        TaskFiles(write(tmp_path, {"notes.yaml": "a: b\n"}))
    write(tmp_path, {"one.yaml": PLAIN | {"task": "same"}, "two.yaml": PLAIN | {"task": "same"}})
    with pytest.raises(UserError, match=r"one.yaml and .*two.yaml: both name the task same"):
        TaskFiles(tmp_path).find("same")
    groups = {"a.yaml": {"group": "a", "task": ["b"]}, "b.yaml": {"group": "b", "task": "a"}}
    with pytest.raises(UserError, match="holds itself: a → b → a"):
        TaskFiles(write(tmp_path / "groups", groups)).find("a")
    with pytest.raises(UserError, match=r"bad.yaml:2: not a YAML file"):
        TaskFiles(write(tmp_path / "broken", {"bad.yaml": "task: one\n  two: [\n"}))


def test_what_needs_the_network(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "local.yaml": PLAIN | {"task": "local"},
            "hub.yaml": PLAIN | {"task": "hub", "dataset_path": "owner/name"},
            "url.yaml": PLAIN | {"task": "url", "dataset_kwargs": {"data_files": ["https://example.org/x.jsonl"]}},
        },
    )
    needs = {name: needs_network(TaskFiles(tmp_path).find(name)[0]) for name in ("local", "hub", "url")}
    assert needs == {"local": False, "hub": True, "url": True}
    assert "hub (owner/name)" in select(["hub"], tmp_path)[1][0]
    assert "the harness's own tasks" in select(["lambada_openai"], None)[1][0]
