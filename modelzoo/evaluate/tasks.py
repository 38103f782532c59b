"""Tasks of lm-evaluation-harness, run on a model of ours. Needs the extra `lm_eval`."""

import difflib
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import fields
from typing import Any

import numpy as np
import torch

from modelzoo.base_config import UserError
from modelzoo.evaluate.scoring import Scorer
from modelzoo.evaluate.task_faults import Turn
from modelzoo.evaluate.task_files import TaskConfig
from modelzoo.tokenizer import Tokenizer

RESAMPLES = 100
"""For the standard error of metrics that are no mean."""
SEED = 1234
"""The harness's own, for the choice of examples."""


def run_tasks(
    specs: Sequence[TaskConfig | str],
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
    with redirect_stdout(sys.stderr), sandboxed_templates():  # the harness prints, and standard output is for results
        from lm_eval.evaluator import evaluate

        from modelzoo.evaluate.harness import HarnessModel

        turn = Turn()
        loaded = _load(specs, turn)
        for name, task in loaded["tasks"].items():
            own = task.get_config("num_fewshot")
            if num_fewshot and own == 0:
                raise UserError(f"--num-fewshot {num_fewshot}: the task {name} says num_fewshot: 0")
            task.set_config(key="num_fewshot", value=own or 0 if num_fewshot is None else num_fewshot)
            task.set_fewshot_seed(seed=SEED)
        random.seed(0)  # as its command line does, whose results are to be the same
        np.random.seed(SEED)
        torch.manual_seed(SEED)
        model = HarnessModel(scorer, tokenizer, max_length, on_requests=on_requests)
        for method in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
            turn.hand_to(model, method, None)
        turn.where = ", ".join(f"--tasks {spec}" if isinstance(spec, str) else spec.where for spec in specs)
        turn.what = "starting"
        with turn.blamed():
            results = evaluate(lm=model, task_dict=loaded, limit=limit, bootstrap_iters=RESAMPLES, log_samples=False)
    keys = ("results", "groups", "n-shot", "n-samples", "versions", "higher_is_better")
    return {key: results[key] for key in keys if key in results}


def _load(specs: Sequence[TaskConfig | str], turn: Turn) -> dict[str, dict[str, Any]]:
    """Tasks and groups of the harness's making, as its evaluator takes them; their methods take the turn."""
    from lm_eval.tasks import TaskManager

    own = [spec for spec in specs if isinstance(spec, str)]
    manager = TaskManager(include_defaults=bool(own))
    wanted: dict[str, tuple[Any, str]] = {}
    for name in own:
        found = manager.match_tasks([name])
        if not found:
            near = difflib.get_close_matches(name, manager.all_tasks, n=1)
            remedy = f"did you mean {near[0]}?" if near else "name a directory of task files with --tasks-dir"
            raise UserError(f"--tasks {name}: the harness has no such task; {remedy}")
        wanted |= {one: (one, f"--tasks {one}") for one in found}
    for spec in specs:
        if not isinstance(spec, str):
            wanted[spec["task"]] = (_checked(spec), spec.where)
    loaded: dict[str, dict[str, Any]] = {"tasks": {}, "groups": {}, "group_map": {}}
    for spec, where in wanted.values():
        with turn.of_task(where, "making the task and reading its data"):
            part = manager.load([spec])
            for task in part["tasks"].values():
                for ensemble in getattr(task, "_filters", []):
                    for made in ensemble.filters:
                        made()  # its mistakes before the model runs, not after
        again = loaded["tasks"].keys() & part["tasks"].keys()
        if again and (loaded["groups"] or part["groups"]):
            raise UserError(f"{where}: {min(again)} is asked for twice, once by its group; name one of them")
        for kind, things in loaded.items():
            things |= part[kind]
        for name, task in part["tasks"].items():
            _watch(task, where if isinstance(spec, dict) else f"--tasks {name}", turn)
    return loaded


def _watch(task: Any, where: str, turn: Turn) -> None:
    """Exceptions from a task's methods are its own, and its requests are such as a model can answer."""
    build = task.build_all_requests

    def built(*arguments: Any, **options: Any) -> None:
        build(*arguments, **options)
        for request in task.instances:
            texts = request.args[:1] if request.request_type == "generate_until" else request.args
            if not all(isinstance(text, str) for text in texts):
                raise UserError(
                    f"{where}: document {request.doc_id}: asks the model for {request.args!r:.120}; expected text: "
                    "mend doc_to_text, doc_to_target or doc_to_choice"
                )
            if task.OUTPUT_TYPE == "multiple_choice" and not texts[1].removeprefix(task.config.target_delimiter or ""):
                raise UserError(
                    f"{where}: document {request.doc_id}: choice {request.idx} is empty; mend doc_to_choice"
                )

    task.build_all_requests = built
    turn.hand_to(task, "build_all_requests", where, "making its requests")
    for method in ("apply_filters", "process_results"):
        turn.hand_to(task, method, where, "scoring the model's answers")
    for method in ("aggregation", "higher_is_better"):
        turn.hand_to(task, method, where, "summing its metrics up")


def _checked(config: TaskConfig) -> dict[str, Any]:
    """A task from a file. What its author misspelt the harness would look up on the hub, or fail on later."""
    import lm_eval.api.metrics  # noqa: F401 (fills the registries)
    from lm_eval.api.registry import AGGREGATION_REGISTRY, METRIC_REGISTRY, filter_registry
    from lm_eval.api.task import TaskConfig as Fields
    from lm_eval.config.task import FewshotConfig

    where = config.where
    for key in config:
        _known(f"{where}: the key", key, [field.name for field in fields(Fields)])
    for key in config.get("fewshot_config") or {}:
        _known(f"{where}: fewshot_config: the key", key, [field.name for field in fields(FewshotConfig)])
    for entry in config.get("metric_list") or []:
        _known(f"{where}: metric_list: metric", entry["metric"], list(METRIC_REGISTRY))
        if "aggregation" in entry:
            _known(f"{where}: metric_list: aggregation", entry["aggregation"], list(AGGREGATION_REGISTRY))
    for entry in config.get("filter_list") or []:
        for one in entry["filter"]:
            _known(f"{where}: filter_list: function", one["function"], [*filter_registry.keys()])
    return dict(config)


def _known(what: str, value: Any, allowed: list[str]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(sorted(allowed))}"
        raise UserError(f"{what} {value!r} is unknown; {remedy}")


@contextmanager
def sandboxed_templates() -> Iterator[None]:
    """The harness renders the templates of task files with a Jinja environment that lets them reach any Python
    object, and so run any code. While the block runs it is one of Jinja's sandboxes."""
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
    finally:
        utils.env = theirs
