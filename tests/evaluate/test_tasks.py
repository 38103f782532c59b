"""Tasks through the harness's evaluator: the same metrics as with its own model, no network, no code from templates."""

import errno
import socket
from pathlib import Path
from typing import Any

import pytest

from modelzoo.base_config import UserError
from modelzoo.evaluate.task_files import TaskFiles
from modelzoo.tokenizer import Tokenizer
from tests.evaluate.references import exported, scorer
from tests.evaluate.test_task_files import PLAIN, write
from tests.samples import shared_data

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: the extra lm_eval")

from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from modelzoo.evaluate.harness import HarnessModel
from modelzoo.evaluate.task_faults import Turn
from modelzoo.evaluate.tasks import run_tasks


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError(f"a connection to {arguments[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def metrics(results: Any) -> dict[tuple[str, str], float]:
    return {
        (task, name): value
        for task, values in results["results"].items()
        for name, value in values.items()
        if isinstance(value, float) and "stderr" not in name
    }


def compare(
    folder: Path, family: str, names: list[str], tasks: Path, tokenizer: Tokenizer | None = None, **options: int | None
) -> dict[tuple[str, str], float]:
    """The metrics of our model, equal to those of the harness's own model on the exported weights."""
    pytest.importorskip("accelerate", reason="the harness's own model needs accelerate")
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = exported(folder, family, padded=True, tokenizer=tokenizer)
    configs = [config for name in names for config in TaskFiles(tasks).find(name)]
    found = run_tasks(configs, scorer(model, 3), tokenizer, **options)
    theirs = simple_evaluate(
        HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=4),
        tasks=[config["task"] for config in configs],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
        **options,
    )
    assert metrics(found) == pytest.approx(metrics(theirs), rel=1e-4)
    assert found["n-shot"] == theirs["n-shot"]
    return metrics(found)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("shots", [None, 2])
def test_tasks_of_every_kind(tmp_path: Path, shots: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"dataset_kwargs": {"data_files": {"test": str(tmp_path / "tasks" / "questions.jsonl")}}}
    without = {key: value for key, value in PLAIN.items() if key not in ("doc_to_choice", "metric_list")} | data
    files = {
        "choice": PLAIN | data | {"task": "choice"},
        "words": without | {"task": "words", "output_type": "loglikelihood", "doc_to_target": " {{right}}"},
        "rolling": without
        | {
            "task": "rolling",
            "output_type": "loglikelihood_rolling",
            "doc_to_target": "{{question}}",
            "doc_to_text": "",
        },
        "written": without
        | {
            "task": "written",
            "output_type": "generate_until",
            "doc_to_target": "{{right}}",
            "generation_kwargs": {"until": ["x"], "max_gen_toks": 6, "do_sample": False},
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        },
    }
    tasks = write(tmp_path / "tasks", {f"{name}.yaml": config for name, config in files.items()})
    names = ["choice", "words", "written"] if shots else list(files)
    found = compare(tmp_path / "hf", "gpt_neox", names, tasks, num_fewshot=shots)
    assert {("choice", "acc,none"), ("words", "perplexity,none"), ("written", "exact_match,none")} <= set(found)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("family", ["gpt2", "gptj", "gpt_neox"])
def test_lambada_and_blimp(tmp_path: Path, family: str) -> None:
    data = shared_data("eval")
    name = "20B_tokenizer.json" if family == "gpt_neox" else "gpt2-encoder.json"
    tokenizer = Tokenizer.load(shared_data(f"tokenizers/{name}"))
    for file in data.glob("*.yaml"):
        (tmp_path / file.name).write_text(file.read_text().replace("DATA_DIR", str(data)))
    found = compare(tmp_path / "hf", family, ["lambada_local", "blimp_*"], tmp_path, limit=12, tokenizer=tokenizer)
    assert len(found) == 2 + 4


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler.__init__.__globals__.os.system('touch ran') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ question.__class__.__init__.__globals__ }}",
    ],
)
def test_templates_reach_nothing_but_their_document(
    tmp_path: Path, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tasks = write(tmp_path / "tasks", {"one.yaml": PLAIN | {"task": "one", "doc_to_text": template}})
    model, tokenizer = exported(tmp_path / "hf", "gptj")
    with pytest.raises(UserError, match="template"):
        run_tasks(TaskFiles(tasks).find("one"), scorer(model), tokenizer)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric_list": [{"metric": "accc"}]}, "metric 'accc' is unknown; did you mean acc"),
        (
            {"metric_list": [{"metric": "acc", "aggregation": "meen"}]},
            "aggregation 'meen' is unknown; did you mean mean",
        ),
        ({"doc_to_txt": "x"}, "the key 'doc_to_txt' is unknown; did you mean doc_to_text"),
        ({"doc_to_text": "{{quesion}}"}, "'quesion' is undefined"),
        ({"num_fewshot": 0}, "says num_fewshot: 0"),
    ],
)
def test_mistakes_in_a_task(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    tasks = write(tmp_path / "tasks", {"one.yaml": PLAIN | {"task": "one"} | changes})
    model, tokenizer = exported(tmp_path / "hf", "gptj")
    with pytest.raises(UserError, match=message):
        run_tasks(TaskFiles(tasks).find("one"), scorer(model), tokenizer, num_fewshot=1)


GENERATED = {
    "output_type": "generate_until",
    "doc_to_choice": None,
    "doc_to_target": "{{right}}",
    "generation_kwargs": {"until": ["x"], "max_gen_toks": 3},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_split": "nowhere"}, "nowhere"),
        ({"doc_to_target": 2}, "IndexError"),
        ({"doc_to_choice": "{{right}}"}, "SyntaxError"),
        ({"doc_to_choice": "{{[right, '']}}"}, "making the task"),
        (
            {"doc_to_choice": "{{[right, wrong if question != 'the cat 3' else '']}}", "target_delimiter": ""},
            "is empty",
        ),
        ({"filter_list": [{"name": "x", "filter": [{"function": "take_frst"}]}]}, "did you mean take_first"),
        ({"filter_list": [{"name": "x", "filter": [{"function": "custom"}]}]}, "task one: making the task"),
        ({"fewshot_config": {"sampler": "random"}}, "KeyError: .*random"),
        ({"fewshot_config": {"smpler": "random"}}, "fewshot_config: the key 'smpler' is unknown; did you mean sampler"),
        ({"dataset_kwargs": {"data_files": "questions.jsonl", "x": 1}}, "x"),
        ({"dataset_kwargs": {"data_files": {"test": "broken.jsonl"}}}, "reading its data failed"),
        ({"dataset_path": "folder"}, "reading its data failed"),
        ({"doc_to_text": "{{ question + 1 }}"}, "TypeError"),
        ({"doc_to_text": "{{ 1/0 }}"}, "ZeroDivisionError"),
        ({"doc_to_text": "{% for i in range(10**9) %}{% endfor %}"}, "OverflowError"),
        ({"doc_to_text": "{{ 1/(question != 'the cat 3') }}"}, "making its requests failed .ZeroDivisionError"),
        ({"doc_to_text": "{{ question"}, "TemplateSyntaxError.*mend the template"),
        (
            GENERATED | {"metric_list": [{"metric": "exact_match", "regexes_to_ignore": 3}]},
            "scoring the model's answers",
        ),
        ({"metric_list": [{"metric": "bypass"}]}, "starting failed"),
        ({"metric_list": [{"metric": "f1", "aggregation": "mean"}]}, "summing its metrics up failed"),
    ],
)
def test_mistakes_that_the_harness_or_its_data_find(
    tmp_path: Path, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They name the task's file; none is a traceback."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    tasks = write(tmp_path / "tasks", {"one.yaml": PLAIN | {"task": "one"} | changes})
    (tasks / "broken.jsonl").write_text("this is no JSON\n")
    (tasks / "folder").mkdir()
    model, tokenizer = exported(tmp_path / "hf", "gptj")
    with pytest.raises(UserError, match=message) as raised:
        run_tasks(TaskFiles(tasks).find("one"), scorer(model), tokenizer)
    assert str(raised.value).startswith(f"{tasks / 'one.yaml'}: task one: ")


@pytest.mark.parametrize("error", [ValueError("planted"), RuntimeError("planted"), KeyError("planted")])
def test_faults_of_the_model_are_not_the_users(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise error

    tasks = write(tmp_path / "tasks", {"one.yaml": PLAIN | {"task": "one"}, "two.yaml": PLAIN | {"task": "two"}})
    model, tokenizer = exported(tmp_path / "hf", "gptj")
    monkeypatch.setattr(HarnessModel, "_row", broken)
    with pytest.raises(type(error), match="planted") as raised:
        run_tasks([*TaskFiles(tasks).find("one"), *TaskFiles(tasks).find("two")], scorer(model), tokenizer)
    assert raised.value is error


def test_a_full_disk_is_no_mistake_in_a_task(tmp_path: Path) -> None:
    turn = Turn()
    with pytest.raises(OSError, match="full"), turn.of_task("one.yaml", "reading"):
        raise OSError(errno.ENOSPC, "full")
    message = r"one.yaml: reading failed .ConnectionError: a b.; look at the address"
    with pytest.raises(UserError, match=message), turn.of_task("one.yaml", "reading"):
        raise ConnectionError("a\n  b")
