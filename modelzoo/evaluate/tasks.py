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
from modelzoo.evaluate.task_files import Config
from modelzoo.tokenizer import Tokenizer

RESAMPLES = 100
"""For the standard error of metrics that are no mean."""
SEED = 1234
"""The harness's own, for the choice of examples."""


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
    with redirect_stdout(sys.stderr), sandboxed_templates():  # the harness prints, and standard output is for results
        from lm_eval.evaluator import evaluate

        from modelzoo.evaluate.harness import HarnessModel

        loaded = _load(specs)
        for task in loaded["tasks"].values():
            own = task.get_config("num_fewshot")
            if num_fewshot and own == 0:
                raise UserError(f"--num-fewshot {num_fewshot}: the task {task.config.task} says num_fewshot: 0")
            task.set_config(key="num_fewshot", value=own or 0 if num_fewshot is None else num_fewshot)
            task.set_fewshot_seed(seed=SEED)
        random.seed(0)  # as its command line does, whose results are to be the same
        np.random.seed(SEED)
        torch.manual_seed(SEED)
        model = HarnessModel(scorer, tokenizer, max_length, on_requests=on_requests)
        results = evaluate(lm=model, task_dict=loaded, limit=limit, bootstrap_iters=RESAMPLES, log_samples=False)
    keys = ("results", "groups", "n-shot", "n-samples", "versions", "higher_is_better")
    return {key: results[key] for key in keys if key in results}


def _load(specs: Sequence[Config | str]) -> Any:
    """Tasks and groups of the harness's making, as its evaluator takes them."""
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
    return manager.load(loaded)


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
