"""Tasks of lm-evaluation-harness, run on a model of ours. Needs the extra `lm_eval`."""

import difflib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from modelzoo.base_config import UserError
from modelzoo.evaluate.scoring import Scorer
from modelzoo.evaluate.task_files import Config, TaskFiles, needs_network
from modelzoo.tokenizer import Tokenizer

RESAMPLES = 100
"""For the standard error of metrics that are no mean."""


def check_installed() -> None:
    """UserError where the harness is missing."""
    if find_spec("lm_eval") is None:
        raise UserError("--tasks: needs lm-evaluation-harness: pip install 'modelzoo[lm_eval]'")


def select(names: Sequence[str], folder: Path | None) -> tuple[list[Config | str], list[str]]:
    """The tasks of these names, from the files of `folder`, or the harness's own, by name; and notes for the user.

    Nothing is fetched from a network unless a task's data lies there: a note says so.

    Raises:
        UserError: see `TaskFiles`.
    """
    notes = []
    if folder is None:
        specs: list[Config | str] = [*names]
        notes.append("these are the harness's own tasks: their data comes from the Hugging Face hub, or its cache here")
        is_online = True
    else:
        files = TaskFiles(folder)
        configs = [config for name in names for config in files.find(name)]
        unique = {config["task"]: config for config in configs}
        remote = [f"{name} ({config['dataset_path']})" for name, config in unique.items() if needs_network(config)]
        if remote:
            notes.append(f"data from the network, or its cache here: {', '.join(remote)}")
        specs, is_online = [*unique.values()], bool(remote)
    if not is_online:
        for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):  # read when the packages are imported
            os.environ.setdefault(variable, "1")
    return specs, notes


def run_tasks(
    specs: Sequence[Config | str],
    scorer: Scorer,
    tokenizer: Tokenizer,
    *,
    max_length: int | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    on_requests: Callable[[int], None] = lambda number: None,
) -> dict[str, Any]:
    """What `select` gave, through the harness's own evaluator: its `results`, `n-shot`, `n-samples`, `versions`.

    Raises:
        UserError: a task is unknown, misspelt or broken, or its templates reach for what is none of theirs.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    with redirect_stdout(sys.stderr), sandboxed_templates():  # the harness prints, and standard output is for results
        from lm_eval.evaluator import simple_evaluate

        from modelzoo.evaluate.harness import HarnessModel

        model = HarnessModel(scorer, tokenizer, max_length, on_requests=on_requests)
        loaded = _load(specs)
        for task in _tasks_of(loaded):
            if num_fewshot and task.get_config("num_fewshot") == 0:
                raise UserError(f"--num-fewshot {num_fewshot}: the task {task.config.task} says num_fewshot: 0")
        results = simple_evaluate(
            model=model,
            tasks=loaded,
            num_fewshot=num_fewshot,
            limit=limit,
            bootstrap_iters=RESAMPLES,
            log_samples=False,
        )
    assert results is not None
    keys = ("results", "groups", "n-shot", "n-samples", "versions", "higher_is_better")
    return {key: results[key] for key in keys if key in results}


def _load(specs: Sequence[Config | str]) -> list[Any]:
    """Tasks and groups of the harness's making."""
    from lm_eval.tasks import TaskManager

    own = [spec for spec in specs if isinstance(spec, str)]
    manager = TaskManager(include_defaults=bool(own))
    loaded: list[Any] = []
    for name in own:
        found = manager.match_tasks([name])
        if not found:
            near = difflib.get_close_matches(name, manager.all_tasks, n=1)
            remedy = f"did you mean {near[0]}?" if near else "name a directory of task files with --tasks-dir"
            raise UserError(f"--tasks {name}: the harness has no such task; {remedy}")
        loaded += found
    loaded += [_checked(spec) for spec in specs if not isinstance(spec, str)]
    tasks = manager.load(loaded)
    in_groups = {id(task) for group in tasks["groups"].values() for task in group.get_all_tasks()}
    within = {id(inner) for group in tasks["groups"].values() for inner in group.get_all_groups()}
    return [group for group in tasks["groups"].values() if id(group) not in within] + [
        task for task in tasks["tasks"].values() if id(task) not in in_groups
    ]


def _tasks_of(loaded: Sequence[Any]) -> Iterator[Any]:
    for item in loaded:
        yield from item.get_all_tasks() if hasattr(item, "get_all_tasks") else [item]


def _checked(config: Config) -> Config:
    """A task from a file. What its author misspelt the harness would look up on the hub, or fail on later."""
    import lm_eval.api.metrics  # noqa: F401 (fills the registries)
    from lm_eval.api.registry import AGGREGATION_REGISTRY, METRIC_REGISTRY
    from lm_eval.api.task import TaskConfig

    task = config["task"]
    for key in config:
        _known(f"the task {task}: the key", key, [field.name for field in fields(TaskConfig)])
    for entry in config.get("metric_list") or []:
        _known(f"the task {task}: metric_list: metric", entry.get("metric"), list(METRIC_REGISTRY))
        if "aggregation" in entry:
            _known(f"the task {task}: metric_list: aggregation", entry["aggregation"], list(AGGREGATION_REGISTRY))
    return config


def _known(what: str, value: Any, allowed: list[str]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(sorted(allowed))}"
        raise UserError(f"{what} {value!r} is unknown; {remedy}")


@contextmanager
def sandboxed_templates() -> Iterator[None]:
    """The harness renders the templates of task files with a Jinja environment that lets them reach any Python
    object, and so run any code. While the block runs it is one of Jinja's sandboxes.

    Raises:
        UserError: a template is refused by the sandbox, or wrong.
    """
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from lm_eval import utils

    theirs = getattr(utils, "env", None)
    if not isinstance(theirs, jinja2.Environment):
        raise UserError("this version of lm_eval renders templates in another way; install lm_eval 0.4.13")
    sandbox = ImmutableSandboxedEnvironment(
        loader=jinja2.BaseLoader(), undefined=theirs.undefined, keep_trailing_newline=theirs.keep_trailing_newline
    )
    sandbox.filters.update(theirs.filters)
    utils.env = sandbox
    try:
        yield
    except jinja2.exceptions.SecurityError as error:
        raise UserError(
            f"a template of these tasks reaches out of its document: {error}; such a file is not run"
        ) from None
    except jinja2.TemplateError as error:
        raise UserError(f"a template of these tasks: {type(error).__name__}: {error}; mend the task file") from None
    finally:
        utils.env = theirs
