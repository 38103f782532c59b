"""What the keys of a task file hold. The harness itself checks few of them, and late. Without it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from modelzoo.base_config import UserError

OUTPUT_TYPES = ("multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until")


class Kind(NamedTuple):
    """A kind of value: in words, and whether a value is of it."""

    expected: str
    holds: Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_list(value: Any, of: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(of, value))


def _are_choices(value: Any) -> bool:
    values = list(value.values()) if isinstance(value, dict) else value
    return bool(values) and (_is_text(values) or _is_list(values, lambda choice: _is_text(choice) and choice != ""))


def _is_float(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    try:
        return float(value) >= 0  # YAML reads 1e-3 as text
    except (TypeError, ValueError):
        return False


TEXT = Kind("text", _is_text)
MAP = Kind("a mapping", lambda value: isinstance(value, dict))
TRUTH = Kind("true or false", lambda value: isinstance(value, bool))
COUNT = Kind("a whole number, 0 or more", _is_number)
POSITIVE = Kind("a whole number, 1 or more", lambda value: _is_number(value, 1))
NOTHING = Kind("nothing: it would be Python code, and none is run", lambda value: value is None)
NO_MEDIA = Kind("nothing: the model reads text alone", lambda value: value in (None, [], ""))
MAPS = Kind("a list of mappings", lambda value: _is_list(value, MAP.holds))
NAMED_METRICS = Kind(
    "a list of mappings, each with the key metric: [{metric: acc}]",
    lambda value: (
        bool(value) and _is_list(value, lambda entry: isinstance(entry, dict) and _is_text(entry.get("metric")))
    ),
)
FUNCTIONS = Kind(
    "a list of mappings, each with the key function: [{function: take_first}]",
    lambda value: (
        bool(value) and _is_list(value, lambda entry: isinstance(entry, dict) and _is_text(entry.get("function")))
    ),
)
NAMED_FILTERS = Kind(
    "a list of mappings, each with the keys name and filter",
    lambda value: (
        bool(value) and _is_list(value, lambda entry: isinstance(entry, dict) and {"name", "filter"} <= {*entry})
    ),
)

_TEXTS: dict[str, Kind] = {
    "doc_to_text": Kind("a template or the name of a column", lambda value: _is_text(value) or _is_number(value)),
    "doc_to_target": Kind(
        "a template, the name of a column, a choice's number, or a list",
        lambda value: _is_text(value) or _is_number(value) or isinstance(value, list),
    ),
    "doc_to_choice": Kind(
        "a template, the name of a column, or a list of choices, none of them empty (write 'yes' and '1' in quotes)",
        _are_choices,
    ),
    "gen_prefix": TEXT,
    "fewshot_delimiter": TEXT,
    "target_delimiter": TEXT,
    "process_docs": NOTHING,
}

KEYS: dict[str, Kind] = _TEXTS | {
    "task": TEXT,
    "task_alias": TEXT,
    "dataset_path": TEXT,
    "dataset_name": TEXT,
    "dataset_kwargs": MAP,
    "training_split": TEXT,
    "validation_split": TEXT,
    "test_split": TEXT,
    "fewshot_split": TEXT,
    "doc_to_image": NO_MEDIA,
    "doc_to_audio": NO_MEDIA,
    "process_results": NOTHING,
    "description": TEXT,
    "fewshot_config": MAP,
    "num_fewshot": COUNT,
    "metric_list": NAMED_METRICS,
    "output_type": Kind(f"one of {', '.join(OUTPUT_TYPES)}", lambda value: value in OUTPUT_TYPES),
    "generation_kwargs": MAP,
    "repeats": POSITIVE,
    "filter_list": NAMED_FILTERS,
    "should_decontaminate": TRUTH,
    "doc_to_decontamination_query": TEXT,
}
"""Of a task. Keys that are not here may hold anything."""
FEWSHOT: dict[str, Kind] = _TEXTS | {
    "sampler": TEXT,
    "split": TEXT,
    "fewshot_indices": Kind("a list of whole numbers", lambda value: _is_list(value, _is_number)),
    "samples": MAPS,
}
GENERATION: dict[str, Kind] = {
    "until": Kind("text, or a list of texts", lambda value: _is_text(value) or _is_list(value, _is_text)),
    **dict.fromkeys(("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"), POSITIVE),
    "temperature": Kind("a number, 0 or more", _is_float),
    "do_sample": TRUTH,
}
FILTER: dict[str, Kind] = {"name": TEXT, "filter": FUNCTIONS}
NOT_NULL = ("output_type", "repeats", "target_delimiter", "name", "filter")
"""Elsewhere null stands for what holds without the key."""


def check_keys(config: Mapping[str, Any], where: str) -> None:
    """The values of a task, and within them. `where` begins the messages.

    Raises:
        UserError: a value is of another kind.
    """
    _check(config, KEYS, where)
    for key, kinds in (("fewshot_config", FEWSHOT), ("generation_kwargs", GENERATION)):
        _check(config.get(key) or {}, kinds, where, f"{key}.")
    for number, entry in enumerate(config.get("filter_list") or []):
        _check(entry, FILTER, where, f"filter_list.{number}.")


def _check(values: Mapping[str, Any], kinds: Mapping[str, Kind], where: str, prefix: str = "") -> None:
    for key, kind in kinds.items():
        if key not in values or (values[key] is None and key not in NOT_NULL):
            continue
        if not kind.holds(values[key]):
            raise UserError(f"{where}: {prefix}{key}: {values[key]!r:.80}; expected {kind.expected}")
